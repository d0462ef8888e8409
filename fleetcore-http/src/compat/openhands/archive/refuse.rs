//! How requests are refused.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;

/// What the original says of everything that goes wrong in a handler.
pub(super) fn failed(detail: impl Into<String>) -> Response {
    let body = json!({ "detail": detail.into() });
    (StatusCode::INTERNAL_SERVER_ERROR, Json(body)).into_response()
}

/// A query or form that is not as described. `why` is free text; `input` is what there was, as Python shows it.
pub(super) fn unprocessable(kind: &str, location: &str, name: &str, why: &str, input: &str) -> Response {
    let errors =
        format!("[{{'type': '{kind}', 'loc': ('{location}', '{name}'), 'msg': '{why}', 'input': {input}}}]");
    let body = json!({ "detail": "Invalid request parameters", "errors": errors });
    (StatusCode::UNPROCESSABLE_ENTITY, Json(body)).into_response()
}
