//! Where records are kept: [`memory`] for programs that need nothing afterwards, [`sqlite`] for servers.
//!
//! Both implement [`CommandStore`](crate::CommandStore), [`AgentRegistry`](crate::AgentRegistry),
//! [`IdentityStore`](crate::IdentityStore) and [`AuditStore`](crate::AuditStore), and pass the same behaviour suite.

mod agents;
pub mod memory;
#[cfg(feature = "sqlite")]
pub mod sqlite;
mod watch;
