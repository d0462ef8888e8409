//! Targets: what commands can run on.

use std::time::{Duration, Instant};

use axum::extract::State;
use fleetcore::{LOCAL, OpContext, Target as CoreTarget, TargetInfo};

use super::wire::{Items, Load, Pong, Target};
use crate::{
    app::App,
    auth::{Actor, Audit, CanRead, CanRun},
    error::{Problem, Reply},
    extract::{Json, NoQuery, Path, Query},
};

/// Longest a provider may take to answer.
const PROVIDER_LIMIT: Duration = Duration::from_secs(30);

fn context(actor: &Actor) -> OpContext {
    actor.context().with_timeout(PROVIDER_LIMIT)
}

/// Adds what is known of this host.
async fn describe(app: &App, info: TargetInfo) -> Target {
    let local = info.target.is_local();
    let mut target = Target::from(info);
    if local {
        target.host = app.load().host().await;
        target.load = app.load().latest(app).await;
    } else if let Some(sample) = app.metrics().and_then(|m| m.latest(&target.target.to_string())) {
        target.load = Some(sample.into());
    }
    target
}

/// Everything commands can run on.
#[utoipa::path(get, path = "/api/v1/targets", tag = "targets",
    responses((status = 200, description = "All of them", body = Items<Target>)))]
pub(super) async fn list_targets(
    CanRead(actor): CanRead,
    State(app): State<App>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Reply<Json<Items<Target>>> {
    let mut items = vec![];
    for info in app.fleet().targets(&context(&actor)).await? {
        items.push(describe(&app, info).await);
    }
    Ok(Json(Items { items }))
}

/// One target.
#[utoipa::path(get, path = "/api/v1/targets/{target}", tag = "targets",
    params(("target" = String, Path, description = "Its name, percent-encoded as one segment: `multipass%2Fdev1`", example = "local", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,2}$")),
    responses((status = 200, description = "As of now", body = Target)))]
pub(super) async fn get_target(
    CanRead(actor): CanRead,
    State(app): State<App>,
    Path(name): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Reply<Json<Target>> {
    let wanted: CoreTarget = name.parse()?;
    let cx = context(&actor);
    app.fleet().target(&wanted)?;
    let all = app.fleet().targets(&cx).await?;
    let info =
        all.into_iter().find(|t| t.target == wanted).ok_or_else(|| Problem::not_found("target", &wanted))?;
    Ok(Json(describe(&app, info).await))
}

/// How busy a target was in the last five minutes, every two seconds; oldest first. Empty where it is not known.
#[utoipa::path(get, path = "/api/v1/targets/{target}/load", tag = "targets",
    params(("target" = String, Path, description = "Its name, percent-encoded as one segment", example = "local", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,2}$")),
    responses((status = 200, description = "What is known", body = Items<Load>)))]
pub(super) async fn get_load(
    _: CanRead,
    State(app): State<App>,
    Path(name): Path<String>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Reply<Json<Items<Load>>> {
    let wanted: CoreTarget = name.parse()?;
    app.fleet().target(&wanted)?;
    if wanted.to_string() != LOCAL {
        return Ok(Json(Items { items: vec![] }));
    }
    app.load().latest(&app).await;
    Ok(Json(Items { items: app.load().recent() }))
}

/// Checks that a target can be reached.
#[utoipa::path(post, path = "/api/v1/targets/{target}/ping", tag = "targets",
    params(("target" = String, Path, description = "Its name, percent-encoded as one segment", example = "local", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,2}$")),
    responses((status = 200, description = "It answers", body = Pong)))]
pub(super) async fn ping_target(
    CanRun(actor): CanRun,
    audit: Audit,
    State(app): State<App>,
    Path(name): Path<String>,
) -> Reply<Json<Pong>> {
    let machine = app.fleet().machine(&name)?;
    audit.about("target.ping", machine.target());
    let started = Instant::now();
    machine.ping(&context(&actor)).await?;
    Ok(Json(Pong { ok: true, latency_ms: started.elapsed().as_secs_f64() * 1000.0 }))
}
