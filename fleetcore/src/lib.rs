//! Run commands, open terminals and move files on every machine you have, streamed live.

mod error;
mod id;
mod journal;
pub mod raw;
mod sim;
pub mod store;
mod types;

pub use error::{Error, ErrorKind, Result, Retry};
pub use id::{AgentId, CommandId, MachineId, NAME_MAX_BYTES, SessionId, TokenId, UserName};
pub use raw::{
    AgentRegistry, AuditStore, ByteStream, CommandStore, CommandStream, Executor, FileSystem, IdentityStore, Layer,
    OpContext, Provider, Session,
};
pub use types::*;
