//! Tool servers of the client's configuration, which speak over their standard input and output, behind one endpoint
//! that speaks over HTTP.

mod config;
mod proxy;
mod sse;
mod upstream;

pub(super) use proxy::Proxy;
