//! Extractors whose rejections are problem documents.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::{
    extract::{
        ConnectInfo, FromRequest, FromRequestParts, Path as AxumPath, Request, rejection::PathRejection,
    },
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use fleetcore::{Error, ErrorKind};
use serde::{Serialize, de::DeserializeOwned};

use crate::{app::App, error::Problem};

/// JSON in and out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Json<T>(pub(crate) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
            Err(e) => Problem::from(
                Error::new(ErrorKind::Unexpected, "the answer cannot be written").with_source(e),
            )
            .into_response(),
        }
    }
}

impl<T: DeserializeOwned> FromRequest<App> for Json<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        read_json(request, app, app.config().limits.json_bytes).await.map(Self)
    }
}

/// JSON from those who have not said yet who they are; larger bodies are refused before they are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StrangersJson<T>(pub(crate) T);

/// Room for the longest name and password, also when every character of them is escaped.
const STRANGERS_JSON_BYTES: usize = 64 << 10;

impl<T: DeserializeOwned> FromRequest<App> for StrangersJson<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let limit = app.config().limits.json_bytes.min(STRANGERS_JSON_BYTES);
        read_json(request, app, limit).await.map(Self)
    }
}

async fn read_json<T: DeserializeOwned>(request: Request, app: &App, limit: usize) -> Result<T, Problem> {
    if !is_json(request.headers()) {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "Not a kind of content this accepts",
            "the body must be application/json",
        ));
    }
    let body = read_body(request, app, limit).await?;
    parse_json(&body)
}

/// Reads JSON; the error names the field as a path, such as `pty.cols`.
pub(crate) fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    // serde would take an array for the fields of a struct in order.
    if body.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
        return Err(Problem::invalid("body", "a JSON object"));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|e| {
        let field = e.path().to_string();
        let rule = e.inner().to_string();
        let field = if field == "." { "body".to_owned() } else { field };
        Problem::from(Error::new(ErrorKind::InvalidInput, format!("{field}: {rule}")))
            .with_context("field", field)
            .with_context("rule", rule)
    })?;
    json.end().map_err(|e| Problem::invalid("body", "one JSON value").with_context("cause", e))?;
    Ok(value)
}

/// A body of at most `limit` bytes that must arrive in time.
pub(crate) async fn read_body(request: Request, app: &App, limit: usize) -> Result<Bytes, Problem> {
    let limits = &app.config().limits;
    if content_length(request.headers()).is_some_and(|len| len > limit as u64) {
        return Err(Problem::too_large(limit as u64));
    }
    match tokio::time::timeout(limits.request_read, axum::body::to_bytes(request.into_body(), limit)).await {
        Ok(Ok(body)) => Ok(body),
        // `to_bytes` fails at the limit or when the client goes away, and nobody hears about the latter.
        Ok(Err(_)) => Err(Problem::too_large(limit as u64)),
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "request_timeout",
            "The request did not arrive in time",
            "the body took too long to arrive",
        )),
    }
}

pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()) else { return false };
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// The query, with repeated keys as lists.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<App> for Query<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        let de = serde_html_form::Deserializer::from_bytes(query.as_bytes());
        serde_path_to_error::deserialize(de).map(Self).map_err(|e| {
            let field = e.path().to_string();
            let rule = e.inner().to_string();
            let field = if field == "." { "query".to_owned() } else { field };
            Problem::from(Error::new(ErrorKind::InvalidInput, format!("{field}: {rule}")))
                .with_context("field", field)
                .with_context("rule", rule)
        })
    }
}

/// No query at all is allowed.
#[derive(Clone, Copy, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoQuery {}

/// Parts of the path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<App> for Path<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        AxumPath::<T>::from_request_parts(parts, app).await.map(|AxumPath(v)| Self(v)).map_err(|e| {
            let rule = match e {
                PathRejection::FailedToDeserializePathParams(e) => e.body_text(),
                other => other.body_text(),
            };
            Problem::invalid("path", "well formed").with_context("cause", rule)
        })
    }
}

/// Address of the other end of the connection; the server puts it into each request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// Address of the client, through the proxies that are trusted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientIp(pub(crate) IpAddr);

impl ClientIp {
    pub(crate) fn of(parts: &Parts, app: &App) -> Self {
        let peer = peer_ip(&parts.extensions);
        if !app.config().trusts(peer) {
            return Self(peer);
        }
        Self(behind_proxies(peer, &parts.headers, |ip| app.config().trusts(ip)))
    }
}

/// Who speaks through the proxy `peer`, which is trusted.
///
/// The last entry was added by our proxy, the one before by its client, and so on: believe them from the right for as
/// long as they were written by somebody trusted.
pub(crate) fn behind_proxies(peer: IpAddr, headers: &HeaderMap, trusts: impl Fn(IpAddr) -> bool) -> IpAddr {
    let mut client = peer;
    let hops = headers.get_all("x-forwarded-for").iter().filter_map(|v| v.to_str().ok());
    let hops: Vec<&str> = hops.flat_map(|v| v.split(',')).map(str::trim).collect();
    for hop in hops.iter().rev() {
        let Ok(ip) = hop.parse::<IpAddr>() else { break };
        client = ip.to_canonical();
        if !trusts(client) {
            break;
        }
    }
    client
}

/// Address of the other end of the connection; unspecified when the embedder did not tell.
pub(crate) fn peer_ip(extensions: &axum::http::Extensions) -> IpAddr {
    let peer = extensions.get::<Peer>().map(|p| p.0);
    let peer = peer.or_else(|| extensions.get::<ConnectInfo<SocketAddr>>().map(|c| c.0));
    peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |a| a.ip().to_canonical())
}

impl FromRequestParts<App> for ClientIp {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        Ok(Self::of(parts, app))
    }
}
