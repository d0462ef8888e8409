//! Python bindings of fleetcore: conversion only, no logic. The names of this module are private; the package around it
//! (`python/fleetcore`) is what users see.

mod command;
mod convert;
mod errors;
mod fanout;
mod files;
mod fleet;
mod machines;
mod mailbox;
mod op;
mod place;
mod rt;
mod session;
mod spec;
mod store;
mod tunnel;

use pyo3::prelude::*;

#[pymodule(gil_used = false)]
mod _fleetcore {
    #[pymodule_export]
    use crate::command::{Command, Events};
    #[pymodule_export]
    use crate::fanout::FanOut;
    #[pymodule_export]
    use crate::files::{Files, Reader, Writer};
    #[pymodule_export]
    use crate::fleet::Fleet;
    #[pymodule_export]
    use crate::mailbox::Mailbox;
    #[pymodule_export]
    use crate::op::Op;
    #[pymodule_export]
    use crate::session::Session;
    #[pymodule_export]
    use crate::spec::Spec;
    #[pymodule_export]
    use crate::tunnel::Tunnel;
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        crate::rt::install(module.py())
    }
}
