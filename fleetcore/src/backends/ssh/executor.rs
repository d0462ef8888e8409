//! Commands on one host.

use std::{pin::Pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::StreamExt as _;
use russh::{Channel as SshChannel, ChannelMsg, ChannelReadHalf, Pty, client::Msg};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{io::AsyncWrite, sync::oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    error,
    files::SshFiles,
    helper::lines,
    input::Input,
    pool::{Lease, Pool},
    process::{Running, SshControl, end as process_end, pump, push_early},
    script::{self, Begin},
    tunnel,
};
use crate::{
    CommandId, CommandSpec, Error, ErrorKind, ExecCapabilities, ExitKind, HostPort, Io, Offset, Overflow,
    Result, SessionSpec,
    raw::{BoxConnection, Executor, FileSystem, OpContext, ProcessControl as _, RawProcess, Session},
};

/// Attempts to open a channel: on a connection that turned out to be broken, or that had no room after all.
const ATTEMPTS: usize = 4;
/// How long the shell on the machine may take to become the command; a heavy login script is in this.
const BEGIN_LIMIT: Duration = Duration::from_secs(60);
/// What login scripts print before the command begins is dropped, up to this much.
const NOISE_MAX: usize = 256 << 10;
/// How much of what a shell says on standard error is quoted when nothing begins.
const SAID_MAX: usize = 512;

/// A terminal as it is opened: bytes go through as they are. The wrapper sets it to rights.
const RAW: &[(Pty, u32)] =
    &[(Pty::ECHO, 0), (Pty::ICANON, 0), (Pty::ISIG, 0), (Pty::IEXTEN, 0), (Pty::ICRNL, 0), (Pty::IXON, 0)];

/// One host. Connects when it must.
#[derive(Clone, Debug)]
pub struct SshExecutor {
    pool: Arc<Pool>,
    /// Commands get a connection of their own whatever they ask for.
    exclusive: bool,
}

impl SshExecutor {
    pub(super) fn new(pool: Arc<Pool>) -> Self {
        Self { pool, exclusive: false }
    }

    /// The same host for commands whose output may be left unread for long.
    pub(super) fn exclusive(&self) -> Self {
        Self { pool: Arc::clone(&self.pool), exclusive: true }
    }

    /// A channel, and the place it takes.
    async fn open(&self, exclusive: bool) -> Result<(Lease, SshChannel<Msg>)> {
        let mut attempt = 1;
        loop {
            let lease = self.pool.lease(exclusive).await?;
            match lease.connection().open().await {
                Ok(channel) => return Ok((lease, channel)),
                Err(e) if error::is_broken(&e) => {
                    lease.broken();
                    if attempt >= ATTEMPTS {
                        return Err(self.named(error::ssh("spawn", e)));
                    }
                }
                Err(e) => {
                    if !lease.refused() || attempt >= ATTEMPTS {
                        return Err(self.named(error::ssh("spawn", e)));
                    }
                }
            }
            attempt += 1;
        }
    }

    fn named(&self, error: Error) -> Error {
        error.with_context("target", format!("ssh/{}", self.pool.name()))
    }

    /// Starts a command. Must run to its end: a channel on the way to being opened has nobody who would close it.
    /// `dropped` says that nobody wants the command any more.
    async fn start(
        &self,
        id: CommandId,
        spec: &CommandSpec,
        dropped: &CancellationToken,
    ) -> Result<RawProcess> {
        let token = format!("fleetcore-{:032x}", rand::random::<u128>());
        let line = script::command(id, &token, spec)?;
        // A reader that holds its command back holds back the whole connection: russh has no window of its own for
        // each channel that a reader could keep shut.
        let exclusive = self.exclusive || spec.overflow == Overflow::Block;
        let (lease, channel) = self.open(exclusive).await?;
        let (mut read, write) = channel.split();
        let terminal = matches!(spec.io, Io::Pty(_));
        let running = Running::new(id, terminal, Arc::clone(lease.connection()), write);
        let mut control = SshControl::new(Arc::clone(&running));
        let mut ended = None;
        // A shell that has its line cannot be called back, nor found before it has become the command. So a start that
        // nobody wants any more goes on until there is something to kill.
        let begun = if dropped.is_cancelled() {
            Err(gone())
        } else {
            begin(&mut read, &running, &token, &line, spec, &mut ended).await
        };
        let (told, exit) = oneshot::channel();
        let output = running.queue.reader();
        tokio::spawn(pump(read, Arc::clone(&running), lease, ended, told));
        if let Err(e) = begun {
            if let Begun::Refused = e.0 {
                control.disarm(); // its shell has ended by itself
            }
            let e = if e.1.operation().is_empty() { e.1.with_operation("spawn") } else { e.1 };
            return Err(self.named(e));
        }
        let stdin = (terminal || matches!(spec.io, Io::Pipes { stdin: true, .. })).then(|| {
            let input = Input::new(running.write.make_writer(), running.over.clone(), terminal);
            Box::pin(input) as Pin<Box<dyn AsyncWrite + Send>>
        });
        let exit = Box::pin(async move { exit.await.unwrap_or_else(|_| Err(error::lost("wait"))) });
        Ok(RawProcess { pid: None, output: output.boxed(), stdin, exit, control: Box::new(control) })
    }
}

/// How a start failed.
enum Begun {
    /// The shell on the machine said why, and ended.
    Refused,
    /// Something may have begun.
    Unclear,
}

type Failed = (Begun, Error);

fn unclear(error: Error) -> Failed {
    (Begun::Unclear, error)
}

fn gone() -> Failed {
    unclear(Error::new(ErrorKind::Cancelled, "the request was dropped before the command began"))
}

/// Hands the command to the machine and waits until it has begun; `ended` is set if it has ended even before that was
/// told.
async fn begin(
    read: &mut ChannelReadHalf,
    running: &Running,
    token: &str,
    line: &SecretString,
    spec: &CommandSpec,
    ended: &mut Option<ExitKind>,
) -> std::result::Result<(), Failed> {
    let failed = |e| unclear(error::ssh("spawn", e));
    let write = &running.write;
    running.connection.helper().add(running.id).await.map_err(unclear)?;
    if let Io::Pty(size) = spec.io {
        write
            .request_pty(false, "xterm-256color", size.cols.into(), size.rows.into(), 0, 0, RAW)
            .await
            .map_err(failed)?;
    }
    write.exec(true, script::BOOTSTRAP).await.map_err(failed)?;
    write.data_bytes(line.expose_secret().as_bytes().to_vec()).await.map_err(failed)?;
    if matches!(spec.io, Io::Pipes { stdin: false, .. }) {
        write.eof().await.map_err(failed)?;
    }
    let (mut buffer, mut noise, mut said) = (Vec::new(), 0, Vec::new());
    let wait = async {
        loop {
            match read.wait().await {
                Some(ChannelMsg::Data { data }) => {
                    noise += data.len();
                    buffer.extend_from_slice(&data);
                    if let Some(begin) = lines(&mut buffer, token).next() {
                        return Ok(Begin::parse(&begin));
                    }
                    if noise > NOISE_MAX {
                        let message = "the shell on the machine prints without end before the command begins";
                        return Err(Error::new(ErrorKind::Unexpected, message));
                    }
                }
                Some(ChannelMsg::ExtendedData { data, .. }) => {
                    said.extend(data.iter().take(SAID_MAX.saturating_sub(said.len())));
                }
                Some(ChannelMsg::Failure) => {
                    return Err(Error::new(ErrorKind::Unsupported, "the host does not run commands for us"));
                }
                Some(ChannelMsg::Close) => {
                    return Err(Error::new(ErrorKind::Unexpected, "the shell on the machine ended early")
                        .with_context("said", String::from_utf8_lossy(&said).trim().escape_debug()));
                }
                None => return Err(error::lost("spawn")),
                // sshd may tell the end of a quick command before it has read what that wrote.
                Some(other) => *ended = ended.or(process_end(&other)),
            }
        }
    };
    let began = tokio::time::timeout(BEGIN_LIMIT, wait).await.unwrap_or_else(|_| {
        let message = "the shell on the machine did not begin the command in time";
        Err(Error::new(ErrorKind::Timeout, message).with_context("limit_s", BEGIN_LIMIT.as_secs()))
    });
    match began.map_err(unclear)? {
        Begin::Pid(pid) => running.begun(pid).await.map_err(unclear)?,
        Begin::Failed(why) => return Err((Begun::Refused, script::refusal(&why, spec))),
    }
    push_early(running, buffer);
    Ok(())
}

#[async_trait]
impl Executor for SshExecutor {
    fn capabilities(&self) -> ExecCapabilities {
        ExecCapabilities {
            pty: true,
            stdin: true,
            split_output: true,
            signals: true,
            native_files: true,
            connect: true,
            ..ExecCapabilities::default()
        }
    }

    async fn ping(&self, cx: &OpContext) -> Result<()> {
        let ping = async {
            let lease = self.pool.lease(false).await?;
            match lease.connection().ping().await {
                Ok(()) => Ok(()),
                // It may have been closed long ago, unnoticed. A fresh one says how things are.
                Err(_) => {
                    lease.broken();
                    self.pool.lease(false).await?.connection().ping().await.map_err(|e| self.named(e))
                }
            }
        };
        cx.guard("ping", ping).await
    }

    async fn spawn(&self, cx: &OpContext, id: CommandId, spec: &CommandSpec) -> Result<RawProcess> {
        let (this, spec, dropped) = (self.clone(), spec.clone(), CancellationToken::new());
        let _dropped = dropped.clone().drop_guard();
        // What it gives when nobody waits any more is dropped, and so killed.
        let start = tokio::spawn(async move { this.start(id, &spec, &dropped).await });
        let start = async {
            start.await.unwrap_or_else(|e| {
                Err(Error::new(ErrorKind::Unexpected, e.to_string()).with_operation("spawn"))
            })
        };
        cx.guard("spawn", start).await
    }

    async fn reattach(&self, _cx: &OpContext, _id: CommandId, _from: Offset) -> Result<RawProcess> {
        Err(Error::unsupported("reattach"))
    }

    async fn open_session(&self, _cx: &OpContext, _spec: SessionSpec) -> Result<Arc<dyn Session>> {
        Err(Error::unsupported("open_session"))
    }

    fn files(&self) -> Result<Arc<dyn FileSystem>> {
        Ok(Arc::new(SshFiles::new(Arc::clone(&self.pool), self)))
    }

    async fn connect(&self, cx: &OpContext, to: &HostPort) -> Result<BoxConnection> {
        tunnel::connect(&self.pool, cx, to).await
    }
}
