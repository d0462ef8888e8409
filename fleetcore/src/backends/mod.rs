//! The machines fleetcore knows how to reach.

#[cfg(feature = "local")]
pub mod local;
#[cfg(feature = "multipass")]
pub mod multipass;
#[cfg(all(feature = "sandbox", target_os = "linux"))]
pub mod sandbox;
#[cfg(feature = "ssh")]
pub mod ssh;
