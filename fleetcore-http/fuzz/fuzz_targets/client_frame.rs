//! Frames of attached clients, and those our own client sends.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&[u8], u16, u16, u64)| {
    let (data, cols, rows, offset) = input;
    fleetcore_http::fuzz::client_frame(data);
    fleetcore_http::fuzz::to_the_server(data, cols, rows, offset);
});
