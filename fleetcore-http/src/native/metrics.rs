//! Measurements of hosts: over time as JSON, now for Prometheus.

use std::{fmt::Write as _, time::Duration};

use axum::extract::State;
use fleetcore::{Error, ErrorKind, HostSample, Target as CoreTarget, telemetry::Recorder};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use super::wire::{HostTotals, MetricSeries, Metrics};
use crate::{
    app::App,
    auth::CanRead,
    error::{Problem, Reply},
    extract::{Json, Path, Query},
};

/// How often measurements are written: what a crash costs.
const FLUSH_EVERY: Duration = Duration::from_secs(30);
/// How often old ones are removed.
const PRUNE_EVERY: u32 = 20;
/// What is shown when nobody says from when on.
const USUAL: SignedDuration = SignedDuration::from_hours(1);

/// Which part of the history, and how fine.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct MetricsQuery {
    /// From when on: RFC 3339, or seconds since 1970. Default: an hour before `to`. A week is kept.
    #[param(nullable = false, example = "2026-01-31T12:00:00Z")]
    from: Option<String>,
    /// Until when. Default: now.
    #[param(nullable = false)]
    to: Option<String>,
    /// Seconds from one point to the next. Default: as fine as is kept that long (10 s for an hour, a minute for a
    /// day, a quarter of an hour for a week).
    #[param(nullable = false, minimum = 1, maximum = 604_800)]
    step: Option<u64>,
}

fn time(field: &'static str, text: &str) -> Result<Timestamp, Problem> {
    let seconds = text.parse::<i64>().ok().and_then(|s| Timestamp::from_second(s).ok());
    seconds
        .or_else(|| text.parse().ok())
        .ok_or_else(|| Problem::invalid(field, "a time in RFC 3339, or seconds since 1970"))
}

/// The history of one host, for those who have checked that it exists.
pub(super) async fn history(app: &App, host: &str, query: &MetricsQuery) -> Reply<Json<Metrics>> {
    let recorder = app.metrics().ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, "this server keeps no measurements").with_operation("metrics")
    })?;
    let to = query.to.as_deref().map(|t| time("to", t)).transpose()?.unwrap_or_else(Timestamp::now);
    let from = match &query.from {
        Some(from) => time("from", from)?,
        None => to.checked_sub(USUAL).unwrap_or(Timestamp::MIN),
    };
    if query.step.is_some_and(|s| !(1..=604_800).contains(&s)) {
        return Err(Problem::invalid("step", "1 to 604800 seconds"));
    }
    let (step, points) = recorder.history(host, from, to, query.step.map(Duration::from_secs)).await?;
    let totals = recorder.latest(host).map(|s| HostTotals {
        memory_bytes: s.memory_total_bytes,
        swap_bytes: s.swap_total_bytes,
        disk_bytes: s.disk_total_bytes,
    });
    Ok(Json(Metrics {
        target: host.to_owned(),
        from,
        to,
        step_s: step.as_secs(),
        series: MetricSeries::of(&points, |b| &b.avg),
        least: MetricSeries::of(&points, |b| &b.min),
        most: MetricSeries::of(&points, |b| &b.max),
        totals,
    }))
}

/// How busy a target was in up to a week. Empty where it is not known: only hosts are measured, `local` and agents.
#[utoipa::path(get, path = "/api/v1/targets/{target}/metrics", tag = "targets",
    params(("target" = String, Path, description = "Its name, percent-encoded as one segment", example = "local", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,2}$"), MetricsQuery),
    responses((status = 200, description = "What is known", body = Metrics)))]
pub(super) async fn target_metrics(
    _: CanRead,
    State(app): State<App>,
    Path(name): Path<String>,
    Query(query): Query<MetricsQuery>,
) -> Reply<Json<Metrics>> {
    let wanted: CoreTarget = name.parse()?;
    app.fleet().target(&wanted)?;
    history(&app, &wanted.to_string(), &query).await
}

/// Writes measurements now and then, and at the end.
pub(crate) async fn keep_metrics(recorder: Recorder, stop: CancellationToken) {
    let mut every = tokio::time::interval_at(tokio::time::Instant::now() + FLUSH_EVERY, FLUSH_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut turn = 0;
    loop {
        let stopped = stop.run_until_cancelled(every.tick()).await.is_none();
        if let Err(error) = recorder.flush().await {
            tracing::warn!(%error, "measurements cannot be stored; trying again");
        }
        if stopped {
            return;
        }
        turn += 1;
        if turn % PRUNE_EVERY == 1
            && let Err(error) = recorder.prune(Timestamp::now()).await
        {
            tracing::warn!(%error, "old measurements cannot be removed");
        }
    }
}

type Gauge = (&'static str, &'static str, fn(&HostSample) -> f64);

/// Names as Prometheus wants them: the unit at the end.
const GAUGES: [Gauge; 14] = [
    ("cpu_percent", "Share of all processors in use, 0 to 100", |s| f64::from(s.cpu_percent)),
    ("memory_used_bytes", "Memory in use", |s| s.memory_used_bytes as f64),
    ("memory_total_bytes", "Main memory", |s| s.memory_total_bytes as f64),
    ("swap_used_bytes", "Swap in use", |s| s.swap_used_bytes as f64),
    ("swap_total_bytes", "Swap", |s| s.swap_total_bytes as f64),
    ("load1", "Load average over one minute", |s| s.load1),
    ("load5", "Load average over five minutes", |s| s.load5),
    ("load15", "Load average over fifteen minutes", |s| s.load15),
    ("disk_used_bytes", "Used on the file system of /", |s| s.disk_used_bytes as f64),
    ("disk_total_bytes", "Size of the file system of /", |s| s.disk_total_bytes as f64),
    ("network_receive_bytes_per_second", "Bytes received per second", |s| s.net_rx_bytes_per_s as f64),
    ("network_transmit_bytes_per_second", "Bytes sent per second", |s| s.net_tx_bytes_per_s as f64),
    ("uptime_seconds", "Time since the host was started", |s| s.uptime_s as f64),
    ("up", "The host is there", |_| 1.0),
];

/// The newest measurements of all hosts that are there, in the text format of Prometheus. The label `agent` is the name
/// of the agent, or `local`: names have no character that needs escaping.
pub(super) fn prometheus(recorder: &Recorder) -> String {
    let hosts = recorder.all_latest();
    let mut text = String::new();
    if hosts.is_empty() {
        return text;
    }
    for (name, help, value) in GAUGES {
        let _ = writeln!(text, "# HELP fleetcore_host_{name} {help}\n# TYPE fleetcore_host_{name} gauge");
        for (host, sample) in &hosts {
            let _ = writeln!(text, "fleetcore_host_{name}{{agent=\"{host}\"}} {}", value(sample));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fleetcore::store::memory::MemoryStore;

    use super::*;

    #[test]
    fn the_text_for_prometheus() {
        let recorder = Recorder::new(Arc::new(MemoryStore::new()));
        assert_eq!(prometheus(&recorder), "");
        let mut sample = HostSample::default();
        (sample.load1, sample.uptime_s) = (0.25, 17);
        recorder.record("office-1", Timestamp::now(), &sample);
        recorder.record("local", Timestamp::now(), &sample);
        let text = prometheus(&recorder);
        for line in [
            "# TYPE fleetcore_host_load1 gauge",
            "fleetcore_host_load1{agent=\"office-1\"} 0.25",
            "fleetcore_host_uptime_seconds{agent=\"local\"} 17",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert_eq!(text.lines().count(), GAUGES.len() * 4);
        recorder.away("office-1");
        assert!(!prometheus(&recorder).contains("office-1"));
    }

    #[test]
    fn times_are_text_or_seconds() {
        assert_eq!(time("from", "1700000000").unwrap().as_second(), 1_700_000_000);
        assert_eq!(time("from", "2023-11-14T22:13:20Z").unwrap().as_second(), 1_700_000_000);
        for bad in ["", "yesterday", "99999999999999999", "2023-11-14"] {
            assert_eq!(time("from", bad).unwrap_err().code(), "invalid_input", "{bad}");
        }
    }
}
