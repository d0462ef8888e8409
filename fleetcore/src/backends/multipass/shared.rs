//! One answer for all who ask at the same time.

use std::{future::Future, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use super::error::{Class, Failure};

type Answer<T> = Result<Arc<T>, Failure>;

/// A question that is asked at most once at a time. Its answer is shared for a while, failures too, so that a thousand
/// requests during an outage do not become a thousand processes.
#[derive(Debug)]
pub(super) struct Shared<T> {
    state: Arc<Mutex<State<T>>>,
}

#[derive(Debug)]
struct State<T> {
    /// Goes up when what is known is no longer true.
    generation: u64,
    known: Option<(u64, Instant, Answer<T>)>,
    asking: Option<(u64, watch::Receiver<Option<Answer<T>>>)>,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self { state: Arc::new(Mutex::new(State { generation: 0, known: None, asking: None })) }
    }
}

impl<T: Send + Sync + 'static> Shared<T> {
    /// Whatever was asked before is no longer an answer; a question under way is asked again for those who come later.
    pub(super) fn forget(&self) {
        self.state.lock().generation += 1;
    }

    /// The last good answer, however old.
    pub(super) fn last(&self) -> Option<Arc<T>> {
        self.state.lock().known.as_ref().and_then(|(.., answer)| answer.as_ref().ok().cloned())
    }

    /// Whether an answer of this age is there.
    pub(super) fn is_fresh(&self, age: Duration) -> bool {
        let state = self.state.lock();
        matches!(&state.known, Some((g, at, _)) if *g == state.generation && at.elapsed() < age)
    }

    /// An answer no older than `age`, asked for with `ask` if need be. The question goes on when the caller is gone.
    pub(super) async fn get<F>(&self, age: Duration, ask: impl FnOnce() -> F) -> Answer<T>
    where
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let mut answer = {
            let mut state = self.state.lock();
            let now = state.generation;
            if let Some((generation, at, answer)) = &state.known
                && *generation == now
                && at.elapsed() < age
            {
                return answer.clone();
            }
            match &state.asking {
                // An asker that is gone without an answer was torn down with its runtime.
                Some((generation, answer)) if *generation == now && answer.has_changed().is_ok() => {
                    answer.clone()
                }
                _ => {
                    let (tell, answer) = watch::channel(None);
                    state.asking = Some((now, answer.clone()));
                    let (ask, shared) = (ask(), Arc::clone(&self.state));
                    tokio::spawn(async move {
                        let began = Instant::now();
                        let said = ask.await.map(Arc::new);
                        let mut state = shared.lock();
                        if state.generation == now {
                            state.known = Some((now, began, said.clone()));
                            state.asking = None;
                        }
                        drop(state);
                        tell.send_replace(Some(said));
                    });
                    answer
                }
            }
        };
        let said = answer.wait_for(Option::is_some).await.ok().and_then(|a| a.clone());
        said.unwrap_or_else(|| Err(Failure::new(Class::Killed, "list", "the question was given up")))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;
    use tokio::sync::Notify;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn one_question_answers_all_and_forgetting_asks_again() {
        let (shared, asked) = (Shared::<usize>::default(), Arc::new(AtomicUsize::new(0)));
        let ask = || {
            let asked = Arc::clone(&asked);
            || async move {
                tokio::task::yield_now().await;
                Ok(asked.fetch_add(1, Ordering::SeqCst))
            }
        };
        let all = join_all((0..50).map(|_| shared.get(LONG, ask()))).await;
        assert!(all.into_iter().all(|a| *a.unwrap() == 0));
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        shared.forget();
        assert_eq!(*shared.last().unwrap(), 0);
        assert_eq!(*shared.get(LONG, ask()).await.unwrap(), 1);
        assert_eq!(*shared.get(Duration::ZERO, ask()).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn who_comes_after_a_change_gets_no_answer_from_before() {
        let (shared, gate) = (Arc::new(Shared::<&str>::default()), Arc::new(Notify::new()));
        let early = {
            let (shared, gate) = (Arc::clone(&shared), Arc::clone(&gate));
            tokio::spawn(async move {
                shared
                    .get(LONG, || async move {
                        gate.notified().await;
                        Ok("before")
                    })
                    .await
            })
        };
        tokio::task::yield_now().await;
        shared.forget();
        assert_eq!(*shared.get(LONG, || async { Ok("after") }).await.unwrap(), "after");
        gate.notify_one();
        assert_eq!(*early.await.unwrap().unwrap(), "before");
        assert_eq!(
            *shared.get(LONG, || async { Ok("again") }).await.unwrap(),
            "after",
            "the late answer is not kept"
        );
    }

    #[tokio::test]
    async fn a_caller_that_leaves_takes_no_answer_along() {
        let shared = Shared::<u32>::default();
        let gate = Arc::new(Notify::new());
        let waiting = Arc::clone(&gate);
        {
            let asking = shared.get(LONG, || async move {
                waiting.notified().await;
                Ok(7)
            });
            let mut asking = std::pin::pin!(asking);
            assert!(futures::poll!(&mut asking).is_pending());
        }
        let second = shared.get(LONG, || async { Ok(8) });
        gate.notify_one();
        assert_eq!(*second.await.unwrap(), 7);
    }
}
