//! `GET /api/v1/link`: where agents call in.

use std::{sync::Arc, sync::atomic::Ordering, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use fleetcore::{AgentId, AgentRegistration, AgentReport, Error, ErrorKind, Fleet, Lease, Result};
use futures::StreamExt as _;
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::Instant;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};
use tokio_util::sync::CancellationToken;

use super::{
    AgentHub,
    ahead::ReadAhead,
    hub::{endpoint, put_out},
    mux::Mux,
    protocol::{DEAD_TOKEN, FromAgent, FromServer, Hello, Refusal, SUBPROTOCOL, VERSION, encode, millis},
    pump::{self, Incoming},
    remote::{AgentState, Connected},
    session,
};
use crate::{
    app::App,
    error::{Problem, Reply},
};

/// How long an agent may take to say who it is.
const HELLO_LIMIT: Duration = Duration::from_secs(10);
/// How long an agent may take to hear why it is out.
const LAST_WORD: Duration = Duration::from_secs(2);
/// Processes of one agent that are remembered.
const PROCESSES_MAX: usize = 8;
/// Most providers an agent may have.
const PROVIDERS_MAX: usize = 64;

/// In a request that came in over a link: whoever is at the other end of the agent's link may do anything.
#[derive(Clone, Debug)]
pub(crate) struct LinkPeer {
    /// On whose behalf, as the server says.
    pub(crate) actor: Arc<str>,
}

fn bearer(request: &Request) -> Option<&str> {
    let value = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

fn has_token(request: &Request, name: header::HeaderName, wanted: &str) -> bool {
    let values = request.headers().get_all(name).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).any(|v| v.trim().eq_ignore_ascii_case(wanted))
}

/// The route. Not part of the documented API: its only client is `fleetcore agent`.
pub(crate) async fn link(State(app): State<App>, mut request: Request) -> Reply<Response> {
    let Some(hub) = app.agents().cloned() else { return Err(Problem::not_found("route", "/api/v1/link")) };
    let token = bearer(&request).map(|t| SecretString::from(t.to_owned()));
    let token = token.ok_or_else(|| Problem::unauthenticated("an agent needs its token"))?;
    let agent = hub.auth().verify(token.expose_secret()).await.map_err(|e| match e.kind() {
        // Said so that the agent can tell it from what a proxy on the way might answer.
        ErrorKind::Unauthenticated => e.with_context(DEAD_TOKEN, true),
        _ => e,
    })?;
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).map(|k| derive_accept_key(k.as_bytes()));
    let upgrade = has_token(&request, header::CONNECTION, "upgrade")
        && has_token(&request, header::UPGRADE, "websocket")
        && has_token(&request, header::SEC_WEBSOCKET_VERSION, "13")
        && has_token(&request, header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL);
    let (Some(accept), true) = (key, upgrade) else {
        return Err(Problem::new(
            StatusCode::UPGRADE_REQUIRED,
            "upgrade_required",
            "This is a WebSocket",
            format!("agents connect here with the subprotocol {SUBPROTOCOL}"),
        ));
    };
    let upgraded = hyper::upgrade::on(&mut request);
    let (fleet, stop) = (app.fleet().clone(), app.stopping().clone());
    app.tasks().spawn(async move {
        let io = match upgraded.await {
            Ok(io) => TokioIo::new(io),
            Err(error) => {
                tracing::debug!(%agent, %error, "the agent left during the handshake");
                return;
            }
        };
        let io = ReadAhead::new(io);
        let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(pump::socket_config())).await;
        if let Err(error) = serve(&hub, fleet, agent.clone(), &token, socket, stop).await {
            tracing::info!(%agent, %error, "the agent's link ended");
        }
    });
    let mut response = (StatusCode::SWITCHING_PROTOCOLS, Body::empty()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    Ok(response)
}

type Io = ReadAhead<TokioIo<hyper::upgrade::Upgraded>>;

/// One connection of one agent, from the hello to the end.
async fn serve(
    hub: &AgentHub,
    fleet: Fleet,
    agent: AgentId,
    token: &SecretString,
    socket: WebSocketStream<Io>,
    stop: CancellationToken,
) -> Result<()> {
    let (sink, mut source) = socket.split();
    // Agents open no streams of their own.
    let mux = Mux::new(1, 0);
    let first = async {
        match pump::read(&mut source, HELLO_LIMIT).await? {
            Incoming::Control(text) => {
                serde_json::from_str(&text).map_err(|e| super::exec::malformed("a hello").with_source(e))
            }
            Incoming::Frame(_) => Err(super::exec::malformed("a frame before its hello")),
        }
    };
    let hello = match first.await {
        Ok(FromAgent::Hello(hello)) => Ok(*hello),
        Ok(_) => Err((Refusal::Malformed, "the first message must be a hello".to_owned())),
        Err(e) => Err((Refusal::Malformed, e.message().to_owned())),
    };
    let entered = match hello {
        Ok(hello) => enter(hub, &agent, token, hello, &mux).await,
        Err(refused) => Err(refused),
    };
    let stall = hub.config().ttl;
    let (state, lease) = match entered {
        Ok(entered) => entered,
        Err((reason, message)) => {
            let _ = mux.send_text(encode(&FromServer::Refused { reason, message: message.clone() }));
            mux.close("refused");
            pump::write(&mux, sink, HELLO_LIMIT).await?;
            return Err(Error::new(ErrorKind::Conflict, message));
        }
    };
    tracing::info!(%agent, epoch = lease.epoch, "the agent is connected");
    // Apart from the link: without it, it is over soon, and what it did not take up waits for the next one.
    tokio::spawn(catch_up(fleet, Arc::clone(&state), lease.epoch));
    let reading = receive(hub, &state, lease.clone(), &mut source, &mux);
    let writing = pump::write(&mux, sink, stall);
    tokio::pin!(reading, writing);
    let ended = tokio::select! {
        ended = &mut reading => {
            // What was said last may say why.
            mux.close(ended.as_ref().err().map_or("closed", Error::message));
            let _ = tokio::time::timeout(LAST_WORD, &mut writing).await;
            ended
        }
        ended = &mut writing => ended,
        () = stop.cancelled() => {
            let _ = mux.send_text(encode(&FromServer::Refused {
                reason: Refusal::Unavailable,
                message: "the server stops".to_owned(),
            }));
            mux.close("the server stops");
            writing.await
        }
    };
    mux.close(ended.as_ref().err().map_or("closed", Error::message));
    leave(hub, &state, lease).await;
    ended
}

/// Lets an agent in: checks its version and whether it is still the one, gives it a lease, fences the one before.
async fn enter(
    hub: &AgentHub,
    agent: &AgentId,
    token: &SecretString,
    hello: Hello,
    mux: &Mux,
) -> Result<(Arc<AgentState>, Lease), (Refusal, String)> {
    let Some(protocol) = VERSION.common(hello.protocol) else {
        let text = format!("the server speaks link version {VERSION}, the agent {}", hello.protocol);
        return Err((Refusal::Version, text));
    };
    if hello.providers.len() > PROVIDERS_MAX || hello.instance.is_empty() || hello.instance.len() > 64 {
        return Err((Refusal::Malformed, "the hello has too many providers or no instance".to_owned()));
    }
    if let Some(name) = hello.id.as_ref().filter(|name| *name != agent) {
        return Err((Refusal::Malformed, format!("the token belongs to agent {agent}, not {name}")));
    }
    let unavailable = |e: Error| {
        tracing::warn!(%agent, error = %e, "the agent cannot be registered");
        (Refusal::Unavailable, "the server cannot register agents now".to_owned())
    };
    let state = hub.state(agent);
    let mut known_processes = state.registering.lock().await;
    if state.removed.load(Ordering::Acquire) {
        return Err((Refusal::Removed, "the agent was removed from the server".to_owned()));
    }
    // Again, now that nobody can remove the agent before it is listed: its token may have been revoked meanwhile.
    match hub.auth().verify(token.expose_secret()).await {
        Ok(still) if still == *agent => {}
        Err(e) if e.kind() != ErrorKind::Unauthenticated => return Err(unavailable(e)),
        _ => return Err((Refusal::Removed, "the agent's token was revoked".to_owned())),
    }
    let here = endpoint(&hello.instance);
    match hub.registry().get(agent).await {
        Ok(known) => {
            let other = known.registration.endpoint.as_deref() != Some(here.as_str());
            let noted = known_processes.iter().find(|(instance, _)| **instance == *hello.instance);
            let mine = hello.epoch.max(noted.map(|(_, epoch)| *epoch));
            if other && mine.is_some_and(|mine| mine < known.lease.epoch) {
                return Err((Refusal::Fenced, "a newer agent has this name".to_owned()));
            }
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(unavailable(e)),
    }
    let mut registration = AgentRegistration::new(agent.clone(), hello.version.clone());
    registration.endpoint = Some(here);
    registration.exec = hello.exec.clone();
    registration.machines = hello.machines;
    registration.labels = hello.labels.clone();
    let lease = hub.registry().register(registration, hub.config().ttl).await.map_err(unavailable)?;
    let instance: Arc<str> = hello.instance.into();
    known_processes.retain(|(other, _)| *other != instance);
    known_processes.push_back((Arc::clone(&instance), lease.epoch));
    if known_processes.len() > PROCESSES_MAX {
        known_processes.pop_front();
    }
    {
        let mut facts = state.facts.lock();
        facts.exec = hello.exec;
        facts.providers = hello.providers;
        facts.labels = hello.labels;
        facts.version = hello.version;
        facts.last_seen = Some(Timestamp::now());
        facts.ahead = hello.now.map_or(SignedDuration::ZERO, |now| now.duration_since(Timestamp::now()));
    }
    let welcome = FromServer::Welcome {
        protocol,
        epoch: lease.epoch,
        ttl_ms: millis(hub.config().ttl),
        heartbeat_ms: millis(hub.config().heartbeat),
    };
    // Goes before any stream that somebody opens once the link is listed.
    mux.send_text(encode(&welcome)).map_err(unavailable)?;
    let link = Connected { mux: mux.clone(), epoch: lease.epoch, instance: Arc::clone(&instance) };
    if let Some(before) = state.link.send_replace(Some(link)) {
        if before.instance == instance {
            put_out(&before, Refusal::Unavailable, "the agent has a newer connection");
        } else {
            put_out(&before, Refusal::Fenced, "a newer agent has this name");
        }
    }
    drop(known_processes);
    Ok((state, lease))
}

/// The link is down: whoever waits for its return may go on to do so until the lease runs out.
async fn leave(hub: &AgentHub, state: &AgentState, lease: Lease) {
    let mine = |link: &Option<Connected>| link.as_ref().is_some_and(|l| l.epoch == lease.epoch);
    let was_mine = state.link.send_if_modified(|link| {
        let mine = mine(link);
        if mine {
            *link = None;
        }
        mine
    });
    if was_mine && let Ok(known) = hub.registry().get(&state.id).await {
        hub.expires_at(known.lease.expires_at);
    }
}

/// Takes up what the agent has been doing while it was away, or we were.
async fn catch_up(fleet: Fleet, state: Arc<AgentState>, epoch: u64) {
    if let Err(error) = fleet.resume_agent(&state.id).await {
        tracing::warn!(agent = %state.id, %error, "lost commands of the agent cannot be looked up");
    }
    state.caught_up.send_modify(|done| *done = epoch.max(*done));
    if let Err(error) = session::adopt_all(&fleet, &state).await {
        tracing::warn!(agent = %state.id, %error, "sessions of the agent cannot be listed");
    }
}

/// Hears an agent out until its link ends.
async fn receive(
    hub: &AgentHub,
    state: &AgentState,
    mut lease: Lease,
    source: &mut futures::stream::SplitStream<WebSocketStream<Io>>,
    mux: &Mux,
) -> Result<()> {
    let (ttl, heartbeat) = (hub.config().ttl, hub.config().heartbeat);
    let mut report = AgentReport::default();
    let mut noted: Option<Instant> = None;
    loop {
        let mut beat = false;
        match pump::read(source, ttl).await? {
            Incoming::Frame(frame) => {
                // A stream they opened is refused by the limit; nothing comes back here.
                mux.accept(frame)?;
            }
            Incoming::Control(text) => {
                let message = serde_json::from_str(&text)
                    .map_err(|e| super::exec::malformed("a control message").with_source(e))?;
                match message {
                    FromAgent::Heartbeat { running, status } => {
                        if let Some(running) = running {
                            report.running = running;
                        }
                        report.status = status;
                        beat = true;
                    }
                    FromAgent::Leaving => {
                        return hub.registry().deregister(&lease).await.or_else(|e| match e.kind() {
                            ErrorKind::Conflict | ErrorKind::NotFound => Ok(()),
                            _ => Err(e),
                        });
                    }
                    FromAgent::Hello(_) => return Err(super::exec::malformed("a second hello")),
                    FromAgent::Unknown => {}
                }
            }
        }
        // A flood of heartbeats is heard, but costs neither the store nor an answer. Output is a sign of life, too: on
        // a slow line a heartbeat may be long under way behind what the kernel holds already.
        let quiet = |parts: u32| noted.is_none_or(|at| at.elapsed() * parts >= heartbeat);
        if (beat && quiet(4)) || quiet(1) {
            noted = Some(Instant::now());
            state.facts.lock().last_seen = Some(Timestamp::now());
            lease = note(hub, &lease, &report, mux).await?.unwrap_or(lease);
            mux.send_text(encode(&FromServer::Renewed))?;
        }
    }
}

/// Renews the lease; `None` when the registry cannot be reached just now.
async fn note(hub: &AgentHub, lease: &Lease, report: &AgentReport, mux: &Mux) -> Result<Option<Lease>> {
    match hub.registry().heartbeat(lease, report.clone()).await {
        Ok(lease) => Ok(Some(lease)),
        Err(e) => {
            let reason = match e.kind() {
                ErrorKind::Conflict => Refusal::Fenced,
                ErrorKind::NotFound => Refusal::Removed,
                _ => {
                    tracing::warn!(agent = %lease.agent, error = %e, "a heartbeat cannot be noted");
                    return Ok(None);
                }
            };
            let message = e.message().to_owned();
            let _ = mux.send_text(encode(&FromServer::Refused { reason, message }));
            mux.close("refused");
            Err(e)
        }
    }
}
