//! Multipass, or rather its stand-in.

use std::sync::Arc;

use fleetcore::{Fleet, Provider, backends::multipass::Multipass};
use fleetcore_testkit::{Env, Runner, multipass::StandIn};
use parking_lot::Mutex;

use super::{EnvFuture, layers};

/// The machine that all cases share which need one that is up.
static SHARED: Mutex<Option<StandIn>> = Mutex::new(None);
/// Those of the cases about machines. They live until the end.
static OWN: Mutex<Vec<StandIn>> = Mutex::new(Vec::new());

fn shared() -> fleetcore::Result<Multipass> {
    let mut shared = SHARED.lock();
    if let Some(stand_in) = &*shared {
        return Ok(Multipass::new(stand_in.config()));
    }
    let stand_in = StandIn::new()?;
    let config = stand_in.config();
    stand_in.run(&["launch", "-n", "suite"])?;
    *shared = Some(stand_in);
    Ok(Multipass::new(config))
}

fn machine(layered: bool) -> impl Fn() -> EnvFuture + Clone {
    move || {
        Box::pin(async move {
            let layers = if layered { layers::all() } else { Vec::new() };
            let fleet = layers.into_iter().fold(Fleet::builder(), |fleet, layer| fleet.with_layer(layer));
            Env::new(fleet.with_provider(Arc::new(shared()?)).build(), "multipass/suite").await
        })
    }
}

fn provider() -> Arc<dyn Provider> {
    let Ok(stand_in) = StandIn::new() else { fleetcore_testkit::fail("no room for a stand-in") };
    let multipass = Arc::new(Multipass::new(stand_in.config()));
    OWN.lock().push(stand_in);
    multipass
}

pub(super) fn add(runner: &mut Runner) {
    runner
        .machine("multipass", machine(false))
        .machine("multipass+layers", machine(true))
        .plain_provider("multipass", provider)
        .plain_provider("multipass+layers", || {
            layers::all().into_iter().fold(provider(), |provider, layer| layer.layer_provider(provider))
        });
}

/// Takes all machines down, so that nothing of them runs on, and removes them.
pub(super) fn clean_up() {
    drop((SHARED.lock().take(), std::mem::take(&mut *OWN.lock())));
}
