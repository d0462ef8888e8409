//! JSON of the native API as a client sees it.
//!
//! Answers are read leniently (unknown fields are skipped), so an older client works with a newer server; the
//! server refuses unknown fields in requests.

use std::collections::BTreeMap;

use fleetcore::{
    Channel, CommandRecord, CommandSpec, CommandState, EndReason, Error, ErrorKind, ExecCapabilities,
    ExitKind, ExitStatus, FileInfo, FileKind, HandedBack, Io, Labels, MachineState, Offset, Overflow,
    Program, PtySize, Result, Role, Scope, SessionInfo, Target as TargetName, UserRecord,
};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

/// One page of a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Page<T> {
    /// The entries.
    pub items: Vec<T>,
    /// What to give as `before` for the next page; `None` on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What a server says about itself without being asked who you are.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Info {
    /// Always `fleetcore`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Whether requests need credentials.
    #[serde(default)]
    pub login_required: bool,
}

/// Who the server takes the caller for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Me {
    /// Login name.
    pub user: String,
    /// Role of the user.
    pub role: Role,
    /// What these credentials may do.
    #[serde(default)]
    pub scopes: Vec<Scope>,
    /// `login` or `token`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// When these credentials stop working.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
}

/// An API token, without its secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Token {
    /// Its public id.
    pub id: String,
    /// The name its owner chose.
    pub name: String,
    /// Its owner.
    pub user: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it stops working.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    /// Last use.
    #[serde(default)]
    pub last_used_at: Option<Timestamp>,
}

/// A token that was just made: the only time its secret is shown.
#[derive(Clone, Debug, Deserialize)]
#[non_exhaustive]
pub struct NewToken {
    /// The token.
    #[serde(flatten)]
    pub token: Token,
    /// The secret to put into `Authorization: Bearer`.
    pub secret: SecretString,
}

/// A user.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct User {
    /// Login name.
    pub name: String,
    /// What the user may do.
    pub role: Role,
    /// Whether the user is locked out.
    #[serde(default)]
    pub disabled: bool,
    /// When the user was made.
    pub created_at: Timestamp,
}

impl From<&UserRecord> for User {
    fn from(u: &UserRecord) -> Self {
        Self { name: u.name.to_string(), role: u.role, disabled: u.disabled, created_at: u.created_at }
    }
}

/// What to change on a user; `None` leaves it.
#[derive(Clone, Debug, Default)]
pub struct UserChange {
    /// New role.
    pub role: Option<Role>,
    /// New password, at least 12 characters.
    pub password: Option<SecretString>,
    /// Lock out or let in.
    pub disabled: Option<bool>,
}

/// One line of the audit log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Audit {
    /// Position in the log.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What, e.g. `command.create`.
    pub action: String,
    /// To what.
    pub target: String,
    /// `ok`, or the code of the error.
    pub outcome: String,
    /// More, for people.
    #[serde(default)]
    pub detail: String,
}

/// Somewhere things can run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Target {
    /// Its name in the target grammar.
    pub target: String,
    /// The provider it belongs to.
    pub provider: String,
    /// Its state.
    pub state: MachineState,
    /// The backend's own word for the state.
    #[serde(default)]
    pub native_state: String,
    /// Its addresses.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Its labels.
    #[serde(default)]
    pub labels: Labels,
    /// When it was made.
    #[serde(default)]
    pub created_at: Option<Timestamp>,
    /// What can be done there; `None` when it is not known.
    #[serde(default)]
    pub capabilities: Option<ExecCapabilities>,
    /// Facts about the host.
    #[serde(default)]
    pub host: Option<Host>,
    /// Newest load figures.
    #[serde(default)]
    pub load: Option<Load>,
}

impl Target {
    /// The target as a fleet in this process lists it, without host facts.
    pub fn from_machine(
        target: &TargetName,
        provider: &str,
        info: &fleetcore::MachineInfo,
        capabilities: Option<ExecCapabilities>,
    ) -> Self {
        Self {
            target: target.to_string(),
            provider: provider.to_owned(),
            state: info.state,
            native_state: info.native_state.clone(),
            addresses: info.addresses.iter().map(ToString::to_string).collect(),
            labels: info.labels.clone(),
            created_at: info.created_at,
            capabilities,
            host: None,
            load: None,
        }
    }
}

/// Facts about a host.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Host {
    /// Its name.
    pub hostname: String,
    /// Operating system and version.
    pub os: String,
    /// Kernel version.
    pub kernel: String,
    /// Processor architecture.
    pub arch: String,
    /// Logical processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Seconds since boot.
    pub uptime_s: u64,
}

/// Load of a target at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Load {
    /// When it was measured.
    pub at: Timestamp,
    /// Busy share of all processors, 0 to 100.
    #[serde(default)]
    pub cpu_percent: f64,
    /// Memory in use, in bytes.
    #[serde(default)]
    pub memory_used_bytes: u64,
    /// Memory, in bytes.
    #[serde(default)]
    pub memory_total_bytes: u64,
    /// Swap in use, in bytes.
    #[serde(default)]
    pub swap_used_bytes: u64,
    /// Load average over 1 minute.
    #[serde(default)]
    pub load1: f64,
    /// Load average over 5 minutes.
    #[serde(default)]
    pub load5: f64,
    /// Load average over 15 minutes.
    #[serde(default)]
    pub load15: f64,
    /// Disk space in use, in bytes.
    #[serde(default)]
    pub disk_used_bytes: u64,
    /// Disk space, in bytes.
    #[serde(default)]
    pub disk_total_bytes: u64,
    /// Bytes received per second.
    #[serde(default)]
    pub net_rx_bytes_per_s: f64,
    /// Bytes sent per second.
    #[serde(default)]
    pub net_tx_bytes_per_s: f64,
}

/// Answer of a ping.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Pong {
    /// Whether the target answered.
    pub ok: bool,
    /// How long it took, in milliseconds.
    #[serde(default)]
    pub latency_ms: Option<f64>,
}

/// How a command or shell ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Exit {
    /// Exit code, when it returned one.
    #[serde(default)]
    pub code: Option<i32>,
    /// Signal that ended it.
    #[serde(default)]
    pub signal: Option<i32>,
    /// Why fleetcore ended it, if it did.
    #[serde(default)]
    pub reason: Option<EndReason>,
    /// A descendant still held the output open.
    #[serde(default)]
    pub leaked: bool,
}

impl From<ExitStatus> for Exit {
    fn from(s: ExitStatus) -> Self {
        let (code, signal) = match s.kind {
            ExitKind::Code(c) => (Some(c), None),
            ExitKind::Signal(n) => (None, Some(n)),
            _ => (None, None),
        };
        Self { code, signal, reason: s.reason, leaked: s.leaked }
    }
}

impl From<&Exit> for ExitStatus {
    fn from(e: &Exit) -> Self {
        let kind = match (e.code, e.signal) {
            (_, Some(n)) => ExitKind::Signal(n),
            (Some(c), None) => ExitKind::Code(c),
            (None, None) => ExitKind::Unknown,
        };
        Self::new(kind).with_reason(e.reason).with_leaked(e.leaked)
    }
}

/// A command.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Command {
    /// Its id.
    pub id: String,
    /// Where it runs.
    pub target: String,
    /// Program and arguments, when it was given so.
    #[serde(default)]
    pub argv: Option<Vec<String>>,
    /// Shell script, when it was given so.
    #[serde(default)]
    pub shell: Option<String>,
    /// One line for people.
    pub display: String,
    /// Working directory it was given.
    #[serde(default)]
    pub cwd: Option<String>,
    /// Terminal size, when it runs on a terminal.
    #[serde(default)]
    pub pty: Option<PtySize>,
    /// Who started it.
    #[serde(default)]
    pub actor: Option<String>,
    /// Its labels.
    #[serde(default)]
    pub labels: Labels,
    /// Its state.
    pub state: CommandState,
    /// How it ended.
    #[serde(default)]
    pub exit: Option<Exit>,
    /// Why it could not start or was lost.
    #[serde(default)]
    pub error: Option<String>,
    /// Bytes of output so far.
    #[serde(default)]
    pub output_bytes: u64,
    /// When it was recorded.
    pub created_at: Timestamp,
    /// When it started.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default)]
    pub ended_at: Option<Timestamp>,
    /// From start to end, in milliseconds.
    #[serde(default)]
    pub duration_ms: Option<f64>,
    /// Output, when the request asked to wait for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<WaitOutput>,
}

impl From<&CommandRecord> for Command {
    fn from(r: &CommandRecord) -> Self {
        let (argv, shell) = match &r.program {
            Program::Argv(argv) => (Some(argv.clone()), None),
            Program::Shell(script) => (None, Some(script.clone())),
            _ => (None, None),
        };
        let duration_ms = r
            .started_at
            .zip(r.ended_at)
            .map(|(from, to)| (to.duration_since(from).as_secs_f64() * 1e3).max(0.0));
        Self {
            id: r.id.to_string(),
            target: r.target.to_string(),
            argv,
            shell,
            display: r.program.display(),
            cwd: r.cwd.clone(),
            pty: r.pty,
            actor: r.actor.clone(),
            labels: r.labels.clone(),
            state: r.state,
            exit: r.exit.map(Exit::from),
            error: r.error.clone(),
            output_bytes: r.output_end.0,
            created_at: r.created_at,
            started_at: r.started_at,
            ended_at: r.ended_at,
            duration_ms,
            output: None,
        }
    }
}

/// Output that came with a waited-for command.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WaitOutput {
    /// Standard output (or the terminal's).
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Whether something was left out.
    #[serde(default)]
    pub truncated: bool,
}

/// A command to create. The server owns it; it outlives the request.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct NewCommand {
    /// Id of the client's choice; sending the same request twice is harmless then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Where to run it.
    pub target: String,
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
    #[serde(skip_serializing_if = "BTreeMap::is_empty", serialize_with = "expose")]
    pub env: BTreeMap<String, SecretString>,
    /// Start from an empty environment.
    pub clear_env: bool,
    /// Run as this user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Open a pipe for input.
    pub stdin: bool,
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
    /// How long to wait for output that descendants hold open, in milliseconds.
    pub drain_ms: u64,
    /// What happens when a reader is a window behind.
    pub overflow: Overflow,
    /// Size of the replay window, in bytes.
    pub replay_bytes: usize,
    /// Labels of the record.
    pub labels: Labels,
    /// Wait for the end and return output with the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<Wait>,
}

/// How long a request waits for a command, and how much output it brings.
#[derive(Clone, Debug, Serialize)]
pub struct Wait {
    /// At most this long, in milliseconds.
    pub timeout_ms: u64,
    /// At most this many bytes of output.
    pub output_bytes: usize,
}

/// Values of variables are secrets everywhere but in the request itself.
fn expose<S: serde::Serializer>(env: &BTreeMap<String, SecretString>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(env.iter().map(|(k, v)| (k, v.expose_secret())))
}

/// Whole milliseconds of a duration, rounded up so that a short limit never becomes none.
pub(super) fn millis(d: std::time::Duration) -> u64 {
    u64::try_from(d.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

impl NewCommand {
    /// The request that runs `spec` on `target`. What a client cannot ask for over HTTP (`on_drop`) is left out:
    /// the server owns the command.
    ///
    /// # Errors
    /// `Unsupported` for a program that is neither argv nor shell.
    pub fn from_spec(target: &TargetName, spec: &CommandSpec) -> Result<Self> {
        let (argv, shell) = match &spec.program {
            Program::Argv(argv) => (Some(argv.clone()), None),
            Program::Shell(script) => (None, Some(script.clone())),
            _ => return Err(Error::unsupported("client.create_command")),
        };
        let (stdin, merge, pty) = match spec.io {
            Io::Pipes { stdin, merge } => (stdin, merge, None),
            Io::Pty(size) => (false, false, Some(size)),
            _ => return Err(Error::unsupported("client.create_command")),
        };
        Ok(Self {
            id: None,
            target: target.to_string(),
            argv,
            shell,
            cwd: spec.cwd.clone(),
            env: spec.env.clone(),
            clear_env: spec.clear_env,
            user: spec.user.clone(),
            stdin,
            merge,
            pty,
            timeout_ms: spec.timeout.map(millis),
            grace_ms: millis(spec.grace),
            drain_ms: millis(spec.drain),
            overflow: spec.overflow,
            replay_bytes: spec.replay_bytes,
            labels: spec.labels.clone(),
            wait: None,
        })
    }
}

/// Restricts a list of commands.
#[derive(Clone, Debug, Default)]
pub struct CommandQuery {
    /// Only on this target.
    pub target: Option<String>,
    /// Only in one of these states.
    pub states: Vec<CommandState>,
    /// Only with all of these labels.
    pub labels: Labels,
    /// Only those whose display contains this text.
    pub search: Option<String>,
    /// Only those created at or after this.
    pub since: Option<Timestamp>,
    /// Only those older than this id.
    pub before: Option<String>,
    /// At most this many, 1 to 1000.
    pub limit: Option<usize>,
}

impl CommandQuery {
    pub(super) fn pairs(&self) -> Vec<(&'static str, String)> {
        let mut q = Vec::new();
        q.extend(self.target.iter().map(|t| ("target", t.clone())));
        q.extend(self.states.iter().map(|s| ("state", s.to_string())));
        q.extend(self.labels.iter().map(|(k, v)| ("label", format!("{k}={v}"))));
        q.extend(self.search.iter().map(|s| ("search", s.clone())));
        q.extend(self.since.iter().map(|s| ("since", s.to_string())));
        q.extend(self.before.iter().map(|s| ("before", s.clone())));
        q.extend(self.limit.iter().map(|n| ("limit", n.to_string())));
        q
    }
}

/// A session.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Session {
    /// Its name.
    pub id: String,
    /// Where it runs.
    pub target: String,
    /// The shell.
    #[serde(default)]
    pub shell: Vec<String>,
    /// The shell's directory, when it has told.
    #[serde(default)]
    pub cwd: Option<String>,
    /// Columns.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
    /// Whether a `run` is going on.
    #[serde(default)]
    pub busy: bool,
    /// Number of `run` calls so far.
    #[serde(default)]
    pub turns: u64,
    /// Bytes of output so far.
    #[serde(default)]
    pub output_bytes: u64,
    /// When it was opened.
    pub created_at: Timestamp,
    /// Last input or output.
    pub active_at: Timestamp,
    /// Attached terminals.
    #[serde(default)]
    pub viewers: u64,
    /// How the shell ended, once it has.
    #[serde(default)]
    pub ended: Option<Exit>,
    /// Labels.
    #[serde(default)]
    pub labels: Labels,
}

impl Session {
    /// The session as a fleet in this process knows it.
    pub fn from_info(target: &TargetName, info: &SessionInfo, viewers: usize) -> Self {
        Self {
            id: info.id.to_string(),
            target: target.to_string(),
            shell: info.shell.clone(),
            cwd: info.cwd.clone(),
            cols: info.size.cols,
            rows: info.size.rows,
            busy: info.busy,
            turns: info.turns,
            output_bytes: info.output_end.0,
            created_at: info.created_at,
            active_at: info.active_at,
            viewers: viewers as u64,
            ended: info.ended.map(Exit::from),
            labels: info.labels.clone(),
        }
    }
}

/// A session to open.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct NewSession {
    /// Its name; the server chooses one when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Where it runs.
    pub target: String,
    /// The shell and its arguments; empty means the default.
    pub shell: Vec<String>,
    /// First working directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Variables to set.
    #[serde(serialize_with = "expose")]
    pub env: BTreeMap<String, SecretString>,
    /// Run the shell as this user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Columns.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
    /// Close it after this many idle seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout_s: Option<u64>,
    /// Lines kept above the screen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scrollback_lines: Option<usize>,
    /// Labels.
    pub labels: Labels,
}

impl NewSession {
    /// The default shell on `target`.
    pub fn new(target: &TargetName, size: PtySize) -> Self {
        Self {
            id: None,
            target: target.to_string(),
            shell: vec![],
            cwd: None,
            env: BTreeMap::new(),
            user: None,
            cols: size.cols,
            rows: size.rows,
            idle_timeout_s: None,
            scrollback_lines: None,
            labels: Labels::new(),
        }
    }
}

impl NewSession {
    /// What `spec` asks for, on `target`. Commands to run first are the caller's business.
    ///
    /// # Errors
    /// `InvalidInput` for an idle timeout below a second.
    pub fn from_spec(target: &TargetName, spec: &fleetcore::SessionSpec) -> Result<Self> {
        let idle_timeout_s = match spec.idle_timeout {
            Some(idle) if idle.as_secs() == 0 => return Err(Error::invalid("idle_timeout", "at least 1 s")),
            other => other.map(|idle| idle.as_secs()),
        };
        Ok(Self {
            id: Some(spec.id.to_string()),
            target: target.to_string(),
            shell: spec.shell.clone(),
            cwd: spec.cwd.clone(),
            env: spec.env.clone(),
            user: spec.user.clone(),
            cols: spec.size.cols,
            rows: spec.size.rows,
            idle_timeout_s,
            scrollback_lines: Some(spec.scrollback_lines),
            labels: spec.labels.clone(),
        })
    }
}

/// When a session hands control back although its command runs on.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct SessionWait {
    /// After this long in total, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft_timeout_ms: Option<u64>,
    /// After this long without output, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quiet_timeout_ms: Option<u64>,
    /// When one of these texts appears.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub expect: Vec<String>,
    /// At most this many bytes of output in the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_bytes: Option<usize>,
}

impl From<&fleetcore::WaitPolicy> for SessionWait {
    fn from(w: &fleetcore::WaitPolicy) -> Self {
        Self {
            soft_timeout_ms: w.soft_timeout.map(millis),
            quiet_timeout_ms: w.quiet_timeout.map(millis),
            expect: w.expect.clone(),
            output_bytes: None,
        }
    }
}

/// Answer of one wait on a session.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Turn {
    /// Counts `run` calls, from 1.
    pub seq: u64,
    /// First byte of the turn.
    pub from: u64,
    /// End of the turn, so far.
    pub to: u64,
    /// Where the command stands.
    pub status: TurnState,
    /// Exit code, once completed.
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// Why control came back while it runs on.
    #[serde(default)]
    pub handed_back: Option<TurnHandedBack>,
    /// Which of the expected texts appeared.
    #[serde(default)]
    pub expected_index: Option<usize>,
    /// The shell's directory.
    #[serde(default)]
    pub cwd: Option<String>,
    /// Text of the turn.
    #[serde(default)]
    pub output: String,
    /// Whether the middle of the text was left out.
    #[serde(default)]
    pub truncated: bool,
}

/// Text of a part of a session's output.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TurnText {
    /// The text.
    pub text: String,
}

/// Where a command in a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TurnState {
    /// The shell is ready again.
    Completed,
    /// Control came back while the command runs on.
    Running,
    /// The shell itself ended.
    SessionEnded,
}

/// Why control came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TurnHandedBack {
    /// The soft timeout passed.
    SoftTimeout,
    /// No output for the quiet timeout.
    Quiet,
    /// An expected text appeared.
    Expected,
}

impl From<&Turn> for fleetcore::TurnStatus {
    fn from(t: &Turn) -> Self {
        match t.status {
            TurnState::Completed => Self::Completed { exit_code: t.exit_code },
            TurnState::SessionEnded => {
                Self::SessionEnded(ExitStatus::new(t.exit_code.map_or(ExitKind::Unknown, ExitKind::Code)))
            }
            TurnState::Running => Self::Running(match t.handed_back {
                Some(TurnHandedBack::Quiet) => HandedBack::Quiet,
                Some(TurnHandedBack::Expected) => {
                    HandedBack::Expected { index: t.expected_index.unwrap_or(0) }
                }
                _ => HandedBack::SoftTimeout,
            }),
        }
    }
}

/// What a terminal shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Screen {
    /// The visible lines.
    pub lines: Vec<String>,
    /// Lines above, oldest first.
    #[serde(default)]
    pub scrollback: Vec<String>,
    /// The cursor.
    pub cursor: Cursor,
    /// Position in the session's stream this picture belongs to.
    #[serde(default)]
    pub at: u64,
}

/// A cursor.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Cursor {
    /// Row, from 0.
    pub row: usize,
    /// Column, from 0.
    pub col: usize,
    /// Whether it is shown.
    pub visible: bool,
}

impl From<Screen> for fleetcore::Screen {
    fn from(s: Screen) -> Self {
        let mut screen = Self::default();
        (screen.lines, screen.scrollback) = (s.lines, s.scrollback);
        (screen.cursor_row, screen.cursor_col, screen.cursor_visible) =
            (s.cursor.row, s.cursor.col, s.cursor.visible);
        screen.at = Offset(s.at);
        screen
    }
}

/// One file or directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct File {
    /// The path as asked for, or the name in a listing.
    pub path: String,
    /// What it is.
    pub kind: FileKind,
    /// Size in bytes.
    pub size: u64,
    /// Permission bits in octal.
    #[serde(default)]
    pub mode: Option<String>,
    /// Last change of the contents.
    #[serde(default)]
    pub modified_at: Option<Timestamp>,
}

impl From<&FileInfo> for File {
    fn from(f: &FileInfo) -> Self {
        Self {
            path: f.path.clone(),
            kind: f.kind,
            size: f.size,
            mode: f.mode.map(|m| format!("{m:04o}")),
            modified_at: f.modified_at,
        }
    }
}

impl From<File> for FileInfo {
    fn from(f: File) -> Self {
        let mut info = Self::new(f.path, f.kind, f.size);
        info.mode = f.mode.and_then(|m| u32::from_str_radix(&m, 8).ok());
        info.modified_at = f.modified_at;
        info
    }
}

/// Answer of an unpacked archive.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Entries {
    pub(super) entries: u64,
}

/// An `output` event of the event stream.
#[derive(Debug, Deserialize)]
pub(super) struct OutputEvent {
    pub(super) offset: u64,
    pub(super) channel: Channel,
    pub(super) at: Timestamp,
    #[serde(default)]
    pub(super) text: Option<String>,
    #[serde(default)]
    pub(super) base64: Option<String>,
}

/// A `gap` event.
#[derive(Debug, Deserialize)]
pub(super) struct GapEvent {
    pub(super) from: u64,
    pub(super) to: u64,
}

/// A `state` event of a command; sessions send other fields.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct StateEvent {
    #[serde(default)]
    pub(super) state: Option<CommandState>,
    #[serde(default)]
    pub(super) cwd: Option<String>,
    #[serde(default)]
    pub(super) busy: Option<bool>,
    #[serde(default)]
    pub(super) size: Option<PtySize>,
}

/// Parses JSON that came from the server.
pub(super) fn from_json<T: serde::de::DeserializeOwned>(operation: &'static str, json: &[u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|e| {
        Error::new(ErrorKind::Unexpected, "the server sent something that is not understood")
            .with_operation(operation)
            .with_source(e)
    })
}
