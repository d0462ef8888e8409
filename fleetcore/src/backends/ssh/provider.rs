//! The list of hosts as machines.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;

use super::{config::SshConfig, executor::SshExecutor, pool::Pool};
use crate::{
    ActionInfo, Error, ErrorKind, Json, MachineCapabilities, MachineFilter, MachineId, MachineInfo,
    MachineSpec, MachineState, Result, StopMode,
    raw::{Executor, OpContext, Provider},
};

/// The hosts of an [`SshConfig`] as `ssh/NAME`. They are connected to when something is asked of them, never by listing.
#[derive(Debug)]
pub struct Ssh {
    hosts: BTreeMap<MachineId, Arc<Pool>>,
}

impl Ssh {
    /// Checks the list; connects to nobody.
    ///
    /// # Errors
    /// `InvalidInput`, naming host, field and rule.
    pub fn new(config: &SshConfig) -> Result<Self> {
        config.check()?;
        let mut pools: BTreeMap<String, Arc<Pool>> = BTreeMap::new();
        // Those that others are reached through come first; `check` has ruled out circles.
        while pools.len() < config.hosts.len() {
            for (name, host) in &config.hosts {
                let jump = host.jump.as_ref().map(|j| pools.get(j).cloned());
                if pools.contains_key(name) || matches!(jump, Some(None)) {
                    continue;
                }
                pools.insert(name.clone(), Pool::new(name.clone(), host.clone(), jump.flatten()));
            }
        }
        let mut hosts = BTreeMap::new();
        for (name, pool) in pools.into_iter().filter(|(_, p)| !p.host().hidden) {
            hosts.insert(MachineId::new(name)?, pool);
        }
        Ok(Self { hosts })
    }

    /// How many hosts there are.
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    fn pool(&self, id: &MachineId) -> Result<&Arc<Pool>> {
        self.hosts
            .get(id)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "no such SSH host").with_context("machine", id))
    }
}

fn info(id: &MachineId, pool: &Pool) -> MachineInfo {
    let connected = pool.is_connected();
    let state = if connected { MachineState::Running } else { MachineState::Unknown };
    let mut info = MachineInfo::new(id.clone(), state);
    info.native_state = if connected { "connected" } else { "not connected" }.to_owned();
    info.addresses = pool.host().address.as_deref().unwrap_or(id.as_str()).parse().into_iter().collect();
    info.labels = pool.host().labels.clone();
    info
}

#[async_trait]
impl Provider for Ssh {
    fn scheme(&self) -> &'static str {
        "ssh"
    }

    fn capabilities(&self) -> MachineCapabilities {
        MachineCapabilities::default()
    }

    async fn create(&self, _: &OpContext, _: MachineSpec) -> Result<MachineInfo> {
        Err(Error::unsupported("create"))
    }

    async fn start(&self, _: &OpContext, _: &MachineId) -> Result<MachineInfo> {
        Err(Error::unsupported("start"))
    }

    async fn stop(&self, _: &OpContext, _: &MachineId, _: StopMode) -> Result<MachineInfo> {
        Err(Error::unsupported("stop"))
    }

    async fn delete(&self, _: &OpContext, _: &MachineId, _: bool) -> Result<()> {
        Err(Error::unsupported("delete"))
    }

    async fn list(&self, _: &OpContext, filter: MachineFilter) -> Result<Vec<MachineInfo>> {
        let all = self.hosts.iter().map(|(id, pool)| info(id, pool));
        Ok(all.filter(|m| filter.labels.iter().all(|(k, v)| m.labels.get(k) == Some(v))).collect())
    }

    async fn info(&self, _: &OpContext, id: &MachineId) -> Result<MachineInfo> {
        Ok(info(id, self.pool(id)?))
    }

    async fn connect(&self, _: &OpContext, id: &MachineId) -> Result<Arc<dyn Executor>> {
        Ok(Arc::new(SshExecutor::new(Arc::clone(self.pool(id)?))))
    }

    fn actions(&self) -> Vec<ActionInfo> {
        Vec::new()
    }

    async fn act(
        &self,
        _: &OpContext,
        _: Option<&MachineId>,
        action: &str,
        _: Json,
    ) -> Result<serde_json::Value> {
        Err(Error::unsupported("act").with_context("action", action.escape_debug()))
    }
}
