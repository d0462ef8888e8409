//! Surroundings other than those of this process, for commands that run in a sandbox of this host.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs, io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
    process::Child,
    sync::Arc,
};

use rustix::process::{Pid, WaitOptions, waitpid};

use crate::sys::Enter;

/// Where commands of an executor live.
#[derive(Debug)]
pub(in crate::backends) struct Place {
    /// A process in there: its id, and a descriptor that keeps meaning it.
    pub(in crate::backends) holder: (Pid, Arc<OwnedFd>),
    /// The user in there, where that is not the user of this process: ids out here and in there.
    pub(in crate::backends) user: Option<(u32, u32)>,
    /// Whether it has a network of its own.
    pub(in crate::backends) own_network: bool,
    /// All variables a command starts with.
    pub(in crate::backends) env: BTreeMap<String, String>,
    /// Where commands start, and what relative paths are relative to.
    pub(in crate::backends) home: PathBuf,
    /// Control group of all its processes.
    pub(in crate::backends) cgroup: Option<PathBuf>,
    /// Most memory of each process, in bytes; where there is no control group that limits all of them together.
    pub(in crate::backends) memory_bytes: Option<u64>,
    /// Most processes.
    pub(in crate::backends) processes: Option<u64>,
    /// Number of processors to run on.
    pub(in crate::backends) cpus: Option<u32>,
}

impl Place {
    /// Path of `path` in there for a process out here.
    pub(super) fn seen_from_here(&self, path: &Path) -> PathBuf {
        let root = format!("/proc/{}/root", self.holder.0.as_raw_nonzero());
        Path::new(&root).join(path.strip_prefix("/").unwrap_or(path))
    }

    pub(super) fn cgroup_procs(&self) -> Option<OwnedFd> {
        let procs = self.cgroup.as_ref()?.join("cgroup.procs");
        fs::OpenOptions::new().write(true).open(procs).ok().map(OwnedFd::from)
    }
}

/// The two ends of one entry.
pub(super) struct Elsewhere {
    pub(super) enter: Enter,
    pub(super) report: Report,
}

impl Elsewhere {
    pub(super) fn prepare(place: &Place, cwd: &Path, group: bool) -> io::Result<Self> {
        let (ours, theirs) = io::pipe()?;
        let cwd = CString::new(cwd.as_os_str().as_bytes())?;
        let enter = Enter {
            holder: Arc::clone(&place.holder.1),
            network: place.own_network,
            cwd,
            group,
            memory_bytes: place.memory_bytes,
            processes: place.processes,
            cpus: place.cpus,
            user: place.user,
            report: theirs.into(),
        };
        Ok(Self { enter, report: Report(ours) })
    }
}

/// Where the id of the process that entered arrives. The other end must be closed here before reading, which it is when
/// the command that was spawned is dropped.
pub(super) struct Report(io::PipeReader);

impl Report {
    fn pid(&self) -> Option<Pid> {
        use io::Read as _;
        let mut bytes = [0; 4];
        (&self.0).read_exact(&mut bytes).ok()?;
        Pid::from_raw(i32::from_ne_bytes(bytes))
    }

    /// The process that runs the program, after a spawn that succeeded. `first` only made it.
    pub(super) fn take(&self, mut first: Child) -> io::Result<Pid> {
        let pid = self.pid();
        first.wait()?;
        pid.ok_or_else(|| io::Error::other("the process did not report its id"))
    }

    /// After a spawn that failed: reaps what failed to become the program.
    pub(super) fn discard(&self) {
        if let Some(pid) = self.pid() {
            let _ = rustix::io::retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty()));
        }
    }
}
