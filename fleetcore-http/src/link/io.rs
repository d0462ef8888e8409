//! A stream of the link as bytes.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::mux::MuxStream;

/// Most bytes put into one message.
const MESSAGE_BYTES: usize = 64 << 10;

/// A stream of the link as bytes, for HTTP and tunnels. Shutting it down leaves the other direction open.
#[derive(Debug)]
pub struct StreamIo {
    stream: MuxStream,
    rest: Bytes,
}

impl StreamIo {
    pub(super) fn new(stream: MuxStream) -> Self {
        Self { stream, rest: Bytes::new() }
    }
}

fn broken(e: fleetcore::Error) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, e)
}

impl AsyncRead for StreamIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            match ready!(self.stream.poll_recv(cx)) {
                Ok(Some(data)) => self.rest = data,
                Ok(None) => return Poll::Ready(Ok(())),
                Err(e) => return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, e))),
            }
        }
        let n = self.rest.len().min(buf.remaining());
        buf.put_slice(self.rest.get(..n).unwrap_or_default());
        self.rest.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(self.stream.poll_room(cx)).map_err(broken)?;
        let part = buf.get(..buf.len().min(MESSAGE_BYTES)).unwrap_or_default();
        self.stream.push(part.into());
        Poll::Ready(Ok(part.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.end();
        Poll::Ready(Ok(()))
    }
}
