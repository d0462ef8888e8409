//! Another try.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    around::{Around, Call},
    random,
    wrapped::layer_hooks,
};
use crate::{Error, ErrorKind, Result, Retry, raw::OpContext};

/// How often and how patiently to try again.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RetryConfig {
    /// Tries in all, the first included; at least 1. Default 4.
    pub attempts: u32,
    /// Longest pause after the first failure; doubled after each further one. Default 100 ms.
    pub first_pause: Duration,
    /// Bound on the doubled pause. A pause the remote side asks for may be longer. Default 10 s.
    pub max_pause: Duration,
    /// Longest pause the remote side may ask for; beyond it the call gives up at once. Default 60 s.
    pub max_asked_pause: Duration,
    /// Makes the jitter reproducible. Default: different in every layer.
    pub seed: Option<u64>,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            attempts: 4,
            first_pause: Duration::from_millis(100),
            max_pause: Duration::from_secs(10),
            max_asked_pause: Duration::from_secs(60),
            seed: None,
        }
    }
}

impl RetryConfig {
    /// Sets the number of tries in all.
    #[must_use]
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// Sets the first and the longest pause.
    #[must_use]
    pub fn with_pauses(mut self, first: Duration, longest: Duration) -> Self {
        (self.first_pause, self.max_pause) = (first, longest);
        self
    }

    /// Makes the jitter reproducible.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }
}

/// Makes calls again that failed with [`Retry::Temporary`], where doing it twice is the same as doing it once
/// ([`Operation::is_repeatable`](super::Operation::is_repeatable)); `spawn` only for
/// [`CommandSpec::idempotent`](crate::CommandSpec::idempotent).
///
/// Pauses are exponential with full jitter: a random part of the bound, so that many clients do not come back at
/// the same moment. A delay the remote side asks for is honoured. It gives up with [`Retry::Exhausted`] when the tries
/// are used up or the next one would begin after the caller's deadline; the pause ends at once with `Cancelled` when
/// the caller cancels. Streams are not taken up again once they have begun.
#[derive(Clone, Debug)]
pub struct RetryLayer(Arc<Retrying>);

#[derive(Debug)]
struct Retrying {
    config: RetryConfig,
    seed: u64,
    /// Number of pauses so far, so that each draws its own jitter.
    pauses: AtomicU64,
}

impl RetryLayer {
    /// With these settings.
    pub fn new(config: RetryConfig) -> Self {
        let seed = config.seed.unwrap_or_else(rand::random);
        Self(Arc::new(Retrying { config, seed, pauses: AtomicU64::new(0) }))
    }
}

impl Default for RetryLayer {
    fn default() -> Self {
        Self::new(RetryConfig::default())
    }
}

layer_hooks!(RetryLayer);

impl Retrying {
    /// How long to wait after failure number `failed` (from 1); `None` means give up.
    fn pause(&self, failed: u32, asked: Option<Duration>) -> Option<Duration> {
        let config = &self.config;
        if failed >= config.attempts || asked.is_some_and(|a| a > config.max_asked_pause) {
            return None;
        }
        let doubled = config.first_pause.saturating_mul(1u32.checked_shl(failed - 1).unwrap_or(u32::MAX));
        let n = self.pauses.fetch_add(1, Ordering::Relaxed);
        let jittered = doubled.min(config.max_pause).mul_f64(random::nth_unit(self.seed, n));
        Some(asked.map_or(jittered, |a| a + jittered))
    }
}

impl Around for Retrying {
    type Ticket = ();

    async fn call<T, F, Fut>(&self, call: &Call<'_>, cx: &OpContext, mut run: F) -> Result<(T, ())>
    where
        T: Send,
        F: FnMut(OpContext) -> Fut + Send,
        Fut: Future<Output = Result<T>> + Send,
    {
        let mut failed = 0;
        loop {
            let error = match run(cx.clone()).await {
                Ok(done) => return Ok((done, ())),
                Err(error) => error,
            };
            let Retry::Temporary { after } = error.retry() else { return Err(error) };
            if !call.repeatable {
                return Err(error);
            }
            failed += 1;
            let give_up = |error: Error| error.with_retry(Retry::Exhausted).with_context("attempts", failed);
            let Some(pause) = self.pause(failed, after) else { return Err(give_up(error)) };
            let next = Instant::now() + pause;
            if cx.deadline.is_some_and(|deadline| deadline <= next) {
                return Err(give_up(error));
            }
            ::tracing::debug!(operation = %call.operation, ?pause, failed, %error, "trying again");
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = cx.cancel.cancelled() => {
                    return Err(Error::new(ErrorKind::Cancelled, "the caller cancelled")
                        .with_operation(call.operation.as_str())
                        .with_source(error));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::fake::{self, temporary},
        *,
    };
    use crate::{CommandId, CommandSpec, WriteOptions};
    use futures::StreamExt as _;

    fn layer() -> RetryLayer {
        RetryLayer::new(RetryConfig::default().with_seed(7))
    }

    #[tokio::test(start_paused = true)]
    async fn temporary_failures_are_tried_again_until_one_succeeds() {
        let (executor, seen) =
            fake::executor(&layer(), fake::Fake::failing([temporary(None), temporary(None)]));
        executor.ping(&OpContext::default()).await.unwrap();
        assert_eq!(seen.calls(), ["ping", "ping", "ping"]);
    }

    #[tokio::test(start_paused = true)]
    async fn permanent_failures_are_not() {
        let denied = Error::new(ErrorKind::PermissionDenied, "no");
        let (executor, seen) = fake::executor(&layer(), fake::Fake::failing([denied]));
        let error = executor.ping(&OpContext::default()).await.unwrap_err();
        assert_eq!((error.kind(), seen.calls().len()), (ErrorKind::PermissionDenied, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn it_gives_up_as_exhausted() {
        let (executor, seen) = fake::executor(&layer(), fake::Fake::failing((0..9).map(|_| temporary(None))));
        let error = executor.ping(&OpContext::default()).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Exhausted));
        assert_eq!((seen.calls().len(), error.context_value("attempts")), (4, Some("4")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_spawn_is_repeated_only_when_it_is_idempotent() {
        for (idempotent, calls) in [(false, 1), (true, 2)] {
            let (executor, seen) = fake::executor(&layer(), fake::Fake::failing([temporary(None)]));
            let mut spec = CommandSpec::argv(["true"]);
            spec.idempotent = idempotent;
            let spawned = executor.spawn(&OpContext::default(), CommandId::generate(), &spec).await;
            assert_eq!((spawned.is_ok(), seen.calls().len()), (idempotent, calls));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_uses_up_a_stream_or_answers_differently_the_second_time_is_not_repeated() {
        let (executor, seen) = fake::executor(&layer(), fake::Fake::failing((0..9).map(|_| temporary(None))));
        let (files, cx) = (executor.files().unwrap(), OpContext::default());
        let data = || futures::stream::empty().boxed();
        assert!(files.write(&cx, "f", WriteOptions::default(), data()).await.is_err());
        assert!(files.write_tar(&cx, "d", data()).await.is_err());
        assert!(files.rename(&cx, "a", "b").await.is_err());
        assert!(files.remove(&cx, "a", false).await.is_err());
        assert_eq!(seen.calls(), ["write", "write_tar", "rename", "remove"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_delay_the_remote_side_asks_for_is_honoured() {
        let after = Duration::from_secs(20);
        let (executor, _) = fake::executor(&layer(), fake::Fake::failing([temporary(Some(after))]));
        let started = Instant::now();
        executor.ping(&OpContext::default()).await.unwrap();
        assert!(started.elapsed() >= after, "{:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn it_does_not_pause_beyond_the_deadline_or_an_absurd_wish() {
        let asked = Some(Duration::from_secs(30));
        let (executor, seen) = fake::executor(&layer(), fake::Fake::failing([temporary(asked)]));
        let cx = OpContext::default().with_timeout(Duration::from_secs(10));
        let started = Instant::now();
        assert_eq!(executor.ping(&cx).await.unwrap_err().retry(), Retry::Exhausted);
        assert_eq!((started.elapsed(), seen.calls().len()), (Duration::ZERO, 1));

        let asked = Some(Duration::from_secs(86_400));
        let (executor, _) = fake::executor(&layer(), fake::Fake::failing([temporary(asked)]));
        assert_eq!(executor.ping(&OpContext::default()).await.unwrap_err().retry(), Retry::Exhausted);
    }

    #[tokio::test(start_paused = true)]
    async fn cancelling_ends_the_pause() {
        let asked = Some(Duration::from_secs(30));
        let (executor, seen) = fake::executor(&layer(), fake::Fake::failing([temporary(asked)]));
        let cx = OpContext::default();
        let started = Instant::now();
        let (answer, ()) = tokio::join!(executor.ping(&cx), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            cx.cancel.cancel();
        });
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::Cancelled);
        assert_eq!((started.elapsed(), seen.calls().len()), (Duration::from_secs(1), 1));
    }

    #[test]
    fn pauses_grow_stay_bounded_and_follow_from_the_seed() {
        let config = RetryConfig::default().with_attempts(64).with_seed(1);
        let pauses = || {
            let layer = RetryLayer::new(config.clone());
            (1..64).map(|n| layer.0.pause(n, None).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(pauses(), pauses());
        for (n, pause) in pauses().into_iter().enumerate() {
            let bound =
                Duration::from_millis(100).saturating_mul(1u32.checked_shl(n as u32).unwrap_or(u32::MAX));
            assert!(pause <= bound.min(Duration::from_secs(10)), "{n}: {pause:?}");
        }
    }
}
