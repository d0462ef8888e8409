//! What applications hold: the fleet, its machines, commands, sessions and files.

mod builder;
mod commands;
mod files;
mod handle;
mod machine;
mod provider;
mod sessions;

pub use builder::{FleetBuilder, FleetLimits};
pub use commands::Commands;
pub use files::Files;
pub use handle::{Fleet, FleetEvent};
pub use machine::Machine;
pub use provider::ProviderHandle;
pub use sessions::{Sessions, ViewerGuard};
