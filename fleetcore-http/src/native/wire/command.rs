use std::{collections::BTreeMap, time::Duration};

use fleetcore::{
    Channel, CommandId, CommandRecord, CommandSpec, CommandState, EndReason, Error, ErrorKind, ExitKind,
    ExitStatus, Io, OnDrop, Overflow, Program, PtySize, Result, Signal, Target,
};
use jiff::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ChannelName, EndReasonName, OverflowName, SignalName, StateName};

/// Longest time a caller may ask for: a year, so that sums with the clock never overflow.
const MAX_MS: u64 = 366 * 24 * 3600 * 1000;

/// Milliseconds as a duration, refused when they are absurd.
pub(crate) fn millis(field: &'static str, ms: u64) -> Result<Duration> {
    if ms > MAX_MS {
        return Err(Error::invalid(field, "at most one year"));
    }
    Ok(Duration::from_millis(ms))
}

/// Terminal size in cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// Columns.
    #[schema(minimum = 1, maximum = 1000)]
    pub cols: u16,
    /// Rows.
    #[schema(minimum = 1, maximum = 1000)]
    pub rows: u16,
}

impl Size {
    pub(crate) fn check(self) -> Result<PtySize> {
        PtySize::from(self).check()
    }
}

impl From<Size> for PtySize {
    fn from(s: Size) -> Self {
        Self { cols: s.cols, rows: s.rows }
    }
}

impl From<PtySize> for Size {
    fn from(s: PtySize) -> Self {
        Self { cols: s.cols, rows: s.rows }
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Exit {
    /// The code it returned; null when a signal ended it or nobody knows.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Why, if fleetcore ended it.
    #[schema(value_type = Option<EndReasonName>)]
    pub reason: Option<EndReason>,
    /// Something it started still held its output open.
    pub leaked: bool,
}

impl From<ExitStatus> for Exit {
    fn from(e: ExitStatus) -> Self {
        let (code, signal) = match e.kind {
            ExitKind::Code(c) => (Some(c), None),
            ExitKind::Signal(s) => (None, Some(s)),
            _ => (None, None),
        };
        Self { code, signal, reason: e.reason, leaked: e.leaked }
    }
}

/// How a command ended, with the state this left it in: the last event of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExitEvent {
    /// How.
    #[serde(flatten)]
    pub exit: Exit,
    /// Its final state.
    #[schema(value_type = StateName)]
    pub state: CommandState,
}

impl From<ExitStatus> for ExitEvent {
    fn from(e: ExitStatus) -> Self {
        Self { exit: e.into(), state: e.state() }
    }
}

/// A named operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CommandAction {
    /// Its name: `create`, `start`, `stop`, `delete`, `fanout`, or an action of the provider.
    pub name: String,
    /// Its settings as text.
    pub args: BTreeMap<String, String>,
}

/// A command, running or recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Command {
    /// Its id.
    #[schema(value_type = String, format = Uuid)]
    pub id: CommandId,
    /// Where it runs.
    #[schema(value_type = String, example = "local")]
    pub target: Target,
    /// Program and arguments, when it was given as such.
    pub argv: Option<Vec<String>>,
    /// Shell script, when it was given as such.
    pub shell: Option<String>,
    /// What fleetcore itself does, when it is that: to a machine, or on many targets.
    #[serde(default)]
    pub action: Option<CommandAction>,
    /// One line for people.
    pub display: String,
    /// Working directory it was given.
    pub cwd: Option<String>,
    /// Initial size of its terminal, when it has one.
    pub pty: Option<Size>,
    /// Who started it.
    pub actor: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its state.
    #[schema(value_type = StateName)]
    pub state: CommandState,
    /// How it ended.
    pub exit: Option<Exit>,
    /// Why it could not start or was lost.
    pub error: Option<String>,
    /// Bytes of output so far.
    pub output_bytes: u64,
    /// When it was recorded.
    pub created_at: Timestamp,
    /// When it started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Time from start to end.
    pub duration_ms: Option<f64>,
    /// What it wrote, when the request asked to wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub output: Option<CommandOutput>,
}

impl From<&CommandRecord> for Command {
    fn from(r: &CommandRecord) -> Self {
        let (mut argv, mut shell, mut action) = (None, None, None);
        match &r.program {
            Program::Argv(words) => argv = Some(words.clone()),
            Program::Shell(script) => shell = Some(script.clone()),
            Program::Action { name, args } => {
                action = Some(CommandAction { name: name.clone(), args: args.clone() });
            }
            _ => {}
        }
        let duration = r.started_at.zip(r.ended_at).map(|(from, to)| to.duration_since(from));
        Self {
            id: r.id,
            target: r.target.clone(),
            argv,
            shell,
            action,
            display: r.program.display(),
            cwd: r.cwd.clone(),
            pty: r.pty.map(Size::from),
            actor: r.actor.clone(),
            labels: r.labels.clone(),
            state: r.state,
            exit: r.exit.map(Exit::from),
            error: r.error.clone(),
            output_bytes: r.output_end.0,
            created_at: r.created_at,
            started_at: r.started_at,
            ended_at: r.ended_at,
            // The clock may have been set back meanwhile.
            duration_ms: duration.map(|d| (d.as_secs_f64() * 1000.0).max(0.0)),
            output: None,
        }
    }
}

/// What a command wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CommandOutput {
    /// Standard output, or everything where channels are not apart.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// There was more than was asked for, or some of it is no longer kept.
    pub truncated: bool,
    /// How `stdout` and `stderr` are written.
    pub encoding: Encoding,
}

/// How bytes are written in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// As UTF-8; what is not is replaced by U+FFFD.
    #[default]
    Utf8,
    /// As base64 (RFC 4648, with padding).
    Base64,
}

/// Asks for the end of the command within the request.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WaitFor {
    /// How long to wait; the answer then says `running`. At most 10 minutes.
    #[schema(default = 30_000, maximum = 600_000)]
    pub timeout_ms: u64,
    /// How much output to give back; the first bytes are kept. At most 16 MiB.
    #[schema(default = 65_536, maximum = 16_777_216)]
    pub output_bytes: usize,
    /// How to write it.
    pub encoding: Encoding,
}

impl Default for WaitFor {
    fn default() -> Self {
        Self { timeout_ms: 30_000, output_bytes: 65_536, encoding: Encoding::Utf8 }
    }
}

/// A command to run. Exactly one of `argv` and `shell`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateCommand {
    /// Its id; choosing it makes the request idempotent. Default: a new one.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = Uuid)]
    pub id: Option<uuid::Uuid>,
    /// Where to run it.
    #[schema(example = "local")]
    pub target: String,
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
    /// Open its input, for `POST …/stdin` and attached clients.
    #[serde(default)]
    pub stdin: bool,
    /// Put standard error on the output pipe.
    #[serde(default)]
    pub merge: bool,
    /// Run on a terminal of this size. Excludes `stdin` and `merge`, which a terminal always has.
    #[serde(default)]
    pub pty: Option<Size>,
    /// End it after this long.
    #[serde(default)]
    #[schema(maximum = 31_622_400_000_u64)]
    pub timeout_ms: Option<u64>,
    /// Time between the polite signal and KILL. Default 5000.
    #[serde(default)]
    #[schema(maximum = 31_622_400_000_u64)]
    pub grace_ms: Option<u64>,
    /// How long to wait for output that descendants hold open. Default 200.
    #[serde(default)]
    #[schema(maximum = 31_622_400_000_u64)]
    pub drain_ms: Option<u64>,
    /// What happens when the replay window is full. Default `drop_oldest`.
    #[serde(default)]
    #[schema(value_type = Option<OverflowName>)]
    pub overflow: Option<Overflow>,
    /// Size of the replay window. Default 1 MiB.
    #[serde(default)]
    pub replay_bytes: Option<usize>,
    /// Labels of the record.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Answer when it has ended.
    #[serde(default)]
    pub wait: Option<WaitFor>,
}

impl CreateCommand {
    /// What the core wants to know.
    pub(crate) fn spec(&mut self) -> Result<CommandSpec> {
        let program = match (self.argv.take(), self.shell.take()) {
            (Some(argv), None) => Program::Argv(argv),
            (None, Some(script)) => Program::Shell(script),
            _ => return Err(Error::invalid("argv", "given, or shell instead, but not both")),
        };
        let mut spec = CommandSpec::new(program).with_on_drop(OnDrop::Detach);
        spec.cwd = self.cwd.take();
        spec.env = std::mem::take(&mut self.env);
        spec.clear_env = self.clear_env;
        spec.user = self.user.take();
        spec.io = match self.pty {
            Some(_) if self.stdin || self.merge => {
                return Err(Error::invalid("pty", "used without stdin and merge: a terminal has both"));
            }
            Some(size) => Io::Pty(size.into()),
            None => Io::Pipes { stdin: self.stdin, merge: self.merge },
        };
        spec.timeout = self.timeout_ms.map(|ms| millis("timeout_ms", ms)).transpose()?;
        if let Some(ms) = self.grace_ms {
            spec.grace = millis("grace_ms", ms)?;
        }
        if let Some(ms) = self.drain_ms {
            spec.drain = millis("drain_ms", ms)?;
        }
        spec.overflow = self.overflow.unwrap_or_default();
        spec.replay_bytes = self.replay_bytes.unwrap_or(spec.replay_bytes);
        spec.labels = std::mem::take(&mut self.labels);
        spec.check()?;
        Ok(spec)
    }
}

/// Sends a signal.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SendSignal {
    /// Which.
    #[schema(value_type = SignalName)]
    pub signal: Signal,
}

/// Output in an event stream: `event: output`. One of `text` and `base64`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OutputEvent {
    /// Position of the first byte.
    pub offset: u64,
    /// Where it came from.
    #[schema(value_type = ChannelName)]
    pub channel: Channel,
    /// When it was read.
    pub at: Timestamp,
    /// The bytes, when they are UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The bytes, when they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
}

/// Missing output in an event stream: `event: gap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GapEvent {
    /// First missing byte.
    pub from: u64,
    /// First byte that is there again.
    pub to: u64,
}

/// The state in an event stream: `event: state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StateEvent {
    /// The new state.
    #[schema(value_type = StateName)]
    pub state: CommandState,
}

/// Parses the name of a signal.
pub(crate) fn parse_signal(name: &str) -> Result<Signal> {
    use serde::de::{IntoDeserializer, value::Error as DeError};
    let de: serde::de::value::StrDeserializer<'_, DeError> = name.into_deserializer();
    Signal::deserialize(de).map_err(|e| {
        Error::new(ErrorKind::InvalidInput, "no such signal")
            .with_context("field", "signal")
            .with_context("rule", "hangup, interrupt, quit, terminate, kill, stop, continue, user1 or user2")
            .with_source(e)
    })
}
