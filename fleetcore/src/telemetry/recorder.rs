//! Samples of all hosts, on their way to a store and back.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;

use super::thin;
use crate::{Error, HostSample, MetricBucket, MetricLevel, MetricPoint, MetricRow, MetricsStore, Result};

/// Buckets that wait for the store at most; when it fails for so long, new ones are dropped. Some 30 MiB.
const PENDING_MAX: usize = 200_000;
/// Points in one answer at most: a week in quarters of an hour is 672.
const POINTS_MAX: i64 = 20_000;

type Key = (MetricLevel, i64);

#[derive(Default)]
struct State {
    /// What has come in since the last flush.
    pending: HashMap<String, BTreeMap<Key, MetricBucket>>,
    buckets: usize,
    /// The newest sample of hosts that are there.
    latest: BTreeMap<String, HostSample>,
    dropped: u64,
}

impl State {
    fn add(&mut self, host: &str, key: Key, bucket: &MetricBucket) {
        let full = self.buckets >= PENDING_MAX;
        if !self.pending.contains_key(host) {
            if full {
                self.dropped += 1;
                return;
            }
            self.pending.insert(host.to_owned(), BTreeMap::new());
        }
        let Some(of_host) = self.pending.get_mut(host) else { return };
        match of_host.get_mut(&key) {
            Some(known) => known.merge(bucket),
            None if full => self.dropped += 1,
            None => {
                of_host.insert(key, *bucket);
                self.buckets += 1;
            }
        }
    }
}

/// Takes samples of hosts, keeps their history in a store, and answers questions. Cheap to clone; a host costs about a
/// kilobyte between two flushes.
///
/// Nothing happens by itself: whoever holds it calls [`flush`](Self::flush) every half minute or so and at the end, and
/// [`prune`](Self::prune) now and then.
#[derive(Clone)]
pub struct Recorder {
    store: Arc<dyn MetricsStore>,
    state: Arc<Mutex<State>>,
    /// Held while rows are neither pending nor stored.
    flushing: Arc<tokio::sync::Mutex<()>>,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Recorder")
            .field("hosts", &state.latest.len())
            .field("pending", &state.buckets)
            .finish_non_exhaustive()
    }
}

impl Recorder {
    /// Keeps history in `store`.
    pub fn new(store: Arc<dyn MetricsStore>) -> Self {
        Self { store, state: Arc::default(), flushing: Arc::default() }
    }

    /// Takes a sample of a host (`local`, or the name of an agent) that came in at `at`, by the clock of this host:
    /// those of others may be wrong.
    pub fn record(&self, host: &str, at: Timestamp, sample: &HostSample) {
        let bucket = MetricBucket::of(sample);
        let mut state = self.state.lock();
        for level in MetricLevel::ALL {
            state.add(host, (level, level.bucket(at.as_second())), &bucket);
        }
        match state.latest.get_mut(host) {
            Some(known) => *known = *sample,
            None => {
                state.latest.insert(host.to_owned(), *sample);
            }
        }
    }

    /// The host is away: its last sample says nothing any more.
    pub fn away(&self, host: &str) {
        self.state.lock().latest.remove(host);
    }

    /// The newest sample of a host that is there.
    pub fn latest(&self, host: &str) -> Option<HostSample> {
        self.state.lock().latest.get(host).copied()
    }

    /// The newest samples of all hosts that are there, by name.
    pub fn all_latest(&self) -> Vec<(String, HostSample)> {
        self.state.lock().latest.iter().map(|(host, sample)| (host.clone(), *sample)).collect()
    }

    /// Stores what has come in since the last time. What cannot be stored is tried again the next time.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn flush(&self) -> Result<()> {
        let _one = self.flushing.lock().await;
        let taken = {
            let mut state = self.state.lock();
            state.buckets = 0;
            let dropped = std::mem::take(&mut state.dropped);
            if dropped > 0 {
                tracing::warn!(dropped, "measurements were dropped because the store takes none");
            }
            std::mem::take(&mut state.pending)
        };
        if taken.is_empty() {
            return Ok(());
        }
        let rows = taken.iter().flat_map(|(host, buckets)| {
            buckets.iter().map(move |((level, start), b)| MetricRow::new(host.as_str(), *level, *start, *b))
        });
        let stored = self.store.merge_metrics(rows.collect()).await;
        if stored.is_err() {
            let mut state = self.state.lock();
            for (host, buckets) in &taken {
                for (key, bucket) in buckets {
                    state.add(host, *key, bucket);
                }
            }
        }
        stored
    }

    /// What was measured of a host in `from..to`, in order; one point per `step`, or as fine as is kept that long.
    ///
    /// # Errors
    /// `InvalidInput` when `from` is not before `to`, or for a step below a second; those of the store.
    pub async fn history(
        &self,
        host: &str,
        from: Timestamp,
        to: Timestamp,
        step: Option<Duration>,
    ) -> Result<(Duration, Vec<MetricPoint>)> {
        if from >= to {
            return Err(Error::invalid("from", "before to"));
        }
        if step.is_some_and(|s| s < Duration::from_secs(1)) {
            return Err(Error::invalid("step", "at least 1 second"));
        }
        let age = Duration::try_from(Timestamp::now().duration_since(from)).unwrap_or_default();
        let level = MetricLevel::choose(age, step);
        let asked = step.map_or(0, |s| i64::try_from(s.as_secs()).unwrap_or(i64::MAX));
        let step_s = asked.max(i64::from(level.step_s));
        let to_s = to.as_second().saturating_add(1);
        // The bucket in which `from` is counts.
        let from_s =
            level.bucket(from.as_second()).max(to_s.saturating_sub(POINTS_MAX * i64::from(level.step_s)));
        let mut points: BTreeMap<i64, MetricBucket> = BTreeMap::new();
        {
            let _none_on_the_way = self.flushing.lock().await;
            for point in self.store.metrics(host, level, from_s, to_s).await? {
                points.insert(point.start, point.bucket);
            }
            let state = self.state.lock();
            for ((l, start), bucket) in state.pending.get(host).into_iter().flatten() {
                if *l == level && (from_s..to_s).contains(start) {
                    points.entry(*start).and_modify(|b| b.merge(bucket)).or_insert(*bucket);
                }
            }
        }
        let points = points.into_iter().map(|(start, bucket)| MetricPoint::new(start, bucket)).collect();
        Ok((Duration::from_secs(step_s.unsigned_abs()), thin(points, step_s)))
    }

    /// Forgets a host.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn remove(&self, host: &str) -> Result<()> {
        let _one = self.flushing.lock().await;
        {
            let mut state = self.state.lock();
            state.latest.remove(host);
            let gone = state.pending.remove(host).map_or(0, |b| b.len());
            state.buckets = state.buckets.saturating_sub(gone);
        }
        self.store.remove_metrics(host).await
    }

    /// Removes what is too old.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn prune(&self, now: Timestamp) -> Result<u64> {
        self.store.prune_metrics(now).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use async_trait::async_trait;

    use super::*;
    use crate::{ErrorKind, store::memory::MemoryStore};

    fn sample(cpu: f32) -> HostSample {
        HostSample { cpu_percent: cpu, ..HostSample::default() }
    }

    fn ago(seconds: i64) -> Timestamp {
        Timestamp::now().checked_sub(jiff::SignedDuration::from_secs(seconds)).unwrap()
    }

    async fn cpu(recorder: &Recorder, host: &str) -> Vec<f32> {
        let (_, points) = recorder.history(host, ago(3000), ago(0), None).await.unwrap();
        points.iter().map(|p| p.bucket.avg[0]).collect()
    }

    #[tokio::test]
    async fn what_is_pending_and_what_is_stored_are_one_history() {
        let recorder = Recorder::new(Arc::new(MemoryStore::new()));
        recorder.record("a", ago(1000), &sample(10.0));
        recorder.flush().await.unwrap();
        recorder.record("a", ago(500), &sample(20.0));
        recorder.record("b", ago(500), &sample(7.0));
        assert_eq!(cpu(&recorder, "a").await, [10.0, 20.0]);
        recorder.flush().await.unwrap();
        recorder.flush().await.unwrap();
        assert_eq!(cpu(&recorder, "a").await, [10.0, 20.0]);
        assert_eq!(recorder.latest("b").unwrap().cpu_percent, 7.0);
        recorder.away("b");
        assert!(recorder.latest("b").is_none() && recorder.all_latest().len() == 1);
        recorder.remove("a").await.unwrap();
        assert!(cpu(&recorder, "a").await.is_empty());
        assert_eq!(cpu(&recorder, "b").await, [7.0]);
        // Coarser when it is asked for.
        let (step, points) =
            recorder.history("b", ago(3000), ago(0), Some(Duration::from_secs(7200))).await.unwrap();
        assert_eq!((step.as_secs(), points.len()), (7200, 1));
        for (from, to, step) in [(ago(0), ago(1), None), (ago(9), ago(0), Some(Duration::ZERO))] {
            let refused = recorder.history("b", from, to, step).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        }
    }

    /// Takes nothing while it is told not to.
    #[derive(Debug, Default)]
    struct Sulky(AtomicBool, MemoryStore);

    #[async_trait]
    impl MetricsStore for Sulky {
        async fn merge_metrics(&self, rows: Vec<MetricRow>) -> Result<()> {
            if self.0.load(Ordering::SeqCst) {
                return Err(Error::new(ErrorKind::Unavailable, "the disk is full"));
            }
            self.1.merge_metrics(rows).await
        }
        async fn metrics(
            &self,
            host: &str,
            level: MetricLevel,
            from: i64,
            to: i64,
        ) -> Result<Vec<MetricPoint>> {
            self.1.metrics(host, level, from, to).await
        }
        async fn remove_metrics(&self, host: &str) -> Result<()> {
            self.1.remove_metrics(host).await
        }
        async fn prune_metrics(&self, now: Timestamp) -> Result<u64> {
            self.1.prune_metrics(now).await
        }
    }

    #[tokio::test]
    async fn a_store_that_fails_loses_nothing_and_holds_up_nothing() {
        let store = Arc::new(Sulky::default());
        let recorder = Recorder::new(store.clone());
        store.0.store(true, Ordering::SeqCst);
        recorder.record("a", ago(100), &sample(10.0));
        assert_eq!(recorder.flush().await.unwrap_err().kind(), ErrorKind::Unavailable);
        recorder.record("a", ago(50), &sample(20.0));
        assert_eq!(cpu(&recorder, "a").await, [10.0, 20.0]);
        // However long it fails, and however many hosts there are.
        for n in 0..(PENDING_MAX as i64 / 2) {
            recorder.record("a", ago(n * 900), &sample(1.0));
        }
        assert!(recorder.state.lock().buckets <= PENDING_MAX);
        store.0.store(false, Ordering::SeqCst);
        recorder.flush().await.unwrap();
        assert_eq!(recorder.state.lock().buckets, 0);
    }
}
