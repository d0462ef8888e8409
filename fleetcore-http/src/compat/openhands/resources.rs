//! What the processes of a runtime use, for people and for Prometheus, and the limit of their memory.

use std::{fmt::Write as _, sync::Arc};

use fleetcore::{
    Result,
    oom::{Killed, Marked, MemoryGuard, Process},
};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{info::Info, options::Options};

/// Is in the environment of everything a runtime starts, which is how all of that is found.
const MARK: &str = "FLEETCORE_RUNTIME_ID";
/// Most processes that are shown; the largest.
const SHOWN: usize = 100;
/// Most kills that are told one by one with an action.
const TOLD: usize = 5;
const MIB: f64 = (1 << 20) as f64;

/// The processes of one runtime.
#[derive(Debug)]
pub(super) struct Resources {
    marked: Arc<Marked>,
    guard: Option<MemoryGuard>,
    /// Kills that the client knows of.
    told: Mutex<u64>,
}

impl Resources {
    /// Marks what the options will start, and guards it if there is a limit.
    ///
    /// # Errors
    /// When there can be no more threads.
    pub(super) fn start(options: &mut Options) -> Result<Self> {
        let mark = format!("{:032x}", rand::random::<u128>());
        let marked = Arc::new(Marked::new(MARK, &mark));
        options.env.insert(MARK.to_owned(), mark);
        let guard = match options.memory_max_bytes {
            None => None,
            Some(bytes) => {
                let guard = MemoryGuard::start(Arc::clone(&marked), bytes)?;
                let by_kernel = guard.by_kernel();
                tracing::info!(
                    bytes,
                    by_kernel,
                    "RUNTIME_MAX_MEMORY_GB: the largest process is ended beyond it"
                );
                Some(guard)
            }
        };
        Ok(Self { marked, guard, told: Mutex::new(0) })
    }

    /// What was ended since this was asked the last time, in words for the agent.
    pub(super) fn news(&self) -> Option<String> {
        let guard = self.guard.as_ref()?;
        let mut told = self.told.lock();
        let (killed, total) = guard.since(*told);
        let new = total - std::mem::replace(&mut *told, total);
        drop(told);
        words(&killed, new)
    }

    /// All processes, the largest first. Reads `/proc`.
    fn processes(&self) -> Vec<Process> {
        let mut all = self.marked.list();
        all.sort_by_key(|p| (std::cmp::Reverse(p.resident_bytes), p.pid));
        all
    }

    /// `GET /server_info/processes`.
    pub(super) fn list(&self) -> Value {
        let all = self.processes();
        let (count, memory) = (all.len(), all.iter().map(|p| p.resident_bytes).sum::<u64>());
        let shown: Vec<Value> = all
            .into_iter()
            .take(SHOWN)
            .map(|p| {
                json!({
                    "pid": p.pid,
                    "parent": p.parent,
                    "name": p.name,
                    "state": p.state.to_string(),
                    "threads": p.threads,
                    "rss": p.resident_bytes,
                    "cpu_seconds": p.cpu.as_secs_f64(),
                })
            })
            .collect();
        json!({
            "count": count,
            "rss": memory,
            "memory_limit": self.guard.as_ref().map(MemoryGuard::limit_bytes),
            "killed": self.guard.as_ref().map_or(0, MemoryGuard::killed),
            "processes": shown,
        })
    }

    /// `GET /metrics`.
    pub(super) fn prometheus(&self, info: &Info, waiting: usize) -> String {
        let measured = info.measure();
        let at = |path: &str| measured.pointer(path).and_then(Value::as_f64).unwrap_or(0.0);
        let all = self.processes();
        let memory = all.iter().map(|p| p.resident_bytes).sum::<u64>();
        let mut text = String::new();
        let gauges = [
            ("uptime_seconds", "Since the runtime was started", at("/uptime")),
            ("idle_seconds", "Since an action began or ended", at("/idle_time")),
            ("actions_waiting", "Actions that wait for their turn", waiting as f64),
            ("cpu_percent", "Of one processor, the server itself", at("/resources/cpu_percent")),
            ("resident_memory_bytes", "The server itself", at("/resources/memory/rss")),
            ("virtual_memory_bytes", "The server itself", at("/resources/memory/vms")),
            ("disk_total_bytes", "Size of the file system of /", at("/resources/disk/total")),
            ("disk_used_bytes", "Used on the file system of /", at("/resources/disk/used")),
            ("disk_free_bytes", "Free on the file system of /", at("/resources/disk/free")),
            ("processes", "Processes it has started", all.len() as f64),
            (
                "processes_resident_memory_bytes",
                "All it has started, shared pages several times",
                memory as f64,
            ),
        ];
        for (name, help, value) in gauges {
            sample(&mut text, name, "gauge", help, value);
        }
        if let Some(guard) = &self.guard {
            let help = "What it has started may hold (RUNTIME_MAX_MEMORY_GB)";
            sample(&mut text, "memory_limit_bytes", "gauge", help, guard.limit_bytes() as f64);
        }
        let killed = self.guard.as_ref().map_or(0, MemoryGuard::killed);
        let counters = [
            ("actions_total", "Actions that were begun", info.actions() as f64),
            ("memory_kills_total", "Processes ended because of the memory limit", killed as f64),
            ("read_bytes_total", "Read from disks, the server itself", at("/resources/io/read_bytes")),
            ("written_bytes_total", "Written to disks, the server itself", at("/resources/io/write_bytes")),
        ];
        for (name, help, value) in counters {
            sample(&mut text, name, "counter", help, value);
        }
        let shown = all.get(..SHOWN.min(all.len())).unwrap_or_default();
        each(&mut text, shown, "process_resident_memory_bytes", "gauge", |p| p.resident_bytes as f64);
        each(&mut text, shown, "process_cpu_seconds_total", "counter", |p| p.cpu.as_secs_f64());
        each(&mut text, shown, "process_threads", "gauge", |p| p.threads as f64);
        text
    }
}

fn sample(text: &mut String, name: &str, kind: &str, help: &str, value: f64) {
    let name = format!("fleetcore_runtime_{name}");
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
}

fn each(text: &mut String, all: &[Process], name: &str, kind: &str, value: impl Fn(&Process) -> f64) {
    let _ = writeln!(text, "# TYPE fleetcore_runtime_{name} {kind}");
    for process in all {
        let program = process.name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let (pid, value) = (process.pid, value(process));
        let _ = writeln!(text, "fleetcore_runtime_{name}{{pid=\"{pid}\",name=\"{program}\"}} {value}");
    }
}

fn words(killed: &[Killed], new: u64) -> Option<String> {
    let mut text = String::new();
    for one in killed.iter().take(TOLD) {
        let limit = one.limit_bytes as f64 / MIB;
        let _ = match &one.process {
            Some((pid, name)) => {
                let (held, used) = (one.held_bytes as f64 / MIB, one.used_bytes as f64 / MIB);
                write!(
                    text,
                    "\n[Out of memory: process {pid} ({}) was killed. It held {held:.0} MiB of the {used:.0} MiB in use; \
                     the limit of this runtime is {limit:.0} MiB.]",
                    name.escape_debug()
                )
            }
            None => write!(
                text,
                "\n[Out of memory: the kernel killed a process. The limit of this runtime is {limit:.0} MiB.]"
            ),
        };
    }
    let more = new.saturating_sub(TOLD as u64);
    if more > 0 {
        let _ = write!(text, "\n[Out of memory: {more} more processes were killed.]");
    }
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::compat::{Call, openhands::options::RUNTIME};

    fn options(limit: Option<&str>) -> Options {
        let call = Call::new("x").with_args(["1", "--working-dir", "/w", "--no-enable-browser"]);
        let call = call.with_env(limit.map(|gb| ("RUNTIME_MAX_MEMORY_GB", gb)));
        RUNTIME.options(&call).unwrap()
    }

    #[test]
    fn processes_are_shown_and_counted() {
        let mut options = options(None);
        let resources = Resources::start(&mut options).unwrap();
        assert_eq!(resources.news(), None);
        let mut child = Command::new("cat").envs(&options.env).stdin(Stdio::piped()).spawn().unwrap();
        let list = resources.list();
        assert_eq!(
            (&list["count"], &list["memory_limit"], &list["killed"]),
            (&json!(1), &Value::Null, &json!(0))
        );
        let shown = &list["processes"][0];
        assert!(
            shown["pid"] == child.id() && shown["name"] == "cat" && shown["rss"].as_u64() > Some(0),
            "{list}"
        );
        let text = resources.prometheus(&Info::new(), 3);
        for line in [
            "# TYPE fleetcore_runtime_processes gauge\nfleetcore_runtime_processes 1\n".to_owned(),
            "\nfleetcore_runtime_actions_waiting 3\n".to_owned(),
            "\nfleetcore_runtime_memory_kills_total 0\n".to_owned(),
            format!("\nfleetcore_runtime_process_threads{{pid=\"{}\",name=\"cat\"}} 1\n", child.id()),
        ] {
            assert!(text.contains(&line), "{line}{text}");
        }
        assert!(!text.contains("memory_limit_bytes"), "{text}");
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(resources.list()["count"], 0);
    }

    #[test]
    fn the_limit_is_the_one_that_was_given() {
        let resources = Resources::start(&mut options(Some("3"))).unwrap();
        assert_eq!(resources.list()["memory_limit"], 3_u64 << 30);
        assert!(
            resources
                .prometheus(&Info::new(), 0)
                .contains("fleetcore_runtime_memory_limit_bytes 3221225472\n")
        );
        assert!(Resources::start(&mut options(Some("0"))).unwrap().guard.is_none());
    }
}
