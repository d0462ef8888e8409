use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

/// Where a [`SqliteStore`](super::SqliteStore) keeps its files, and how much output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SqliteConfig {
    /// The data directory; made with mode 0700 if absent. On a local disk: SQLite's WAL needs shared memory.
    pub dir: PathBuf,
    /// Bytes of output kept on disk per command, framing included; beyond it the oldest go and readers see a gap.
    /// Default 1 GiB.
    #[serde(default = "command_bytes")]
    pub max_log_bytes: u64,
    /// Bytes of output kept on disk of all commands; beyond it the oldest go. Default 20 GiB.
    #[serde(default = "total_bytes")]
    pub max_total_log_bytes: u64,
    /// Output older than this is removed by `prune` and at each start; `None` (default) keeps it as long as its
    /// record.
    #[serde(default)]
    pub max_log_age: Option<Duration>,
}

impl SqliteConfig {
    /// Default limits.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            max_log_bytes: command_bytes(),
            max_total_log_bytes: total_bytes(),
            max_log_age: None,
        }
    }

    /// Sets how many bytes of output are kept per command.
    #[must_use]
    pub fn with_max_log_bytes(mut self, bytes: u64) -> Self {
        self.max_log_bytes = bytes;
        self
    }

    /// Sets how many bytes of output are kept of all commands.
    #[must_use]
    pub fn with_max_total_log_bytes(mut self, bytes: u64) -> Self {
        self.max_total_log_bytes = bytes;
        self
    }

    /// Sets how long output is kept at most.
    #[must_use]
    pub fn with_max_log_age(mut self, age: Option<Duration>) -> Self {
        self.max_log_age = age;
        self
    }
}

fn command_bytes() -> u64 {
    1 << 30
}

fn total_bytes() -> u64 {
    20 << 30
}
