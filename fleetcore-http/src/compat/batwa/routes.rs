//! The master's routes.

use std::sync::Arc;

use axum::{
    Router,
    extract::{FromRequest as _, Path, Request, State, ws::WebSocketUpgrade},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    middleware::{self, Next},
    response::Response,
    routing::{delete, get, post},
};
use bytes::Bytes;
use fleetcore::{ErrorKind, Scope};
use jiff::Timestamp;
use secrecy::ExposeSecret as _;

use super::{
    agents::{Claim, Refusal},
    checks,
    map::{self, AgentFailure, Deed},
    reply,
    state::{Master, clear_cookie, login_cookie, query},
    terminal,
    wire::{self, Action, AgentReply, Authenticated, Create, Created, Done, Registered},
};
use crate::auth::Identity;

/// Longest body of a request.
const BODY_MAX: usize = 1 << 20;
/// Largest message of a terminal's browser, as uvicorn has it.
const MESSAGE_MAX: usize = 16 << 20;

type App = State<Arc<Master>>;

/// All routes of the master.
pub(super) fn router(master: Arc<Master>) -> Router {
    let mut router = Router::new()
        .route("/", get(index))
        .route("/login", get(login_page))
        .route("/static/{*path}", get(asset))
        .route("/api/auth/login", post(login))
        .route("/api/auth/logout", post(logout))
        .route("/api/auth/check", get(check))
        .route("/api/agent/register", post(register))
        .route("/api/agent/heartbeat", post(heartbeat))
        .route("/api/agent/list", get(agent_list))
        .route("/api/agent/info/{agent_id}", get(agent_info))
        .route("/api/agent/unregister/{agent_id}", delete(unregister))
        .route("/api/vm/list", get(vm_list))
        .route("/api/vm/info/{vm_name}", get(vm_info))
        .route("/api/vm/create", post(create))
        .route("/api/vm/start", post(start))
        .route("/api/vm/stop", post(stop))
        .route("/api/vm/delete", post(delete_vm))
        .route("/ws", get(open_terminal))
        .fallback(reply::not_found)
        .method_not_allowed_fallback(reply::method_not_allowed);
    if !master.allowed_origins.is_empty() {
        router = router.layer(middleware::from_fn_with_state(master.clone(), cross_origin));
    }
    router.with_state(master)
}

/// Lets the configured sites in, and no others.
async fn cross_origin(State(master): App, request: Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let allowed = origin.filter(|o| {
        o.to_str().is_ok_and(|o| master.allowed_origins.iter().any(|a| a.eq_ignore_ascii_case(o)))
    });
    let Some(origin) = allowed else { return next.run(request).await };
    let preflight = request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let wanted = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let mut response = if preflight { Response::new("OK".into()) } else { next.run(request).await };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    if preflight {
        let methods = HeaderValue::from_static("DELETE, GET, HEAD, OPTIONS, POST");
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        if let Some(wanted) = wanted {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted);
        }
    }
    response
}

/// The parts of a request and its body, which has to arrive in time and be of a sane size.
async fn taken(master: &Master, request: Request) -> Result<(Parts, Bytes), Response> {
    let (parts, body) = request.into_parts();
    let limit = master.app.config().limits.request_read;
    match tokio::time::timeout(limit, axum::body::to_bytes(body, BODY_MAX)).await {
        Ok(Ok(body)) => Ok((parts, body)),
        Ok(Err(_)) => Err(reply::detail(StatusCode::PAYLOAD_TOO_LARGE, "The body is too large")),
        Err(_) => Err(reply::detail(StatusCode::REQUEST_TIMEOUT, "The body took too long to arrive")),
    }
}

/// Who is logged in, and may do this.
async fn need(master: &Master, parts: &Parts, scope: Scope) -> Result<Arc<Identity>, Response> {
    let who = master.who(&parts.headers).await.ok_or_else(reply::not_authenticated)?;
    if parts.method != Method::GET && master.foreign(&parts.headers, &parts.uri, &parts.extensions) {
        return Err(reply::detail(StatusCode::FORBIDDEN, "The request comes from another site"));
    }
    if !who.scopes.contains(&scope) {
        return Err(reply::detail(StatusCode::FORBIDDEN, "Not allowed"));
    }
    Ok(who)
}

// ---- pages

async fn index(State(master): App, headers: HeaderMap) -> Response {
    match master.who(&headers).await {
        Some(_) => master.pages.page("index.html", master.secure).await,
        None => reply::redirect("/login"),
    }
}

async fn login_page(State(master): App) -> Response {
    master.pages.page("login.html", master.secure).await
}

async fn asset(State(master): App, request: Request) -> Response {
    let path = request.uri().path().strip_prefix("/static/").unwrap_or_default();
    master.pages.asset(path, request.headers()).await
}

// ---- logging in

async fn login(State(master): App, request: Request) -> Response {
    let (parts, body) = match taken(&master, request).await {
        Ok(taken) => taken,
        Err(response) => return response,
    };
    let wanted = match checks::login(&parts.headers, &body) {
        Ok(wanted) => wanted,
        Err(refused) => return reply::refused(refused),
    };
    if let Err(error) = master.app.logins().check(master.peer(&parts)) {
        return reply::detail(StatusCode::TOO_MANY_REQUESTS, error.message());
    }
    // Names of strangers are not for the log.
    let user = wanted.username.chars().take(64).collect::<String>().escape_debug().to_string();
    match master.log_in(&wanted.username, &wanted.password).await {
        Ok(value) => {
            master.note(&user, "batwa.login", "", "ok");
            let mut response = reply::ready(StatusCode::OK, wire::LOGGED_IN);
            set_cookie(&mut response, &login_cookie(&value, master.secure));
            response
        }
        Err(error) if error.kind() == ErrorKind::Unauthenticated => {
            tracing::info!(user, peer = %master.peer(&parts), "login refused");
            reply::ready(StatusCode::UNAUTHORIZED, wire::BAD_CREDENTIALS)
        }
        Err(error) => {
            tracing::warn!(%error, "logging in failed");
            reply::detail(StatusCode::INTERNAL_SERVER_ERROR, "Logging in is not possible now")
        }
    }
}

fn set_cookie(response: &mut Response, cookie: &str) {
    if let Ok(value) = HeaderValue::from_str(cookie) {
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
}

async fn logout(State(master): App, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    if master.foreign(&parts.headers, &parts.uri, &parts.extensions) {
        return reply::detail(StatusCode::FORBIDDEN, "The request comes from another site");
    }
    master.log_out(&parts.headers).await;
    let mut response = reply::ready(StatusCode::OK, wire::LOGGED_OUT);
    set_cookie(&mut response, &clear_cookie(Timestamp::now(), master.secure));
    response
}

async fn check(State(master): App, headers: HeaderMap) -> Response {
    match master.who(&headers).await {
        Some(who) => reply::json(&Authenticated { authenticated: true, username: &who.name }),
        None => reply::ready(StatusCode::OK, wire::ANONYMOUS),
    }
}

// ---- agents

fn header_key(headers: &HeaderMap) -> Option<&str> {
    headers.get("x-api-key").and_then(|v| v.to_str().ok()).filter(|k| !k.is_empty())
}

async fn register(State(master): App, request: Request) -> Response {
    let (parts, body) = match taken(&master, request).await {
        Ok(taken) => taken,
        Err(response) => return response,
    };
    let wanted = match checks::register(&parts.headers, &body) {
        Ok(wanted) => wanted,
        Err(refused) => return reply::refused(refused),
    };
    let peer = master.peer(&parts);
    let body_key = wanted.api_key.clone();
    let key = header_key(&parts.headers).or_else(|| body_key.as_ref().map(|k| k.expose_secret()));
    let id = wanted.agent_id.clone();
    match master.agents.register(wanted, Claim { key, peer }, Timestamp::now()) {
        Ok(agent) => {
            if let Err(error) = master.agents.save().await {
                tracing::warn!(%error, "the list of agents cannot be kept");
            }
            tracing::info!(agent = id, api_url = agent.api_url, %peer, "agent registered");
            master.note(&format!("agent {id}"), "batwa.agent.register", &agent.api_url, "ok");
            let message = format!("Agent '{id}' registered successfully");
            reply::json(&Registered { success: true, message, agent: &agent })
        }
        Err(Refusal::Key(_)) => {
            tracing::warn!(
                agent = id, %peer,
                "an agent was refused; start it with --api-key and the agent key of this master, or start this master \
                 with --open-enrolment"
            );
            reply::bad_key()
        }
        Err(Refusal::Full) => reply::detail(StatusCode::SERVICE_UNAVAILABLE, "There are too many agents"),
    }
}

async fn heartbeat(State(master): App, request: Request) -> Response {
    let (parts, body) = match taken(&master, request).await {
        Ok(taken) => taken,
        Err(response) => return response,
    };
    let beat = match checks::heartbeat(&parts.headers, &body) {
        Ok(beat) => beat,
        Err(refused) => return reply::refused(refused),
    };
    let claim = Claim { key: header_key(&parts.headers), peer: master.peer(&parts) };
    match master.agents.heartbeat(&beat, claim, Timestamp::now()) {
        Ok(super::agents::Beat::Known | super::agents::Beat::Made) => {
            reply::ready(StatusCode::OK, wire::HEARTBEAT_KNOWN)
        }
        Ok(super::agents::Beat::Unknown) => reply::ready(StatusCode::OK, wire::HEARTBEAT_UNKNOWN),
        Err(_) => reply::bad_key(),
    }
}

async fn agent_list(State(master): App, headers: HeaderMap) -> Response {
    if master.who(&headers).await.is_none() {
        return reply::not_authenticated();
    }
    reply::ready(StatusCode::OK, master.agents.list_body())
}

fn unknown_agent(id: &str) -> Response {
    reply::detail(StatusCode::NOT_FOUND, &format!("Agent '{id}' not found"))
}

async fn agent_info(State(master): App, Path(id): Path<String>, headers: HeaderMap) -> Response {
    if master.who(&headers).await.is_none() {
        return reply::not_authenticated();
    }
    match master.agents.get(&id) {
        Some(agent) => reply::json(&AgentReply { success: true, agent: &agent.info }),
        // No id has a slash, so there is no such resource.
        None if id.contains('/') => reply::not_found().await,
        None => unknown_agent(&id),
    }
}

async fn unregister(State(master): App, Path(id): Path<String>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let who = match need(&master, &parts, Scope::Machines).await {
        Ok(who) => who,
        Err(response) => return response,
    };
    if !master.agents.unregister(&id) {
        return if id.contains('/') { reply::not_found().await } else { unknown_agent(&id) };
    }
    if let Err(error) = master.agents.save().await {
        tracing::warn!(%error, "the list of agents cannot be kept");
    }
    master.note(&who.name, "batwa.agent.unregister", &id, "ok");
    let message = format!("Agent '{id}' unregistered successfully");
    reply::json(&Done { success: true, message: &message })
}

// ---- machines

async fn vm_list(State(master): App, headers: HeaderMap) -> Response {
    if master.who(&headers).await.is_none() {
        return reply::not_authenticated();
    }
    reply::ready(StatusCode::OK, master.lists.body(|| master.agents.online()).await)
}

async fn vm_info(State(master): App, Path(name): Path<String>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    if let Err(response) = need(&master, &parts, Scope::Read).await {
        return response;
    }
    if name.contains('/') {
        return reply::not_found().await;
    }
    if let Err(refused) = checks::vm_name(&name) {
        return reply::refused(refused);
    }
    let agent_id = query(&parts.uri).remove("agent_id").filter(|id| !id.is_empty());
    let otherwise = "Failed to get VM info";
    let absent = || reply::detail(StatusCode::NOT_FOUND, &format!("VM '{name}' not found"));
    let Some(id) = agent_id else {
        return match master.vms.info(&name).await {
            Ok(printed) => match map::info(&printed, &name, None) {
                Ok(info) => reply::json(&info),
                Err(map::NoInfo::Absent) => absent(),
                Err(map::NoInfo::Unreadable) => unreadable(),
            },
            Err(super::vms::VmError::NotJson(_)) => unreadable(),
            Err(error) => reply::detail(error.status(), &error.text(otherwise)),
        };
    };
    let Some(agent) = master.agents.get(&id) else { return failed(&AgentFailure::Unknown, &id, otherwise) };
    match master.remote.info(&agent, &name).await {
        Ok(printed) => match map::info(&printed, &name, Some((&id, &agent.info.hostname))) {
            Ok(info) => reply::json(&info),
            Err(map::NoInfo::Absent) => absent(),
            Err(map::NoInfo::Unreadable) => failed(&AgentFailure::Odd, &id, otherwise),
        },
        Err(AgentFailure::Said(_, text)) if map::says_unknown(&text) => {
            reply::detail(StatusCode::NOT_FOUND, &map::failure_text(&text, otherwise))
        }
        Err(failure) => failed(&failure, &id, otherwise),
    }
}

fn unreadable() -> Response {
    reply::detail(StatusCode::INTERNAL_SERVER_ERROR, "Failed to parse multipass output")
}

fn failed(failure: &AgentFailure, id: &str, otherwise: &str) -> Response {
    let (status, text) = failure.tell(id, otherwise);
    reply::detail(status, &text)
}

/// What was done, and where.
struct Deeds {
    message: String,
    hostname: Option<String>,
}

/// Does something to a machine, here or on an agent, and sees it through when the client leaves: a launch that is cut off
/// half-way would leave a machine nobody knows of.
async fn deed(
    master: &Arc<Master>,
    who: &Identity,
    deed: Deed,
    wanted: Create,
) -> Result<Deeds, (StatusCode, String)> {
    let (master, actor) = (master.clone(), who.name.clone());
    let tasks = master.app.tasks().clone();
    let work = async move {
        let agent_id = wanted.agent_id.as_deref();
        let otherwise = deed.default_failure();
        let done = match agent_id {
            None => {
                let done = match deed {
                    Deed::Create => master.vms.create(Some(&actor), &wanted).await,
                    other => master.vms.act(Some(&actor), other, &wanted.name).await,
                };
                done.map(|message| Deeds { message, hostname: None }).map_err(|e| {
                    // Whatever Multipass refuses is 500 in both originals.
                    (StatusCode::INTERNAL_SERVER_ERROR, e.text(&otherwise))
                })
            }
            Some(id) => match master.agents.get(id) {
                None => Err(AgentFailure::Unknown.tell(id, &otherwise)),
                Some(agent) => {
                    let done = match deed {
                        Deed::Create => master.remote.create(&agent, &wanted).await,
                        other => master.remote.act(&agent, other, &wanted.name).await,
                    };
                    done.map(|said| Deeds {
                        message: deed.message(&wanted.name, said.as_bytes()),
                        hostname: Some(agent.info.hostname.clone()),
                    })
                    .map_err(|failure| failure.tell(id, &otherwise))
                }
            },
        };
        master.lists.outdate(agent_id);
        if agent_id.is_some() {
            // Those of this host are announced where they are changed.
            master.vms.announce();
        }
        let target = match agent_id {
            Some(id) => format!("{id}/{}", wanted.name),
            None => wanted.name.clone(),
        };
        let action = match deed {
            Deed::Create => "batwa.vm.create",
            Deed::Start => "batwa.vm.start",
            Deed::Stop => "batwa.vm.stop",
            Deed::Delete => "batwa.vm.delete",
        };
        master.note(&actor, action, &target, if done.is_ok() { "ok" } else { "failed" });
        done
    };
    tasks
        .spawn(work)
        .await
        .unwrap_or_else(|_| Err((StatusCode::INTERNAL_SERVER_ERROR, "the server is stopping".to_owned())))
}

async fn create(State(master): App, request: Request) -> Response {
    let (who, body, headers) = match authorized(&master, request).await {
        Ok(all) => all,
        Err(response) => return response,
    };
    let wanted = match checks::create(&headers, &body) {
        Ok(wanted) => wanted,
        Err(refused) => return reply::refused(refused),
    };
    match deed(&master, &who, Deed::Create, wanted.clone()).await {
        Ok(done) => reply::json(&Created {
            success: true,
            message: &done.message,
            vm_name: &wanted.name,
            agent_id: wanted.agent_id.as_deref(),
            agent_hostname: done.hostname.as_deref(),
        }),
        Err((status, text)) => reply::detail(status, &text),
    }
}

async fn authorized(
    master: &Master,
    request: Request,
) -> Result<(Arc<Identity>, Bytes, HeaderMap), Response> {
    let (parts, body) = request.into_parts();
    let who = need(master, &parts, Scope::Machines).await?;
    let (parts, body) = taken(master, Request::from_parts(parts, body)).await?;
    Ok((who, body, parts.headers))
}

async fn act(master: Arc<Master>, request: Request, what: Deed) -> Response {
    let (who, body, headers) = match authorized(&master, request).await {
        Ok(all) => all,
        Err(response) => return response,
    };
    let Action { name, agent_id } = match checks::action(&headers, &body) {
        Ok(wanted) => wanted,
        Err(refused) => return reply::refused(refused),
    };
    let nothing = String::new;
    let wanted = Create { name, agent_id, cpus: 0, memory: nothing(), disk: nothing(), image: nothing() };
    match deed(&master, &who, what, wanted).await {
        Ok(done) => reply::json(&Done { success: true, message: &done.message }),
        Err((status, text)) => reply::detail(status, &text),
    }
}

async fn start(State(master): App, request: Request) -> Response {
    act(master, request, Deed::Start).await
}

async fn stop(State(master): App, request: Request) -> Response {
    act(master, request, Deed::Stop).await
}

async fn delete_vm(State(master): App, request: Request) -> Response {
    act(master, request, Deed::Delete).await
}

// ---- terminals

async fn open_terminal(State(master): App, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let asked = query(&parts.uri);
    let foreign = master.foreign(&parts.headers, &parts.uri, &parts.extensions);
    // Browsers send the cookie; tools may put the same value into the query.
    let session = super::state::cookie(&parts.headers).or(asked.get("session_id").map(String::as_str));
    let who = master.whose(session).await.filter(|_| !foreign);
    let upgrade = match WebSocketUpgrade::from_request(Request::from_parts(parts, body), &()).await {
        Ok(upgrade) => upgrade,
        Err(_) => return reply::not_found().await,
    };
    upgrade
        .max_message_size(MESSAGE_MAX)
        .max_frame_size(MESSAGE_MAX)
        .on_upgrade(move |socket| terminal::of_master(master, socket, who, asked))
}
