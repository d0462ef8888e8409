//! The native API of this process, as a client uses it: without a network.

use std::{net::IpAddr, sync::Arc};

use axum::{Router, body::Body};
use fleetcore::Result;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use secrecy::SecretString;
use tower::Service as _;

use crate::{
    client::{Client, Credentials, LinkConnector, LinkIo},
    extract::Peer,
    link::LinkPeer,
};

/// Bytes on their way in each direction of one request.
const PIPE: usize = 64 << 10;

/// Who the API takes the caller for.
#[derive(Clone, Debug)]
pub(super) enum Who {
    /// Whoever this token belongs to, as long as it is good.
    Token(SecretString),
    /// The owner of this process, who may do anything, under this name.
    Owner(Arc<str>),
}

/// A client of `routes` for somebody at the address `from`.
pub(super) fn client(routes: Router, who: Who, from: IpAddr) -> Result<Client> {
    let (credentials, owner) = match who {
        Who::Token(token) => (Credentials::Token(token), None),
        Who::Owner(actor) => (Credentials::Anonymous, Some(LinkPeer { actor })),
    };
    let connector: LinkConnector = Arc::new(move || {
        let (ours, theirs) = tokio::io::duplex(PIPE);
        tokio::spawn(answer(theirs, routes.clone(), owner.clone(), from));
        Box::pin(async move { Ok(Box::new(ours) as Box<dyn LinkIo>) })
    });
    Ok(Client::over_link(connector)?.with_credentials(credentials))
}

async fn answer(io: tokio::io::DuplexStream, routes: Router, owner: Option<LinkPeer>, from: IpAddr) {
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        if let Some(owner) = &owner {
            request.extensions_mut().insert(owner.clone());
        }
        request.extensions_mut().insert(Peer((from, 0).into()));
        routes.clone().call(request)
    });
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service);
    if let Err(error) = connection.with_upgrades().await {
        tracing::debug!(%error, "a request of a tool broke off");
    }
}
