//! Listening, connections, stopping.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::Request};
use fleetcore::{Error, Fleet, Result};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::{
    app::{App, Stores, router},
    config::ServerConfig,
    extract::Peer,
    telemetry, tls,
};

/// Pause after `accept` failed for lack of file descriptors or memory: trying at once would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Longest a TLS handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// How often old samples of histograms are folded together.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// A server that listens and is ready to run.
#[derive(Debug)]
pub struct Server {
    app: App,
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<TlsAcceptorBox>,
}

struct TlsAcceptorBox(TlsAcceptor);

impl std::fmt::Debug for TlsAcceptorBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsAcceptor")
    }
}

impl Server {
    /// Listens. Connections wait in the kernel until [`run`](Self::run).
    ///
    /// # Errors
    /// `InvalidInput` for a certificate that cannot be used; `PermissionDenied`, `Unavailable` and others when the
    /// address cannot be had.
    pub async fn bind(config: ServerConfig, fleet: Fleet, stores: Stores) -> Result<Self> {
        for warning in config.warnings() {
            tracing::warn!("{warning}");
        }
        let tls = config.tls.as_ref().map(tls::acceptor).transpose()?.map(TlsAcceptorBox);
        let failed = |e| Error::io("listen", e).with_context("address", config.listen);
        let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        telemetry::prometheus();
        Ok(Self { app: App::new(config, fleet, stores), listener, address, tls })
    }

    /// The address it listens on; tells the port when the configuration said 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The address as a URL.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls.is_some() { "https" } else { "http" }, self.address)
    }

    /// Its state.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// Serves until `shutdown` is cancelled. Then: no new connections, the fleet's commands and sessions are ended,
    /// streams tell their readers and end, open requests get [`ServerConfig::shutdown_grace`] to finish.
    ///
    /// # Errors
    /// None at present; a failing `accept` is logged and tried again.
    pub async fn run(self, shutdown: CancellationToken) -> Result<()> {
        let Self { app, listener, tls, .. } = self;
        let routes = router(app.clone());
        let graceful = GracefulShutdown::new();
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1().timer(TokioTimer::new()).header_read_timeout(app.config().limits.request_read);
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(256)
            .keep_alive_interval(Duration::from_secs(30));
        let http = Arc::new(http);
        let connections =
            Arc::new(Semaphore::new(app.config().limits.connections.min(Semaphore::MAX_PERMITS)));
        let upkeep = app.tasks().spawn(upkeep(app.stopping().clone()));
        loop {
            let (permit, (stream, peer)) = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                next = next_connection(&listener, &connections) => next,
            };
            let first_request = app.config().limits.request_read;
            let tls = tls.as_ref().map(|t| t.0.clone());
            let (http, routes, watcher) = (http.clone(), routes.clone(), graceful.watcher());
            tokio::spawn(async move {
                let _permit = permit;
                // Keystrokes must not wait for the answer to the one before (Nagle).
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "no TCP_NODELAY");
                }
                match tls {
                    None => serve(&http, stream, peer, routes, watcher, first_request).await,
                    Some(tls) => match tokio::time::timeout(HANDSHAKE_LIMIT, tls.accept(stream)).await {
                        Ok(Ok(stream)) => serve(&http, stream, peer, routes, watcher, first_request).await,
                        Ok(Err(error)) => tracing::debug!(%error, %peer, "TLS handshake failed"),
                        Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
                    },
                }
            });
        }
        app.begin_shutdown();
        drop(listener);
        tracing::info!("stopping");
        let grace = app.config().shutdown_grace;
        if tokio::time::timeout(grace, app.fleet().shutdown()).await.is_err() {
            tracing::warn!("commands took too long to end");
        }
        app.shutdown_streams();
        if tokio::time::timeout(grace, graceful.shutdown()).await.is_err() {
            tracing::warn!("open requests took too long to end");
        }
        let _ = upkeep.await;
        if tokio::time::timeout(grace, app.drain()).await.is_err() {
            tracing::warn!("background work took too long to end");
        }
        Ok(())
    }
}

pub(crate) async fn next_connection(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> (Option<tokio::sync::OwnedSemaphorePermit>, (TcpStream, SocketAddr)) {
    // Never closed, so there always is a permit some day.
    let permit = connections.clone().acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok(connection) => return (permit, connection),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    http: &auto::Builder<TokioExecutor>,
    stream: S,
    peer: SocketAddr,
    routes: Router,
    watcher: hyper_util::server::graceful::Watcher,
    first_request: Duration,
) {
    let seen = CancellationToken::new();
    let see = seen.clone();
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        if !see.is_cancelled() {
            see.cancel();
        }
        let mut request: Request = request.map(Body::new);
        request.extensions_mut().insert(Peer(peer));
        routes.clone().call(request)
    });
    let connection = http.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let connection = watcher.watch(connection.into_owned());
    tokio::pin!(connection);
    // hyper's own timer runs from when it knows the version of HTTP, so it never does for those who say nothing.
    let ended = tokio::select! {
        biased;
        ended = &mut connection => ended,
        in_time = tokio::time::timeout(first_request, seen.cancelled()) => {
            if in_time.is_err() {
                tracing::debug!(%peer, "no request came in time");
                return;
            }
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, %peer, "connection ended");
    }
}

async fn upkeep(stop: CancellationToken) {
    let mut every = tokio::time::interval(UPKEEP_EVERY);
    while stop.run_until_cancelled(every.tick()).await.is_some() {
        telemetry::prometheus().run_upkeep();
    }
}
