//! The fleet and what comes of running a command.

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use ::fleetcore as core_;
use pyo3::{exceptions::PyValueError, prelude::*, types::PyBytes};

use crate::{
    command::Command,
    errors::to_py,
    rt::{block_on, future_into_py},
};

/// All machines one process can reach.
#[pyclass(module = "fleetcore", frozen)]
pub(crate) struct Fleet {
    fleet: core_::Fleet,
}

fn spec(
    argv: Vec<String>,
    cwd: Option<String>,
    env: Option<BTreeMap<String, String>>,
    timeout: Option<f64>,
) -> PyResult<core_::CommandSpec> {
    let mut spec = core_::CommandSpec::argv(argv);
    if let Some(cwd) = cwd {
        spec = spec.with_cwd(cwd);
    }
    for (name, value) in env.unwrap_or_default() {
        spec = spec.with_env(name, value);
    }
    if let Some(seconds) = timeout {
        let limit = Duration::try_from_secs_f64(seconds).map_err(|e| {
            PyValueError::new_err(format!("timeout must be a positive number of seconds: {e}"))
        })?;
        spec = spec.with_timeout(limit);
    }
    Ok(spec)
}

#[pymethods]
impl Fleet {
    /// A fleet of this host alone.
    #[staticmethod]
    fn local() -> Self {
        Self { fleet: core_::Fleet::local() }
    }

    /// Run a program to its end and collect its output. A program that fails does not raise: see `Result.check`.
    #[pyo3(signature = (target, argv, *, cwd = None, env = None, timeout = None))]
    fn run(
        &self,
        py: Python<'_>,
        target: &str,
        argv: Vec<String>,
        cwd: Option<String>,
        env: Option<BTreeMap<String, String>>,
        timeout: Option<f64>,
    ) -> PyResult<RunResult> {
        let machine = self.fleet.machine(target).map_err(to_py)?;
        let spec = spec(argv, cwd, env, timeout)?;
        block_on(py, async move {
            let output = machine.spawn(spec).await.map_err(to_py)?.output().await.map_err(to_py)?;
            Ok(RunResult { output })
        })
    }

    /// Start a program; await it to get the running command.
    #[pyo3(signature = (target, argv, *, cwd = None, env = None, timeout = None) -> "collections.abc.Awaitable[Command]")]
    fn spawn<'py>(
        &self,
        py: Python<'py>,
        target: &str,
        argv: Vec<String>,
        cwd: Option<String>,
        env: Option<BTreeMap<String, String>>,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let machine = self.fleet.machine(target).map_err(to_py)?;
        let spec = spec(argv, cwd, env, timeout)?;
        future_into_py(py, async move {
            let running = machine.spawn(spec).await.map_err(to_py)?;
            Ok(Command { handle: running.handle(), owner: Mutex::new(Some(running)) })
        })
    }
}

/// What a program wrote and how it ended.
#[pyclass(module = "fleetcore", frozen, name = "Result")]
pub(crate) struct RunResult {
    output: core_::Output,
}

#[pymethods]
impl RunResult {
    /// Standard output.
    #[getter]
    fn stdout<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.output.stdout)
    }

    /// Standard error.
    #[getter]
    fn stderr<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.output.stderr)
    }

    /// Exit code; negative for the signal that ended it, as in `subprocess`.
    #[getter]
    fn exit_code(&self) -> Option<i32> {
        exit_code(self.output.status)
    }

    /// Raise `CommandFailedError` unless the program succeeded; returns self.
    fn check(slf: PyRef<'_, Self>) -> PyResult<PyRef<'_, Self>> {
        slf.output.clone().check().map_err(to_py)?;
        Ok(slf)
    }

    fn __repr__(&self) -> String {
        let code = exit_code(self.output.status).map_or_else(|| "None".to_owned(), |c| c.to_string());
        format!(
            "Result(exit_code={code}, stdout={} bytes, stderr={} bytes)",
            self.output.stdout.len(),
            self.output.stderr.len()
        )
    }
}

/// Exit code in the form of Python's `subprocess`.
pub(crate) fn exit_code(status: core_::ExitStatus) -> Option<i32> {
    match status.kind {
        core_::ExitKind::Code(code) => Some(code),
        core_::ExitKind::Signal(signal) => Some(-signal),
        _ => None,
    }
}
