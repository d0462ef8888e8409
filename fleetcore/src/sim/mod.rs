//! What a backend without powers of its own gets on top of `spawn`.

pub(crate) mod files;
pub(crate) mod quote;
#[cfg(feature = "multipass")]
pub(crate) mod relay;
mod script;
#[cfg(not(fuzzing))]
mod tar_guard;
#[cfg(fuzzing)]
pub(crate) mod tar_guard;
pub(crate) mod tar_links;
