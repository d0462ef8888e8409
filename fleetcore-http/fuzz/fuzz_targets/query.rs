//! Queries.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| fleetcore_http::fuzz::query(text));
