//! The state all routes share, and the one middleware around them.

use std::{
    net::IpAddr,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use fleetcore::{AuditEntry, AuditStore, Fleet, IdentityStore, MetricsStore, SessionId, telemetry::Recorder};
use futures::FutureExt;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

use crate::{
    auth::{AuditSlot, LoginLimiter, Passwords, Permit, Quotas, TokenCache, host_allowed},
    config::ServerConfig,
    error::{Problem, ProblemCode},
    extract::ClientIp,
    native::{self, LoadWatch, MachineWatch},
    ui,
};

/// Audit entries of hot calls that wait for the store; when it is full, callers wait.
const AUDIT_QUEUE: usize = 1024;

/// Where people and deeds are kept. Commands and output are kept by the fleet's own store.
#[derive(Clone, Debug)]
pub struct Stores {
    /// Users and tokens.
    pub identity: Arc<dyn IdentityStore>,
    /// The audit log.
    pub audit: Arc<dyn AuditStore>,
    /// Agents that may connect; the fleet must have been given the same.
    #[cfg(feature = "client")]
    pub agents: Option<crate::link::AgentHub>,
    /// How agents get in by themselves; the hub must verify tokens with the same.
    #[cfg(feature = "client")]
    pub joining: Option<crate::link::Joining>,
    /// Measurements of this host and of agents.
    pub metrics: Option<Recorder>,
}

impl Stores {
    /// One store that keeps both.
    pub fn new<S: IdentityStore + AuditStore>(store: Arc<S>) -> Self {
        Self {
            identity: store.clone(),
            audit: store,
            #[cfg(feature = "client")]
            agents: None,
            #[cfg(feature = "client")]
            joining: None,
            metrics: None,
        }
    }

    /// Keeps measurements of this host and of agents for a week: a few samples a minute, in the background.
    #[must_use]
    pub fn with_metrics(mut self, store: Arc<dyn MetricsStore>) -> Self {
        self.metrics = Some(Recorder::new(store));
        self
    }

    /// Lets agents join with a code.
    #[cfg(feature = "client")]
    #[must_use]
    pub fn with_joining(mut self, joining: crate::link::Joining) -> Self {
        self.joining = Some(joining);
        self
    }

    /// Lets agents connect.
    #[cfg(feature = "client")]
    #[must_use]
    pub fn with_agents(mut self, agents: crate::link::AgentHub) -> Self {
        self.agents = Some(agents);
        self
    }
}

/// The state of the server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct App(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    config: ServerConfig,
    fleet: Fleet,
    stores: Stores,
    tokens: TokenCache,
    passwords: Passwords,
    logins: LoginLimiter,
    #[cfg(feature = "client")]
    joins: LoginLimiter,
    #[cfg(feature = "client")]
    agent_events: native::AgentEvents,
    commands: Quotas,
    streams: Quotas,
    tunnels: Quotas,
    tunnel_places: Arc<Semaphore>,
    #[cfg(feature = "openhands")]
    runtimes: native::Runtimes,
    session_owners: native::SessionOwners,
    load: LoadWatch,
    notices: native::Notices,
    machine_watch: MachineWatch,
    session_changes: broadcast::Sender<SessionId>,
    /// Held while users change, so that two requests cannot each remove one of the last two admins.
    users: tokio::sync::Mutex<()>,
    audit: Mutex<Option<mpsc::Sender<AuditEntry>>>,
    /// The server takes no more work; open streams may still go on.
    draining: AtomicBool,
    /// Told to streams when the server stops.
    stop: CancellationToken,
    /// Streams and background work that a stop waits for.
    tasks: TaskTracker,
}

/// One open connection through a target.
#[derive(Debug)]
pub(crate) struct TunnelPass {
    _user: Permit,
    _place: OwnedSemaphorePermit,
}

impl App {
    /// The state of a server over `fleet`. Needs a runtime: a task writes the audit log.
    pub fn new(config: ServerConfig, fleet: Fleet, stores: Stores) -> Self {
        let (audit, queue) = mpsc::channel(AUDIT_QUEUE);
        let tasks = TaskTracker::new();
        let notices = native::Notices::default();
        tasks.spawn(write_audit(stores.audit.clone(), notices.clone(), queue));
        let limits = &config.limits;
        let inner = Arc::new(Inner {
            tokens: TokenCache::new(stores.identity.clone()),
            passwords: Passwords::new(limits.password_checks),
            logins: LoginLimiter::new("login", limits.logins_per_minute),
            #[cfg(feature = "client")]
            joins: LoginLimiter::new("agents.join", limits.joins_per_minute),
            #[cfg(feature = "client")]
            agent_events: native::AgentEvents::default(),
            commands: Quotas::new("commands", limits.commands_per_actor),
            streams: Quotas::new("streams", limits.streams_per_actor),
            tunnels: Quotas::new("tunnels", limits.tunnels_per_actor),
            tunnel_places: Arc::new(Semaphore::new(limits.tunnels.min(Semaphore::MAX_PERMITS))),
            #[cfg(feature = "openhands")]
            runtimes: native::Runtimes::new(limits.runtimes, limits.runtimes_per_actor),
            session_owners: native::SessionOwners::new(limits.sessions_per_actor),
            load: LoadWatch::default(),
            notices,
            machine_watch: MachineWatch::default(),
            session_changes: broadcast::channel(256).0,
            users: tokio::sync::Mutex::default(),
            audit: Mutex::new(Some(audit)),
            draining: AtomicBool::new(false),
            stop: CancellationToken::new(),
            tasks,
            config,
            fleet,
            stores,
        });
        // None of these keeps the state alive.
        #[cfg(feature = "client")]
        if inner.stores.agents.is_some() {
            inner.tasks.spawn(native::watch_agents(Arc::downgrade(&inner), inner.stop.clone()));
        }
        if let Some(recorder) = &inner.stores.metrics {
            inner.tasks.spawn(native::keep_metrics(recorder.clone(), inner.stop.clone()));
        }
        let app = Self(inner);
        app.load().start(&app);
        app
    }

    /// The state, unless it is gone.
    pub(crate) fn of(weak: &Weak<Inner>) -> Option<Self> {
        weak.upgrade().map(Self)
    }

    pub(crate) fn downgrade(&self) -> Weak<Inner> {
        Arc::downgrade(&self.0)
    }

    /// Its settings.
    pub fn config(&self) -> &ServerConfig {
        &self.0.config
    }

    /// The fleet it serves.
    pub fn fleet(&self) -> &Fleet {
        &self.0.fleet
    }

    /// Ends the fleet's commands and sessions, which ends their streams, then all other streams.
    pub async fn shutdown(&self) {
        self.begin_shutdown();
        self.fleet().shutdown().await;
        self.shutdown_streams();
    }

    /// Makes `/readyz` say so, before anything ends.
    pub(crate) fn begin_shutdown(&self) {
        self.0.draining.store(true, Ordering::Release);
    }

    pub(crate) fn draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }

    /// Tells all streams to end.
    pub(crate) fn shutdown_streams(&self) {
        self.0.stop.cancel();
    }

    /// Waits for background work to be done; the audit log takes no more entries.
    pub(crate) async fn drain(&self) {
        self.0.audit.lock().take();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    #[cfg(feature = "client")]
    pub(crate) fn agents(&self) -> Option<&crate::link::AgentHub> {
        self.0.stores.agents.as_ref()
    }
    #[cfg(feature = "client")]
    pub(crate) fn joining(&self) -> Option<&crate::link::Joining> {
        self.0.stores.joining.as_ref()
    }
    #[cfg(feature = "client")]
    pub(crate) fn joins(&self) -> &LoginLimiter {
        &self.0.joins
    }
    #[cfg(feature = "client")]
    pub(crate) fn agent_events(&self) -> &native::AgentEvents {
        &self.0.agent_events
    }
    pub(crate) fn metrics(&self) -> Option<&Recorder> {
        self.0.stores.metrics.as_ref()
    }
    pub(crate) fn tokens(&self) -> &TokenCache {
        &self.0.tokens
    }
    pub(crate) fn identities(&self) -> &dyn IdentityStore {
        &*self.0.stores.identity
    }
    pub(crate) fn audit_store(&self) -> &dyn AuditStore {
        &*self.0.stores.audit
    }
    pub(crate) fn passwords(&self) -> &Passwords {
        &self.0.passwords
    }
    pub(crate) fn logins(&self) -> &LoginLimiter {
        &self.0.logins
    }
    pub(crate) fn command_quota(&self) -> &Quotas {
        &self.0.commands
    }
    pub(crate) fn stream_quota(&self) -> &Quotas {
        &self.0.streams
    }
    /// What a connection through a target holds while it is open; 429 when the user or the server has too many.
    pub(crate) fn tunnel(&self, actor: &Arc<str>) -> Result<TunnelPass, Problem> {
        let user = self.0.tunnels.take(actor)?;
        let place = Arc::clone(&self.0.tunnel_places).try_acquire_owned();
        let full = |_| Problem::quota("tunnels of all users", self.config().limits.tunnels);
        Ok(TunnelPass { _user: user, _place: place.map_err(full)? })
    }
    #[cfg(feature = "openhands")]
    pub(crate) fn runtimes(&self) -> &native::Runtimes {
        &self.0.runtimes
    }
    pub(crate) fn session_owners(&self) -> &native::SessionOwners {
        &self.0.session_owners
    }
    pub(crate) fn notices(&self) -> &native::Notices {
        &self.0.notices
    }
    pub(crate) fn load(&self) -> &LoadWatch {
        &self.0.load
    }
    pub(crate) fn machine_watch(&self) -> &MachineWatch {
        &self.0.machine_watch
    }
    pub(crate) fn users(&self) -> &tokio::sync::Mutex<()> {
        &self.0.users
    }
    /// Tells those who watch that a session has another size, directory or business.
    pub(crate) fn session_changed(&self, id: &SessionId) {
        self.fleet().sessions().announce(id);
        // Nobody watching is fine.
        let _ = self.0.session_changes.send(id.clone());
    }
    pub(crate) fn session_changes(&self) -> broadcast::Receiver<SessionId> {
        self.0.session_changes.subscribe()
    }
    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.0.stop
    }
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.0.tasks
    }

    /// Adds to the audit log, behind the caller's back.
    pub(crate) async fn audit_later(&self, entry: AuditEntry) {
        let queue = self.0.audit.lock().clone();
        match queue {
            Some(queue) => {
                // Fails only when the writer has died with its runtime.
                let _ = queue.send(entry).await;
            }
            None => self.audit_now(entry).await,
        }
    }

    /// Adds to the audit log, durably.
    async fn audit_now(&self, entry: AuditEntry) {
        write_audit_entry(self.audit_store(), self.notices(), entry).await;
    }
}

async fn write_audit_entry(store: &dyn AuditStore, notices: &native::Notices, entry: AuditEntry) {
    let news = notices.of_audit(&entry);
    match store.append(entry).await {
        Ok(()) => notices.tell(news),
        Err(error) => {
            metrics::counter!("fleetcore_audit_failures_total").increment(1);
            tracing::error!(%error, "the audit log cannot be written");
        }
    }
}

async fn write_audit(
    store: Arc<dyn AuditStore>,
    notices: native::Notices,
    mut queue: mpsc::Receiver<AuditEntry>,
) {
    while let Some(entry) = queue.recv().await {
        write_audit_entry(&*store, &notices, entry).await;
    }
}

/// All routes: the API, its document, health, metrics and the front end.
pub fn router(app: App) -> Router {
    let (api, _) = native::routes().split_for_parts();
    #[cfg(feature = "client")]
    let api = api.route("/api/v1/link", axum::routing::get(crate::link::link));
    #[cfg(feature = "mcp")]
    let api = api.merge(crate::mcp::routes(&app));
    api.merge(ui::routes())
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(app.clone(), around))
        .with_state(app)
}

async fn method_not_allowed() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "Not a method of this resource",
        "the resource has other methods; see the Allow header",
    )
}

/// Scripts, styles and connections from here only; styles may be inline because terminals and charts set them.
const CSP: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; \
                   object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// Everything that holds for every route, in one layer because each layer costs every request a box.
async fn around(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let health = request.uri().path() == "/healthz";
    let path_is_api = request.uri().path().starts_with("/api/");
    if !health && !host_allowed(request.headers(), request.uri(), &app) {
        let mut refused = Problem::new(
            StatusCode::MISDIRECTED_REQUEST,
            "misdirected_request",
            "Not a name of this server",
            "the server does not answer to this host name; see allowed_hosts",
        )
        .into_response();
        secure(refused.headers_mut(), app.config().tls.is_some());
        return refused;
    }
    let changes = path_is_api && !matches!(method, Method::GET | Method::HEAD | Method::OPTIONS);
    let trail = changes.then(|| {
        let slot = Arc::new(AuditSlot::default());
        request.extensions_mut().insert(slot.clone());
        let (parts, body) = std::mem::take(&mut request).into_parts();
        let ip = ClientIp::of(&parts, &app).0;
        let path = parts.uri.path().to_owned();
        request = Request::from_parts(parts, body);
        Trail { app: app.clone(), slot, method: method.clone(), route: route.clone(), path, ip, done: false }
    });
    let span = if health {
        tracing::Span::none()
    } else {
        // No path and no query: they hold names, and whatever callers put there.
        tracing::info_span!(
            "request",
            method = method_label(&method),
            route = route_label(route.as_ref()),
            otel.kind = "server",
            http.response.status_code = tracing::field::Empty
        )
    };
    let run = next.run(request).instrument(span.clone());
    let mut response = match AssertUnwindSafe(run).catch_unwind().await {
        Ok(response) => response,
        Err(panic) => Problem::panicked(&*panic).into_response(),
    };
    let status = response.status();
    span.record("http.response.status_code", status.as_u16());
    let code = response.extensions().get::<ProblemCode>().map(|c| c.0);
    secure(response.headers_mut(), app.config().tls.is_some());
    let route = route_label(route.as_ref());
    if let Some(trail) = trail {
        trail.end(code.unwrap_or("ok")).await;
    }
    let elapsed = started.elapsed();
    if !health {
        let labels = [("method", method_label(&method)), ("route", route.to_owned())];
        metrics::histogram!("fleetcore_http_request_seconds", &labels).record(elapsed.as_secs_f64());
        metrics::counter!(
            "fleetcore_http_requests_total", "method" => method_label(&method), "route" => route.to_owned(),
            "status" => status.as_str().to_owned()
        )
        .increment(1);
        if status.is_server_error() {
            tracing::warn!(%method, route, status = status.as_u16(), code, ms = elapsed.as_millis(), "request");
        } else {
            tracing::debug!(%method, route, status = status.as_u16(), code, ms = elapsed.as_millis(), "request");
        }
    }
    response
}

fn route_label(route: Option<&MatchedPath>) -> &str {
    route.map_or("other", |r| r.as_str())
}

/// Sees to it that a request that changes something gets into the audit log, also when its client hangs up: then the
/// whole future of the request is dropped, at whatever point it was.
struct Trail {
    app: App,
    slot: Arc<AuditSlot>,
    method: Method,
    route: Option<MatchedPath>,
    path: String,
    ip: IpAddr,
    done: bool,
}

impl Trail {
    /// What the log will say; nothing about what changes nothing.
    fn entry(&self, outcome: &str) -> Option<AuditEntry> {
        let slot = &self.slot;
        // What is refused for want of any login, or has no route, changes nothing and would let strangers fill the log.
        if slot.actor().is_none() && slot.action().is_none() {
            return None;
        }
        let action = slot
            .action()
            .map_or_else(|| format!("{} {}", self.method, route_label(self.route.as_ref())), str::to_owned);
        let target = slot.target().unwrap_or(&self.path);
        let entry = AuditEntry::new(slot.actor().unwrap_or("nobody"), action, target, outcome);
        let detail = slot.detail_text().map(|d| format!("{d}; ")).unwrap_or_default();
        Some(entry.with_detail(format!("{detail}from {}", self.ip)))
    }

    /// Writes the entry; when this returns it is on the disk, or for commands in the queue for it.
    async fn end(mut self, outcome: &str) {
        self.done = true;
        let Some(entry) = self.entry(outcome) else { return };
        // Commands have a durable record with the actor of their own, and an agent's actions come one after another;
        // anything else waits for the disk.
        let hot = entry.action.starts_with("command.") || entry.action == "runtime.action";
        let app = self.app.clone();
        // Its own task: a client that leaves now must not take the entry with it.
        let write =
            async move { if hot { app.audit_later(entry).await } else { app.audit_now(entry).await } };
        // Fails only with the runtime.
        let _ = self.app.tasks().spawn(write).await;
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        if let (Some(entry), Ok(runtime)) = (self.entry("client_left"), tokio::runtime::Handle::try_current())
        {
            let app = self.app.clone();
            self.app.tasks().spawn_on(async move { app.audit_now(entry).await }, &runtime);
        }
    }
}

/// Anybody can make up methods; labels must stay few.
fn method_label(method: &Method) -> String {
    let known = [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::HEAD,
        Method::OPTIONS,
    ];
    if known.contains(method) { method.as_str().to_owned() } else { "OTHER".to_owned() }
}

fn secure(headers: &mut HeaderMap, tls: bool) {
    const SET: [(HeaderName, &str); 4] = [
        (header::CONTENT_SECURITY_POLICY, CSP),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    for (name, value) in SET {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if tls {
        headers
            .entry(header::STRICT_TRANSPORT_SECURITY)
            .or_insert(HeaderValue::from_static("max-age=31536000"));
    }
}
