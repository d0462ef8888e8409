//! HTTP server and client for fleetcore.
//!
//! [`Server`] is the whole server: listener, TLS, shutdown. [`App`] is its state and [`router`] its routes, for
//! programs that have a server of their own. The wire types of `/api/v1` are in [`wire`].
//!
//! ```no_run
//! # async fn demo() -> fleetcore::Result<()> {
//! use std::sync::Arc;
//! use fleetcore::Fleet;
//! use fleetcore_http::{Server, ServerConfig, Stores};
//! use tokio_util::sync::CancellationToken;
//!
//! let store = Arc::new(fleetcore::store::memory::MemoryStore::new());
//! let fleet = Fleet::builder().with_store(store.clone()).build();
//! let server = Server::bind(ServerConfig::default(), fleet, Stores::new(store)).await?;
//! println!("http://{}", server.local_addr());
//! server.run(CancellationToken::new()).await
//! # }
//! ```

mod app;
mod auth;
#[cfg(feature = "client")]
pub mod client;
pub mod compat;
mod config;
mod error;
mod extract;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
#[cfg(feature = "client")]
pub mod link;
#[cfg(feature = "mcp")]
pub mod mcp;
mod native;
mod server;
pub mod telemetry;
mod tls;
mod ui;

pub use app::{App, Stores, router};
pub use auth::ensure_admin;
pub use config::{Limits, Network, ServerConfig, TlsConfig};
pub use error::{PROBLEM_JSON, Problem, ProblemBody, Reply};
pub use native::{openapi, wire};
pub use server::Server;
