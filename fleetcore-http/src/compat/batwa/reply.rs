//! Answers in Batwa's form.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use serde::Serialize;

use super::{
    checks::Refused,
    wire::{self, Detail, Misfits},
};

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// JSON that is ready.
pub(super) fn ready(status: StatusCode, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(body.into().into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// JSON with success.
pub(super) fn json(body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => ready(StatusCode::OK, body),
        Err(_) => detail(StatusCode::INTERNAL_SERVER_ERROR, "the answer cannot be written"),
    }
}

/// An error with a text.
pub(super) fn detail(status: StatusCode, text: &str) -> Response {
    ready(status, serde_json::to_vec(&Detail { detail: text }).unwrap_or_default())
}

/// A body that does not fit.
pub(super) fn refused(refused: Refused) -> Response {
    let status = StatusCode::UNPROCESSABLE_ENTITY;
    match refused {
        Refused::Shape(all) => {
            ready(status, serde_json::to_vec(&Misfits { detail: all }).unwrap_or_default())
        }
        Refused::Value(text) => detail(status, &text),
    }
}

/// 404 for what has no route.
pub(super) async fn not_found() -> Response {
    ready(StatusCode::NOT_FOUND, wire::NOT_FOUND)
}

/// 405
pub(super) async fn method_not_allowed() -> Response {
    ready(StatusCode::METHOD_NOT_ALLOWED, wire::METHOD_NOT_ALLOWED)
}

/// 401
pub(super) fn not_authenticated() -> Response {
    ready(StatusCode::UNAUTHORIZED, wire::NOT_AUTHENTICATED)
}

/// 403 of whatever needs a key.
pub(super) fn bad_key() -> Response {
    ready(StatusCode::FORBIDDEN, wire::BAD_KEY)
}

/// 307 to another page.
pub(super) fn redirect(to: &'static str) -> Response {
    (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, to)]).into_response()
}
