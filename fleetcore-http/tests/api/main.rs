//! The server from outside: a real listener, real HTTP and WebSocket clients.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests may panic as tests do"
)]

mod agents;
mod attach;
mod auth;
mod commands;
mod common;
mod document;
mod events;
mod fanout;
mod files;
mod machines;
mod mcp;
mod output;
mod robust;
mod runtimes;
mod sessions;
mod tunnel;
