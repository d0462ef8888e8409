//! One provider of the fleet.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt as _, future::BoxFuture};
use parking_lot::Mutex;

use super::{
    Fleet, Machine,
    operations::{answer, check_action, plain, work_command},
    task::Task,
};
use crate::{
    ActionInfo, AgentId, CommandId, CommandSpec, Error, Json, MachineCapabilities, MachineFilter,
    MachineInfo, MachineSpec, OpContext, Provider, Result, RunningCommand, Target,
};

/// How long a good answer of a [`Probe`] holds.
const GOOD_FOR: Duration = Duration::from_secs(60);
/// How long a bad one does: somebody may be mending it.
const BAD_FOR: Duration = Duration::from_secs(5);

/// When a probe was made, and what came of it.
type Answer = (Instant, Result<(), Arc<Error>>);

/// Finds out whether a provider works here, and why not. Cheap to clone; remembers an answer for a while (a minute if it is
/// good, 5 seconds if not), so asking often does not cost much.
#[derive(Clone)]
pub struct Probe {
    ask: Arc<dyn Fn() -> BoxFuture<'static, Result<()>> + Send + Sync>,
    /// When it was asked last, and what came of it.
    last: Arc<Mutex<Option<Answer>>>,
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe").finish_non_exhaustive()
    }
}

impl Probe {
    /// Asks by calling `ask`.
    pub fn new<F>(ask: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        Self { ask: Arc::new(move || ask().boxed()), last: Arc::default() }
    }

    /// A provider that cannot work here, for this reason.
    pub fn never(why: Error) -> Self {
        let why = Arc::new(why);
        Self::new(move || {
            let why = Arc::clone(&why);
            async move { Err(again(&why)) }
        })
    }

    async fn check(&self, cx: &OpContext) -> Result<()> {
        let last = self.last.lock().clone();
        if let Some((at, answer)) = last {
            let good = if answer.is_ok() { GOOD_FOR } else { BAD_FOR };
            if at.elapsed() < good {
                return answer.map_err(|e| again(&e));
            }
        }
        let answer = cx.guard("check", (self.ask)()).await.map_err(Arc::new);
        *self.last.lock() = Some((Instant::now(), answer.clone()));
        answer.map_err(|e| again(&e))
    }
}

/// The same error once more.
fn again(error: &Error) -> Error {
    let again = Error::new(error.kind(), error.message().to_owned()).with_operation(error.operation());
    error.context().fold(again, |again, (key, value)| again.with_context(key, value))
}

/// One provider with all layers around it: makes machines, lists them, and does what is not about one machine. Cheap to
/// clone. Made by [`Fleet::provider`].
#[derive(Clone, Debug)]
pub struct ProviderHandle {
    fleet: Fleet,
    provider: Arc<dyn Provider>,
    probe: Option<Probe>,
    agent: Option<AgentId>,
}

impl ProviderHandle {
    pub(super) fn new(fleet: Fleet, provider: Arc<dyn Provider>, probe: Option<Probe>) -> Self {
        Self { fleet, provider, probe, agent: None }
    }

    pub(super) fn through(self, agent: AgentId) -> Self {
        Self { agent: Some(agent), ..self }
    }

    /// Its name in targets.
    pub fn scheme(&self) -> &'static str {
        self.provider.scheme()
    }

    /// The agent it is at; `None` for one of this process.
    pub fn agent(&self) -> Option<&AgentId> {
        self.agent.as_ref()
    }

    /// Which operations it has.
    pub fn capabilities(&self) -> MachineCapabilities {
        self.provider.capabilities()
    }

    /// Whether it works: by its [`Probe`] if it has one, else by listing its machines.
    ///
    /// # Errors
    /// Why it does not, with what to do about it where that is known; `Timeout` and `Cancelled` from `cx`.
    pub async fn check(&self, cx: &OpContext) -> Result<()> {
        match &self.probe {
            Some(probe) => probe.check(cx).await,
            None => self.list(cx, MachineFilter::default()).await.map(drop),
        }
    }

    /// Makes a machine. Where that takes long, lines about it go to [`OpContext::progress`]. Whether the machine is
    /// up when this returns depends on the provider: see [`Machine::wait_for`]. For one call that does all of it, with a
    /// record, see [`Machine::operate`].
    ///
    /// # Errors
    /// `Unsupported`, `InvalidInput`, `AlreadyExists`; those of the provider and `cx`.
    ///
    /// # Cancellation
    /// A provider whose work cannot be stopped half-way finishes in the background and removes what was made.
    pub async fn create(&self, cx: &OpContext, spec: MachineSpec) -> Result<MachineInfo> {
        cx.guard("create", self.provider.create(cx, spec)).await
    }

    /// Its machines.
    ///
    /// # Errors
    /// Those of the provider and `cx`.
    pub async fn list(&self, cx: &OpContext, filter: MachineFilter) -> Result<Vec<MachineInfo>> {
        cx.guard("list machines", self.provider.list(cx, filter)).await
    }

    /// The target of a machine this provider listed or made.
    ///
    /// # Errors
    /// `InvalidInput` when its scheme is no name.
    pub fn target(&self, machine: &MachineInfo) -> Result<Target> {
        self.named(machine.id.as_str())
    }

    /// The machine of this name, whether there is one or not.
    ///
    /// # Errors
    /// `InvalidInput` for what is no name.
    pub fn machine(&self, name: &str) -> Result<Machine> {
        self.fleet.target(&self.named(name)?)
    }

    fn named(&self, name: &str) -> Result<Target> {
        let target = Target::machine(self.scheme(), name)?;
        Ok(match &self.agent {
            Some(agent) => target.via(agent.clone()),
            None => target,
        })
    }

    /// What it can do besides the life of machines; for those of one machine see
    /// [`Machine::act`](super::Machine::act).
    pub fn actions(&self) -> Vec<ActionInfo> {
        self.provider.actions()
    }

    /// Does an action of the provider as a whole; gives what the action answers.
    ///
    /// # Errors
    /// `Unsupported` for an unknown action, `InvalidInput` for bad arguments or one that needs a machine; those of the
    /// provider and `cx`.
    pub async fn act(&self, cx: &OpContext, action: &str, args: Json) -> Result<serde_json::Value> {
        cx.guard("act", self.provider.act(cx, None, action, args)).await
    }

    /// The target that stands for the provider in records: the host it is at.
    pub fn host(&self) -> Target {
        match &self.agent {
            Some(agent) => Target::local().via(agent.clone()),
            None => Target::local(),
        }
    }

    /// The command that stands for an action of the provider as a whole; see
    /// [`Operation::command`](super::Operation::command).
    pub fn command(&self, action: &str, args: &Json) -> CommandSpec {
        let mut args = plain(args);
        args.insert("provider".to_owned(), self.scheme().to_owned());
        work_command(action, args)
    }

    /// Does an action of the provider as a whole as a command of the fleet, on the target [`host`](Self::host): see
    /// [`Machine::operate`].
    ///
    /// # Errors
    /// As for [`act`](Self::act), as far as it can be told beforehand; `RateLimited`; `AlreadyExists` for an id that has
    /// been used.
    pub async fn operate_with(
        &self,
        cx: &OpContext,
        id: CommandId,
        action: &str,
        args: Json,
    ) -> Result<RunningCommand> {
        check_action(action)?;
        ActionInfo::find(&self.actions(), action)?.check(None, &args)?;
        let command = self.command(action, &args);
        let (handle, action) = (self.clone(), action.to_owned());
        let task = Task::executor(
            false,
            Box::new(move |cx, _| async move { Ok(answer(&handle.act(&cx, &action, args).await?)) }.boxed()),
        );
        self.fleet.commands().spawn_task(&self.host(), task, cx, id, command).await
    }
}
