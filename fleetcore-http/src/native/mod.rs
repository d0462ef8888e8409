//! The native API, `/api/v1`.

#[cfg(feature = "client")]
mod agents;
mod attach;
mod cast;
mod commands;
mod events;
mod fanout;
mod files;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod health;
mod identity;
mod load;
mod machines;
mod metrics;
mod notices;
mod openapi;
mod output;
mod range;
#[cfg(feature = "openhands")]
mod runtimes;
mod sessions;
mod sse;
mod targets;
mod tunnel;
mod watch;
pub mod wire;

pub use openapi::openapi;

#[cfg(feature = "client")]
pub(crate) use agents::{AgentEvent, AgentEvents, watch as watch_agents};
pub(crate) use events::LoadWatch;
pub(crate) use metrics::keep_metrics;
pub(crate) use notices::Notices;
pub(crate) use openapi::routes;
#[cfg(feature = "openhands")]
pub(crate) use runtimes::Runtimes;
pub(crate) use sessions::SessionOwners;
pub(crate) use watch::MachineWatch;
