//! The terminal emulator, over whatever a program prints.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, u16, u8, &[u8])| {
    let (cols, rows, cut, data) = input;
    fleetcore::fuzz::screen(cols, rows, cut.into(), data);
});
