//! Limits of a sandbox: by control group where this process may make one, else by what every process can be held to.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::state::Spec;
use crate::{
    MachineId,
    backends::local::own_cgroup,
    sys::cgroup::{hand_out, limit_memory},
};

/// How the limits of one sandbox are enforced.
#[derive(Debug, Default)]
pub(super) struct Limits {
    /// Directory of its control group; removed on drop.
    pub(super) cgroup: Option<PathBuf>,
    /// Most memory of each process.
    pub(super) memory_bytes: Option<u64>,
    /// Most processes.
    pub(super) processes: Option<u64>,
    /// Processors to run on.
    pub(super) cpus: Option<u32>,
}

impl Limits {
    /// Sets up what `spec` asks for.
    pub(super) fn new(name: &MachineId, spec: &Spec) -> Self {
        if spec.memory_bytes.is_none() && spec.cpus.is_none() && spec.processes.is_none() {
            return Self::default();
        }
        Self::by_cgroup(name, spec).unwrap_or_else(|error| {
            tracing::debug!(%error, machine = %name, "no control group: limits hold for each process");
            Self::by_process(spec)
        })
    }

    fn by_cgroup(name: &MachineId, spec: &Spec) -> io::Result<Self> {
        let parent = own_cgroup().ok_or(io::ErrorKind::Unsupported)?;
        let wanted = [
            ("memory", spec.memory_bytes.is_some()),
            ("cpu", spec.cpus.is_some()),
            ("pids", spec.processes.is_some()),
        ];
        for (controller, _) in wanted.iter().filter(|(_, wanted)| *wanted) {
            hand_out(&parent, controller)?;
        }
        // The process id keeps two servers apart that have a sandbox of the same name.
        sweep(&parent);
        let dir = parent.join(format!("{PREFIX}{}-{name}", std::process::id()));
        match fs::create_dir(&dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        let limits = Self { cgroup: Some(dir.clone()), ..Self::default() };
        if let Some(bytes) = spec.memory_bytes {
            limit_memory(&dir, bytes)?;
        }
        if let Some(cpus) = spec.cpus {
            // Microseconds of processor time in each 100 ms (Documentation/admin-guide/cgroup-v2.rst, cpu.max).
            fs::write(dir.join("cpu.max"), format!("{} 100000", u64::from(cpus) * 100_000))?;
        }
        if let Some(most) = spec.processes {
            fs::write(dir.join("pids.max"), most.to_string())?;
        }
        Ok(limits)
    }

    fn by_process(spec: &Spec) -> Self {
        Self {
            cgroup: None,
            memory_bytes: spec.memory_bytes,
            // The namespace's own first process and its helper count too.
            processes: spec.processes.map(|p| p.saturating_add(2)),
            cpus: spec.cpus,
        }
    }
}

/// What the control groups of sandboxes are called, before the id of their server and their own name.
const PREFIX: &str = "fleetcore-sandbox-";

/// Removes the groups of servers that were killed. What is in use cannot be removed.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let server = name.to_str().and_then(|n| n.strip_prefix(PREFIX)?.split('-').next());
        if server.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

impl Drop for Limits {
    fn drop(&mut self) {
        if let Some(dir) = &self.cgroup
            && let Err(error) = fs::remove_dir(dir)
        {
            tracing::debug!(%error, dir = %dir.display(), "control group stays");
        }
    }
}
