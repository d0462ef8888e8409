//! Runtimes of AI coding agents.

use std::collections::BTreeMap;

use fleetcore::Target;
use jiff::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use crate::compat::{ActionState, RuntimeState};

/// A plugin of a runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RuntimePlugin {
    /// A Python kernel; needs ipykernel.
    Jupyter,
    /// The functions agents know, in that kernel.
    AgentSkills,
    /// An editor in a browser. Not in runtimes of a server yet.
    Vscode,
}

impl RuntimePlugin {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Jupyter => "jupyter",
            Self::AgentSkills => "agent_skills",
            Self::Vscode => "vscode",
        }
    }
}

/// A runtime to make.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRuntime {
    /// Where, e.g. `multipass/dev1` or an agent. Default: a new sandbox, which ends with the runtime.
    #[serde(default)]
    pub target: Option<String>,
    /// Makes the sandbox at this agent. Default: on the server's host.
    #[serde(default)]
    pub agent: Option<String>,
    /// Working directory, absolute; made when it is missing. Default in a new sandbox: `/home/sandbox/workspace`.
    #[serde(default)]
    pub working_dir: Option<String>,
    /// Whether the new sandbox reaches the network. Default: no.
    #[serde(default)]
    pub network: bool,
    /// Processors of the new sandbox. Default 2.
    #[schema(minimum = 1)]
    #[serde(default)]
    pub cpus: Option<u32>,
    /// Memory of the new sandbox in bytes. Default 4 GiB.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// Most processes in the new sandbox. Default 1024.
    #[schema(minimum = 1)]
    #[serde(default)]
    pub processes: Option<u32>,
    /// Plugins to start; only on the server's own host (`local`).
    #[serde(default)]
    pub plugins: Vec<RuntimePlugin>,
    /// Variables for the agent's commands. The values are not recorded.
    #[schema(value_type = BTreeMap<String, String>)]
    #[serde(default)]
    pub env: BTreeMap<String, SecretString>,
    /// Commands that are silent for so many seconds are answered while they run on. Default 10.
    #[serde(default)]
    pub no_change_timeout_s: Option<u64>,
}

/// A runtime of an AI coding agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Runtime {
    /// Its id.
    pub id: String,
    /// Base URL for the agent's client, as a path of this server.
    #[schema(example = "/api/v1/runtimes/r4k2j6h3n8")]
    pub url: String,
    /// Where it runs.
    #[schema(value_type = String, example = "sandbox/r4k2j6h3n8")]
    pub target: Target,
    /// Whether the target was made for it, and ends with it.
    pub owns_target: bool,
    /// Whether the sandbox that was made for it reaches the network; null elsewhere.
    pub network: Option<bool>,
    /// Where its shell began.
    pub working_dir: String,
    /// Its plugins.
    pub plugins: Vec<RuntimePlugin>,
    /// Who made it.
    pub created_by: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// What it is doing. In lists without the actions that have ended.
    pub state: RuntimeState,
}

/// A runtime that was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NewRuntime {
    /// What the client sends as `X-Session-API-Key`. Told once; whoever has it may run commands and change files there.
    pub key: String,
    /// The runtime.
    #[serde(flatten)]
    pub runtime: Runtime,
}
