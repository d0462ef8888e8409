//! Commands: create, list, watch, control.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{State, ws::WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use fleetcore::{
    Channel, CommandEvent, CommandFilter, CommandHandle, CommandId, CommandSpec, CommandState, Error,
    ErrorKind, Offset, RunningCommand, Scope, Target,
};
use futures::{FutureExt as _, StreamExt, future::BoxFuture};
use jiff::Timestamp;
use serde::Deserialize;
use tokio::{sync::oneshot, task::JoinHandle};
use utoipa::IntoParams;

use super::{
    attach::{self, AttachQuery, Party},
    output::{self, OutputQuery, Source},
    wire::{
        Command, CommandOutput, CreateCommand, Encoding, Page, SendSignal, Size, StateName, WaitFor, millis,
    },
};
use crate::{
    app::App,
    auth::{Audit, CanRead, CanRun, Permit},
    error::{Problem, Reply},
    extract::{Json, NoQuery, Path, Query},
};

/// Most output a `wait` gives back.
const WAIT_OUTPUT_MAX: usize = 16 << 20;
/// Page length of lists when the request names none.
const PAGE: usize = 100;
/// Longest page.
const PAGE_MAX: usize = 1000;

pub(super) fn id(text: &str) -> Result<CommandId, Problem> {
    Ok(text.parse()?)
}

/// Checks `limit`.
pub(super) fn page_len(limit: Option<usize>) -> Result<usize, Problem> {
    match limit.unwrap_or(PAGE) {
        0 => Err(Problem::invalid("limit", "from 1 to 1000")),
        n if n > PAGE_MAX => Err(Problem::invalid("limit", "from 1 to 1000")),
        n => Ok(n),
    }
}

/// Runs a command. It belongs to the server and outlives the request. With an `id` the request can be repeated: the
/// same content gives 200 and the command there is, other content 409.
#[utoipa::path(
    post, path = "/api/v1/commands", tag = "commands", request_body = CreateCommand,
    responses(
        (status = 201, description = "It was started", body = Command,
            headers(("Location" = String, description = "Where it is"))),
        (status = 200, description = "It had been started before", body = Command)
    )
)]
pub(super) async fn create_command(
    CanRun(actor): CanRun,
    audit: Audit,
    State(app): State<App>,
    Query(NoQuery {}): Query<NoQuery>,
    Json(mut request): Json<CreateCommand>,
) -> Reply<Response> {
    let target: Target = request.target.parse()?;
    let (id, chosen) = chosen(request.id)?;
    audit.about("command.create", format_args!("{target} {id}"));
    let wait = request.wait.map(|w| check_wait(&app, w)).transpose()?;
    let spec = request.spec()?;
    let machine = app.fleet().target(&target)?;
    let asked = spec.clone();
    let cx = actor.context();
    let start = async move { machine.spawn_with(&cx, id, spec).await }.boxed();
    begin(&app, actor.name(), Begin { id, chosen, target, asked, start }, wait).await
}

/// A command to start.
pub(super) struct Begin {
    pub(super) id: CommandId,
    /// The client chose the id, so the request may be a repeated one.
    pub(super) chosen: bool,
    pub(super) target: Target,
    /// What is asked for, to recognise a repeated request.
    pub(super) asked: CommandSpec,
    pub(super) start: BoxFuture<'static, fleetcore::Result<RunningCommand>>,
}

/// The id a client chose, or a new one; and whether it was chosen.
pub(super) fn chosen(id: Option<uuid::Uuid>) -> Result<(CommandId, bool), Problem> {
    match id {
        Some(id) if id.is_nil() => Err(Problem::invalid("id", "a UUID other than the nil one")),
        Some(id) => Ok((CommandId::from(id), true)),
        None => Ok((CommandId::generate(), false)),
    }
}

/// Starts a command within the caller's quota; what is started belongs to the server.
pub(super) async fn begin(
    app: &App,
    actor: &Arc<str>,
    begin: Begin,
    wait: Option<(WaitFor, Duration)>,
) -> Reply<Response> {
    let Begin { id, chosen, target, asked, start } = begin;
    let permit = app.command_quota().take(actor)?;
    let (answer, started) = oneshot::channel();
    // Its own task: a client that goes away now must neither leave a record of a command that never started, nor give
    // its permit back while the command runs.
    let held = app.tasks().spawn(hold(start, permit, answer));
    let started =
        started.await.map_err(|e| Error::new(ErrorKind::Unexpected, "starting failed").with_source(e))?;
    match started {
        Ok(handle) => {
            let command = finish(app, handle, wait, Some(held)).await?;
            Ok(created(StatusCode::CREATED, command))
        }
        Err(error) if chosen && error.kind() == ErrorKind::AlreadyExists => {
            let record = app.fleet().commands().get(id).await?;
            if !app.fleet().commands().is_repeat(&record, &target, &asked) {
                return Err(error.into());
            }
            let command = match (app.fleet().commands().handle(id), wait) {
                (Some(handle), wait) => finish(app, handle, wait, None).await?,
                (None, None) => Command::from(&record),
                (None, Some(wait)) => {
                    let events = app.fleet().commands().stream(id, Offset(0)).await?;
                    let output = collect(events, wait.0, wait.1).await?;
                    Command { output: Some(output), ..Command::from(&record) }
                }
            };
            Ok(created(StatusCode::OK, command))
        }
        Err(error) => Err(error.into()),
    }
}

/// Starts a command, and holds the permit until it has ended.
async fn hold(
    start: BoxFuture<'static, fleetcore::Result<RunningCommand>>,
    permit: Permit,
    answer: oneshot::Sender<fleetcore::Result<CommandHandle>>,
) {
    match start.await {
        Ok(command) => {
            let handle = command.detach();
            // Fails when the client has left, which is its business; the command runs.
            let _ = answer.send(Ok(handle.clone()));
            // An error means that the supervisor is gone, and the command with it.
            let _ = handle.wait().await;
            drop(permit);
        }
        Err(error) => {
            drop(permit);
            let _ = answer.send(Err(error));
        }
    }
}

fn created(status: StatusCode, command: Command) -> Response {
    let location = HeaderValue::from_str(&format!("/api/v1/commands/{}", command.id));
    let mut response = (status, Json(command)).into_response();
    if let Ok(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

fn check_wait(app: &App, wait: WaitFor) -> Result<(WaitFor, Duration), Problem> {
    let limit = millis("wait.timeout_ms", wait.timeout_ms)?;
    if limit > app.config().limits.wait {
        return Err(Problem::invalid(
            "wait.timeout_ms",
            format!("at most {}", app.config().limits.wait.as_millis()),
        ));
    }
    if wait.output_bytes > WAIT_OUTPUT_MAX {
        return Err(Problem::invalid("wait.output_bytes", "at most 16777216"));
    }
    Ok((wait, limit))
}

/// Waits if asked to. `held` is the task that holds the permit: whoever is told that the command has ended may start
/// the next one.
async fn finish(
    app: &App,
    handle: CommandHandle,
    wait: Option<(WaitFor, Duration)>,
    held: Option<JoinHandle<()>>,
) -> Result<Command, Problem> {
    let output = match wait {
        Some((wait, limit)) => {
            let events = handle.stream(Offset(0));
            tokio::select! {
                output = collect(events, wait, limit) => Some(output?),
                () = app.stopping().cancelled() => None,
            }
        }
        None => None,
    };
    let record = handle.record();
    if let Some(held) = held.filter(|_| record.state.is_settled()) {
        // Fails only with the runtime.
        let _ = held.await;
    }
    let mut command = Command::from(&*record);
    command.output = output;
    Ok(command)
}

/// Output until the end, or until the time is up.
async fn collect(
    mut events: Box<dyn fleetcore::CommandStream>,
    wait: WaitFor,
    limit: Duration,
) -> Result<CommandOutput, Problem> {
    let mut stdout = vec![];
    let mut stderr = vec![];
    let mut room = wait.output_bytes;
    let mut truncated = false;
    let until_end = async {
        while let Some(event) = events.next().await {
            match event? {
                CommandEvent::Output(chunk) => {
                    let (part, rest) = chunk.data.split_at(chunk.data.len().min(room));
                    room -= part.len();
                    truncated |= !rest.is_empty();
                    let all = if chunk.channel == Channel::Stderr { &mut stderr } else { &mut stdout };
                    all.extend_from_slice(part);
                }
                CommandEvent::Gap { .. } => truncated = true,
                CommandEvent::Exited(_) => break,
                _ => {}
            }
        }
        Ok::<(), Error>(())
    };
    if let Ok(ended) = tokio::time::timeout(limit, until_end).await {
        ended?;
    }
    let text = |bytes: Vec<u8>| match wait.encoding {
        Encoding::Utf8 => {
            String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
        }
        Encoding::Base64 => STANDARD.encode(bytes),
    };
    Ok(CommandOutput { stdout: text(stdout), stderr: text(stderr), truncated, encoding: wait.encoding })
}

/// Which commands to list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only on this target.
    #[param(nullable = false)]
    target: Option<String>,
    /// Only in one of these states.
    #[param(value_type = Vec<StateName>)]
    state: Vec<CommandState>,
    /// Only with this label, as `key=value`; may be repeated.
    label: Vec<String>,
    /// Only those whose program contains this text.
    #[param(nullable = false)]
    search: Option<String>,
    /// Only those recorded at or after this.
    #[param(nullable = false)]
    since: Option<Timestamp>,
    /// Only those before this one: `next` of the page before.
    #[param(nullable = false, format = Uuid)]
    before: Option<String>,
    /// Length of the page, 1 to 1000. Default 100.
    #[param(nullable = false, minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

/// Commands, newest first.
#[utoipa::path(get, path = "/api/v1/commands", tag = "commands", params(ListQuery),
    responses((status = 200, description = "One page", body = Page<Command>)))]
pub(super) async fn list_commands(
    _: CanRead,
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Reply<Json<Page<Command>>> {
    let limit = page_len(query.limit)?;
    let mut filter = CommandFilter::default();
    filter.target = query.target.map(|t| t.parse()).transpose()?;
    filter.states = query.state;
    for label in &query.label {
        let (key, value) = label.split_once('=').ok_or_else(|| Problem::invalid("label", "key=value"))?;
        filter.labels.insert(key.to_owned(), value.to_owned());
    }
    filter.search = query.search.filter(|s| !s.is_empty());
    filter.since = query.since;
    filter.before = query.before.map(|b| id(&b)).transpose()?;
    // One more than asked for tells whether there is another page.
    filter.limit = Some(limit + 1);
    let mut records = app.fleet().commands().list(filter).await?;
    let more = records.len() > limit;
    records.truncate(limit);
    let next = records.last().filter(|_| more).map(|r| r.id.to_string());
    Ok(Json(Page { items: records.iter().map(Command::from).collect(), next }))
}

/// Whether to wait.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct GetQuery {
    /// Answer when the command has ended, or after this long.
    #[param(nullable = false, maximum = 31_622_400_000_u64)]
    wait_ms: Option<u64>,
}

/// One command.
#[utoipa::path(get, path = "/api/v1/commands/{id}", tag = "commands",
    params(("id" = String, Path, format = Uuid, description = "Its id"), GetQuery),
    responses((status = 200, description = "As of now", body = Command)))]
pub(super) async fn get_command(
    _: CanRead,
    State(app): State<App>,
    Path(text): Path<String>,
    Query(query): Query<GetQuery>,
) -> Reply<Json<Command>> {
    let id = id(&text)?;
    if let Some(ms) = query.wait_ms {
        let limit = millis("wait_ms", ms)?.min(app.config().limits.wait);
        tokio::select! {
            // An error means that the supervisor is gone or that there is no such command; the record says the rest.
            _ = app.fleet().commands().wait(id) => {}
            () = tokio::time::sleep(limit) => {}
            () = app.stopping().cancelled() => {}
        }
    }
    Ok(Json(Command::from(&app.fleet().commands().get(id).await?)))
}

/// Signals the command and everything it started.
#[utoipa::path(post, path = "/api/v1/commands/{id}/signal", tag = "commands", request_body = SendSignal,
    params(("id" = String, Path, format = Uuid, description = "Its id")),
    responses((status = 204, description = "Sent")))]
pub(super) async fn signal_command(
    _: CanRun,
    audit: Audit,
    State(app): State<App>,
    Path(text): Path<String>,
    Json(request): Json<SendSignal>,
) -> Reply<StatusCode> {
    let id = id(&text)?;
    audit.about("command.signal", id);
    app.fleet().commands().steer(id).await?.signal(request.signal).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends the command: TERM, its grace, KILL. One that has ended is left alone.
#[utoipa::path(post, path = "/api/v1/commands/{id}/cancel", tag = "commands",
    params(("id" = String, Path, format = Uuid, description = "Its id")),
    responses((status = 202, description = "It is being ended", body = Command)))]
pub(super) async fn cancel_command(
    _: CanRun,
    audit: Audit,
    State(app): State<App>,
    Path(text): Path<String>,
) -> Reply<(StatusCode, Json<Command>)> {
    let id = id(&text)?;
    audit.about("command.cancel", id);
    let record = app.fleet().commands().cancel(id).await?;
    Ok((StatusCode::ACCEPTED, Json(Command::from(&record))))
}

/// Changes the size of its terminal.
#[utoipa::path(post, path = "/api/v1/commands/{id}/resize", tag = "commands", request_body = Size,
    params(("id" = String, Path, format = Uuid, description = "Its id")),
    responses((status = 204, description = "Changed")))]
pub(super) async fn resize_command(
    _: CanRun,
    audit: Audit,
    State(app): State<App>,
    Path(text): Path<String>,
    Json(size): Json<Size>,
) -> Reply<StatusCode> {
    let id = id(&text)?;
    audit.about("command.resize", id);
    app.fleet().commands().steer(id).await?.resize(size.check()?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Whether to close the input.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct StdinQuery {
    /// Close the input after this body.
    #[param(nullable = false)]
    close: Option<bool>,
}

/// Streams the body into the command's input, as fast as the command reads it.
#[utoipa::path(post, path = "/api/v1/commands/{id}/stdin", tag = "commands",
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    params(("id" = String, Path, format = Uuid, description = "Its id"), StdinQuery),
    responses((status = 204, description = "Taken")))]
pub(super) async fn write_stdin(
    CanRun(actor): CanRun,
    audit: Audit,
    State(app): State<App>,
    Path(text): Path<String>,
    Query(query): Query<StdinQuery>,
    body: Body,
) -> Reply<StatusCode> {
    let id = id(&text)?;
    audit.about("command.stdin", id);
    let handle = app.fleet().commands().steer(id).await?;
    let mut data = body.into_data_stream();
    let mut total = 0u64;
    let mut login_ended = actor.login_ended();
    loop {
        let piece = tokio::select! {
            biased;
            () = &mut login_ended => return Err(Problem::unauthenticated("the login has ended")
                .with_context("written_bytes", total)),
            piece = data.next() => piece,
        };
        let Some(piece) = piece else { break };
        let piece = piece.map_err(|e| {
            Problem::invalid("body", "sent completely")
                .with_context("cause", e)
                .with_context("written_bytes", total)
        })?;
        let len = piece.len() as u64;
        handle.write_stdin(piece).await.map_err(|e| e.with_context("written_bytes", total))?;
        total += len;
    }
    if query.close == Some(true) {
        handle.close_stdin().await;
    }
    audit.detail(format!("{total} bytes"));
    Ok(StatusCode::NO_CONTENT)
}

/// Closes the command's input.
#[utoipa::path(delete, path = "/api/v1/commands/{id}/stdin", tag = "commands",
    params(("id" = String, Path, format = Uuid, description = "Its id")),
    responses((status = 204, description = "Closed")))]
pub(super) async fn close_stdin(
    _: CanRun,
    audit: Audit,
    State(app): State<App>,
    Path(text): Path<String>,
) -> Reply<StatusCode> {
    let id = id(&text)?;
    audit.about("command.close_stdin", id);
    app.fleet().commands().steer(id).await?.close_stdin().await;
    Ok(StatusCode::NO_CONTENT)
}

/// Output: with `Accept: text/event-stream` as events, else as bytes.
///
/// Events are `output`, `gap`, `state` and last `exit`; the `id` of each is where to resume with `Last-Event-ID` or
/// `from`. Bytes stay until the command ends unless `follow=false`; `Range` gives a part of what is there now. When the
/// first bytes are no longer kept, the header `Fleetcore-Gap: from-to` says which.
#[utoipa::path(get, path = "/api/v1/commands/{id}/output", tag = "commands",
    params(("id" = String, Path, format = Uuid, description = "Its id"), OutputQuery,
        ("Range" = Option<String>, Header, description = "`bytes=a-b`, `bytes=a-` or `bytes=-n`", nullable = false),
        ("Last-Event-ID" = Option<String>, Header, description = "Offset to resume events at", nullable = false)),
    responses(
        (status = 200, description = "All of it", content(
            (Vec<u8> = "application/octet-stream"), (String = "text/event-stream"))),
        (status = 206, description = "A part", body = Vec<u8>, content_type = "application/octet-stream")))]
pub(super) async fn command_output(
    CanRead(actor): CanRead,
    State(app): State<App>,
    Path(text): Path<String>,
    Query(query): Query<OutputQuery>,
    headers: HeaderMap,
) -> Reply<Response> {
    let pass = actor.stream(&app)?;
    let source = Source::Command { id: id(&text)?, holds: actor.may(Scope::Run) };
    output::respond(&app, source, query, &headers, pass).await
}

/// Output so far as an asciicast v2 recording.
#[utoipa::path(get, path = "/api/v1/commands/{id}/output.cast", tag = "commands",
    params(("id" = String, Path, format = Uuid, description = "Its id")),
    responses((status = 200, description = "The recording", body = String, content_type = "application/x-asciicast")))]
pub(super) async fn command_cast(
    CanRead(actor): CanRead,
    State(app): State<App>,
    Path(text): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Reply<Response> {
    let record = app.fleet().commands().get(id(&text)?).await?;
    let pass = actor.stream(&app)?;
    output::recording(&app, &record, pass).await
}

/// WebSocket with the subprotocol `fleetcore.v1`: output, input, resize, signals, flow control.
#[utoipa::path(get, path = "/api/v1/commands/{id}/attach", tag = "commands",
    params(("id" = String, Path, format = Uuid, description = "Its id"), AttachQuery),
    responses((status = 101, description = "The connection is a WebSocket now")))]
pub(super) async fn attach_command(
    CanRead(actor): CanRead,
    State(app): State<App>,
    Path(text): Path<String>,
    Query(query): Query<AttachQuery>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Reply<Response> {
    let id = id(&text)?;
    let (handle, state) = match app.fleet().commands().steer(id).await {
        Ok(handle) => (Some(handle.clone()), handle.record().state),
        // What it wrote can still be had.
        Err(e) if e.kind() == ErrorKind::InvalidState => (None, app.fleet().commands().get(id).await?.state),
        Err(e) => return Err(e.into()),
    };
    let pass = actor.stream(&app)?;
    attach::attach(&app, &actor, Party::Command { id, handle, state }, query, upgrade, pass).await
}
