//! `fleetcore serve`

use crate::{cli::Serve, config::Settings, error::Outcome};

/// Runs the server until told to stop.
pub(crate) async fn serve(_args: Serve, _settings: &Settings) -> Outcome {
    Err(fleetcore::Error::unsupported("serve").into())
}
