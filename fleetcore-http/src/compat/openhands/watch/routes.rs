//! `/api/v1/runtime`: routes beside the original's, for people and programs that want to look on.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use futures::stream;

use super::{
    super::{reply, runtime::Runtime},
    Feed, Found, From,
    feed::Mark,
};

/// Where these routes are.
pub(in super::super) const PATH: &str = "/api/v1/runtime";
/// Keeps proxies from closing a quiet connection; most give up after 30 to 60 s.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(15);

/// Answers what is below `/api/v1/runtime`.
pub(in super::super) fn serve(runtime: &Arc<Runtime>, below: &str, request: &Request) -> Response {
    let action = below.strip_prefix("/actions/");
    if !matches!(below, "" | "/events") && action.is_none() {
        return reply::not_found();
    }
    if request.method() != Method::GET {
        return reply::method_not_allowed();
    }
    match (below, action) {
        ("", _) => reply::json(StatusCode::OK, &runtime.watch.state()),
        (_, Some(number)) => match number.parse().map_or(Found::Unknown, |n| runtime.watch.action(n)) {
            Found::Running(state) => reply::json(StatusCode::ACCEPTED, &state),
            Found::Answer(answer) => reply::ready(answer.status, answer.body),
            Found::Forgotten => reply::detail(StatusCode::GONE, "Its answer is not kept any more"),
            Found::Unknown => reply::detail(StatusCode::NOT_FOUND, "No such action"),
        },
        _ => match from_request(request.uri().query(), request.headers()) {
            Ok((from, output)) => match runtime.watch.feed(from, output) {
                Ok(Some(feed)) => events(feed, std::future::pending()),
                Ok(None) => reply::detail(StatusCode::TOO_MANY_REQUESTS, "Too many are watching"),
                Err(()) => reply::detail(StatusCode::BAD_REQUEST, "Last-Event-ID: not an id of this runtime"),
            },
            Err(why) => reply::detail(StatusCode::BAD_REQUEST, why),
        },
    }
}

/// What a reader wants: where to begin, and whether output is part of it.
pub(crate) fn from_request(query: Option<&str>, headers: &HeaderMap) -> Result<(From, bool), &'static str> {
    let (mut from, mut output) = (From::Now, true);
    for pair in query.unwrap_or_default().split('&').filter(|p| !p.is_empty()) {
        match pair {
            "from=now" => from = From::Now,
            "from=start" => from = From::Start,
            "output=true" => output = true,
            "output=false" => output = false,
            _ => return Err("the query: from=now, from=start, output=false"),
        }
    }
    // Browsers send an empty one when no event had an id yet.
    if let Some(id) = headers.get("last-event-id").filter(|id| !id.is_empty()) {
        let mark = id.to_str().ok().and_then(|text| Mark::parse(text.trim()));
        from = From::After(mark.ok_or("Last-Event-ID: not an id of this runtime")?);
    }
    Ok((from, output))
}

/// Server-sent events, until the runtime has ended or `over` has come.
pub(crate) fn events(feed: Feed, over: impl Future<Output = ()> + Send + 'static) -> Response {
    let over = Box::pin(over);
    // Headers go out with the first piece.
    let first = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b": fleetcore\n\n"))]);
    let rest = stream::unfold((feed, over), |(mut feed, mut over)| async move {
        let event = tokio::select! {
            biased;
            () = over.as_mut() => return None,
            event = tokio::time::timeout(KEEP_ALIVE_EVERY, feed.next()) => event,
        };
        let event = event.unwrap_or_else(|_| Some(Bytes::from_static(b": keep-alive\n\n")))?;
        Some((Ok::<_, Infallible>(event), (feed, over)))
    });
    let mut response = Response::new(Body::from_stream(futures::StreamExt::chain(first, rest)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
