//! One listener that speaks one dialect.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use axum::{Router, body::Body, extract::Request, http::Uri};
use fleetcore::{Error, Result};
use futures::future::BoxFuture;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service as _;

use super::{Host, Plan, Service};
use crate::{App, extract::Peer, server::next_connection};

/// A listener of a dialect, ready to run. It speaks HTTP/1.1 as the originals did; TLS is a proxy's business.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
    app: App,
    service: Service,
}

impl Listener {
    /// Listens at the plan's address and starts the dialect over `app`, with `dir` for its own data.
    ///
    /// # Errors
    /// Those of listening, and of the dialect.
    pub async fn bind(plan: Box<dyn Plan>, app: App, dir: PathBuf) -> Result<Self> {
        let listen = plan.config().listen;
        let failed = |e| Error::io("listen", e).with_context("address", listen);
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let service = plan.start(Host::new(app.clone(), dir, address)).await?;
        Ok(Self { listener, address, app, service })
    }

    /// The address it listens on; tells the port when the plan said 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What the operator has to be told once.
    pub fn notes(&self) -> &[String] {
        &self.service.notes
    }

    /// The state it shares.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// Serves until `shutdown` is cancelled; then open requests get the configured grace to end. What the fleet runs
    /// and what streams is the business of whoever owns the [`App`].
    ///
    /// # Errors
    /// Those of what the service had left to do when it began to listen; it ends then.
    pub async fn run(self, shutdown: CancellationToken) -> Result<()> {
        let Self { listener, app, mut service, .. } = self;
        let mut starting = service.starting.take();
        let mut outcome = Ok(());
        let limits = &app.config().limits;
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(limits.request_read);
        let connections = Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS)));
        let open = TaskTracker::new();
        let stop = shutdown.child_token();
        loop {
            let (permit, (stream, peer)) = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                started = ended(&mut starting) => {
                    starting = None;
                    match started {
                        Ok(()) => continue,
                        Err(error) => {
                            outcome = Err(error);
                            break;
                        }
                    }
                }
                next = next_connection(&listener, &connections) => next,
            };
            // Keystrokes must not wait for the answer to the one before (Nagle).
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "no TCP_NODELAY");
            }
            let (routes, exact) = (service.router.clone(), service.exact_paths);
            let handle = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
                respond(routes.clone(), exact, request, peer)
            });
            let connection = http.serve_connection(TokioIo::new(stream), handle).with_upgrades();
            let stop = stop.clone();
            open.spawn(async move {
                let _permit = permit;
                let mut connection = std::pin::pin!(connection);
                let ended = tokio::select! {
                    ended = connection.as_mut() => ended,
                    () = stop.cancelled() => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                };
                if let Err(error) = ended {
                    tracing::debug!(%error, %peer, "connection ended");
                }
            });
        }
        drop((listener, starting));
        stop.cancel();
        open.close();
        if tokio::time::timeout(app.config().shutdown_grace, open.wait()).await.is_err() {
            tracing::warn!("open requests took too long to end");
        }
        outcome
    }

    /// Serves as the only listener of its [`App`]: when `shutdown` is cancelled, everything the app runs ends too.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn run_alone(self, shutdown: CancellationToken) -> Result<()> {
        let app = self.app.clone();
        let grace = app.config().shutdown_grace;
        let serving = async {
            let outcome = self.run(shutdown.clone()).await;
            shutdown.cancel();
            outcome
        };
        let ending = async {
            shutdown.cancelled().await;
            if tokio::time::timeout(grace, app.shutdown()).await.is_err() {
                tracing::warn!("commands took too long to end");
            }
        };
        let (outcome, ()) = tokio::join!(serving, ending);
        if tokio::time::timeout(grace, app.drain()).await.is_err() {
            tracing::warn!("background work took too long to end");
        }
        outcome
    }
}

/// The outcome of what is left to do; never, when there is nothing.
async fn ended(starting: &mut Option<BoxFuture<'static, Result<()>>>) -> Result<()> {
    match starting {
        Some(starting) => starting.await,
        None => std::future::pending().await,
    }
}

fn respond(
    mut routes: Router,
    exact: bool,
    request: hyper::Request<Incoming>,
    peer: SocketAddr,
) -> impl Future<Output = std::result::Result<axum::response::Response, std::convert::Infallible>> {
    let mut request: Request = request.map(Body::new);
    if !exact && let Some(uri) = without_trailing_slash(request.uri()) {
        *request.uri_mut() = uri;
    }
    request.extensions_mut().insert(Peer(peer));
    routes.call(request)
}

/// The same resource as without the slash, except below `/static`, where it names a directory.
fn without_trailing_slash(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    if path.len() < 2 || !path.ends_with('/') || path.starts_with("/static/") {
        return None;
    }
    let path = path.trim_end_matches('/');
    let path = if path.is_empty() { "/" } else { path };
    match uri.query() {
        Some(query) => format!("{path}?{query}").parse().ok(),
        None => path.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailing_slash_means_the_same_resource() {
        let cut = |text: &str| without_trailing_slash(&text.parse().unwrap()).map(|u| u.to_string());
        assert_eq!(cut("/api/auth/check/").as_deref(), Some("/api/auth/check"));
        assert_eq!(cut("/a/?x=1/").as_deref(), Some("/a?x=1/"));
        for same in ["/", "/a", "/static/", "/static/js/", "/a?b/"] {
            assert_eq!(cut(same), None, "{same}");
        }
    }
}
