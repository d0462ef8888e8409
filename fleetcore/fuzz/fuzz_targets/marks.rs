//! Marks of the shell in the output of a session.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fleetcore::fuzz::marks(data));
