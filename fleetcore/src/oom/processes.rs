//! Which processes belong together, and what they hold.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use parking_lot::Mutex;

use crate::sys::procfs::{self, Stat};

/// Clock ticks in a second in `/proc`: `USER_HZ`, 100 on every Linux there is.
const TICKS: u64 = 100;
/// A process that is older has long become the program it was started for: its environment changes no more. Until then
/// it may still have that of whoever started it.
const SETTLED_TICKS: u64 = 2 * TICKS;

/// One process, as it was when somebody looked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Who started it, or took it over.
    pub parent: i32,
    /// Its terminal session.
    pub session: i32,
    /// The name of its program, at most 15 bytes (proc(5), `comm`); what is not UTF-8 is replaced.
    pub name: String,
    /// The letter of its state: `R` runs, `S` and `D` wait, `T` is stopped.
    pub state: char,
    /// When it was started, in clock ticks since the host was.
    pub started_ticks: u64,
    /// Processor time it has used.
    pub cpu: Duration,
    /// Threads it has.
    pub threads: u64,
    /// Main memory mapped by it, in bytes. Pages it shares with others count for each of them.
    pub resident_bytes: u64,
}

impl Process {
    /// `None` for what is dead.
    fn new(stat: Stat, page_bytes: u64) -> Option<Self> {
        if !stat.is_alive() {
            return None;
        }
        // Numbers of fields as in proc(5).
        let number = |field| stat.number::<u64>(field);
        let ticks = number(14)?.saturating_add(number(15)?);
        Some(Self {
            pid: stat.pid,
            parent: stat.number(4)?,
            session: stat.session()?,
            state: stat.state,
            started_ticks: number(22)?,
            cpu: Duration::from_millis(ticks.saturating_mul(1000 / TICKS)),
            threads: number(20)?,
            resident_bytes: number(24)?.saturating_mul(page_bytes),
            name: stat.name,
        })
    }

    /// The process with this id.
    pub(super) fn of(pid: i32) -> Option<Self> {
        Self::new(Stat::of(pid)?, rustix::param::page_size() as u64)
    }

    /// Memory that would be free without it, in bytes: pages that several processes share are divided among them, and
    /// what can be read again from a file does not count. Walks its page tables: a few milliseconds per GiB.
    pub(super) fn held_bytes(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid)).unwrap_or_default();
        held(&text).unwrap_or(self.resident_bytes)
    }
}

/// Of `/proc/PID/smaps_rollup`. `None` where the kernel does not tell.
fn held(text: &str) -> Option<u64> {
    let field = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    // Told apart since Linux 5.9.
    let kib = match (field("Pss_Anon:"), field("Pss_Shmem:")) {
        (Some(anonymous), Some(shared)) => anonymous.saturating_add(shared),
        _ => field("Pss:")?,
    };
    kib.checked_mul(1024)
}

/// All processes that were started with a certain variable in their environment, and all that these have started.
///
/// A process belongs if its environment has the variable, if the process that started it belongs, or if it is in a
/// terminal session whose leader belonged. One that clears its environment, leaves its session and outlives whoever
/// started it is found no more, unless it was seen before.
#[derive(Debug)]
pub struct Marked {
    /// `NAME=value`.
    entry: Vec<u8>,
    seen: Mutex<Seen>,
}

/// By id and start, which together mean one process for ever.
type Known = HashMap<(i32, u64), bool>;

#[derive(Debug, Default)]
struct Seen {
    /// Whether it belongs, of those of which that does not change.
    known: Known,
    /// Sessions whose leader belonged.
    sessions: HashSet<i32>,
}

impl Marked {
    /// Those with `value` in the variable `name`; a value that nobody else uses.
    pub fn new(name: &str, value: &str) -> Self {
        Self { entry: format!("{name}={value}").into_bytes(), seen: Mutex::default() }
    }

    /// All of them that are alive, in no particular order. Reads `/proc`: about 20 µs for each process of the host.
    pub fn list(&self) -> Vec<Process> {
        let own = std::process::id();
        // This process itself never belongs.
        let all = procfs::ids().filter_map(Process::of).filter(|p| u32::try_from(p.pid) != Ok(own));
        self.of(all.collect(), uptime_ticks(), |pid| procfs::environ(pid).unwrap_or_default())
    }

    /// Which of `all` belong. `environ` reads an environment.
    fn of(&self, all: Vec<Process>, now: u64, environ: impl Fn(i32) -> Vec<u8>) -> Vec<Process> {
        let mut seen = self.seen.lock();
        let Seen { known, sessions } = &mut *seen;
        let mut belong = HashSet::new();
        let mut kept = Known::with_capacity(all.len());
        for process in &all {
            let key = (process.pid, process.started_ticks);
            let is = match known.get(&key) {
                Some(is) => *is,
                None => procfs::entries(&environ(process.pid)).any(|e| e == self.entry),
            };
            if is || now.saturating_sub(process.started_ticks) > SETTLED_TICKS {
                kept.insert(key, is);
            }
            if is {
                belong.insert(process.pid);
            }
        }
        // A number of a session is free again when its last process is gone, and then may be somebody else's.
        sessions.retain(|session| {
            let anothers = |p: &Process| p.pid == *session && !belong.contains(&p.pid);
            all.iter().any(|p| p.session == *session) && !all.iter().any(anothers)
        });
        loop {
            let before = belong.len();
            for process in &all {
                if belong.contains(&process.pid) {
                    if process.session == process.pid {
                        sessions.insert(process.session);
                    }
                } else if belong.contains(&process.parent) || sessions.contains(&process.session) {
                    belong.insert(process.pid);
                }
            }
            if belong.len() == before {
                break;
            }
        }
        for process in all.iter().filter(|p| belong.contains(&p.pid)) {
            kept.insert((process.pid, process.started_ticks), true);
        }
        *known = kept;
        all.into_iter().filter(|p| belong.contains(&p.pid)).collect()
    }
}

/// Since the host was started.
fn uptime_ticks() -> u64 {
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Monotonic;
    let time = rustix::time::clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32, session: i32, started: u64) -> Process {
        let stat = format!(
            "{pid} (a) b) (c) S {parent} {pid} {session} 0 -1 4194304 1 0 0 0 150 50 0 0 20 0 3 0 {started} 1000 256 9"
        );
        parse(stat.as_bytes(), 4096).unwrap()
    }

    fn parse(line: &[u8], page_bytes: u64) -> Option<Process> {
        Process::new(Stat::parse(line)?, page_bytes)
    }

    fn pids(list: &[Process]) -> Vec<i32> {
        list.iter().map(|p| p.pid).collect()
    }

    #[test]
    fn a_line_of_the_kernel_is_understood() {
        let one = process(7, 1, 42, 99);
        assert_eq!((one.pid, one.parent, one.session, one.name.as_str()), (7, 1, 42, "a) b) (c"));
        assert_eq!((one.threads, one.started_ticks, one.resident_bytes), (3, 99, 1 << 20));
        assert_eq!((one.cpu, one.state), (Duration::from_secs(2), 'S'));
        assert_eq!(parse(b"7 (x) Z 1 7 7 0", 1), None);
        assert_eq!(parse(b"", 1), None);
        assert_eq!(parse(b"7 (x) S 1 7 7 0", 1), None);
        assert_eq!(
            held("x\nPss:  30 kB\nPss_Anon:  10 kB\nPss_File: 18 kB\nPss_Shmem:  2 kB\n"),
            Some(12 << 10)
        );
        assert_eq!(held("Pss:  30 kB\n"), Some(30 << 10));
        assert_eq!(held(""), None);
    }

    #[test]
    fn descendants_sessions_and_orphans_belong() {
        let marked = Marked::new("M", "1");
        let environ = |pid| if pid == 10 { b"A=B\0M=1\0".to_vec() } else { b"M=12\0XM=1\0".to_vec() };
        // A shell, its child, a grandchild that is listed first, a stranger.
        let all = vec![
            process(12, 11, 10, 5),
            process(11, 10, 10, 5),
            process(10, 1, 10, 5),
            process(20, 1, 20, 5),
        ];
        assert_eq!(pids(&marked.of(all, 1000, environ)), [12, 11, 10]);
        // The shell is gone; what it left in its session still belongs, and so does what that has started.
        let all = vec![
            process(12, 1, 10, 5),
            process(13, 1, 10, 900),
            process(14, 13, 14, 900),
            process(20, 1, 20, 5),
        ];
        assert_eq!(pids(&marked.of(all, 1000, environ)), [12, 13, 14]);
        // Another process with the number of one that was known.
        let all = vec![process(10, 1, 10, 2000), process(12, 1, 12, 2000), process(14, 1, 14, 900)];
        assert_eq!(pids(&marked.of(all, 2000, |_| Vec::new())), [14]);
    }

    #[test]
    fn an_environment_is_read_again_until_it_is_settled() {
        let marked = Marked::new("M", "1");
        let young = || vec![process(10, 1, 1, 990)];
        assert!(marked.of(young(), 1000, |_| Vec::new()).is_empty());
        assert_eq!(pids(&marked.of(young(), 1010, |_| b"M=1".to_vec())), [10]);
        let old = || vec![process(11, 1, 1, 10)];
        assert!(marked.of(old(), 1000, |_| Vec::new()).is_empty());
        assert!(marked.of(old(), 1000, |_| unreachable!("it was read before")).is_empty());
    }
}
