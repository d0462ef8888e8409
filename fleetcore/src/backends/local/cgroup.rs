//! Control groups (version 2): the one thing that no process can leave by itself.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use super::CgroupMode;
use crate::CommandId;

/// The control group of one command. Dropping it removes the directory, if nobody is left in it.
#[derive(Debug)]
pub(super) struct Cgroup {
    dir: PathBuf,
}

impl Cgroup {
    /// Makes one according to `mode`, and the descriptor through which the child enters it. A command that gets
    /// none starts all the same.
    pub(super) fn create(mode: &CgroupMode, id: CommandId, terminal: bool) -> Option<(Self, OwnedFd)> {
        let parent = match mode {
            CgroupMode::Off => return None,
            CgroupMode::Auto if !terminal => return None,
            CgroupMode::Auto => own_dir()?,
            CgroupMode::Path(dir) => dir.clone(),
        };
        let group = Self { dir: parent.join(format!("fleetcore-{id}")) };
        let made = fs::create_dir(&group.dir)
            .and_then(|()| fs::OpenOptions::new().write(true).open(group.dir.join("cgroup.procs")));
        match made {
            Ok(procs) => Some((group, procs.into())),
            Err(err) => {
                tracing::debug!(%err, dir = %group.dir.display(), "command runs without a control group");
                None
            }
        }
    }

    /// Kills everybody in it, whatever they did to their group, session and environment.
    pub(super) fn kill(&self) {
        // `cgroup.kill` is there since Linux 5.14; the other means of finding a tree are used in any case.
        if let Err(err) = fs::write(self.dir.join("cgroup.kill"), "1") {
            tracing::debug!(%err, dir = %self.dir.display(), "control group cannot be killed");
            return;
        }
        self.wait_until_empty();
    }

    /// Waits until nobody alive is left, but not for ever: a process may be stuck in the kernel.
    #[cfg(target_os = "linux")]
    fn wait_until_empty(&self) {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        use std::{
            io::{Read, Seek},
            time::Instant,
        };

        use super::tree::DEATH_WAIT;
        let Ok(mut events) = fs::File::open(self.dir.join("cgroup.events")) else { return };
        let until = Instant::now() + DEATH_WAIT;
        loop {
            let mut text = String::new();
            if events.read_to_string(&mut text).is_err() || text.lines().any(|l| l == "populated 0") {
                return;
            }
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) };
            // The kernel reports a change of this file as priority data.
            let changed = poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&timeout));
            if left.is_zero() || changed != Ok(1) || events.rewind().is_err() {
                return;
            }
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn wait_until_empty(&self) {}
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(err) = fs::remove_dir(&self.dir)
            && err.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(%err, dir = %self.dir.display(), "control group stays: somebody is still in it");
        }
    }
}

/// Directory of this process' own group in the version 2 hierarchy, wherever that is mounted.
pub(crate) fn own_dir() -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let dir = locate(&groups, &mounts)?;
    dir.join("cgroup.procs").is_file().then_some(dir)
}

/// `groups` is `/proc/self/cgroup`, `mounts` is `/proc/self/mountinfo` (see proc(5)).
fn locate(groups: &str, mounts: &str) -> Option<PathBuf> {
    let own = groups.lines().find_map(|l| l.strip_prefix("0::"))?;
    mounts.lines().find_map(|line| {
        // id parent major:minor root mountpoint options [tags…] - type source options
        let (left, right) = line.split_once(" - ")?;
        if right.split(' ').next()? != "cgroup2" {
            return None;
        }
        let mut fields = left.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let below = Path::new(own).strip_prefix(root).ok()?;
        Some(Path::new(point).join(below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_group_is_found_in_unified_and_hybrid_layouts() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(locate("1:cpu:/\n0::/\n", mounts).unwrap(), Path::new("/sys/fs/cgroup/unified"));
        let unified = "35 1 0:30 /a /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(locate("0::/a/b.scope\n", unified).unwrap(), Path::new("/sys/fs/cgroup/b.scope"));
        assert_eq!(locate("0::/elsewhere\n", unified), None);
        assert_eq!(locate("1:cpu:/\n", mounts), None);
    }
}
