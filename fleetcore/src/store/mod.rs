//! Where records are kept: [`memory`] for programs that need nothing afterwards, [`sqlite`] for servers.
//!
//! Both implement [`CommandStore`](crate::CommandStore), [`AgentRegistry`](crate::AgentRegistry),
//! [`IdentityStore`](crate::IdentityStore), [`AuditStore`](crate::AuditStore), [`JoinStore`](crate::JoinStore) and
//! [`MetricsStore`](crate::MetricsStore), and pass the same behaviour suite.

mod agents;
mod join;
pub mod memory;
#[cfg(feature = "sqlite")]
pub mod sqlite;
mod watch;
