//! Last-Event-ID headers.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fleetcore_http::fuzz::last_event_id(data));
