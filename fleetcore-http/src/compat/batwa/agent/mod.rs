//! Batwa's agent: the API a master drives, and the heartbeats it waits for.

mod execute;
mod heart;
mod options;
mod routes;

pub(crate) use options::AGENT;
