//! Range headers.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&[u8], u64)| fleetcore_http::fuzz::range(input.0, input.1));
