//! One behaviour suite for every implementation of fleetcore's traits.
//!
//! A backend runs it from a test without a harness of its own:
//!
//! ```no_run
//! use fleetcore::Fleet;
//! use fleetcore_testkit::{Env, run};
//!
//! fn main() -> std::process::ExitCode {
//!     run("local", || async { Env::new(Fleet::local(), "local").await })
//! }
//! ```

mod contracts;
mod env;
pub mod layers;
pub mod multipass;
mod runner;
#[cfg(unix)]
pub mod sshd;
pub mod standin;
pub mod suite;
pub mod tape;
mod wait;
mod wrap;

pub use contracts::{contract, recorded};
pub use env::{
    Env, PATTERN_SCRIPT, Seen, TreeWatch, fail, must, names_the_field, pattern, read_until, refused, sh,
    sh_block,
};
pub use runner::{Runner, run};
pub use wait::{eventually, gone, line_of, sometime, until};
pub use wrap::WithoutNativeFiles;
