use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::{SqliteStore, error::db};
use crate::{Error, ErrorKind, MetricBucket, MetricLevel, MetricPoint, MetricRow, MetricsStore, Result};

/// Rows in one job: other writers wait for no more than this.
const ROWS_PER_JOB: usize = 1000;
/// Buckets removed in one job.
const PRUNE_PER_JOB: u64 = 10_000;

fn damaged(host: &str, start: i64) -> Error {
    Error::new(ErrorKind::DataLoss, "a stored measurement cannot be read")
        .with_context("host", host)
        .with_context("start", start)
}

fn merge(conn: &Connection, rows: &[MetricRow]) -> Result<()> {
    let op = "metrics.merge";
    let mut find = conn
        .prepare_cached("SELECT body FROM host_metrics WHERE host = ?1 AND level = ?2 AND start = ?3")
        .map_err(db(op))?;
    let mut put = conn
        .prepare_cached(
            "INSERT OR REPLACE INTO host_metrics (host, level, start, body) VALUES (?1, ?2, ?3, ?4)",
        )
        .map_err(db(op))?;
    for row in rows {
        let key = params![row.host, row.level.step_s, row.start];
        let known: Option<Vec<u8>> = find.query_row(key, |r| r.get(0)).optional().map_err(db(op))?;
        let mut bucket = row.bucket;
        // One that cannot be read is replaced: a picture with a wrong spot is better than none.
        if let Some(known) = known.as_deref().and_then(MetricBucket::from_bytes) {
            bucket.merge(&known);
        }
        put.execute(params![row.host, row.level.step_s, row.start, bucket.to_bytes()]).map_err(db(op))?;
    }
    Ok(())
}

#[async_trait]
impl MetricsStore for SqliteStore {
    async fn merge_metrics(&self, mut rows: Vec<MetricRow>) -> Result<()> {
        // Neighbours in the table are neighbours here: fewer pages are touched.
        rows.sort_unstable_by(|a, b| (&a.host, a.level, a.start).cmp(&(&b.host, b.level, b.start)));
        while !rows.is_empty() {
            let rest = rows.split_off(rows.len().min(ROWS_PER_JOB));
            let part = std::mem::replace(&mut rows, rest);
            self.writer.run("metrics.merge", move |conn: &Connection| merge(conn, &part)).await?;
        }
        Ok(())
    }

    async fn metrics(&self, host: &str, level: MetricLevel, from: i64, to: i64) -> Result<Vec<MetricPoint>> {
        let (op, host) = ("metrics.read", host.to_owned());
        let work = move |conn: &Connection| {
            let mut query = conn
                .prepare_cached(
                    "SELECT start, body FROM host_metrics
                     WHERE host = ?1 AND level = ?2 AND start >= ?3 AND start < ?4 ORDER BY start",
                )
                .map_err(db(op))?;
            let row = |r: &rusqlite::Row<'_>| Ok((r.get::<_, i64>(0)?, r.get::<_, Vec<u8>>(1)?));
            let rows = query.query_map(params![host, level.step_s, from, to], row).map_err(db(op))?;
            rows.map(|row| {
                let (start, body) = row.map_err(db(op))?;
                let bucket = MetricBucket::from_bytes(&body).ok_or_else(|| damaged(&host, start))?;
                Ok(MetricPoint::new(start, bucket))
            })
            .collect()
        };
        self.readers.run(op, work).await
    }

    async fn remove_metrics(&self, host: &str) -> Result<()> {
        let (op, host) = ("metrics.remove", host.to_owned());
        let work = move |conn: &Connection| {
            conn.execute("DELETE FROM host_metrics WHERE host = ?1", [host]).map(drop).map_err(db(op))
        };
        self.writer.run(op, work).await
    }

    async fn prune_metrics(&self, now: Timestamp) -> Result<u64> {
        let op = "metrics.prune";
        let mut all = 0;
        for level in MetricLevel::ALL {
            let before = now.as_second() - i64::from(level.keep_s) - i64::from(level.step_s);
            loop {
                let work = move |conn: &Connection| {
                    conn.prepare_cached(
                        "DELETE FROM host_metrics WHERE (host, level, start) IN
                         (SELECT host, level, start FROM host_metrics WHERE level = ?1 AND start < ?2 LIMIT ?3)",
                    )
                    .and_then(|mut s| s.execute(params![level.step_s, before, PRUNE_PER_JOB.cast_signed()]))
                    .map_err(db(op))
                };
                let gone = self.writer.run(op, work).await? as u64;
                all += gone;
                if gone < PRUNE_PER_JOB {
                    break;
                }
            }
        }
        Ok(all)
    }
}
