//! Ending one process, and no other.

use std::time::Duration;

use super::Process;

/// How long a killed process is waited for. Its memory is free when it is dead; one that holds much takes a while.
const DEATH: Duration = Duration::from_secs(2);

/// A process that was told to die.
pub(super) struct Dying {
    #[cfg(target_os = "linux")]
    fd: std::os::fd::OwnedFd,
}

/// Kills `process` if it is still the one that was looked at.
#[cfg(target_os = "linux")]
pub(super) fn kill(process: &Process) -> Option<Dying> {
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    let fd = pidfd_open(Pid::from_raw(process.pid)?, PidfdFlags::empty()).ok()?;
    // The descriptor pins the process; looking again rules out that the id changed hands before.
    if Process::of(process.pid).is_none_or(|now| now.started_ticks != process.started_ticks) {
        return None;
    }
    if let Err(error) = pidfd_send_signal(&fd, Signal::KILL) {
        tracing::warn!(pid = process.pid, name = process.name, %error, "a process that holds too much cannot be ended");
        return None;
    }
    Some(Dying { fd })
}

#[cfg(not(target_os = "linux"))]
pub(super) fn kill(_process: &Process) -> Option<Dying> {
    None
}

impl Dying {
    /// Waits until it is dead, but not for ever.
    pub(super) fn wait(self) {
        #[cfg(target_os = "linux")]
        {
            use rustix::event::{PollFd, PollFlags, Timespec, poll};
            let timeout = Timespec::try_from(DEATH).ok();
            let _ = poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], timeout.as_ref());
        }
    }
}
