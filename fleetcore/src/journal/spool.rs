//! Durable output of commands as files.
//!
//! One directory per command, `DIR/<last two hex digits of the id>/<id>/`, with segment files named by the offset of
//! their first byte. A segment is a row of frames: a fixed header (offset, time, channel, length) and the bytes. A
//! frame is appended with one write before the append returns, so it outlives this process; nothing is synced, so a
//! power cut may cost the last seconds. A torn last frame is cut off at the next append. What could not be stored, or
//! was dropped to stay within the limits, is missing between two frames: readers see the jump in offsets.

#[cfg(not(fuzzing))]
mod frame;
#[cfg(fuzzing)]
pub(crate) mod frame;
mod log;
mod read;
mod retain;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fmt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::stream::BoxStream;
use parking_lot::Mutex;
use tokio::runtime::{Handle, RuntimeFlavor};

use self::log::Log;
use crate::{CommandId, Error, ErrorKind, Offset, OutputChunk, Result};

/// Files held open for writing at once; a fraction of the customary soft limit of 1024 descriptors.
const MAX_WRITERS: usize = 256;
/// Commands whose position is held in memory; an idle one costs one directory scan to come back.
const MAX_LIVE: usize = 8192;
/// Work up to this size is done in place: the copy into the page cache takes less than a hop to another thread.
const INLINE_BYTES: usize = 64 << 10;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SpoolLimits {
    /// Bytes on disk per command; beyond it the oldest segments go.
    pub(crate) command_bytes: u64,
    /// Bytes on disk of all commands; [`Spool::enforce`] removes the oldest segments beyond it.
    pub(crate) total_bytes: u64,
    /// Segments last written longer ago than this are removed by [`Spool::enforce`].
    pub(crate) max_age: Option<Duration>,
    /// Size at which a new segment begins.
    pub(crate) segment_bytes: u64,
}

/// The output directory of one store. There must be only one per directory.
pub(crate) struct Spool {
    dir: PathBuf,
    limits: SpoolLimits,
    live: Mutex<HashMap<CommandId, Arc<Entry>>>,
    writers: Arc<AtomicUsize>,
    clock: AtomicU64,
    /// Bytes on disk, exact after each `enforce`.
    total: AtomicU64,
    /// `total` at which `pressure` is called next.
    pressure_at: AtomicU64,
    pressure: Box<dyn Fn() + Send + Sync>,
    closed: AtomicBool,
}

/// One command somebody wrote to lately. `log` is `None` until the directory was looked at.
struct Entry {
    used: AtomicU64,
    log: Mutex<Option<Log>>,
}

impl fmt::Debug for Spool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spool").field("dir", &self.dir).field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Spool {
    /// A spool in `dir`, which is made with the first byte. `pressure` is called, from any thread, when
    /// [`enforce`](Self::enforce) has something to do.
    pub(crate) fn new(
        dir: PathBuf,
        limits: SpoolLimits,
        pressure: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self {
            dir,
            limits,
            live: Mutex::default(),
            writers: Arc::default(),
            clock: AtomicU64::new(0),
            total: AtomicU64::new(0),
            pressure_at: AtomicU64::new(limits.total_bytes),
            pressure: Box::new(pressure),
            closed: AtomicBool::new(false),
        }
    }

    /// Keeps a chunk; see [`CommandStore::append_output`](crate::CommandStore::append_output).
    ///
    /// # Errors
    /// `Unavailable` when the bytes could not be written (full disk); the log is left as it was and the next chunk
    /// may succeed.
    pub(crate) async fn append(self: &Arc<Self>, id: CommandId, chunk: &OutputChunk) -> Result<()> {
        if chunk.data.is_empty() {
            return Ok(());
        }
        if chunk.data.len() <= INLINE_BYTES {
            return self.append_now(id, chunk);
        }
        let (spool, chunk) = (Arc::clone(self), chunk.clone());
        offload(move || spool.append_now(id, &chunk)).await?
    }

    fn append_now(&self, id: CommandId, chunk: &OutputChunk) -> Result<()> {
        let entry = self.entry(id);
        let mut guard = entry.log.lock();
        let log = match &mut *guard {
            Some(log) => log,
            none => {
                let log = Log::recover(self.path(id), Arc::clone(&self.writers))
                    .map_err(|e| unavailable(id, "reading what is stored", e))?;
                none.insert(log)
            }
        };
        if !log.is_open() && self.writers.load(Ordering::Relaxed) >= MAX_WRITERS {
            self.close_one(&entry);
        }
        let before = log.bytes();
        let result = log.append(chunk, &self.limits);
        self.account(before, log.bytes());
        match result {
            Ok(()) => {
                if std::mem::take(&mut log.failing) {
                    tracing::warn!(command = %id, from = %chunk.offset, "output is stored again; there is a gap");
                }
                Ok(())
            }
            Err(e) => {
                if !std::mem::replace(&mut log.failing, true) {
                    tracing::warn!(command = %id, from = %chunk.offset, error = %e, "output cannot be stored");
                }
                Err(unavailable(id, "writing", e))
            }
        }
    }

    /// What is kept from `from` on. Sees everything whose append returned before the call.
    pub(crate) async fn read(
        self: &Arc<Self>,
        id: CommandId,
        from: Offset,
    ) -> Result<BoxStream<'static, Result<OutputChunk>>> {
        let entry = self.live.lock().get(&id).cloned();
        let now = entry.as_ref().map(|e| e.log.try_lock().map(|log| log.as_ref().map(Log::parts)));
        let live = match (entry, now) {
            (_, Some(Some(parts))) => parts,
            // A writer is inside a long write: wait for it elsewhere.
            (Some(entry), _) => offload(move || entry.log.lock().as_ref().map(Log::parts)).await?,
            (None, _) => None,
        };
        let parts = match live {
            Some(parts) => parts,
            None => log::parts_on_disk(&self.path(id)).map_err(|e| unavailable(id, "reading", e))?,
        };
        Ok(read::stream(id, parts, from))
    }

    /// Position after the last byte that is stored; `None` without output.
    pub(crate) fn end(&self, id: CommandId) -> Result<Option<Offset>> {
        let entry = self.live.lock().get(&id).cloned();
        if let Some(end) = entry.and_then(|e| e.log.lock().as_ref().map(Log::end)) {
            return Ok((end > 0).then_some(Offset(end)));
        }
        log::end_on_disk(&self.path(id)).map(|end| end.map(Offset)).map_err(|e| unavailable(id, "reading", e))
    }

    /// Lets go of memory and files of a command that is not expected to write any more.
    pub(crate) fn close(&self, id: CommandId) {
        let mut live = self.live.lock();
        if live.get(&id).is_some_and(|entry| Arc::strong_count(entry) == 1) {
            live.remove(&id);
        }
    }

    /// Removes the output of one command.
    pub(crate) fn remove(&self, id: CommandId) -> Result<()> {
        let entry = self.live.lock().remove(&id);
        // Waits for a writer; a later append starts anew.
        let _log = entry.as_ref().map(|e| e.log.lock().take());
        let dir = self.path(id);
        let removed = || -> std::io::Result<u64> {
            let bytes = log::parts_on_disk(&dir)?.iter().map(|p| p.len).sum();
            match std::fs::remove_dir_all(&dir) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
                _ => Ok(bytes),
            }
        };
        self.account(removed().map_err(|e| unavailable(id, "removing", e))?, 0);
        Ok(())
    }

    /// Runs slow work on the spool off the async threads.
    pub(crate) async fn with<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T> {
        let spool = Arc::clone(self);
        offload(move || work(&spool)).await
    }

    /// Ends long work in other threads soon; called before the directory is given to somebody else.
    pub(crate) fn shut(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    fn account(&self, before: u64, after: u64) {
        if after <= before {
            // Saturating: the count is approximate until the first `enforce`.
            let _ = self.total.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |t| {
                Some(t.saturating_sub(before - after))
            });
            return;
        }
        let total = self.total.fetch_add(after - before, Ordering::Relaxed) + (after - before);
        let at = self.pressure_at.load(Ordering::Relaxed);
        if total > at {
            // A sixteenth further on the next reminder is due, whether this one helped or not.
            let next = total.saturating_add(self.limits.total_bytes / 16 + 1);
            if self.pressure_at.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                (self.pressure)();
            }
        }
    }

    fn entry(&self, id: CommandId) -> Arc<Entry> {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        let mut live = self.live.lock();
        if let Some(entry) = live.get(&id) {
            entry.used.store(now, Ordering::Relaxed);
            return Arc::clone(entry);
        }
        if live.len() >= MAX_LIVE {
            // Nobody else can get hold of an entry while the map is locked, so a count of one means idle.
            let mut idle: Vec<_> = live
                .iter()
                .filter(|(_, e)| Arc::strong_count(e) == 1)
                .map(|(id, e)| (e.used.load(Ordering::Relaxed), *id))
                .collect();
            idle.sort_unstable();
            for (_, id) in idle.iter().take(MAX_LIVE / 4) {
                live.remove(id);
            }
        }
        let entry = Arc::new(Entry { used: AtomicU64::new(now), log: Mutex::new(None) });
        live.insert(id, Arc::clone(&entry));
        entry
    }

    /// Closes the writer that was idle longest, but not that of `keep`, whose lock the caller holds.
    fn close_one(&self, keep: &Arc<Entry>) {
        let live = self.live.lock();
        let oldest = live
            .values()
            .filter(|e| !Arc::ptr_eq(e, keep))
            .filter(|e| e.log.try_lock().is_some_and(|log| log.as_ref().is_some_and(Log::is_open)))
            .min_by_key(|e| e.used.load(Ordering::Relaxed));
        if let Some(mut log) = oldest.and_then(|e| e.log.try_lock())
            && let Some(log) = log.as_mut()
        {
            log.close();
        }
    }

    fn path(&self, id: CommandId) -> PathBuf {
        let uuid = id.as_uuid();
        let mut path = self.dir.join(format!("{:02x}", uuid.as_bytes().last().copied().unwrap_or_default()));
        path.push(id.to_string());
        path
    }
}

/// Runs blocking work off the async threads, or in place where there is no second thread to keep free.
async fn offload<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    match Handle::try_current() {
        Ok(handle) if handle.runtime_flavor() == RuntimeFlavor::MultiThread => {
            handle.spawn_blocking(work).await.map_err(|e| {
                Error::new(ErrorKind::Unexpected, "file work ended early")
                    .with_operation("spool")
                    .with_source(e)
            })
        }
        _ => Ok(work()),
    }
}

fn unavailable(id: CommandId, what: &'static str, err: std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, format!("output file: {what}: {err}"))
        .with_operation("spool")
        .with_context("command", id)
        .with_source(err)
}
