//! HTTP server and client for fleetcore.
#[cfg(feature = "client")]
pub mod client;
