//! Machines, providers and fan-outs as a client sees them.

use std::collections::BTreeMap;

use fleetcore::{
    ActionInfo, CommandSpec, FanOut, Io, Json, Labels, ListFailure, MachineCapabilities, MachineInfo,
    MachineSpec, MachineState, ProviderHandle, PtySize, Result, Target as TargetName,
};
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Exit, NewCommand};

/// A named operation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CommandAction {
    /// Its name.
    pub name: String,
    /// Its settings as text.
    #[serde(default)]
    pub args: BTreeMap<String, String>,
}

/// A machine of a provider.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Machine {
    /// Its name in the target grammar.
    pub target: String,
    /// Its provider.
    pub provider: String,
    /// The agent it is at.
    #[serde(default)]
    pub agent: Option<String>,
    /// Its name at the provider.
    #[serde(default)]
    pub name: String,
    /// Its state.
    pub state: MachineState,
    /// The provider's own word for the state.
    #[serde(default)]
    pub native_state: String,
    /// Its addresses, the best to use first.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Its labels.
    #[serde(default)]
    pub labels: Labels,
    /// When it was made.
    #[serde(default)]
    pub created_at: Option<Timestamp>,
}

impl Machine {
    /// The machine as a fleet in this process sees it.
    pub fn from_info(target: &TargetName, info: &MachineInfo) -> Self {
        Self {
            target: target.to_string(),
            provider: target.provider().unwrap_or(fleetcore::LOCAL).to_owned(),
            agent: target.agent().map(ToString::to_string),
            name: info.id.to_string(),
            state: info.state,
            native_state: info.native_state.clone(),
            addresses: info.addresses.iter().map(ToString::to_string).collect(),
            labels: info.labels.clone(),
            created_at: info.created_at,
        }
    }
}

/// A provider whose machines could not be listed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MachinesError {
    /// Its name.
    pub provider: String,
    /// The agent it is at.
    #[serde(default)]
    pub agent: Option<String>,
    /// Why, as a problem document: at least `code` and `detail`.
    #[serde(default)]
    pub problem: Value,
}

impl From<&ListFailure> for MachinesError {
    fn from(f: &ListFailure) -> Self {
        Self {
            provider: f.provider.clone(),
            agent: f.agent.as_ref().map(ToString::to_string),
            problem: serde_json::json!({ "code": f.error.kind().code(), "detail": f.error.message() }),
        }
    }
}

/// Machines of all providers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Machines {
    /// The machines.
    pub items: Vec<Machine>,
    /// Providers that could not be asked.
    #[serde(default)]
    pub errors: Vec<MachinesError>,
}

impl Machines {
    /// Machines and providers that failed.
    pub fn new(items: Vec<Machine>, errors: Vec<MachinesError>) -> Self {
        Self { items, errors }
    }
}

/// Restricts a list of machines.
#[derive(Clone, Debug, Default)]
pub struct MachineQuery {
    /// Only of this provider.
    pub provider: Option<String>,
    /// Only with all of these labels.
    pub labels: Labels,
    /// Only in one of these states.
    pub states: Vec<MachineState>,
    /// Also those that are deleted but not purged.
    pub include_deleted: bool,
}

impl MachineQuery {
    pub(in crate::client) fn pairs(&self) -> Vec<(&'static str, String)> {
        let mut q = Vec::new();
        q.extend(self.provider.iter().map(|p| ("provider", p.clone())));
        q.extend(self.labels.iter().map(|(k, v)| ("label", format!("{k}={v}"))));
        let name = |s: &MachineState| serde_json::to_value(s).ok()?.as_str().map(str::to_owned);
        q.extend(self.states.iter().filter_map(name).map(|s| ("state", s)));
        if self.include_deleted {
            q.push(("include_deleted", "true".to_owned()));
        }
        q
    }
}

/// Where machines come from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Provider {
    /// Its name in targets.
    pub name: String,
    /// The agent it is at.
    #[serde(default)]
    pub agent: Option<String>,
    /// What it can do with machines.
    pub capabilities: MachineCapabilities,
    /// What else it can do.
    #[serde(default)]
    pub actions: Vec<ActionInfo>,
    /// Whether it works now.
    pub available: bool,
    /// Why it does not.
    #[serde(default)]
    pub reason: Option<String>,
}

impl Provider {
    /// The provider as a fleet in this process sees it.
    pub fn from_handle(provider: &ProviderHandle, works: Result<()>) -> Self {
        Self {
            name: provider.scheme().to_owned(),
            agent: provider.agent().map(ToString::to_string),
            capabilities: provider.capabilities(),
            actions: provider.actions(),
            available: works.is_ok(),
            reason: works.err().map(|e| e.message().to_owned()),
        }
    }
}

/// A machine to make.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct NewMachine {
    /// Id of the command, of the client's choice; sending the same request twice is harmless then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Who makes it.
    pub provider: String,
    /// At this agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Its name.
    pub name: String,
    /// Image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Number of virtual processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// Memory in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Size of the disk in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// Where.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Cloud-init user data; may hold secrets.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "reveal")]
    pub user_data: Option<SecretString>,
    /// Labels of the machine.
    pub labels: Labels,
    /// Settings of this provider.
    pub options: Json,
}

/// Secret everywhere but in the request itself.
fn reveal<S: serde::Serializer>(
    secret: &Option<SecretString>,
    to: S,
) -> std::result::Result<S::Ok, S::Error> {
    secret.as_ref().map(|s| s.expose_secret()).serialize(to)
}

impl NewMachine {
    /// The request that makes `target` as `spec` says.
    ///
    /// # Errors
    /// `InvalidInput` for a host: it has no provider.
    pub fn from_spec(target: &TargetName, spec: &MachineSpec) -> Result<Self> {
        let (Some(provider), Some(name)) = (target.provider(), target.machine_id()) else {
            return Err(fleetcore::Error::invalid("target", "PROVIDER/NAME or AGENT/PROVIDER/NAME")
                .with_context("target", target));
        };
        Ok(Self {
            id: None,
            provider: provider.to_owned(),
            agent: target.agent().map(ToString::to_string),
            name: name.to_string(),
            image: spec.image.clone(),
            cpus: spec.cpus,
            memory_bytes: spec.memory_bytes,
            disk_bytes: spec.disk_bytes,
            region: spec.region.clone(),
            user_data: spec.user_data.clone(),
            labels: spec.labels.clone(),
            options: spec.options.clone(),
        })
    }
}

/// What an action did: a command to follow, or the answer to a question.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Acted {
    /// It is being done.
    Command(Box<super::Command>),
    /// The answer.
    Answer {
        /// What was answered.
        result: Value,
    },
}

/// One command on many targets.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct NewFanOut {
    /// Id of the parent, of the client's choice; sending the same request twice is harmless then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Names and patterns.
    pub targets: Vec<String>,
    /// Only targets with all of these labels.
    pub labels: Labels,
    /// What to run.
    pub command: FanOutCommand,
    /// At most this many at once.
    pub parallel: usize,
    /// Start this many, wait for all of them, then go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// Start no more once this many have failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_failures: Option<usize>,
}

/// What to run on each target.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct FanOutCommand {
    /// Program and arguments. Exactly one of this and `shell`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub argv: Option<Vec<String>>,
    /// Script for `/bin/sh -c`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    /// Working directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Variables to set.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", serialize_with = "super::expose")]
    pub env: BTreeMap<String, SecretString>,
    /// Start from an empty environment.
    pub clear_env: bool,
    /// Run as this user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Standard error on the output pipe.
    pub merge: bool,
    /// Run on a terminal of this size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pty: Option<PtySize>,
    /// End it after this long, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Time between the polite signal and KILL, in milliseconds.
    pub grace_ms: u64,
    /// Labels of the records.
    pub labels: Labels,
}

impl FanOutCommand {
    fn from_spec(spec: &CommandSpec) -> Result<Self> {
        let whole = NewCommand::from_spec(&TargetName::local(), spec)?;
        let merge = matches!(spec.io, Io::Pipes { merge: true, .. });
        Ok(Self {
            argv: whole.argv,
            shell: whole.shell,
            cwd: whole.cwd,
            env: whole.env,
            clear_env: whole.clear_env,
            user: whole.user,
            merge,
            pty: whole.pty,
            timeout_ms: whole.timeout_ms,
            grace_ms: whole.grace_ms,
            labels: whole.labels,
        })
    }
}

impl NewFanOut {
    /// The request for `plan`.
    ///
    /// # Errors
    /// `Unsupported` for a program that is neither argv nor shell.
    pub fn from_plan(plan: &FanOut) -> Result<Self> {
        Ok(Self {
            id: None,
            targets: plan.targets.iter().map(ToString::to_string).collect(),
            labels: plan.labels.clone(),
            command: FanOutCommand::from_spec(&plan.command)?,
            parallel: plan.parallel,
            batch: plan.batch,
            max_failures: plan.max_failures,
        })
    }
}

/// One line of a fan-out's output.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct FanOutLine {
    /// The target it is about.
    pub target: Option<String>,
    /// The provider it is about: its machines cannot be listed.
    pub provider: Option<String>,
    /// The command there, once there is one.
    pub command: Option<String>,
    /// State of the command; also `skipped`.
    pub state: Option<String>,
    /// How it ended.
    pub exit: Option<Exit>,
    /// Why it failed.
    pub error: Option<Value>,
    /// What came of it all.
    pub summary: Option<FanOutSummary>,
    /// Why not all went well; the last line.
    pub problem: Option<Value>,
}

/// What came of a fan-out.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct FanOutSummary {
    /// Targets that were meant.
    pub targets: usize,
    /// Where it succeeded.
    pub succeeded: usize,
    /// Where it did not.
    pub failed: usize,
    /// Where it was not started.
    pub skipped: usize,
}
