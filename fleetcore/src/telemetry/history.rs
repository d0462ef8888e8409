//! One host over time, at falling resolution.

use std::collections::BTreeMap;

use crate::{HostSample, MetricBucket, MetricLevel, MetricPoint};

/// What was measured of one host: at most [`History::MAX_BUCKETS`] buckets, some 300 KiB, whatever is put in.
///
/// Nothing here reads a clock: time is what the samples are dated with, so a clock that is set only misplaces what was
/// measured meanwhile.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    levels: [BTreeMap<i64, MetricBucket>; MetricLevel::ALL.len()],
}

/// Buckets a level may hold: those of its time and the one that has begun.
const fn room(level: MetricLevel) -> usize {
    (level.keep_s / level.step_s) as usize + 1
}

impl History {
    /// Buckets of all levels at most.
    pub const MAX_BUCKETS: usize = {
        let [fine, middle, coarse] = MetricLevel::ALL;
        room(fine) + room(middle) + room(coarse)
    };

    /// Nothing measured yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a sample that was taken at this second since 1970.
    pub fn record(&mut self, second: i64, sample: &HostSample) {
        let bucket = MetricBucket::of(sample);
        for level in MetricLevel::ALL {
            self.merge(level, level.bucket(second), &bucket);
        }
    }

    /// Adds to the bucket of one level that begins at `start`. When there is no room, the oldest bucket goes.
    pub fn merge(&mut self, level: MetricLevel, start: i64, bucket: &MetricBucket) {
        let Some(kept) = self.level_mut(level) else { return };
        kept.entry(start).and_modify(|b| b.merge(bucket)).or_insert(*bucket);
        if kept.len() > room(level) {
            kept.pop_first();
        }
    }

    /// Buckets of one level that begin in `from..to`.
    pub fn points(&self, level: MetricLevel, from: i64, to: i64) -> Vec<MetricPoint> {
        if from >= to {
            return vec![];
        }
        let kept = MetricLevel::ALL.iter().position(|l| *l == level).and_then(|n| self.levels.get(n));
        let range = kept.into_iter().flat_map(|kept| kept.range(from..to));
        range.map(|(start, bucket)| MetricPoint::new(*start, *bucket)).collect()
    }

    /// Removes what is older than its level keeps, counted back from this second; returns how many buckets.
    pub fn prune(&mut self, now: i64) -> u64 {
        let mut gone = 0;
        for (level, kept) in MetricLevel::ALL.iter().zip(&mut self.levels) {
            let young = kept.split_off(&(now - i64::from(level.keep_s) - i64::from(level.step_s)));
            gone += kept.len() as u64;
            *kept = young;
        }
        gone
    }

    /// Number of buckets.
    pub fn len(&self) -> usize {
        self.levels.iter().map(BTreeMap::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn level_mut(&mut self, level: MetricLevel) -> Option<&mut BTreeMap<i64, MetricBucket>> {
        MetricLevel::ALL.iter().position(|l| *l == level).and_then(|n| self.levels.get_mut(n))
    }
}

/// Fewer points: those that begin within one `step` (seconds) become one. A step that is no longer than the buckets
/// changes nothing.
pub fn thin(points: Vec<MetricPoint>, step_s: i64) -> Vec<MetricPoint> {
    let mut thinned: Vec<MetricPoint> = vec![];
    for point in points {
        let start = point.start - point.start.rem_euclid(step_s.max(1));
        match thinned.last_mut() {
            Some(last) if last.start == start => last.bucket.merge(&point.bucket),
            _ => thinned.push(MetricPoint { start, ..point }),
        }
    }
    thinned
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Metric;

    fn sample(cpu: f32) -> HostSample {
        let memory_used_bytes = (cpu * 1e6) as u64;
        HostSample { cpu_percent: cpu, memory_used_bytes, ..HostSample::default() }
    }

    fn cpu(points: &[MetricPoint]) -> Vec<(i64, f32, f32, f32, u32)> {
        let row =
            |p: &MetricPoint| (p.start, p.bucket.min[0], p.bucket.avg[0], p.bucket.max[0], p.bucket.samples);
        points.iter().map(row).collect()
    }

    #[test]
    fn each_level_has_least_mean_and_most() {
        let mut history = History::new();
        for (second, value) in [(0, 10.0), (5, 30.0), (10, 50.0), (59, 90.0), (60, 1.0)] {
            history.record(second, &sample(value));
        }
        let [fine, minute, quarter] = MetricLevel::ALL;
        let want = [
            (0, 10.0, 20.0, 30.0, 2),
            (10, 50.0, 50.0, 50.0, 1),
            (50, 90.0, 90.0, 90.0, 1),
            (60, 1.0, 1.0, 1.0, 1),
        ];
        assert_eq!(cpu(&history.points(fine, 0, 100)), want);
        assert_eq!(cpu(&history.points(minute, 0, 100)), [(0, 10.0, 45.0, 90.0, 4), (60, 1.0, 1.0, 1.0, 1)]);
        assert_eq!(cpu(&history.points(quarter, 0, 100)), [(0, 1.0, 36.2, 90.0, 5)]);
        assert_eq!(cpu(&history.points(fine, 10, 60)), want[1..3]);
        assert!(history.points(fine, 60, 10).is_empty());
        assert_eq!(cpu(&thin(history.points(fine, 0, 100), 60)), cpu(&history.points(minute, 0, 100)));
    }

    #[test]
    fn a_week_of_samples_is_kept_within_its_bounds() {
        let mut history = History::new();
        let days = 9 * 86_400;
        for second in (0..days).step_by(10) {
            history.record(second, &sample(second as f32 / days as f32));
        }
        assert_eq!(history.len(), History::MAX_BUCKETS);
        for level in MetricLevel::ALL {
            let points = history.points(level, 0, days);
            let oldest = points.first().unwrap().start;
            assert!(
                oldest >= days - i64::from(level.keep_s) - 2 * i64::from(level.step_s),
                "{level:?}: {oldest}"
            );
            assert!(points.windows(2).all(|w| w[0].start + i64::from(level.step_s) == w[1].start));
        }
        // Nothing comes in any more: in the end nothing is left.
        assert!(history.prune(days + 3700) > 300);
        assert_eq!(history.points(MetricLevel::ALL[0], 0, days), []);
        history.prune(days + 8 * 86_400);
        assert!(history.is_empty());
    }

    proptest! {
        /// Whatever clock the samples were dated with.
        #[test]
        fn any_samples_are_kept_in_order_and_within_bounds(
            samples in proptest::collection::vec((-2_000_000_i64..2_000_000, 0.0_f32..100.0), 1..400),
        ) {
            let mut history = History::new();
            for (second, value) in &samples {
                history.record(*second, &sample(*value));
            }
            prop_assert!(history.len() <= History::MAX_BUCKETS);
            for level in MetricLevel::ALL {
                let points = history.points(level, i64::MIN, i64::MAX);
                prop_assert!(points.len() <= room(level));
                prop_assert!(points.windows(2).all(|w| w[0].start < w[1].start));
                for p in &points {
                    prop_assert_eq!(level.bucket(p.start), p.start);
                    let here: Vec<f32> =
                        samples.iter().filter(|(s, _)| level.bucket(*s) == p.start).map(|(_, v)| *v).collect();
                    let n = Metric::ALL.iter().position(|m| *m == Metric::Cpu).unwrap();
                    // Of buckets that were pushed out and came again, only a part is known.
                    prop_assert!(p.bucket.samples as usize <= here.len() && p.bucket.samples > 0);
                    prop_assert!(p.bucket.min[n] <= p.bucket.avg[n] * 1.0001 && p.bucket.avg[n] <= p.bucket.max[n] * 1.0001);
                    if p.bucket.samples as usize == here.len() {
                        let mean = here.iter().sum::<f32>() / here.len() as f32;
                        prop_assert!((p.bucket.avg[n] - mean).abs() < 0.01, "{} {}", p.bucket.avg[n], mean);
                        prop_assert_eq!(p.bucket.max[n], here.iter().copied().fold(f32::MIN, f32::max));
                        prop_assert_eq!(p.bucket.min[n], here.iter().copied().fold(f32::MAX, f32::min));
                    }
                }
            }
        }

        #[test]
        fn thinning_loses_no_sample(
            seconds in proptest::collection::btree_set(0_i64..3000, 1..80), step in 1_i64..2000,
        ) {
            let mut history = History::new();
            for second in &seconds {
                history.record(*second, &sample(*second as f32));
            }
            let points = history.points(MetricLevel::ALL[0], 0, 4000);
            let thinned = thin(points.clone(), step);
            let count = |p: &[MetricPoint]| p.iter().map(|p| p.bucket.samples).sum::<u32>();
            prop_assert_eq!(count(&points), count(&thinned));
            prop_assert!(thinned.windows(2).all(|w| w[0].start < w[1].start));
        }
    }
}
