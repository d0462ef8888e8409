//! Machines and their lifecycle.

use std::net::IpAddr;

use jiff::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::{Json, Labels};
use crate::MachineId;

/// Lifecycle operations a provider has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MachineCapabilities {
    /// New machines can be made.
    pub create: bool,
    /// Stopped machines can be started.
    pub start: bool,
    /// Running machines can be stopped.
    pub stop: bool,
    /// `stop` can keep memory contents.
    pub stop_with_suspend: bool,
    /// Machines can be deleted.
    pub delete: bool,
    /// Deleted machines stay listed until they are purged.
    pub delete_is_soft: bool,
}

/// What to create. Settings that only one backend has go to `options`; unknown keys are `InvalidInput`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct MachineSpec {
    /// Name of the new machine.
    pub name: String,
    /// Image name in the backend's own words.
    pub image: Option<String>,
    /// Number of virtual processors.
    pub cpus: Option<u32>,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Disk size in bytes.
    pub disk_bytes: Option<u64>,
    /// Where to create it.
    pub region: Option<String>,
    /// Cloud-init user data; may hold secrets.
    #[serde(skip)]
    pub user_data: Option<SecretString>,
    /// Labels to attach.
    pub labels: Labels,
    /// Settings of one backend.
    pub options: Json,
}

/// State of a machine in the words every backend shares; [`MachineInfo::native_state`] keeps the backend's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MachineState {
    /// Being made or started.
    Pending,
    /// Up.
    Running,
    /// On the way down.
    Stopping,
    /// Down, can be started.
    Stopped,
    /// Down with memory kept.
    Suspended,
    /// Deleted but still listed.
    Deleted,
    /// Broken.
    Failed,
    /// The backend did not say.
    Unknown,
}

/// A machine as its provider reports it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MachineInfo {
    /// Its name within the provider.
    pub id: MachineId,
    /// Its state.
    pub state: MachineState,
    /// The backend's own word for the state.
    pub native_state: String,
    /// Known addresses, the best to use first.
    pub addresses: Vec<IpAddr>,
    /// Its labels.
    pub labels: Labels,
    /// When it was made.
    pub created_at: Option<Timestamp>,
}

impl MachineInfo {
    /// A machine with the two facts every provider knows.
    pub fn new(id: MachineId, state: MachineState) -> Self {
        Self {
            id,
            state,
            native_state: String::new(),
            addresses: vec![],
            labels: Labels::new(),
            created_at: None,
        }
    }
}

/// How to stop a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StopMode {
    /// Ask the system to shut down.
    #[default]
    Graceful,
    /// Pull the plug.
    Force,
    /// Keep memory and stop the clock.
    Suspend,
}

/// Restricts a list of machines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MachineFilter {
    /// Only machines that carry all of these.
    pub labels: Labels,
    /// Also those that are deleted but not purged.
    pub include_deleted: bool,
}
