//! Measurements of hosts.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How busy a host was at one moment. What cannot be found out is zero.
///
/// Agents send it with their heartbeats, in [`AgentReport::status`](super::AgentReport) under
/// [`STATUS_KEY`](Self::STATUS_KEY).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct HostSample {
    /// When it was measured, by the clock of that host.
    pub at: Timestamp,
    /// Share of all processors in use since the sample before, 0 to 100.
    pub cpu_percent: f32,
    /// Memory that is neither free nor could be freed at once.
    pub memory_used_bytes: u64,
    /// Main memory.
    pub memory_total_bytes: u64,
    /// Swap in use.
    pub swap_used_bytes: u64,
    /// Swap there is.
    pub swap_total_bytes: u64,
    /// Load average over one minute.
    pub load1: f64,
    /// Over five minutes.
    pub load5: f64,
    /// Over fifteen minutes.
    pub load15: f64,
    /// Used on the file system of `/`.
    pub disk_used_bytes: u64,
    /// Size of that file system.
    pub disk_total_bytes: u64,
    /// Bytes received per second since the sample before, over all interfaces but loopback.
    pub net_rx_bytes_per_s: u64,
    /// Bytes sent per second, likewise.
    pub net_tx_bytes_per_s: u64,
    /// Seconds since the host was started.
    pub uptime_s: u64,
}

impl Default for HostSample {
    fn default() -> Self {
        Self {
            at: Timestamp::UNIX_EPOCH,
            cpu_percent: 0.0,
            memory_used_bytes: 0,
            memory_total_bytes: 0,
            swap_used_bytes: 0,
            swap_total_bytes: 0,
            load1: 0.0,
            load5: 0.0,
            load15: 0.0,
            disk_used_bytes: 0,
            disk_total_bytes: 0,
            net_rx_bytes_per_s: 0,
            net_tx_bytes_per_s: 0,
            uptime_s: 0,
        }
    }
}

impl HostSample {
    /// Where a sample is in the status of an agent.
    pub const STATUS_KEY: &'static str = "host";

    /// The value of one series.
    pub fn value(&self, metric: Metric) -> f64 {
        match metric {
            Metric::Cpu => f64::from(self.cpu_percent),
            Metric::Memory => self.memory_used_bytes as f64,
            Metric::Swap => self.swap_used_bytes as f64,
            Metric::Load1 => self.load1,
            Metric::Disk => self.disk_used_bytes as f64,
            Metric::NetRx => self.net_rx_bytes_per_s as f64,
            Metric::NetTx => self.net_tx_bytes_per_s as f64,
            Metric::Uptime => self.uptime_s as f64,
        }
    }
}

/// What is kept of hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Share of all processors in use, 0 to 100.
    Cpu,
    /// Memory in use, in bytes.
    Memory,
    /// Swap in use, in bytes.
    Swap,
    /// Load average over one minute.
    Load1,
    /// Used on the file system of `/`, in bytes.
    Disk,
    /// Bytes received per second.
    NetRx,
    /// Bytes sent per second.
    NetTx,
    /// Seconds since the host was started.
    Uptime,
}

impl Metric {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();
    /// All of them, in the order in which they are stored.
    pub const ALL: [Self; 8] = [
        Self::Cpu,
        Self::Memory,
        Self::Swap,
        Self::Load1,
        Self::Disk,
        Self::NetRx,
        Self::NetTx,
        Self::Uptime,
    ];

    /// Stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Swap => "swap",
            Self::Load1 => "load1",
            Self::Disk => "disk",
            Self::NetRx => "net_rx",
            Self::NetTx => "net_tx",
            Self::Uptime => "uptime",
        }
    }
}

/// One resolution of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub struct MetricLevel {
    /// Length of one bucket in seconds.
    pub step_s: u32,
    /// How long buckets are kept, in seconds.
    pub keep_s: u32,
}

impl MetricLevel {
    /// From fine to coarse: 10 s for an hour, 1 min for a day, 15 min for a week.
    pub const ALL: [Self; 3] = [
        Self { step_s: 10, keep_s: 3600 },
        Self { step_s: 60, keep_s: 86_400 },
        Self { step_s: 900, keep_s: 604_800 },
    ];
    /// The one that reaches back furthest.
    pub const COARSEST: Self = Self { step_s: 900, keep_s: 604_800 };

    /// The level to look at for what happened since `age` ago, one point per `step` if that is given: the coarsest one
    /// that is not coarser than asked for, of those that reach back far enough.
    pub fn choose(age: Duration, step: Option<Duration>) -> Self {
        let reach = Self::ALL.into_iter().filter(|l| u64::from(l.keep_s) >= age.as_secs());
        let mut best = None;
        for level in reach {
            let fine_enough = step.is_some_and(|s| u64::from(level.step_s) <= s.as_secs());
            if best.is_none() || fine_enough {
                best = Some(level);
            }
        }
        best.unwrap_or(Self::COARSEST)
    }

    /// Start of the bucket that a second belongs to.
    pub fn bucket(self, second: i64) -> i64 {
        second - second.rem_euclid(i64::from(self.step_s))
    }
}

/// What was measured in one stretch of time: the least, the mean and the most of each series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MetricBucket {
    /// Number of samples; never 0.
    pub samples: u32,
    /// By [`Metric::ALL`].
    pub min: [f32; Metric::COUNT],
    /// The mean, by [`Metric::ALL`].
    pub avg: [f32; Metric::COUNT],
    /// By [`Metric::ALL`].
    pub max: [f32; Metric::COUNT],
}

impl MetricBucket {
    /// Length of [`to_bytes`](Self::to_bytes).
    pub const BYTES: usize = 4 + 3 * 4 * Metric::COUNT;

    /// A bucket with one sample. What is no number counts as zero.
    pub fn of(sample: &HostSample) -> Self {
        let values = Metric::ALL.map(|m| sample.value(m) as f32).map(|v| if v.is_finite() { v } else { 0.0 });
        Self { samples: 1, min: values, avg: values, max: values }
    }

    /// Takes up what another bucket holds.
    pub fn merge(&mut self, other: &Self) {
        let (mine, theirs) = (f64::from(self.samples), f64::from(other.samples));
        for (a, b) in self.min.iter_mut().zip(other.min) {
            *a = a.min(b);
        }
        for (a, b) in self.max.iter_mut().zip(other.max) {
            *a = a.max(b);
        }
        for (a, b) in self.avg.iter_mut().zip(other.avg) {
            *a = ((f64::from(*a) * mine + f64::from(b) * theirs) / (mine + theirs)) as f32;
        }
        self.samples = self.samples.saturating_add(other.samples);
    }

    /// For a store: little-endian, the number of samples first.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let values = self.min.iter().chain(&self.avg).chain(&self.max).map(|v| v.to_le_bytes());
        let words = std::iter::once(self.samples.to_le_bytes()).chain(values);
        for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word);
        }
        bytes
    }

    /// The reverse; `None` for what is none.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        let mut words = bytes.as_chunks::<4>().0.iter();
        let samples = u32::from_le_bytes(*words.next()?);
        let mut part = || -> Option<[f32; Metric::COUNT]> {
            let mut values = [0.0; Metric::COUNT];
            for value in &mut values {
                *value = f32::from_le_bytes(*words.next()?);
            }
            values.iter().all(|v| v.is_finite()).then_some(values)
        };
        let (min, avg, max) = (part()?, part()?, part()?);
        (samples > 0).then_some(Self { samples, min, avg, max })
    }
}

/// A bucket of one host, on its way to a store.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct MetricRow {
    /// Name of the target: `local`, or an agent.
    pub host: String,
    /// Its resolution.
    pub level: MetricLevel,
    /// Second since 1970 at which it begins.
    pub start: i64,
    /// What was measured.
    pub bucket: MetricBucket,
}

impl MetricRow {
    /// A row.
    pub fn new(host: impl Into<String>, level: MetricLevel, start: i64, bucket: MetricBucket) -> Self {
        Self { host: host.into(), level, start, bucket }
    }
}

/// One point of all series of a host.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct MetricPoint {
    /// Second since 1970 at which it begins.
    pub start: i64,
    /// What was measured from then on, for one step.
    pub bucket: MetricBucket,
}

impl MetricPoint {
    /// A point.
    pub fn new(start: i64, bucket: MetricBucket) -> Self {
        Self { start, bucket }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn the_level_fits_the_question() {
        let [fine, minute, quarter] = MetricLevel::ALL;
        assert_eq!(MetricLevel::choose(secs(600), None), fine);
        assert_eq!(MetricLevel::choose(secs(600), Some(secs(5))), fine);
        assert_eq!(MetricLevel::choose(secs(600), Some(secs(120))), minute);
        assert_eq!(MetricLevel::choose(secs(7200), None), minute);
        assert_eq!(MetricLevel::choose(secs(7200), Some(secs(10))), minute);
        assert_eq!(MetricLevel::choose(secs(7200), Some(secs(86_400))), quarter);
        assert_eq!(MetricLevel::choose(secs(600_000), None), quarter);
        assert_eq!(MetricLevel::choose(secs(6_000_000), None), quarter);
        assert_eq!(MetricLevel::ALL.last(), Some(&MetricLevel::COARSEST));
    }

    #[test]
    fn a_sample_survives_its_json_and_missing_fields() {
        let sample = HostSample { cpu_percent: 12.5, load1: 0.5, uptime_s: 7, ..HostSample::default() };
        let json = serde_json::to_value(sample).unwrap();
        assert_eq!(serde_json::from_value::<HostSample>(json).unwrap(), sample);
        let old: HostSample = serde_json::from_str(r#"{"load1":1.5,"new_in_2.0":true}"#).unwrap();
        assert!((old.load1 - 1.5).abs() < 1e-9 && old.uptime_s == 0);
    }

    fn bucket() -> impl Strategy<Value = MetricBucket> {
        (1_u32..1000, proptest::array::uniform8(0.0_f32..1e12), 0.0_f32..1e6).prop_map(|(samples, avg, d)| {
            MetricBucket { samples, min: avg.map(|v| v - d), avg, max: avg.map(|v| v + d) }
        })
    }

    proptest! {
        #[test]
        fn buckets_survive_their_bytes(b in bucket()) {
            prop_assert_eq!(MetricBucket::from_bytes(&b.to_bytes()), Some(b));
        }

        #[test]
        fn any_bytes_are_a_bucket_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            if let Some(b) = MetricBucket::from_bytes(&bytes) {
                prop_assert_eq!(&b.to_bytes()[..], &bytes[..]);
            }
        }

        #[test]
        fn the_order_of_merging_does_not_matter(a in bucket(), b in bucket()) {
            let (mut ab, mut ba) = (a, b);
            ab.merge(&b);
            ba.merge(&a);
            prop_assert_eq!((ab.samples, ab.min, ab.max), (ba.samples, ba.min, ba.max));
            for (x, y) in ab.avg.iter().zip(ba.avg) {
                prop_assert!((x - y).abs() <= 1e-5 * x.abs().max(1.0), "{} {}", x, y);
            }
        }
    }
}
