//! What travels: the JSON of `/api/v1`, with conversions from and to the core's types.

mod agent;
mod command;
mod identity;
mod machine;
mod names;
#[cfg(feature = "openhands")]
mod runtime;
mod session;
mod target;

pub use agent::*;
pub use command::*;
pub use identity::*;
pub use machine::*;
pub use names::*;
#[cfg(feature = "openhands")]
pub use runtime::*;
pub use session::*;
pub use target::*;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The entries, newest first where they have an age.
    pub items: Vec<T>,
    /// What to send as `before` for the next page; null on the last one.
    #[serde(default)]
    pub next: Option<String>,
}

/// A whole list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Items<T> {
    /// The entries.
    pub items: Vec<T>,
}
