//! Persistent shells, and streams of output.

use std::{fmt, ops::Range};

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;

use crate::{
    CommandEvent, CommandId, ExitStatus, Key, Offset, PtySize, Rendered, Result, Screen, SessionId,
    SessionInfo, Turn, WaitPolicy,
};

/// Numbered events of one command. A subscriber, never the owner: dropping it only detaches.
///
/// Cancel-safe: `next()` may be dropped at any await point without losing events.
pub trait CommandStream: Stream<Item = Result<CommandEvent>> + Send + Unpin + fmt::Debug {
    /// The command this belongs to.
    fn command_id(&self) -> CommandId;
    /// Where the next byte will be; hand this back to resume.
    fn position(&self) -> Offset;
}

/// A persistent interactive shell. Dropping the last handle ends the shell and all its jobs.
///
/// Every future is cancel-safe: a dropped `run` leaves the command running, and `resume` takes it up again.
#[async_trait]
pub trait Session: Send + Sync + fmt::Debug + 'static {
    /// Its name.
    fn id(&self) -> &SessionId;
    /// What is known now.
    fn info(&self) -> SessionInfo;
    /// Runs a command in the shell. `Busy` while one is still running, `InvalidState` once the shell has ended.
    async fn run(&self, command: &str, wait: WaitPolicy) -> Result<Turn>;
    /// Waits on for the command that is still running; `InvalidState` when none is.
    async fn resume(&self, wait: WaitPolicy) -> Result<Turn>;
    /// Types into the foreground program.
    async fn send_keys(&self, keys: &[Key]) -> Result<()>;
    /// Sends bytes as a terminal would.
    async fn write(&self, data: Bytes) -> Result<()>;
    /// Types Ctrl-C, then waits. Works while another caller waits in `run`: both get the same [`Turn`].
    async fn interrupt(&self, wait: WaitPolicy) -> Result<Turn>;
    /// Changes the terminal size.
    async fn resize(&self, size: PtySize) -> Result<()>;
    /// Raw bytes from `from` on, for a terminal view; any number at once.
    async fn stream(&self, from: Offset) -> Result<Box<dyn CommandStream>>;
    /// Text of a turn: what its command wrote, without the shell's own marks and echo, line ends as `\n`.
    /// Bytes that are no longer kept are missing.
    async fn text(&self, range: Range<Offset>) -> Result<String>;
    /// What a terminal shows of the output of `turn` up to now, as far as it is still kept: all of it, within the
    /// bounds of [`Rendered`], for the last turn.
    ///
    /// Sessions that keep no terminal state render [`text`](Self::text).
    async fn rendered(&self, turn: &Turn) -> Result<Rendered>;
    /// What the terminal shows, as text, with scrollback.
    async fn screen(&self) -> Result<Screen>;
    /// Resolves when the shell has ended.
    async fn ended(&self) -> Result<ExitStatus>;
    /// Hangs up and kills everything the session started.
    async fn close(&self) -> Result<ExitStatus>;
}
