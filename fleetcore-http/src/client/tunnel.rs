//! Connections to addresses that targets of a server can reach.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use fleetcore::{HostPort, Result, Target};
use futures::{Sink, Stream as _};
use reqwest::Upgraded;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error as WsError, Message,
        protocol::{CloseFrame, WebSocketConfig},
    },
};

use super::Client;

/// Name of the protocol: binary messages are bytes, an empty one is the end of its direction.
const SUBPROTOCOL: &str = "fleetcore.tunnel.v1";
/// Largest message of the server that is taken; its own are at most 64 KiB.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Largest message of ours.
const PIECE_BYTES: usize = 64 << 10;

impl Client {
    /// Connects to an address as seen from a target: `localhost` is the target.
    ///
    /// # Errors
    /// `NotFound` for an unknown target; `PermissionDenied` when the server or the agent does not allow the address, or the
    /// scope `tunnels` is missing; `Unavailable` when nothing answers there or the server cannot be reached;
    /// `Unsupported`; `RateLimited` when there are too many.
    pub async fn connect(&self, target: &Target, to: &HostPort) -> Result<TunnelStream> {
        let path = ["api", "v1", "targets", &target.to_string(), "tunnel"];
        let query = [("host", to.host().to_owned()), ("port", to.port().to_string())];
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX))
            // Bytes go out as they come: a keystroke must not wait for a buffer to fill.
            .write_buffer_size(0);
        let socket = self.websocket("client.connect", &path, &query, SUBPROTOCOL, config).await?;
        Ok(TunnelStream { socket, rest: Bytes::new(), read: Reading::Open, ended: false })
    }
}

/// How far reading has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Open,
    Ended,
    Broken,
}

/// A connection through a server. Shutting it down leaves the other direction open; an error of reading means that bytes
/// may be missing. Dropping it closes both directions.
pub struct TunnelStream {
    socket: WebSocketStream<Upgraded>,
    rest: Bytes,
    read: Reading,
    /// We have said that we send no more.
    ended: bool,
}

impl fmt::Debug for TunnelStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelStream")
            .field("read", &self.read)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

fn reset(frame: Option<&CloseFrame>) -> io::Error {
    let why = match frame {
        Some(frame) if !frame.reason.is_empty() => frame.reason.to_string(),
        _ => "the connection broke".to_owned(),
    };
    io::Error::new(io::ErrorKind::ConnectionReset, why)
}

fn broken(e: WsError) -> io::Error {
    match e {
        WsError::Io(e) => e,
        e => io::Error::new(io::ErrorKind::BrokenPipe, e),
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.rest.is_empty() {
            match this.read {
                Reading::Open => {}
                Reading::Ended => return Poll::Ready(Ok(())),
                Reading::Broken => return Poll::Ready(Err(reset(None))),
            }
            match ready!(Pin::new(&mut this.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(data))) if data.is_empty() => this.read = Reading::Ended,
                Some(Ok(Message::Binary(data))) => this.rest = data,
                Some(Ok(Message::Close(frame))) => {
                    this.read = Reading::Broken;
                    return Poll::Ready(Err(reset(frame.as_ref())));
                }
                // Answers to pings are the library's business.
                Some(Ok(_)) => {}
                Some(Err(e)) => {
                    this.read = Reading::Broken;
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, e)));
                }
                None => {
                    this.read = Reading::Broken;
                    return Poll::Ready(Err(reset(None)));
                }
            }
        }
        let n = this.rest.len().min(buf.remaining());
        buf.put_slice(this.rest.get(..n).unwrap_or_default());
        this.rest.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        // An empty message would be the end.
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let mut socket = Pin::new(&mut self.socket);
        ready!(socket.as_mut().poll_ready(cx)).map_err(broken)?;
        let piece = Bytes::copy_from_slice(buf.get(..PIECE_BYTES).unwrap_or(buf));
        let n = piece.len();
        socket.as_mut().start_send(Message::Binary(piece)).map_err(broken)?;
        // On its way now rather than when somebody asks for it; what does not fit goes with the next call.
        if let Poll::Ready(Err(e)) = socket.poll_flush(cx) {
            return Poll::Ready(Err(broken(e)));
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.ended {
            let mut socket = Pin::new(&mut this.socket);
            ready!(socket.as_mut().poll_ready(cx)).map_err(broken)?;
            socket.start_send(Message::Binary(Bytes::new())).map_err(broken)?;
            this.ended = true;
        }
        Pin::new(&mut this.socket).poll_flush(cx).map_err(broken)
    }
}
