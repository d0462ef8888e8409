//! Everything in one SQLite file, output in files beside it. Survives `kill -9` at any moment.
//!
//! ```text
//! DIR/                 mode 0700
//!   fleetcore.db       records, agents, users, tokens, audit, measurements (WAL: also -wal and -shm)
//!   output/ab/<id>/    output of one command in segments of 8 MiB
//!   lock               held while a store is open; holds the process id
//! ```
//! One thread writes: it takes what is queued, does it in one transaction and answers everybody after the commit.
//! Commits are not synced to disk one by one, so a power cut may cost the last moments but never consistency; the
//! death of the process costs nothing.

mod age;
mod agents;
mod commands;
mod config;
mod database;
mod error;
mod identity;
mod join;
mod metrics;
mod open;
mod store;

pub use config::SqliteConfig;
pub use store::SqliteStore;
