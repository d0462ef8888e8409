use std::{collections::BTreeMap, time::Duration};

use fleetcore::{
    Error, HandedBack, Key, PtySize, Result, Screen, SessionId, SessionInfo, SessionSpec, Target,
    Turn as CoreTurn, TurnStatus, WaitPolicy,
};
use jiff::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Exit, millis};

/// A persistent shell that belongs to the server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Session {
    /// Its name.
    #[schema(value_type = String)]
    pub id: SessionId,
    /// Where it runs.
    #[schema(value_type = String, example = "local")]
    pub target: Target,
    /// The shell.
    pub shell: Vec<String>,
    /// The shell's directory, when it has told.
    pub cwd: Option<String>,
    /// Columns.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
    /// Whether a `run` is going on.
    pub busy: bool,
    /// Number of `run` calls so far.
    pub turns: u64,
    /// Bytes of output so far.
    pub output_bytes: u64,
    /// When it was opened.
    pub created_at: Timestamp,
    /// Last input or output.
    pub active_at: Timestamp,
    /// How many are attached.
    pub viewers: usize,
    /// How the shell ended, once it has.
    pub ended: Option<Exit>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl Session {
    pub(crate) fn new(target: Target, info: SessionInfo, viewers: usize) -> Self {
        Self {
            id: info.id,
            target,
            shell: info.shell,
            cwd: info.cwd,
            cols: info.size.cols,
            rows: info.size.rows,
            busy: info.busy,
            turns: info.turns,
            output_bytes: info.output_end.0,
            created_at: info.created_at,
            active_at: info.active_at,
            viewers,
            ended: info.ended.map(Exit::from),
            labels: info.labels,
        }
    }
}

/// A session to open.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSession {
    /// Its name. Default: a new one.
    #[serde(default)]
    #[schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$")]
    pub id: Option<String>,
    /// Where to open it.
    #[schema(example = "local")]
    pub target: String,
    /// The shell and its arguments. Default: bash where there is one, else `sh`.
    #[serde(default)]
    pub shell: Vec<String>,
    /// First working directory.
    #[serde(default)]
    pub cwd: Option<String>,
    /// Variables to set. The values are not recorded.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, String>)]
    pub env: BTreeMap<String, SecretString>,
    /// Run the shell as this user.
    #[serde(default)]
    pub user: Option<String>,
    /// Columns. Default 80.
    #[serde(default = "cols")]
    #[schema(default = 80, minimum = 1)]
    pub cols: u16,
    /// Rows. Default 24.
    #[serde(default = "rows")]
    #[schema(default = 24, minimum = 1)]
    pub rows: u16,
    /// Close it after this long without input, output or a viewer. Default: what the server is set to.
    #[serde(default)]
    pub idle_timeout_s: Option<u64>,
    /// Lines kept above the screen. At most 100000.
    #[serde(default = "scrollback")]
    #[schema(default = 10_000, maximum = 100_000)]
    pub scrollback_lines: usize,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

fn cols() -> u16 {
    80
}
fn rows() -> u16 {
    24
}
fn scrollback() -> usize {
    10_000
}

/// Lines of scrollback a session may keep: at 200 columns this is some tens of megabytes.
const SCROLLBACK_MAX: usize = 100_000;

impl CreateSession {
    /// What the core wants to know.
    pub(crate) fn spec(self, idle: Option<Duration>) -> Result<SessionSpec> {
        let id = match self.id {
            Some(id) => SessionId::new(id)?,
            None => SessionId::new(format!("s-{}", uuid::Uuid::now_v7().simple()))?,
        };
        if self.scrollback_lines > SCROLLBACK_MAX {
            return Err(Error::invalid("scrollback_lines", "at most 100000"));
        }
        let mut spec = SessionSpec::new(id).with_size(PtySize { cols: self.cols, rows: self.rows });
        spec.shell = self.shell;
        spec.cwd = self.cwd;
        spec.env = self.env;
        spec.user = self.user;
        spec.scrollback_lines = self.scrollback_lines;
        spec.idle_timeout = match self.idle_timeout_s {
            Some(s) => Some(millis("idle_timeout_s", s.saturating_mul(1000))?),
            None => idle,
        };
        spec.labels = self.labels;
        spec.check()?;
        Ok(spec)
    }
}

/// How long to wait for a turn; nothing here stops the program.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Wait {
    /// Hand back after this long in total. The server's own limit, 10 minutes unless set otherwise, holds in any case:
    /// `resume` waits on.
    #[schema(maximum = 31_622_400_000_u64)]
    pub soft_timeout_ms: Option<u64>,
    /// Hand back after this long without new output.
    #[schema(maximum = 31_622_400_000_u64)]
    pub quiet_timeout_ms: Option<u64>,
    /// Hand back when one of these texts appears.
    pub expect: Vec<String>,
    /// How much output to give back; the head and the tail are kept. Default 65536, at most 16 MiB.
    #[schema(default = 65_536)]
    pub output_bytes: Option<usize>,
}

impl Wait {
    /// What is asked for; `longest` is how long one request may wait.
    pub(crate) fn policy(&self, longest: Duration) -> Result<WaitPolicy> {
        let mut policy = WaitPolicy::default();
        let asked = self.soft_timeout_ms.map(|ms| millis("soft_timeout_ms", ms)).transpose()?;
        policy.soft_timeout = Some(asked.map_or(longest, |asked| asked.min(longest)));
        policy.quiet_timeout = self.quiet_timeout_ms.map(|ms| millis("quiet_timeout_ms", ms)).transpose()?;
        if self.expect.iter().any(String::is_empty) {
            return Err(Error::invalid("expect", "made of texts that are not empty"));
        }
        policy.expect.clone_from(&self.expect);
        Ok(policy)
    }
}

/// A command for the shell of a session.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunInSession {
    /// What to type; several lines are one turn.
    pub command: String,
    /// How long to wait.
    #[serde(default)]
    pub wait: Wait,
}

/// Waits on.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WaitOn {
    /// How long to wait.
    #[serde(default)]
    pub wait: Wait,
}

/// Where the command of a turn stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = TurnStatus)]
pub enum TurnStatusName {
    /// The shell is ready again.
    Completed,
    /// The command runs on.
    Running,
    /// The shell itself ended.
    SessionEnded,
}

/// Why control came back while the command runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = HandedBack)]
pub enum HandedBackName {
    /// The soft timeout passed.
    SoftTimeout,
    /// No output for the quiet timeout.
    Quiet,
    /// An expected text appeared.
    Expected,
}

/// Answer of one wait on a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Turn {
    /// Counts `run` calls, from 1.
    pub seq: u64,
    /// First byte of this turn in the session's output.
    pub from: u64,
    /// After its last byte so far.
    pub to: u64,
    /// Where the command stands.
    pub status: TurnStatusName,
    /// Its exit code, when the shell told one.
    pub exit_code: Option<i32>,
    /// Why it came back early.
    pub handed_back: Option<HandedBackName>,
    /// Which of the expected texts appeared.
    pub expected_index: Option<usize>,
    /// The shell's directory.
    pub cwd: Option<String>,
    /// What the command wrote, as text.
    pub output: String,
    /// The middle of it was left out.
    pub truncated: bool,
}

impl Turn {
    pub(crate) fn new(turn: &CoreTurn, text: String, limit: usize) -> Self {
        let mut handed = None;
        let mut expected_index = None;
        let (status, exit_code) = match &turn.status {
            TurnStatus::Completed { exit_code } => (TurnStatusName::Completed, *exit_code),
            TurnStatus::Running(why) => {
                handed = match why {
                    HandedBack::SoftTimeout => Some(HandedBackName::SoftTimeout),
                    HandedBack::Quiet => Some(HandedBackName::Quiet),
                    HandedBack::Expected { index } => {
                        expected_index = Some(*index);
                        Some(HandedBackName::Expected)
                    }
                    _ => None,
                };
                (TurnStatusName::Running, None)
            }
            TurnStatus::SessionEnded(exit) => (TurnStatusName::SessionEnded, Exit::from(*exit).code),
            _ => (TurnStatusName::Running, None),
        };
        let (output, truncated) = head_and_tail(text, limit);
        Self {
            seq: turn.seq,
            from: turn.output.start.0,
            to: turn.output.end.0,
            status,
            exit_code,
            handed_back: handed,
            expected_index,
            cwd: turn.cwd.clone(),
            output,
            truncated,
        }
    }
}

/// The first and the last part of a text that is too long, cut at characters.
fn head_and_tail(text: String, limit: usize) -> (String, bool) {
    if text.len() <= limit {
        return (text, false);
    }
    let head = text.floor_char_boundary(limit / 2);
    let tail = text.ceil_char_boundary(text.len() - (limit - limit / 2));
    let left_out = tail - head;
    let head = text.get(..head).unwrap_or_default();
    let tail = text.get(tail..).unwrap_or_default();
    (format!("{head}\n[{left_out} bytes left out]\n{tail}"), true)
}

/// Keys to type.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SendKeys {
    /// In this order.
    #[schema(value_type = Vec<KeyName>)]
    pub keys: Vec<Key>,
}

/// A key: `"enter"`, `{"text":"ls"}`, `{"ctrl":"c"}`, `{"function":5}`.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Key)]
#[expect(missing_docs, reason = "the core documents the variants of the same names")]
pub enum KeyName {
    Text(String),
    Ctrl(String),
    Enter,
    Tab,
    Escape,
    Backspace,
    Delete,
    Up,
    Down,
    Left,
    Right,
    Home,
    End,
    PageUp,
    PageDown,
    Function(u8),
}

/// Text of a part of a session's output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TurnText {
    /// The text.
    pub text: String,
}

/// What the terminal of a session shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Screen)]
pub struct ScreenText {
    /// The visible lines, top first.
    pub lines: Vec<String>,
    /// Lines that have scrolled off, oldest first.
    pub scrollback: Vec<String>,
    /// Where the cursor is.
    pub cursor: Cursor,
    /// Position in the session's output this picture belongs to.
    pub at: u64,
}

/// Where the cursor is, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Cursor {
    /// Row.
    pub row: usize,
    /// Column.
    pub col: usize,
    /// Whether the program shows it.
    pub visible: bool,
}

impl From<Screen> for ScreenText {
    fn from(s: Screen) -> Self {
        Self {
            lines: s.lines,
            scrollback: s.scrollback,
            cursor: Cursor { row: s.cursor_row, col: s.cursor_col, visible: s.cursor_visible },
            at: s.at.0,
        }
    }
}

/// A session has gone: `event: session_closed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionClosed {
    /// Its name.
    #[schema(value_type = String)]
    pub id: SessionId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_output_keeps_its_ends() {
        assert_eq!(head_and_tail("abc".into(), 3), ("abc".into(), false));
        let (cut, truncated) = head_and_tail(format!("ä{}ö", "x".repeat(100)), 10);
        assert!(truncated && cut.starts_with("äxxx\n[") && cut.ends_with("]\nxxxö"), "{cut}");
        assert!(head_and_tail("äöü".into(), 0).1);
    }
}
