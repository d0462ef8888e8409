//! Terminals over WebSocket: attach to a command or a session.

mod frame;
mod link;

pub(crate) use link::{AttachQuery, Party, attach};
