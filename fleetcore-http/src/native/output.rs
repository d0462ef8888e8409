//! Output of commands and sessions: as events, as bytes, as a recording.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use fleetcore::{
    Channel, CommandEvent, CommandId, CommandRecord, CommandState, CommandStream, Error, ErrorKind, Offset,
    Result, Session,
};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use hyper::body::{Frame, SizeHint};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use super::{
    cast::CastWriter,
    range::{Wanted, wanted},
    sse::{KEEP_ALIVE, KEEP_ALIVE_EVERY, OutputEncoder, json_event},
    wire::{ChannelName, StateEvent},
};
use crate::{app::App, auth::StreamPass, error::Problem};

/// A body frame holds about this much when more is ready.
const BATCH_BYTES: usize = 64 << 10;
/// How long a stream may wait for the end of its command, and for a client to take it, once the server stops: a part of
/// the grace that all share.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How to read output.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct OutputQuery {
    /// First byte wanted. Default 0.
    #[param(nullable = false)]
    from: Option<u64>,
    /// Bytes only: whether to stay until the end, instead of ending with what is there now. Default: true for
    /// commands, false for sessions.
    #[param(nullable = false)]
    follow: Option<bool>,
    /// Bytes only: one channel of several. Excludes `Range`.
    #[param(value_type = Option<ChannelName>, nullable = false)]
    channel: Option<Channel>,
}

/// Whose output.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Command {
        id: CommandId,
        /// Whether a `block` command waits for this reader: not for one who may only look.
        holds: bool,
    },
    Session(Arc<dyn Session>),
}

/// How far output goes.
struct Extent {
    end: u64,
    settled: bool,
    state: CommandState,
}

impl Source {
    async fn stream(&self, app: &App, from: u64) -> Result<Box<dyn CommandStream>> {
        match self {
            Self::Command { id, holds: true } => app.fleet().commands().stream(*id, Offset(from)).await,
            Self::Command { id, holds: false } => app.fleet().commands().watch(*id, Offset(from)).await,
            Self::Session(session) => session.stream(Offset(from)).await,
        }
    }

    async fn extent(&self, app: &App) -> Result<Extent> {
        Ok(match self {
            Self::Command { id, .. } => {
                let record = app.fleet().commands().get(*id).await?;
                Extent { end: record.output_end.0, settled: record.state.is_settled(), state: record.state }
            }
            Self::Session(session) => {
                let info = session.info();
                let state = info.ended.map_or(CommandState::Running, |e| e.state());
                Extent { end: info.output_end.0, settled: info.ended.is_some(), state }
            }
        })
    }
}

/// Answers with output in the form the client asks for.
pub(crate) async fn respond(
    app: &App,
    source: Source,
    query: OutputQuery,
    headers: &HeaderMap,
    pass: StreamPass,
) -> Result<Response, Problem> {
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok());
    let events = accept.flat_map(|v| v.split(',')).any(|kind| {
        kind.split(';').next().is_some_and(|k| k.trim().eq_ignore_ascii_case("text/event-stream"))
    });
    if events {
        as_events(app, source, query, headers, pass).await
    } else {
        as_bytes(app, source, query, headers, pass).await
    }
}

async fn as_events(
    app: &App,
    source: Source,
    query: OutputQuery,
    headers: &HeaderMap,
    pass: StreamPass,
) -> Result<Response, Problem> {
    if query.channel.is_some() || query.follow.is_some() {
        return Err(Problem::invalid("channel", "used with bytes only; events carry their channel"));
    }
    let from = last_event_id(headers)?.unwrap_or(query.from.unwrap_or(0));
    let extent = source.extent(app).await?;
    let events = source.stream(app, from).await?;
    let mut first = BytesMut::new();
    json_event(&mut first, "state", &StateEvent { state: extent.state });
    let feed = Feed {
        events,
        encoder: OutputEncoder::default(),
        first: Some(first),
        done: false,
        stop: app.stopping().clone(),
        pass,
    };
    let body = Body::from_stream(stream::unfold(feed, Feed::next));
    Ok(event_stream(body))
}

/// Where a client wants to go on. Browsers send an empty one when no event had an id yet.
///
/// An id that is not ours is refused: starting over instead would send again what the client has.
pub(super) fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let text = value.as_bytes().trim_ascii();
    if text.is_empty() {
        return Ok(None);
    }
    // `parse` alone would take "+1".
    let digits = Some(text).filter(|t| t.iter().all(u8::is_ascii_digit));
    let number = digits.and_then(|t| std::str::from_utf8(t).ok()?.parse().ok());
    number.map(Some).ok_or_else(|| Problem::invalid("Last-Event-ID", "an offset"))
}

/// Resolves some time after the streams were told to end: by then the fleet has ended the commands, so their exit is
/// on its way, perhaps behind a read of the stored output.
pub(super) async fn stopped(stop: CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(LAST_WORDS).await;
}

fn login_ended() -> Error {
    Error::new(ErrorKind::Unauthenticated, "the login has ended").with_operation("read output")
}

/// The headers of an event stream.
pub(crate) fn event_stream(body: Body) -> Response {
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx holds back answers unless told not to.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

struct Feed {
    events: Box<dyn CommandStream>,
    encoder: OutputEncoder,
    first: Option<BytesMut>,
    done: bool,
    stop: CancellationToken,
    pass: StreamPass,
}

impl Feed {
    /// The next piece of the body: everything that is ready, up to a batch.
    async fn next(mut self) -> Option<(Result<Bytes>, Self)> {
        if self.done {
            return None;
        }
        let mut out = self.first.take().unwrap_or_default();
        if out.is_empty() {
            let next = tokio::select! {
                biased;
                () = &mut self.pass.ended => Some(Err(login_ended())),
                next = self.events.next() => next,
                () = stopped(self.stop.clone()) => return None,
                () = tokio::time::sleep(KEEP_ALIVE_EVERY) => return Some((Ok(KEEP_ALIVE), self)),
            };
            self.take(next, &mut out);
        }
        while !self.done && out.len() < BATCH_BYTES {
            match self.events.next().now_or_never() {
                Some(next) => self.take(next, &mut out),
                None => break,
            }
        }
        if out.is_empty() && !self.done {
            // Only part of a character has come so far.
            return Some((Ok(Bytes::from_static(b":\n\n")), self));
        }
        Some((Ok(out.freeze()), self))
    }

    fn take(&mut self, next: Option<Result<CommandEvent>>, out: &mut BytesMut) {
        match next {
            Some(Ok(event)) => {
                self.done = matches!(event, CommandEvent::Exited(_));
                self.encoder.push(&event, out);
            }
            Some(Err(error)) => {
                json_event(out, "error", &Problem::from(error).body());
                self.done = true;
            }
            None => self.done = true,
        }
    }
}

async fn as_bytes(
    app: &App,
    source: Source,
    query: OutputQuery,
    headers: &HeaderMap,
    pass: StreamPass,
) -> Result<Response, Problem> {
    let Extent { end, settled, .. } = source.extent(app).await?;
    let ranged = headers.contains_key(header::RANGE) && query.from.is_none();
    if query.channel.is_some() && headers.contains_key(header::RANGE) {
        return Err(Problem::invalid("channel", "used without Range: offsets count all channels"));
    }
    let (mut start, stop, mut partial) = match if ranged { wanted(headers, end) } else { Wanted::All } {
        Wanted::Part(part) => (part.start, Some(part.end), true),
        Wanted::Nothing => return Err(Problem::range_not_satisfiable(end)),
        Wanted::All => {
            // The end of a session may be days away, so whoever wants to wait for it says so.
            let follow = query.follow.unwrap_or(matches!(source, Source::Command { .. }));
            let bounded = settled || !follow;
            let from = query.from.unwrap_or(0).min(end);
            (from, bounded.then_some(end), false)
        }
    };
    let mut events = source.stream(app, start).await?;
    let mut first = None;
    let mut gap = None;
    if start < end && stop.is_none_or(|stop| start < stop) {
        // There is output at `start`, or it is gone: either shows without waiting for the program.
        match events.next().await.transpose()? {
            Some(CommandEvent::Gap { from, to }) => {
                if stop.is_some_and(|stop| to.0 >= stop) {
                    return Err(Problem::new(
                        StatusCode::GONE,
                        "gone",
                        "No longer kept",
                        "the output asked for is no longer kept",
                    )
                    .with_header(
                        axum::http::HeaderName::from_static("fleetcore-gap"),
                        &format!("{from}-{to}"),
                    ));
                }
                gap = Some(format!("{from}-{to}"));
                start = to.0;
                partial |= stop.is_some();
            }
            other => first = other,
        }
    }
    let whole = query.channel.is_none();
    let body = OutputBody {
        events,
        first,
        channel: query.channel,
        position: start,
        stop_at: stop,
        whole,
        stopping: stopped(app.stopping().clone()).boxed(),
        pass,
    };
    let mut response = Body::new(body).into_response();
    let answer = response.headers_mut();
    answer.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    answer.insert(header::ACCEPT_RANGES, HeaderValue::from_static(if whole { "bytes" } else { "none" }));
    if let Some(gap) = gap.and_then(|g| HeaderValue::from_str(&g).ok()) {
        answer.insert("fleetcore-gap", gap);
    }
    if let (true, Some(stop)) = (partial && whole, stop) {
        let len = if settled { end.to_string() } else { "*".to_owned() };
        if let Ok(range) = HeaderValue::from_str(&format!("bytes {start}-{}/{len}", stop.saturating_sub(1))) {
            answer.insert(header::CONTENT_RANGE, range);
        }
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

/// Chunks as the journal has them, on their way into the connection without a copy.
struct OutputBody {
    events: Box<dyn CommandStream>,
    first: Option<CommandEvent>,
    channel: Option<Channel>,
    position: u64,
    stop_at: Option<u64>,
    /// All channels: the number of bytes is known when the end is.
    whole: bool,
    stopping: BoxFuture<'static, ()>,
    pass: StreamPass,
}

impl hyper::body::Body for OutputBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if this.pass.ended.poll_unpin(cx).is_ready() {
            // Breaking off tells that this is not all; hyper asks no more after an error.
            return Poll::Ready(Some(Err(login_ended())));
        }
        loop {
            if this.stop_at.is_some_and(|stop| this.position >= stop) {
                return Poll::Ready(None);
            }
            let event = match this.first.take() {
                Some(event) => event,
                None => match this.events.poll_next_unpin(cx) {
                    Poll::Ready(Some(Ok(event))) => event,
                    Poll::Ready(Some(Err(e))) => return Poll::Ready(Some(Err(e))),
                    Poll::Ready(None) => return Poll::Ready(None),
                    Poll::Pending => {
                        return this.stopping.as_mut().poll(cx).map(|()| None);
                    }
                },
            };
            match event {
                CommandEvent::Output(chunk) => {
                    let mut data = chunk.data;
                    if let Some(stop) = this.stop_at {
                        let left = stop.saturating_sub(chunk.offset.0);
                        data.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                    }
                    this.position = chunk.offset.0 + data.len() as u64;
                    if !data.is_empty() && this.channel.is_none_or(|c| c == chunk.channel) {
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                }
                // The headers are gone: breaking off is the only way left to say that bytes are missing.
                CommandEvent::Gap { from, to } => {
                    return Poll::Ready(Some(Err(Error::new(
                        ErrorKind::DataLoss,
                        "output is no longer kept",
                    )
                    .with_operation("read output")
                    .with_context("from", from)
                    .with_context("to", to))));
                }
                CommandEvent::Exited(_) => return Poll::Ready(None),
                _ => {}
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self.stop_at {
            Some(stop) if self.whole => SizeHint::with_exact(stop.saturating_sub(self.position)),
            _ => SizeHint::default(),
        }
    }
}

/// Answers with a recording of what there is now.
pub(crate) async fn recording(
    app: &App,
    record: &CommandRecord,
    pass: StreamPass,
) -> Result<Response, Problem> {
    let events = app.fleet().commands().watch(record.id, Offset(0)).await?;
    let mut first = BytesMut::new();
    let writer = CastWriter::new(record, &mut first);
    let end = record.output_end.0;
    let feed = CastFeed { events, writer, first: Some(first), position: 0, end, _pass: pass };
    let body = Body::from_stream(stream::unfold(feed, CastFeed::next));
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-asciicast"));
    if let Ok(name) = HeaderValue::from_str(&format!("attachment; filename=\"{}.cast\"", record.id)) {
        headers.insert(header::CONTENT_DISPOSITION, name);
    }
    Ok(response)
}

struct CastFeed {
    events: Box<dyn CommandStream>,
    writer: CastWriter,
    first: Option<BytesMut>,
    position: u64,
    end: u64,
    _pass: StreamPass,
}

impl CastFeed {
    async fn next(mut self) -> Option<(Result<Bytes>, Self)> {
        let mut out = self.first.take().unwrap_or_default();
        while self.position < self.end && out.len() < BATCH_BYTES {
            match self.events.next().await {
                Some(Ok(CommandEvent::Output(chunk))) => {
                    self.position = chunk.end().0;
                    self.writer.push(&chunk, &mut out);
                }
                Some(Ok(CommandEvent::Gap { to, .. })) => self.position = to.0,
                Some(Ok(CommandEvent::Exited(_)) | Err(_)) | None => self.position = self.end,
                Some(Ok(_)) => {}
            }
        }
        if self.position >= self.end {
            self.writer.finish(&mut out);
        }
        if out.is_empty() { None } else { Some((Ok(out.freeze()), self)) }
    }
}
