//! Python bindings of fleetcore: conversion only, no logic.

mod command;
mod errors;
mod fleet;
mod rt;

use pyo3::prelude::*;

#[pymodule(gil_used = false)]
mod _fleetcore {
    #[pymodule_export]
    use crate::command::{Command, CommandStream};
    #[pymodule_export]
    use crate::errors::{
        AccessDeniedError, AlreadyExistsError, AuthenticationError, BusyError, CommandFailedError,
        ConflictError, FleetError, FleetTimeoutError, InvalidInputError, InvalidStateError, NotFoundError,
        RateLimitedError, UnavailableError, UnsupportedError,
    };
    #[pymodule_export]
    use crate::fleet::{Fleet, RunResult};
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        crate::rt::install(module.py())
    }
}
