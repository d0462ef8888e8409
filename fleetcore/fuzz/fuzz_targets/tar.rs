//! The check of tar streams that go to a machine's own tar.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, &[u8])| fleetcore::fuzz::tar(input.0.into(), input.1));
