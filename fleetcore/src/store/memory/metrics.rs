use async_trait::async_trait;
use jiff::Timestamp;

use super::MemoryStore;
use crate::{MetricLevel, MetricPoint, MetricRow, MetricsStore, Result};

#[async_trait]
impl MetricsStore for MemoryStore {
    async fn merge_metrics(&self, rows: Vec<MetricRow>) -> Result<()> {
        let mut state = self.state();
        for row in rows {
            state.metrics.entry(row.host).or_default().merge(row.level, row.start, &row.bucket);
        }
        Ok(())
    }

    async fn metrics(&self, host: &str, level: MetricLevel, from: i64, to: i64) -> Result<Vec<MetricPoint>> {
        Ok(self.state().metrics.get(host).map(|h| h.points(level, from, to)).unwrap_or_default())
    }

    async fn remove_metrics(&self, host: &str) -> Result<()> {
        self.state().metrics.remove(host);
        Ok(())
    }

    async fn prune_metrics(&self, now: Timestamp) -> Result<u64> {
        let mut state = self.state();
        let gone = state.metrics.values_mut().map(|h| h.prune(now.as_second())).sum();
        state.metrics.retain(|_, h| !h.is_empty());
        Ok(gone)
    }
}
