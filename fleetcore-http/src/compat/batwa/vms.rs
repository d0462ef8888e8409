//! Multipass on this host: the argument vectors of the contract, through the fleet's own host.

use std::{fmt, sync::Arc, time::Duration};

use axum::http::StatusCode;
use bytes::Bytes;
use fleetcore::{
    Channel, CommandId, CommandSpec, EndReason, Error, ErrorKind, ExitKind, Fleet, Json, LOCAL,
    MachineFilter, OpContext, Overflow, PtySize, Result, RunningCommand,
};
use futures::StreamExt as _;
use tokio::sync::Semaphore;

use super::{
    map::{self, Deed},
    wire::Create,
};

/// Scheme of the provider of the same machines.
pub(super) const PROVIDER: &str = "multipass";
/// Multipass processes at once, terminals apart. More wait their turn.
const AT_ONCE: usize = 16;
/// Longest a look may take.
const LOOK_LIMIT: Duration = Duration::from_secs(30);
/// Longest anything else may take, as in the original agent.
const DEED_LIMIT: Duration = Duration::from_secs(300);
/// Longest a launch may take: it may download an image.
const LAUNCH_LIMIT: Duration = Duration::from_secs(3600);
/// Most output of one call that is kept. A listing of a thousand instances has a quarter of a megabyte.
const OUTPUT_MAX: usize = 16 << 20;
/// Window between the program of a terminal and its browser; beyond that the program waits.
const TERMINAL_WINDOW: usize = 256 << 10;
/// How long a terminal is watched after its shell has ended, for what jobs left behind still say. The contract wants the
/// close within 100 ms.
const TERMINAL_DRAIN: Duration = Duration::from_millis(50);
/// Time between hanging up and killing, as in the original.
const TERMINAL_GRACE: Duration = Duration::from_secs(2);

/// Why Multipass did not do what was asked.
#[derive(Clone, Debug)]
pub(super) enum VmError {
    /// There is no such program.
    NotInstalled,
    /// It ended with another code than 0; what it said to that.
    Failed(String),
    /// It took too long.
    TimedOut,
    /// What it printed is no JSON.
    NotJson(String),
    /// The fleet could not run it.
    Fleet(Arc<Error>),
}

impl VmError {
    /// The text for a client.
    pub(super) fn text(&self, otherwise: &str) -> String {
        match self {
            Self::NotInstalled => map::NOT_INSTALLED.to_owned(),
            Self::Failed(stderr) => map::failure_text(stderr, otherwise),
            Self::TimedOut => map::TIMED_OUT.to_owned(),
            Self::NotJson(why) => format!("Failed to parse JSON: {why}"),
            Self::Fleet(error) => error.message().to_owned(),
        }
    }

    /// The status for a client.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Failed(stderr) if map::says_unknown(stderr) => StatusCode::NOT_FOUND,
            Self::Fleet(error) if error.kind() == ErrorKind::RateLimited => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// What a call printed.
#[derive(Clone, Debug, Default)]
pub(super) struct Printed {
    pub(super) code: Option<i32>,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

/// The instances of this host.
#[derive(Clone)]
pub(super) struct Vms {
    fleet: Fleet,
    program: Arc<str>,
    turns: Arc<Semaphore>,
}

impl fmt::Debug for Vms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vms").field("program", &self.program).finish_non_exhaustive()
    }
}

/// What a call printed that succeeded.
fn checked(printed: Printed) -> Result<Printed, VmError> {
    if printed.code == Some(0) {
        return Ok(printed);
    }
    Err(VmError::Failed(String::from_utf8_lossy(&printed.stderr).into_owned()))
}

impl Vms {
    pub(super) fn new(fleet: Fleet, program: impl Into<Arc<str>>) -> Self {
        Self { fleet, program: program.into(), turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// `multipass list --format json`, as printed.
    pub(super) async fn list(&self) -> Result<Bytes, VmError> {
        self.json(&["list", "--format", "json"]).await
    }

    /// `multipass info NAME --format json`, as printed. `name` has been checked.
    pub(super) async fn info(&self, name: &str) -> Result<Bytes, VmError> {
        self.json(&["info", name, "--format", "json"]).await
    }

    async fn json(&self, args: &[&str]) -> Result<Bytes, VmError> {
        let printed = self.successful(args, LOOK_LIMIT).await?;
        match serde_json::from_slice::<serde::de::IgnoredAny>(&printed.stdout) {
            Ok(_) => Ok(printed.stdout.trim_ascii().to_vec().into()),
            Err(e) => Err(VmError::NotJson(e.to_string())),
        }
    }

    /// Launches an instance for `actor`; gives the message for the client.
    pub(super) async fn create(&self, actor: Option<&str>, wanted: &Create) -> Result<String, VmError> {
        let cpus = wanted.cpus.to_string();
        let (name, memory, disk) = (wanted.name.as_str(), wanted.memory.as_str(), wanted.disk.as_str());
        let sizes = ["--name", name, "--cpus", &cpus, "--memory", memory, "--disk", disk];
        let args: Vec<&str> = ["launch", wanted.image.as_str()].into_iter().chain(sizes).collect();
        let printed = self.deed(actor, name, &args, LAUNCH_LIMIT).await;
        self.changed().await;
        Ok(Deed::Create.message(name, &printed?.stdout))
    }

    /// Starts, stops or deletes an instance for `actor`; gives the message for the client. `name` has been checked.
    pub(super) async fn act(&self, actor: Option<&str>, deed: Deed, name: &str) -> Result<String, VmError> {
        let args: &[&str] = match deed {
            // Not a global purge: other instances that could still be recovered are none of our business.
            Deed::Delete => &["delete", "--purge", name],
            Deed::Start => &["start", name],
            Deed::Stop => &["stop", name],
            Deed::Create => return Err(VmError::Fleet(Arc::new(Error::unsupported("create")))),
        };
        let printed = self.deed(actor, name, args, DEED_LIMIT).await;
        self.changed().await;
        Ok(deed.message(name, &printed?.stdout))
    }

    /// Tells the fleet's own provider of these machines, if it has one, so that what else this process shows is true at
    /// once.
    pub(super) async fn changed(&self) {
        let Ok(provider) = self.fleet.provider(PROVIDER) else { return };
        if let Err(error) = provider.act(&OpContext::default(), "refresh", Json::new()).await {
            tracing::debug!(%error, "the provider's list stays as it is");
        }
        self.announce();
    }

    /// Lets the fleet look at its machines, behind the caller's back: it tells its listeners what is different.
    pub(super) fn announce(&self) {
        let fleet = self.fleet.clone();
        if fleet.providers().is_empty() {
            return;
        }
        tokio::spawn(async move {
            // Bounded by the fleet itself. Failures are told to those who list; here there is nobody to tell.
            let _ = fleet.machines(&OpContext::default(), &MachineFilter::default()).await;
        });
    }

    async fn successful(&self, args: &[&str], limit: Duration) -> Result<Printed, VmError> {
        let printed = self.run(args.iter().map(|a| (*a).to_owned()).collect(), limit).await?;
        checked(printed)
    }

    /// Changes something: for somebody it is a command of the fleet, with a record and live output.
    async fn deed(
        &self,
        actor: Option<&str>,
        name: &str,
        args: &[&str],
        limit: Duration,
    ) -> Result<Printed, VmError> {
        let Some(actor) = actor else { return self.successful(args, limit).await };
        let failed = |e: Error| match e.kind() {
            ErrorKind::NotFound => VmError::NotInstalled,
            _ => VmError::Fleet(Arc::new(e)),
        };
        let _turn = self.turns.acquire().await;
        let spec = CommandSpec::argv(std::iter::once(&*self.program).chain(args.iter().copied()))
            .with_timeout(limit)
            .with_label("vm", name);
        let host = self.fleet.machine(LOCAL).map_err(|e| VmError::Fleet(Arc::new(e)))?;
        let cx = OpContext::for_actor(actor);
        let running = host.spawn_with(&cx, CommandId::generate(), spec).await.map_err(failed)?;
        let done = running.output().await.map_err(failed)?;
        if done.status.reason == Some(EndReason::TimedOut) {
            return Err(VmError::TimedOut);
        }
        let code = match done.status.kind {
            ExitKind::Code(code) => Some(code),
            _ => None,
        };
        checked(Printed { code, stdout: done.stdout, stderr: done.stderr })
    }

    /// Runs Multipass with these arguments to its end, with nothing to read. Dropping the future kills it.
    pub(super) async fn run(&self, args: Vec<String>, limit: Duration) -> Result<Printed, VmError> {
        let failed = |e: Error| match e.kind() {
            ErrorKind::NotFound => VmError::NotInstalled,
            _ => VmError::Fleet(Arc::new(e)),
        };
        let work = async {
            let _turn = self.turns.acquire().await;
            let cx = OpContext::default();
            let host = self.fleet.machine(LOCAL).map_err(|e| VmError::Fleet(Arc::new(e)))?;
            // Not a command of the fleet: looking at machines must not fill the list of what people ran.
            let executor = host.executor(&cx).await.map_err(failed)?;
            let spec = CommandSpec::argv(std::iter::once(self.program.to_string()).chain(args));
            let mut process = executor.spawn(&cx, CommandId::generate(), &spec).await.map_err(failed)?;
            let mut printed = Printed::default();
            while let Some(piece) = process.output.next().await {
                let (channel, data) = piece.map_err(failed)?;
                let kept = if channel == Channel::Stderr { &mut printed.stderr } else { &mut printed.stdout };
                let room = OUTPUT_MAX.saturating_sub(kept.len()).min(data.len());
                kept.extend_from_slice(data.get(..room).unwrap_or_default());
            }
            printed.code = match process.exit.await.map_err(failed)? {
                ExitKind::Code(code) => Some(code),
                _ => None,
            };
            Ok(printed)
        };
        tokio::time::timeout(limit, work).await.unwrap_or(Err(VmError::TimedOut))
    }

    /// A shell in an instance on a terminal. Dropping it hangs up. `name` has been checked.
    ///
    /// # Errors
    /// Those of the fleet.
    pub(super) async fn terminal(&self, actor: &str, name: &str, size: PtySize) -> Result<RunningCommand> {
        let mut spec = CommandSpec::argv([&*self.program, "shell", name])
            .with_pty(size)
            // A service without a terminal of its own would give a dumb one.
            .with_env("TERM", "xterm-256color")
            .with_grace(TERMINAL_GRACE)
            .with_replay(TERMINAL_WINDOW, Overflow::Block)
            .with_label("vm", name);
        spec.drain = TERMINAL_DRAIN;
        let cx = OpContext::for_actor(actor);
        self.fleet.machine(LOCAL)?.spawn_with(&cx, CommandId::generate(), spec).await
    }
}
