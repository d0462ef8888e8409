//! The shell the agent works in: a persistent bash of the core, answered in the original's words.
//!
//! The core knows when a command has ended, what a terminal shows of its output, and where the shell stands. Here is
//! only what is peculiar to the original: which texts an action is answered with, what is refused, and what is new
//! since the last answer.

mod keys;
mod live;
mod spawn;
mod split;
#[cfg(test)]
mod tests;
mod text;

pub(super) use spawn::{RunArgs, Shell};
