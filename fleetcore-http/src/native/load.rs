//! What the host is and how busy it is, in the words of the API.

use fleetcore::{
    HostSample,
    backends::local::host::{HostInfo, HostSampler},
};
use parking_lot::Mutex;

use super::wire::Host;

/// Asks the system. Reads files of /proc, so call it from a thread that may block.
#[derive(Default)]
pub(crate) struct HostWatch {
    /// Made at the first use: taking stock of disks and interfaces costs a few milliseconds.
    sampler: Mutex<Option<HostSampler>>,
}

impl std::fmt::Debug for HostWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HostWatch")
    }
}

impl HostWatch {
    /// What this host is.
    pub(crate) fn facts() -> Host {
        HostInfo::now().into()
    }

    /// How busy it is since the last time.
    pub(crate) fn measure(&self) -> HostSample {
        self.sampler.lock().get_or_insert_with(HostSampler::new).sample()
    }
}
