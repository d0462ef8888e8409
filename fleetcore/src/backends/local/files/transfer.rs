//! Threads for tar streams, which last as long as their clients like.
//!
//! Not those of the runtime (512, see [`max_blocking_threads`](tokio::runtime::Builder::max_blocking_threads)): as many
//! stalled downloads would leave none for file operations, output and signals.

use std::{
    sync::{Arc, LazyLock},
    thread,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{Error, ErrorKind, Result, Retry};

/// Most tar streams at once in this process, both ways together; more are `RateLimited`. Each takes a thread
/// and, when packing, below 1 MiB of buffers. Far more than a disk can serve well, far fewer than a process may have
/// threads.
pub(super) const AT_ONCE: usize = 64;

/// For the whole process, as its threads are.
static OF_PROCESS: LazyLock<Transfers> = LazyLock::new(|| Transfers::of(AT_ONCE));

/// Where transfers get their threads.
#[derive(Clone, Debug)]
pub(super) struct Transfers {
    places: Arc<Semaphore>,
    total: usize,
}

impl Transfers {
    pub(super) fn of_process() -> Self {
        OF_PROCESS.clone()
    }

    pub(super) fn of(total: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(total)), total }
    }

    /// A place for one transfer, at once or not at all: those who have one may keep it for ever.
    pub(super) fn enter(&self) -> Result<Place> {
        Arc::clone(&self.places).try_acquire_owned().map(Place).map_err(|_| {
            Error::new(ErrorKind::RateLimited, "too many tar streams are open")
                .with_context("at_once", self.total)
                .with_retry(Retry::Temporary { after: None })
        })
    }

    /// Waits until no transfer of `total` is left.
    #[cfg(test)]
    pub(super) async fn all_ended(&self, total: u32) {
        drop(self.places.acquire_many(total).await.unwrap());
    }
}

/// A place for one transfer.
#[derive(Debug)]
pub(super) struct Place(OwnedSemaphorePermit);

impl Place {
    /// Starts the thread; the place is free again when `work` has ended.
    pub(super) fn run(self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let Self(permit) = self;
        let body = move || {
            work();
            drop(permit); // as a panic does, too
        };
        let started = thread::Builder::new().name(name.to_owned()).spawn(body);
        started.map(drop).map_err(|e| Error::io("", e).with_retry(Retry::Temporary { after: None }))
    }
}
