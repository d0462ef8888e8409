//! Problem documents.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, &[u8])| fleetcore_http::fuzz::problems(input.1, input.0));
