//! What changes a machine and may take long, as commands: with a record, live output, waiters and a cancel.

use std::{collections::BTreeMap, time::Duration};

use futures::FutureExt as _;
use secrecy::ExposeSecret as _;

use super::{FleetEvent, Machine, task::Task};
use crate::{
    ActionInfo, CommandId, CommandSpec, Error, ErrorKind, Json, MachineCapabilities, MachineSpec,
    MachineState, OnDrop, OpContext, Program, Result, RunningCommand, StopMode,
};

/// How long what was made for nothing may take to go away.
const CLEAN_UP_LIMIT: Duration = Duration::from_secs(120);
/// How long a cancelled operation may take to leave things tidy before nobody waits for it any more.
pub(super) const GRACE: Duration = Duration::from_secs(60);
/// How long the log may take to take the last lines.
pub(super) const DRAIN: Duration = Duration::from_secs(10);
/// How long a machine may take to say what became of it.
const LOOK_LIMIT: Duration = Duration::from_secs(10);
/// Longest name of an action, before anybody is asked whether there is one.
const ACTION_MAX: usize = 64;

/// Something done to a machine that may take long. [`Machine::operate`] runs it as a command: its record has the program
/// [`Program::Action`], its output is progress on the channel [`Log`](crate::Channel::Log).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Operation {
    /// Makes the machine; succeeds when it is running. The name in the spec is replaced by the target's. Cancelling it
    /// removes what was made.
    Create(Box<MachineSpec>),
    /// Starts it.
    Start,
    /// Stops it.
    Stop(StopMode),
    /// Deletes it.
    Delete {
        /// For good, where deletion is soft.
        purge: bool,
    },
    /// Does an action of its provider; the last line of output is the answer as JSON, unless that is null.
    Act {
        /// Its name.
        action: String,
        /// Its arguments.
        args: Json,
    },
}

impl Operation {
    /// Its name in the record.
    pub fn name(&self) -> &str {
        match self {
            Self::Create(_) => "create",
            Self::Start => "start",
            Self::Stop(_) => "stop",
            Self::Delete { .. } => "delete",
            Self::Act { action, .. } => action,
        }
    }

    /// The command that stands for it: what its record shows, and what a repeated request is known by (see
    /// [`Commands::is_repeat`](super::Commands::is_repeat)). Secrets are in no record.
    pub fn command(&self) -> CommandSpec {
        let mut secret = None;
        let args = match self {
            Self::Create(spec) => {
                secret = spec.user_data.as_ref();
                described(spec)
            }
            Self::Start => BTreeMap::new(),
            Self::Stop(mode) => {
                let mode = match mode {
                    StopMode::Graceful => "graceful",
                    StopMode::Force => "force",
                    StopMode::Suspend => "suspend",
                };
                BTreeMap::from([("mode".to_owned(), mode.to_owned())])
            }
            Self::Delete { purge } => BTreeMap::from([("purge".to_owned(), purge.to_string())]),
            Self::Act { args, .. } => plain(args),
        };
        let mut command = work_command(self.name(), args);
        if let Some(secret) = secret {
            // Variables count for telling requests apart, and are never recorded.
            command.env.insert("user_data".to_owned(), secret.expose_secret().to_owned().into());
        }
        command
    }

    fn check(&self, machine: &Machine, can: MachineCapabilities) -> Result<()> {
        let missing = match self {
            Self::Create(_) => (!can.create).then_some("create"),
            Self::Start => (!can.start).then_some("start"),
            Self::Stop(StopMode::Suspend) if can.stop && !can.stop_with_suspend => Some("stop_with_suspend"),
            Self::Stop(_) => (!can.stop).then_some("stop"),
            Self::Delete { .. } => (!can.delete).then_some("delete"),
            Self::Act { action, args } => {
                check_action(action)?;
                let actions = machine.actions();
                return ActionInfo::find(&actions, action)?.check(machine.target().machine_id(), args);
            }
        };
        match missing {
            None => Ok(()),
            Some(capability) => Err(Error::unsupported("operate")
                .with_context("capability", capability)
                .with_context("target", machine.target())),
        }
    }
}

pub(super) fn check_action(action: &str) -> Result<()> {
    if action.is_empty() || action.len() > ACTION_MAX || action.chars().any(char::is_control) {
        return Err(Error::invalid("action", "the name of an action"));
    }
    Ok(())
}

/// A command that is work of ours.
pub(super) fn work_command(name: &str, args: BTreeMap<String, String>) -> CommandSpec {
    let mut command = CommandSpec::new(Program::Action { name: name.to_owned(), args });
    command.grace = GRACE;
    command.drain = DRAIN;
    command.on_drop = OnDrop::Detach;
    command
}

/// Values as a person would write them.
pub(super) fn plain(args: &Json) -> BTreeMap<String, String> {
    let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    args.iter().map(|(key, value)| (key.clone(), text(value))).collect()
}

/// What is asked for, but for the secrets in it.
fn described(spec: &MachineSpec) -> BTreeMap<String, String> {
    // Field by field: a setting added to the type must not be forgotten here.
    let MachineSpec { name: _, image, cpus, memory_bytes, disk_bytes, region, user_data, labels, options } =
        spec;
    let mut args = plain(options);
    args = args.into_iter().map(|(key, value)| (format!("options.{key}"), value)).collect();
    args.extend(labels.iter().map(|(key, value)| (format!("labels.{key}"), value.clone())));
    let mut put = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            args.insert(key.to_owned(), value);
        }
    };
    put("image", image.clone());
    put("cpus", cpus.map(|n| n.to_string()));
    put("memory_bytes", memory_bytes.map(|n| n.to_string()));
    put("disk_bytes", disk_bytes.map(|n| n.to_string()));
    put("region", region.clone());
    put("user_data", user_data.as_ref().map(|_| "given".to_owned()));
    args
}

impl Machine {
    /// Does something to it that may take long, as a command of the fleet.
    ///
    /// # Errors
    /// `Unsupported` for what its provider cannot do and for hosts; `InvalidInput`; `RateLimited` when too many commands
    /// run. What goes wrong later is the command's: exit code 1, the error's text in its record, and as the last lines of
    /// output the error as JSON (`{"problem": …}`) and as text.
    ///
    /// # Cancellation
    /// Cancelling the command asks the provider to stop; a machine that was made meanwhile is removed again. The record
    /// ends when that is done, or after a minute.
    pub async fn operate(&self, operation: Operation) -> Result<RunningCommand> {
        self.operate_with(&OpContext::default(), CommandId::generate(), operation).await
    }

    /// As [`operate`](Self::operate), under the caller's id and on somebody's behalf.
    ///
    /// # Errors
    /// As for [`operate`](Self::operate); `AlreadyExists` when the id has been used.
    pub async fn operate_with(
        &self,
        cx: &OpContext,
        id: CommandId,
        operation: Operation,
    ) -> Result<RunningCommand> {
        let (provider, _) = self.lifecycle("operate")?;
        operation.check(self, provider.capabilities())?;
        let command = operation.command();
        let machine = self.clone();
        let task = Task::executor(
            false,
            Box::new(move |cx, _| {
                async move {
                    let result = machine.perform(&cx, operation).await;
                    machine.announce(&cx).await;
                    result
                }
                .boxed()
            }),
        );
        self.fleet().commands().spawn_task(self.target(), task, cx, id, command).await
    }

    async fn perform(&self, cx: &OpContext, operation: Operation) -> Result<Vec<String>> {
        let name = self.target();
        Ok(match operation {
            Operation::Create(spec) => {
                let info = self.create(cx, *spec).await?;
                let addresses: Vec<String> = info.addresses.iter().map(ToString::to_string).collect();
                let at = if addresses.is_empty() {
                    String::new()
                } else {
                    format!(" at {}", addresses.join(", "))
                };
                vec![format!("{name} is running{at}")]
            }
            Operation::Start => {
                self.start(cx).await?;
                vec![format!("{name} is started")]
            }
            Operation::Stop(mode) => {
                self.stop(cx, mode).await?;
                vec![format!("{name} is {}", if mode == StopMode::Suspend { "suspended" } else { "stopped" })]
            }
            Operation::Delete { purge } => {
                self.delete(cx, purge).await?;
                vec![format!("{name} is deleted")]
            }
            Operation::Act { action, args } => answer(&self.act(cx, &action, args).await?),
        })
    }

    async fn create(&self, cx: &OpContext, mut spec: MachineSpec) -> Result<crate::MachineInfo> {
        let (provider, id) = self.lifecycle("create")?;
        id.as_str().clone_into(&mut spec.name);
        // Not given up by dropping it: whoever makes a machine must learn what came of that to clean up after it.
        let made = provider.create(cx, spec).await?;
        let up = if cx.cancel.is_cancelled() {
            Err(Error::new(ErrorKind::Cancelled, "the caller cancelled").with_operation("create"))
        } else {
            self.fleet().tell(FleetEvent::Machine(self.target().clone(), Box::new(made)));
            self.wait_for(cx, MachineState::Running).await
        };
        let why = match up {
            Ok(info) if !cx.cancel.is_cancelled() => return Ok(info),
            // It came up in the very moment.
            Ok(_) => Error::new(ErrorKind::Cancelled, "the caller cancelled").with_operation("create"),
            // Left as it is, for a look at why.
            Err(e) if !cx.cancel.is_cancelled() => return Err(e),
            Err(e) => e,
        };
        cx.report(format!("removing {}", self.target()));
        let tidy = OpContext { actor: cx.actor.clone(), ..OpContext::default() }.with_timeout(CLEAN_UP_LIMIT);
        match self.delete(&tidy, true).await {
            Ok(()) => Err(why),
            Err(e) => {
                Err(Error::new(ErrorKind::Cancelled, "cancelled, but what was made could not be removed")
                    .with_operation("create")
                    .with_context("target", self.target())
                    .with_context("cause", e.message())
                    .with_source(e))
            }
        }
    }

    /// Tells the fleet's listeners how the machine is now.
    async fn announce(&self, cx: &OpContext) {
        let look = OpContext { actor: cx.actor.clone(), ..OpContext::default() }.with_timeout(LOOK_LIMIT);
        let fleet = self.fleet();
        match self.info(&look).await {
            Ok(info) => fleet.saw(self.target(), Some(info)),
            Err(e) if e.kind() == ErrorKind::NotFound => fleet.saw(self.target(), None),
            Err(error) => tracing::debug!(target = %self.target(), %error, "it does not say how it is"),
        }
    }
}

/// The lines for what an action answered.
pub(super) fn answer(value: &serde_json::Value) -> Vec<String> {
    if value.is_null() { Vec::new() } else { vec![value.to_string()] }
}
