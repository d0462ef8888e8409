//! Files of control groups, version 2 (Documentation/admin-guide/cgroup-v2.rst).

use std::{fs, io, path::Path};

/// Limits the memory of the group `dir`.
pub(crate) fn limit_memory(dir: &Path, bytes: u64) -> io::Result<()> {
    fs::write(dir.join("memory.max"), bytes.to_string())?;
    // Without this the limit would only move memory to the swap.
    let _ = fs::write(dir.join("memory.swap.max"), "0");
    Ok(())
}

/// Lets groups below `own` have limits by `controller`.
pub(crate) fn hand_out(own: &Path, controller: &str) -> io::Result<()> {
    let control = own.join("cgroup.subtree_control");
    if fs::read_to_string(&control)?.split_ascii_whitespace().any(|c| c == controller) {
        return Ok(());
    }
    fs::write(control, format!("+{controller}"))
}
