//! The tokio runtime behind the extension, owned here so that `atexit` can end it while the interpreter is still
//! whole. The runtime of pyo3-async-runtimes is `'static` and crashes some interpreter exits (its issue 40).

use std::{any::Any, cell::OnceCell, future::Future, pin::Pin, sync::Mutex, time::Duration};

use pyo3::{exceptions::PyRuntimeError, prelude::*};
use pyo3_async_runtimes::{TaskLocals, generic};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    task,
};

static RUNTIME: Mutex<Option<Runtime>> = Mutex::new(None);

/// How long the interpreter's exit waits for tasks; processes are killed at once.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);

fn handle() -> Option<Handle> {
    RUNTIME.lock().ok()?.as_ref().map(|runtime| runtime.handle().clone())
}

/// Starts the runtime and registers its end.
pub(crate) fn install(py: Python<'_>) -> PyResult<()> {
    let runtime =
        Builder::new_multi_thread().worker_threads(2).enable_all().thread_name("fleetcore").build()?;
    if let Ok(mut slot) = RUNTIME.lock() {
        *slot = Some(runtime);
    }
    let stop = pyo3::types::PyCFunction::new_closure(py, None, None, |args, _| {
        let runtime = RUNTIME.lock().ok().and_then(|mut slot| slot.take());
        // Without the GIL: tasks may still need it to finish.
        args.py().detach(|| {
            if let Some(runtime) = runtime {
                runtime.shutdown_timeout(SHUTDOWN_LIMIT);
            }
        });
    })?;
    py.import("atexit")?.call_method1("register", (stop,))?;
    Ok(())
}

/// Runs `work` to its end without holding the GIL.
pub(crate) fn block_on<T: Send>(
    py: Python<'_>,
    work: impl Future<Output = PyResult<T>> + Send,
) -> PyResult<T> {
    let handle = handle().ok_or_else(|| PyRuntimeError::new_err("the interpreter is shutting down"))?;
    py.detach(|| handle.block_on(work))
}

pub(crate) struct Owned;

pub(crate) struct JoinError(Option<task::JoinError>);

impl generic::JoinError for JoinError {
    fn is_panic(&self) -> bool {
        self.0.as_ref().is_some_and(task::JoinError::is_panic)
    }

    fn into_panic(self) -> Box<dyn Any + Send + 'static> {
        self.0.map_or_else(|| Box::new("the runtime has ended") as _, task::JoinError::into_panic)
    }
}

type Join = Pin<Box<dyn Future<Output = Result<(), JoinError>> + Send>>;

fn join(task: Option<task::JoinHandle<()>>) -> Join {
    Box::pin(async move {
        match task {
            Some(task) => task.await.map_err(|e| JoinError(Some(e))),
            None => Err(JoinError(None)),
        }
    })
}

tokio::task_local! {
    static LOCALS: OnceCell<TaskLocals>;
}

impl generic::Runtime for Owned {
    type JoinError = JoinError;
    type JoinHandle = Join;

    fn spawn<F: Future<Output = ()> + Send + 'static>(work: F) -> Join {
        join(handle().map(|h| h.spawn(work)))
    }

    fn spawn_blocking<F: FnOnce() + Send + 'static>(work: F) -> Join {
        join(handle().map(|h| h.spawn_blocking(work)))
    }
}

impl generic::ContextExt for Owned {
    fn scope<F, R>(locals: TaskLocals, work: F) -> Pin<Box<dyn Future<Output = R> + Send>>
    where
        F: Future<Output = R> + Send + 'static,
    {
        let cell = OnceCell::new();
        let _ = cell.set(locals);
        Box::pin(LOCALS.scope(cell, work))
    }

    fn get_task_locals() -> Option<TaskLocals> {
        LOCALS.try_with(|cell| cell.get().cloned()).unwrap_or_default()
    }
}

/// An awaitable for `work`.
pub(crate) fn future_into_py<'py, F, T>(py: Python<'py>, work: F) -> PyResult<Bound<'py, PyAny>>
where
    F: Future<Output = PyResult<T>> + Send + 'static,
    T: for<'a> IntoPyObject<'a> + Send + 'static,
{
    generic::future_into_py::<Owned, _, T>(py, work)
}
