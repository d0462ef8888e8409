//! Persistent interactive shells.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use jiff::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::{ExitStatus, Labels, Offset, OnDrop, PtySize};
use crate::SessionId;

/// How to open a session.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SessionSpec {
    /// Its name.
    pub id: SessionId,
    /// The shell and its arguments; empty means bash where there is one, else `sh`.
    pub shell: Vec<String>,
    /// First working directory; default: the executor's home.
    pub cwd: Option<String>,
    /// Variables to set. The values count as secrets.
    pub env: BTreeMap<String, SecretString>,
    /// Run the shell as this user.
    pub user: Option<String>,
    /// Terminal size.
    pub size: PtySize,
    /// Lines the terminal emulator keeps above the screen. Default 10 000.
    pub scrollback_lines: usize,
    /// Close the session after this long without input, output or a viewer. Default: never.
    pub idle_timeout: Option<Duration>,
    /// Commands to run before the session is handed out.
    pub startup: Vec<String>,
    /// What happens to a command that is not complete.
    pub on_incomplete: OnIncomplete,
    /// Programs whose paths the shell tells after each command, in [`ShellFacts::programs`]. bash only; letters,
    /// digits and `.+_-`.
    pub locate: Vec<String>,
    /// Labels.
    pub labels: Labels,
    /// What happens when the last handle is dropped. `Detach` is for sessions that belong to somebody else than the
    /// holder of the handle; only executors whose native sessions outlive this process can do it, for all others the
    /// shell ends either way.
    pub on_drop: OnDrop,
}

impl SessionSpec {
    /// The default shell, 80x24.
    pub fn new(id: SessionId) -> Self {
        Self {
            id,
            shell: vec![],
            cwd: None,
            env: BTreeMap::new(),
            user: None,
            size: PtySize::default(),
            scrollback_lines: 10_000,
            idle_timeout: None,
            startup: vec![],
            on_incomplete: OnIncomplete::default(),
            locate: vec![],
            labels: Labels::new(),
            on_drop: OnDrop::default(),
        }
    }

    /// Sets the shell and its arguments.
    #[must_use]
    pub fn with_shell<S: Into<String>>(mut self, shell: impl IntoIterator<Item = S>) -> Self {
        self.shell = shell.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the first working directory.
    #[must_use]
    pub fn with_cwd(mut self, cwd: impl Into<String>) -> Self {
        self.cwd = Some(cwd.into());
        self
    }

    /// Sets the terminal size.
    #[must_use]
    pub fn with_size(mut self, size: PtySize) -> Self {
        self.size = size;
        self
    }

    /// Sets what happens to a command that is not complete.
    #[must_use]
    pub fn with_on_incomplete(mut self, what: OnIncomplete) -> Self {
        self.on_incomplete = what;
        self
    }

    /// Sets when an idle session is closed.
    #[must_use]
    pub fn with_idle_timeout(mut self, idle: Option<Duration>) -> Self {
        self.idle_timeout = idle;
        self
    }
}

/// What happens to a command whose last quote, here-document or compound command is not closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnIncomplete {
    /// `run` takes it back and fails with `InvalidInput`. For callers that cannot type the rest.
    #[default]
    Refuse,
    /// The shell waits for the rest, which [`Session::write`](crate::Session::write) types; the turn is running.
    /// bash only.
    Wait,
}

/// What a shell told about itself after its last command, besides exit code and directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShellFacts {
    /// `$!`: the process of the last job that was put into the background.
    pub last_job: Option<u32>,
    /// Name of the user the shell runs as.
    pub user: Option<String>,
    /// Name of the host, up to the first dot.
    pub host: Option<String>,
    /// Paths of the programs of [`SessionSpec::locate`], as far as they are found in `PATH`.
    pub programs: BTreeMap<String, String>,
}

/// Output of a turn as a terminal of the session's width shows it: what was overwritten is gone, lines that were
/// wrapped are whole, colours and bytes that are not UTF-8 are dropped. No more lines are kept than
/// [`SessionSpec::scrollback_lines`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rendered {
    /// The lines that are kept, without trailing blanks and without empty lines at the end.
    pub text: String,
    /// How many lines that is.
    pub lines: usize,
    /// Lines that stood above them and are not kept.
    pub dropped: u64,
    /// Whether something was shown that the program has cleared away.
    pub cleared: bool,
    /// The first lines of all when some were dropped: at most 64 KiB.
    pub head: String,
    /// Where the next byte of output will be.
    pub at: Offset,
    /// How often everything was cleared away.
    pub(crate) clears: u32,
}

impl Rendered {
    /// Whether lines are missing at the start.
    pub fn truncated(&self) -> bool {
        self.dropped > 0 || self.cleared
    }

    /// What has been added since `earlier` of the same turn; `None` when what was shown then has changed, say by a
    /// progress bar.
    pub fn since(&self, earlier: &Self) -> Option<&str> {
        if self.clears != earlier.clears {
            return None;
        }
        let gone = usize::try_from(self.dropped.checked_sub(earlier.dropped)?).unwrap_or(usize::MAX);
        if gone > 0 && gone >= earlier.lines {
            return Some(&self.text);
        }
        let mut kept = earlier.text.as_str();
        for _ in 0..gone {
            kept = kept.split_once('\n').map_or("", |(_, rest)| rest);
        }
        self.text.strip_prefix(kept)
    }
}

/// How long to wait for a turn before handing control back. Nothing here stops the program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WaitPolicy {
    /// Hand back after this long in total.
    pub soft_timeout: Option<Duration>,
    /// Hand back after this long without new output.
    pub quiet_timeout: Option<Duration>,
    /// Hand back when one of these texts appears in the output.
    pub expect: Vec<String>,
}

impl WaitPolicy {
    /// Waits for the end, however long it takes.
    pub fn forever() -> Self {
        Self::default()
    }

    /// Hands back after `limit` in total.
    pub fn soft(limit: Duration) -> Self {
        Self { soft_timeout: Some(limit), ..Self::default() }
    }

    /// Also hands back after `quiet` without new output.
    #[must_use]
    pub fn with_quiet(mut self, quiet: Duration) -> Self {
        self.quiet_timeout = Some(quiet);
        self
    }

    /// Also hands back when `text` appears.
    #[must_use]
    pub fn with_expect(mut self, text: impl Into<String>) -> Self {
        self.expect.push(text.into());
        self
    }
}

/// Answer of one wait on a session.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Turn {
    /// Counts `run` calls, from 1.
    pub seq: u64,
    /// Bytes of this turn in the session's stream, so far.
    pub output: Range<Offset>,
    /// Where the command stands.
    pub status: TurnStatus,
    /// The shell's directory, when it has told.
    pub cwd: Option<String>,
}

impl Turn {
    /// A turn as a session reports it.
    pub fn new(seq: u64, output: Range<Offset>, status: TurnStatus, cwd: Option<String>) -> Self {
        Self { seq, output, status, cwd }
    }
}

/// Where a command in a session stands.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum TurnStatus {
    /// The shell is ready again.
    Completed {
        /// Exit code, when the shell told one.
        exit_code: Option<i32>,
    },
    /// Control came back while the command runs on.
    Running(HandedBack),
    /// The shell itself ended.
    SessionEnded(ExitStatus),
}

/// Why control came back while the command runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HandedBack {
    /// The soft timeout passed.
    SoftTimeout,
    /// No output for the quiet timeout.
    Quiet,
    /// An expected text appeared.
    Expected {
        /// Which of [`WaitPolicy::expect`].
        index: usize,
    },
}

/// Keys by name; anything else is `Text`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Key {
    /// Characters as typed.
    Text(String),
    /// Control with a letter or one of `@ [ \ ] ^ _ ?`.
    Ctrl(char),
    /// Return.
    Enter,
    /// Tab.
    Tab,
    /// Escape.
    Escape,
    /// Backspace.
    Backspace,
    /// Delete.
    Delete,
    /// Arrow up.
    Up,
    /// Arrow down.
    Down,
    /// Arrow left.
    Left,
    /// Arrow right.
    Right,
    /// Home.
    Home,
    /// End.
    End,
    /// Page up.
    PageUp,
    /// Page down.
    PageDown,
    /// F1 to F12.
    Function(u8),
}

/// What a terminal shows, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Screen {
    /// The visible lines, top first, without trailing blanks.
    pub lines: Vec<String>,
    /// Lines that have scrolled off the top and are still kept, oldest first.
    pub scrollback: Vec<String>,
    /// Row of the cursor, from 0.
    pub cursor_row: usize,
    /// Column of the cursor, from 0.
    pub cursor_col: usize,
    /// Whether the program shows the cursor.
    pub cursor_visible: bool,
    /// Position in the session's stream this picture belongs to.
    pub at: Offset,
}

impl Screen {
    /// Scrollback and screen as one text.
    pub fn text(&self) -> String {
        let mut lines: Vec<&str> = self.scrollback.iter().chain(&self.lines).map(String::as_str).collect();
        while lines.last().is_some_and(|l| l.is_empty()) {
            lines.pop();
        }
        lines.join("\n")
    }
}

/// What is known of an open session.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SessionInfo {
    /// Its name.
    pub id: SessionId,
    /// The shell that runs.
    pub shell: Vec<String>,
    /// The shell's directory, when it has told.
    pub cwd: Option<String>,
    /// Terminal size.
    pub size: PtySize,
    /// Whether a `run` is going on.
    pub busy: bool,
    /// Number of `run` calls so far.
    pub turns: u64,
    /// End of output so far.
    pub output_end: Offset,
    /// When it was opened.
    pub created_at: Timestamp,
    /// Last input or output.
    pub active_at: Timestamp,
    /// How the shell ended, once it has.
    pub ended: Option<ExitStatus>,
    /// Labels.
    pub labels: Labels,
    /// What the shell has told about itself.
    pub facts: ShellFacts,
}

impl SessionInfo {
    /// A fresh session.
    pub fn new(spec: &SessionSpec, shell: Vec<String>) -> Self {
        let now = Timestamp::now();
        Self {
            id: spec.id.clone(),
            shell,
            cwd: None,
            size: spec.size,
            busy: false,
            turns: 0,
            output_end: Offset(0),
            created_at: now,
            active_at: now,
            ended: None,
            labels: spec.labels.clone(),
            facts: ShellFacts::default(),
        }
    }
}
