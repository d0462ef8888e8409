use std::{
    fmt,
    fs::File,
    sync::{
        Arc,
        mpsc::{self, SyncSender},
    },
    thread::JoinHandle,
};

use jiff::Timestamp;
use rusqlite::Connection;
use tokio::sync::broadcast;

use super::{
    SqliteConfig,
    age::AgeClock,
    commands,
    database::{WeakWorker, Worker},
    open,
};
use crate::{
    Error, RegistryEvent, RequestKey, Result,
    journal::spool::{Spool, SpoolLimits},
    store::watch::BACKLOG,
};

/// Size at which a new output file begins: the step in which old output is dropped.
const SEGMENT_BYTES: u64 = 8 << 20;

/// A store in a directory on a local disk. One process at a time; see [`SqliteConfig`].
///
/// Dropping it finishes what is queued, which may take a moment, and gives the directory back.
///
/// ```
/// # fn main() -> Result<(), fleetcore::Error> {
/// use fleetcore::store::sqlite::{SqliteConfig, SqliteStore};
/// # let dir = tempfile::tempdir().unwrap();
/// # let dir = dir.path().join("data");
/// let store = SqliteStore::open(SqliteConfig::new(&dir))?;
/// let second = SqliteStore::open(SqliteConfig::new(&dir)).unwrap_err();
/// assert_eq!(second.kind(), fleetcore::ErrorKind::Busy);
/// # drop(store);
/// # Ok(()) }
/// ```
pub struct SqliteStore {
    pub(super) writer: Worker,
    pub(super) readers: Worker,
    pub(super) spool: Arc<Spool>,
    pub(super) changes: broadcast::Sender<RegistryEvent>,
    pub(super) age: Arc<AgeClock>,
    pub(super) request_key: RequestKey,
    config: SqliteConfig,
    chores: SyncSender<Chore>,
    janitor: Option<JoinHandle<()>>,
    /// The last field: everything else has let go of the directory by then.
    _lock: File,
}

/// Work nobody waits for.
enum Chore {
    Checkpoint,
    Enforce,
    Stop,
}

impl SqliteStore {
    /// Opens the directory, making or migrating what is there. Blocks for a few milliseconds of file work.
    ///
    /// # Errors
    /// `Busy` with the process id when another store holds the directory; `InvalidState` when the data has a newer
    /// format or belongs to another program (nothing is changed then); `DataLoss` when the database file is damaged;
    /// `PermissionDenied`, `Unavailable` and others from the file system.
    pub fn open(config: SqliteConfig) -> Result<Self> {
        if config.max_log_bytes == 0 || config.max_total_log_bytes == 0 {
            let field = if config.max_log_bytes == 0 { "max_log_bytes" } else { "max_total_log_bytes" };
            return Err(Error::invalid(field, "greater than zero").with_operation("store.open"));
        }
        let lock = open::lock(&config.dir)?;
        let conn = open::writer(&config.dir)?;
        let request_key = open::request_key(&conn)?;
        // What one more thing to do is lost to a full queue comes again with the next reminder.
        let (chores, todo) = mpsc::sync_channel(4);
        let remind = chores.clone();
        let limits = SpoolLimits {
            command_bytes: config.max_log_bytes,
            total_bytes: config.max_total_log_bytes,
            max_age: config.max_log_age,
            segment_bytes: SEGMENT_BYTES.min(config.max_log_bytes / 4 + 1),
        };
        let spool = Arc::new(Spool::new(config.dir.join("output"), limits, move || {
            let _ = remind.try_send(Chore::Enforce);
        }));
        let remind = chores.clone();
        let writer = Worker::writer(conn, move || {
            let _ = remind.try_send(Chore::Checkpoint);
        })?;
        let readers = Worker::readers(|| open::reader(&config.dir))?;
        let (changes, _) = broadcast::channel(BACKLOG);
        let age = Arc::new(AgeClock::new());
        let mut store = Self {
            writer,
            readers,
            spool,
            changes,
            age,
            request_key,
            config,
            chores,
            janitor: None,
            _lock: lock,
        };
        store.start_janitor(todo)?;
        Ok(store)
    }

    /// What it was opened with.
    pub fn config(&self) -> &SqliteConfig {
        &self.config
    }

    /// The time to count the age of stored things to, e.g. for `prune`: that of the wall clock, unless it was set
    /// forward since the store was opened. Then it is the time that has really passed, because what is removed as too
    /// old does not come back when the clock is put right.
    pub fn age_now(&self) -> Timestamp {
        self.age.timestamp()
    }

    fn start_janitor(&mut self, todo: mpsc::Receiver<Chore>) -> Result<()> {
        let conn = open::reader(&self.config.dir)?;
        let (spool, reader, age) = (Arc::clone(&self.spool), self.readers.downgrade(), Arc::clone(&self.age));
        let body = move || {
            // Directories whose record is gone: a kill can fall between the two halves of `prune`.
            if let Some(reader) = reader {
                report(sweep(&spool, &reader));
            }
            report(spool.enforce(age.now()));
            while let Ok(chore) = todo.recv() {
                match chore {
                    Chore::Checkpoint => checkpoint(&conn),
                    Chore::Enforce => report(spool.enforce(age.now())),
                    Chore::Stop => break,
                }
            }
        };
        let thread = std::thread::Builder::new().name("fleetcore-store".to_owned()).spawn(body);
        self.janitor = Some(thread.map_err(|e| Error::io("store.open", e))?);
        Ok(())
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.spool.shut();
        self.readers.stop();
        // Fails when the thread never started.
        let _ = self.chores.send(Chore::Stop);
        if self.janitor.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a thread of the store has panicked");
        }
        // Last, so that SQLite folds its log into the database when the last connection goes.
        self.writer.stop();
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Moves the write-ahead log into the database without holding up the writer; the slow part is syncing.
fn checkpoint(conn: &Connection) {
    if let Err(e) = conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
        tracing::warn!(error = %e, "cannot fold the log into the database; trying again later");
    }
}

fn sweep(spool: &Spool, reader: &WeakWorker) -> Result<()> {
    // In this order: a command that starts meanwhile has a record before it has a directory.
    let directories = spool.commands()?;
    if directories.is_empty() {
        return Ok(());
    }
    let Some(known) = reader.run_blocking("store.open", commands::all_ids) else { return Ok(()) };
    let known = known?;
    for id in directories {
        if spool.is_shut() {
            break;
        }
        if !known.contains(&id) && !spool.is_live(id) {
            spool.remove(id)?;
        }
    }
    Ok(())
}

fn report(result: Result<()>) {
    if let Err(e) = result {
        tracing::warn!(error = %e, "tidying up the store failed");
    }
}
