//! Providers and the life of their machines. What is slow is a command; these routes only start it.

use std::time::Duration;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use fleetcore::{
    ActionInfo, CommandId, Machine as CoreMachine, MachineFilter, MachineState, Operation, ProviderHandle,
    Target,
};
use futures::{FutureExt as _, StreamExt as _, stream};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    commands::{self, Begin, chosen},
    wire::{
        ActionResult, Command, CreateMachine, DeleteMachine, DoAction, Items, Machine, MachineStateName,
        Machines, ProviderInfo, StartMachine, StopMachine,
    },
};
use crate::{
    app::App,
    auth::{Actor, Audit, CanMachines, CanRead},
    error::{Problem, Reply},
    extract::{Json, NoQuery, Path, Query},
};

/// Longest a provider may take to say whether it works.
const CHECK_LIMIT: Duration = Duration::from_secs(10);
/// Longest a provider may take to answer a question.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// Providers that are asked at once.
const ASKED_AT_ONCE: usize = 64;

/// All providers, here and at agents, and whether they work.
#[utoipa::path(get, path = "/api/v1/providers", tag = "machines",
    responses((status = 200, description = "All of them", body = Items<ProviderInfo>)))]
pub(super) async fn list_providers(
    CanRead(actor): CanRead,
    State(app): State<App>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Reply<Json<Items<ProviderInfo>>> {
    let mut all = app.fleet().providers();
    all.extend(app.fleet().agent_providers());
    let cx = actor.context();
    let checks: Vec<_> = all.into_iter().map(|provider| check(cx.clone(), provider)).collect();
    let items = stream::iter(checks).buffered(ASKED_AT_ONCE).collect().await;
    Ok(Json(Items { items }))
}

async fn check(cx: fleetcore::OpContext, provider: ProviderHandle) -> ProviderInfo {
    let works = provider.check(&cx.with_timeout(CHECK_LIMIT)).await;
    ProviderInfo::new(&provider, works)
}

/// Which machines.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct MachinesQuery {
    /// Only of this provider.
    #[param(nullable = false)]
    provider: Option<String>,
    /// Only with this label, as `key=value`; may be repeated.
    label: Vec<String>,
    /// Only in one of these states.
    #[param(value_type = Vec<MachineStateName>)]
    state: Vec<MachineState>,
    /// Also those that are deleted but not purged.
    #[param(nullable = false)]
    include_deleted: Option<bool>,
}

/// The machines of all providers, here and at agents. A provider that fails is among `errors` and hides nothing of the
/// others.
#[utoipa::path(get, path = "/api/v1/machines", tag = "machines", params(MachinesQuery),
    responses((status = 200, description = "All of them", body = Machines)))]
pub(super) async fn list_machines(
    CanRead(actor): CanRead,
    State(app): State<App>,
    Query(query): Query<MachinesQuery>,
) -> Reply<Json<Machines>> {
    let mut filter = MachineFilter::default();
    filter.include_deleted =
        query.include_deleted.unwrap_or(false) || query.state.contains(&MachineState::Deleted);
    for label in &query.label {
        let (key, value) = label.split_once('=').ok_or_else(|| Problem::invalid("label", "key=value"))?;
        filter.labels.insert(key.to_owned(), value.to_owned());
    }
    let listing = app.fleet().machines(&actor.context(), &filter).await?;
    let wanted = |provider: &str| query.provider.as_deref().is_none_or(|p| p == provider);
    let items = listing
        .machines
        .into_iter()
        .map(|m| Machine::new(m.target, m.info))
        .filter(|m| wanted(&m.provider) && (query.state.is_empty() || query.state.contains(&m.state)))
        .collect();
    let errors = listing.failures.into_iter().filter(|f| wanted(&f.provider)).map(Into::into).collect();
    Ok(Json(Machines { items, errors }))
}

/// Makes a machine. The command exits 0 when it is running; its output is the progress. Cancelling the command removes
/// what was made.
#[utoipa::path(post, path = "/api/v1/machines", tag = "machines", request_body = CreateMachine,
    responses(
        (status = 201, description = "It is being made", body = Command,
            headers(("Location" = String, description = "Where the command is"))),
        (status = 200, description = "The request had been made before", body = Command)
    )
)]
pub(super) async fn create_machine(
    CanMachines(actor): CanMachines,
    audit: Audit,
    State(app): State<App>,
    Query(NoQuery {}): Query<NoQuery>,
    Json(request): Json<CreateMachine>,
) -> Reply<Response> {
    let id = request.id;
    let target = request.target()?;
    audit.about("machine.create", &target);
    operate(&app, &actor, &target, id, Operation::Create(Box::new(request.spec()))).await
}

/// One machine.
#[utoipa::path(get, path = "/api/v1/targets/{target}/machine", tag = "machines",
    params(("target" = String, Path, description = "Its name, percent-encoded as one segment: `sandbox%2Fdev1`", example = "local", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,2}$")),
    responses((status = 200, description = "As of now", body = Machine)))]
pub(super) async fn get_machine(
    CanRead(actor): CanRead,
    State(app): State<App>,
    Path(name): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Reply<Json<Machine>> {
    let machine = app.fleet().machine(&name)?;
    let info = machine.info(&actor.context().with_timeout(ANSWER_LIMIT)).await?;
    Ok(Json(Machine::new(machine.target().clone(), info)))
}

/// Starts a machine; fine when it runs.
#[utoipa::path(post, path = "/api/v1/targets/{target}/start", tag = "machines", request_body = StartMachine,
    params(("target" = String, Path, description = "Its name, percent-encoded as one segment", example = "local", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,2}$")),
    responses(
        (status = 201, description = "It is being started", body = Command),
        (status = 200, description = "The request had been made before", body = Command)
    )
)]
pub(super) async fn start_machine(
    CanMachines(actor): CanMachines,
    audit: Audit,
    State(app): State<App>,
    Path(name): Path<String>,
    Json(request): Json<StartMachine>,
) -> Reply<Response> {
    let target = name.parse()?;
    audit.about("machine.start", &target);
    operate(&app, &actor, &target, request.id, Operation::Start).await
}

/// Stops a machine; fine when it is stopped.
#[utoipa::path(post, path = "/api/v1/targets/{target}/stop", tag = "machines", request_body = StopMachine,
    params(("target" = String, Path, description = "Its name, percent-encoded as one segment", example = "local", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,2}$")),
    responses(
        (status = 201, description = "It is being stopped", body = Command),
        (status = 200, description = "The request had been made before", body = Command)
    )
)]
pub(super) async fn stop_machine(
    CanMachines(actor): CanMachines,
    audit: Audit,
    State(app): State<App>,
    Path(name): Path<String>,
    Json(request): Json<StopMachine>,
) -> Reply<Response> {
    let target = name.parse()?;
    audit.about("machine.stop", &target);
    operate(&app, &actor, &target, request.id, Operation::Stop(request.mode.unwrap_or_default())).await
}

/// Deletes a machine; fine when it is gone.
#[utoipa::path(post, path = "/api/v1/targets/{target}/delete", tag = "machines", request_body = DeleteMachine,
    params(("target" = String, Path, description = "Its name, percent-encoded as one segment", example = "local", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,2}$")),
    responses(
        (status = 201, description = "It is being deleted", body = Command),
        (status = 200, description = "The request had been made before", body = Command)
    )
)]
pub(super) async fn delete_machine(
    CanMachines(actor): CanMachines,
    audit: Audit,
    State(app): State<App>,
    Path(name): Path<String>,
    Json(request): Json<DeleteMachine>,
) -> Reply<Response> {
    let target = name.parse()?;
    audit.about("machine.delete", &target);
    operate(&app, &actor, &target, request.id, Operation::Delete { purge: request.purge }).await
}

/// Does an action of its provider to a machine. A question is answered at once.
#[utoipa::path(post, path = "/api/v1/targets/{target}/actions/{action}", tag = "machines", request_body = DoAction,
    params(
        ("target" = String, Path, description = "Its name, percent-encoded as one segment", example = "local", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,2}$"),
        ("action" = String, Path, description = "Name of the action")
    ),
    responses(
        (status = 201, description = "It is being done; the last line of output is the answer, if there is one", body = Command),
        (status = 200, description = "The answer to a question, or the command when the request had been made before", body = ActionResult)
    )
)]
pub(super) async fn act_machine(
    CanRead(actor): CanRead,
    audit: Audit,
    State(app): State<App>,
    Path((name, action)): Path<(String, String)>,
    Json(request): Json<DoAction>,
) -> Reply<Response> {
    let machine = app.fleet().machine(&name)?;
    audit.about("machine.action", machine.target());
    audit.detail(format!("action {}", action.escape_debug()));
    let actions = machine.actions();
    let info = known(&actions, &action)?;
    if !info.changes {
        info.check(machine.target().machine_id(), &request.args)?;
        let cx = actor.context().with_timeout(ANSWER_LIMIT);
        let result = machine.act(&cx, &action, request.args).await?;
        return Ok((StatusCode::OK, Json(ActionResult { result })).into_response());
    }
    actor.require(fleetcore::Scope::Machines)?;
    let target = machine.target().clone();
    operate(&app, &actor, &target, request.id, Operation::Act { action, args: request.args }).await
}

/// Which provider.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ProviderQuery {
    /// The agent it is at. Default: the server's host.
    #[param(nullable = false)]
    agent: Option<String>,
}

/// Does an action of a provider as a whole. A question is answered at once.
#[utoipa::path(post, path = "/api/v1/providers/{provider}/actions/{action}", tag = "machines", request_body = DoAction,
    params(
        ("provider" = String, Path, description = "Name of the provider"),
        ("action" = String, Path, description = "Name of the action"),
        ProviderQuery
    ),
    responses(
        (status = 201, description = "It is being done; the last line of output is the answer, if there is one", body = Command),
        (status = 200, description = "The answer to a question, or the command when the request had been made before", body = ActionResult)
    )
)]
pub(super) async fn act_provider(
    CanRead(actor): CanRead,
    audit: Audit,
    State(app): State<App>,
    Path((name, action)): Path<(String, String)>,
    Query(query): Query<ProviderQuery>,
    Json(request): Json<DoAction>,
) -> Reply<Response> {
    audit.about("provider.action", &name);
    audit.detail(format!("action {}", action.escape_debug()));
    let provider = match &query.agent {
        None => app.fleet().provider(&name)?,
        Some(agent) => app
            .fleet()
            .agent_providers()
            .into_iter()
            .find(|p| p.scheme() == name && p.agent().is_some_and(|a| a.as_str() == agent))
            .ok_or_else(|| Problem::not_found("provider", name.escape_debug()))?,
    };
    let actions = provider.actions();
    let info = known(&actions, &action)?;
    info.check(None, &request.args)?;
    if !info.changes {
        let cx = actor.context().with_timeout(ANSWER_LIMIT);
        let result = provider.act(&cx, &action, request.args).await?;
        return Ok((StatusCode::OK, Json(ActionResult { result })).into_response());
    }
    actor.require(fleetcore::Scope::Machines)?;
    let (id, chosen) = chosen(request.id)?;
    let (target, asked) = (provider.host(), provider.command(&action, &request.args));
    let cx = actor.context();
    let start = async move { provider.operate_with(&cx, id, &action, request.args).await }.boxed();
    commands::begin(&app, actor.name(), Begin { id, chosen, target, asked, start }, None).await
}

/// An action that is there. What is not is not found, rather than not supported: the path names it.
fn known<'a>(actions: &'a [ActionInfo], action: &str) -> Result<&'a ActionInfo, Problem> {
    ActionInfo::find(actions, action).map_err(|e| {
        let known = e.context_value("known").unwrap_or_default();
        Problem::not_found("action", action.escape_debug()).with_context("known", known)
    })
}

/// Starts an operation on a machine.
async fn operate(
    app: &App,
    actor: &Actor,
    target: &Target,
    id: Option<uuid::Uuid>,
    operation: Operation,
) -> Reply<Response> {
    let (id, chosen): (CommandId, bool) = chosen(id)?;
    let machine: CoreMachine = app.fleet().target(target)?;
    let asked = operation.command();
    let cx = actor.context();
    let start = async move { machine.operate_with(&cx, id, operation).await }.boxed();
    commands::begin(app, actor.name(), Begin { id, chosen, target: target.clone(), asked, start }, None).await
}
