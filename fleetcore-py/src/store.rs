//! The store of a fleet of this process, which a closed fleet lets go of although Python still holds its commands.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use ::fleetcore::{
    CommandFilter, CommandId, CommandRecord, CommandStore, Error, ErrorKind, Offset, OutputChunk, RequestKey,
    Result, StateChange, store::sqlite::SqliteStore,
};
use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::Timestamp;

/// A store that can be taken away. What is in memory of a command's output stays readable then.
pub(crate) struct Lease(Mutex<Option<Arc<SqliteStore>>>);

impl Lease {
    pub(crate) fn new(store: SqliteStore) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(Arc::new(store)))))
    }

    /// Lets go: the directory is free for others once calls that are under way have ended.
    pub(crate) fn end(&self) {
        let store = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(store); // not under the lock: it joins threads
    }

    fn store(&self) -> Result<Arc<SqliteStore>> {
        let store = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        store.ok_or_else(|| Error::new(ErrorKind::InvalidState, "the fleet is closed"))
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").finish_non_exhaustive()
    }
}

#[async_trait]
impl CommandStore for Lease {
    async fn insert(&self, record: CommandRecord) -> Result<()> {
        self.store()?.insert(record).await
    }

    async fn get(&self, id: CommandId) -> Result<CommandRecord> {
        self.store()?.get(id).await
    }

    async fn list(&self, filter: CommandFilter) -> Result<Vec<CommandRecord>> {
        self.store()?.list(filter).await
    }

    async fn transition(&self, id: CommandId, revision: u64, change: StateChange) -> Result<CommandRecord> {
        self.store()?.transition(id, revision, change).await
    }

    async fn append_output(&self, id: CommandId, chunk: &OutputChunk) -> Result<()> {
        self.store()?.append_output(id, chunk).await
    }

    async fn read_output(
        &self,
        id: CommandId,
        from: Offset,
    ) -> Result<BoxStream<'static, Result<OutputChunk>>> {
        self.store()?.read_output(id, from).await
    }

    async fn prune(&self, ended_before: Timestamp) -> Result<u64> {
        self.store()?.prune(ended_before).await
    }

    async fn mark_lost(&self, why: &str) -> Result<Vec<CommandId>> {
        self.store()?.mark_lost(why).await
    }

    fn request_key(&self) -> Option<RequestKey> {
        self.store().ok()?.request_key()
    }
}
