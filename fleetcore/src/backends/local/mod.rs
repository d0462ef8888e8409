//! This host: processes, terminals, files and facts about it.
//!
//! Processes are started with `posix_spawn` where nothing stands against it, watched through a pidfd, and kept
//! unreaped until their tree is dealt with, so that no signal can hit a process that merely got the same id.

mod cgroup;
mod config;
mod connect;
mod error;
mod executor;
pub(crate) mod files;
pub mod host;
mod input;
mod output;
pub(super) mod place;
mod process;
#[cfg(test)]
mod tests;
mod tree;
mod user;

#[cfg(target_os = "linux")]
pub(crate) use cgroup::own_dir as own_cgroup;
pub use config::{CgroupMode, LocalConfig};
pub use executor::Local;
pub use tree::COMMAND_ID_VARIABLE;
#[cfg(all(feature = "sandbox", target_os = "linux"))]
pub(super) use tree::is_dead;
