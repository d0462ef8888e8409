//! Waiting for the end of a child without reaping it.

use std::io;

use rustix::process::{Pid, WaitIdStatus};

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
    pub(crate) async fn wait(&self) -> io::Result<Option<WaitIdStatus>> {
        use std::os::fd::AsFd;

        use rustix::process::{WaitId, WaitIdOptions, waitid};
        let _ready = self.fd.readable().await?;
        Ok(waitid(WaitId::PidFd(self.fd.get_ref().as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?)
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
    pub(crate) async fn wait(&self) -> io::Result<Option<WaitIdStatus>> {
        use rustix::process::{WaitId, WaitIdOptions, waitid};
        let pid = self.pid;
        tokio::task::spawn_blocking(move || {
            Ok(waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?)
        })
        .await
        .map_err(io::Error::other)?
    }
}
