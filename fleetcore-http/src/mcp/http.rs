//! Streamable HTTP on the server: `/mcp`.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{FromRequestParts as _, Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::any,
};
use futures::StreamExt as _;
use parking_lot::Mutex;
use rmcp::transport::streamable_http_server::{
    StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
};
use secrecy::SecretString;

use super::{
    inside::{self, Who},
    options::McpOptions,
    service::{Caller, FleetTools},
};
use crate::{
    app::{App, router},
    auth::{Actor, Permit, Quotas, StreamPass, bearer, check_origin},
    error::{Problem, Reply},
    extract::{ClientIp, read_body},
};

/// Connections (sessions of the protocol) one user may have.
const SESSIONS_PER_ACTOR: usize = 64;
/// When a connection nobody uses is forgotten. Longer than any wait of a tool.
const IDLE: Duration = Duration::from_secs(3600);
/// The header with the id of a connection.
const SESSION: &str = "mcp-session-id";

/// The route.
pub(crate) fn routes(app: &App) -> Router<App> {
    let door = Arc::new(Door::new(app));
    let handle = move |State(app): State<App>, request: Request| {
        let door = Arc::clone(&door);
        async move { door.handle(&app, request).await }
    };
    Router::new().route("/mcp", any(handle))
}

struct Door {
    service: StreamableHttpService<FleetTools, LocalSessionManager>,
    sessions: Arc<LocalSessionManager>,
    /// Whose connection is whose: an id that leaks is of no use to anybody else.
    owners: Mutex<HashMap<String, (Arc<str>, Permit)>>,
    quota: Quotas,
    /// The API for the tools; made when somebody comes.
    inside: OnceLock<Router>,
}

impl Door {
    fn new(app: &App) -> Self {
        let mut sessions = LocalSessionManager::default();
        sessions.session_config.keep_alive = Some(IDLE);
        let sessions = Arc::new(sessions);
        let config = StreamableHttpServerConfig::default()
            // Names of this server and pages that may speak to it are checked here, by its own rules.
            .disable_allowed_hosts()
            .disable_allowed_origins()
            .with_max_request_body_bytes(app.config().limits.json_bytes)
            .with_cancellation_token(app.stopping().child_token());
        let calls = app.tasks().clone();
        let tools = move || Ok(FleetTools::of_requests(calls.clone()));
        let service = StreamableHttpService::new(tools, Arc::clone(&sessions), config);
        let quota = Quotas::new("mcp_sessions", SESSIONS_PER_ACTOR);
        Self { service, sessions, owners: Mutex::default(), quota, inside: OnceLock::new() }
    }

    async fn handle(&self, app: &App, request: Request) -> Reply<Response> {
        let (mut parts, body) = request.into_parts();
        if parts.headers.contains_key(header::ORIGIN) {
            check_origin(&parts.headers, &parts.uri, &parts.extensions, app)?;
        }
        // No cookies: no page of a browser that is logged in can make it do anything.
        let token = parts.headers.get(header::AUTHORIZATION).and_then(bearer).map(str::to_owned);
        let token = token.ok_or_else(|| Problem::unauthenticated("send an API token as a bearer token"))?;
        let actor = Actor::from_request_parts(&mut parts, app).await?;
        let options = McpOptions::from_query(parts.uri.query().unwrap_or_default())?;
        let pass = actor.stream(app)?;
        let claimed = self.claim(&parts.headers, &actor).await?;
        let from = ClientIp::of(&parts, app).0;
        let routes = self.inside.get_or_init(|| router(app.clone())).clone();
        let client = inside::client(routes, Who::Token(SecretString::from(token)), from)?;
        parts.extensions.insert(Caller { client, options: Arc::new(options) });
        // Who speaks is settled; nothing further in needs the secret.
        parts.headers.remove(header::AUTHORIZATION);
        let ended = parts.method == Method::DELETE;
        let session = text(&parts.headers, SESSION).map(str::to_owned);
        let request = Request::from_parts(parts, body);
        let request = if request.method() == Method::POST { whole(request, app).await? } else { request };
        let response = self.service.handle(request).await;
        if let (Some(permit), Some(id)) = (claimed, text(response.headers(), SESSION)) {
            self.owners.lock().insert(id.to_owned(), (Arc::clone(actor.name()), permit));
        }
        if let Some(id) = session.filter(|_| ended && response.status().is_success()) {
            self.owners.lock().remove(&id);
        }
        Ok(while_logged_in(response.map(Body::new), pass))
    }

    /// Refuses connections of others; takes a place for one that may be about to begin.
    async fn claim(&self, headers: &HeaderMap, actor: &Actor) -> Result<Option<Permit>, Problem> {
        if let Some(id) = headers.get(SESSION) {
            let owned =
                id.to_str().ok().and_then(|id| self.owners.lock().get(id).map(|(o, _)| Arc::clone(o)));
            // As for one that is not there, so that nothing can be learnt from the difference.
            return match owned {
                Some(owner) if owner == *actor.name() => Ok(None),
                _ => Err(Problem::not_found("session", id.to_str().unwrap_or_default())),
            };
        }
        // Those that were idle for too long are forgotten here: all that matters is the count when one begins.
        let known: Vec<String> = self.owners.lock().keys().cloned().collect();
        let open = self.sessions.sessions.read().await;
        let gone: Vec<_> = known.into_iter().filter(|id| !open.contains_key(id.as_str())).collect();
        drop(open);
        gone.iter().for_each(|id| drop(self.owners.lock().remove(id)));
        self.quota.take(actor.name()).map(Some)
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The request with its body read: within the limits and the time every body has.
async fn whole(request: Request, app: &App) -> Result<Request, Problem> {
    let (parts, body) = request.into_parts();
    let mut copy = Request::new(body);
    copy.headers_mut().clone_from(&parts.headers);
    let body = read_body(copy, app, app.config().limits.json_bytes).await?;
    Ok(Request::from_parts(parts, Body::from(body)))
}

/// Ends the answer, which may be a stream, when the login ends.
fn while_logged_in(response: Response, pass: StreamPass) -> Response {
    let (parts, body) = response.into_parts();
    if parts.status != StatusCode::OK {
        return (parts, body).into_response();
    }
    let stream =
        futures::stream::unfold((body.into_data_stream(), pass), |(mut body, mut pass)| async move {
            tokio::select! {
                biased;
                () = &mut pass.ended => None,
                part = body.next() => part.map(|part| (part, (body, pass))),
            }
        });
    (parts, Body::from_stream(stream)).into_response()
}
