//! Where the runtime leaves results for one event loop. The loop watches a descriptor; no thread of the runtime ever
//! takes the GIL, and many results cost one wake-up.

use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::net::UnixStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use ::fleetcore::Result;
use pyo3::{prelude::*, types::PyList};
use tokio::task::AbortHandle;

use crate::{
    errors::to_py,
    op::{Answer, Op},
    rt,
};

/// What the runtime sees of it.
struct Slot {
    done: Mutex<Vec<(u64, Result<Answer>)>>,
    wake: UnixStream,
}

impl Slot {
    fn post(&self, token: u64, outcome: Result<Answer>) {
        let mut done = lock(&self.done);
        let first = done.is_empty();
        done.push((token, outcome));
        drop(done);
        if first {
            // A full pipe means that a wake-up is on its way; a closed one that nobody waits.
            let _ = (&self.wake).write(&[1]);
        }
    }
}

struct Waiting {
    future: Py<PyAny>,
    task: AbortHandle,
}

/// Results for one event loop. `drain` is its reader.
#[pyclass(module = "fleetcore._fleetcore", frozen)]
pub(crate) struct Mailbox {
    slot: Arc<Slot>,
    wakes: UnixStream,
    waiting: Mutex<HashMap<u64, Waiting>>,
    next: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[pymethods]
impl Mailbox {
    #[new]
    fn new() -> PyResult<Self> {
        let (wakes, wake) = UnixStream::pair()?;
        wakes.set_nonblocking(true)?;
        wake.set_nonblocking(true)?;
        let slot = Arc::new(Slot { done: Mutex::default(), wake });
        Ok(Self { slot, wakes, waiting: Mutex::default(), next: AtomicU64::new(1) })
    }

    /// Readable when there is something to `drain`.
    fn fileno(&self) -> i32 {
        self.wakes.as_raw_fd()
    }

    /// Begins an operation whose outcome goes to `future`; the answer is for `abort`.
    fn start(&self, operation: &Op, future: Py<PyAny>) -> PyResult<u64> {
        let runtime = rt::handle()?;
        let work = operation.take()?;
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        let slot = Arc::clone(&self.slot);
        // Held until it is entered: the outcome may be there at once.
        let mut waiting = lock(&self.waiting);
        let task = runtime.spawn(async move { slot.post(token, work.await) }).abort_handle();
        waiting.insert(token, Waiting { future, task });
        Ok(token)
    }

    /// Gives an operation up; fine when it is over.
    fn abort(&self, token: u64) {
        if let Some(waiting) = lock(&self.waiting).remove(&token) {
            waiting.task.abort();
        }
    }

    /// Hands out what has come.
    fn drain(&self, py: Python<'_>) -> PyResult<()> {
        let mut bytes = [0; 64];
        while matches!((&self.wakes).read(&mut bytes), Ok(n) if n == bytes.len()) {}
        let done = std::mem::take(&mut *lock(&self.slot.done));
        for (token, outcome) in done {
            let Some(Waiting { future, .. }) = lock(&self.waiting).remove(&token) else { continue };
            let future = future.bind(py);
            if future.call_method0("done")?.extract::<bool>()? {
                continue;
            }
            match outcome.map_err(|error| to_py(py, &error)).and_then(|answer| answer(py)) {
                Ok(value) => future.call_method1("set_result", (value,))?,
                Err(raised) => future.call_method1("set_exception", (raised.into_value(py),))?,
            };
        }
        Ok(())
    }

    /// Tokens of what is not over, for tests.
    fn pending<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let tokens: Vec<u64> = lock(&self.waiting).keys().copied().collect();
        PyList::new(py, tokens)
    }
}
