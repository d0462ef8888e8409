//! Terminals over WebSocket: attach to a command or a session.

pub(super) mod frame;
mod link;

pub(crate) use link::{AttachQuery, Party, attach};
