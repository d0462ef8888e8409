//! One command on many targets.

use axum::{extract::State, response::Response};
use fleetcore::Target;
use futures::FutureExt as _;

use super::{
    commands::{self, Begin, chosen},
    wire::{Command, CreateFanOut},
};
use crate::{
    app::App,
    auth::{Audit, CanRun},
    error::Reply,
    extract::{Json, NoQuery, Query},
};

/// Runs one command on many targets. The answer is the parent: its output is one JSON object per line (`FanOutLine`) for
/// each start and end, the children are commands with the label `fleetcore/parent`. Cancelling the parent cancels them.
#[utoipa::path(post, path = "/api/v1/fanout", tag = "commands", request_body = CreateFanOut,
    responses(
        (status = 201, description = "It was started", body = Command,
            headers(("Location" = String, description = "Where the parent is"))),
        (status = 200, description = "It had been started before", body = Command)
    )
)]
pub(super) async fn fan_out(
    CanRun(actor): CanRun,
    audit: Audit,
    State(app): State<App>,
    Query(NoQuery {}): Query<NoQuery>,
    Json(request): Json<CreateFanOut>,
) -> Reply<Response> {
    audit.about("command.fanout", request.targets.join(" ").escape_debug());
    let (id, chosen) = chosen(request.id)?;
    let plan = request.plan()?;
    let asked = plan.command();
    let (fleet, cx) = (app.fleet().clone(), actor.context());
    let start = async move { fleet.fan_out(&cx, id, plan).await }.boxed();
    commands::begin(&app, actor.name(), Begin { id, chosen, target: Target::local(), asked, start }, None)
        .await
}
