//! The fleet as tools of the Model Context Protocol, for programs that drive a language model.
//!
//! The tools are clients of the native API, whichever way they are reached: over standard input and output
//! ([`Mcp::serve`]) they use a server far away or an API of their own in this process, over streamable HTTP (`/mcp` of the
//! server) the API of that server with the caller's own token. So roles, scopes, quotas and the audit log are those of
//! the API, and there is one place that says what each tool does.

mod answer;
mod args;
mod call;
mod catalog;
mod commands;
mod files;
mod follow;
mod http;
mod inside;
mod machines;
mod options;
mod service;
mod sessions;
mod stdio;

pub(crate) use http::routes;
pub use options::McpOptions;
pub use stdio::Mcp;
