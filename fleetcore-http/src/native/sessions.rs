//! Sessions: shells that belong to the server.

use std::{collections::HashMap, sync::Arc};

use axum::{
    extract::{State, ws::WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use fleetcore::{Offset, Result as CoreResult, Session as CoreSession, SessionId, Target, Turn as CoreTurn};
use parking_lot::Mutex;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    attach::{self, AttachQuery, Party},
    output::{self, OutputQuery, Source},
    wire::{
        CreateSession, Items, RunInSession, ScreenText, SendKeys, Session, Size, Turn, TurnText, Wait, WaitOn,
    },
};
use crate::{
    app::App,
    auth::{Audit, CanRead, CanRun},
    error::{Problem, Reply},
    extract::{Json, NoQuery, Path, Query},
};

/// Text of a turn that is given back unless the request says otherwise.
const TURN_OUTPUT_BYTES: usize = 64 << 10;
/// Most of it.
const TURN_OUTPUT_MAX: usize = 16 << 20;

/// Who opened which session, for the quota.
#[derive(Debug)]
pub(crate) struct SessionOwners {
    limit: usize,
    owners: Mutex<HashMap<SessionId, Arc<str>>>,
}

impl SessionOwners {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, owners: Mutex::default() }
    }

    /// Notes a session that is about to be opened. Those that are gone meanwhile are forgotten here: sessions end in
    /// many ways, and all that matters is the count when a new one is asked for.
    fn claim(&self, app: &App, id: &SessionId, actor: &Arc<str>) -> Result<(), Problem> {
        let mut owners = self.owners.lock();
        if owners.values().filter(|o| *o == actor).count() >= self.limit {
            owners.retain(|id, _| app.fleet().sessions().target(id).is_ok());
        }
        if owners.values().filter(|o| *o == actor).count() >= self.limit {
            return Err(Problem::quota("sessions", self.limit));
        }
        owners.entry(id.clone()).or_insert_with(|| actor.clone());
        Ok(())
    }

    fn forget(&self, id: &SessionId) {
        self.owners.lock().remove(id);
    }
}

fn find(app: &App, name: &str) -> Result<(SessionId, Arc<dyn CoreSession>), Problem> {
    let id = SessionId::new(name)?;
    let session = app.fleet().sessions().get(&id)?;
    Ok((id, session))
}

fn describe(app: &App, id: &SessionId, session: &dyn CoreSession) -> Result<Session, Problem> {
    let sessions = app.fleet().sessions();
    Ok(Session::new(sessions.target(id)?, session.info(), sessions.viewers(id)))
}

/// Opens a session. It lives until it is closed, its shell ends, or it has been idle for too long.
#[utoipa::path(post, path = "/api/v1/sessions", tag = "sessions", request_body = CreateSession,
    responses((status = 201, description = "It is open", body = Session,
        headers(("Location" = String, description = "Where it is")))))]
pub(super) async fn create_session(
    CanRun(actor): CanRun,
    audit: Audit,
    State(app): State<App>,
    Query(NoQuery {}): Query<NoQuery>,
    Json(request): Json<CreateSession>,
) -> Reply<Response> {
    let target: Target = request.target.parse()?;
    let spec = request.spec(app.config().session_idle)?;
    let id = spec.id.clone();
    audit.about("session.create", format_args!("{target} {id}"));
    let machine = app.fleet().target(&target)?;
    let taken = app.fleet().sessions().target(&id).is_ok();
    if !taken {
        app.session_owners().claim(&app, &id, actor.name())?;
    }
    let session = match app.fleet().sessions().open(&actor.context(), &machine, spec).await {
        Ok(session) => session,
        Err(error) => {
            if !taken {
                app.session_owners().forget(&id);
            }
            return Err(error.into());
        }
    };
    let location = HeaderValue::from_str(&format!("/api/v1/sessions/{id}"));
    let session = Session::new(target, session.info(), 0);
    let mut response = (StatusCode::CREATED, Json(session)).into_response();
    if let Ok(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Which sessions to list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only on this target.
    #[param(nullable = false)]
    target: Option<String>,
}

/// Open sessions, by name.
#[utoipa::path(get, path = "/api/v1/sessions", tag = "sessions", params(ListQuery),
    responses((status = 200, description = "All of them", body = Items<Session>)))]
pub(super) async fn list_sessions(
    _: CanRead,
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Reply<Json<Items<Session>>> {
    let only: Option<Target> = query.target.map(|t| t.parse()).transpose()?;
    let sessions = app.fleet().sessions();
    let items = sessions.list().into_iter().filter(|(target, _)| only.as_ref().is_none_or(|o| o == target));
    let items = items.map(|(target, info)| {
        let viewers = sessions.viewers(&info.id);
        Session::new(target, info, viewers)
    });
    Ok(Json(Items { items: items.collect() }))
}

/// One session.
#[utoipa::path(get, path = "/api/v1/sessions/{id}", tag = "sessions",
    params(("id" = String, Path, description = "Its name", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$")),
    responses((status = 200, description = "As of now", body = Session)))]
pub(super) async fn get_session(
    _: CanRead,
    State(app): State<App>,
    Path(name): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Reply<Json<Session>> {
    let (id, session) = find(&app, &name)?;
    Ok(Json(describe(&app, &id, &*session)?))
}

/// Closes a session: its shell and everything it started end.
#[utoipa::path(delete, path = "/api/v1/sessions/{id}", tag = "sessions",
    params(("id" = String, Path, description = "Its name", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$")),
    responses((status = 200, description = "Its last state", body = Session)))]
pub(super) async fn close_session(
    _: CanRun,
    audit: Audit,
    State(app): State<App>,
    Path(name): Path<String>,
) -> Reply<Json<Session>> {
    let id = SessionId::new(name)?;
    audit.about("session.close", &id);
    let target = app.fleet().sessions().target(&id)?;
    let info = app.fleet().sessions().close(&id).await?;
    app.session_owners().forget(&id);
    Ok(Json(Session::new(target, info, 0)))
}

async fn turn(
    app: &App,
    id: &SessionId,
    session: &dyn CoreSession,
    wait: &Wait,
    work: impl Future<Output = CoreResult<CoreTurn>>,
) -> Reply<Json<Turn>> {
    let limit = wait.output_bytes.unwrap_or(TURN_OUTPUT_BYTES);
    if limit > TURN_OUTPUT_MAX {
        return Err(Problem::invalid("wait.output_bytes", "at most 16777216"));
    }
    tokio::pin!(work);
    // The first look starts it; those who watch then see a busy session.
    let done = match futures::poll!(&mut work) {
        std::task::Poll::Ready(done) => done,
        std::task::Poll::Pending => {
            app.session_changed(id);
            tokio::select! {
                done = work => done,
                // The turn goes on without us; the session itself is closed by the fleet.
                () = app.stopping().cancelled() => {
                    return Err(fleetcore::Error::new(fleetcore::ErrorKind::Unavailable, "the server stops").into());
                }
            }
        }
    };
    app.session_changed(id);
    let done = done?;
    let text = session.text(done.output.clone()).await?;
    Ok(Json(Turn::new(&done, text, limit)))
}

/// Runs a command in the shell. 409 `busy` while one is still running.
#[utoipa::path(post, path = "/api/v1/sessions/{id}/run", tag = "sessions", request_body = RunInSession,
    params(("id" = String, Path, description = "Its name", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$")),
    responses((status = 200, description = "Where the command stands", body = Turn)))]
pub(super) async fn run_in_session(
    _: CanRun,
    audit: Audit,
    State(app): State<App>,
    Path(name): Path<String>,
    Json(request): Json<RunInSession>,
) -> Reply<Json<Turn>> {
    let (id, session) = find(&app, &name)?;
    audit.about("session.run", &id);
    if request.command.contains('\0') {
        return Err(Problem::invalid("command", "text without a NUL character"));
    }
    let policy = request.wait.policy(app.config().limits.wait)?;
    turn(&app, &id, &*session, &request.wait, session.run(&request.command, policy)).await
}

/// Waits on for the command that is still running.
#[utoipa::path(post, path = "/api/v1/sessions/{id}/resume", tag = "sessions", request_body = WaitOn,
    params(("id" = String, Path, description = "Its name", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$")),
    responses((status = 200, description = "Where the command stands", body = Turn)))]
pub(super) async fn resume_session(
    _: CanRun,
    audit: Audit,
    State(app): State<App>,
    Path(name): Path<String>,
    Json(request): Json<WaitOn>,
) -> Reply<Json<Turn>> {
    let (id, session) = find(&app, &name)?;
    audit.about("session.resume", &id);
    let policy = request.wait.policy(app.config().limits.wait)?;
    turn(&app, &id, &*session, &request.wait, session.resume(policy)).await
}

/// Types Ctrl-C, then waits. Works while another request waits in `run`.
#[utoipa::path(post, path = "/api/v1/sessions/{id}/interrupt", tag = "sessions", request_body = WaitOn,
    params(("id" = String, Path, description = "Its name", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$")),
    responses((status = 200, description = "Where the command stands", body = Turn)))]
pub(super) async fn interrupt_session(
    _: CanRun,
    audit: Audit,
    State(app): State<App>,
    Path(name): Path<String>,
    Json(request): Json<WaitOn>,
) -> Reply<Json<Turn>> {
    let (id, session) = find(&app, &name)?;
    audit.about("session.interrupt", &id);
    let policy = request.wait.policy(app.config().limits.wait)?;
    turn(&app, &id, &*session, &request.wait, session.interrupt(policy)).await
}

/// Types keys into the program in the foreground.
#[utoipa::path(post, path = "/api/v1/sessions/{id}/keys", tag = "sessions", request_body = SendKeys,
    params(("id" = String, Path, description = "Its name", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$")),
    responses((status = 204, description = "Typed")))]
pub(super) async fn send_keys(
    _: CanRun,
    audit: Audit,
    State(app): State<App>,
    Path(name): Path<String>,
    Json(request): Json<SendKeys>,
) -> Reply<StatusCode> {
    let (id, session) = find(&app, &name)?;
    audit.about("session.keys", &id);
    session.send_keys(&request.keys).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Changes the size of its terminal.
#[utoipa::path(post, path = "/api/v1/sessions/{id}/resize", tag = "sessions", request_body = Size,
    params(("id" = String, Path, description = "Its name", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$")),
    responses((status = 204, description = "Changed")))]
pub(super) async fn resize_session(
    _: CanRun,
    audit: Audit,
    State(app): State<App>,
    Path(name): Path<String>,
    Json(size): Json<Size>,
) -> Reply<StatusCode> {
    let (id, session) = find(&app, &name)?;
    audit.about("session.resize", &id);
    session.resize(size.check()?).await?;
    app.session_changed(&id);
    Ok(StatusCode::NO_CONTENT)
}

/// What to show.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ScreenQuery {
    /// `false` leaves out what has scrolled off.
    #[param(nullable = false)]
    scrollback: Option<bool>,
}

/// What its terminal shows, as text.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/screen", tag = "sessions",
    params(("id" = String, Path, description = "Its name", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$"), ScreenQuery),
    responses((status = 200, description = "The screen", body = ScreenText)))]
pub(super) async fn session_screen(
    _: CanRead,
    State(app): State<App>,
    Path(name): Path<String>,
    Query(query): Query<ScreenQuery>,
) -> Reply<Json<ScreenText>> {
    let (_, session) = find(&app, &name)?;
    let mut screen = session.screen().await?;
    if query.scrollback == Some(false) {
        screen.scrollback.clear();
    }
    Ok(Json(screen.into()))
}

/// Which part of the output.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TextQuery {
    /// First byte.
    from: u64,
    /// First byte that is not wanted any more.
    to: u64,
}

/// Text of a part of its output: what commands wrote, without the shell's own marks and echo. Bytes that are no longer
/// kept are missing.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/text", tag = "sessions",
    params(("id" = String, Path, description = "Its name", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$"), TextQuery),
    responses((status = 200, description = "The text", body = TurnText)))]
pub(super) async fn session_text(
    _: CanRead,
    State(app): State<App>,
    Path(name): Path<String>,
    Query(query): Query<TextQuery>,
) -> Reply<Json<TurnText>> {
    let (_, session) = find(&app, &name)?;
    if query.from > query.to {
        return Err(Problem::invalid("to", "at least as much as from"));
    }
    Ok(Json(TurnText { text: session.text(Offset(query.from)..Offset(query.to)).await? }))
}

/// Output of its terminal, as for commands.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/output", tag = "sessions",
    params(("id" = String, Path, description = "Its name", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$"), OutputQuery,
        ("Range" = Option<String>, Header, description = "`bytes=a-b`, `bytes=a-` or `bytes=-n`", nullable = false),
        ("Last-Event-ID" = Option<String>, Header, description = "Offset to resume events at", nullable = false)),
    responses(
        (status = 200, description = "All of it", content(
            (Vec<u8> = "application/octet-stream"), (String = "text/event-stream"))),
        (status = 206, description = "A part", body = Vec<u8>, content_type = "application/octet-stream")))]
pub(super) async fn session_output(
    CanRead(actor): CanRead,
    State(app): State<App>,
    Path(name): Path<String>,
    Query(query): Query<OutputQuery>,
    headers: HeaderMap,
) -> Reply<Response> {
    let (_, session) = find(&app, &name)?;
    let pass = actor.stream(&app)?;
    output::respond(&app, Source::Session(session), query, &headers, pass).await
}

/// WebSocket with the subprotocol `fleetcore.v1`, as for commands. Any number of viewers at once.
#[utoipa::path(get, path = "/api/v1/sessions/{id}/attach", tag = "sessions",
    params(("id" = String, Path, description = "Its name", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$"), AttachQuery),
    responses((status = 101, description = "The connection is a WebSocket now")))]
pub(super) async fn attach_session(
    CanRead(actor): CanRead,
    State(app): State<App>,
    Path(name): Path<String>,
    Query(query): Query<AttachQuery>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Reply<Response> {
    let (id, session) = find(&app, &name)?;
    let pass = actor.stream(&app)?;
    let viewer = app.fleet().sessions().attach(&id)?;
    attach::attach(&app, &actor, Party::Session { session, viewer }, query, upgrade, pass).await
}
