//! Run commands, open terminals and move files on every machine you have, streamed live.

pub mod backends;
pub mod blocking;
mod error;
mod fleet;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzz;
mod id;
mod journal;
pub mod layers;
pub mod raw;
pub mod session;
mod sim;
pub mod store;
mod supervisor;
#[cfg(feature = "local")]
mod sys;
mod term;
mod types;

pub use error::{Error, ErrorKind, Result, Retry};
pub use fleet::{
    Commands, Files, Fleet, FleetBuilder, FleetEvent, FleetLimits, Machine, Sessions, TargetInfo, ViewerGuard,
};
pub use id::{AgentId, CommandId, MachineId, NAME_MAX_BYTES, SessionId, TokenId, UserName};
pub use journal::JournalStream;
pub use raw::{
    AgentRegistry, AuditStore, ByteStream, CommandStore, CommandStream, Executor, FileSystem, IdentityStore,
    Layer, OpContext, Provider, Session,
};
pub use supervisor::{CommandHandle, Output, RunningCommand};
pub use types::*;
