//! Server-sent events, cut anywhere.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| fleetcore_http::fuzz::events(usize::from(input.0), input.1));
