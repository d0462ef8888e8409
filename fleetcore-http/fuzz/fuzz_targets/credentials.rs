//! Cookie and Authorization headers.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&[u8], &[u8])| fleetcore_http::fuzz::credentials(input.0, input.1));
