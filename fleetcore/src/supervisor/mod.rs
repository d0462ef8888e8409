//! One task per running command: sole owner of its process, only writer of its journal and record.

mod actor;
mod handle;
mod owner;
mod recording;
#[cfg(test)]
mod tests;

pub(crate) use actor::{adopt, spawn};
pub use handle::CommandHandle;
pub use owner::{Output, RunningCommand};
pub(crate) use recording::{Observer, Recording};
