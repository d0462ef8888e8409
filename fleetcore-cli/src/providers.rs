//! Where machines come from: the one place that knows what this program is built with and what is installed here.

use std::{path::Path, sync::Arc};

use fleetcore::{
    FleetBuilder, Result,
    backends::multipass::{Multipass, MultipassConfig},
};

use crate::config::Settings;

/// Adds every provider that can be had here. What keeps things on disk does so below `data_dir`. Cheap: whether a provider
/// works is asked when somebody wants to know. `warn` hears what is left out, and why.
///
/// # Errors
/// `InvalidInput` for settings that cannot be.
pub(crate) fn add(
    fleet: FleetBuilder,
    settings: &Settings,
    data_dir: &Path,
    mut warn: impl FnMut(&str),
) -> Result<FleetBuilder> {
    let fleet = sandboxes(fleet, data_dir, &mut warn);
    let fleet = multipass(fleet, data_dir);
    settings.ssh.add_to(fleet, warn)
}

/// Virtual machines of Multipass. Where its program is not, the provider says so to whoever asks, and it may be installed
/// at any time.
fn multipass(fleet: FleetBuilder, data_dir: &Path) -> FleetBuilder {
    let config = MultipassConfig::default().with_records(data_dir.join("multipass.json"));
    if let Some(program) = config.find_program() {
        tracing::info!(program = %program.display(), "machines of Multipass are targets");
    }
    let multipass = Multipass::new(config);
    multipass.resume();
    fleet.with_provider(Arc::new(multipass))
}

/// Machines that need nothing but Linux.
#[cfg(target_os = "linux")]
fn sandboxes(fleet: FleetBuilder, data_dir: &Path, warn: &mut impl FnMut(&str)) -> FleetBuilder {
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
            warn(&format!("there are no sandboxes: {}", error.message()));
            fleet
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn sandboxes(fleet: FleetBuilder, _: &Path, _: &mut impl FnMut(&str)) -> FleetBuilder {
    fleet
}
