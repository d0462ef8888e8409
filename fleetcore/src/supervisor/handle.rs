//! A shared view of a running command.

use std::{
    fmt,
    ops::Range,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    sync::{Mutex as AsyncMutex, mpsc, oneshot, watch},
};
use tokio_util::sync::CancellationToken;

use crate::{
    CommandId, CommandRecord, CommandStream, EndReason, Error, ErrorKind, ExitStatus, Offset, PtySize,
    Result, Signal,
    journal::{Journal, JournalStream},
};

/// What a handle asks of the supervisor and waits for.
pub(super) enum Request {
    Signal(Signal, oneshot::Sender<Result<()>>),
    Resize(PtySize, oneshot::Sender<Result<()>>),
}

pub(super) type Stdin = Pin<Box<dyn AsyncWrite + Send>>;

pub(super) struct Shared {
    pub(super) id: CommandId,
    pub(super) journal: Arc<Journal>,
    pub(super) record: Mutex<Arc<CommandRecord>>,
    pub(super) requests: mpsc::Sender<Request>,
    /// The first reason to end the command wins.
    pub(super) end: watch::Sender<Option<EndReason>>,
    pub(super) exit: watch::Sender<Option<ExitStatus>>,
    /// Written by the callers themselves: the supervisor never waits for a write.
    pub(super) stdin: AsyncMutex<Option<Stdin>>,
    /// Cancelled to leave the process alone; `None` when it cannot live without us.
    pub(super) let_go: Option<CancellationToken>,
    /// No owner will end it.
    pub(super) detached: AtomicBool,
}

impl Shared {
    pub(super) async fn told_to_let_go(&self) {
        match &self.let_go {
            Some(token) => token.cancelled().await,
            None => std::future::pending().await,
        }
    }

    pub(super) fn request_end(&self, why: EndReason) {
        self.end.send_if_modified(|reason| {
            let first = reason.is_none();
            if first {
                *reason = Some(why);
            }
            first
        });
    }
}

/// A shared view of a command: stream, control, wait. Dropping it changes nothing.
#[derive(Clone)]
pub struct CommandHandle {
    pub(super) shared: Arc<Shared>,
}

impl fmt::Debug for CommandHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandHandle").field("id", &self.shared.id).finish_non_exhaustive()
    }
}

impl CommandHandle {
    /// Its id.
    pub fn id(&self) -> CommandId {
        self.shared.id
    }

    /// Its record as of now.
    pub fn record(&self) -> Arc<CommandRecord> {
        let record = Arc::clone(&self.shared.record.lock());
        let end = self.output_end();
        if record.output_end == end {
            return record;
        }
        Arc::new(CommandRecord { output_end: end, ..CommandRecord::clone(&record) })
    }

    /// Events from byte `from` on (at most the current end); ends with [`Exited`](crate::CommandEvent::Exited).
    pub fn stream(&self, from: Offset) -> Box<dyn CommandStream> {
        Box::new(self.subscribe(from))
    }

    /// As [`stream`](Self::stream), but the command never waits for this reader, not even under
    /// [`Overflow::Block`](crate::Overflow::Block): one that is too far behind reads the durable log if there is one,
    /// else it sees a [`Gap`](crate::CommandEvent::Gap). For those who may look but not steer.
    pub fn watch(&self, from: Offset) -> Box<dyn CommandStream> {
        Box::new(self.shared.journal.watch(from))
    }

    pub(crate) fn subscribe(&self, from: Offset) -> JournalStream {
        self.shared.journal.subscribe(from)
    }

    /// Bytes of `range` that are still in the replay window, all channels.
    pub fn slice(&self, range: Range<Offset>) -> Vec<u8> {
        self.shared.journal.slice(range)
    }

    /// End of output so far.
    pub fn output_end(&self) -> Offset {
        self.shared.journal.end()
    }

    /// Writes to the command's input; resolves when the process side has taken all of it. Writes of several callers
    /// follow one another. Dropping the future may leave a part written.
    ///
    /// # Errors
    /// `InvalidState` when the command has no input, has closed it, or has ended.
    pub async fn write_stdin(&self, data: impl Into<Bytes>) -> Result<()> {
        let data = data.into();
        let closed = || {
            Error::new(ErrorKind::InvalidState, "the command's input is not open")
                .with_operation("write_stdin")
                .with_context("command", self.shared.id)
        };
        let write = async {
            let mut stdin = self.shared.stdin.lock().await;
            let pipe = stdin.as_mut().ok_or_else(closed)?;
            let done = async {
                pipe.write_all(&data).await?;
                pipe.flush().await
            };
            done.await.map_err(|e| closed().with_source(e))
        };
        self.unless_ended(write).await.unwrap_or_else(|| Err(closed()))
    }

    /// Ends the input, after everything written before; on a terminal, types end-of-file. Closing twice is fine.
    pub async fn close_stdin(&self) {
        let close = async {
            if let Some(mut pipe) = self.shared.stdin.lock().await.take() {
                // A pipe whose reader is gone is as closed as can be.
                let _ = pipe.shutdown().await;
            }
        };
        self.unless_ended(close).await;
    }

    async fn unless_ended<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut exit = self.shared.exit.subscribe();
        tokio::select! {
            biased;
            // First, so that nothing is accepted after the end: a pipe to another host would take it.
            _ = exit.wait_for(Option::is_some) => None,
            done = work => Some(done),
        }
    }

    async fn ask(&self, make: impl FnOnce(oneshot::Sender<Result<()>>) -> Request) -> Result<()> {
        let ended = |_| {
            Error::new(ErrorKind::InvalidState, "the command has ended")
                .with_context("command", self.shared.id)
        };
        let (tx, rx) = oneshot::channel();
        self.shared.requests.send(make(tx)).await.map_err(|e| ended(e.to_string()))?;
        rx.await.map_err(|e| ended(e.to_string()))?
    }

    /// Signals the whole tree.
    ///
    /// # Errors
    /// `InvalidState` when the command has ended, `Unsupported` where signals are.
    pub async fn signal(&self, signal: Signal) -> Result<()> {
        self.ask(|tx| Request::Signal(signal, tx)).await
    }

    /// Changes the terminal size.
    ///
    /// # Errors
    /// `InvalidInput` for a size no terminal has, `InvalidState` without a terminal or when the command has ended.
    pub async fn resize(&self, size: PtySize) -> Result<()> {
        size.check()?;
        self.ask(|tx| Request::Resize(size, tx)).await
    }

    /// Ends the command: TERM (HUP on a terminal), grace, KILL to the tree. Returns at once; `wait` for the end.
    pub fn cancel(&self) {
        self.shared.request_end(EndReason::Requested);
    }

    pub(crate) fn end(&self, why: EndReason) {
        self.shared.request_end(why);
    }

    /// Ends the command because this process ends, unless it runs on elsewhere and nobody owns it: then it is left
    /// alone, to be taken up again.
    pub(crate) fn leave(&self) {
        match &self.shared.let_go {
            Some(token) if self.shared.detached.load(Ordering::Acquire) => token.cancel(),
            _ => self.end(EndReason::Shutdown),
        }
    }

    /// Waits for the end. Any number of callers; cancel-safe.
    ///
    /// # Errors
    /// `Unavailable` when the supervisor vanished with its runtime.
    pub async fn wait(&self) -> Result<ExitStatus> {
        let mut exit = self.shared.exit.subscribe();
        let supervisor_gone = self.shared.requests.closed();
        let seen = tokio::select! {
            biased;
            seen = exit.wait_for(Option::is_some) => seen.ok().and_then(|status| *status),
            () = supervisor_gone => *self.shared.exit.borrow(),
        };
        seen.ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, "the command's supervisor is gone")
                .with_operation("wait")
                .with_context("command", self.shared.id)
        })
    }
}
