//! Reads ahead of a WebSocket that asks for little at a time.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

/// First size of the buffer, and that of an idle connection: a server has thousands of those.
const LEAST: usize = 4 << 10;
/// Largest size: two large messages.
const MOST: usize = 128 << 10;

/// A connection whose reads are as large as there is something to read.
///
/// The WebSocket keeps a buffer as large as its reads for as long as it lives. So it is told to read little, which costs a
/// system call for every few kilobytes, unless somebody reads ahead: with a buffer that grows while it is filled, shrinks
/// while it is not, and is none while the connection is idle.
#[derive(Debug)]
pub(super) struct ReadAhead<S> {
    io: S,
    /// What was read; from `taken` on it is not wanted yet.
    buffer: Vec<u8>,
    taken: usize,
    /// How much the next read asks for.
    size: usize,
}

impl<S> ReadAhead<S> {
    pub(super) fn new(io: S) -> Self {
        Self { io, buffer: Vec::new(), taken: 0, size: LEAST }
    }

    /// The next read is larger after one that got all it asked for, and smaller after one that got a small part.
    fn adapt(&mut self, asked: usize, got: usize) {
        if got >= asked {
            self.size = (self.size * 4).min(MOST);
        } else if got < self.size / 8 {
            self.size = (self.size / 2).max(LEAST);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.taken == this.buffer.len() {
            this.buffer.clear();
            this.taken = 0;
            let (room, before) = (out.remaining(), out.filled().len());
            if this.size <= LEAST.max(room) {
                this.buffer = Vec::new();
                ready!(Pin::new(&mut this.io).poll_read(cx, out))?;
                this.adapt(room, out.filled().len() - before);
                return Poll::Ready(Ok(()));
            }
            this.buffer.reserve_exact(this.size);
            this.buffer.shrink_to(this.size);
            let asked = this.buffer.capacity();
            let got = ready!(poll_read_buf(Pin::new(&mut this.io), cx, &mut this.buffer))?;
            this.adapt(asked, got);
        }
        let rest = this.buffer.get(this.taken..).unwrap_or_default();
        let (part, _) = rest.split_at(rest.len().min(out.remaining()));
        out.put_slice(part);
        this.taken += part.len();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Reads of at most 4 KiB; gives how large the connection's own were at most.
    async fn read_all(ahead: &mut ReadAhead<tokio::io::DuplexStream>, mut left: usize) -> (Vec<u8>, usize) {
        let (mut all, mut most) = (vec![], 0);
        let mut part = [0; LEAST];
        while left > 0 {
            let n = ahead.read(&mut part).await.unwrap();
            all.extend_from_slice(&part[..n]);
            left -= n;
            most = most.max(ahead.size);
        }
        (all, most)
    }

    #[tokio::test]
    async fn bytes_stay_in_order_and_reads_grow_and_shrink() {
        let (mut near, far) = tokio::io::duplex(1 << 20);
        let mut ahead = ReadAhead::new(far);
        let data: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
        near.write_all(&data).await.unwrap();
        let (read, most) = read_all(&mut ahead, data.len()).await;
        assert!(read == data);
        assert_eq!(most, MOST);
        for n in 0..20 {
            near.write_all(&[n; 10]).await.unwrap();
            assert_eq!(read_all(&mut ahead, 10).await.0, [n; 10]);
        }
        assert_eq!((ahead.size, ahead.buffer.capacity()), (LEAST, 0), "an idle connection holds nothing");
        drop(near);
        assert_eq!(ahead.read(&mut [0; 10]).await.unwrap(), 0);
    }
}
