//! Running things on one machine.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{future::BoxFuture, stream::BoxStream};
use tokio::io::AsyncWrite;

use super::{BoxConnection, FileSystem, OpContext, Session};
use crate::{
    Channel, CommandId, CommandSpec, ExecCapabilities, ExitKind, ExitStatus, HostPort, Offset, PtySize,
    Result, SessionSpec, Signal,
};

/// Runs commands on ONE machine. `spawn` is the only required power; files and sessions are built on top of it
/// unless the backend has its own.
#[async_trait]
pub trait Executor: Send + Sync + fmt::Debug + 'static {
    /// What works here, after layers.
    fn capabilities(&self) -> ExecCapabilities;
    /// Cheap check that the machine can be reached.
    async fn ping(&self, cx: &OpContext) -> Result<()>;
    /// Starts a process. The returned parts own it: dropping them kills it.
    ///
    /// Dropping the future before it resolves leaves no process behind.
    async fn spawn(&self, cx: &OpContext, id: CommandId, spec: &CommandSpec) -> Result<RawProcess>;
    /// Takes over a process that outlived its owner, with its output from `from` on. Only when
    /// [`ExecCapabilities::reattach`]; otherwise `Unsupported`.
    async fn reattach(&self, cx: &OpContext, id: CommandId, from: Offset) -> Result<RawProcess>;
    /// Opens a session of the backend's own. Only when [`ExecCapabilities::native_sessions`]; otherwise
    /// `Unsupported`.
    async fn open_session(&self, cx: &OpContext, spec: SessionSpec) -> Result<Arc<dyn Session>>;
    /// The backend's own files. Only when [`ExecCapabilities::native_files`]; otherwise `Unsupported`.
    fn files(&self) -> Result<Arc<dyn FileSystem>>;
    /// Connects to an address as seen from the machine: `localhost` is the machine. Only when
    /// [`ExecCapabilities::connect`]; otherwise `Unsupported`.
    ///
    /// `Unavailable`, with the `address` in the context, when nothing answers there or its name is unknown;
    /// `PermissionDenied` when the machine does not allow it. Dropping the future before it resolves leaves no connection
    /// behind.
    async fn connect(&self, cx: &OpContext, to: &HostPort) -> Result<BoxConnection>;
}

/// A running process as a backend hands it to the supervisor: parts, not a trait, because each part is used by
/// a different task. Dropping all of it kills the process tree.
pub struct RawProcess {
    /// Local process id, if there is one.
    pub pid: Option<u32>,
    /// Output of all channels in arrival order; ends when every pipe is closed. Not polling it is back-pressure. An error
    /// ends it, but for `DataLoss` with the context `to`: the bytes before that offset are gone, and it goes on there.
    pub output: BoxStream<'static, Result<(Channel, Bytes)>>,
    /// Input; `None` when the spec asked for none. Shutting it down closes a pipe, or types end-of-file on a PTY.
    pub stdin: Option<Pin<Box<dyn AsyncWrite + Send>>>,
    /// Resolves once, when the leader has ended.
    pub exit: BoxFuture<'static, Result<ExitKind>>,
    /// Signals and resize; dropping it kills the tree unless disarmed.
    pub control: Box<dyn ProcessControl>,
}

impl fmt::Debug for RawProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawProcess")
            .field("pid", &self.pid)
            .field("control", &self.control)
            .finish_non_exhaustive()
    }
}

/// Out-of-band control of one process tree.
#[async_trait]
pub trait ProcessControl: Send + Sync + fmt::Debug {
    /// Signals the whole tree: the process group, and on a PTY every group of the terminal session.
    /// `Kill` reaches everything the command started that can be found. A tree that is gone is not an error.
    async fn signal(&self, signal: Signal) -> Result<()>;
    /// Changes the terminal size; `InvalidState` without a PTY.
    async fn resize(&self, size: PtySize) -> Result<()>;
    /// Leave the tree alone on drop.
    fn disarm(&mut self);
    /// Ends the command for good: `polite`, then `grace`, then KILL to all of the tree. Returns whether somebody else
    /// sees to that; otherwise the caller does it with [`signal`](Self::signal).
    ///
    /// Only processes that have a supervisor of their own elsewhere answer `true`: they can be asked to end while they
    /// cannot be reached, and grace is counted where they run. A wrapper that does not forward this still works.
    async fn end(&self, polite: Signal, grace: Duration) -> Result<bool> {
        let _ = (polite, grace);
        Ok(false)
    }
    /// The word of a supervisor elsewhere on how the command ended, once `exit` has resolved. `None` when there is no
    /// such supervisor, which is the default: the caller's own is the only one then.
    fn verdict(&self) -> Option<ExitStatus> {
        None
    }
    /// Why it failed, in words for the record, once `exit` has resolved. `None` where the output says it, which is the
    /// default: programs tell their own story.
    fn reason(&self) -> Option<String> {
        None
    }
}
