//! Commands: what to run, what came of it.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::{Labels, RequestDigest, Target};
use crate::CommandId;

/// What an executor can do on its one machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ExecCapabilities {
    /// Programs can run on a pseudo-terminal.
    pub pty: bool,
    /// Programs can be given input.
    pub stdin: bool,
    /// Standard output and standard error arrive separately.
    pub split_output: bool,
    /// Signals can be sent.
    pub signals: bool,
    /// Programs can run as another user.
    pub run_as_user: bool,
    /// [`Executor::files`](crate::raw::Executor::files) works; otherwise files go over `spawn`.
    pub native_files: bool,
    /// [`Executor::open_session`](crate::raw::Executor::open_session) works; otherwise a shell on a PTY is used.
    pub native_sessions: bool,
    /// Commands outlive this process and can be adopted again.
    pub reattach: bool,
    /// [`Executor::connect`](crate::raw::Executor::connect) works.
    pub connect: bool,
    /// Named operations besides programs, e.g. `switch`.
    pub actions: Vec<String>,
}

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Program {
    /// A program and its arguments; no shell is involved.
    Argv(Vec<String>),
    /// A script for `/bin/sh -c`. Never build one from data.
    Shell(String),
    /// A named operation of the backend.
    Action {
        /// One of [`ExecCapabilities::actions`].
        name: String,
        /// Its arguments.
        args: BTreeMap<String, String>,
    },
}

impl Program {
    /// One line for people: arguments quoted as a POSIX shell would need them.
    pub fn display(&self) -> String {
        match self {
            Self::Argv(argv) => {
                argv.iter().map(|a| crate::sim::quote::quote(a)).collect::<Vec<_>>().join(" ")
            }
            Self::Shell(script) => script.clone(),
            Self::Action { name, args } => {
                let args = args.iter().map(|(k, v)| format!(" {k}={}", crate::sim::quote::quote(v)));
                std::iter::once(name.clone()).chain(args).collect()
            }
        }
    }
}

/// Terminal size in cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PtySize {
    /// Columns, 1 to 1000.
    pub cols: u16,
    /// Rows, 1 to 1000.
    pub rows: u16,
}

impl PtySize {
    /// Most columns or rows a terminal may have. Screens are kept in memory cell by cell: a size only a mistake or
    /// an attack asks for (65535 x 65535 would be a hundred gigabytes) must not be tried.
    pub const MAX_CELLS_PER_SIDE: u16 = 1000;

    /// The size, if a terminal can have it.
    ///
    /// # Errors
    /// `InvalidInput` naming `cols` or `rows`.
    pub fn check(self) -> crate::Result<Self> {
        for (field, n) in [("cols", self.cols), ("rows", self.rows)] {
            if n == 0 || n > Self::MAX_CELLS_PER_SIDE {
                return Err(crate::Error::invalid(field, format!("1 to {}", Self::MAX_CELLS_PER_SIDE)));
            }
        }
        Ok(self)
    }
}

impl Default for PtySize {
    /// 80 columns, 24 rows: the VT100.
    fn default() -> Self {
        Self { cols: 80, rows: 24 }
    }
}

/// How a process is wired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Io {
    /// Pipes.
    Pipes {
        /// Open a pipe for input; otherwise the program reads from `/dev/null`.
        stdin: bool,
        /// Put standard error on the output pipe, which keeps the true order; everything is
        /// [`Channel::Stdout`] then.
        merge: bool,
    },
    /// One pseudo-terminal; output arrives on [`Channel::Pty`].
    Pty(PtySize),
}

impl Default for Io {
    /// Output on two pipes, no input.
    fn default() -> Self {
        Self::Pipes { stdin: false, merge: false }
    }
}

/// What happens when the replay window is full and a stream is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Overflow {
    /// Forget the oldest bytes. A stream that is behind reads the durable log if there is one, else it sees
    /// [`CommandEvent::Gap`]. The process is never slowed.
    #[default]
    DropOldest,
    /// Stop reading from the process while any attached stream is a window behind, and before the first one
    /// attaches. It lets go when the last stream leaves. Streams of [`watch`](crate::CommandHandle::watch) do not
    /// count.
    Block,
}

/// What happens when the owning handle is dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OnDrop {
    /// End the command: TERM (HUP on a PTY), `grace`, KILL.
    #[default]
    Kill,
    /// Let it run on under the fleet's supervisor.
    Detach,
}

/// A command to run: `CommandSpec::argv(["ls", "-l"]).with_cwd("/tmp")`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CommandSpec {
    /// What to run.
    pub program: Program,
    /// Working directory; default: the executor's home.
    pub cwd: Option<String>,
    /// Variables to set. The values count as secrets and are never recorded.
    pub env: BTreeMap<String, SecretString>,
    /// Start from an empty environment instead of the executor's.
    pub clear_env: bool,
    /// Run as this user.
    pub user: Option<String>,
    /// How it is wired.
    pub io: Io,
    /// End it after this long: `Failed`, reason `TimedOut`.
    pub timeout: Option<Duration>,
    /// Time between the polite signal and KILL. Default 5 s.
    pub grace: Duration,
    /// How long to wait for output that descendants still hold open after the leader's end. Default 200 ms.
    pub drain: Duration,
    /// Size of the replay window in bytes. Default 1 MiB.
    pub replay_bytes: usize,
    /// What happens when a stream is a window behind.
    pub overflow: Overflow,
    /// What happens when the owner is dropped.
    pub on_drop: OnDrop,
    /// Safe to run twice; the only thing that lets [`RetryLayer`](crate::layers::RetryLayer) spawn again.
    pub idempotent: bool,
    /// Labels of the record.
    pub labels: Labels,
}

impl CommandSpec {
    /// Any program with default settings.
    pub fn new(program: Program) -> Self {
        Self {
            program,
            cwd: None,
            env: BTreeMap::new(),
            clear_env: false,
            user: None,
            io: Io::default(),
            timeout: None,
            grace: Duration::from_secs(5),
            drain: Duration::from_millis(200),
            replay_bytes: 1 << 20,
            overflow: Overflow::default(),
            on_drop: OnDrop::default(),
            idempotent: false,
            labels: Labels::new(),
        }
    }

    /// Runs a program without a shell.
    pub fn argv<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self::new(Program::Argv(argv.into_iter().map(Into::into).collect()))
    }

    /// Runs a POSIX shell script. Never build the script from data: pass data as arguments or variables.
    pub fn shell(script: impl Into<String>) -> Self {
        Self::new(Program::Shell(script.into()))
    }

    /// Sets the working directory.
    #[must_use]
    pub fn with_cwd(mut self, cwd: impl Into<String>) -> Self {
        self.cwd = Some(cwd.into());
        self
    }

    /// Sets one variable.
    #[must_use]
    pub fn with_env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), SecretString::from(value.into()));
        self
    }

    /// Starts from an empty environment.
    #[must_use]
    pub fn with_clear_env(mut self) -> Self {
        self.clear_env = true;
        self
    }

    /// Runs as `user`.
    #[must_use]
    pub fn with_user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Sets the wiring.
    #[must_use]
    pub fn with_io(mut self, io: Io) -> Self {
        self.io = io;
        self
    }

    /// Opens a pipe for input.
    #[must_use]
    pub fn with_stdin(self) -> Self {
        self.with_io(Io::Pipes { stdin: true, merge: false })
    }

    /// Runs on a pseudo-terminal.
    #[must_use]
    pub fn with_pty(self, size: PtySize) -> Self {
        self.with_io(Io::Pty(size))
    }

    /// Sets the hard time limit.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets the time between the polite signal and KILL.
    #[must_use]
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Sets the replay window and what happens when it is full.
    #[must_use]
    pub fn with_replay(mut self, bytes: usize, overflow: Overflow) -> Self {
        self.replay_bytes = bytes;
        self.overflow = overflow;
        self
    }

    /// Sets what happens when the owner is dropped.
    #[must_use]
    pub fn with_on_drop(mut self, on_drop: OnDrop) -> Self {
        self.on_drop = on_drop;
        self
    }

    /// Says that running it twice does no harm.
    #[must_use]
    pub fn with_idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// Adds a label to the record.
    #[must_use]
    pub fn with_label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }
}

/// Position in a command's output: bytes of all channels, counted in arrival order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offset(pub u64);

impl std::fmt::Display for Offset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Where bytes came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Channel {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// The terminal.
    Pty,
    /// Lines the backend itself adds, such as progress of creating a machine.
    Log,
}

/// A piece of output. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputChunk {
    /// Position of the first byte.
    pub offset: Offset,
    /// Where it came from.
    pub channel: Channel,
    /// When it was read from the process.
    pub at: Timestamp,
    /// The bytes, as the program wrote them; not always UTF-8.
    pub data: Bytes,
}

impl OutputChunk {
    /// Position after the last byte.
    pub fn end(&self) -> Offset {
        Offset(self.offset.0.saturating_add(self.data.len() as u64))
    }
}

/// Item of a [`CommandStream`](crate::CommandStream).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum CommandEvent {
    /// Bytes.
    Output(OutputChunk),
    /// Bytes `from..to` existed but are no longer kept anywhere.
    Gap {
        /// First missing byte.
        from: Offset,
        /// First byte that is there again.
        to: Offset,
    },
    /// The command changed state.
    State(CommandState),
    /// The end: exactly once, always last.
    Exited(ExitStatus),
}

/// Life of a command. `Lost` is not final: a returning agent may still settle it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CommandState {
    /// Recorded, not started.
    Queued,
    /// Started.
    Running,
    /// Ended with code 0.
    Succeeded,
    /// Ended otherwise, could not start, or ran into its time limit.
    Failed,
    /// Ended because somebody asked.
    Cancelled,
    /// Nobody knows: its supervisor vanished.
    Lost,
}

impl CommandState {
    /// All states.
    pub const ALL: [Self; 6] =
        [Self::Queued, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled, Self::Lost];

    /// No further transition is possible.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// Waiting for the command returns here: final states and `Lost`.
    pub fn is_settled(self) -> bool {
        self.is_final() || self == Self::Lost
    }

    /// The whole state machine.
    pub fn can_become(self, next: Self) -> bool {
        use CommandState::{Cancelled, Failed, Lost, Queued, Running, Succeeded};
        matches!(
            (self, next),
            (Queued, Running | Failed | Cancelled | Lost)
                | (Running, Succeeded | Failed | Cancelled | Lost)
                | (Lost, Running | Succeeded | Failed | Cancelled)
        )
    }

    /// Stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
        }
    }
}

impl std::fmt::Display for CommandState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ExitKind {
    /// It returned this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// The transport never told us.
    Unknown,
}

/// Why fleetcore ended a command, if it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EndReason {
    /// Its time limit passed.
    TimedOut,
    /// Somebody asked.
    Requested,
    /// The owning handle was dropped.
    OwnerDropped,
    /// The fleet was shut down.
    Shutdown,
    /// The agent's lease ran out.
    LeaseExpired,
}

/// Final word on a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ExitStatus {
    /// How the leader ended.
    pub kind: ExitKind,
    /// Why, if fleetcore ended it.
    pub reason: Option<EndReason>,
    /// A descendant still held the output open after `drain`.
    pub leaked: bool,
}

impl ExitStatus {
    /// An end by itself.
    pub fn new(kind: ExitKind) -> Self {
        Self { kind, reason: None, leaked: false }
    }

    /// An end that fleetcore brought about.
    #[must_use]
    pub fn with_reason(mut self, reason: Option<EndReason>) -> Self {
        self.reason = reason;
        self
    }

    /// Sets whether a descendant still held the output open.
    #[must_use]
    pub fn with_leaked(mut self, leaked: bool) -> Self {
        self.leaked = leaked;
        self
    }

    /// Code 0 and not ended by fleetcore.
    pub fn success(&self) -> bool {
        self.kind == ExitKind::Code(0) && self.reason.is_none()
    }

    /// The state this end settles a record to.
    pub fn state(&self) -> CommandState {
        match (self.reason, self.kind) {
            (Some(EndReason::TimedOut), _) => CommandState::Failed,
            // Nobody ended it, it only cannot be seen any more.
            (Some(EndReason::LeaseExpired), ExitKind::Unknown) => CommandState::Lost,
            (Some(_), _) => CommandState::Cancelled,
            (None, ExitKind::Code(0)) => CommandState::Succeeded,
            (None, ExitKind::Code(_) | ExitKind::Signal(_)) => CommandState::Failed,
            (None, ExitKind::Unknown) => CommandState::Lost,
        }
    }
}

/// POSIX signals by name; their numbers differ between platforms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Signal {
    /// SIGHUP
    Hangup,
    /// SIGINT
    Interrupt,
    /// SIGQUIT
    Quit,
    /// SIGTERM
    Terminate,
    /// SIGKILL
    Kill,
    /// SIGSTOP
    Stop,
    /// SIGCONT
    Continue,
    /// SIGUSR1
    User1,
    /// SIGUSR2
    User2,
}

/// What is kept of a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CommandRecord {
    /// Its id.
    pub id: CommandId,
    /// Where it runs.
    pub target: Target,
    /// What runs. Variables are not kept, they may be secret.
    pub program: Program,
    /// Working directory it was given.
    pub cwd: Option<String>,
    /// Initial terminal size, when it runs on one.
    pub pty: Option<PtySize>,
    /// Who started it.
    pub actor: Option<String>,
    /// Its labels.
    pub labels: Labels,
    /// What the whole request was, to recognise a repeat; `None` in records of a store without a
    /// [key](crate::CommandStore::request_key) and in old ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestDigest>,
    /// Its state.
    pub state: CommandState,
    /// How it ended.
    pub exit: Option<ExitStatus>,
    /// Why it could not start or was lost, for people.
    pub error: Option<String>,
    /// End of its output; up to date once settled.
    pub output_end: Offset,
    /// When it was recorded.
    pub created_at: Timestamp,
    /// When it started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Goes up with every write; the compare-and-set token.
    pub revision: u64,
}

impl CommandRecord {
    /// The record of a command that is about to start: `Queued`, revision 1.
    pub fn new(id: CommandId, target: Target, spec: &CommandSpec, actor: Option<String>) -> Self {
        Self {
            id,
            target,
            program: spec.program.clone(),
            cwd: spec.cwd.clone(),
            pty: if let Io::Pty(size) = spec.io { Some(size) } else { None },
            actor,
            labels: spec.labels.clone(),
            request: None,
            state: CommandState::Queued,
            exit: None,
            error: None,
            output_end: Offset(0),
            created_at: Timestamp::now(),
            started_at: None,
            ended_at: None,
            revision: 1,
        }
    }

    /// Sets what the whole request was.
    #[must_use]
    pub fn with_request(mut self, request: Option<RequestDigest>) -> Self {
        self.request = request;
        self
    }

    /// Whether what is kept here is what a request for `spec` on `target` would leave. Much of a request is not kept:
    /// see [`Commands::is_repeat`](crate::Commands::is_repeat).
    pub fn resembles(&self, target: &Target, spec: &CommandSpec) -> bool {
        let pty = if let Io::Pty(size) = spec.io { Some(size) } else { None };
        self.target == *target
            && self.program == spec.program
            && self.cwd == spec.cwd
            && self.pty == pty
            && self.labels == spec.labels
    }

    /// The record after `change`, with a new revision.
    ///
    /// # Errors
    /// `InvalidState` when the state machine does not allow it.
    pub fn apply(&self, change: &StateChange) -> crate::Result<Self> {
        if !self.state.can_become(change.to) {
            return Err(crate::Error::new(crate::ErrorKind::InvalidState, "state change is not allowed")
                .with_context("command", self.id)
                .with_context("from", self.state)
                .with_context("to", change.to));
        }
        let mut next = self.clone();
        next.state = change.to;
        next.revision += 1;
        match change.to {
            CommandState::Running => {
                next.started_at = next.started_at.or(Some(change.at));
                // Taken up again: why it was thought lost does not matter any more.
                (next.ended_at, next.exit, next.error) = (None, None, None);
            }
            _ => next.ended_at = Some(change.at),
        }
        next.exit = change.exit.or(next.exit);
        next.error = change.error.clone().or(next.error);
        next.output_end = next.output_end.max(change.output_end);
        Ok(next)
    }
}

/// One step of the state machine.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct StateChange {
    /// The new state.
    pub to: CommandState,
    /// How it ended.
    pub exit: Option<ExitStatus>,
    /// Why, for people.
    pub error: Option<String>,
    /// End of output at that moment.
    pub output_end: Offset,
    /// When.
    pub at: Timestamp,
}

impl StateChange {
    /// A step to `to`, dated now.
    pub fn to(to: CommandState) -> Self {
        Self { to, exit: None, error: None, output_end: Offset(0), at: Timestamp::now() }
    }

    /// The step that ends a command.
    pub fn ended(exit: ExitStatus, output_end: Offset) -> Self {
        Self { exit: Some(exit), output_end, ..Self::to(exit.state()) }
    }

    /// Sets the text for people.
    #[must_use]
    pub fn with_error(mut self, error: impl Into<String>) -> Self {
        self.error = Some(error.into());
        self
    }
}

/// Restricts a list of records, which is in the order of creation, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommandFilter {
    /// Only on this target.
    pub target: Option<Target>,
    /// Only in one of these states; empty means any.
    pub states: Vec<CommandState>,
    /// Only records that carry all of these.
    pub labels: Labels,
    /// Only records whose program, as displayed, contains this text.
    pub search: Option<String>,
    /// Only records created at or after this.
    pub since: Option<Timestamp>,
    /// Only records created before this one: the last id of the previous page.
    pub before: Option<CommandId>,
    /// At most this many; `None` means the store's default of 100.
    pub limit: Option<usize>,
}

impl CommandFilter {
    /// Whether a record passes (paging aside).
    pub fn matches(&self, record: &CommandRecord) -> bool {
        self.target.as_ref().is_none_or(|t| *t == record.target)
            && (self.states.is_empty() || self.states.contains(&record.state))
            && self.labels.iter().all(|(k, v)| record.labels.get(k) == Some(v))
            && self.search.as_ref().is_none_or(|s| record.program.display().contains(s.as_str()))
            && self.since.is_none_or(|t| record.created_at >= t)
    }

    /// The page of `records` that this filter asks for: those that pass, newest first. Ids are chosen by clients
    /// and say nothing about the order; they only break ties.
    pub(crate) fn page<'a>(
        &self,
        records: impl Iterator<Item = &'a CommandRecord> + Clone,
        limit: usize,
    ) -> Vec<&'a CommandRecord> {
        let place = |r: &CommandRecord| (r.created_at, r.id);
        let end = self.before.map(|id| records.clone().find(|r| r.id == id).map(place));
        let mut page: Vec<_> =
            records.filter(|r| end.is_none_or(|end| Some(place(r)) < end) && self.matches(r)).collect();
        page.sort_unstable_by_key(|r| std::cmp::Reverse(place(r)));
        page.truncate(limit);
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn final_means_no_way_out() {
        for s in CommandState::ALL {
            assert_eq!(s.is_final(), !CommandState::ALL.iter().any(|n| s.can_become(*n)), "{s}");
        }
    }

    proptest! {
        #[test]
        fn random_walks_keep_records_consistent(steps in prop::collection::vec(0usize..6, 0..12)) {
            let spec = CommandSpec::argv(["true"]);
            let mut r = CommandRecord::new(CommandId::generate(), Target::local(), &spec, None);
            for s in steps {
                let to = CommandState::ALL[s];
                match r.apply(&StateChange::to(to)) {
                    Ok(next) => {
                        prop_assert!(r.state.can_become(to));
                        prop_assert_eq!(next.revision, r.revision + 1);
                        prop_assert_eq!(next.ended_at.is_some(), next.state.is_settled());
                        r = next;
                    }
                    Err(e) => {
                        prop_assert!(!r.state.can_become(to));
                        prop_assert_eq!(e.kind(), crate::ErrorKind::InvalidState);
                    }
                }
            }
        }
    }
}
