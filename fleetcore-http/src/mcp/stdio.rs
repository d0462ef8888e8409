//! One connection over a pair of pipes.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use fleetcore::{Error, ErrorKind, Fleet, Result};
use rmcp::service::{ServerInitializeError, serve_server_with_ct};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    inside::{self, Who},
    options::McpOptions,
    service::{Caller, FleetTools},
};
use crate::{
    app::{App, Stores, router},
    client::Client,
    config::ServerConfig,
};

/// How long calls that were cancelled by the end of the connection may take to end their commands.
const LAST_CALLS: Duration = Duration::from_secs(40);

/// The tools for one caller, over any pair of streams.
///
/// ```no_run
/// # async fn demo(client: fleetcore_http::client::Client) -> fleetcore::Result<()> {
/// use fleetcore_http::mcp::{Mcp, McpOptions};
/// use tokio_util::sync::CancellationToken;
///
/// let tools = Mcp::remote(client).with_options(McpOptions::default().with_read_only(true));
/// tools.serve(tokio::io::stdin(), tokio::io::stdout(), CancellationToken::new()).await
/// # }
/// ```
#[derive(Debug)]
pub struct Mcp {
    client: Client,
    options: McpOptions,
    own: Option<App>,
}

impl Mcp {
    /// Tools that work on a server, as whoever the client is.
    pub fn remote(client: Client) -> Self {
        Self { client, options: McpOptions::default(), own: None }
    }

    /// Tools that work in this process. Records, output and the audit log are where the fleet and `stores` keep them;
    /// `actor` is who they say it was. Needs a runtime.
    ///
    /// # Errors
    /// `InvalidInput` when a client cannot be made.
    pub fn local(fleet: Fleet, stores: Stores, actor: &str) -> Result<Self> {
        let mut config = ServerConfig::default();
        // The one user here is the owner of the process.
        config.limits.commands_per_actor = usize::MAX >> 4;
        config.limits.sessions_per_actor = usize::MAX >> 4;
        config.limits.streams_per_actor = usize::MAX >> 4;
        let app = App::new(config, fleet, stores);
        let from = IpAddr::from(Ipv4Addr::LOCALHOST);
        let client = inside::client(router(app.clone()), Who::Owner(Arc::from(actor)), from)?;
        Ok(Self { client, options: McpOptions::default(), own: Some(app) })
    }

    /// Limits what the tools do.
    #[must_use]
    pub fn with_options(mut self, options: McpOptions) -> Self {
        self.options = options;
        self
    }

    /// Speaks the protocol until `read` ends or `stop` is cancelled. Calls under way get a few seconds to answer when
    /// `read` ends; then what they run is ended. Of tools that work in this process everything ends with the connection:
    /// commands that were started, and shells. On a server those go on.
    ///
    /// # Errors
    /// `InvalidInput` when the other side does not speak the protocol.
    pub async fn serve<R, W>(self, read: R, write: W, stop: CancellationToken) -> Result<()>
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let calls = TaskTracker::new();
        let caller = Caller { client: self.client, options: Arc::new(self.options) };
        let tools = FleetTools::of(caller, calls.clone());
        let outcome = match serve_server_with_ct(tools, (read, write), stop).await {
            Ok(running) => running.waiting().await.map(drop).map_err(|e| {
                Error::new(ErrorKind::Unexpected, "the connection broke in an unforeseen way").with_source(e)
            }),
            // Whoever looked whether we start has seen enough.
            Err(ServerInitializeError::ConnectionClosed(_) | ServerInitializeError::Cancelled) => Ok(()),
            Err(e) => Err(Error::new(ErrorKind::InvalidInput, "the other side does not speak this protocol")
                .with_operation("mcp.serve")
                .with_context("cause", &e)
                .with_source(e)),
        };
        calls.close();
        if tokio::time::timeout(LAST_CALLS, calls.wait()).await.is_err() {
            tracing::warn!("commands of the last calls took too long to end");
        }
        if let Some(app) = self.own {
            app.shutdown().await;
            app.drain().await;
        }
        outcome
    }
}
