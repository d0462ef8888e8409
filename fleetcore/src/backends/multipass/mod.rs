//! Virtual machines of [Multipass](https://canonical.com/multipass), through its command line program.
//!
//! Releases 1.8 to 1.16 and what comes after; the release is asked for once and decides about options. What the program
//! prints is read leniently, what it complains about is sorted into [`ErrorKind`](crate::ErrorKind)s with advice.
//!
//! **Lists.** `list` is the source of truth. One process serves all who ask at the same time, its answer is kept for
//! [`MultipassConfig::list_fresh`] and forgotten at once when an operation of ours ends. Addresses, which cost the
//! daemon a connection to every machine, are asked for less often.
//!
//! **Launching** outlives the caller: a task follows it until the real outcome is known, also when the client ran into
//! its time limit, the daemon went away or the caller gave up; see [`Abandoned`]. A machine that was not there before
//! and that nobody waits for is purged, unless the configuration says otherwise.
//!
//! **Commands** run under a small program on the machine (`runner.py`, for the python3 that cloud-init brings) which
//! speaks in frames over the pipes of `multipass exec`: exact exit codes and signals, a real terminal of its own,
//! window changes at once, and the end of the whole tree when the connection ends, none of which the client has.
//! Input beyond a megabyte goes through `multipass transfer`, because `exec` loses it.

mod actions;
mod client;
mod config;
mod error;
mod executor;
mod input;
mod inventory;
mod launch;
mod machine;
mod names;
mod parse;
mod plain;
mod progress;
mod provider;
mod records;
mod resume;
mod shared;
mod wire;

pub use config::{Abandoned, MultipassConfig};
pub use provider::Multipass;
