//! The shell over this host.

mod goldens;
mod own;

use std::{collections::BTreeMap, path::Path, time::Duration};

use fleetcore::Fleet;
use serde_json::Value;

use tokio_util::sync::CancellationToken;

use super::{RunArgs, Shell};
use crate::compat::openhands::watch::Watch;

/// A shell in `dir`, whose home it is too.
pub(super) async fn open(dir: &Path, soft: Duration) -> Shell {
    let dir = dir.to_str().unwrap();
    let env = BTreeMap::from([("HOME".to_owned(), dir.into())]);
    let machine = Fleet::local().machine("local").unwrap();
    let watch = Watch::new(None, CancellationToken::new());
    Shell::open(machine, dir, None, soft, env, watch).await.unwrap()
}

/// An answer as the client gets it.
pub(super) async fn run(shell: &Shell, args: &RunArgs, timeout: Option<f64>) -> Value {
    serde_json::to_value(shell.run(args, timeout).await).unwrap()
}

/// Waits until what runs in the main shell has ended, without taking its end from anybody.
pub(super) async fn settled(shell: &Shell) {
    let busy = || shell.known.lock().session.as_ref().is_some_and(|s| s.info().busy);
    fleetcore_testkit::until("what runs in the shell has ended", || !busy()).await;
}
