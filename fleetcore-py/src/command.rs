//! A running command and its output, for asyncio.

use std::sync::{Arc, Mutex};

use ::fleetcore as core_;
use futures::StreamExt;
use pyo3::{
    exceptions::{PyRuntimeError, PyStopAsyncIteration},
    prelude::*,
    types::PyBytes,
};

use crate::{errors::to_py, fleet::exit_code, rt::future_into_py};

/// A running command. `async with` ends it on exit; `async for` over `stream()` yields output.
#[pyclass(module = "fleetcore", frozen)]
pub(crate) struct Command {
    pub(crate) owner: Mutex<Option<core_::RunningCommand>>,
    pub(crate) handle: core_::CommandHandle,
}

#[pymethods]
impl Command {
    /// Identifier.
    #[getter]
    fn id(&self) -> String {
        self.handle.id().to_string()
    }

    /// Wait for the end; returns the exit code, negative for a signal.
    #[pyo3(signature = () -> "collections.abc.Awaitable[int | None]")]
    fn wait<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let handle = self.handle.clone();
        future_into_py(py, async move { handle.wait().await.map(exit_code).map_err(to_py) })
    }

    /// Output from a byte offset on, as an async iterator of `(offset, channel, bytes)`.
    #[pyo3(signature = (offset = 0))]
    fn stream(&self, offset: u64) -> CommandStream {
        CommandStream {
            events: Arc::new(tokio::sync::Mutex::new(self.handle.stream(core_::Offset(offset)))),
            kept: Arc::default(),
            last: Mutex::new(None),
        }
    }

    /// End the command: TERM, grace, KILL. Returns at once.
    fn cancel(&self) {
        self.handle.cancel();
    }

    /// Let the command run on without an owner.
    fn detach(&self) {
        if let Some(running) = self.owner.lock().ok().and_then(|mut owner| owner.take()) {
            let _ = running.detach();
        }
    }

    #[pyo3(signature = () -> "collections.abc.Awaitable[Command]")]
    fn __aenter__<'py>(slf: Py<Self>, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        future_into_py(py, async move { Ok(slf) })
    }

    #[pyo3(signature = (_type, _value, _traceback) -> "collections.abc.Awaitable[None]")]
    fn __aexit__<'py>(
        &self,
        py: Python<'py>,
        _type: Py<PyAny>,
        _value: Py<PyAny>,
        _traceback: Py<PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let owned = self.owner.lock().ok().and_then(|mut owner| owner.take()).is_some();
        let handle = self.handle.clone();
        future_into_py(py, async move {
            // A detached command is nobody's to wait for.
            if owned {
                handle.wait().await.map_err(to_py)?;
            }
            Ok(())
        })
    }
}

/// Async iterator of `(offset, channel, bytes)`.
#[pyclass(module = "fleetcore", frozen)]
pub(crate) struct CommandStream {
    events: Arc<tokio::sync::Mutex<Box<dyn core_::CommandStream>>>,
    /// The last item handed out: a cancelled `__anext__` may have taken it without delivering it.
    kept: Arc<Mutex<Option<core_::OutputChunk>>>,
    last: Mutex<Option<Py<PyAny>>>,
}

fn channel_name(channel: core_::Channel) -> &'static str {
    match channel {
        core_::Channel::Stdout => "stdout",
        core_::Channel::Stderr => "stderr",
        core_::Channel::Pty => "pty",
        _ => "log",
    }
}

#[pymethods]
impl CommandStream {
    fn __aiter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __anext__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let mut last = self.last.lock().map_err(|_| PyRuntimeError::new_err("the stream is broken"))?;
        if let Some(previous) = last.as_ref() {
            let previous = previous.bind(py);
            if !previous.call_method0("done")?.extract::<bool>()? {
                return Err(PyRuntimeError::new_err("__anext__ is already running"));
            }
            if !previous.call_method0("cancelled")?.extract::<bool>()?
                && let Ok(mut kept) = self.kept.lock()
            {
                *kept = None;
            }
        }
        let (events, kept) = (Arc::clone(&self.events), Arc::clone(&self.kept));
        let next = future_into_py(py, async move {
            let mut events = events.lock().await;
            let undelivered = kept.lock().ok().and_then(|slot| slot.clone());
            let chunk = match undelivered {
                Some(chunk) => chunk,
                None => loop {
                    match events.next().await.transpose().map_err(to_py)? {
                        Some(core_::CommandEvent::Output(chunk)) => {
                            if let Ok(mut slot) = kept.lock() {
                                *slot = Some(chunk.clone());
                            }
                            break chunk;
                        }
                        Some(core_::CommandEvent::Exited(_)) | None => {
                            return Err(PyStopAsyncIteration::new_err(()));
                        }
                        Some(_) => {}
                    }
                },
            };
            Python::attach(|py| {
                let data = PyBytes::new(py, &chunk.data).unbind();
                Ok((chunk.offset.0, channel_name(chunk.channel), data))
            })
        })?;
        *last = Some(next.clone().unbind());
        Ok(next)
    }
}
