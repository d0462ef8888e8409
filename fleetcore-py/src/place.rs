//! Where a fleet is: in this process, or on a server. Everything above sees machines of the core either way.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ::fleetcore::{Fleet, Machine, Result, Target};
use fleetcore_http::client::{Client, RemoteExecutor};

use crate::store::Lease;

/// Targets of one server whose capabilities are remembered.
const TARGETS_MAX: usize = 4096;

/// A server, and what this process runs on it.
pub(crate) struct Server {
    pub(crate) client: Client,
    /// One fleet per target: a target of a server is a host to it, which its supervisor drives like any other.
    targets: Mutex<HashMap<Target, Fleet>>,
}

impl Server {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, targets: Mutex::default() }
    }

    fn targets(&self) -> MutexGuard<'_, HashMap<Target, Fleet>> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fleet(&self, target: &Target) -> Result<Fleet> {
        if let Some(fleet) = self.targets().get(target) {
            return Ok(fleet.clone());
        }
        let executor = RemoteExecutor::connect(self.client.clone(), target.clone()).await?;
        let fleet = Fleet::builder().with_host(Arc::new(executor)).build();
        let mut targets = self.targets();
        if targets.len() >= TARGETS_MAX {
            targets.retain(|_, fleet| fleet.commands().running() > 0);
        }
        Ok(targets.entry(target.clone()).or_insert(fleet).clone())
    }

    /// Ends what belongs to this process.
    pub(crate) async fn shutdown(&self) {
        let fleets: Vec<Fleet> = self.targets().values().cloned().collect();
        futures::future::join_all(fleets.iter().map(Fleet::shutdown)).await;
    }
}

/// Where a fleet is.
#[derive(Clone)]
pub(crate) enum Place {
    Here(Fleet, Option<Arc<Lease>>),
    Server(Arc<Server>),
}

impl Place {
    pub(crate) async fn machine(&self, target: &Target) -> Result<Machine> {
        match self {
            Self::Here(fleet, _) => fleet.target(target),
            Self::Server(server) => server.fleet(target).await?.target(&Target::local()),
        }
    }

    /// The fleet whose supervisor has the commands of a target, if there is one yet.
    pub(crate) fn supervisor(&self, target: &Target) -> Option<Fleet> {
        match self {
            Self::Here(fleet, _) => Some(fleet.clone()),
            Self::Server(server) => server.targets().get(target).cloned(),
        }
    }

    pub(crate) async fn shutdown(&self) {
        match self {
            Self::Here(fleet, lease) => {
                fleet.shutdown().await;
                if let Some(lease) = lease {
                    lease.end();
                }
            }
            Self::Server(server) => server.shutdown().await,
        }
    }
}
