//! What the host is and how busy it is, in the words of the API.

use super::wire::{Host, Load};

/// Asks the system.
#[derive(Debug, Default)]
pub(crate) struct HostWatch {}

impl HostWatch {
    /// What this host is.
    pub(crate) fn facts(&self) -> Option<Host> {
        None
    }

    /// How busy it is.
    pub(crate) fn measure(&self) -> Option<Load> {
        None
    }
}
