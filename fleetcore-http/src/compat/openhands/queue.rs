//! Actions, one after another in the order they arrived.
//!
//! An action goes on when its client goes away. A client that comes again with the very same action (its library does,
//! up to five times, when a connection breaks) gets the answer of the first one instead of a second execution.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use futures::{FutureExt as _, Stream, future::BoxFuture};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{fair::Fair, reply};

/// Actions that may wait. A client has one at a time.
const WAITING: usize = 256;
/// Answers kept for clients that went away before they had them.
const KEPT: usize = 16;
/// Largest answer that is kept.
const KEPT_BYTES: usize = 8 << 20;
/// How long one is kept; the client's library gives up sooner.
const KEPT_FOR: Duration = Duration::from_secs(600);
/// A connection that was silent for this long may have been dropped on the way with nobody being told: what is written
/// to it seems to arrive. So the answer is kept until the client shows that it has it, by its next action.
const SLOW: Duration = Duration::from_secs(10);
/// Pieces an answer is handed to the connection in. What is in its buffers has not arrived yet.
const PIECE: usize = 64 << 10;

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

    /// The same for somebody of whom it is known whether it was written.
    fn response_to(self, client: Waiting) -> Response {
        let length = HeaderValue::from(self.body.len());
        let mut response = reply::ready(self.status, Bytes::new());
        response.headers_mut().insert(header::CONTENT_LENGTH, length);
        *response.body_mut() = Body::from_stream(Fair::new(Telling { rest: self.body, client }));
        response
    }
}

/// An answer on its way. Dropped before all of it was taken, the connection broke.
struct Telling {
    rest: Bytes,
    client: Waiting,
}

impl Stream for Telling {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let size = self.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(self.rest.split_to(size))))
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        // The connection asks no more once it has as much as was promised.
        self.client.heard = self.rest.is_empty();
    }
}

/// The whole request of an action that is the same action when it comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Id([u8; 32]);

impl Id {
    /// Looks at all of it: for a large one, on a thread that may be busy.
    pub(super) fn of(request: &[u8]) -> Self {
        Self(Sha256::digest(request).into())
    }
}

type Work = BoxFuture<'static, Answer>;
type Slot = Arc<watch::Sender<Option<Answer>>>;

struct Job {
    work: Work,
    slot: Slot,
}

struct Open {
    slot: Slot,
    since: Instant,
    /// It was written as a whole, but nobody knows whether it has arrived.
    written: bool,
}

/// Where actions wait for their turn.
pub(super) struct Queue {
    jobs: mpsc::Sender<Job>,
    known: Known,
    slow: Duration,
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
        (Self { jobs, known: known.clone(), slow: SLOW }, run(turns, known, stop))
    }

    /// How many wait for their turn.
    pub(super) fn waiting(&self) -> usize {
        WAITING.saturating_sub(self.jobs.capacity())
    }

    /// Takes an action its turn and waits for its answer. One with the `id` of another is that one.
    pub(super) async fn execute(&self, id: Option<Id>, work: impl FnOnce() -> Work) -> Response {
        let since = Instant::now();
        let slot = match self.enter(id, work) {
            Ok(slot) => slot,
            Err(refused) => return refused.response(),
        };
        let mut told = slot.subscribe();
        let mut waiting = Waiting { known: self.known.clone(), id, slot, heard: false, slow: false };
        let answer = match told.wait_for(Option::is_some).await {
            Ok(answer) => answer.clone(),
            Err(_) => None,
        };
        waiting.slow = since.elapsed() >= self.slow;
        match answer {
            Some(answer) => answer.response_to(waiting),
            None => reply::unexpected(),
        }
    }

    /// One lock over looking and entering, so that two of the same cannot both be the first.
    fn enter(&self, id: Option<Id>, work: impl FnOnce() -> Work) -> Result<Slot, Answer> {
        let mut known = self.known.lock();
        // Who goes on has its answer.
        known.retain(|known, open| !open.written || Some(*known) == id);
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
            known.insert(id, Open { slot: slot.clone(), since: Instant::now(), written: false });
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

/// A client that waits.
struct Waiting {
    known: Known,
    id: Option<Id>,
    slot: Slot,
    /// Its answer was written.
    heard: bool,
    /// It waited for so long that this means little.
    slow: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        if self.heard {
            let mut known = self.known.lock();
            if let Some(open) = known.get_mut(&id).filter(|open| Arc::ptr_eq(&open.slot, &self.slot)) {
                if self.slow {
                    open.written = true;
                } else {
                    known.remove(&id);
                }
            }
        }
        if !self.heard || self.slow {
            prune(&self.known);
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
        let mut first = Box::pin(queue.execute(Some(Id::of(b"a")), work.clone()));
        assert!(futures::poll!(&mut first).is_pending());
        drop(first);
        let second = tokio::spawn({
            let (queue, work) = (queue.clone(), work.clone());
            async move { queue.execute(Some(Id::of(b"a")), work).await }
        });
        go.notify_one();
        assert_eq!(body(second.await.unwrap()).await, (200, Bytes::from_static(b"once")));
        // It was heard: the next one with these words is a new one.
        go.notify_one();
        assert_eq!(body(queue.execute(Some(Id::of(b"a")), work).await).await.0, 200);
        assert_eq!(times.load(Ordering::SeqCst), 2);
        assert!(queue.known.lock().is_empty());
        drop(queue);
        runner.await.unwrap();
    }

    /// Work that counts how often it is done, and says `text`.
    fn counted(times: &Arc<AtomicUsize>, text: Vec<u8>) -> impl Fn() -> Work + Clone + use<> {
        let times = times.clone();
        move || {
            let (times, text) = (times.clone(), text.clone());
            async move {
                times.fetch_add(1, Ordering::SeqCst);
                Answer { status: StatusCode::OK, body: text.into() }
            }
            .boxed()
        }
    }

    #[tokio::test]
    async fn an_answer_is_kept_until_it_was_written() {
        let (queue, run) = Queue::new(CancellationToken::new());
        let runner = tokio::spawn(run);
        let times = Arc::new(AtomicUsize::new(0));
        let large = vec![b'x'; 20 * PIECE];
        let work = counted(&times, large.clone());
        let id = Some(Id::of(b"a"));
        // The connection breaks before the answer, and in the middle of it.
        drop(queue.execute(id, work.clone()).await);
        let mut half = queue.execute(id, work.clone()).await.into_body().into_data_stream();
        for _ in 0..10 {
            assert_eq!(futures::StreamExt::next(&mut half).await.unwrap().unwrap().len(), PIECE);
        }
        drop(half);
        let whole = queue.execute(id, work.clone()).await;
        assert_eq!(whole.headers()["content-length"], large.len().to_string());
        let whole = axum::body::to_bytes(whole.into_body(), usize::MAX).await.unwrap();
        assert_eq!((whole == large, times.load(Ordering::SeqCst)), (true, 1));
        assert!(queue.known.lock().is_empty());
        body(queue.execute(id, counted(&times, b"small".to_vec())).await).await;
        assert_eq!(times.load(Ordering::SeqCst), 2);
        drop(queue);
        runner.await.unwrap();
    }

    #[tokio::test]
    async fn a_slow_answer_is_kept_until_the_client_goes_on() {
        let (mut queue, run) = Queue::new(CancellationToken::new());
        queue.slow = Duration::ZERO;
        let runner = tokio::spawn(run);
        let times = Arc::new(AtomicUsize::new(0));
        let work = counted(&times, b"once".to_vec());
        let id = Some(Id::of(b"a"));
        for _ in 0..3 {
            assert_eq!(body(queue.execute(id, work.clone()).await).await.1, b"once".as_slice());
        }
        assert_eq!(times.load(Ordering::SeqCst), 1);
        body(queue.execute(None, work.clone()).await).await;
        body(queue.execute(id, work).await).await;
        assert_eq!((times.load(Ordering::SeqCst), queue.known.lock().len()), (3, 1));
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
