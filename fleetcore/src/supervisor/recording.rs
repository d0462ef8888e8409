//! Where the record of a command goes.

use std::{fmt, sync::Arc};

use crate::{CommandRecord, CommandStore, StateChange, Target};

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
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Recording {
    /// Applies a change the supervisor has already applied in memory.
    ///
    /// A store that fails does not stop the command: the process is real, the record is only a description of it.
    pub(crate) async fn store_change(&self, before: &CommandRecord, change: StateChange) {
        if let Some(store) = &self.store
            && let Err(e) = store.transition(before.id, before.revision, change).await
        {
            tracing::error!(command = %before.id, error = %e, "the record could not be updated");
        }
    }

    pub(crate) fn tell(&self, record: &Arc<CommandRecord>) {
        if let Some(observer) = &self.observer {
            observer.changed(record);
        }
    }
}
