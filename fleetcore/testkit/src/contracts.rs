//! Data recorded from other systems. It lies beside the sources and is not part of them.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// The directory of what was recorded from `system`: below `FLEETCORE_CONTRACTS` if that is set, else below the first
/// `shared/contracts` upwards of the sources. `None`, said loudly, when there is no such data.
pub fn contract(system: &str) -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("FLEETCORE_CONTRACTS") {
        return Some(PathBuf::from(dir).join(system));
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = here.ancestors().map(|a| a.join("shared/contracts").join(system)).find(|p| p.is_dir());
    if found.is_none() {
        eprintln!(
            "SKIPPED: no recorded data of {system}; set FLEETCORE_CONTRACTS to the directory that has {system}/"
        );
    }
    found
}

/// The JSON lines of a recorded file; `None`, said loudly, when there is no such data.
///
/// # Panics
/// When the data is there but not that file, or it is not JSON.
pub fn recorded(system: &str, file: &str) -> Option<Vec<Value>> {
    let path = contract(system)?.join(file);
    let text =
        std::fs::read_to_string(&path).unwrap_or_else(|e| crate::fail(format!("{}: {e}", path.display())));
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| crate::fail(format!("{file}: {e}")));
    Some(text.lines().map(parse).collect())
}
