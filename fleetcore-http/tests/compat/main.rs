//! Dialects over sockets: recorded exchanges of the originals, their holes, terminals, and one side against the other.
#![cfg(feature = "batwa")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod common;
mod goldens;
mod interop;
mod lifecycle;
mod one_fleet;
mod outbound;
mod pages;
mod recorded_terminals;
mod replay;
mod security;
mod terminal;
