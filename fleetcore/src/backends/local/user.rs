//! Who a command runs as.

use std::{ffi::CString, io, path::PathBuf};

use nix::unistd::{Uid, User};

use super::error::SpawnError;
use crate::sys::AsUser;

/// An account of this host.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) home: PathBuf,
    pub(super) shell: PathBuf,
    user: AsUser,
}

impl Account {
    /// Looks an account up, if this process may use it. Reads the user database, which is not on the way of
    /// commands that run as ourselves.
    pub(super) fn find(name: &str, allowed: bool) -> Result<Self, SpawnError> {
        if !allowed {
            return Err(SpawnError::UserSwitchOff);
        }
        let found = User::from_name(name).map_err(|e| SpawnError::Other(e.into()))?;
        let found = found.ok_or(SpawnError::NoUser)?;
        if !Uid::effective().is_root() {
            return Err(SpawnError::NotRoot);
        }
        let c_name = CString::new(name).map_err(|e| SpawnError::Other(io::Error::other(e)))?;
        #[cfg(target_os = "linux")]
        let groups =
            nix::unistd::getgrouplist(&c_name, found.gid).map_err(|e| SpawnError::Other(e.into()))?;
        #[cfg(not(target_os = "linux"))]
        let groups = {
            let _ = c_name;
            vec![found.gid]
        };
        let user = AsUser { uid: found.uid, gid: found.gid, groups };
        Ok(Self { name: found.name, home: found.dir, shell: found.shell, user })
    }

    pub(super) fn into_user(self) -> AsUser {
        self.user
    }
}

/// Whether this process ignores a signal by which commands are ended or stopped; children inherit that. It is so
/// under `nohup`, and in background jobs of a shell without job control.
pub(super) fn ignored_signals() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignored_in(&status)
}

fn ignored_in(status: &str) -> bool {
    // HUP INT QUIT USR1 USR2 TERM CHLD TSTP TTIN TTOU, as bits of the mask in proc(5)
    let relevant = [1, 2, 3, 10, 12, 15, 17, 20, 21, 22].iter().fold(0u64, |m, s| m | 1 << (s - 1));
    let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    mask.and_then(|m| u64::from_str_radix(m.trim(), 16).ok()).is_some_and(|m| m & relevant != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_mask() {
        assert!(ignored_in("Name:\tx\nSigIgn:\t0000000000000001\n"));
        assert!(!ignored_in("SigIgn:\t0000000000001000\n"), "SIGPIPE alone: the standard library resets it");
        assert!(!ignored_in(""));
    }
}
