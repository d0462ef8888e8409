//! Agents and their leases.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{ExecCapabilities, Json, Labels, MachineCapabilities};
use crate::{AgentId, CommandId};

/// What an agent says about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AgentRegistration {
    /// Its name.
    pub id: AgentId,
    /// Where it can be called, if it does not call us.
    pub endpoint: Option<String>,
    /// Its version.
    pub version: String,
    /// What its host can do.
    pub exec: ExecCapabilities,
    /// What its providers can do.
    pub machines: MachineCapabilities,
    /// Its labels.
    pub labels: Labels,
}

impl AgentRegistration {
    /// An agent with the two facts every agent knows.
    pub fn new(id: AgentId, version: impl Into<String>) -> Self {
        Self {
            id,
            endpoint: None,
            version: version.into(),
            exec: ExecCapabilities::default(),
            machines: MachineCapabilities::default(),
            labels: Labels::new(),
        }
    }
}

/// Proof of registration. A higher `epoch` fences out an older process with the same id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Lease {
    /// Whose lease.
    pub agent: AgentId,
    /// Goes up with every registration of this id and never back, even after the agent left.
    pub epoch: u64,
    /// How long one heartbeat keeps the agent online.
    pub ttl: Duration,
    /// When it runs out without another heartbeat.
    pub expires_at: Timestamp,
}

impl Lease {
    /// A lease as a registry hands it out.
    pub fn new(agent: AgentId, epoch: u64, ttl: Duration, expires_at: Timestamp) -> Self {
        Self { agent, epoch, ttl, expires_at }
    }
}

/// What an agent sends with a heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct AgentReport {
    /// Commands that run there now; settles records that were `Lost`.
    pub running: Vec<CommandId>,
    /// Measurements and whatever else a dialect keeps.
    pub status: Json,
}

/// An agent as the registry knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AgentInfo {
    /// What it said about itself.
    pub registration: AgentRegistration,
    /// Its lease.
    pub lease: Lease,
    /// Whether the lease holds.
    pub online: bool,
    /// Last registration or heartbeat.
    pub last_seen: Timestamp,
    /// Its last heartbeat.
    pub report: AgentReport,
    /// Goes up with every write.
    pub revision: u64,
}

impl AgentInfo {
    /// An agent that has just registered.
    pub fn new(registration: AgentRegistration, lease: Lease, last_seen: Timestamp) -> Self {
        Self { registration, lease, online: true, last_seen, report: AgentReport::default(), revision: 1 }
    }
}

/// What [`AgentRegistry::watch`](crate::AgentRegistry::watch) yields: a snapshot (`Init`, `InitItem`…,
/// `InitDone`), then changes. A watcher that fell behind gets a new snapshot.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum RegistryEvent {
    /// A snapshot begins; forget what you know.
    Init,
    /// One agent of the snapshot.
    InitItem(AgentInfo),
    /// The snapshot is complete.
    InitDone,
    /// An agent registered, or came back.
    Online(AgentInfo),
    /// A heartbeat brought news.
    Updated(AgentInfo),
    /// A lease ran out.
    Offline(AgentId),
    /// An agent left on purpose.
    Removed(AgentId),
}
