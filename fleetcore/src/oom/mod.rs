//! Holding a set of processes to an amount of memory, and looking at them.
//!
//! [`Marked`] finds the processes, [`MemoryGuard`] ends the largest of them when they hold too much together. Linux
//! only: elsewhere no process is found and nothing is ended.

#[cfg_attr(
    all(not(target_os = "linux"), not(test)),
    expect(dead_code, reason = "there are control groups on Linux only")
)]
mod group;
mod guard;
mod kill;
mod processes;
#[cfg(test)]
mod tests;

pub use guard::{Killed, MemoryGuard};
pub use processes::{Marked, Process};
