//! Frames of a hostile server.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Option<u64>, &[u8])| fleetcore_http::fuzz::server_frames(input.1, input.0));
