//! `/api/v1/runtimes`, and below each of them what its client speaks to.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
};
use fleetcore::{Error, ErrorKind, Scope};
use tokio::sync::oneshot;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    super::wire::{CreateRuntime, Items, NewRuntime, Runtime},
    registry::{Runtimes, url},
};
use crate::{
    app::App,
    auth::{Audit, CanRead, CanRun},
    compat,
    error::{Problem, Reply},
    extract::{Json, NoQuery, Path, Query},
};

/// All routes of runtimes with their documentation.
pub(in super::super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create_runtime, list_runtimes))
        .routes(routes!(get_runtime, end_runtime))
        .routes(routes!(runtime_events))
        .route("/api/v1/runtimes/{id}/{*below}", axum::routing::any(dialect))
}

/// Makes a runtime of an AI coding agent, in a new sandbox without network unless asked otherwise. The OpenHands client
/// takes `url` (with this server's address before it) as its base URL and `key` as its session key; what it finds there
/// needs that key and no login. Making a sandbox needs the scope `machines`; the scopes `run` and `files` are needed
/// anyway. Runtimes end with the server, and with the rights of who made them.
#[utoipa::path(post, path = "/api/v1/runtimes", tag = "runtimes", request_body = CreateRuntime,
    responses((status = 201, description = "It is ready", body = NewRuntime,
        headers(("Location" = String, description = "Where it is")))))]
pub(in super::super) async fn create_runtime(
    CanRun(actor): CanRun,
    audit: Audit,
    State(app): State<App>,
    Query(NoQuery {}): Query<NoQuery>,
    Json(request): Json<CreateRuntime>,
) -> Reply<Response> {
    actor.require(Scope::Files)?;
    let plan = app.runtimes().plan(&actor, request)?;
    audit.about("runtime.create", plan.target());
    audit.detail(format!("runtime {}", plan.id()));
    if plan.makes_machine() {
        actor.require(Scope::Machines)?;
    }
    // Its own task: a client that leaves now must not leave a sandbox behind.
    let (tell, made) = oneshot::channel();
    let at = app.clone();
    app.tasks().spawn(async move {
        let made = Runtimes::make(&at, &actor, plan).await;
        if let Err(Ok((one, _))) = tell.send(made) {
            // Nobody knows its key.
            one.end().await;
        }
    });
    let gone = |_| Error::new(ErrorKind::Unexpected, "starting the runtime ended in an error of the server");
    let (one, key) = made.await.map_err(gone)??;
    let runtime = one.describe();
    let location = HeaderValue::from_str(&url(&runtime.id));
    let mut response = (StatusCode::CREATED, Json(NewRuntime { key, runtime })).into_response();
    if let Ok(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// All runtimes.
#[utoipa::path(get, path = "/api/v1/runtimes", tag = "runtimes",
    responses((status = 200, description = "All of them", body = Items<Runtime>)))]
pub(in super::super) async fn list_runtimes(
    _: CanRead,
    State(app): State<App>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Reply<Json<Items<Runtime>>> {
    let all = app.runtimes().list();
    let items = all.iter().map(|one| {
        let mut runtime = one.describe();
        runtime.state.actions.clear();
        runtime
    });
    Ok(Json(Items { items: items.collect() }))
}

/// One runtime, and what it has done.
#[utoipa::path(get, path = "/api/v1/runtimes/{id}", tag = "runtimes",
    params(("id" = String, Path, description = "Its id")),
    responses((status = 200, description = "As of now", body = Runtime)))]
pub(in super::super) async fn get_runtime(
    _: CanRead,
    State(app): State<App>,
    Path(id): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Reply<Json<Runtime>> {
    Ok(Json(app.runtimes().get(&id)?.describe()))
}

/// Ends a runtime: its shell and everything it started, and the sandbox that was made for it with all its files.
#[utoipa::path(delete, path = "/api/v1/runtimes/{id}", tag = "runtimes",
    params(("id" = String, Path, description = "Its id")),
    responses((status = 204, description = "It is gone")))]
pub(in super::super) async fn end_runtime(
    _: CanRun,
    audit: Audit,
    State(app): State<App>,
    Path(id): Path<String>,
) -> Reply<StatusCode> {
    audit.about("runtime.end", id.escape_debug());
    let one = app.runtimes().get(&id)?;
    one.end().await;
    Ok(StatusCode::NO_CONTENT)
}

/// What a runtime does, as it happens: server-sent events `shell`, `started`, `output` (text of the terminal, or base64
/// where it is none), `ended`, `gap` (output that is not kept any more), `lost` (events that are not), `closed`. Begins with
/// the action that runs. `?from=start` begins with the oldest that is kept, `?output=false` leaves the output out, and
/// `Last-Event-ID` goes on where an earlier stream broke off.
#[utoipa::path(get, path = "/api/v1/runtimes/{id}/events", tag = "runtimes",
    params(("id" = String, Path, description = "Its id"),
        ("from" = Option<String>, Query, description = "`now` or `start`"),
        ("output" = Option<bool>, Query, description = "Whether output is part of it. Default: yes"),
        ("Last-Event-ID" = Option<String>, Header, description = "Id of the last event that was seen")),
    responses((status = 200, description = "Events", body = String, content_type = "text/event-stream")))]
pub(in super::super) async fn runtime_events(
    CanRead(actor): CanRead,
    State(app): State<App>,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Reply<Response> {
    let one = app.runtimes().get(&id)?;
    let asked = compat::events_request(uri.query(), &headers);
    let (from, output) = asked.map_err(|rule| Problem::invalid("query", rule))?;
    let pass = actor.stream(&app)?;
    let feed = one.hosted.feed(from, output);
    let feed = feed.map_err(|()| Problem::invalid("Last-Event-ID", "an id of this runtime"))?;
    let feed = feed.ok_or_else(|| Problem::quota("watchers of one runtime", compat::RUNTIME_WATCHERS))?;
    Ok(compat::events(feed, pass.over()))
}

/// What the client of the agent asks. Whether it may is a matter of the runtime's key.
pub(in super::super) async fn dialect(
    State(app): State<App>,
    audit: Audit,
    mut request: Request,
) -> Response {
    let path = request.uri().path();
    let Some((id, below)) = path.strip_prefix("/api/v1/runtimes/").and_then(|rest| {
        let (id, _) = rest.split_once('/')?;
        Some((id.to_owned(), rest.get(id.len()..)?.to_owned()))
    }) else {
        return Problem::not_found("runtime", path.escape_debug()).into_response();
    };
    let one = match app.runtimes().get(&id) {
        Ok(one) => one,
        Err(none) => return none.into_response(),
    };
    let action = match below.as_str() {
        _ if request.method() != Method::POST => None,
        "/execute_action" => Some("runtime.action"),
        "/upload_file" => Some("runtime.upload"),
        "/update_mcp_server" => Some("runtime.tools"),
        _ => None,
    };
    let uri = match request.uri().query() {
        Some(query) => format!("{below}?{query}").parse(),
        None => below.parse(),
    };
    let Ok(uri) = uri else { return Problem::invalid("path", "well formed").into_response() };
    *request.uri_mut() = uri;
    // In the name of who made it, who answers for the key. Told before, so that a client that leaves is told of too.
    if let Some(action) = action.filter(|_| one.hosted.knows(request.headers())) {
        audit.set_actor(one.owner());
        audit.about(action, &id);
    }
    one.hosted.answer(request).await
}
