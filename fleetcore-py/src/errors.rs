//! Errors of the core as exceptions of the package.

use ::fleetcore::Error;
use pyo3::{exceptions::PyRuntimeError, prelude::*, sync::PyOnceLock};

static MAKE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// The exception for an error of the core; `fleetcore.errors` says which class.
pub(crate) fn to_py(py: Python<'_>, error: &Error) -> PyErr {
    let make = || -> PyResult<PyErr> {
        let make = MAKE.import(py, "fleetcore.errors", "from_core")?;
        let context: Vec<(&str, &str)> = error.context().collect();
        let made = make.call1((
            error.kind().code(),
            error.to_string(),
            error.message(),
            error.operation(),
            context,
        ))?;
        Ok(PyErr::from_value(made))
    };
    make().unwrap_or_else(|_| PyRuntimeError::new_err(error.to_string()))
}

/// The same where the GIL is held but not at hand.
pub(crate) fn raise(error: Error) -> PyErr {
    Python::attach(|py| to_py(py, &error))
}
