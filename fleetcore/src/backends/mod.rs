//! The machines fleetcore knows how to reach.

#[cfg(feature = "local")]
pub mod local;
#[cfg(feature = "multipass")]
pub mod multipass;
