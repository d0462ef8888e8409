//! The agent's routes.

use std::sync::Arc;

use axum::{
    Router,
    extract::{FromRequest as _, Path, Request, State, ws::WebSocketUpgrade},
    http::{HeaderMap, StatusCode, header, request::Parts},
    middleware::{self, Next},
    response::Response,
    routing::{get, post},
};
use bytes::Bytes;
use futures::FutureExt as _;
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Semaphore;

use super::{execute, options::Options};
use crate::{
    App,
    auth::host_allowed,
    compat::batwa::{
        agents::same_secret,
        checks,
        list::Shared,
        map::{self, Deed},
        reply, state, terminal,
        terminal::Over,
        vms::{VmError, Vms},
        wire::{Done, Health},
    },
    extract::peer_ip,
};

/// Longest body of a request.
const BODY_MAX: usize = 1 << 20;
/// Largest message of a terminal.
const MESSAGE_MAX: usize = 16 << 20;
/// Terminals at once.
const TERMINALS: usize = 1024;

/// The agent.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) app: App,
    pub(super) id: String,
    pub(super) key: Option<SecretString>,
    pub(super) vms: Vms,
    pub(super) open_execute: bool,
    pub(super) execute_any: bool,
    listing: Arc<Shared<Result<Bytes, VmError>>>,
    terminals: Arc<Semaphore>,
}

impl Agent {
    pub(super) fn new(app: App, options: &Options, vms: Vms) -> Self {
        Self {
            app,
            id: options.id.clone(),
            key: options.key.clone(),
            vms,
            open_execute: options.open_execute,
            execute_any: options.execute_any,
            listing: Shared::new(),
            terminals: Arc::new(Semaphore::new(TERMINALS)),
        }
    }

    /// The list as Multipass prints it, less than a second old.
    pub(super) async fn listing(&self) -> Result<Bytes, VmError> {
        let ask = || {
            let vms = self.vms.clone();
            async move { vms.list().await }.boxed()
        };
        self.listing.get(ask).await.unwrap_or(Err(VmError::TimedOut))
    }

    /// Something was done to a machine.
    pub(super) fn outdate(&self) {
        self.listing.outdate();
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(key) = &self.key else { return true };
        let presented = headers.get("x-api-key").and_then(|v| v.to_str().ok());
        presented.is_some_and(|p| same_secret(p, key.expose_secret()))
    }
}

/// All routes of the agent.
pub(super) fn router(agent: Arc<Agent>) -> Router {
    let keyed = Router::new()
        .route("/api/execute", post(execute::execute))
        .route("/api/vm/list", get(list))
        .route("/api/vm/info/{vm_name}", get(info))
        .route("/api/vm/create", post(create))
        .route("/api/vm/start", post(start))
        .route("/api/vm/stop", post(stop))
        .route("/api/vm/delete", post(delete))
        .route("/ws", get(open_terminal))
        .route_layer(middleware::from_fn_with_state(agent.clone(), guard));
    keyed
        .route("/health", get(health))
        .fallback(reply::not_found)
        .method_not_allowed_fallback(reply::method_not_allowed)
        .with_state(agent)
}

/// The key comes before everything else. Masters are programs and send no `Origin`; without a key that is all that keeps
/// a page in somebody's browser from driving this agent.
async fn guard(State(agent): State<Arc<Agent>>, request: Request, next: Next) -> Response {
    if !agent.admits(request.headers()) {
        return reply::bad_key();
    }
    let from_page = request.headers().contains_key(header::ORIGIN)
        || !host_allowed(request.headers(), request.uri(), &agent.app);
    if agent.key.is_none() && from_page {
        return reply::detail(StatusCode::FORBIDDEN, "Pages of browsers may not use an agent");
    }
    next.run(request).await
}

async fn health(State(agent): State<Arc<Agent>>) -> Response {
    let timestamp = map::zoned(Timestamp::now());
    reply::json(&Health { status: "ok", agent_id: &agent.id, timestamp })
}

fn failed(error: &VmError, otherwise: &str) -> Response {
    reply::detail(StatusCode::INTERNAL_SERVER_ERROR, &error.text(otherwise))
}

async fn list(State(agent): State<Arc<Agent>>) -> Response {
    match agent.listing().await {
        Ok(listing) => reply::ready(StatusCode::OK, listing),
        Err(error) => failed(&error, "Failed to list VMs"),
    }
}

async fn info(State(agent): State<Arc<Agent>>, Path(name): Path<String>) -> Response {
    if name.contains('/') {
        return reply::not_found().await;
    }
    if let Err(refused) = checks::vm_name(&name) {
        return reply::refused(refused);
    }
    match agent.vms.info(&name).await {
        Ok(printed) => reply::ready(StatusCode::OK, printed),
        Err(error) => reply::detail(error.status(), &error.text("Failed to get VM info")),
    }
}

/// The body of a request.
pub(super) async fn taken(agent: &Agent, request: Request) -> Result<(Parts, Bytes), Response> {
    let (parts, body) = request.into_parts();
    let limit = agent.app.config().limits.request_read;
    match tokio::time::timeout(limit, axum::body::to_bytes(body, BODY_MAX)).await {
        Ok(Ok(body)) => Ok((parts, body)),
        Ok(Err(_)) => Err(reply::detail(StatusCode::PAYLOAD_TOO_LARGE, "The body is too large")),
        Err(_) => Err(reply::detail(StatusCode::REQUEST_TIMEOUT, "The body took too long to arrive")),
    }
}

/// Sees the work through when the master hangs up.
async fn see_through(
    agent: &Arc<Agent>,
    deed: Deed,
    work: impl Future<Output = Result<String, VmError>> + Send + 'static,
) -> Response {
    let keeper = agent.clone();
    let work = async move {
        let done = work.await;
        keeper.outdate();
        done
    };
    match agent.app.tasks().spawn(work).await {
        Ok(Ok(message)) => reply::json(&Done { success: true, message: &message }),
        Ok(Err(error)) => failed(&error, &deed.default_failure()),
        Err(_) => reply::detail(StatusCode::INTERNAL_SERVER_ERROR, "the agent is stopping"),
    }
}

async fn create(State(agent): State<Arc<Agent>>, request: Request) -> Response {
    let (parts, body) = match taken(&agent, request).await {
        Ok(taken) => taken,
        Err(response) => return response,
    };
    let wanted = match checks::create(&parts.headers, &body) {
        Ok(wanted) => wanted,
        Err(refused) => return reply::refused(refused),
    };
    tracing::info!(vm = wanted.name, peer = %peer_ip(&parts.extensions), "create");
    let vms = agent.vms.clone();
    see_through(&agent, Deed::Create, async move { vms.create(None, &wanted).await }).await
}

async fn act(agent: Arc<Agent>, request: Request, deed: Deed) -> Response {
    let (parts, body) = match taken(&agent, request).await {
        Ok(taken) => taken,
        Err(response) => return response,
    };
    let wanted = match checks::action(&parts.headers, &body) {
        Ok(wanted) => wanted,
        Err(refused) => return reply::refused(refused),
    };
    tracing::info!(vm = wanted.name, deed = deed.as_str(), peer = %peer_ip(&parts.extensions), "act");
    let vms = agent.vms.clone();
    see_through(&agent, deed, async move { vms.act(None, deed, &wanted.name).await }).await
}

async fn start(State(agent): State<Arc<Agent>>, request: Request) -> Response {
    act(agent, request, Deed::Start).await
}

async fn stop(State(agent): State<Arc<Agent>>, request: Request) -> Response {
    act(agent, request, Deed::Stop).await
}

async fn delete(State(agent): State<Arc<Agent>>, request: Request) -> Response {
    act(agent, request, Deed::Delete).await
}

async fn open_terminal(State(agent): State<Arc<Agent>>, request: Request) -> Response {
    let mut asked = state::query(request.uri());
    let peer = peer_ip(request.extensions());
    let Ok(upgrade) = WebSocketUpgrade::from_request(request, &()).await else {
        return reply::not_found().await;
    };
    let upgrade = upgrade.max_message_size(MESSAGE_MAX).max_frame_size(MESSAGE_MAX);
    upgrade.on_upgrade(move |socket| async move {
        let Some(name) = asked.remove("vm_name").filter(|n| !n.is_empty()) else {
            return terminal::refuse(socket, "Error: VM name is required\r\n", 1000).await;
        };
        if checks::vm_name(&name).is_err() {
            return terminal::refuse(socket, "Error: Invalid VM name\r\n", 1008).await;
        }
        let Ok(_permit) = agent.terminals.clone().try_acquire_owned() else {
            return terminal::refuse(socket, "Error: Too many terminals\r\n", 1008).await;
        };
        tracing::info!(vm = name, %peer, "terminal");
        let over = Over { stop: agent.app.stopping().clone(), login: None };
        terminal::local(&agent.vms, socket, "master", &name, over).await;
    })
}
