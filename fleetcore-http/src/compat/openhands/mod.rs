//! OpenHands' runtime: the server inside the sandbox of an AI coding agent, which runs its actions one after another.
//!
//! What deviates from the original, and which of its defects are mended, is in `README.md` beside this file.

mod action;
mod archive;
mod auth;
mod body;
mod browser;
mod edit;
mod fair;
#[cfg(test)]
mod file_goldens;
mod files;
mod helper;
mod hosted;
mod info;
mod jupyter;
mod list;
mod mcp;
mod nolink;
mod observation;
mod options;
mod python;
mod queue;
mod reply;
mod resources;
mod room;
mod routes;
mod runtime;
mod server;
mod shell;
#[cfg(test)]
mod tests;
mod user;
mod viewer;
mod vscode;
mod watch;

pub(crate) use hosted::{Hosted, HostedSpec};
pub(crate) use options::RUNTIME;
pub use watch::{ActionState, RuntimeState};
pub(crate) use watch::{WATCHERS, events, from_request};
