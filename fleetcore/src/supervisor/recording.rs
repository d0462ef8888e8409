//! Where the record of a command goes.

use std::{fmt, sync::Arc, time::Duration};

use crate::{CommandRecord, CommandState, CommandStore, RequestDigest, StateChange, Target};

/// Told of every change of a record, after it has been stored and before anybody can see its effects.
pub(crate) trait Observer: Send + Sync {
    /// The record has changed. Must not block.
    fn changed(&self, record: &Arc<CommandRecord>);
}

/// Where the record of a command goes; by default nowhere.
#[derive(Clone, Default)]
pub(crate) struct Recording {
    pub(crate) store: Option<Arc<dyn CommandStore>>,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    /// Held as long as the process is there, e.g. a permit.
    pub(crate) held: Option<Arc<dyn Send + Sync + 'static>>,
    pub(crate) target: Option<Target>,
    /// What the whole request was.
    pub(crate) request: Option<RequestDigest>,
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording").field("store", &self.store).finish_non_exhaustive()
    }
}

/// Pauses between attempts to store the end of a command.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Short: until the store has the end, a `kill -9` would turn it into `Lost`.
const RETRY_MOST: Duration = Duration::from_secs(5);

impl Recording {
    /// Applies a change the supervisor has already applied in memory; says whether the store has it.
    ///
    /// A store that fails does not stop the command: the process is real, the record is only a description of it.
    pub(crate) async fn store_change(&self, before: &CommandRecord, change: StateChange) -> bool {
        let Some(store) = &self.store else { return true };
        match store.transition(before.id, before.revision, change).await {
            Ok(_) => true,
            Err(e) => {
                tracing::error!(command = %before.id, error = %e, "the record could not be updated");
                false
            }
        }
    }

    /// Goes on until the store has the end of a command: the disk was full, or an earlier change is missing too.
    /// Until then the command stays known here, so that its true state and its output can be had.
    pub(crate) async fn store_end(&self, record: &CommandRecord, end: &StateChange) {
        let Some(store) = &self.store else { return };
        let mut pause = RETRY_FIRST;
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MOST);
            let Ok(now) = store.get(record.id).await else { continue };
            if now.state.is_settled() {
                return;
            }
            let mut revision = now.revision;
            if now.state == CommandState::Queued && end.exit.is_some() {
                let mut started = StateChange::to(CommandState::Running);
                started.at = record.started_at.unwrap_or(started.at);
                match store.transition(record.id, revision, started).await {
                    Ok(next) => revision = next.revision,
                    Err(_) => continue,
                }
            }
            if store.transition(record.id, revision, end.clone()).await.is_ok() {
                return;
            }
        }
    }

    /// The same places, without what is held for the process.
    pub(crate) fn clone_without_permit(&self) -> Self {
        Self { held: None, ..self.clone() }
    }

    pub(crate) fn tell(&self, record: &Arc<CommandRecord>) {
        if let Some(observer) = &self.observer {
            observer.changed(record);
        }
    }
}
