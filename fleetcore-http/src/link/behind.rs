//! Records that are written while the command is already at work.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use fleetcore::{
    CommandFilter, CommandId, CommandRecord, CommandStore, Error, ErrorKind, Offset, OutputChunk, RequestKey,
    Result, StateChange,
};
use futures::{future::join_all, stream::BoxStream};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

/// Writes that may wait; then callers do.
const QUEUE: usize = 1024;
/// How long a record waits for more to write: most commands are short, and one write is as good as three.
const LINGER: Duration = Duration::from_millis(5);

tokio::task_local! {
    /// Set around a start whose id cannot have been used before.
    static FRESH: ();
}

/// Starts something under an id that is new for sure: its record is written behind.
pub(super) async fn fresh<F: Future>(work: F) -> F::Output {
    FRESH.scope((), work).await
}

/// A store whose records of commands that a server has started are written behind the command's back.
///
/// The server keeps a durable record of its own before it asks an agent to start anything, and refuses an id it knows.
/// So the agent need not wait for its disk a second time: what it would lose with its life is of no use without it. What
/// is read here is what was written before, and output goes to the store as ever.
#[derive(Clone)]
pub struct BehindStore {
    inner: Arc<dyn CommandStore>,
    jobs: mpsc::Sender<Job>,
    live: Live,
}

/// Records that have not settled or are not written, as they will be once everything is written.
type Live = Arc<Mutex<HashMap<CommandId, CommandRecord>>>;

enum Job {
    Insert(Box<CommandRecord>),
    Change(CommandId, u64, StateChange),
    /// Everything before is written.
    Reached(oneshot::Sender<()>),
}

impl fmt::Debug for BehindStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BehindStore").field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// Takes what there is and what comes soon after, unless somebody waits; `false` at the end.
async fn gather(jobs: &mut mpsc::Receiver<Job>, batch: &mut Vec<Job>) -> bool {
    if jobs.recv_many(batch, QUEUE).await == 0 {
        return false;
    }
    let mut soon = pin!(tokio::time::sleep(LINGER));
    while batch.len() < QUEUE && !batch.iter().any(|job| matches!(job, Job::Reached(_))) {
        tokio::select! {
            more = jobs.recv_many(batch, QUEUE) => if more == 0 { break },
            () = &mut soon => break,
        }
    }
    true
}

/// What is to be written of one command.
#[derive(Default)]
struct Pending {
    insert: Option<Box<CommandRecord>>,
    changes: Vec<(u64, StateChange)>,
}

impl Pending {
    /// A change of a record that is not written yet becomes part of it.
    fn change(&mut self, revision: u64, change: StateChange) {
        if let Some(record) = &mut self.insert
            && record.revision == revision
            && let Ok(next) = record.apply(&change)
        {
            **record = next;
        } else {
            self.changes.push((revision, change));
        }
    }

    async fn write(self, inner: &dyn CommandStore, id: CommandId) -> Result<()> {
        if let Some(record) = self.insert {
            inner.insert(*record).await?;
        }
        for (revision, change) in self.changes {
            inner.transition(id, revision, change).await?;
        }
        Ok(())
    }
}

async fn write(inner: Arc<dyn CommandStore>, mut jobs: mpsc::Receiver<Job>, live: Live) {
    let mut batch = Vec::new();
    while gather(&mut jobs, &mut batch).await {
        let (mut pending, mut waiting) = (HashMap::<CommandId, Pending>::new(), Vec::new());
        for job in batch.drain(..) {
            match job {
                Job::Insert(record) => {
                    let id = record.id;
                    pending.entry(id).or_default().insert = Some(record);
                }
                Job::Change(id, revision, change) => {
                    pending.entry(id).or_default().change(revision, change);
                }
                // What came after it is written a little early.
                Job::Reached(reached) => waiting.push(reached),
            }
        }
        // All at once: the store makes one transaction of it.
        let inner = &inner;
        let writing = pending.into_iter().map(|(id, pending)| async move {
            if let Err(error) = pending.write(&**inner, id).await {
                tracing::error!(command = %id, %error, "the record could not be written; the server has its own");
            }
            id
        });
        for id in join_all(writing).await {
            if let Entry::Occupied(record) = live.lock().entry(id)
                && record.get().state.is_settled()
            {
                record.remove();
            }
        }
        for reached in waiting {
            // Whoever asked may have left.
            let _ = reached.send(());
        }
    }
}

impl BehindStore {
    /// Writes to `inner`. Needs a runtime.
    pub fn new(inner: Arc<dyn CommandStore>) -> Self {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let live = Live::default();
        tokio::spawn(write(Arc::clone(&inner), queue, Arc::clone(&live)));
        Self { inner, jobs, live }
    }

    async fn put(&self, job: Job) -> Result<()> {
        let gone =
            |_| Error::new(ErrorKind::Unavailable, "the store is being closed").with_operation("store");
        self.jobs.send(job).await.map_err(gone)
    }

    /// Waits until everything before this call is with the inner store.
    pub async fn flush(&self) {
        let (reached, wait) = oneshot::channel();
        if self.put(Job::Reached(reached)).await.is_ok() {
            // Fails when the runtime ends.
            let _ = wait.await;
        }
    }
}

#[async_trait]
impl CommandStore for BehindStore {
    async fn insert(&self, record: CommandRecord) -> Result<()> {
        if FRESH.try_with(|()| ()).is_err() {
            self.flush().await;
            self.inner.insert(record.clone()).await?;
            self.live.lock().insert(record.id, record);
            return Ok(());
        }
        self.live.lock().insert(record.id, record.clone());
        self.put(Job::Insert(Box::new(record))).await
    }

    async fn get(&self, id: CommandId) -> Result<CommandRecord> {
        if let Some(record) = self.live.lock().get(&id) {
            return Ok(record.clone());
        }
        self.flush().await;
        self.inner.get(id).await
    }

    async fn list(&self, filter: CommandFilter) -> Result<Vec<CommandRecord>> {
        self.flush().await;
        self.inner.list(filter).await
    }

    async fn transition(&self, id: CommandId, revision: u64, change: StateChange) -> Result<CommandRecord> {
        let next = {
            let mut live = self.live.lock();
            match live.get(&id) {
                Some(record) if record.revision == revision => {
                    let next = record.apply(&change)?;
                    live.insert(id, next.clone());
                    Some(next)
                }
                _ => None,
            }
        };
        match next {
            Some(next) => {
                self.put(Job::Change(id, revision, change)).await?;
                Ok(next)
            }
            None => {
                self.flush().await;
                self.inner.transition(id, revision, change).await
            }
        }
    }

    async fn append_output(&self, id: CommandId, chunk: &OutputChunk) -> Result<()> {
        self.inner.append_output(id, chunk).await
    }

    async fn read_output(
        &self,
        id: CommandId,
        from: Offset,
    ) -> Result<BoxStream<'static, Result<OutputChunk>>> {
        self.inner.read_output(id, from).await
    }

    async fn prune(&self, ended_before: Timestamp) -> Result<u64> {
        self.flush().await;
        self.inner.prune(ended_before).await
    }

    async fn mark_lost(&self, why: &str) -> Result<Vec<CommandId>> {
        self.flush().await;
        self.inner.mark_lost(why).await
    }

    fn request_key(&self) -> Option<RequestKey> {
        self.inner.request_key()
    }
}

#[cfg(test)]
mod tests {
    use fleetcore::{CommandSpec, CommandState, ExitKind, ExitStatus, Target, store::memory::MemoryStore};

    use super::*;

    fn record() -> CommandRecord {
        CommandRecord::new(CommandId::generate(), Target::local(), &CommandSpec::argv(["x"]), None)
    }

    #[tokio::test]
    async fn what_is_read_is_what_was_written() {
        let inner = Arc::new(MemoryStore::new());
        let store = BehindStore::new(inner.clone());
        let record = record();
        let id = record.id;
        fresh(store.insert(record.clone())).await.unwrap();
        assert_eq!(store.get(id).await.unwrap(), record);
        let running = store.transition(id, 1, StateChange::to(CommandState::Running)).await.unwrap();
        assert_eq!((running.state, running.revision), (CommandState::Running, 2));
        let mut only_running = CommandFilter::default();
        only_running.states = vec![CommandState::Running];
        assert_eq!(store.list(only_running).await.unwrap(), [running]);
        let stale = store.transition(id, 1, StateChange::to(CommandState::Lost)).await.unwrap_err();
        assert_eq!(stale.kind(), ErrorKind::Conflict);
        let end = StateChange::ended(ExitStatus::new(ExitKind::Code(0)), Offset(3));
        let ended = store.transition(id, 2, end).await.unwrap();
        assert_eq!(store.get(id).await.unwrap(), ended);
        store.flush().await;
        assert_eq!(inner.get(id).await.unwrap(), ended);
    }

    #[tokio::test]
    async fn a_short_command_is_written_once() {
        let inner = Arc::new(MemoryStore::new());
        let store = BehindStore::new(inner.clone());
        let mut ids = vec![];
        for _ in 0..50 {
            let record = record();
            ids.push(record.id);
            fresh(store.insert(record.clone())).await.unwrap();
            store.transition(record.id, 1, StateChange::to(CommandState::Running)).await.unwrap();
            let end = StateChange::ended(ExitStatus::new(ExitKind::Code(0)), Offset(0));
            store.transition(record.id, 2, end).await.unwrap();
        }
        store.flush().await;
        assert!(store.live.lock().is_empty(), "what is written is not kept");
        for id in ids {
            let record = inner.get(id).await.unwrap();
            assert_eq!((record.state, record.revision), (CommandState::Succeeded, 3));
            assert!(record.started_at.is_some() && record.ended_at.is_some());
        }
    }

    #[tokio::test]
    async fn an_id_that_may_be_known_is_checked_first() {
        let store = BehindStore::new(Arc::new(MemoryStore::new()));
        let record = record();
        fresh(store.insert(record.clone())).await.unwrap();
        let again = store.insert(record).await.unwrap_err();
        assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    }
}
