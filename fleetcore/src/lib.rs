//! Run commands, open terminals and move files on every machine you have, streamed live.
//!
//! ```
//! # #[cfg(feature = "local")] {
//! # tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
//! use fleetcore::{CommandEvent, CommandSpec, Fleet, Offset};
//! use futures::StreamExt;
//!
//! let fleet = Fleet::local();
//! let command = fleet.machine("local")?.spawn(CommandSpec::argv(["echo", "hello"])).await?;
//! let mut events = command.stream(Offset(0));
//! while let Some(event) = events.next().await {
//!     match event? {
//!         CommandEvent::Output(chunk) => assert_eq!(&chunk.data[..], b"hello\n"),
//!         CommandEvent::Exited(status) => assert!(status.success()),
//!         _ => {}
//!     }
//! }
//! # Ok::<(), fleetcore::Error>(())
//! # }).unwrap();
//! # }
//! ```
//!
//! | You hold | and it is |
//! |---|---|
//! | [`Fleet`] | all machines, commands and sessions of this process |
//! | [`Machine`] | one target: its life, commands, sessions, files |
//! | [`RunningCommand`] | the one owner of a command: dropping it ends the command |
//! | [`CommandHandle`], [`CommandStream`] | views: dropping them changes nothing |
//! | [`Session`] | a shell that remembers, and knows when each command ended |
//! | [`Files`] | files of one machine |
//! | [`Tunnel`] | a port of this host that leads to an address a machine can reach |
//! | [`editor::Editor`] | edits text files on one machine the way coding agents do, and takes it back |
//! | [`Error`] | what failed, of which [`ErrorKind`], and whether trying again helps ([`Retry`]) |
//!
//! Authors of backends, stores and layers implement the traits in [`raw`]. [`blocking`] is for callers without an async
//! runtime. `ARCHITECTURE.md` in the repository shows how the parts fit.

pub mod backends;
pub mod blocking;
pub mod editor;
mod error;
mod fleet;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzz;
mod id;
mod journal;
pub mod layers;
#[cfg(feature = "local")]
pub mod oom;
pub mod raw;
pub mod session;
mod sim;
pub mod store;
mod supervisor;
#[cfg(feature = "local")]
mod sys;
pub mod telemetry;
mod term;
mod types;

pub use error::{Error, ErrorKind, Result, Retry};
pub use fleet::{
    Commands, FanOut, Files, Fleet, FleetBuilder, FleetEvent, FleetLimits, ListFailure, Machine,
    MachineListing, Operation, Pattern, Probe, ProviderHandle, Sessions, Tunnel, TunnelEvent, TunnelOptions,
    ViewerGuard,
};
pub use id::{AgentId, CommandId, MachineId, NAME_MAX_BYTES, SessionId, TokenId, UserName};
pub use journal::JournalStream;
pub use raw::{
    AgentDirectory, AgentRegistry, AuditStore, BoxConnection, ByteStream, CommandStore, CommandStream,
    Connection, Executor, FileSystem, IdentityStore, JoinStore, Layer, MetricsStore, OpContext, Provider,
    Session,
};
pub use supervisor::{CommandHandle, Output, RunningCommand};
#[cfg(feature = "local")]
pub use sys::{give_code_back, give_memory_back};
pub use types::*;
