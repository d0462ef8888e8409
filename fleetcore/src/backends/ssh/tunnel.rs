//! Connections that a host makes for us (`direct-tcpip`, RFC 4254, section 7.2).

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use russh::{
    ChannelMsg, ChannelOpenFailure, ChannelReadHalf, ChannelWriteHalf, Error as SshError, client::Msg,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use super::{
    error,
    input::Input,
    pool::{Lease, Pool},
};
use crate::{
    Error, ErrorKind, HostPort, Result,
    raw::{BoxConnection, OpContext},
};

/// Connections to try: one that was idle may have been closed unnoticed.
const ATTEMPTS: usize = 3;
/// Messages of at most 32 KiB that may wait for the reader.
const QUEUE: usize = 16;
/// How long the host may take to agree that a channel is closed, before the connection is not used again.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// Who connects, as the host gets to hear it; there is nothing to tell.
const ORIGIN: (&str, u32) = ("127.0.0.1", 0);

/// Lets the host connect to `to`. Each gets a connection of its own to the host: a reader that stands still holds up all of
/// it, because russh has no window of its own for each channel that a reader could keep shut.
pub(super) async fn connect(pool: &Arc<Pool>, cx: &OpContext, to: &HostPort) -> Result<BoxConnection> {
    // A channel that is half open when its caller loses interest would stay so; a task sees it through.
    let (pool, wanted) = (Arc::clone(pool), to.clone());
    let opening = tokio::spawn(async move { open(&pool, &wanted).await });
    let opened = async {
        opening.await.unwrap_or_else(|e| {
            Err(Error::new(ErrorKind::Unexpected, e.to_string()).with_operation("connect"))
        })
    };
    let tunnel = cx.guard("connect", opened).await?;
    Ok(Box::new(tunnel))
}

async fn open(pool: &Arc<Pool>, to: &HostPort) -> Result<Tunnel> {
    let named =
        |e: Error| e.with_context("address", to).with_context("target", format!("ssh/{}", pool.name()));
    let mut attempt = 1;
    let (lease, channel) = loop {
        let lease = pool.lease(true).await?;
        let session = lease.session();
        match session.channel_open_direct_tcpip(to.host(), to.port().into(), ORIGIN.0, ORIGIN.1).await {
            Ok(channel) => break (lease, channel),
            Err(e) if error::is_broken(&e) && attempt < ATTEMPTS => {
                lease.broken();
                attempt += 1;
            }
            Err(e) => return Err(named(refused(e))),
        }
    };
    let (read, write) = channel.split();
    let (pieces, queue) = mpsc::channel(QUEUE);
    let over = CancellationToken::new();
    let writer = Input::new(write.make_writer(), over.clone(), false);
    tokio::spawn(pump(read, write, lease, pieces, over));
    Ok(Tunnel { writer, queue, rest: Bytes::new(), ended: false })
}

/// The host's refusal, in the words all backends use.
fn refused(e: SshError) -> Error {
    let (kind, message) = match &e {
        SshError::ChannelOpenFailure(ChannelOpenFailure::ConnectFailed) => {
            (ErrorKind::Unavailable, "the host cannot connect to the address")
        }
        SshError::ChannelOpenFailure(ChannelOpenFailure::AdministrativelyProhibited) => {
            (ErrorKind::PermissionDenied, "the host allows no connections (AllowTcpForwarding, PermitOpen)")
        }
        _ => return error::ssh("connect", e),
    };
    Error::new(kind, message).with_operation("connect").with_source(e)
}

/// Takes what comes from the host, for as long as somebody reads it, and then sees to it that the channel is closed. News
/// about windows come the same way, so it must go on while nobody reads.
async fn pump(
    mut read: ChannelReadHalf,
    write: ChannelWriteHalf<Msg>,
    lease: Lease,
    pieces: mpsc::Sender<Option<Bytes>>,
    over: CancellationToken,
) {
    let _over = over.drop_guard();
    loop {
        let message = tokio::select! {
            message = read.wait() => message,
            () = pieces.closed() => break,
        };
        let piece = match message {
            Some(ChannelMsg::Data { data }) if data.is_empty() => continue,
            Some(ChannelMsg::Data { data }) => Some(data),
            Some(ChannelMsg::Eof) => None,
            Some(ChannelMsg::Close) => {
                // sshd says so without an end before it only when the connection was reset.
                drop(pieces);
                let _ = write.close().await;
                return;
            }
            Some(_) => continue,
            None => return lease.broken(),
        };
        if pieces.send(piece).await.is_err() {
            break;
        }
    }
    let _ = write.close().await;
    let closed = async {
        loop {
            match read.wait().await {
                None => return false,
                Some(ChannelMsg::Close) => return true,
                Some(_) => {}
            }
        }
    };
    match tokio::time::timeout(CLOSE_LIMIT, closed).await {
        Ok(true) => lease.connection().closed_by_force(),
        Ok(false) | Err(_) => lease.broken(),
    }
}

struct Tunnel {
    writer: Input,
    /// What comes; `None` is its end.
    queue: mpsc::Receiver<Option<Bytes>>,
    rest: Bytes,
    ended: bool,
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            match ready!(self.queue.poll_recv(cx)) {
                Some(Some(data)) => self.rest = data,
                Some(None) => {
                    self.ended = true;
                    return Poll::Ready(Ok(()));
                }
                None => {
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::ConnectionReset,
                        error::lost("connect"),
                    )));
                }
            }
        }
        let n = self.rest.len().min(buf.remaining());
        buf.put_slice(self.rest.get(..n).unwrap_or_default());
        self.rest.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        Pin::new(&mut self.writer).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}
