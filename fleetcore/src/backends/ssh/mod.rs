//! Machines over SSH: a static list of hosts, commands on session channels, files over SFTP.
//!
//! A host has a few connections that all its commands share; see [`SshHost::max_channels`]. Host keys are checked
//! against `known_hosts` and never accepted silently. Only a POSIX shell is needed on the other side, and `grep`,
//! `awk` and `/proc` for ending whatever a command left behind.
//!
//! Variables and arguments go to the machine on the input of a small shell program, not on its command line, so that
//! secrets in variables show in no process list.

mod auth;
mod config;
mod connect;
mod error;
mod executor;
mod files;
mod helper;
mod input;
mod known_hosts;
mod openssh;
mod output;
mod pool;
mod process;
mod provider;
mod script;
mod sftp;
mod tunnel;

pub use config::{HostKeyPolicy, SshConfig, SshHost};
pub use executor::SshExecutor;
pub use provider::Ssh;
