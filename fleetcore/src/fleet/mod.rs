//! What applications hold: the fleet, its machines, commands, sessions and files.

mod builder;
mod commands;
mod fanout;
mod files;
mod handle;
mod listing;
mod machine;
mod operations;
mod provider;
mod sessions;
mod task;
mod tunnel;

pub use builder::{FleetBuilder, FleetLimits};
pub use commands::Commands;
pub use fanout::{FanOut, Pattern};
pub use files::Files;
pub use handle::{Fleet, FleetEvent};
pub use listing::{ListFailure, MachineListing};
pub use machine::Machine;
pub use operations::Operation;
pub use provider::{Probe, ProviderHandle};
pub use sessions::{Sessions, ViewerGuard};
pub use tunnel::{Tunnel, TunnelEvent, TunnelOptions};
