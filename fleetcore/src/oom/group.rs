//! The same limit by the kernel: a control group (version 2), where this process may make one.
//!
//! The guard works without. With it, no process gets beyond the limit even for a moment.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::sys::cgroup::{hand_out, limit_memory};

/// A group with a limit of its memory. Dropping it removes it, if nobody is left in it.
#[derive(Debug)]
pub(super) struct Group {
    dir: PathBuf,
    /// Kills that were told.
    told: u64,
}

impl Group {
    /// Makes one below the group of this process.
    ///
    /// # Errors
    /// Those of the control file system; usually this process may not.
    #[cfg(target_os = "linux")]
    pub(super) fn create(bytes: u64) -> io::Result<Self> {
        let own = crate::backends::local::own_cgroup().ok_or(io::ErrorKind::Unsupported)?;
        Self::below(&own, bytes)
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn create(_bytes: u64) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn below(own: &Path, bytes: u64) -> io::Result<Self> {
        let usable = fs::read_to_string(own.join("cgroup.controllers"))?;
        if !usable.split_ascii_whitespace().any(|c| c == "memory") {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "no memory controller here"));
        }
        enable(own)?;
        let dir = own.join(format!("fleetcore-memory-{}-{:x}", std::process::id(), rand::random::<u32>()));
        fs::create_dir(&dir)?;
        let group = Self { dir, told: 0 };
        limit_memory(&group.dir, bytes)?;
        Ok(group)
    }

    /// Takes a process in; what it starts from now on is in it as well.
    pub(super) fn adopt(&self, pid: i32) {
        // It may be dead by now.
        let _ = fs::write(self.dir.join("cgroup.procs"), pid.to_string());
    }

    /// Who is in it.
    pub(super) fn members(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.dir.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|l| l.parse().ok()).collect()
    }

    /// How many processes the kernel has killed in it since the last call.
    pub(super) fn kills(&mut self) -> u64 {
        let text = fs::read_to_string(self.dir.join("memory.events")).unwrap_or_default();
        let all =
            text.lines().find_map(|l| l.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(self.told);
        let new = all.saturating_sub(self.told);
        self.told = all;
        new
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.dir) {
            tracing::debug!(%error, dir = %self.dir.display(), "control group stays");
        }
    }
}

/// Lets groups below `own` have limits of memory. A group that hands out controllers may not have processes of its own
/// (Documentation/admin-guide/cgroup-v2.rst, "No Internal Process Constraint"), so this one moves into a leaf if it is
/// alone there; else everything stays as it was.
fn enable(own: &Path) -> io::Result<()> {
    let failed = match hand_out(own, "memory") {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => error,
        done => return done,
    };
    let (leaf, id) = (own.join("fleetcore-server"), std::process::id().to_string());
    let inside = fs::read_to_string(own.join("cgroup.procs"))?;
    if inside.lines().any(|pid| pid != id) {
        return Err(failed);
    }
    match fs::create_dir(&leaf) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    fs::write(leaf.join("cgroup.procs"), &id)?;
    hand_out(own, "memory").inspect_err(|_| {
        let _ = fs::write(own.join("cgroup.procs"), &id);
        let _ = fs::remove_dir(&leaf);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_set_up_as_the_kernel_documents_it() {
        // Plain files: what is written where, not what a kernel makes of it.
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path();
        assert_eq!(Group::below(own, 1).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::write(own.join("cgroup.controllers"), "cpu pids\n").unwrap();
        assert_eq!(Group::below(own, 1).unwrap_err().kind(), io::ErrorKind::Unsupported);
        fs::write(own.join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        fs::write(own.join("cgroup.subtree_control"), "cpu\n").unwrap();
        let mut group = Group::below(own, 12345).unwrap();
        let read = |name: &str| fs::read_to_string(name).unwrap();
        assert_eq!(read(own.join("cgroup.subtree_control").to_str().unwrap()), "+memory");
        assert_eq!(read(group.dir.join("memory.max").to_str().unwrap()), "12345");
        assert_eq!(read(group.dir.join("memory.swap.max").to_str().unwrap()), "0");
        group.adopt(42);
        assert_eq!(group.members(), [42]);
        assert_eq!(group.kills(), 0);
        fs::write(group.dir.join("memory.events"), "low 0\noom 3\noom_kill 2\noom_group_kill 9\n").unwrap();
        assert_eq!((group.kills(), group.kills()), (2, 0));
    }
}
