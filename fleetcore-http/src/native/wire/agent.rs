use std::collections::BTreeMap;

use fleetcore::{AgentId, Metric, MetricBucket, MetricPoint};
use jiff::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Capabilities, Host, Load};

/// An agent: a host that has joined, here or away. In events: `event: agent`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Agent {
    /// Its name; also that of the target.
    #[schema(value_type = String, example = "office-1")]
    pub id: AgentId,
    /// It was heard of lately.
    pub online: bool,
    /// Its link is up at this moment. One that is online and not connected is expected back any second.
    pub connected: bool,
    /// Version of its program; null when it never connected.
    pub version: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// When it was last heard of.
    pub last_seen: Option<Timestamp>,
    /// When it joined; null for one that was given its token by other means.
    pub joined_at: Option<Timestamp>,
    /// Who made the code it joined with.
    pub invited_by: Option<String>,
    /// Commands that run there.
    pub running: usize,
    /// What works on its host; null when it never connected.
    pub capabilities: Option<Capabilities>,
    /// What its host is; null when it never said.
    pub host: Option<Host>,
    /// How busy its host is; null when it is away.
    pub load: Option<Load>,
}

/// An agent is gone for good: `event: agent_removed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgentRemoved {
    /// Which.
    #[schema(value_type = String)]
    pub id: AgentId,
}

/// A join code to make.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CreateJoinCode {
    /// Labels the agent gets.
    pub labels: BTreeMap<String, String>,
    /// How long the code works. Default: one hour.
    #[schema(minimum = 1, maximum = 2_592_000)]
    pub expires_in_s: Option<u64>,
}

/// A code that lets one agent join, once. Shown only now.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NewJoinCode {
    /// The code.
    #[schema(example = "fcj_…")]
    pub code: String,
    /// When it stops working.
    pub expires_at: Timestamp,
    /// What to run on the host that is to join.
    #[schema(example = "fleetcore agent --server https://fleet.example --join fcj_…")]
    pub command: String,
}

/// An agent that wants to join.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The code.
    #[schema(value_type = String, format = Password)]
    pub code: SecretString,
    /// The name it wants.
    #[schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$")]
    pub id: String,
}

/// An agent was let in.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Joined {
    /// Its name.
    #[schema(value_type = String)]
    pub id: AgentId,
    /// What it connects with from now on. Shown only now.
    pub token: String,
    /// Labels it was given.
    pub labels: BTreeMap<String, String>,
}

/// How busy a host was over time. All lists hold pairs of a time (seconds since 1970) and a value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Metrics {
    /// Which host.
    #[schema(example = "local")]
    pub target: String,
    /// From when on.
    pub from: Timestamp,
    /// Until when.
    pub to: Timestamp,
    /// Seconds from one point to the next; where nothing was measured there is none.
    pub step_s: u64,
    /// Means.
    pub series: MetricSeries,
    /// Least values.
    pub least: MetricSeries,
    /// Greatest values.
    pub most: MetricSeries,
    /// What there is in all; null when the host is away.
    pub totals: Option<HostTotals>,
}

/// Main memory, swap and disk of a host in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostTotals {
    /// Main memory.
    pub memory_bytes: u64,
    /// Swap.
    pub swap_bytes: u64,
    /// The file system of `/`.
    pub disk_bytes: u64,
}

/// Values over time, one list of `[time, value]` per series.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MetricSeries {
    /// Share of all processors in use, 0 to 100.
    #[schema(value_type = Vec<Vec<f64>>)]
    pub cpu: Vec<(i64, f64)>,
    /// Memory in use, in bytes.
    #[schema(value_type = Vec<Vec<f64>>)]
    pub memory: Vec<(i64, f64)>,
    /// Swap in use, in bytes.
    #[schema(value_type = Vec<Vec<f64>>)]
    pub swap: Vec<(i64, f64)>,
    /// Load average over one minute.
    #[schema(value_type = Vec<Vec<f64>>)]
    pub load1: Vec<(i64, f64)>,
    /// Disk in use, in bytes.
    #[schema(value_type = Vec<Vec<f64>>)]
    pub disk: Vec<(i64, f64)>,
    /// Bytes received per second.
    #[schema(value_type = Vec<Vec<f64>>)]
    pub net_rx: Vec<(i64, f64)>,
    /// Bytes sent per second.
    #[schema(value_type = Vec<Vec<f64>>)]
    pub net_tx: Vec<(i64, f64)>,
    /// Seconds since the host was started.
    #[schema(value_type = Vec<Vec<f64>>)]
    pub uptime: Vec<(i64, f64)>,
}

impl MetricSeries {
    /// One of the three values of each point.
    pub(crate) fn of(points: &[MetricPoint], part: impl Fn(&MetricBucket) -> &[f32; Metric::COUNT]) -> Self {
        let mut series = Self::default();
        for point in points {
            for (metric, value) in Metric::ALL.into_iter().zip(part(&point.bucket)) {
                // Thousandths are more than was measured, and short to write.
                let value = (f64::from(*value) * 1000.0).round() / 1000.0;
                series.list(metric).push((point.start, value));
            }
        }
        series
    }

    fn list(&mut self, metric: Metric) -> &mut Vec<(i64, f64)> {
        match metric {
            Metric::Cpu => &mut self.cpu,
            Metric::Memory => &mut self.memory,
            Metric::Swap => &mut self.swap,
            Metric::Load1 => &mut self.load1,
            Metric::Disk => &mut self.disk,
            Metric::NetRx => &mut self.net_rx,
            Metric::NetTx => &mut self.net_tx,
            Metric::Uptime => &mut self.uptime,
        }
    }
}
