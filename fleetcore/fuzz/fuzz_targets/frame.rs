//! Frame headers of stored output.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fleetcore::fuzz::frame(data));
