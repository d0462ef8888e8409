//! Ends the largest process when all together hold too much.
//!
//! A thread that looks now and then, and the more often the less is left. The kernel's own events do not serve: pressure
//! (`/proc/pressure/memory`) tells that the *host* stalls, not that these processes are above their share, and the
//! events of a control group need one. It looks at least once a second, and at most a hundred times, when the limit is
//! near; a look reads a small file for each process of the host.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{Marked, Process, group::Group, kill::kill};
use crate::{Error, Result};

/// How fast processes may take memory: two processors that do nothing but touch new pages were measured at half of it.
const FASTEST_BYTES_PER_S: u64 = 4 << 30;
/// Shortest and longest time between two looks.
const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(1);
/// At most this share of the time is spent on looking: one part in so many.
const SHARE: u32 = 10;
/// Most processes that are ended before the others are looked at again.
const ROUND: usize = 32;
/// Ends that are remembered for those who ask later.
const REMEMBERED: usize = 64;

/// A process that was ended because too much memory was held.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Killed {
    /// Its id and the name of its program. Unknown when it was the kernel's choice, in a control group.
    pub process: Option<(i32, String)>,
    /// What it held, in bytes; 0 when that is not known.
    pub held_bytes: u64,
    /// What all of them held, in bytes.
    pub used_bytes: u64,
    /// What they may hold, in bytes.
    pub limit_bytes: u64,
}

/// Holds [`Marked`] processes to an amount of memory, for as long as it lives.
///
/// What counts is memory that cannot be given back otherwise: pages of processes and shared memory they have mapped, pages
/// that several share once. The process this runs in never counts and is never ended. Where this process may make a
/// control group (version 2), the kernel enforces the same limit as well.
///
/// Between two looks the limit can be exceeded: by what is taken in 10 ms plus the time of a look, a few dozen MiB.
#[derive(Debug)]
pub struct MemoryGuard {
    state: Arc<Mutex<State>>,
    limit_bytes: u64,
    by_kernel: bool,
    /// The thread ends when this is dropped.
    _alive: mpsc::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    total: u64,
    recent: VecDeque<Killed>,
}

impl MemoryGuard {
    /// Guards `marked` with `limit_bytes`, from now on.
    ///
    /// # Errors
    /// When there can be no more threads.
    pub fn start(marked: Arc<Marked>, limit_bytes: u64) -> Result<Self> {
        let group = Group::create(limit_bytes)
            .inspect_err(
                |error| tracing::debug!(%error, "no control group: a watchdog alone holds the limit"),
            )
            .ok();
        let state = Arc::new(Mutex::new(State::default()));
        let (alive, stop) = mpsc::channel();
        let by_kernel = group.is_some();
        let mut watch = Watch { marked, group, limit_bytes, state: Arc::clone(&state) };
        std::thread::Builder::new()
            .name("fleetcore-oom".into())
            .stack_size(256 << 10)
            .spawn(move || {
                let mut pause = SHORTEST;
                // Until the other end is dropped.
                while stop.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                    pause = watch.look();
                }
            })
            .map_err(|e| Error::io("start the memory guard", e))?;
        Ok(Self { state, limit_bytes, by_kernel, _alive: alive })
    }

    /// What they may hold, in bytes.
    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// Whether the kernel enforces the limit too.
    pub fn by_kernel(&self) -> bool {
        self.by_kernel
    }

    /// How many processes were ended.
    pub fn killed(&self) -> u64 {
        self.state.lock().total
    }

    /// Who was ended after the first `seen` of them, as far as that is remembered (the last 64), and how many it were in
    /// all by now.
    pub fn since(&self, seen: u64) -> (Vec<Killed>, u64) {
        let state = self.state.lock();
        let new = usize::try_from(state.total.saturating_sub(seen)).unwrap_or(usize::MAX);
        let skip = state.recent.len().saturating_sub(new);
        (state.recent.iter().skip(skip).cloned().collect(), state.total)
    }
}

struct Watch {
    marked: Arc<Marked>,
    group: Option<Group>,
    limit_bytes: u64,
    state: Arc<Mutex<State>>,
}

impl Watch {
    /// Looks once and ends whom it must; how long to wait for the next time.
    fn look(&mut self) -> Duration {
        let began = Instant::now();
        let processes = self.marked.list();
        if let Some(group) = &mut self.group {
            let inside = group.members();
            for process in processes.iter().filter(|p| !inside.contains(&p.pid)) {
                group.adopt(process.pid);
            }
            for _ in 0..group.kills().min(REMEMBERED as u64) {
                let (limit_bytes, used_bytes) = (self.limit_bytes, self.limit_bytes);
                tracing::warn!(limit_bytes, "the kernel ended a process: the memory limit is reached");
                self.state.lock().tell(Killed { process: None, held_bytes: 0, used_bytes, limit_bytes });
            }
        }
        // More than they can hold together: what is shared counts several times.
        let mapped = processes.iter().fold(0_u64, |sum, p| sum.saturating_add(p.resident_bytes));
        let used = if mapped > self.limit_bytes { self.enforce(processes) } else { mapped };
        pause(self.limit_bytes, used, began.elapsed())
    }

    /// Ends the largest, until the others hold no more than they may. What they hold.
    fn enforce(&self, processes: Vec<Process>) -> u64 {
        let mut held: Vec<(u64, Process)> = processes.into_iter().map(|p| (p.held_bytes(), p)).collect();
        held.sort_by_key(|(bytes, _)| *bytes);
        let mut used = held.iter().fold(0_u64, |sum, (bytes, _)| sum.saturating_add(*bytes));
        for _ in 0..ROUND {
            if used <= self.limit_bytes {
                break;
            }
            let Some((held_bytes, process)) = held.pop() else { break };
            // Whoever sees it dead finds it told: those who ask wait for the lock.
            let mut state = self.state.lock();
            if let Some(dying) = kill(&process) {
                let (limit_bytes, used_bytes) = (self.limit_bytes, used);
                let Process { pid, name, .. } = process;
                tracing::warn!(
                    pid,
                    name,
                    held_bytes,
                    used_bytes,
                    limit_bytes,
                    "the memory limit is exceeded: the largest process was ended"
                );
                state.tell(Killed { process: Some((pid, name)), held_bytes, used_bytes, limit_bytes });
                drop(state);
                dying.wait();
            }
            used = used.saturating_sub(held_bytes);
        }
        used
    }
}

impl State {
    fn tell(&mut self, killed: Killed) {
        self.total += 1;
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(killed);
    }
}

/// How long processes that hold `used` cannot reach `limit`, within bounds. `took` is how long the look took.
fn pause(limit: u64, used: u64, took: Duration) -> Duration {
    let left = limit.saturating_sub(used);
    let safe = Duration::from_secs_f64(left as f64 / FASTEST_BYTES_PER_S as f64);
    safe.clamp(SHORTEST, LONGEST).max(took.saturating_mul(SHARE - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_more_often_when_less_is_left() {
        let (gib, quick) = (1 << 30, Duration::from_millis(1));
        assert_eq!(pause(100 * gib, 0, quick), LONGEST);
        assert_eq!(pause(2 * gib, 0, quick), Duration::from_millis(500));
        assert_eq!(pause(gib, gib - 1, quick), SHORTEST);
        assert_eq!(pause(gib, 5 * gib, quick), SHORTEST);
        // A look that is slow does not take over.
        assert_eq!(pause(gib, gib, Duration::from_millis(100)), Duration::from_millis(900));
    }

    #[test]
    fn who_asks_late_is_told_the_last() {
        let state = Arc::new(Mutex::new(State::default()));
        let (alive, _stop) = mpsc::channel();
        let guard =
            MemoryGuard { state: Arc::clone(&state), limit_bytes: 1, by_kernel: false, _alive: alive };
        for n in 0..70_u64 {
            state.lock().tell(Killed { process: None, held_bytes: n, used_bytes: 0, limit_bytes: 1 });
        }
        let (all, seen) = guard.since(0);
        assert_eq!((all.len(), all[0].held_bytes, seen), (64, 6, 70));
        assert_eq!(guard.since(69).0[0].held_bytes, 69);
        assert!(guard.since(70).0.is_empty());
    }
}
