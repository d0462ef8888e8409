//! The same fleet for callers without an async runtime.
//!
//! ```
//! # #[cfg(feature = "local")] {
//! use fleetcore::{CommandSpec, blocking::Fleet};
//!
//! let fleet = Fleet::local()?;
//! let output = fleet.run("local", CommandSpec::argv(["echo", "hello"]))?.check()?;
//! assert_eq!(output.text(), "hello\n");
//! # }
//! # Ok::<(), fleetcore::Error>(())
//! ```
//!
//! A [`Fleet`] owns a small runtime; dropping the last handle ends it, and with it every command that is still owned.
//! Calling any of this from inside an async runtime panics in tokio: use the async twin there.

mod command;
mod files;
mod fleet;
mod session;

pub use command::{Command, Events};
pub use files::Files;
pub use fleet::Fleet;
pub use session::Session;
