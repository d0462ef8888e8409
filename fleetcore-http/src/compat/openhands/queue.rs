//! Actions, one after another in the order they arrived.
//!
//! An action goes on when its client goes away. A client that comes again with the very same action (its library does,
//! up to five times, when a connection breaks) gets the answer of the first one instead of a second execution.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{http::StatusCode, response::Response};
use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::reply;

/// Actions that may wait. A client has one at a time.
const WAITING: usize = 256;
/// Answers kept for clients that went away before they had them.
const KEPT: usize = 16;
/// Largest answer that is kept.
const KEPT_BYTES: usize = 8 << 20;
/// How long one is kept; the client's library gives up sooner.
const KEPT_FOR: Duration = Duration::from_secs(600);

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

impl Answer {
    fn response(self) -> Response {
        reply::ready(self.status, self.body)
    }
}

type Work = BoxFuture<'static, Answer>;
type Slot = Arc<watch::Sender<Option<Answer>>>;
type Id = [u8; 32];

struct Job {
    work: Work,
    slot: Slot,
}

struct Open {
    slot: Slot,
    since: Instant,
}

/// Where actions wait for their turn.
pub(super) struct Queue {
    jobs: mpsc::Sender<Job>,
    known: Known,
}

/// Actions that were not answered yet: not done, or nobody was there to hear it.
type Known = Arc<Mutex<HashMap<Id, Open>>>;

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("free", &self.jobs.capacity()).finish_non_exhaustive()
    }
}

impl Queue {
    /// A queue, and what has to run for it to move. That ends with `stop`: whatever is running is dropped, whatever
    /// waits is refused.
    pub(super) fn new(stop: CancellationToken) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (jobs, turns) = mpsc::channel(WAITING);
        let known = Known::default();
        (Self { jobs, known: known.clone() }, run(turns, known, stop))
    }

    /// How many wait for their turn.
    pub(super) fn waiting(&self) -> usize {
        WAITING.saturating_sub(self.jobs.capacity())
    }

    /// Takes an action its turn and waits for its answer. `id` is the whole request of one that is the same action
    /// when it comes again.
    pub(super) async fn execute(&self, id: Option<&[u8]>, work: impl FnOnce() -> Work) -> Response {
        let id: Option<Id> = id.map(|text| Sha256::digest(text).into());
        let slot = match self.enter(id, work) {
            Ok(slot) => slot,
            Err(refused) => return refused.response(),
        };
        let mut told = slot.subscribe();
        let waiting = Waiting { queue: self, id, slot, heard: false };
        let answer = match told.wait_for(Option::is_some).await {
            Ok(answer) => answer.clone(),
            Err(_) => None,
        };
        waiting.done();
        match answer {
            Some(answer) => answer.response(),
            None => reply::unexpected(),
        }
    }

    /// One lock over looking and entering, so that two of the same cannot both be the first.
    fn enter(&self, id: Option<Id>, work: impl FnOnce() -> Work) -> Result<Slot, Answer> {
        let mut known = self.known.lock();
        if let Some(first) = id.and_then(|id| known.get(&id)) {
            tracing::info!("an action came again; it is not executed again");
            return Ok(first.slot.clone());
        }
        let slot = Arc::new(watch::Sender::new(None));
        match self.jobs.try_reserve() {
            Ok(place) => place.send(Job { work: work(), slot: slot.clone() }),
            // The client tries again after 429.
            Err(mpsc::error::TrySendError::Full(())) => {
                return Err(full());
            }
            Err(mpsc::error::TrySendError::Closed(())) => return Err(stopping()),
        }
        if let Some(id) = id {
            known.insert(id, Open { slot: slot.clone(), since: Instant::now() });
        }
        Ok(slot)
    }
}

/// Forgets what nobody will ask for. Clients that wait have what they wait for in their own hands.
fn prune(known: &Known) {
    let mut known = known.lock();
    let done = |o: &Open| o.slot.borrow().is_some();
    known.retain(|_, o| {
        let small = o.slot.borrow().as_ref().is_none_or(|a| a.body.len() <= KEPT_BYTES);
        !done(o) || (small && o.since.elapsed() < KEPT_FOR)
    });
    while known.values().filter(|o| done(o)).count() > KEPT {
        let oldest = known.iter().filter(|(_, o)| done(o)).min_by_key(|(_, o)| o.since).map(|(id, _)| *id);
        match oldest {
            Some(id) => known.remove(&id),
            None => return,
        };
    }
}

/// A client that waits. Dropped without `done` when it goes away.
struct Waiting<'a> {
    queue: &'a Queue,
    id: Option<Id>,
    slot: Slot,
    heard: bool,
}

impl Waiting<'_> {
    fn done(mut self) {
        self.heard = true;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        if self.heard {
            let mut known = self.queue.known.lock();
            if known.get(&id).is_some_and(|o| Arc::ptr_eq(&o.slot, &self.slot)) {
                known.remove(&id);
            }
        } else {
            prune(&self.queue.known);
        }
    }
}

fn full() -> Answer {
    let body = Bytes::from_static(br#"{"detail":"Too many actions are waiting"}"#);
    Answer { status: StatusCode::TOO_MANY_REQUESTS, body }
}

fn stopping() -> Answer {
    let body = Bytes::from_static(br#"{"detail":"The runtime is shutting down"}"#);
    Answer { status: StatusCode::SERVICE_UNAVAILABLE, body }
}

fn unexpected() -> Answer {
    let body = Bytes::from_static(
        br#"{"detail":"Internal server error: the action ended in an error of the runtime itself"}"#,
    );
    Answer { status: StatusCode::INTERNAL_SERVER_ERROR, body }
}

async fn run(mut turns: mpsc::Receiver<Job>, known: Known, stop: CancellationToken) {
    loop {
        let job = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            job = turns.recv() => match job {
                Some(job) => job,
                None => return,
            },
        };
        let Job { work, slot } = job;
        let answer = tokio::select! {
            // One that has ended is told, also when everything stops.
            biased;
            answer = AssertUnwindSafe(work).catch_unwind() => answer.unwrap_or_else(|_| unexpected()),
            () = stop.cancelled() => stopping(),
        };
        slot.send_replace(Some(answer));
        drop(slot);
        // Nobody may be left to hear it, and nobody may come after.
        prune(&known);
    }
    turns.close();
    while let Some(job) = turns.recv().await {
        job.slot.send_replace(Some(stopping()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    fn ok(text: &'static str) -> Answer {
        Answer { status: StatusCode::OK, body: Bytes::from_static(text.as_bytes()) }
    }

    async fn body(response: Response) -> (u16, Bytes) {
        let status = response.status().as_u16();
        (status, axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap())
    }

    #[tokio::test]
    async fn one_after_another_in_the_order_of_arrival() {
        let (queue, run) = Queue::new(CancellationToken::new());
        let running = Arc::new(AtomicUsize::new(0));
        let order = Arc::new(Mutex::new(Vec::new()));
        let all: Vec<_> = (0..50usize)
            .map(|i| {
                let (running, order) = (running.clone(), order.clone());
                queue.execute(None, move || {
                    async move {
                        assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0);
                        tokio::task::yield_now().await;
                        order.lock().push(i);
                        running.fetch_sub(1, Ordering::SeqCst);
                        ok("x")
                    }
                    .boxed()
                })
            })
            .collect();
        let all = futures::future::join_all(all);
        tokio::select! {
            all = all => assert!(all.iter().all(|r| r.status() == 200)),
            () = run => panic!("it ended"),
        }
        assert_eq!(*order.lock(), (0..50).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn an_action_goes_on_without_its_client_and_comes_again_only_as_an_answer() {
        let (queue, run) = Queue::new(CancellationToken::new());
        let queue = Arc::new(queue);
        let runner = tokio::spawn(run);
        let (go, times) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let work = {
            let (go, times) = (go.clone(), times.clone());
            move || {
                let (go, times) = (go.clone(), times.clone());
                async move {
                    go.notified().await;
                    times.fetch_add(1, Ordering::SeqCst);
                    ok("once")
                }
                .boxed()
            }
        };
        let mut first = Box::pin(queue.execute(Some(b"a"), work.clone()));
        assert!(futures::poll!(&mut first).is_pending());
        drop(first);
        let second = tokio::spawn({
            let (queue, work) = (queue.clone(), work.clone());
            async move { queue.execute(Some(b"a"), work).await }
        });
        go.notify_one();
        assert_eq!(body(second.await.unwrap()).await, (200, Bytes::from_static(b"once")));
        // It was heard: the next one with these words is a new one.
        go.notify_one();
        assert_eq!(body(queue.execute(Some(b"a"), work).await).await.0, 200);
        assert_eq!(times.load(Ordering::SeqCst), 2);
        assert!(queue.known.lock().is_empty());
        drop(queue);
        runner.await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_is_one_answer_and_a_stop_answers_everybody() {
        let stop = CancellationToken::new();
        let (queue, run) = Queue::new(stop.clone());
        let runner = tokio::spawn(run);
        let panicked = queue.execute(None, || async { panic!("on purpose") }.boxed()).await;
        assert_eq!(panicked.status(), 500);
        assert_eq!(queue.execute(None, || async { ok("x") }.boxed()).await.status(), 200);
        let mut hangs = Box::pin(queue.execute(None, || futures::future::pending().boxed()));
        let mut waits = Box::pin(queue.execute(None, || async { ok("x") }.boxed()));
        assert!(futures::poll!(&mut hangs).is_pending() && futures::poll!(&mut waits).is_pending());
        stop.cancel();
        assert_eq!((hangs.await.status().as_u16(), waits.await.status().as_u16()), (503, 503));
        runner.await.unwrap();
        assert_eq!(queue.execute(None, || async { ok("x") }.boxed()).await.status(), 503);
    }
}
