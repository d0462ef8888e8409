//! X-Forwarded-For headers, and blocks of addresses.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u128, &str)| {
    fleetcore_http::fuzz::forwarded(input.1.as_bytes());
    fleetcore_http::fuzz::network(input.1, input.0);
});
