//! A stand-in for the `multipass` program: real processes, real files, no virtual machines.
//!
//! It behaves as the contract says: options, exit codes, spinner noise, the words of its complaints, a state that is
//! shared by processes and survives them, work that goes on when the client is killed, and the flaws of the client.
//! Guests are directories; what runs "on" them runs on this host, in a session of its own and without our environment.
//! It is never to be taken for Multipass: what was measured with it are no figures of Multipass.
//!
//! | variable | meaning |
//! |---|---|
//! | `FAKE_MULTIPASS_STATE` | directory of the state; needed |
//! | `FAKE_MULTIPASS_PLAN` | JSON list of [`plan`] rules, or a file with one; default `plan.json` in the state |
//! | `FAKE_MULTIPASS_VERSION` | release to be: 1.8.1 to 1.17.0, default 1.16.3 |
//! | `FAKE_MULTIPASS_SCALE` | factor on all delays, default 1 |

mod cli;
mod guest;
mod launch;
pub mod plan;
mod render;
mod sandbox;
mod state;
mod terminal;
mod transfer;
mod usage;
mod verbs;

pub use cli::main;
pub use sandbox::{StandIn, main_if_called};
