//! Plain data: no I/O, no backend names, no wire formats.

mod action;
mod address;
mod agent;
mod check;
mod command;
mod file;
mod identity;
mod join;
mod machine;
mod metrics;
mod request;
mod session;
mod target;

pub use action::*;
pub use address::*;
pub use agent::*;
pub use command::*;
pub use file::*;
pub use identity::*;
pub use join::*;
pub use machine::*;
pub use metrics::*;
pub use request::*;
pub use session::*;
pub use target::*;

use std::collections::BTreeMap;

/// Labels, as in every orchestrator: free key-value pairs for people and frontends to filter by.
pub type Labels = BTreeMap<String, String>;

/// A JSON object.
pub type Json = serde_json::Map<String, serde_json::Value>;
