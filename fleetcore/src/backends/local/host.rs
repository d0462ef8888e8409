//! Facts about this host, and how busy it is.

use std::time::Instant;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, Networks, RefreshKind, System};

use crate::HostSample;

/// What this host is. What cannot be found out is empty or zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct HostInfo {
    /// Its name.
    pub hostname: String,
    /// Operating system with version, as it names itself.
    pub os: String,
    /// Version of the kernel.
    pub kernel: String,
    /// Processor architecture.
    pub arch: String,
    /// Processors this process may use.
    pub cpus: usize,
    /// Main memory in bytes.
    pub memory_bytes: u64,
    /// Seconds since it was started.
    pub uptime_s: u64,
}

impl HostInfo {
    /// Where agents put it in their status.
    pub const STATUS_KEY: &'static str = "facts";

    /// Asks the system. Takes well under a millisecond, but reads files.
    pub fn now() -> Self {
        let memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
        Self {
            hostname: System::host_name().unwrap_or_default(),
            os: System::long_os_version().unwrap_or_default(),
            kernel: System::kernel_version().unwrap_or_default(),
            arch: System::cpu_arch(),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: System::new_with_specifics(memory).map_or(0, |s| s.total_memory()),
            uptime_s: System::uptime().unwrap_or_default(),
        }
    }
}

/// Measures load. Processor and network are averages since the previous sample, so the caller sets the pace;
/// below 200 ms the processor value is the previous one again.
#[derive(Debug)]
pub struct HostSampler {
    system: Option<System>,
    networks: Option<Networks>,
    last: Instant,
}

impl Default for HostSampler {
    fn default() -> Self {
        Self::new()
    }
}

impl HostSampler {
    /// Starts measuring. The first sample says what happened since this call.
    pub fn new() -> Self {
        let wanted = RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing().with_usage());
        Self {
            system: System::new_with_specifics(wanted).ok(),
            networks: Networks::new_with_refreshed_list().ok(),
            last: Instant::now(),
        }
    }

    /// Measures. Reads a handful of files of the kernel, well under a millisecond.
    pub fn sample(&mut self) -> HostSample {
        let seconds = self.last.elapsed().as_secs_f64().max(0.001);
        self.last = Instant::now();
        let mut load = HostSample { at: Timestamp::now(), ..HostSample::default() };
        load.uptime_s = System::uptime().unwrap_or_default();
        if let Some(system) = &mut self.system {
            system.refresh_cpu_usage();
            system.refresh_memory();
            load.cpu_percent = system.global_cpu_usage().clamp(0.0, 100.0);
            load.memory_total_bytes = system.total_memory();
            load.memory_used_bytes = system.used_memory();
            load.swap_used_bytes = system.used_swap();
            load.swap_total_bytes = system.total_swap();
        }
        if let Ok(average) = System::load_average() {
            (load.load1, load.load5, load.load15) = (average.one, average.five, average.fifteen);
        }
        if let Ok(disk) = rustix::fs::statvfs("/") {
            load.disk_total_bytes = disk.f_blocks.saturating_mul(disk.f_frsize);
            load.disk_used_bytes = disk.f_blocks.saturating_sub(disk.f_bfree).saturating_mul(disk.f_frsize);
        }
        if let Some(networks) = &mut self.networks {
            networks.refresh(true);
            let (mut received, mut sent) = (0u64, 0u64);
            for (_, data) in networks.iter().filter(|(name, _)| !["lo", "lo0"].iter().any(|l| *name == *l)) {
                received = received.saturating_add(data.received());
                sent = sent.saturating_add(data.transmitted());
            }
            let rate = |bytes: u64| (bytes as f64 / seconds) as u64;
            (load.net_rx_bytes_per_s, load.net_tx_bytes_per_s) = (rate(received), rate(sent));
        }
        load
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_described_and_measured() {
        let info = HostInfo::now();
        assert!(!info.hostname.is_empty() && !info.kernel.is_empty() && !info.arch.is_empty(), "{info:?}");
        assert!(info.cpus > 0 && info.memory_bytes > 0 && info.uptime_s > 0, "{info:?}");
        let load = HostSampler::new().sample();
        assert_eq!(load.memory_total_bytes, info.memory_bytes);
        assert!(load.memory_used_bytes > 0 && load.memory_used_bytes < load.memory_total_bytes, "{load:?}");
        assert!(load.disk_used_bytes > 0 && load.disk_used_bytes <= load.disk_total_bytes, "{load:?}");
        assert!((0.0..=100.0).contains(&load.cpu_percent) && load.uptime_s > 0);
        let json = serde_json::to_value(load).unwrap();
        assert!(json["at"].is_string() && json["net_rx_bytes_per_s"].is_u64(), "{json}");
    }
}
