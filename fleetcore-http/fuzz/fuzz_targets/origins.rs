//! Origin and Host headers.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str)| fleetcore_http::fuzz::origins(input.0, input.1));
