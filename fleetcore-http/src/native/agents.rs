//! Agents: who has joined, how they are, and how others get in.

use std::{collections::HashMap, sync::Weak, time::Duration};

use axum::{
    extract::{FromRequestParts, State},
    http::{StatusCode, request::Parts},
};
use bytes::{Bytes, BytesMut};
use fleetcore::{
    AgentId, AgentInfo, AgentToken, Error, ErrorKind, HostSample, Labels, RegistryEvent,
    Target as CoreTarget, backends::local::host::HostInfo,
};
use futures::StreamExt as _;
use jiff::Timestamp;
use secrecy::ExposeSecret as _;
use serde::de::DeserializeOwned;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    identity::SameOrigin,
    metrics::{MetricsQuery, history},
    sse::json_event,
    wire::{
        Agent, AgentRemoved, CreateJoinCode, Host, Items, JoinRequest, Joined, Load, LoadEvent, Metrics,
        NewJoinCode,
    },
};
use crate::{
    app::{App, Inner},
    auth::{Audit, CanMachines, CanRead, called_as},
    error::{Problem, Reply},
    extract::{ClientIp, Json, NoQuery, Path, Query, StrangersJson},
    link::{AgentHub, Joining},
};

/// How long a code works unless somebody says otherwise: time to walk to the machine.
const CODE_LIFE: Duration = Duration::from_secs(3600);
/// Events that may wait for one reader.
const BACKLOG: usize = 1024;
/// Pause before the registry is watched again after it failed.
const WATCH_PAUSE: Duration = Duration::from_secs(5);

/// What readers of the event stream are told, as it is written to all of them.
#[derive(Clone, Debug)]
pub(crate) enum AgentEvent {
    /// An agent is new, has changed or is gone.
    Agent(Bytes),
    /// How busy an agent's host is.
    Load(Bytes),
}

/// Tells readers of the event stream about agents.
#[derive(Debug)]
pub(crate) struct AgentEvents(broadcast::Sender<AgentEvent>);

impl Default for AgentEvents {
    fn default() -> Self {
        Self(broadcast::channel(BACKLOG).0)
    }
}

impl AgentEvents {
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<AgentEvent> {
        self.0.subscribe()
    }

    fn heard(&self) -> bool {
        self.0.receiver_count() > 0
    }

    fn agent(&self, agent: &Agent) {
        let mut text = BytesMut::new();
        json_event(&mut text, "agent", agent);
        // Fails when nobody listens.
        let _ = self.0.send(AgentEvent::Agent(text.freeze()));
        if let (Some(load), true) = (agent.load, agent.online) {
            let mut text = BytesMut::new();
            json_event(
                &mut text,
                "load",
                &LoadEvent { target: CoreTarget::local().via(agent.id.clone()), load },
            );
            let _ = self.0.send(AgentEvent::Load(text.freeze()));
        }
    }

    fn removed(&self, id: &AgentId) {
        let mut text = BytesMut::new();
        json_event(&mut text, "agent_removed", &AgentRemoved { id: id.clone() });
        let _ = self.0.send(AgentEvent::Agent(text.freeze()));
    }
}

/// The routes.
pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_agents))
        .routes(routes!(get_agent, remove_agent))
        .routes(routes!(agent_metrics))
        .routes(routes!(create_join_code))
        .routes(routes!(join))
}

/// The address the server was called by.
pub(super) struct CalledAs(String);

impl FromRequestParts<App> for CalledAs {
    type Rejection = std::convert::Infallible;
    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Self::Rejection> {
        Ok(Self(called_as(&parts.headers, &parts.uri, &parts.extensions, app)))
    }
}

fn hub(app: &App) -> Reply<&AgentHub> {
    app.agents().ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, "this server takes no agents").with_operation("agents").into()
    })
}

fn joining(app: &App) -> Reply<&Joining> {
    app.joining().ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, "agents cannot join this server by themselves")
            .with_operation("agents.join")
            .into()
    })
}

/// One part of what an agent says with its heartbeats; `None` for what is not understood.
fn status<T: DeserializeOwned>(info: &AgentInfo, key: &str) -> Option<T> {
    // Agents of other versions may say it differently; that is no error of ours.
    T::deserialize(info.report.status.get(key)?).ok()
}

fn sample(info: &AgentInfo) -> Option<HostSample> {
    status(info, HostSample::STATUS_KEY)
}

fn describe(hub: &AgentHub, info: AgentInfo, token: Option<&AgentToken>) -> Agent {
    let load = sample(&info).filter(|_| info.online).map(|s| Load {
        // By our clock: theirs may be wrong.
        at: info.last_seen,
        ..Load::from(s)
    });
    let host = status::<HostInfo>(&info, HostInfo::STATUS_KEY).map(|facts| {
        let mut host = Host::from(facts);
        host.uptime_s = load.map_or(host.uptime_s, |l| l.uptime_s);
        host
    });
    let id = info.registration.id;
    Agent {
        online: info.online,
        connected: hub.is_connected(&id),
        version: Some(info.registration.version),
        labels: info.registration.labels,
        last_seen: Some(info.last_seen),
        joined_at: token.map(|t| t.joined_at),
        invited_by: token.map(|t| t.invited_by.clone()),
        running: if info.online { info.report.running.len() } else { 0 },
        capabilities: Some(info.registration.exec.into()),
        host,
        load,
        id,
    }
}

/// One that has joined, but never connected or left on purpose.
fn absent(token: &AgentToken) -> Agent {
    Agent {
        id: token.agent.clone(),
        online: false,
        connected: false,
        version: None,
        labels: token.labels.clone(),
        last_seen: None,
        joined_at: Some(token.joined_at),
        invited_by: Some(token.invited_by.clone()),
        running: 0,
        capabilities: None,
        host: None,
        load: None,
    }
}

async fn find(app: &App, id: &AgentId) -> Reply<Agent> {
    let hub = hub(app)?;
    let token = match app.joining() {
        Some(joining) => joining.token(id).await?,
        None => None,
    };
    match hub.registry().get(id).await {
        Ok(info) => Ok(describe(hub, info, token.as_ref())),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            token.as_ref().map(absent).ok_or_else(|| Problem::not_found("agent", id))
        }
        Err(e) => Err(e.into()),
    }
}

/// All agents that may connect, here or away, by name.
#[utoipa::path(get, path = "/api/v1/agents", tag = "agents",
    responses((status = 200, description = "All of them", body = Items<Agent>)))]
pub(super) async fn list_agents(
    _: CanRead,
    State(app): State<App>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Reply<Json<Items<Agent>>> {
    let hub = hub(&app)?;
    let tokens = match app.joining() {
        Some(joining) => joining.tokens().await?,
        None => vec![],
    };
    let mut tokens: HashMap<AgentId, AgentToken> = tokens.into_iter().map(|t| (t.agent.clone(), t)).collect();
    let known = hub.registry().list(&Labels::new()).await?;
    let mut items: Vec<Agent> = known
        .into_iter()
        .map(|info| {
            let token = tokens.remove(&info.registration.id);
            describe(hub, info, token.as_ref())
        })
        .collect();
    items.extend(tokens.values().map(absent));
    items.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(Json(Items { items }))
}

/// One agent.
#[utoipa::path(get, path = "/api/v1/agents/{id}", tag = "agents",
    params(("id" = String, Path, description = "Its name", example = "office-1", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$")),
    responses((status = 200, description = "As of now", body = Agent)))]
pub(super) async fn get_agent(
    _: CanRead,
    State(app): State<App>,
    Path(id): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Reply<Json<Agent>> {
    find(&app, &AgentId::new(id)?).await.map(Json)
}

/// Puts an agent out: its link is closed, its token is dead, its measurements are forgotten. Records of its commands
/// stay.
#[utoipa::path(delete, path = "/api/v1/agents/{id}", tag = "agents",
    params(("id" = String, Path, description = "Its name", example = "office-1", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$")),
    responses((status = 204, description = "It is gone")))]
pub(super) async fn remove_agent(
    _: CanMachines,
    audit: Audit,
    State(app): State<App>,
    Path(id): Path<String>,
) -> Reply<StatusCode> {
    let id = AgentId::new(id)?;
    audit.about("agent.remove", &id);
    let hub = hub(&app)?;
    // In this order: once its link is closed it must not come back.
    let revoked = match app.joining() {
        Some(joining) => joining.revoke(&id).await?,
        None => false,
    };
    match hub.remove(&id).await {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::NotFound && revoked => {}
        Err(e) => return Err(e.into()),
    }
    if let Some(metrics) = app.metrics() {
        metrics.remove(id.as_str()).await?;
    }
    app.agent_events().removed(&id);
    Ok(StatusCode::NO_CONTENT)
}

/// How busy an agent's host was in up to a week.
#[utoipa::path(get, path = "/api/v1/agents/{id}/metrics", tag = "agents",
    params(("id" = String, Path, description = "Its name", example = "office-1", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$"), MetricsQuery),
    responses((status = 200, description = "What is known", body = Metrics)))]
pub(super) async fn agent_metrics(
    _: CanRead,
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Query<MetricsQuery>,
) -> Reply<Json<Metrics>> {
    let id = AgentId::new(id)?;
    find(&app, &id).await?;
    history(&app, id.as_str(), &query).await
}

/// Makes a code that lets one agent join, once. It is shown only in this answer.
#[utoipa::path(post, path = "/api/v1/agents/join-codes", tag = "agents", request_body = CreateJoinCode,
    responses((status = 201, description = "Made", body = NewJoinCode)))]
pub(super) async fn create_join_code(
    CanMachines(actor): CanMachines,
    audit: Audit,
    State(app): State<App>,
    called: CalledAs,
    Json(request): Json<CreateJoinCode>,
) -> Reply<(StatusCode, Json<NewJoinCode>)> {
    audit.about("agent.invite", "agents");
    hub(&app)?;
    let life = request.expires_in_s.map_or(CODE_LIFE, Duration::from_secs);
    let made = joining(&app)?.invite(request.labels, life, actor.name()).await?;
    audit.detail(format!("until {}", made.expires_at));
    let code = made.code.expose_secret().to_owned();
    let server = called.0;
    let command = format!("fleetcore agent --server {server} --join {code}");
    Ok((StatusCode::CREATED, Json(NewJoinCode { code, expires_at: made.expires_at, command })))
}

/// Lets an agent in: exchanges a code for a token of its own. The one who calls is the agent, which has no login.
#[utoipa::path(post, path = "/api/v1/agents/join", tag = "agents", request_body = JoinRequest, security(()),
    responses((status = 201, description = "It may connect", body = Joined)))]
pub(super) async fn join(
    _: SameOrigin,
    ClientIp(ip): ClientIp,
    audit: Audit,
    State(app): State<App>,
    StrangersJson(request): StrangersJson<JoinRequest>,
) -> Reply<(StatusCode, Json<Joined>)> {
    // Before anything is said to the audit log: those who are slowed down must not fill it either.
    app.joins().check(ip)?;
    hub(&app)?;
    let joining = joining(&app)?;
    let id = AgentId::new(&request.id)?;
    audit.about("agent.join", &id);
    let admitted = joining.redeem(&request.code, &id).await?;
    audit.set_actor(format!("agent {id}"));
    audit.detail(format!("invited by {}", admitted.token.invited_by));
    app.agent_events().agent(&absent(&admitted.token));
    let token = admitted.secret.expose_secret().to_owned();
    Ok((StatusCode::CREATED, Json(Joined { id, token, labels: admitted.token.labels })))
}

/// Watches the registry: measurements of agents are kept, and readers of the event stream are told.
pub(crate) async fn watch(app: Weak<Inner>, stop: CancellationToken) {
    let watching = async {
        loop {
            let changes = match App::of(&app).as_ref().and_then(App::agents) {
                Some(hub) => hub.registry().watch().await,
                None => return,
            };
            match changes {
                Ok(mut changes) => {
                    while let Some(event) = changes.next().await {
                        let Some(app) = App::of(&app) else { return };
                        match event {
                            Ok(event) => note(&app, event).await,
                            Err(error) => tracing::warn!(%error, "agents cannot be watched"),
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, "agents cannot be watched"),
            }
            tokio::time::sleep(WATCH_PAUSE).await;
        }
    };
    let _ = stop.run_until_cancelled(watching).await;
}

async fn note(app: &App, event: RegistryEvent) {
    match event {
        // Only a heartbeat has news of the host; what a snapshot holds may be old.
        RegistryEvent::Updated(info) | RegistryEvent::Online(info) => {
            if let (Some(metrics), Some(sample)) = (app.metrics(), sample(&info)) {
                metrics.record(info.registration.id.as_str(), Timestamp::now(), &sample);
            }
            tell(app, info).await;
        }
        RegistryEvent::InitItem(info) => tell(app, info).await,
        RegistryEvent::Offline(id) | RegistryEvent::Removed(id) => {
            if let Some(metrics) = app.metrics() {
                metrics.away(id.as_str());
                // One that was put out: what was heard of it since then is forgotten too.
                let gone = match app.joining() {
                    Some(joining) => matches!(joining.admits(&id).await, Ok(false)),
                    None => false,
                };
                if gone && let Err(error) = metrics.remove(id.as_str()).await {
                    tracing::warn!(agent = %id, %error, "measurements cannot be removed");
                }
            }
            if app.agent_events().heard() {
                match find(app, &id).await {
                    Ok(agent) => app.agent_events().agent(&agent),
                    Err(_) => app.agent_events().removed(&id),
                }
            }
        }
        _ => {}
    }
}

async fn tell(app: &App, info: AgentInfo) {
    let (true, Some(hub)) = (app.agent_events().heard(), app.agents()) else { return };
    let token = match app.joining() {
        Some(joining) => joining.token(&info.registration.id).await.ok().flatten(),
        None => None,
    };
    app.agent_events().agent(&describe(hub, info, token.as_ref()));
}
