use std::{collections::BTreeMap, net::IpAddr, str::FromStr as _};

use fleetcore::{
    ActionArgument as CoreArgument, ActionInfo, ActionScope, AgentId, ArgumentKind, FanOut, Json as JsonMap,
    ListFailure, MachineCapabilities, MachineInfo, MachineSpec, MachineState, Pattern, ProviderHandle,
    Result, StopMode, Target,
};
use jiff::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{ActionScopeName, ArgumentKindName, CreateCommand, Exit, MachineStateName, Size, StopModeName};
use crate::error::{Problem, ProblemBody};

/// What a provider can do with machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProviderCapabilities {
    /// New machines can be made.
    pub create: bool,
    /// Stopped machines can be started.
    pub start: bool,
    /// Running machines can be stopped.
    pub stop: bool,
    /// Stopping can keep what is in memory.
    pub stop_with_suspend: bool,
    /// Machines can be deleted.
    pub delete: bool,
    /// Deleted machines stay listed until they are purged.
    pub delete_is_soft: bool,
}

impl From<MachineCapabilities> for ProviderCapabilities {
    fn from(c: MachineCapabilities) -> Self {
        Self {
            create: c.create,
            start: c.start,
            stop: c.stop,
            stop_with_suspend: c.stop_with_suspend,
            delete: c.delete,
            delete_is_soft: c.delete_is_soft,
        }
    }
}

/// One argument of an action.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ActionArgument {
    /// Its key.
    pub name: String,
    /// Its type.
    #[schema(value_type = ArgumentKindName)]
    pub kind: ArgumentKind,
    /// Whether it must be given.
    pub required: bool,
    /// What it means, for people.
    pub about: String,
}

impl From<CoreArgument> for ActionArgument {
    fn from(a: CoreArgument) -> Self {
        Self { name: a.name, kind: a.kind, required: a.required, about: a.about }
    }
}

/// One thing a provider can do besides the life of machines: enough to build a form for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Action {
    /// Its name.
    pub name: String,
    /// What it does, for people.
    pub about: String,
    /// What it is done to.
    #[schema(value_type = ActionScopeName)]
    pub scope: ActionScope,
    /// False for a question: it is answered at once and leaves no record.
    pub changes: bool,
    /// Whether it loses data that cannot be brought back: ask before.
    pub destroys: bool,
    /// Its arguments; others are refused.
    pub arguments: Vec<ActionArgument>,
}

impl From<ActionInfo> for Action {
    fn from(a: ActionInfo) -> Self {
        Self {
            name: a.name,
            about: a.about,
            scope: a.scope,
            changes: a.changes,
            destroys: a.destroys,
            arguments: a.arguments.into_iter().map(ActionArgument::from).collect(),
        }
    }
}

/// Where machines come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProviderInfo {
    /// Its name in targets.
    pub name: String,
    /// The agent it is at; null on the server's host.
    #[schema(value_type = Option<String>)]
    pub agent: Option<AgentId>,
    /// What it can do with machines.
    pub capabilities: ProviderCapabilities,
    /// What else it can do.
    pub actions: Vec<Action>,
    /// Whether it works now.
    pub available: bool,
    /// Why it does not, and what to do about it.
    pub reason: Option<String>,
}

impl ProviderInfo {
    pub(crate) fn new(provider: &ProviderHandle, works: Result<()>) -> Self {
        let reason = works.err().map(|e| match e.context_value("hint") {
            Some(hint) => format!("{}; {hint}", e.message()),
            None => e.message().to_owned(),
        });
        Self {
            name: provider.scheme().to_owned(),
            agent: provider.agent().cloned(),
            capabilities: provider.capabilities().into(),
            actions: provider.actions().into_iter().map(Action::from).collect(),
            available: reason.is_none(),
            reason,
        }
    }
}

/// A machine of a provider.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Machine {
    /// Its name everywhere.
    #[schema(value_type = String, example = "sandbox/dev1")]
    pub target: Target,
    /// Its provider; `local` for a host.
    pub provider: String,
    /// The agent it is at; null on the server's host.
    #[schema(value_type = Option<String>)]
    pub agent: Option<AgentId>,
    /// Its name at the provider.
    pub name: String,
    /// Its state.
    #[schema(value_type = MachineStateName)]
    pub state: MachineState,
    /// The provider's own word for the state.
    pub native_state: String,
    /// Known addresses, the best to use first.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: Option<Timestamp>,
}

impl Machine {
    pub(crate) fn new(target: Target, info: MachineInfo) -> Self {
        Self {
            provider: target.provider().unwrap_or(fleetcore::LOCAL).to_owned(),
            agent: target.agent().cloned(),
            name: info.id.to_string(),
            target,
            state: info.state,
            native_state: info.native_state,
            addresses: info.addresses,
            labels: info.labels,
            created_at: info.created_at,
        }
    }
}

/// A machine that is gone: `event: machine` in the event stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MachineGone {
    /// Its name.
    #[schema(value_type = String)]
    pub target: Target,
    /// True.
    pub gone: bool,
}

/// A provider whose machines are not in the list, or are there as they were last seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MachinesError {
    /// Its name.
    pub provider: String,
    /// The agent it is at; null on the server's host.
    #[schema(value_type = Option<String>)]
    pub agent: Option<AgentId>,
    /// Why.
    pub problem: ProblemBody,
}

impl From<ListFailure> for MachinesError {
    fn from(f: ListFailure) -> Self {
        Self { provider: f.provider, agent: f.agent, problem: Problem::from(f.error).body() }
    }
}

/// Machines of all providers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Machines {
    /// The machines, by target.
    pub items: Vec<Machine>,
    /// Providers that could not be asked.
    pub errors: Vec<MachinesError>,
}

/// A machine to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateMachine {
    /// Id of the command that makes it; choosing it makes the request idempotent. Default: a new one.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = Uuid)]
    pub id: Option<uuid::Uuid>,
    /// Who makes it.
    #[schema(example = "sandbox")]
    pub provider: String,
    /// At this agent. Default: on the server's host.
    #[serde(default)]
    pub agent: Option<String>,
    /// Its name.
    #[schema(example = "dev1")]
    pub name: String,
    /// Image, in the provider's own words.
    #[serde(default)]
    pub image: Option<String>,
    /// Number of virtual processors.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub cpus: Option<u32>,
    /// Memory in bytes.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// Size of the disk in bytes.
    #[serde(default)]
    pub disk_bytes: Option<u64>,
    /// Where.
    #[serde(default)]
    pub region: Option<String>,
    /// Cloud-init user data. Not recorded.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub user_data: Option<SecretString>,
    /// Labels of the machine.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Settings of this provider.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, Value>)]
    pub options: JsonMap,
}

impl CreateMachine {
    pub(crate) fn target(&self) -> Result<Target> {
        let target = Target::machine(&self.provider, &self.name)?;
        Ok(match &self.agent {
            Some(agent) => target.via(AgentId::new(agent)?),
            None => target,
        })
    }

    pub(crate) fn spec(self) -> MachineSpec {
        let mut spec = MachineSpec::default();
        spec.name = self.name;
        spec.image = self.image;
        spec.cpus = self.cpus;
        spec.memory_bytes = self.memory_bytes;
        spec.disk_bytes = self.disk_bytes;
        spec.region = self.region;
        spec.user_data = self.user_data;
        spec.labels = self.labels;
        spec.options = self.options;
        spec
    }
}

/// Starts a machine.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StartMachine {
    /// Id of the command; choosing it makes the request idempotent. Default: a new one.
    #[schema(value_type = Option<String>, format = Uuid)]
    pub id: Option<uuid::Uuid>,
}

/// Stops a machine.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StopMachine {
    /// Id of the command; choosing it makes the request idempotent. Default: a new one.
    #[schema(value_type = Option<String>, format = Uuid)]
    pub id: Option<uuid::Uuid>,
    /// How. Default: gracefully.
    #[schema(value_type = Option<StopModeName>)]
    pub mode: Option<StopMode>,
}

/// Deletes a machine.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeleteMachine {
    /// Id of the command; choosing it makes the request idempotent. Default: a new one.
    #[schema(value_type = Option<String>, format = Uuid)]
    pub id: Option<uuid::Uuid>,
    /// For good, where deletion is soft.
    pub purge: bool,
}

/// Does an action.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DoAction {
    /// Id of the command; choosing it makes the request idempotent. Default: a new one. Questions have no command.
    #[schema(value_type = Option<String>, format = Uuid)]
    pub id: Option<uuid::Uuid>,
    /// Its arguments.
    #[schema(value_type = BTreeMap<String, Value>)]
    pub args: JsonMap,
}

/// What a question was answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ActionResult {
    /// The answer.
    pub result: Value,
}

/// What to run on each target: as for one command, without `id`, `target` and `wait`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FanOutCommand {
    /// Program and arguments; no shell is involved.
    #[serde(default)]
    #[schema(min_items = 1)]
    pub argv: Option<Vec<String>>,
    /// A script for `/bin/sh -c`.
    #[serde(default)]
    pub shell: Option<String>,
    /// Working directory; default: the home directory.
    #[serde(default)]
    pub cwd: Option<String>,
    /// Variables to set. The values are not recorded.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, String>)]
    pub env: BTreeMap<String, SecretString>,
    /// Start from an empty environment.
    #[serde(default)]
    pub clear_env: bool,
    /// Run as this user.
    #[serde(default)]
    pub user: Option<String>,
    /// Put standard error on the output pipe.
    #[serde(default)]
    pub merge: bool,
    /// Run on a terminal of this size. Excludes `merge`.
    #[serde(default)]
    pub pty: Option<Size>,
    /// End each after this long.
    #[serde(default)]
    #[schema(maximum = 31_622_400_000_u64)]
    pub timeout_ms: Option<u64>,
    /// Time between the polite signal and KILL. Default 5000.
    #[serde(default)]
    #[schema(maximum = 31_622_400_000_u64)]
    pub grace_ms: Option<u64>,
    /// Labels of the records, the parent's included.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// One command on many targets.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateFanOut {
    /// Id of the parent; choosing it makes the request idempotent. Default: a new one.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = Uuid)]
    pub id: Option<uuid::Uuid>,
    /// Names of targets, and patterns: `*` is any text within one part of a name, `?` one character, `**` as the last part
    /// one part or more.
    #[schema(min_items = 1, max_items = 1000, example = json!(["office-*", "sandbox/*"]))]
    pub targets: Vec<String>,
    /// Of these, only those that carry all of these labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What to run.
    pub command: FanOutCommand,
    /// At most this many at once. Default 20.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1000)]
    pub parallel: Option<usize>,
    /// Start this many, wait for all of them, then go on. Default: go on whenever one has ended.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub batch: Option<usize>,
    /// Start no more once this many have failed. Default: start all.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub max_failures: Option<usize>,
}

impl CreateFanOut {
    pub(crate) fn plan(self) -> Result<FanOut> {
        let c = self.command;
        let mut command = CreateCommand {
            id: None,
            target: String::new(),
            argv: c.argv,
            shell: c.shell,
            cwd: c.cwd,
            env: c.env,
            clear_env: c.clear_env,
            user: c.user,
            stdin: false,
            merge: c.merge,
            pty: c.pty,
            timeout_ms: c.timeout_ms,
            grace_ms: c.grace_ms,
            drain_ms: None,
            overflow: None,
            replay_bytes: None,
            labels: c.labels,
            wait: None,
        };
        let patterns = self.targets.iter().map(|t| Pattern::from_str(t)).collect::<Result<_>>()?;
        let mut plan = FanOut::new(patterns, command.spec()?);
        plan.labels = self.labels;
        plan.parallel = self.parallel.unwrap_or(plan.parallel);
        plan.batch = self.batch;
        plan.max_failures = self.max_failures;
        plan.check()?;
        Ok(plan)
    }
}

/// One line of a fan-out's output: about one target, about a provider that failed, or the summary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FanOutLine {
    /// The target.
    #[serde(default)]
    pub target: Option<String>,
    /// The provider that cannot list its machines.
    #[serde(default)]
    pub provider: Option<String>,
    /// The command there, once there is one.
    #[serde(default)]
    #[schema(format = Uuid)]
    pub command: Option<String>,
    /// State of the command; also `skipped`.
    #[serde(default)]
    pub state: Option<String>,
    /// How it ended.
    #[serde(default)]
    pub exit: Option<Exit>,
    /// Why it failed, with `code` and `detail` of a problem document.
    #[serde(default)]
    pub error: Option<Value>,
    /// The last but one line, or the last one when all went well.
    #[serde(default)]
    pub summary: Option<FanOutSummary>,
    /// The last line, unless all went well.
    #[serde(default)]
    pub problem: Option<Value>,
}

/// What came of a fan-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FanOutSummary {
    /// Targets that were meant.
    pub targets: usize,
    /// Where it succeeded.
    pub succeeded: usize,
    /// Where it did not, and providers that could not be asked.
    pub failed: usize,
    /// Where it was not started because too many had failed.
    pub skipped: usize,
}
