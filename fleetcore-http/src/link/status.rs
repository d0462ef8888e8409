//! What an agent says about its host with each heartbeat.

use std::sync::Arc;

use fleetcore::{
    HostSample, Json,
    backends::local::host::{HostInfo, HostSampler},
};
use parking_lot::Mutex;

use super::StatusSource;

/// Measures this host each time it is asked, and says what it is. Reads a handful of files of the kernel, well under a
/// millisecond.
pub fn host_status() -> StatusSource {
    let facts = serde_json::to_value(HostInfo::now()).unwrap_or_default();
    let sampler = Mutex::new(HostSampler::new());
    Arc::new(move || {
        let sample = sampler.lock().sample();
        let mut status = Json::new();
        status.insert(HostSample::STATUS_KEY.to_owned(), serde_json::to_value(sample).unwrap_or_default());
        status.insert(HostInfo::STATUS_KEY.to_owned(), facts.clone());
        status
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_what_the_server_reads() {
        let status = host_status()();
        let sample: HostSample = serde_json::from_value(status[HostSample::STATUS_KEY].clone()).unwrap();
        assert!(sample.memory_total_bytes > 0 && sample.uptime_s > 0);
        let facts: HostInfo = serde_json::from_value(status[HostInfo::STATUS_KEY].clone()).unwrap();
        assert!(!facts.hostname.is_empty());
        assert!(serde_json::to_string(&status).unwrap().len() < 1024, "heartbeats are small");
    }
}
