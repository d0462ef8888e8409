//! Time limits.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tokio::time::{Instant, Sleep};

use super::{
    around::{Around, Call},
    operation::OperationClass,
    wrapped::layer_hooks,
};
use crate::{
    Error, ErrorKind, Result, Retry,
    raw::{ByteStream, OpContext},
};

/// Time limits by class of operation. `None` leaves only the deadline of the caller's [`OpContext`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TimeoutConfig {
    /// For questions. Default 30 s.
    pub query: Option<Duration>,
    /// For quick changes such as a rename. Default 60 s.
    pub change: Option<Duration>,
    /// For changes to a machine. Default 10 min: a cloud may take that long to take in a request.
    pub machine_change: Option<Duration>,
    /// For starting a process or a session. Default 60 s.
    pub start: Option<Duration>,
    /// For the first answer to a read, and then for each pause between two pieces. Default 60 s.
    pub read: Option<Duration>,
    /// For a whole write. Default none: nobody knows how much data will come.
    pub write: Option<Duration>,
}

impl Default for TimeoutConfig {
    fn default() -> Self {
        Self {
            query: Some(Duration::from_secs(30)),
            change: Some(Duration::from_secs(60)),
            machine_change: Some(Duration::from_secs(600)),
            start: Some(Duration::from_secs(60)),
            read: Some(Duration::from_secs(60)),
            write: None,
        }
    }
}

impl TimeoutConfig {
    /// Sets one limit; [`OperationClass::Wait`] never has one.
    #[must_use]
    pub fn with_limit(mut self, class: OperationClass, limit: Option<Duration>) -> Self {
        match class {
            OperationClass::Query => self.query = limit,
            OperationClass::Change => self.change = limit,
            OperationClass::MachineChange => self.machine_change = limit,
            OperationClass::Start => self.start = limit,
            OperationClass::Read => self.read = limit,
            OperationClass::Write => self.write = limit,
            OperationClass::Wait => {}
        }
        self
    }

    fn limit(&self, class: OperationClass) -> Option<Duration> {
        match class {
            OperationClass::Query => self.query,
            OperationClass::Change => self.change,
            OperationClass::MachineChange => self.machine_change,
            OperationClass::Start => self.start,
            OperationClass::Read => self.read,
            OperationClass::Write => self.write,
            OperationClass::Wait => None,
        }
    }
}

/// Gives every operation a time limit, and enforces the deadline and the cancellation of its [`OpContext`] even
/// where a backend does not.
///
/// Add it *before* (inside) [`RetryLayer`](super::RetryLayer): its limit is per attempt, and running into it is a
/// `Temporary` `Timeout`. The caller's deadline covers all attempts, and running into that is `Permanent`. What has
/// not finished is dropped, which by the contract of the traits leaves nothing behind.
#[derive(Clone, Debug, Default)]
pub struct TimeoutLayer(Arc<Limits>);

#[derive(Debug, Default)]
struct Limits {
    config: TimeoutConfig,
}

impl TimeoutLayer {
    /// With these limits.
    pub fn new(config: TimeoutConfig) -> Self {
        Self(Arc::new(Limits { config }))
    }
}

layer_hooks!(TimeoutLayer);

fn too_slow(operation: &'static str, limit: Duration) -> Error {
    Error::new(ErrorKind::Timeout, "the operation took too long")
        .with_operation(operation)
        .with_context("limit", format_args!("{limit:?}"))
        .with_retry(Retry::Temporary { after: None })
}

impl Around for Limits {
    type Ticket = ();

    async fn call<T, F, Fut>(&self, call: &Call<'_>, cx: &OpContext, mut run: F) -> Result<(T, ())>
    where
        T: Send,
        F: FnMut(OpContext) -> Fut + Send,
        Fut: Future<Output = Result<T>> + Send,
    {
        let operation = call.operation.as_str();
        let work = cx.guard(operation, run(cx.clone()));
        let done = match self.config.limit(call.operation.class()) {
            None => work.await?,
            Some(limit) => {
                tokio::time::timeout(limit, work).await.map_err(|_| too_slow(operation, limit))??
            }
        };
        Ok((done, ()))
    }

    fn bytes(&self, call: &Call<'_>, (): (), bytes: ByteStream) -> ByteStream {
        let Some(limit) = self.config.limit(call.operation.class()) else { return bytes };
        Stalling { bytes, limit, operation: call.operation.as_str(), waiting: None }.boxed()
    }
}

/// Ends with an error when a piece takes longer than `limit`. Time during which nobody asks does not count.
struct Stalling {
    bytes: ByteStream,
    limit: Duration,
    operation: &'static str,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Stream for Stalling {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Poll::Ready(item) = this.bytes.poll_next_unpin(cx) {
            this.waiting = None;
            return Poll::Ready(item);
        }
        let limit = this.limit;
        let waiting =
            this.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + limit)));
        if waiting.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        this.waiting = None;
        this.bytes = futures::stream::empty().boxed();
        Poll::Ready(Some(Err(too_slow(this.operation, limit))))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::fake, *};

    fn slow() -> fake::Fake {
        fake::Fake { delay: Duration::from_secs(3600), ..fake::Fake::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_of_a_class_is_temporary_and_the_callers_deadline_permanent() {
        let (executor, _) = fake::executor(&TimeoutLayer::default(), slow());
        let error = executor.ping(&OpContext::default()).await.unwrap_err();
        assert_eq!((error.kind(), error.operation()), (ErrorKind::Timeout, "machine.ping"));
        assert_eq!(error.retry(), Retry::Temporary { after: None });

        let cx = OpContext::default().with_timeout(Duration::from_secs(1));
        let error = executor.ping(&cx).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Timeout, Retry::Permanent));
    }

    #[tokio::test(start_paused = true)]
    async fn cancelling_ends_a_call_that_does_not_listen() {
        let (executor, _) = fake::executor(&TimeoutLayer::default(), slow());
        let cx = OpContext::default();
        cx.cancel.cancel();
        assert_eq!(executor.ping(&cx).await.unwrap_err().kind(), ErrorKind::Cancelled);
    }

    #[tokio::test(start_paused = true)]
    async fn a_class_without_a_limit_waits() {
        let config = TimeoutConfig::default().with_limit(OperationClass::Query, None);
        let (executor, _) = fake::executor(&TimeoutLayer::new(config), slow());
        executor.ping(&OpContext::default()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_stalls_ends_with_an_error_and_nothing_after_it() {
        let (executor, _) = fake::executor(&TimeoutLayer::default(), fake::Fake::new());
        let files = executor.files().unwrap();
        let mut bytes = files.read(&OpContext::default(), "stalled", 0, None).await.unwrap();
        assert_eq!(bytes.next().await.unwrap().unwrap_err().kind(), ErrorKind::Timeout);
        assert!(bytes.next().await.is_none());

        let mut bytes = files.read(&OpContext::default(), "file", 0, None).await.unwrap();
        // A reader that takes its time is not a backend that stalls.
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(bytes.next().await.unwrap().unwrap(), "abc");
    }
}
