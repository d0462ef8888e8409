//! Where there are no namespaces, nobody enters one.

use std::{ffi::CString, io, os::fd::OwnedFd, sync::Arc};

/// Where to, and with what limits. Never gets to run here: there is nobody to make the holder.
#[derive(Debug)]
pub(crate) struct Enter {
    pub(crate) holder: Arc<OwnedFd>,
    pub(crate) network: bool,
    pub(crate) cwd: CString,
    pub(crate) group: bool,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) processes: Option<u64>,
    pub(crate) cpus: Option<u32>,
    pub(crate) report: OwnedFd,
}

impl Enter {
    /// Refuses.
    pub(super) fn run(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
