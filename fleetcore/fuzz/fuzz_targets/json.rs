//! Stored and transmitted records: what is read is written and read back the same.
#![no_main]

use fleetcore::{AgentInfo, CommandRecord, MachineInfo};
use libfuzzer_sys::fuzz_target;

fn round_trip<T: serde::de::DeserializeOwned + serde::Serialize + PartialEq + std::fmt::Debug>(data: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(data) {
        let text = serde_json::to_vec(&value).unwrap();
        assert_eq!(serde_json::from_slice::<T>(&text).unwrap(), value);
    }
}

fuzz_target!(|data: &[u8]| {
    round_trip::<CommandRecord>(data);
    round_trip::<AgentInfo>(data);
    round_trip::<MachineInfo>(data);
});
