//! Machines that change by themselves: providers have no events, so somebody has to look.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use fleetcore::{MachineFilter, OpContext};
use tokio::time::{Instant, MissedTickBehavior};

use crate::app::App;

/// How often machines are listed while somebody listens. Providers share what this costs among all who ask.
const EVERY: Duration = Duration::from_secs(10);

/// Lists machines now and then while somebody listens; the fleet tells listeners what is different.
#[derive(Debug, Default)]
pub(crate) struct MachineWatch {
    listeners: Arc<AtomicUsize>,
    running: AtomicBool,
}

/// Somebody listens as long as this is there.
#[derive(Debug)]
pub(super) struct Listening(Arc<AtomicUsize>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl MachineWatch {
    /// Starts to look, unless somebody does already.
    pub(super) fn listen(&self, app: &App) -> Listening {
        self.listeners.fetch_add(1, Ordering::AcqRel);
        if !self.running.swap(true, Ordering::AcqRel) {
            app.tasks().spawn(look(app.clone()));
        }
        Listening(Arc::clone(&self.listeners))
    }

    /// Whether nobody listens any more; then the next one starts anew.
    fn over(&self) -> bool {
        if self.listeners.load(Ordering::Acquire) > 0 {
            return false;
        }
        self.running.store(false, Ordering::Release);
        // Somebody may have come in between, and seen that it was running.
        self.listeners.load(Ordering::Acquire) == 0 || self.running.swap(true, Ordering::AcqRel)
    }
}

async fn look(app: App) {
    let mut every = tokio::time::interval_at(Instant::now(), EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while app.stopping().run_until_cancelled(every.tick()).await.is_some() {
        if app.machine_watch().over() {
            break;
        }
        let filter = MachineFilter::default();
        let cx = OpContext::default();
        let look = app.fleet().machines(&cx, &filter);
        // Failures are told to those who list; here there is nobody to tell.
        let _ = app.stopping().run_until_cancelled(look).await;
    }
}
