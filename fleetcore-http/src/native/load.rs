//! What the host is and how busy it is, in the words of the API.

use fleetcore::backends::local::host::{HostInfo, HostSampler};
use parking_lot::Mutex;

use super::wire::{Host, Load};

/// Asks the system. Reads files of /proc, so call it from a thread that may block.
#[derive(Default)]
pub(crate) struct HostWatch {
    /// Made at the first use: taking stock of disks and interfaces costs a few milliseconds.
    sampler: Mutex<Option<HostSampler>>,
}

impl std::fmt::Debug for HostWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HostWatch")
    }
}

impl HostWatch {
    /// What this host is.
    pub(crate) fn facts() -> Host {
        let i = HostInfo::now();
        Host {
            hostname: i.hostname,
            os: i.os,
            kernel: i.kernel,
            arch: i.arch,
            cpus: i.cpus,
            memory_bytes: i.memory_bytes,
            uptime_s: i.uptime_s,
        }
    }

    /// How busy it is since the last time.
    pub(crate) fn measure(&self) -> Load {
        let l = self.sampler.lock().get_or_insert_with(HostSampler::new).sample();
        Load {
            at: l.at,
            cpu_percent: f64::from(l.cpu_percent),
            memory_used_bytes: l.memory_used_bytes,
            memory_total_bytes: l.memory_total_bytes,
            swap_used_bytes: l.swap_used_bytes,
            load1: l.load1,
            load5: l.load5,
            load15: l.load15,
            disk_used_bytes: l.disk_used_bytes,
            disk_total_bytes: l.disk_total_bytes,
            net_rx_bytes_per_s: l.net_rx_bytes_per_s,
            net_tx_bytes_per_s: l.net_tx_bytes_per_s,
        }
    }
}
