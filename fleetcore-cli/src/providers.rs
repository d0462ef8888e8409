//! Where machines come from: the one place that knows what this program is built with and what is installed here.

use std::path::Path;

use fleetcore::FleetBuilder;

use crate::config::Settings;

/// Adds every provider that can be had here. What keeps things on disk does so below `data_dir`. Cheap: whether a provider
/// works is asked when somebody wants to know.
pub(crate) fn add(fleet: FleetBuilder, settings: &Settings, data_dir: &Path) -> FleetBuilder {
    let _ = settings;
    sandboxes(fleet, data_dir)
}

/// Machines that need nothing but Linux.
#[cfg(target_os = "linux")]
fn sandboxes(fleet: FleetBuilder, data_dir: &Path) -> FleetBuilder {
    use std::sync::Arc;

    use fleetcore::{
        Probe,
        backends::sandbox::{SandboxConfig, Sandboxes},
    };

    match Sandboxes::open(SandboxConfig::new(data_dir.join("sandboxes"))) {
        Ok(sandboxes) => {
            let sandboxes = Arc::new(sandboxes);
            let probed = Arc::clone(&sandboxes);
            let probe = Probe::new(move || {
                let sandboxes = Arc::clone(&probed);
                async move { sandboxes.probe().await }
            });
            fleet.with_provider(sandboxes).with_probe("sandbox", probe)
        }
        Err(error) => {
            // A read-only data directory, say: all else works.
            tracing::warn!(%error, "there are no sandboxes");
            fleet
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn sandboxes(fleet: FleetBuilder, _: &Path) -> FleetBuilder {
    fleet
}
