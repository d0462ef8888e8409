//! Everything in memory, within limits; gone with the process.

mod commands;
mod identity;
mod join;
mod metrics;
mod output;
mod registry;
mod store;

pub use store::{MemoryLimits, MemoryStore};
