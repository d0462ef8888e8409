//! Problem documents (RFC 9457): the one shape every error of every route has.

use std::{any::Any, borrow::Cow, collections::BTreeMap, time::Duration};

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use fleetcore::{Error, ErrorKind, Retry};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Media type of a problem document.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// What went wrong, as a problem document (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Problem)]
#[non_exhaustive]
pub struct ProblemBody {
    /// `/problems/` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind of problem, for people.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The kind of problem, for programs. Stable.
    pub code: String,
    /// This problem, for people.
    pub detail: String,
    /// What was being done.
    #[serde(default)]
    pub operation: String,
    /// More facts; for bad input `field` and `rule`.
    #[serde(default)]
    pub context: BTreeMap<String, String>,
    /// When it makes sense to try again.
    #[serde(default)]
    pub retry_after_ms: Option<u64>,
}

/// An error on its way to an HTTP client. One word wide.
#[derive(Clone, Debug)]
pub struct Problem(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    detail: String,
    operation: &'static str,
    context: BTreeMap<String, String>,
    retry_after: Option<Duration>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// Left in a response for the audit log and the metrics.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProblemCode(pub(crate) &'static str);

/// Result of a handler.
pub type Reply<T> = Result<T, Problem>;

impl Problem {
    /// A problem that no [`ErrorKind`] stands for.
    pub fn new(
        status: StatusCode,
        code: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self(Box::new(Inner {
            status,
            code,
            title,
            detail: detail.into(),
            operation: "",
            context: BTreeMap::new(),
            retry_after: None,
            headers: vec![],
        }))
    }

    /// Bad input: names the field and the rule it breaks.
    pub fn invalid(field: &'static str, rule: impl Into<Cow<'static, str>>) -> Self {
        Error::invalid(field, rule).into()
    }

    /// Nothing is known under this name.
    pub fn not_found(what: &'static str, name: impl std::fmt::Display) -> Self {
        Error::new(ErrorKind::NotFound, format!("no such {what}")).with_context(what, name).into()
    }

    /// Nobody is logged in.
    pub fn unauthenticated(detail: &'static str) -> Self {
        Error::new(ErrorKind::Unauthenticated, detail).into()
    }

    /// Somebody is logged in, but may not do this.
    pub fn forbidden(detail: impl Into<Cow<'static, str>>) -> Self {
        Error::new(ErrorKind::PermissionDenied, detail).into()
    }

    /// The body is larger than `limit` bytes.
    pub fn too_large(limit: u64) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            "The body is too large",
            "the body is larger than allowed",
        )
        .with_context("limit_bytes", limit)
    }

    /// The range lies outside of the `len` bytes there are.
    pub fn range_not_satisfiable(len: u64) -> Self {
        Self::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            "range_not_satisfiable",
            "The range is outside of the content",
            "there are no bytes in the range asked for",
        )
        .with_context("length", len)
        .with_header(header::CONTENT_RANGE, &format!("bytes */{len}"))
    }

    /// A quota of the caller is used up.
    pub fn quota(what: &'static str, limit: usize) -> Self {
        Error::new(ErrorKind::RateLimited, format!("too many {what} at once for one user"))
            .with_context("limit", limit)
            .with_retry(Retry::Temporary { after: Some(Duration::from_secs(1)) })
            .into()
    }

    /// Adds one fact.
    #[must_use]
    pub fn with_context(mut self, key: &str, value: impl std::fmt::Display) -> Self {
        self.0.context.insert(key.to_owned(), value.to_string());
        self
    }

    /// Adds a header; a value that no header can carry is left out.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.0.headers.push((name, value));
        }
        self
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        self.0.code
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The document.
    pub fn body(&self) -> ProblemBody {
        let i = &*self.0;
        ProblemBody {
            kind: format!("/problems/{}", i.code),
            title: i.title.to_owned(),
            status: i.status.as_u16(),
            code: i.code.to_owned(),
            detail: i.detail.clone(),
            operation: i.operation.to_owned(),
            context: i.context.clone(),
            retry_after_ms: i.retry_after.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    /// The answer to a request whose handler panicked.
    pub(crate) fn panicked(panic: &(dyn Any + Send)) -> Self {
        let text = panic
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        tracing::error!(panic = %text, "a handler panicked");
        Error::new(ErrorKind::Unexpected, "the server has a bug; its log says more").into()
    }
}

/// Status and title of each kind; design.md 3.8.
fn classify(kind: ErrorKind) -> (u16, &'static str) {
    match kind {
        ErrorKind::InvalidInput => (400, "The input is not valid"),
        ErrorKind::Unauthenticated => (401, "A login is needed"),
        ErrorKind::PermissionDenied => (403, "Not allowed"),
        ErrorKind::NotFound => (404, "Not found"),
        ErrorKind::AlreadyExists => (409, "It exists already"),
        ErrorKind::Busy => (409, "It is busy"),
        ErrorKind::InvalidState => (409, "Its state does not allow this"),
        ErrorKind::Conflict => (412, "Somebody else changed it"),
        ErrorKind::RateLimited => (429, "Too much at once"),
        ErrorKind::Cancelled => (499, "Cancelled"),
        ErrorKind::Unsupported => (501, "Not supported here"),
        ErrorKind::Unavailable => (503, "Not available now"),
        ErrorKind::Timeout => (504, "It took too long"),
        ErrorKind::CommandFailed => (200, "The command failed"),
        ErrorKind::DataLoss => (500, "Stored data is damaged"),
        _ => (500, "The server failed"),
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let (status, title) = classify(error.kind());
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(?error, "a request failed");
        }
        let retry_after = match error.retry() {
            Retry::Temporary { after } => after,
            _ => None,
        };
        let mut problem = Self::new(status, error.kind().code(), title, error.message());
        problem.0.operation = error.operation();
        problem.0.context = error.context().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        problem.0.retry_after = retry_after;
        problem
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.body()).unwrap_or_default();
        let inner = *self.0;
        let mut response = (inner.status, body).into_response();
        response.extensions_mut().insert(ProblemCode(inner.code));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if inner.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        let slow_down =
            matches!(inner.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        if let Some(after) = inner.retry_after.or(slow_down.then_some(Duration::from_secs(1))) {
            // Whole seconds only (RFC 9110, section 10.2.3), so round up.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        for (name, value) in inner.headers {
            headers.insert(name, value);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_input_names_field_and_rule() {
        let p = Problem::invalid("cols", "at least 1");
        assert_eq!((p.status().as_u16(), p.code()), (400, "invalid_input"));
        let body = p.body();
        assert_eq!(body.context["field"], "cols");
        assert_eq!(body.context["rule"], "at least 1");
        assert_eq!(body.kind, "/problems/invalid_input");
    }

    #[test]
    fn slowing_down_says_for_how_long() {
        let err = Error::new(ErrorKind::RateLimited, "slow")
            .with_retry(Retry::Temporary { after: Some(Duration::from_millis(1500)) });
        let response = Problem::from(err).into_response();
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        let response = Problem::from(Error::new(ErrorKind::Unavailable, "away")).into_response();
        assert!(response.headers().contains_key(header::RETRY_AFTER));
    }
}
