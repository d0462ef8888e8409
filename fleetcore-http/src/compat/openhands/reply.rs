//! Answers in the original's form.

use std::fmt::Display;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use serde::Serialize;
use serde_json::json;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// What an exception nobody expected is answered with.
const UNEXPECTED: &str = "An unexpected error occurred. Please try again later.";

/// JSON that is ready.
pub(super) fn ready(status: StatusCode, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

/// JSON.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => ready(status, body),
        Err(_) => unexpected(),
    }
}

/// An error with a text.
pub(super) fn detail(status: StatusCode, text: impl Display) -> Response {
    json(status, &json!({ "detail": text.to_string() }))
}

/// An action that could not be taken: 500, as the client expects.
pub(super) fn internal(text: impl Display) -> Response {
    detail(StatusCode::INTERNAL_SERVER_ERROR, format_args!("Internal server error: {text}"))
}

/// What the original had not foreseen.
pub(super) fn unexpected() -> Response {
    detail(StatusCode::INTERNAL_SERVER_ERROR, UNEXPECTED)
}

/// A body or query that does not fit; `errors` is the text of a Python list.
pub(super) fn invalid(errors: impl Display) -> Response {
    json(
        StatusCode::UNPROCESSABLE_ENTITY,
        &json!({ "detail": "Invalid request parameters", "errors": errors.to_string() }),
    )
}

/// Text without a content type, or with one.
pub(super) fn text(status: StatusCode, kind: Option<&'static str>, text: &'static str) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    if let Some(kind) = kind {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    response
}

/// 404 for what has no route.
pub(super) fn not_found() -> Response {
    detail(StatusCode::NOT_FOUND, "Not Found")
}

/// 405, without an `Allow`, as the original.
pub(super) fn method_not_allowed() -> Response {
    detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
}

/// 307 to the same place without a slash at its end.
pub(super) fn redirect(to: &str) -> Response {
    let mut response = Response::new(Body::empty());
    match HeaderValue::from_str(to) {
        Ok(to) => {
            *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
            response.headers_mut().insert(header::LOCATION, to);
            response
        }
        Err(_) => not_found(),
    }
}
