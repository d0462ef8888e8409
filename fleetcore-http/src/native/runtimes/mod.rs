//! Runtimes of AI coding agents, on any machine the server reaches.

mod registry;
pub(super) mod routes;

pub(crate) use registry::Runtimes;
