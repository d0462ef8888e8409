//! What authors of backends, stores and layers implement. Applications do not need this module.
//!
//! The traits have no default bodies (but [`Layer`]'s hooks): a wrapper that forgets to forward a method does
//! not compile, instead of silently answering "unsupported".

mod agents;
mod connection;
mod context;
mod executor;
mod files;
mod layer;
mod provider;
mod session;
mod stores;

pub use agents::AgentDirectory;
pub use connection::{BoxConnection, Connection};
pub use context::OpContext;
pub use executor::{Executor, ProcessControl, RawProcess};
pub use files::{ByteStream, FileSystem};
pub use layer::Layer;
pub use provider::Provider;
pub use session::{CommandStream, Session};
pub use stores::{AgentRegistry, AuditStore, CommandStore, IdentityStore, JoinStore, MetricsStore};
