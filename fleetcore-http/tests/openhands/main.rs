//! The runtime of OpenHands against what the original was recorded answering.
//!
//! The recordings are not part of the repository; `FLEETCORE_CONTRACTS` says where they are, and without them the tests
//! say that they are skipped.
#![cfg(feature = "openhands")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod browser;
mod compare;
mod differences;
mod editor;
mod live;
mod replay;
mod sessions;
mod survive;
mod tools;
