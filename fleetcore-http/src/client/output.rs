//! Output of commands and sessions as a stream that comes back by itself.

use std::{
    ops::Range,
    pin::Pin,
    task::{Context, Poll},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use fleetcore::{
    ByteStream, CommandEvent, CommandId, CommandStream, Error, ErrorKind, ExitStatus, Offset, OutputChunk,
    Result, SessionId,
};
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream::BoxStream};
use reqwest::{Method, header};
use tokio::sync::mpsc;

use super::{
    AttachEvent, AttachOptions, Client, problem,
    resume::{Backoff, Place, gave_up},
    sse::{Decoder, SseEvent},
    wire::{self, Exit, GapEvent, OutputEvent, StateEvent},
};

/// How output travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transport {
    /// Binary frames with flow control: the fast way.
    #[default]
    WebSocket,
    /// Server-sent events: slower, but chunks keep the time the server read them, and every proxy passes them.
    EventStream,
}

/// Events of one command or session. Cancel-safe; an `Err` is the last item.
///
/// With [`Transport::WebSocket`] the time of a chunk is when it arrived here.
pub struct OutputStream {
    id: CommandId,
    position: Offset,
    events: BoxStream<'static, Result<CommandEvent>>,
}

impl std::fmt::Debug for OutputStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutputStream")
            .field("id", &self.id)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl Stream for OutputStream {
    type Item = Result<CommandEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let event = std::task::ready!(self.events.poll_next_unpin(cx));
        match &event {
            Some(Ok(CommandEvent::Output(chunk))) => self.position = chunk.end(),
            Some(Ok(CommandEvent::Gap { to, .. })) => self.position = *to,
            _ => {}
        }
        Poll::Ready(event)
    }
}

impl CommandStream for OutputStream {
    fn command_id(&self) -> CommandId {
        self.id
    }

    fn position(&self) -> Offset {
        self.position
    }
}

/// What of an attachment is output.
pub(super) fn only_output(events: super::AttachOutput) -> BoxStream<'static, Result<CommandEvent>> {
    events
        .filter_map(|event| async move {
            match event {
                Ok(AttachEvent::Command(event)) => Some(Ok(event)),
                Ok(_) => None,
                Err(e) => Some(Err(e)),
            }
        })
        .boxed()
}

/// What the server says is not kept any more.
fn gap_of(headers: &header::HeaderMap) -> Option<Range<Offset>> {
    let (from, to) = headers.get("fleetcore-gap")?.to_str().ok()?.split_once('-')?;
    Some(Offset(from.parse().ok()?)..Offset(to.parse().ok()?))
}

/// Bytes of a command's output.
pub struct OutputBytes {
    gap: Option<Range<Offset>>,
    data: ByteStream,
}

impl std::fmt::Debug for OutputBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutputBytes").field("gap", &self.gap).finish_non_exhaustive()
    }
}

impl OutputBytes {
    /// What is not kept any more of what was asked for: the bytes begin where it ends.
    pub fn gap(&self) -> Option<Range<Offset>> {
        self.gap.clone()
    }
}

impl Stream for OutputBytes {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.data.poll_next_unpin(cx)
    }
}

impl Client {
    /// Output of a command from `from` on, live until its end.
    ///
    /// # Errors
    /// Those of the first connection: `NotFound`, `PermissionDenied`, `Unavailable`. Later breaks heal.
    pub async fn output(&self, id: CommandId, from: Offset, over: Transport) -> Result<OutputStream> {
        let events = match over {
            Transport::WebSocket => {
                let options = AttachOptions::default().read_only().with_from(Some(from));
                only_output(self.attach_command(id, options).await?.output)
            }
            Transport::EventStream => {
                let path =
                    vec!["api".into(), "v1".into(), "commands".into(), id.to_string(), "output".into()];
                self.output_events(path, from).await?
            }
        };
        Ok(OutputStream { id, position: from, events })
    }

    /// Output of a session from `from` on, live until its end. Its `command_id` is made up.
    ///
    /// # Errors
    /// As [`Client::output`].
    pub async fn session_output(&self, id: &SessionId, from: Offset) -> Result<OutputStream> {
        let options = AttachOptions::default().read_only().with_from(Some(from));
        let events = only_output(self.attach_session(id, options).await?.output);
        Ok(OutputStream { id: CommandId::generate(), position: from, events })
    }

    /// Bytes of a command's output from `from` on, all channels in order; [`OutputBytes::gap`] says what of it is not kept
    /// any more. With `follow` it goes on until the
    /// command ends. Unlike [`Client::output`] it does not come back after a break: the error ends the stream.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`, `Unavailable`; `NotFound` when nothing is kept from there on.
    pub async fn output_bytes(&self, id: CommandId, from: Offset, follow: bool) -> Result<OutputBytes> {
        const OP: &str = "client.output_bytes";
        let id = id.to_string();
        let mut request = self.request(Method::GET, &["api", "v1", "commands", &id, "output"]);
        // No Range: a range ends where the output ends now.
        request = request
            .query(&[("follow", follow.to_string()), ("from", from.to_string())])
            .header(header::ACCEPT, "application/octet-stream");
        let answer = self.send(OP, request).await?;
        let gap = gap_of(answer.headers());
        let data = answer.bytes_stream().map_err(|e| problem::transport(OP, e)).boxed();
        Ok(OutputBytes { gap, data })
    }

    /// The recording of a command's output as an asciicast v2 file.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`, `Unavailable`.
    pub async fn recording(&self, id: CommandId) -> Result<ByteStream> {
        const OP: &str = "client.recording";
        let id = id.to_string();
        let request = self.request(Method::GET, &["api", "v1", "commands", &id, "output.cast"]);
        let answer = self.send(OP, request).await?;
        Ok(answer.bytes_stream().map_err(|e| problem::transport(OP, e)).boxed())
    }

    async fn output_events(
        &self,
        path: Vec<String>,
        from: Offset,
    ) -> Result<BoxStream<'static, Result<CommandEvent>>> {
        let body = sse_connect(self, &path, Some(from.0), &[]).await?;
        let (events_in, events) = mpsc::channel(64);
        tokio::spawn(drive(self.clone(), path, Place::new(Some(from)), body, events_in));
        Ok(futures::stream::unfold(events, |mut rx| async { rx.recv().await.map(|e| (e, rx)) }).boxed())
    }
}

/// Opens an event stream; `from` is where output shall go on.
pub(super) async fn sse_connect(
    client: &Client,
    path: &[String],
    from: Option<u64>,
    query: &[(&str, &str)],
) -> Result<ByteStream> {
    const OP: &str = "client.events";
    let segments: Vec<&str> = path.iter().map(String::as_str).collect();
    let mut request =
        client.request(Method::GET, &segments).query(query).header(header::ACCEPT, "text/event-stream");
    if let Some(from) = from {
        request = request.header("Last-Event-ID", from.to_string());
    }
    let answer = client.send(OP, request).await?;
    Ok(answer.bytes_stream().map_err(|e| problem::transport(OP, e)).boxed())
}

async fn drive(
    client: Client,
    path: Vec<String>,
    mut place: Place,
    mut body: ByteStream,
    events: mpsc::Sender<Result<CommandEvent>>,
) {
    let mut backoff = Backoff::new(client.reconnect_policy().clone());
    loop {
        let start = tokio::time::Instant::now();
        let mut last = match read_body(&mut body, &mut place, &mut backoff, &events).await {
            Ok(()) => return,
            Err(e) if problem::worth_reconnecting(&e) => e,
            Err(e) => {
                let _ = events.send(Err(e)).await;
                return;
            }
        };
        backoff.broke(start);
        body = loop {
            let Some(pause) = backoff.next_pause() else {
                let _ = events.send(Err(gave_up(last, client.reconnect_policy()))).await;
                return;
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = events.closed() => return,
            }
            match sse_connect(&client, &path, place.offset(), &[]).await {
                Ok(body) => break body,
                Err(e) if problem::worth_reconnecting(&e) => last = e,
                Err(e) => {
                    let _ = events.send(Err(e)).await;
                    return;
                }
            }
        };
    }
}

/// Reads until the exit event (`Ok`), until nobody listens (`Ok`), or until the connection breaks.
async fn read_body(
    body: &mut ByteStream,
    place: &mut Place,
    backoff: &mut Backoff,
    events: &mpsc::Sender<Result<CommandEvent>>,
) -> Result<()> {
    let mut decoder = Decoder::default();
    loop {
        let part = tokio::select! {
            part = body.next() => part,
            () = events.closed() => return Ok(()),
        };
        let broken = || Error::new(ErrorKind::Unavailable, "the event stream ended before the command did");
        decoder.push(&part.ok_or_else(broken)??);
        while let Some(event) = decoder.next()? {
            let Some(event) = parse(&event)? else { continue };
            let end = matches!(event, CommandEvent::Exited(_));
            let before = place.offset();
            let (gap, event) = place.admit(event);
            if place.offset() != before {
                backoff.progressed();
            }
            for event in gap.into_iter().chain(event) {
                if events.send(Ok(event)).await.is_err() {
                    return Ok(());
                }
            }
            if end {
                return Ok(());
            }
        }
    }
}

pub(super) fn parse(event: &SseEvent) -> Result<Option<CommandEvent>> {
    const OP: &str = "client.events";
    let data = event.data.as_bytes();
    Ok(match event.event.as_str() {
        "output" => {
            let e: OutputEvent = wire::from_json(OP, data)?;
            let bytes = match (e.text, e.base64) {
                (Some(text), _) => Bytes::from(text),
                (None, Some(b64)) => Bytes::from(BASE64_STANDARD.decode(b64).map_err(|err| {
                    Error::new(ErrorKind::Unexpected, "output is not base64")
                        .with_operation(OP)
                        .with_source(err)
                })?),
                (None, None) => Bytes::new(),
            };
            let chunk = OutputChunk { offset: Offset(e.offset), channel: e.channel, at: e.at, data: bytes };
            Some(CommandEvent::Output(chunk))
        }
        "gap" => {
            let e: GapEvent = wire::from_json(OP, data)?;
            Some(CommandEvent::Gap { from: Offset(e.from), to: Offset(e.to) })
        }
        "state" => wire::from_json::<StateEvent>(OP, data)?.state.map(CommandEvent::State),
        "exit" => Some(CommandEvent::Exited(ExitStatus::from(&wire::from_json::<Exit>(OP, data)?))),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_read_as_the_server_tells_it() {
        let told = |text: &'static str| {
            let mut headers = header::HeaderMap::new();
            headers.insert("fleetcore-gap", header::HeaderValue::from_static(text));
            gap_of(&headers)
        };
        assert_eq!(told("0-4096"), Some(Offset(0)..Offset(4096)));
        assert!(["", "5", "a-b", "-5"].into_iter().all(|text| told(text).is_none()));
        assert_eq!(gap_of(&header::HeaderMap::new()), None);
    }
}
