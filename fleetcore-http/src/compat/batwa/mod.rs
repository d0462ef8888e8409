//! Batwa, a manager of Multipass machines with one master and any number of agents.
//!
//! What deviates from the originals, and which of their holes are closed, is in `README.md` beside this file.

mod agent;
mod agents;
mod checks;
mod list;
mod map;
mod options;
mod pages;
mod provider;
mod remote;
mod reply;
mod routes;
mod server;
mod state;
mod terminal;
#[cfg(test)]
mod tests;
mod vms;
mod wire;

pub(crate) use agent::AGENT;
pub(crate) use options::SERVER;
