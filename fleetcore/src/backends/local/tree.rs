//! A command's processes: finding, signalling and reaping them.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process_group, waitid, waitpid};

use super::cgroup::Cgroup;
use crate::{CommandId, sys::procfs};

/// Set in every command to its id. Descendants inherit it, which is how those are found that left the process
/// group and the terminal session, as daemons do.
pub const COMMAND_ID_VARIABLE: &str = "FLEETCORE_COMMAND_ID";

/// How long a killed process may take to vanish before somebody else is asked to wait for it. Usually it takes
/// well under a millisecond; only one that is stuck in the kernel takes longer.
#[cfg(target_os = "linux")]
pub(super) const DEATH_WAIT: std::time::Duration = std::time::Duration::from_millis(50);

/// One command's processes. The leader is reaped when this is dropped, not before: until then its process id,
/// group and session cannot come to mean something else.
#[derive(Debug)]
pub(super) struct Tree {
    pid: Pid,
    id: CommandId,
    terminal: bool,
    cgroup: Option<Cgroup>,
    /// A search after the leader's end found nothing: there is nobody left who could start more.
    gone: AtomicBool,
}

impl Tree {
    /// `pid` is a child of this process that nobody else waits for.
    pub(super) fn new(pid: Pid, id: CommandId, terminal: bool, cgroup: Option<Cgroup>) -> Self {
        Self { pid, id, terminal, cgroup, gone: AtomicBool::new(false) }
    }

    /// Reaps the leader if it has ended; whether nothing is left to reap.
    fn reap(&self) -> bool {
        !matches!(waitpid(Some(self.pid), WaitOptions::NOHANG), Ok(None))
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    fn leader_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        !matches!(waitid(WaitId::Pid(self.pid), options), Ok(None))
    }

    /// Signals the group, and on a terminal every group of its session.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        let result = kill_process_group(self.pid, signal);
        if self.terminal {
            let mut groups = vec![self.pid];
            for stat in procfs::ids().filter_map(procfs::Stat::of) {
                if stat.session() == Some(self.pid.as_raw_nonzero().get())
                    && let Some(group) = stat.group().and_then(Pid::from_raw)
                    && !groups.contains(&group)
                {
                    let _ = kill_process_group(group, signal);
                    groups.push(group);
                }
            }
        }
        match result {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(_) if self.leader_ended() => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Kills what can be killed without a search.
    pub(super) fn kill_group(&self) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
        }
        let _ = kill_process_group(self.pid, Signal::KILL);
    }

    /// Kills everything of the command that can be found. Reads `/proc`; milliseconds.
    pub(super) fn kill_all(&self) {
        self.kill_group();
        if self.gone.load(Ordering::Acquire) {
            return;
        }
        let ended = self.leader_ended();
        let mut id = [0; 36];
        self.id.as_uuid().as_hyphenated().encode_lower(&mut id);
        let session = self.terminal.then(|| self.pid.as_raw_nonzero().get());
        sweep(Wanted { id, session });
        if ended {
            self.gone.store(true, Ordering::Release);
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if self.reap() {
            return;
        }
        #[cfg(target_os = "linux")]
        if let Ok(fd) = rustix::process::pidfd_open(self.pid, rustix::process::PidfdFlags::empty()) {
            wait_for_deaths(std::iter::once(&fd));
            if self.reap() {
                return;
            }
        }
        // It was left alone on purpose, or is stuck in the kernel. A thread of its own waits for it, so that it
        // never stays behind as a zombie.
        let reaper = std::thread::Builder::new().name("fleetcore-reaper".into()).stack_size(64 << 10);
        let pid = self.pid;
        if let Err(err) =
            reaper.spawn(move || rustix::io::retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty())))
        {
            tracing::warn!(%err, %pid, "cannot wait for a process that is still running");
        }
    }
}

/// What a search looks for.
#[derive(Clone, Debug)]
struct Wanted {
    /// Command id as it stands in the environment.
    id: [u8; 36],
    /// Terminal session.
    session: Option<i32>,
}

type Request = Arc<(Wanted, AtomicBool)>;

/// Searches asked for and not begun.
static PENDING: Mutex<Vec<Request>> = Mutex::new(Vec::new());
/// Held by whoever searches.
static SEARCHING: Mutex<()> = Mutex::new(());

/// Kills all processes that `wanted` describes, again until no new one turns up. One search serves all callers
/// that were waiting when it began: killing a thousand commands does not read `/proc` a thousand times.
fn sweep(wanted: Wanted) {
    let request: Request = Arc::new((wanted, AtomicBool::new(false)));
    PENDING.lock().push(Arc::clone(&request));
    let _searching = SEARCHING.lock();
    if request.1.load(Ordering::Acquire) {
        return;
    }
    let batch = std::mem::take(&mut *PENDING.lock());
    kill_matching(&batch);
    for request in &batch {
        request.1.store(true, Ordering::Release);
    }
}

#[cfg(target_os = "linux")]
fn kill_matching(batch: &[Request]) {
    use std::collections::HashMap;

    use rustix::process::{PidfdFlags, getpid, pidfd_open, pidfd_send_signal};

    let own = getpid();
    let sessions: Vec<i32> = batch.iter().filter_map(|r| r.0.session).collect();
    let matches = |pid: Pid| {
        let marked = marker(pid).is_some_and(|id| batch.iter().any(|r| r.0.id == id));
        marked
            || (!sessions.is_empty()
                && procfs::Stat::of(pid.as_raw_nonzero().get())
                    .is_some_and(|s| s.is_alive() && s.session().is_some_and(|s| sessions.contains(&s))))
    };
    let mut killed: HashMap<Pid, OwnedFd> = HashMap::new();
    loop {
        let mut fresh = Vec::new();
        for pid in procfs::ids().filter_map(Pid::from_raw).filter(|p| *p != own) {
            let known = killed.get(&pid).is_some_and(|fd| !is_dead(fd));
            if known || !matches(pid) {
                continue;
            }
            // The descriptor pins the process; looking again afterwards rules out that the id changed hands.
            let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            if matches(pid) && pidfd_send_signal(&fd, Signal::KILL).is_ok() {
                fresh.push((pid, fd));
            }
        }
        if fresh.is_empty() {
            return;
        }
        wait_for_deaths(fresh.iter().map(|(_, fd)| fd));
        killed.extend(fresh);
    }
}

/// Without pidfds a process id may change hands between the look and the kill; there is no better way here.
#[cfg(not(target_os = "linux"))]
fn kill_matching(batch: &[Request]) {
    use std::{collections::HashSet, os::unix::ffi::OsStrExt};

    use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System, UpdateKind};

    let how = ProcessRefreshKind::nothing().with_environ(UpdateKind::Always);
    let own = std::process::id();
    let mut system = match System::new() {
        Ok(system) => system,
        Err(err) => {
            tracing::warn!(%err, "processes that left their group cannot be found");
            return;
        }
    };
    let mut killed = HashSet::new();
    loop {
        system.refresh_processes_specifics(ProcessesToUpdate::All, true, how);
        let before = killed.len();
        for (pid, process) in system.processes() {
            let environ = process.environ().iter().map(|entry| entry.as_bytes());
            let marked = marker_of(environ).is_some_and(|id| batch.iter().any(|r| r.0.id == id));
            let session = process.session_id().and_then(|s| i32::try_from(s.as_u32()).ok());
            let inside = session.is_some() && batch.iter().any(|r| r.0.session == session);
            // One that was started since is another process, even under an id that was killed before.
            if (marked || inside)
                && pid.as_u32() != own
                && killed.insert((*pid, process.start_time()))
                && let Some(pid) = i32::try_from(pid.as_u32()).ok().and_then(Pid::from_raw)
            {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
        if killed.len() == before {
            return;
        }
    }
}

/// Waits until all of these processes are dead, but not for ever.
#[cfg(target_os = "linux")]
fn wait_for_deaths<'a>(fds: impl Iterator<Item = &'a OwnedFd>) {
    use std::time::Instant;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let until = Instant::now() + DEATH_WAIT;
    for fd in fds {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) };
        let _ = poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout));
    }
}

/// Whether the process of a pidfd has ended.
#[cfg(target_os = "linux")]
pub(in crate::backends) fn is_dead(fd: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&now)), Ok(1..))
}

/// Whether the process of a pidfd has ended. There are none here, nor sandboxes, whose they would be.
#[cfg(not(target_os = "linux"))]
pub(in crate::backends) fn is_dead(_fd: &OwnedFd) -> bool {
    true
}

/// The command a process belongs to by its environment, if it is alive and ours to see.
#[cfg(target_os = "linux")]
fn marker(pid: Pid) -> Option<[u8; 36]> {
    marker_in(&procfs::environ(pid.as_raw_nonzero().get())?)
}

#[cfg(any(target_os = "linux", test))]
fn marker_in(environ: &[u8]) -> Option<[u8; 36]> {
    marker_of(procfs::entries(environ))
}

/// The command that the entries of an environment name.
fn marker_of<'a>(entries: impl Iterator<Item = &'a [u8]>) -> Option<[u8; 36]> {
    let mut values =
        entries.filter_map(|e| e.strip_prefix(COMMAND_ID_VARIABLE.as_bytes())?.strip_prefix(b"="));
    values.next()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marker_is_a_whole_variable() {
        let id = "0190f1c2-7b1e-7c3a-9d55-0242ac120002";
        let found = |env: String| marker_in(env.as_bytes()).is_some();
        assert!(found(format!("A=b\0FLEETCORE_COMMAND_ID={id}\0C=d\0")));
        assert!(!found(format!("A=FLEETCORE_COMMAND_ID={id}\0")));
        assert!(!found(format!("FLEETCORE_COMMAND_ID={id}0\0")));
        assert!(!found(String::new()));
    }
}
