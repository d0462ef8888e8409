//! What a child does between fork and exec.

use std::{
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::Command,
};

/// The user a child becomes.
#[derive(Debug)]
pub(crate) struct AsUser {
    /// User id.
    pub(crate) uid: nix::unistd::Uid,
    /// Primary group.
    pub(crate) gid: nix::unistd::Gid,
    /// All groups.
    pub(crate) groups: Vec<nix::unistd::Gid>,
}

/// Work for the child, in the order of the fields.
#[derive(Debug, Default)]
pub(crate) struct Prepare {
    /// Give signals that this process ignores their default meaning again.
    pub(crate) reset_signals: bool,
    /// Write `0` here, which moves the child into that control group. Failing to is not an error.
    pub(crate) cgroup_procs: Option<OwnedFd>,
    /// Become this user.
    pub(crate) user: Option<AsUser>,
    /// Go into other namespaces.
    #[cfg(target_os = "linux")]
    pub(crate) enter: Option<super::Enter>,
}

impl Prepare {
    /// Nothing to do: the quick way of starting processes stays open.
    pub(crate) fn is_empty(&self) -> bool {
        #[cfg(target_os = "linux")]
        if self.enter.is_some() {
            return false;
        }
        !self.reset_signals && self.cgroup_procs.is_none() && self.user.is_none()
    }
}

/// Registers `prepare` to run in the child. A command with such work is forked, which is slower than
/// `posix_spawn` the more memory this process uses.
pub(crate) fn prepare(command: &mut Command, prepare: Prepare) {
    let work = move || -> io::Result<()> {
        if prepare.reset_signals {
            use nix::sys::signal::{SigHandler, Signal as S, signal};
            for s in [
                S::SIGHUP,
                S::SIGINT,
                S::SIGQUIT,
                S::SIGTERM,
                S::SIGUSR1,
                S::SIGUSR2,
                S::SIGCHLD,
                S::SIGTSTP,
                S::SIGTTIN,
                S::SIGTTOU,
            ] {
                // SAFETY: no handler is installed; the default disposition is always sound.
                unsafe { signal(s, SigHandler::SigDfl) }?;
            }
        }
        if let Some(procs) = &prepare.cgroup_procs {
            let _ = rustix::io::write(procs, b"0");
        }
        if let Some(user) = &prepare.user {
            #[cfg(target_os = "linux")]
            nix::unistd::setgroups(&user.groups)?;
            nix::unistd::setgid(user.gid)?;
            nix::unistd::setuid(user.uid)?;
        }
        #[cfg(target_os = "linux")]
        if let Some(enter) = &prepare.enter {
            enter.run()?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure only makes system calls that are async-signal-safe (signal,
    // write, setgroups, setgid, setuid, and those of `Enter::run`); it does not allocate, lock or touch shared state.
    unsafe { command.pre_exec(work) };
}
