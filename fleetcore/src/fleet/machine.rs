//! One machine of the fleet.

use std::{fmt, sync::Arc, time::Duration};

use super::{Files, Fleet};
use crate::{
    ActionInfo, ActionScope, AgentDirectory, CommandId, CommandSpec, Error, ErrorKind, Executor, Json,
    MachineId, MachineInfo, MachineState, OpContext, Provider, Result, RunningCommand, Session, SessionSpec,
    StopMode, Target, session::ShellSession,
};

/// First pause between two looks at a machine that is coming up.
const WAIT_FIRST: Duration = Duration::from_millis(100);
/// Longest pause between two looks.
const WAIT_MOST: Duration = Duration::from_secs(5);

/// One machine: its life, its commands, its files. Cheap to clone; holds no connection.
#[derive(Clone)]
pub struct Machine {
    fleet: Fleet,
    target: Target,
    /// `None` is a host.
    at: Option<(Arc<dyn Provider>, MachineId)>,
    /// The way there, when it leads through an agent; not layered yet.
    agent: Option<Arc<dyn Executor>>,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Machine {
    pub(super) fn new(fleet: Fleet, target: Target, at: Option<(Arc<dyn Provider>, MachineId)>) -> Self {
        Self { fleet, target, at, agent: None }
    }

    /// A target that names an agent.
    pub(super) fn through_agent(
        fleet: Fleet,
        target: Target,
        agents: &Arc<dyn AgentDirectory>,
    ) -> Result<Self> {
        let at = match (target.agent(), target.provider(), target.machine_id()) {
            (Some(agent), Some(scheme), Some(id)) => {
                Some((fleet.layered_around(agents.provider(agent, scheme)?), id.clone()))
            }
            _ => None,
        };
        let agent = Some(agents.executor(&target)?);
        Ok(Self { fleet, target, at, agent })
    }

    /// Its name.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The way to run things on it, with all layers.
    ///
    /// # Errors
    /// `NotFound`, `InvalidState` when it is not up, `Timeout` and `Cancelled` from `cx`.
    pub async fn executor(&self, cx: &OpContext) -> Result<Arc<dyn Executor>> {
        if let Some(agent) = &self.agent {
            return Ok(self.fleet.layered(Arc::clone(agent)));
        }
        match &self.at {
            None => {
                self.fleet.host().ok_or_else(|| Error::new(ErrorKind::NotFound, "this fleet has no host"))
            }
            Some((provider, id)) => {
                let base = cx.guard("connect", provider.connect(cx, id)).await?;
                Ok(self.fleet.layered(base))
            }
        }
    }

    fn lifecycle(&self, operation: &'static str) -> Result<&(Arc<dyn Provider>, MachineId)> {
        self.at.as_ref().ok_or_else(|| Error::unsupported(operation).with_context("target", &self.target))
    }

    /// What its provider reports.
    ///
    /// # Errors
    /// `NotFound`; those of the provider and `cx`.
    pub async fn info(&self, cx: &OpContext) -> Result<MachineInfo> {
        match &self.at {
            None => {
                let name = self.target.agent().map_or(crate::LOCAL, |a| a.as_str());
                Ok(MachineInfo::new(MachineId::new(name)?, MachineState::Running))
            }
            Some((provider, id)) => cx.guard("info", provider.info(cx, id)).await,
        }
    }

    /// Starts it; fine when it runs. `Unsupported` for the host.
    pub async fn start(&self, cx: &OpContext) -> Result<MachineInfo> {
        let (provider, id) = self.lifecycle("start")?;
        cx.guard("start", provider.start(cx, id)).await
    }

    /// Stops it; fine when it is stopped. `Unsupported` for the host.
    pub async fn stop(&self, cx: &OpContext, mode: StopMode) -> Result<MachineInfo> {
        let (provider, id) = self.lifecycle("stop")?;
        cx.guard("stop", provider.stop(cx, id, mode)).await
    }

    /// Deletes it; fine when it is gone. `Unsupported` for the host.
    pub async fn delete(&self, cx: &OpContext, purge: bool) -> Result<()> {
        let (provider, id) = self.lifecycle("delete")?;
        cx.guard("delete", provider.delete(cx, id, purge)).await
    }

    /// What its provider can do with it besides its life; empty for the host.
    pub fn actions(&self) -> Vec<ActionInfo> {
        let all = self.at.as_ref().map(|(provider, _)| provider.actions()).unwrap_or_default();
        all.into_iter().filter(|a| a.scope != ActionScope::Provider).collect()
    }

    /// Does an action of its provider on it, e.g. a snapshot; gives what the action answers. `Unsupported` for the
    /// host and for an unknown action, `InvalidInput` for bad arguments.
    pub async fn act(&self, cx: &OpContext, action: &str, args: Json) -> Result<serde_json::Value> {
        let (provider, id) = self.lifecycle("act")?;
        cx.guard("act", provider.act(cx, Some(id), action, args)).await
    }

    /// Waits until it is in `state`. Providers have no events of their own, so this looks with growing pauses
    /// (0.1 to 5 s).
    ///
    /// # Errors
    /// `InvalidState` when it failed or was deleted instead; `Timeout` and `Cancelled` from `cx`.
    pub async fn wait_for(&self, cx: &OpContext, state: MachineState) -> Result<MachineInfo> {
        let mut pause = WAIT_FIRST;
        loop {
            let info = self.info(cx).await?;
            if info.state == state {
                return Ok(info);
            }
            if matches!(info.state, MachineState::Failed | MachineState::Deleted) {
                return Err(Error::new(ErrorKind::InvalidState, "the machine went another way")
                    .with_context("target", &self.target)
                    .with_context("state", info.native_state));
            }
            cx.guard("wait", async {
                tokio::time::sleep(pause).await;
                Ok(())
            })
            .await?;
            pause = (pause * 2).min(WAIT_MOST);
        }
    }

    /// Checks that it can be reached.
    ///
    /// # Errors
    /// `Unavailable` and those of [`executor`](Self::executor).
    pub async fn ping(&self, cx: &OpContext) -> Result<()> {
        let executor = self.executor(cx).await?;
        cx.guard("ping", executor.ping(cx)).await
    }

    /// Starts a command under a fresh id.
    ///
    /// # Errors
    /// `NotFound` when the program or directory is missing, `InvalidInput`, `RateLimited` when too many run, those of
    /// the backend. A command that runs and fails is not an error.
    pub async fn spawn(&self, spec: CommandSpec) -> Result<RunningCommand> {
        self.spawn_with(&OpContext::default(), CommandId::generate(), spec).await
    }

    /// Starts a command under the caller's id, within `cx`.
    ///
    /// # Errors
    /// As for [`spawn`](Self::spawn); `AlreadyExists` when the store knows the id.
    pub async fn spawn_with(
        &self,
        cx: &OpContext,
        id: CommandId,
        spec: CommandSpec,
    ) -> Result<RunningCommand> {
        self.fleet.commands().spawn(self, cx, id, spec).await
    }

    /// Opens a persistent shell that the caller owns: dropping the last handle ends it. For one that belongs to the
    /// fleet see [`Sessions::open`](super::Sessions::open).
    ///
    /// # Errors
    /// `Unsupported` without terminals, `Timeout` when the shell gives no prompt, those of the backend.
    pub async fn open_session(&self, spec: SessionSpec) -> Result<Arc<dyn Session>> {
        self.open_session_with(&OpContext::default(), spec).await
    }

    pub(super) async fn open_session_with(
        &self,
        cx: &OpContext,
        spec: SessionSpec,
    ) -> Result<Arc<dyn Session>> {
        let executor = self.executor(cx).await?;
        if executor.capabilities().native_sessions {
            return cx.guard("open session", executor.open_session(cx, spec)).await;
        }
        Ok(Arc::new(ShellSession::open(executor, cx, spec).await?))
    }

    /// Its files: the backend's own, or over commands where it has none.
    ///
    /// # Errors
    /// Those of [`executor`](Self::executor).
    pub async fn files(&self) -> Result<Files> {
        let executor = self.executor(&OpContext::default()).await?;
        if executor.capabilities().native_files {
            return Ok(Files::new(executor.files()?));
        }
        Ok(Files::new(Arc::new(crate::sim::files::SpawnFiles::new(executor))))
    }
}
