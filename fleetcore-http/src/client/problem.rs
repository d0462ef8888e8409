//! Problem documents (RFC 9457) become the error the server had.

use std::{collections::HashSet, sync::LazyLock, time::Duration};

use fleetcore::{Error, ErrorKind, Retry};
use parking_lot::Mutex;
use reqwest::StatusCode;
use serde::Deserialize;

/// A problem document; every field may be missing when a proxy answers.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Problem {
    code: Option<String>,
    title: Option<String>,
    detail: Option<String>,
    operation: Option<String>,
    context: serde_json::Map<String, serde_json::Value>,
    retry_after_ms: Option<u64>,
}

/// All kinds; `ErrorKind` has no list of its own.
const KINDS: [ErrorKind; 16] = [
    ErrorKind::Unexpected,
    ErrorKind::Unsupported,
    ErrorKind::InvalidInput,
    ErrorKind::NotFound,
    ErrorKind::AlreadyExists,
    ErrorKind::Busy,
    ErrorKind::InvalidState,
    ErrorKind::Conflict,
    ErrorKind::Unauthenticated,
    ErrorKind::PermissionDenied,
    ErrorKind::RateLimited,
    ErrorKind::Timeout,
    ErrorKind::Cancelled,
    ErrorKind::Unavailable,
    ErrorKind::CommandFailed,
    ErrorKind::DataLoss,
];

/// The kind an HTTP status stands for, for answers that are not ours.
fn kind_of_status(status: u16) -> ErrorKind {
    match status {
        400 | 405 | 413..=415 | 422 => ErrorKind::InvalidInput,
        401 => ErrorKind::Unauthenticated,
        403 => ErrorKind::PermissionDenied,
        404 | 410 => ErrorKind::NotFound,
        409 => ErrorKind::InvalidState,
        412 => ErrorKind::Conflict,
        429 => ErrorKind::RateLimited,
        499 => ErrorKind::Cancelled,
        501 => ErrorKind::Unsupported,
        502 | 503 => ErrorKind::Unavailable,
        408 | 504 => ErrorKind::Timeout,
        _ => ErrorKind::Unexpected,
    }
}

/// Most distinct names taken over from servers. Errors want `'static` names; a server that makes up new ones for
/// ever must not fill our memory.
const NAMES_MAX: usize = 256;
/// Longest name taken over.
const NAME_BYTES_MAX: usize = 64;

/// Names taken over so far.
#[derive(Debug, Default)]
struct Names(HashSet<&'static str>);

impl Names {
    /// A `'static` copy of a name the server used, `other` when there were too many.
    fn intern(&mut self, name: &str) -> &'static str {
        if let Some(known) = self.0.get(name) {
            return known;
        }
        if self.0.len() >= NAMES_MAX || name.len() > NAME_BYTES_MAX {
            return "other";
        }
        let kept: &'static str = Box::leak(name.to_owned().into_boxed_str());
        self.0.insert(kept);
        kept
    }
}

pub(crate) fn intern(name: &str) -> &'static str {
    static NAMES: LazyLock<Mutex<Names>> = LazyLock::new(Mutex::default);
    NAMES.lock().intern(name)
}

/// The error in an answer. `operation` is what the client was doing; the server's own word wins.
pub(crate) fn error(operation: &'static str, status: Option<StatusCode>, body: &[u8]) -> Error {
    let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
    let by_code = problem.code.as_deref().and_then(|c| KINDS.into_iter().find(|k| k.code() == c));
    let kind = by_code.or(status.map(|s| kind_of_status(s.as_u16()))).unwrap_or(ErrorKind::Unexpected);
    let message = problem.detail.or(problem.title).unwrap_or_else(|| match status {
        Some(s) => format!("the server answered {s}"),
        None => "the server reported a problem".to_owned(),
    });
    let mut err = Error::new(kind, message).with_operation(match problem.operation.as_deref() {
        Some(op) if !op.is_empty() => intern(op),
        _ => operation,
    });
    for (key, value) in &problem.context {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        err = err.with_context(intern(key), text);
    }
    let temporary = matches!(kind, ErrorKind::RateLimited | ErrorKind::Unavailable);
    match problem.retry_after_ms {
        Some(ms) => err.with_retry(Retry::Temporary { after: Some(Duration::from_millis(ms)) }),
        None if temporary => err.with_retry(Retry::Temporary { after: None }),
        None => err,
    }
}

/// An error below HTTP.
pub(crate) fn transport(operation: &'static str, err: reqwest::Error) -> Error {
    let err = err.without_url();
    let (kind, message) = if err.is_timeout() {
        (ErrorKind::Timeout, "the server did not answer in time")
    } else if err.is_connect() {
        (ErrorKind::Unavailable, "the server cannot be reached")
    } else if err.is_builder() {
        (ErrorKind::InvalidInput, "the request is not valid")
    } else {
        // Also what the HTTP library calls decoding errors: a body that ends too early. JSON is parsed elsewhere.
        (ErrorKind::Unavailable, "the connection to the server broke")
    };
    let temporary = matches!(kind, ErrorKind::Timeout | ErrorKind::Unavailable);
    let mut cause: &dyn std::error::Error = &err;
    while let Some(deeper) = cause.source() {
        cause = deeper;
        // The data that was being sent failed: that is the caller's own error, not one of the connection.
        if let Some(own) = cause.downcast_ref::<Error>() {
            return Error::new(own.kind(), own.message().to_owned())
                .with_operation(operation)
                .with_retry(own.retry())
                .with_source(err);
        }
    }
    let cause = cause.to_string();
    let out =
        Error::new(kind, message).with_operation(operation).with_context("cause", cause).with_source(err);
    if temporary { out.with_retry(Retry::Temporary { after: None }) } else { out }
}

/// Whether a stream should connect again after this.
pub(crate) fn worth_reconnecting(err: &Error) -> bool {
    matches!(err.retry(), Retry::Temporary { .. })
        || matches!(err.kind(), ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::RateLimited)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn data_that_fails_while_it_is_sent_fails_as_itself() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let lost = Error::new(ErrorKind::DataLoss, "the disk is gone");
        let body = reqwest::Body::wrap_stream(futures::stream::iter([Err::<bytes::Bytes, _>(lost)]));
        // Nobody answers; sending fails before.
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let failed = transport("test", client.put(url).body(body).send().await.unwrap_err());
        assert_eq!(
            (failed.kind(), failed.message()),
            (ErrorKind::DataLoss, "the disk is gone"),
            "{failed:?}"
        );
    }

    #[test]
    fn a_problem_document_becomes_the_same_error() {
        let body = br#"{"type":"/problems/invalid_input","title":"Bad","status":400,"code":"invalid_input",
            "detail":"cols must be at least 1","operation":"commands.create",
            "context":{"field":"cols","rule":"at least 1"},"retry_after_ms":null}"#;
        let err = error("client.x", Some(StatusCode::BAD_REQUEST), body);
        assert_eq!(err.kind(), ErrorKind::InvalidInput);
        assert_eq!(err.operation(), "commands.create");
        assert_eq!(err.context_value("field"), Some("cols"));
        assert_eq!(err.message(), "cols must be at least 1");
    }

    #[test]
    fn every_code_is_known() {
        for kind in KINDS {
            let body = format!("{{\"code\":\"{}\"}}", kind.code());
            assert_eq!(error("x", None, body.as_bytes()).kind(), kind);
        }
    }

    #[test]
    fn answers_of_a_proxy_keep_the_meaning_of_the_status() {
        let err = error("x", Some(StatusCode::BAD_GATEWAY), b"<html>bad gateway</html>");
        assert_eq!(err.kind(), ErrorKind::Unavailable);
        assert!(worth_reconnecting(&err));
        assert!(!worth_reconnecting(&error("x", Some(StatusCode::NOT_FOUND), b"")));
    }

    #[test]
    fn a_server_that_makes_up_names_cannot_fill_memory() {
        let mut names = Names::default();
        assert_eq!(names.intern("made-up-0"), "made-up-0");
        assert_eq!(names.intern(&"x".repeat(NAME_BYTES_MAX + 1)), "other");
        for n in 0..2 * NAMES_MAX {
            names.intern(&format!("made-up-{n}"));
        }
        assert_eq!(names.intern("made-up-0"), "made-up-0");
        assert_eq!(names.intern("one-more-made-up"), "other");
    }
}
