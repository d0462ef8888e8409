//! What a runtime is doing, as it happens. The original has nothing like it.

mod feed;
mod log;
mod routes;

pub(crate) use feed::{Feed, From};
pub use log::{ActionState, RuntimeState};
pub(super) use log::{Found, describe};
pub(crate) use log::{WATCHERS, Watch};
pub(super) use routes::{PATH, serve};
pub(crate) use routes::{events, from_request};
