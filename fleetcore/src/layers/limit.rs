//! Bounds on what goes on at once.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    around::{Around, Call},
    operation::{Operation, OperationClass},
    streams,
    wrapped::layer_hooks,
};
use crate::{
    Error, ErrorKind, Result, Retry,
    raw::{ByteStream, OpContext, RawProcess},
};

/// How much may go on at once.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LimitConfig {
    /// Operations in progress, open file streams included. Default 256.
    pub operations: usize,
    /// Processes, native sessions and connections alive. Default 4096.
    pub commands: usize,
    /// Calls that may wait for their turn, for each of the two bounds; further ones are refused at once.
    /// Default 1024.
    pub queue: usize,
    /// How long a call waits for its turn. Default 30 s.
    pub wait: Duration,
}

impl Default for LimitConfig {
    fn default() -> Self {
        Self { operations: 256, commands: 4096, queue: 1024, wait: Duration::from_secs(30) }
    }
}

impl LimitConfig {
    /// Sets how many operations may be in progress.
    #[must_use]
    pub fn with_operations(mut self, operations: usize) -> Self {
        self.operations = operations;
        self
    }

    /// Sets how many processes may be alive.
    #[must_use]
    pub fn with_commands(mut self, commands: usize) -> Self {
        self.commands = commands;
        self
    }

    /// Sets how many calls may wait, and how long each.
    #[must_use]
    pub fn with_queue(mut self, queue: usize, wait: Duration) -> Self {
        (self.queue, self.wait) = (queue, wait);
        self
    }
}

/// Bounds the operations in progress and the processes alive behind it, with a bounded queue in front.
///
/// One layer is one budget, shared by everything it wraps and kept when a machine is connected anew; use one layer per
/// machine or provider to bound each by itself. A call that finds the queue full, or waits longer than
/// [`LimitConfig::wait`], is `RateLimited` and `Temporary`. The place of a process is free again when its leader has
/// ended *and* its owner has let go of it. Waiting inside a program (`Session::run` and the like) takes no place.
#[derive(Clone, Debug)]
pub struct LimitLayer(Arc<Limiting>);

#[derive(Debug)]
struct Limiting {
    operations: Gate,
    commands: Gate,
}

#[derive(Debug)]
struct Gate {
    what: &'static str,
    places: Arc<Semaphore>,
    total: usize,
    waiting: AtomicUsize,
    queue: usize,
    wait: Duration,
}

impl LimitLayer {
    /// With these bounds.
    pub fn new(config: LimitConfig) -> Self {
        let gate = |what, total: usize| {
            let total = total.min(Semaphore::MAX_PERMITS);
            let places = Arc::new(Semaphore::new(total));
            Gate { what, places, total, waiting: AtomicUsize::new(0), queue: config.queue, wait: config.wait }
        };
        let (operations, commands) =
            (gate("operations", config.operations), gate("commands", config.commands));
        Self(Arc::new(Limiting { operations, commands }))
    }

    /// Operations in progress now.
    pub fn operations(&self) -> usize {
        self.0.operations.taken()
    }

    /// Processes alive now.
    pub fn commands(&self) -> usize {
        self.0.commands.taken()
    }
}

impl Default for LimitLayer {
    fn default() -> Self {
        Self::new(LimitConfig::default())
    }
}

layer_hooks!(LimitLayer);

/// Counts one waiting call, also when its future is dropped.
struct InQueue<'a>(&'a AtomicUsize);

impl Drop for InQueue<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Gate {
    fn taken(&self) -> usize {
        self.total - self.places.available_permits()
    }

    fn refuse(&self, operation: Operation, why: &'static str) -> Error {
        Error::new(ErrorKind::RateLimited, why)
            .with_operation(operation.as_str())
            .with_context("limit", self.what)
            .with_context("at_once", self.total)
            .with_retry(Retry::Temporary { after: None })
    }

    async fn enter(&self, operation: Operation, cx: &OpContext) -> Result<OwnedSemaphorePermit> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(place);
        }
        if self.waiting.fetch_add(1, Ordering::AcqRel) >= self.queue {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            return Err(self.refuse(operation, "too much is going on, and the queue is full"));
        }
        let _queued = InQueue(&self.waiting);
        let turn = async {
            match tokio::time::timeout(self.wait, Arc::clone(&self.places).acquire_owned()).await {
                Ok(Ok(place)) => Ok(place),
                // The semaphore is never closed, so this is the time limit.
                Ok(Err(_)) | Err(_) => Err(self.refuse(operation, "too much is going on")),
            }
        };
        cx.guard(operation.as_str(), turn).await
    }
}

impl Around for Limiting {
    type Ticket = Option<OwnedSemaphorePermit>;

    async fn call<T, F, Fut>(&self, call: &Call<'_>, cx: &OpContext, mut run: F) -> Result<(T, Self::Ticket)>
    where
        T: Send,
        F: FnMut(OpContext) -> Fut + Send,
        Fut: Future<Output = Result<T>> + Send,
    {
        let gate = match call.operation.class() {
            OperationClass::Wait => return Ok((run(cx.clone()).await?, None)),
            OperationClass::Start => &self.commands,
            _ => &self.operations,
        };
        let place = gate.enter(call.operation, cx).await?;
        Ok((run(cx.clone()).await?, Some(place)))
    }

    fn process(&self, _call: &Call<'_>, place: Self::Ticket, process: RawProcess) -> RawProcess {
        streams::keep_with_process(process, place)
    }

    fn bytes(&self, _call: &Call<'_>, place: Self::Ticket, bytes: ByteStream) -> ByteStream {
        streams::keep_with_bytes(bytes, place)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::fake, *};
    use crate::{CommandId, CommandSpec, raw::Executor};

    async fn spawn(executor: &Arc<dyn Executor>) -> Result<RawProcess> {
        executor.spawn(&OpContext::default(), CommandId::generate(), &CommandSpec::argv(["true"])).await
    }

    #[tokio::test]
    async fn a_place_is_held_until_the_process_has_ended_and_is_let_go() {
        let layer = LimitLayer::new(LimitConfig::default().with_commands(2).with_queue(0, Duration::ZERO));
        let (executor, fake) = fake::executor(&layer, fake::Fake::new());
        let first = spawn(&executor).await.unwrap();
        let second = spawn(&executor).await.unwrap();
        let refused = spawn(&executor).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::RateLimited);
        assert_eq!(refused.retry(), Retry::Temporary { after: None });
        assert_eq!(fake.calls().len(), 2, "the backend was not asked");

        drop(first);
        assert_eq!(layer.commands(), 1);
        fake.end.send_replace(true);
        let RawProcess { exit, control, .. } = second;
        exit.await.unwrap();
        assert_eq!(layer.commands(), 1, "its owner may still have to kill the rest of the tree");
        drop(control);
        assert_eq!(layer.commands(), 0);
        spawn(&executor).await.unwrap();
    }

    #[tokio::test]
    async fn the_budget_belongs_to_the_layer_not_to_the_wrapper() {
        let layer = LimitLayer::new(LimitConfig::default().with_commands(1).with_queue(0, Duration::ZERO));
        let (a, _) = fake::executor(&layer, fake::Fake::new());
        let (b, _) = fake::executor(&layer, fake::Fake::new());
        let held = spawn(&a).await.unwrap();
        assert_eq!(spawn(&b).await.unwrap_err().kind(), ErrorKind::RateLimited);
        drop(held);
        spawn(&b).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn calls_queue_up_to_a_bound_and_for_a_time() {
        let wait = Duration::from_secs(5);
        let layer = LimitLayer::new(LimitConfig::default().with_commands(1).with_queue(1, wait));
        let (executor, _) = fake::executor(&layer, fake::Fake::new());
        let held = spawn(&executor).await.unwrap();
        let started = tokio::time::Instant::now();
        let (queued, refused) = tokio::join!(spawn(&executor), spawn(&executor));
        assert_eq!(queued.unwrap_err().kind(), ErrorKind::RateLimited);
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::RateLimited);
        assert_eq!(started.elapsed(), wait, "one waited, the other was refused at once");

        let (queued, ()) = tokio::join!(spawn(&executor), async { drop(held) });
        queued.unwrap();
    }

    #[tokio::test]
    async fn a_call_that_is_dropped_leaves_the_queue() {
        let layer =
            LimitLayer::new(LimitConfig::default().with_commands(1).with_queue(1, Duration::from_secs(60)));
        let (executor, _) = fake::executor(&layer, fake::Fake::new());
        let _held = spawn(&executor).await.unwrap();
        for _ in 0..3 {
            assert!(futures::poll!(Box::pin(spawn(&executor))).is_pending());
        }
        assert_eq!(layer.0.commands.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_connection_keeps_its_place_until_it_is_dropped() {
        let layer = LimitLayer::new(LimitConfig::default().with_commands(1).with_queue(0, Duration::ZERO));
        let (executor, _) = fake::executor(&layer, fake::Fake::new());
        let (cx, to) = (OpContext::default(), crate::HostPort::new("localhost", 1).unwrap());
        let connection = executor.connect(&cx, &to).await.unwrap();
        assert_eq!(layer.commands(), 1);
        assert_eq!(executor.connect(&cx, &to).await.err().map(|e| e.kind()), Some(ErrorKind::RateLimited));
        drop(connection);
        assert_eq!(layer.commands(), 0);
    }

    #[tokio::test]
    async fn an_open_file_stream_is_an_operation_until_it_ends() {
        use futures::StreamExt as _;
        let layer = LimitLayer::default();
        let (executor, _) = fake::executor(&layer, fake::Fake::new());
        let files = executor.files().unwrap();
        let mut bytes = files.read(&OpContext::default(), "file", 0, None).await.unwrap();
        assert_eq!(layer.operations(), 1);
        while bytes.next().await.is_some() {}
        assert_eq!(layer.operations(), 0);
    }
}
