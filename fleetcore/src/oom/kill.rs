//! Ending one process, and no other.

use std::time::Duration;

use super::Process;

/// How long a killed process is waited for. Its memory is free when it is dead; one that holds much takes a while.
const DEATH: Duration = Duration::from_secs(2);

/// Kills `process` if it is still the one that was looked at, and waits until it is dead. Whether it was killed.
#[cfg(target_os = "linux")]
pub(super) fn kill(process: &Process) -> bool {
    use rustix::{
        event::{PollFd, PollFlags, Timespec, poll},
        process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
    };
    let Some(pid) = Pid::from_raw(process.pid) else { return false };
    let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    // The descriptor pins the process; looking again rules out that the id changed hands before.
    if Process::of(process.pid).is_none_or(|now| now.started_ticks != process.started_ticks) {
        return false;
    }
    if let Err(error) = pidfd_send_signal(&fd, Signal::KILL) {
        tracing::warn!(pid = process.pid, name = process.name, %error, "a process that holds too much cannot be ended");
        return false;
    }
    let timeout = Timespec::try_from(DEATH).ok();
    let _ = poll(&mut [PollFd::new(&fd, PollFlags::IN)], timeout.as_ref());
    true
}

#[cfg(not(target_os = "linux"))]
pub(super) fn kill(_process: &Process) -> bool {
    false
}
