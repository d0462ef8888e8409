//! Agents: links that break, servers that go away, agents that misbehave.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod commands;
mod common;
mod hostile;
mod sessions;
mod survive;
mod tunnel;
