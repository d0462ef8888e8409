//! Things that live as long as a process or a stream.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use futures::{FutureExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    ExitStatus, PtySize, Result, Signal,
    raw::{BoxConnection, ByteStream, ProcessControl, RawProcess},
};

/// Keeps `guard` until the leader has ended (or nobody waits for it any more) and the control is dropped, which is
/// what kills the rest.
pub(super) fn keep_with_process<G: Send + Sync + 'static>(mut process: RawProcess, guard: G) -> RawProcess {
    let guard = Arc::new(guard);
    let until_exit = Arc::clone(&guard);
    process.exit = process
        .exit
        .map(move |exit| {
            drop(until_exit);
            exit
        })
        .boxed();
    process.control = Box::new(Kept { control: process.control, _guard: guard });
    process
}

/// Keeps `guard` until the stream has ended or is dropped.
pub(super) fn keep_with_bytes<G: Send + 'static>(bytes: ByteStream, guard: G) -> ByteStream {
    futures::stream::unfold((bytes, guard), |(mut bytes, guard)| async move {
        let item = bytes.next().await?;
        Some((item, (bytes, guard)))
    })
    .boxed()
}

/// What sees the bytes of a connection go by, and lives as long as it does.
pub(super) trait Passage: Send + Sync + 'static {
    /// Bytes on their way to the caller.
    fn read(&self, _bytes: usize) {}
    /// Bytes on their way to the machine.
    fn written(&self, _bytes: usize) {}
    /// How much of `len` bytes may be read at once; an error breaks the connection.
    fn room(&self, len: usize) -> io::Result<usize> {
        Ok(len)
    }
}

/// A guard that only lives.
struct Only<G>(G);

impl<G: Send + Sync + 'static> Passage for Only<G> {}

/// Keeps `guard` until the connection is dropped.
pub(super) fn keep_with_connection<G: Send + Sync + 'static>(
    connection: BoxConnection,
    guard: G,
) -> BoxConnection {
    Box::new(Passing { connection, passage: Box::new(Only(guard)) })
}

/// Shows `passage` what goes through the connection.
pub(super) fn pass_by(connection: BoxConnection, passage: impl Passage) -> BoxConnection {
    Box::new(Passing { connection, passage: Box::new(passage) })
}

struct Passing<P> {
    // Dropped first: the connection is closed before the guard goes.
    connection: BoxConnection,
    passage: Box<P>,
}

impl<P: Passage> AsyncRead for Passing<P> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let room = this.passage.room(buf.remaining())?;
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
        ready!(Pin::new(&mut this.connection).poll_read(cx, &mut part))?;
        let n = part.filled().len();
        buf.advance(n);
        this.passage.read(n);
        Poll::Ready(Ok(()))
    }
}

impl<P: Passage> AsyncWrite for Passing<P> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.connection).poll_write(cx, buf))?;
        self.passage.written(n);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }
}

struct Kept<G> {
    // Dropped first: the tree is killed before the guard goes.
    control: Box<dyn ProcessControl>,
    _guard: Arc<G>,
}

impl<G> fmt::Debug for Kept<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.control.fmt(f)
    }
}

#[async_trait]
impl<G: Send + Sync> ProcessControl for Kept<G> {
    async fn signal(&self, signal: Signal) -> Result<()> {
        self.control.signal(signal).await
    }

    async fn resize(&self, size: PtySize) -> Result<()> {
        self.control.resize(size).await
    }

    fn disarm(&mut self) {
        self.control.disarm();
    }

    async fn end(&self, polite: Signal, grace: Duration) -> Result<bool> {
        self.control.end(polite, grace).await
    }

    fn verdict(&self) -> Option<ExitStatus> {
        self.control.verdict()
    }
}
