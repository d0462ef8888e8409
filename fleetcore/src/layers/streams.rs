//! Things that live as long as a process or a stream.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{FutureExt as _, StreamExt as _};

use crate::{
    ExitStatus, PtySize, Result, Signal,
    raw::{ByteStream, ProcessControl, RawProcess},
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
