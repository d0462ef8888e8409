//! Output through the server's encoders and the client's decoders.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&[u8], u8, &[u8])| {
    fleetcore_http::fuzz::there_and_back(input.0, usize::from(input.1), input.2)
});
