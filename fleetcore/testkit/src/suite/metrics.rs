//! What every [`MetricsStore`] promises.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "cases fail by panicking")]

use std::sync::Arc;

use fleetcore::{HostSample, MetricBucket, MetricLevel, MetricRow, MetricsStore};
use jiff::Timestamp;

use super::{Case, cases};

const FINE: MetricLevel = MetricLevel::ALL[0];
const MINUTE: MetricLevel = MetricLevel::ALL[1];

/// All cases.
pub fn all() -> Vec<Case<dyn MetricsStore>> {
    cases![
        buckets_come_back_in_order,
        the_same_bucket_is_merged,
        hosts_and_levels_are_apart,
        old_buckets_are_pruned_by_level,
        many_rows_at_once,
    ]
}

fn row(host: &str, level: MetricLevel, start: i64, load: f64) -> MetricRow {
    let mut sample = HostSample::default();
    sample.load1 = load;
    MetricRow::new(host, level, start, MetricBucket::of(&sample))
}

async fn starts(store: &dyn MetricsStore, host: &str, level: MetricLevel) -> Vec<i64> {
    let points = store.metrics(host, level, i64::MIN, i64::MAX).await.unwrap();
    points.iter().map(|p| p.start).collect()
}

async fn buckets_come_back_in_order(store: Arc<dyn MetricsStore>) {
    store.merge_metrics(vec![]).await.unwrap();
    let rows = [30, 10, 20, 40].map(|start| row("a", FINE, start, start as f64));
    store.merge_metrics(rows.to_vec()).await.unwrap();
    assert_eq!(starts(&*store, "a", FINE).await, [10, 20, 30, 40]);
    let some = store.metrics("a", FINE, 20, 40).await.unwrap();
    assert_eq!(some.iter().map(|p| p.start).collect::<Vec<_>>(), [20, 30]);
    assert_eq!(some[0].bucket, rows[2].bucket);
    assert!(store.metrics("a", FINE, 40, 20).await.unwrap().is_empty());
}

async fn the_same_bucket_is_merged(store: Arc<dyn MetricsStore>) {
    store.merge_metrics(vec![row("a", FINE, 10, 1.0), row("a", FINE, 10, 2.0)]).await.unwrap();
    store.merge_metrics(vec![row("a", FINE, 10, 6.0)]).await.unwrap();
    let points = store.metrics("a", FINE, 0, 100).await.unwrap();
    let b = points[0].bucket;
    assert_eq!((points.len(), b.samples, b.min[3], b.avg[3], b.max[3]), (1, 3, 1.0, 3.0, 6.0));
}

async fn hosts_and_levels_are_apart(store: Arc<dyn MetricsStore>) {
    let rows = vec![row("a", FINE, 60, 1.0), row("a", MINUTE, 60, 2.0), row("ab", FINE, 70, 3.0)];
    store.merge_metrics(rows).await.unwrap();
    assert_eq!(starts(&*store, "a", FINE).await, [60]);
    assert_eq!(starts(&*store, "a", MINUTE).await, [60]);
    assert_eq!(starts(&*store, "ab", FINE).await, [70]);
    assert!(starts(&*store, "b", FINE).await.is_empty());
    store.remove_metrics("a").await.unwrap();
    assert!(starts(&*store, "a", FINE).await.is_empty() && starts(&*store, "a", MINUTE).await.is_empty());
    assert_eq!(starts(&*store, "ab", FINE).await, [70]);
    store.remove_metrics("a").await.unwrap();
}

async fn old_buckets_are_pruned_by_level(store: Arc<dyn MetricsStore>) {
    let now = 1_700_000_040;
    let hours = |n: i64| now - n * 3600;
    let rows = vec![
        row("a", FINE, hours(2), 1.0),
        row("a", FINE, now - 600, 1.0),
        row("a", MINUTE, hours(2), 1.0),
        row("a", MINUTE, hours(26), 1.0),
        row("b", MetricLevel::COARSEST, hours(26), 1.0),
        row("b", MetricLevel::COARSEST, hours(24 * 8), 1.0),
    ];
    store.merge_metrics(rows).await.unwrap();
    let gone = store.prune_metrics(Timestamp::from_second(now).unwrap()).await.unwrap();
    assert_eq!(gone, 3);
    assert_eq!(starts(&*store, "a", FINE).await, [now - 600]);
    assert_eq!(starts(&*store, "a", MINUTE).await, [hours(2)]);
    assert_eq!(starts(&*store, "b", MetricLevel::COARSEST).await, [hours(26)]);
}

async fn many_rows_at_once(store: Arc<dyn MetricsStore>) {
    let rows = (0..3500_i64).map(|n| row(&format!("h{}", n % 50), FINE, n / 50 * 10, n as f64)).collect();
    store.merge_metrics(rows).await.unwrap();
    for host in ["h0", "h49"] {
        assert_eq!(starts(&*store, host, FINE).await.len(), 70);
    }
}
