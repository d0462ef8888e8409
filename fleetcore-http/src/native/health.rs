//! Whether the server lives, is ready, and how it does.

use std::time::Duration;

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use fleetcore::{AuditFilter, Scope};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::metrics as host_metrics;
use crate::{
    app::App,
    auth::Optional,
    error::{Problem, Reply},
    extract::Json,
    telemetry,
};

/// Longest the store may take to count as ready.
const STORE_LIMIT: Duration = Duration::from_secs(2);

/// Answers while the server runs. Touches nothing.
#[utoipa::path(get, path = "/healthz", tag = "server", security(()),
    responses((status = 200, description = "It runs", body = String, content_type = "text/plain")))]
pub(super) async fn healthz() -> &'static str {
    "ok"
}

/// Whether the server can do its work.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct Ready {
    /// All checks passed.
    pub ready: bool,
    /// Each check: `ok`, or the code of an error.
    pub checks: std::collections::BTreeMap<String, String>,
}

/// Whether the server can do its work.
#[utoipa::path(get, path = "/readyz", tag = "server", security(()),
    responses((status = 200, description = "It can", body = Ready), (status = 503, description = "It cannot", body = Ready)))]
pub(super) async fn readyz(State(app): State<App>) -> Response {
    let mut filter = AuditFilter::default();
    filter.limit = 1;
    let store = match tokio::time::timeout(STORE_LIMIT, app.audit_store().read(filter)).await {
        Ok(Ok(_)) => "ok",
        Ok(Err(error)) => error.kind().code(),
        Err(_) => "timeout",
    };
    let stopping = app.draining();
    let ready = store == "ok" && !stopping;
    let mut checks = std::collections::BTreeMap::from([("store".to_owned(), store.to_owned())]);
    if stopping {
        checks.insert("server".to_owned(), "stopping".to_owned());
    }
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Ready { ready, checks })).into_response()
}

/// Counters and histograms for Prometheus. Needs the scope `read` unless the server was told otherwise.
#[utoipa::path(get, path = "/metrics", tag = "server",
    responses((status = 200, description = "All of them", body = String, content_type = "text/plain")))]
pub(super) async fn metrics(Optional(actor): Optional, State(app): State<App>) -> Reply<Response> {
    if !app.config().metrics_public {
        actor
            .ok_or_else(|| Problem::unauthenticated("log in, or send an API token"))?
            .require(Scope::Read)?;
    }
    let fleet = app.fleet();
    metrics::gauge!("fleetcore_commands_running").set(count(fleet.commands().running()));
    metrics::gauge!("fleetcore_sessions_open").set(count(fleet.sessions().list().len()));
    let mut text = telemetry::prometheus().render();
    if let Some(recorder) = app.metrics() {
        text.push_str(&host_metrics::prometheus(recorder));
    }
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

fn count(n: usize) -> f64 {
    // A server has fewer than 2^32 of anything.
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}

/// What this server is.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct Info {
    /// `fleetcore`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Whether most of it needs a login.
    pub login_required: bool,
}

/// What this server is.
#[utoipa::path(get, path = "/api/v1/info", tag = "server", security(()),
    responses((status = 200, description = "This", body = Info)))]
pub(super) async fn info() -> Json<Info> {
    Json(Info {
        name: "fleetcore".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        login_required: true,
    })
}
