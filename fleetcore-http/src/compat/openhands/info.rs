//! What `/server_info` measures: a few small files below `/proc`, nothing that waits.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde_json::{Value, json};

/// The original measures this long for each question. Here a question is answered from what was used since one that is at
/// least as long ago.
const WINDOW: Duration = Duration::from_millis(100);

/// Since when the runtime is there, and since when it has nothing to do.
#[derive(Debug)]
pub(super) struct Info {
    started: Instant,
    active: Mutex<Instant>,
    actions: AtomicU64,
    busy: Mutex<Busy>,
    io: Option<File>,
}

/// Processor time of this process.
#[derive(Clone, Copy, Debug)]
struct Busy {
    at: Instant,
    used: Duration,
    /// Of one processor, when it was last known.
    percent: f64,
}

impl Info {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            started: now,
            active: Mutex::new(now),
            actions: AtomicU64::new(0),
            busy: Mutex::new(Busy { at: now, used: used(), percent: 0.0 }),
            io: File::open("/proc/self/io").ok(),
        }
    }

    /// An action begins or ends. The original counts only the beginning, so that an hour of work was an hour of
    /// idleness (DEFECT 20).
    pub(super) fn touch(&self) {
        *self.active.lock() = Instant::now();
    }

    /// An action begins.
    pub(super) fn begin(&self) {
        self.actions.fetch_add(1, Ordering::Relaxed);
        self.touch();
    }

    /// How many have begun.
    pub(super) fn actions(&self) -> u64 {
        self.actions.load(Ordering::Relaxed)
    }

    /// The answer.
    pub(super) fn measure(&self) -> Value {
        let now = Instant::now();
        json!({
            "uptime": now.duration_since(self.started).as_secs_f64(),
            "idle_time": now.saturating_duration_since(*self.active.lock()).as_secs_f64(),
            "resources": {
                "cpu_percent": self.cpu(now),
                "memory": memory(),
                "disk": disk(),
                "io": io(self.io.as_ref()),
            },
        })
    }

    /// Of one processor, since somebody asked the last time.
    fn cpu(&self, now: Instant) -> f64 {
        let mut busy = self.busy.lock();
        let past = now.saturating_duration_since(busy.at);
        if past >= WINDOW {
            let used = used();
            let percent = used.saturating_sub(busy.used).as_secs_f64() / past.as_secs_f64() * 100.0;
            *busy = Busy { at: now, used, percent: (percent * 10.0).round() / 10.0 };
        }
        busy.percent
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn number(text: Option<&str>) -> f64 {
    text.and_then(|t| t.parse().ok()).unwrap_or(0.0)
}

/// Processor time of this process, all threads together.
fn used() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

fn memory() -> Value {
    let page = rustix::param::page_size() as u64;
    let text = read("/proc/self/statm");
    let mut pages = text.split_ascii_whitespace().map(|n| n.parse::<u64>().unwrap_or(0));
    let vms = pages.next().unwrap_or(0) * page;
    let rss = pages.next().unwrap_or(0) * page;
    let total = read("/proc/meminfo")
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:"))
        .map_or(0.0, |rest| number(rest.split_ascii_whitespace().next()) * 1024.0);
    let percent = if total > 0.0 { rss as f64 / total * 100.0 } else { 0.0 };
    json!({ "rss": rss, "vms": vms, "percent": percent })
}

fn disk() -> Value {
    let Ok(fs) = rustix::fs::statvfs("/") else {
        return json!({ "total": 0, "used": 0, "free": 0, "percent": 0.0 });
    };
    let total = fs.f_blocks.saturating_mul(fs.f_frsize);
    let used = fs.f_blocks.saturating_sub(fs.f_bfree).saturating_mul(fs.f_frsize);
    let free = fs.f_bavail.saturating_mul(fs.f_frsize);
    let whole = (used + free) as f64;
    let percent = if whole > 0.0 { used as f64 / whole * 100.0 } else { 0.0 };
    json!({ "total": total, "used": used, "free": free, "percent": (percent * 10.0).round() / 10.0 })
}

/// What is told by an open `/proc/self/io`: a process whose memory nobody may read cannot open it any more.
fn io(file: Option<&File>) -> Value {
    let mut text = [0; 1024];
    let read = file.and_then(|file| file.read_at(&mut text, 0).ok()).unwrap_or_default();
    let text = String::from_utf8_lossy(text.get(..read).unwrap_or_default());
    let field = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name));
        line.and_then(|n| n.trim_start_matches(':').trim().parse::<u64>().ok()).unwrap_or(0)
    };
    json!({ "read_bytes": field("read_bytes"), "write_bytes": field("write_bytes") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_measures_this_process() {
        let info = Info::new();
        let measured = info.measure();
        assert!(measured["resources"]["memory"]["rss"].as_u64().unwrap() > 1 << 20, "{measured}");
        assert!(measured["resources"]["disk"]["total"].as_u64().unwrap() > 0, "{measured}");
        let idle = measured["idle_time"].as_f64().unwrap();
        assert!(measured["uptime"].as_f64().unwrap() >= idle && idle >= 0.0);
        for path in ["cpu_percent", "memory", "disk", "io"] {
            assert!(!measured["resources"][path].is_null(), "{path}: {measured}");
        }
    }

    #[test]
    fn processor_time_is_measured_without_waiting() {
        let info = Info::new();
        let at = |ms| info.busy.lock().at + Duration::from_millis(ms);
        assert_eq!(info.cpu(at(99)), 0.0);
        // As if all that this process has ever used had been used in the last 200 ms.
        info.busy.lock().used = Duration::ZERO;
        let least = used().as_secs_f64() / 0.2 * 100.0;
        let percent = info.cpu(at(200));
        assert!(least > 0.0 && percent > least - 0.1, "{percent} {least}");
        // Two who ask at once are told the same.
        assert_eq!(info.cpu(at(50)), percent);
    }
}
