//! What the safe wrappers of the operating system leave out, and the only unsafe code of the crate.
#![expect(unsafe_code, reason = "wrapped here once, with its proof, so that no other module needs any")]

pub(crate) mod cgroup;
mod enter;
mod exec;
mod memory;
mod pidfd;
pub(crate) mod procfs;
mod pty;
#[cfg(target_os = "linux")]
mod socket;
#[cfg(all(feature = "sandbox", target_os = "linux"))]
mod unprivileged;

pub(crate) use enter::Enter;
pub(crate) use exec::{AsUser, Prepare, prepare};
pub use memory::{give_code_back, give_memory_back};
pub(crate) use pidfd::ExitWatch;
pub(crate) use pty::{PtyControl, open_pty, to_io};
#[cfg(target_os = "linux")]
pub(crate) use socket::socket_of;
#[cfg(all(feature = "sandbox", target_os = "linux"))]
pub(crate) use unprivileged::{PASSED, Unprivileged, unprivileged, without_descriptors};
