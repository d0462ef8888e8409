//! Wire formats of other systems, so that their clients, agents and pages go on working.
//!
//! A [`Dialect`] stands where the original program stood: same flags, environment, routes and texts. All of them go
//! through one door: [`find`] by name, [`Dialect::parse`], then a [`Listener`]. A new dialect is a folder here and one
//! line in [`ALL`].

#[cfg(feature = "batwa")]
mod args;
#[cfg(feature = "batwa")]
mod batwa;
mod dialect;
mod listen;
#[cfg(feature = "openhands")]
mod openhands;
mod registry;

pub use dialect::{Call, Dialect, Exits, Host, Plan, Refusal, Service};
pub use listen::Listener;
#[cfg(feature = "openhands")]
pub use openhands::{ActionState, RuntimeState};
#[cfg(feature = "openhands")]
pub(crate) use openhands::{
    Hosted, HostedSpec, WATCHERS as RUNTIME_WATCHERS, events, from_request as events_request,
};
pub use registry::{ALL, find};
