//! Persistent shells over any executor with a pseudo-terminal.

pub(crate) mod keys;
pub(crate) mod marks;
