//! Agents: one WebSocket each, dialled by the agent, with everything the server wants of it inside.
//!
//! | Layer | Where |
//! |---|---|
//! | control: hello, lease, heartbeats (WebSocket text, goes before everything else) | `protocol` |
//! | streams with flow control (WebSocket binary) | `frame`, `mux`, `io`, `pump` |
//! | commands: one stream each, resumed at its offset on the next connection | `exec`, `remote` (server), `serve` (agent) |
//! | files, sessions, lists: the agent's own HTTP API on a stream | `session`, `provider` (server), `serve` (agent) |
//! | tunnels: bytes to an address on the agent's side | `tunnel` |
//!
//! [`AgentHub`] is the server's side and the fleet's [`AgentDirectory`](fleetcore::AgentDirectory); [`Agent`] is the
//! other end.

mod ahead;
mod auth;
mod behind;
mod client;
mod exec;
mod frame;
mod hub;
mod io;
mod join;
mod mux;
mod protocol;
mod provider;
mod pump;
mod remote;
mod serve;
mod server;
mod session;
mod status;
mod tunnel;

pub use auth::{AgentAuth, AgentTokens, TOKEN_PREFIX, new_agent_token};
pub use behind::BehindStore;
pub use client::{Agent, AgentConfig, AgentEnd, StatusSource};
pub use hub::{AgentHub, LinkConfig};
pub use io::StreamIo;
pub use join::{Admission, Invitation, JOIN_CODE_LIFE_MAX, JOIN_CODE_PREFIX, Joining};
pub(crate) use server::{LinkPeer, link};
pub use status::host_status;
