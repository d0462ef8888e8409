//! The grammar of targets: what parses is written back the same.
#![no_main]

use fleetcore::Target;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(target) = text.parse::<Target>() {
        assert_eq!(target.to_string(), text);
    }
});
