//! A target of a server as an executor: commands created over HTTP, watched over the attach WebSocket.
//!
//! This is the one place in the HTTP crate that implements the author traits of [`fleetcore::raw`]: it *is* a
//! backend, and the behaviour suite runs over it against a live server.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use fleetcore::{
    Channel, CommandEvent, CommandId, CommandSpec, Error, ErrorKind, ExecCapabilities, Executor, ExitKind,
    FileSystem, HostPort, Io, OpContext, Overflow, PtySize, Result, Session, SessionSpec, Signal, Target,
    raw::{BoxConnection, ProcessControl, RawProcess},
};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio_util::io::ReaderStream;

use super::{AttachOptions, Client, output::only_output, wire::NewCommand};

/// Bytes of input that may wait between the writer and the connection.
const STDIN_BUFFER: usize = 64 << 10;

/// Runs commands on one target of a server.
///
/// The server's supervisor owns the process; the parts returned by `spawn` own the server's command: dropping them
/// kills it. When this program dies without a chance to say so, a command with a time limit is still ended by the
/// server at that limit; one without runs on and stays in the server's list.
#[derive(Clone, Debug)]
pub struct RemoteExecutor {
    client: Client,
    target: Target,
    capabilities: ExecCapabilities,
}

impl RemoteExecutor {
    /// Asks the server what the target can do.
    ///
    /// # Errors
    /// `NotFound` for an unknown target, `Unavailable` when the server cannot be reached.
    pub async fn connect(client: Client, target: Target) -> Result<Self> {
        let mut capabilities = client.target(&target).await?.capabilities.unwrap_or_default();
        capabilities.native_files = true;
        capabilities.native_sessions = false;
        capabilities.reattach = true;
        Ok(Self { client, target, capabilities })
    }

    async fn parts(&self, id: CommandId, from: fleetcore::Offset, stdin: bool) -> Result<RawProcess> {
        let options = AttachOptions::default().read_only().with_from(Some(from));
        let mut events = only_output(self.client.attach_command(id, options).await?.output);
        let (bytes, output) = mpsc::channel::<Result<(Channel, Bytes)>>(1);
        let (ended, exit) = oneshot::channel::<Result<ExitKind>>();
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                match event {
                    Ok(CommandEvent::Output(chunk)) => {
                        if bytes.send(Ok((chunk.channel, chunk.data))).await.is_err() {
                            return;
                        }
                    }
                    Ok(CommandEvent::Gap { from, to }) => {
                        let lost =
                            Error::new(ErrorKind::DataLoss, "the server no longer has part of the output")
                                .with_context("from", from)
                                .with_context("to", to);
                        let _ = bytes.send(Err(lost)).await;
                        return;
                    }
                    Ok(CommandEvent::Exited(status)) => {
                        let _ = ended.send(Ok(status.kind));
                        if status.leaked {
                            // The pipes are still open over there: so is this stream, until nobody wants it.
                            bytes.closed().await;
                        }
                        return;
                    }
                    Ok(_) => {}
                    Err(e) => {
                        let _ = ended.send(Err(e));
                        return;
                    }
                }
            }
        });
        let output =
            futures::stream::unfold(output, |mut rx| async { rx.recv().await.map(|item| (item, rx)) });
        let exit = exit.map(|r| match r {
            Ok(exit) => exit,
            Err(_) => Err(Error::new(ErrorKind::Unavailable, "the end of the command was not seen")),
        });
        let stdin = stdin.then(|| {
            let (ours, theirs) = tokio::io::duplex(STDIN_BUFFER);
            let data = ReaderStream::new(theirs).map_err(|e| Error::io("client.stdin", e)).boxed();
            let client = self.client.clone();
            // An input the command no longer wants shows as a broken pipe to the writer, as locally.
            tokio::spawn(async move { client.write_stdin(id, data, true).await });
            Box::pin(ours) as _
        });
        let control = Control { client: self.client.clone(), id, armed: AtomicBool::new(true) };
        Ok(RawProcess {
            pid: None,
            output: output.boxed(),
            stdin,
            exit: exit.boxed(),
            control: Box::new(control),
        })
    }
}

#[async_trait]
impl Executor for RemoteExecutor {
    fn capabilities(&self) -> ExecCapabilities {
        self.capabilities.clone()
    }

    async fn ping(&self, cx: &OpContext) -> Result<()> {
        cx.guard("client.ping", self.client.ping(&self.target)).await.map(drop)
    }

    async fn spawn(&self, cx: &OpContext, id: CommandId, spec: &CommandSpec) -> Result<RawProcess> {
        let mut request = NewCommand::from_spec(&self.target, spec)?;
        request.id = Some(id.to_string());
        // The reader's pace must reach the process, or bytes would be dropped over there.
        request.overflow = Overflow::Block;
        // Our own supervisor enforces the limit; the server's is the safety net for when we are gone.
        request.timeout_ms = spec.timeout.map(|t| super::wire::millis(t + spec.grace));
        let stdin = match spec.io {
            Io::Pipes { stdin, .. } => stdin,
            _ => true,
        };
        // Until it is handed out the command is ours to end: also when this future is dropped half-way.
        let guard = Control { client: self.client.clone(), id, armed: AtomicBool::new(true) };
        let created = cx.guard("client.spawn", self.client.create_command(&request)).await;
        if let Err(e) = created {
            if !matches!(e.kind(), ErrorKind::Cancelled | ErrorKind::Timeout | ErrorKind::Unavailable) {
                guard.armed.store(false, Ordering::Relaxed);
            }
            return Err(e);
        }
        let parts = cx.guard("client.spawn", self.parts(id, fleetcore::Offset(0), stdin)).await?;
        guard.armed.store(false, Ordering::Relaxed);
        Ok(parts)
    }

    async fn reattach(&self, cx: &OpContext, id: CommandId, from: fleetcore::Offset) -> Result<RawProcess> {
        let command = cx.guard("client.reattach", self.client.command(id)).await?;
        cx.guard("client.reattach", self.parts(id, from, command.pty.is_some())).await
    }

    async fn open_session(&self, _cx: &OpContext, _spec: SessionSpec) -> Result<Arc<dyn Session>> {
        Err(Error::unsupported("client.open_session"))
    }

    fn files(&self) -> Result<Arc<dyn FileSystem>> {
        Ok(Arc::new(self.client.files(&self.target)))
    }

    async fn connect(&self, cx: &OpContext, to: &HostPort) -> Result<BoxConnection> {
        let stream = cx.guard("client.connect", self.client.connect(&self.target, to)).await?;
        Ok(Box::new(stream))
    }
}

struct Control {
    client: Client,
    id: CommandId,
    armed: AtomicBool,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("id", &self.id).finish_non_exhaustive()
    }
}

#[async_trait]
impl ProcessControl for Control {
    async fn signal(&self, signal: Signal) -> Result<()> {
        match self.client.signal(self.id, signal).await {
            // A tree that is gone is not an error.
            Err(e) if matches!(e.kind(), ErrorKind::InvalidState | ErrorKind::NotFound) => Ok(()),
            other => other,
        }
    }

    async fn resize(&self, size: PtySize) -> Result<()> {
        self.client.resize(self.id, size).await
    }

    fn disarm(&mut self) {
        self.armed.store(false, Ordering::Relaxed);
    }

    async fn end(&self, _polite: Signal, _grace: Duration) -> Result<bool> {
        // Signals would not do: when the first process goes on TERM and the rest does not, the server takes the command
        // for ended before a KILL of ours comes, and leaves the rest alone. It knows the grace.
        match self.client.cancel(self.id).await {
            Err(e) if matches!(e.kind(), ErrorKind::InvalidState | ErrorKind::NotFound) => Ok(true),
            done => done.map(|_| true),
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if !self.armed.load(Ordering::Relaxed) {
            return;
        }
        // Dropping cannot wait. Without a runtime there is nobody to send it; the server's limit remains.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (client, id) = (self.client.clone(), self.id);
            runtime.spawn(async move { client.signal(id, Signal::Kill).await });
        }
    }
}
