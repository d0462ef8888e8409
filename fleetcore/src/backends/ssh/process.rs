//! One command on a machine: reading its channel, signalling its tree.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig, client::Msg};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{
    error,
    output::Queue,
    pool::{Connection, Lease},
};
use crate::{Channel, CommandId, Error, ErrorKind, ExitKind, PtySize, Result, Signal, raw::ProcessControl};

/// Output that may still come once the leader has ended and before its end is told: what the host and the way to it can
/// hold. A descendant may go on writing for ever.
const LATE_BYTES: usize = 2 << 20;
/// How long the host may take to close a channel whose command is gone. What a command left running may hold it open
/// for ever.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// Standard error, RFC 4254 section 5.2.
const STDERR: u32 = 1;

/// What the parts of a running command share.
pub(super) struct Running {
    pub(super) id: CommandId,
    pub(super) terminal: bool,
    pub(super) connection: Arc<Connection>,
    pub(super) write: ChannelWriteHalf<Msg>,
    pub(super) queue: Arc<Queue>,
    /// The channel is closed.
    pub(super) over: CancellationToken,
    /// We closed it, and will not hear of it any more.
    closed: CancellationToken,
    /// Of the leader and its group; 0 until it is known.
    pid: AtomicU32,
    /// The leader has ended: its number may come to mean somebody else.
    ended: AtomicBool,
    /// A search after the leader's end is done: there is nobody left who could start more.
    gone: AtomicBool,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("id", &self.id).field("pid", &self.pid).finish_non_exhaustive()
    }
}

impl Running {
    pub(super) fn new(
        id: CommandId,
        terminal: bool,
        connection: Arc<Connection>,
        write: ChannelWriteHalf<Msg>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            terminal,
            connection,
            write,
            queue: Arc::default(),
            over: CancellationToken::new(),
            closed: CancellationToken::new(),
            pid: AtomicU32::new(0),
            ended: AtomicBool::new(false),
            gone: AtomicBool::new(false),
        })
    }

    pub(super) fn main_channel(&self) -> Channel {
        if self.terminal { Channel::Pty } else { Channel::Stdout }
    }

    pub(super) async fn begun(&self, pid: u32) -> Result<()> {
        self.pid.store(pid, Ordering::Release);
        self.connection.helper().begun(self.id, pid, self.terminal).await
    }

    /// Closes the channel although the host has not.
    async fn force_close(&self) {
        let _ = self.write.close().await;
        self.closed.cancel();
        if self.pid.load(Ordering::Acquire) == 0 {
            // Whatever may still begin on it ends with the connection.
            self.connection.retire();
        } else {
            self.connection.closed_by_force();
        }
    }

    async fn signal(&self, signal: Signal) -> Result<()> {
        let ended = self.ended.load(Ordering::Acquire);
        if self.gone.load(Ordering::Acquire) || (ended && signal != Signal::Kill) {
            return Ok(());
        }
        let lifted = self.queue.lift();
        if signal == Signal::Kill {
            // For good: the end of the command comes behind its last output, which may have no reader.
            lifted.keep();
        }
        let pid = Some(self.pid.load(Ordering::Acquire)).filter(|pid| !ended && *pid > 1);
        self.connection.helper().signal(signal, self.id, pid, self.terminal).await?;
        drop(lifted);
        if ended {
            self.gone.store(true, Ordering::Release);
        }
        Ok(())
    }
}

/// Signals, resizes and finally ends a tree.
#[derive(Debug)]
pub(super) struct SshControl {
    running: Arc<Running>,
    armed: bool,
}

impl SshControl {
    pub(super) fn new(running: Arc<Running>) -> Self {
        Self { running, armed: true }
    }
}

#[async_trait]
impl ProcessControl for SshControl {
    async fn signal(&self, signal: Signal) -> Result<()> {
        self.running.signal(signal).await
    }

    async fn resize(&self, size: PtySize) -> Result<()> {
        size.check()?;
        if !self.running.terminal {
            return Err(
                Error::new(ErrorKind::InvalidState, "the command has no terminal").with_operation("resize")
            );
        }
        let lifted = self.running.queue.lift();
        let sent = self.running.write.window_change(size.cols.into(), size.rows.into(), 0, 0).await;
        drop(lifted);
        match sent {
            // A terminal that is gone has no size.
            Ok(()) | Err(russh::Error::SendError) => Ok(()),
            Err(e) => Err(error::ssh("resize", e)),
        }
    }

    fn disarm(&mut self) {
        self.armed = false;
    }
}

impl Drop for SshControl {
    /// Where there is no runtime any more, the connection ends with it, and the helper on the machine kills.
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (running, armed) = (Arc::clone(&self.running), self.armed);
        runtime.spawn(async move {
            if armed && let Err(err) = running.signal(Signal::Kill).await {
                tracing::debug!(command = %running.id, %err, "left to the helper on the machine");
            }
            let begun = running.pid.load(Ordering::Acquire) != 0;
            if begun {
                running.connection.helper().forget(running.id);
            }
            // The host closes the channel once nobody has it open any more.
            if tokio::time::timeout(CLOSE_LIMIT, running.over.cancelled()).await.is_err() {
                // What has not begun by now may do so yet: the helper keeps it on its list, and kills it when the
                // connection ends.
                running.force_close().await;
            } else if !begun {
                running.connection.helper().forget(running.id);
            }
        });
    }
}

/// The number of a signal by its name; those that SSH has names for, as Linux and the BSDs number them.
fn number(signal: &Sig) -> Option<i32> {
    Some(match signal {
        Sig::HUP => 1,
        Sig::INT => 2,
        Sig::QUIT => 3,
        Sig::ILL => 4,
        Sig::ABRT => 6,
        Sig::FPE => 8,
        Sig::KILL => 9,
        Sig::SEGV => 11,
        Sig::PIPE => 13,
        Sig::ALRM => 14,
        Sig::TERM => 15,
        Sig::USR1 => 10,
        Sig::Custom(name) => match name.as_str() {
            "USR2" => 12,
            "TRAP" => 5,
            "BUS" => 7,
            "XCPU" => 24,
            "XFSZ" => 25,
            "SYS" => 31,
            _ => return None,
        },
    })
}

/// What a message says about the end of the leader.
pub(super) fn end(msg: &ChannelMsg) -> Option<ExitKind> {
    match msg {
        ChannelMsg::ExitStatus { exit_status } => {
            Some(i32::try_from(*exit_status).map_or(ExitKind::Unknown, ExitKind::Code))
        }
        ChannelMsg::ExitSignal { signal_name, .. } => {
            Some(number(signal_name).map_or(ExitKind::Unknown, ExitKind::Signal))
        }
        _ => None,
    }
}

/// Moves what the channel brings to the queue, and tells the end, which may have come (`ended`) before the first output.
/// Ends when the channel does; `lease` is held so long.
pub(super) async fn pump(
    mut read: ChannelReadHalf,
    running: Arc<Running>,
    lease: Lease,
    mut ended: Option<ExitKind>,
    exit: oneshot::Sender<Result<ExitKind>>,
) {
    let mut exit = Some(exit);
    let (mut eof, mut late, mut news) = (false, 0, false);
    // sshd tells the end of the leader at once, however much of its output is still under way. So when no end of output
    // follows, the host is asked for an answer, which comes behind what it had to send.
    let mut barrier: Option<BoxFuture<'static, Result<()>>> = None;
    let queue = Arc::clone(&running.queue);
    let tell = |exit: &mut Option<oneshot::Sender<_>>, kind| {
        let _ = exit.take().map(|e: oneshot::Sender<Result<ExitKind>>| e.send(kind));
    };
    loop {
        if let Some(kind) = ended {
            running.ended.store(true, Ordering::Release);
            if eof || late > LATE_BYTES {
                tell(&mut exit, Ok(kind));
            }
            if exit.is_some() && barrier.is_none() {
                news = false;
                let connection = Arc::clone(&running.connection);
                barrier = Some(Box::pin(async move { connection.ping().await }));
            }
        }
        let room = queue.has_room();
        tokio::select! {
            biased;
            () = running.closed.cancelled() => break,
            msg = read.wait(), if room => match msg {
                Some(ChannelMsg::Data { data }) => {
                    news = true;
                    late += if ended.is_some() { data.len() } else { 0 };
                    queue.push(running.main_channel(), data);
                }
                Some(ChannelMsg::ExtendedData { data, ext: STDERR }) => {
                    news = true;
                    late += if ended.is_some() { data.len() } else { 0 };
                    queue.push(Channel::Stderr, data);
                }
                Some(ChannelMsg::Eof) => {
                    eof = true;
                    queue.finish(false);
                }
                Some(ChannelMsg::Close) | None => break,
                Some(other) => ended = ended.or(end(&other)),
            },
            () = queue.changed(), if !room => {}
            answer = async { match &mut barrier { Some(b) => b.await, None => Ok(()) } }, if barrier.is_some() => {
                barrier = None;
                if (!news || answer.is_err()) && let Some(kind) = ended {
                    tell(&mut exit, Ok(kind));
                }
            }
        }
    }
    running.over.cancel();
    queue.finish(ended.is_none() && !eof);
    tell(&mut exit, ended.ok_or_else(|| error::lost("wait")));
    drop(lease);
}

/// Hands over what came before anybody was there to read it.
pub(super) fn push_early(running: &Running, early: Vec<u8>) {
    running.queue.push(running.main_channel(), Bytes::from(early));
}
