//! The typed client of the native API.
//!
//! [`Client`] has one method per route. Failures are the errors the server had ([`fleetcore::Error`], kind and
//! context kept), so a program behaves the same in-process and remotely. Streams ([`OutputStream`],
//! [`Attachment`]) connect again by themselves from the last byte seen, so a reader gets each byte exactly once.
//! [`RemoteExecutor`] makes a target of a server an [`Executor`](fleetcore::Executor) like any other.

mod agents;
mod attach;
mod connection;
mod events;
mod executor;
mod files;
mod frames;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod identity;
mod machines;
mod output;
pub(crate) mod problem;
mod resume;
mod routes;
mod sessions;
mod sse;
mod tunnel;
pub mod wire;

pub use agents::MetricsQuery;
pub use attach::{AttachEvent, AttachInput, AttachOptions, AttachOutput, Attachment, SessionState};
pub use connection::{Client, ClientBuilder, Credentials, Login};
pub(crate) use connection::{LinkConnector, LinkIo};
pub use events::{Event, EventStream};
pub use executor::RemoteExecutor;
pub use files::{RemoteFiles, Tail};
pub use machines::parse_problem;
pub use output::{OutputBytes, OutputStream, Transport};
pub use resume::ReconnectPolicy;
pub use tunnel::TunnelStream;
