//! Output of commands: byte offsets, explicit gaps.

#[cfg(feature = "sqlite")]
pub(crate) mod spool;
