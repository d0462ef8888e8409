//! One piece of work: waited for by a thread, or awaited by an event loop.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Wake, Waker},
    thread::Thread,
    time::{Duration, Instant},
};

use ::fleetcore::Result;
use futures::{FutureExt as _, future::BoxFuture};
use pyo3::{exceptions::PyRuntimeError, prelude::*};

use crate::{errors::to_py, rt};

/// How often a waiting thread looks for signals, Ctrl-C above all.
const TICK: Duration = Duration::from_millis(50);

/// Wakes a thread that waits.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Works on for one tick. The thread waits by itself and not by a timer of the runtime: setting one wakes the thread that
/// watches timers and descriptors, which costs a short command a tenth of its time.
fn tick<T>(mut work: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let end = Instant::now() + TICK;
    loop {
        if let Poll::Ready(done) = work(&mut context) {
            return Some(done);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        std::thread::park_timeout(left); // may end early: it is asked again then
    }
}

/// What came of it, to be made Python's by the thread that asked.
pub(crate) type Answer = Box<dyn for<'py> FnOnce(Python<'py>) -> PyResult<Py<PyAny>> + Send>;
pub(crate) type Work = BoxFuture<'static, Result<Answer>>;

/// Work that has not begun. It is done once.
#[pyclass(module = "fleetcore._fleetcore", frozen)]
pub(crate) struct Op {
    work: Mutex<Option<Work>>,
    made_in: u32,
}

impl Op {
    /// `work`, whose value becomes Python's by `convert`.
    pub(crate) fn new<T: Send + 'static>(
        work: impl Future<Output = Result<T>> + Send + 'static,
        convert: impl for<'py> FnOnce(Python<'py>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> Self {
        let work = work
            .map(|done| done.map(|value| -> Answer { Box::new(move |py: Python<'_>| convert(py, value)) }));
        Self { work: Mutex::new(Some(work.boxed())), made_in: std::process::id() }
    }

    /// Work without a value.
    pub(crate) fn unit(work: impl Future<Output = Result<()>> + Send + 'static) -> Self {
        Self::new(work, |py, ()| Ok(py.None()))
    }

    pub(crate) fn take(&self) -> PyResult<Work> {
        rt::check_process(self.made_in)?;
        let work = self.work.lock().unwrap_or_else(PoisonError::into_inner).take();
        work.ok_or_else(|| PyRuntimeError::new_err("this was waited for already"))
    }
}

#[pymethods]
impl Op {
    /// Does it and waits, without the GIL. A signal whose handler raises (Ctrl-C does) gives it up.
    fn wait(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let runtime = rt::handle()?;
        let mut work = self.take()?;
        loop {
            let waited = py.detach(|| {
                let _inside = runtime.enter();
                tick(|context| work.poll_unpin(context))
            });
            match waited {
                Some(Ok(answer)) => return answer(py),
                Some(Err(error)) => return Err(to_py(py, &error)),
                None => {
                    if let Err(raised) = py.check_signals() {
                        py.detach(|| {
                            let _inside = runtime.enter();
                            drop(work);
                        });
                        return Err(raised);
                    }
                }
            }
        }
    }
}
