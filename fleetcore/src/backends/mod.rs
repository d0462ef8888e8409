//! The machines fleetcore knows how to reach.

#[cfg(feature = "local")]
pub mod local;
#[cfg(all(feature = "sandbox", target_os = "linux"))]
pub mod sandbox;
