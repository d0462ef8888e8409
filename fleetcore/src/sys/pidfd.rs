//! Waiting for the end of a child without reaping it.

use std::io;

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::ExitKind;

/// Becomes ready when a child ends; the child stays a zombie, so its process id stays taken.
#[derive(Debug)]
pub(crate) struct ExitWatch {
    #[cfg(target_os = "linux")]
    fd: tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>,
    #[cfg(not(target_os = "linux"))]
    pid: Pid,
}

#[cfg(target_os = "linux")]
impl ExitWatch {
    /// Watches a child of this process that has not been reaped. Must be called inside a tokio runtime.
    pub(crate) fn new(pid: Pid) -> io::Result<Self> {
        use rustix::process::{PidfdFlags, pidfd_open};
        let fd = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
        // SAFETY: the `AsyncFd` owns the descriptor through `OwnedFd` and never gives it away, so it stays open
        // and refers to the same file for as long as it is registered.
        let fd =
            unsafe { tokio::io::unix::AsyncFd::register_with_interest(fd, tokio::io::Interest::READABLE) };
        Ok(Self { fd: fd.map_err(io::Error::from)? })
    }

    /// Waits for the end; the child is not reaped. Cancel-safe.
    pub(crate) async fn wait(&self) -> io::Result<ExitKind> {
        use std::os::fd::AsFd;
        let _ready = self.fd.readable().await?;
        ended(WaitId::PidFd(self.fd.get_ref().as_fd()))
    }
}

#[cfg(not(target_os = "linux"))]
impl ExitWatch {
    /// Watches a child of this process that has not been reaped.
    pub(crate) fn new(pid: Pid) -> io::Result<Self> {
        Ok(Self { pid })
    }

    /// Waits for the end on a thread; the child is not reaped. The thread stays until then even when the wait
    /// is given up.
    pub(crate) async fn wait(&self) -> io::Result<ExitKind> {
        let pid = self.pid;
        tokio::task::spawn_blocking(move || ended(WaitId::Pid(pid))).await.map_err(io::Error::other)?
    }
}

/// How a child has ended, or ends while this waits. It stays a zombie.
fn ended(child: WaitId<'_>) -> io::Result<ExitKind> {
    let status = waitid(child, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
    Ok(match status.map(|s| (s.exit_status(), s.terminating_signal())) {
        Some((Some(code), _)) => ExitKind::Code(code),
        Some((_, Some(signal))) => ExitKind::Signal(signal),
        _ => ExitKind::Unknown,
    })
}
