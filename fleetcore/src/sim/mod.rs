//! What a backend without powers of its own gets on top of `spawn`.

pub(crate) mod files;
pub(crate) mod quote;
mod script;
mod tar_guard;
