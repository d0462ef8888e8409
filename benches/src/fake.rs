//! A host whose processes are only pretended, to measure what is around them.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use async_trait::async_trait;
use bytes::Bytes;
use fleetcore::{
    Channel, CommandId, CommandSpec, Error, ExecCapabilities, ExitKind, HostPort, Offset, PtySize, Result,
    SessionSpec, Signal,
    raw::{BoxConnection, Executor, FileSystem, OpContext, ProcessControl, RawProcess, Session},
};
use futures::{FutureExt, Stream, StreamExt};
use tokio::sync::oneshot;

/// A host where every command prints the same chunks as fast as they are taken, then exits with code 0.
#[derive(Clone)]
pub struct FakeHost {
    chunk: Bytes,
    count: usize,
}

impl FakeHost {
    /// Commands print `count` chunks of `size` bytes.
    pub fn new(count: usize, size: usize) -> Self {
        Self { chunk: Bytes::from(vec![b'x'; size]), count }
    }
}

impl fmt::Debug for FakeHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeHost").field("count", &self.count).finish_non_exhaustive()
    }
}

/// Tells the exit when the last chunk has been taken: an earlier exit would start the drain timer.
struct Printed {
    chunk: Bytes,
    left: usize,
    done: Option<oneshot::Sender<()>>,
}

impl Stream for Printed {
    type Item = Result<(Channel, Bytes)>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.left == 0 {
            if let Some(done) = self.done.take() {
                let _ = done.send(());
            }
            return Poll::Ready(None);
        }
        self.left -= 1;
        Poll::Ready(Some(Ok((Channel::Stdout, self.chunk.clone()))))
    }
}

#[derive(Debug)]
struct NoControl;

#[async_trait]
impl ProcessControl for NoControl {
    async fn signal(&self, _: Signal) -> Result<()> {
        Ok(())
    }
    async fn resize(&self, _: PtySize) -> Result<()> {
        Ok(())
    }
    fn disarm(&mut self) {}
}

#[async_trait]
impl Executor for FakeHost {
    fn capabilities(&self) -> ExecCapabilities {
        ExecCapabilities::default()
    }
    async fn ping(&self, _: &OpContext) -> Result<()> {
        Ok(())
    }
    async fn spawn(&self, _: &OpContext, _: CommandId, _: &CommandSpec) -> Result<RawProcess> {
        let (done, ended) = oneshot::channel();
        let printed = Printed { chunk: self.chunk.clone(), left: self.count, done: Some(done) };
        Ok(RawProcess {
            pid: None,
            output: printed.boxed(),
            stdin: None,
            exit: ended.map(|_| Ok(ExitKind::Code(0))).boxed(),
            control: Box::new(NoControl),
        })
    }
    async fn reattach(&self, _: &OpContext, _: CommandId, _: Offset) -> Result<RawProcess> {
        Err(Error::unsupported("reattach"))
    }
    async fn open_session(&self, _: &OpContext, _: SessionSpec) -> Result<Arc<dyn Session>> {
        Err(Error::unsupported("open session"))
    }
    fn files(&self) -> Result<Arc<dyn FileSystem>> {
        Err(Error::unsupported("files"))
    }
    async fn connect(&self, _: &OpContext, _: &HostPort) -> Result<BoxConnection> {
        Err(Error::unsupported("connect"))
    }
}
