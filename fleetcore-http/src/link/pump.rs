//! Between a WebSocket and its streams.

use std::time::Duration;

use fleetcore::{Error, ErrorKind, Result};
use futures::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::WebSocketConfig},
};

use super::{
    frame::{Frame, HEADER, PAYLOAD_MAX},
    mux::{Mux, Outgoing},
    protocol::CONTROL_BYTES_MAX,
};

/// Kept for every connection, so small: thousands are idle. Larger messages get a larger buffer while they arrive, and
/// the connection is read ahead.
const READ_BUFFER: usize = 4 << 10;
/// Frames are written when this much waits, or nothing more is there.
const WRITE_BUFFER: usize = 64 << 10;
/// How long saying goodbye may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// Settings for both sides of a link.
pub(super) fn socket_config() -> WebSocketConfig {
    let most = (HEADER + PAYLOAD_MAX).max(CONTROL_BYTES_MAX);
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(WRITE_BUFFER + 2 * most)
        .max_message_size(Some(most))
        .max_frame_size(Some(most))
}

/// What arrives.
#[derive(Debug)]
pub(super) enum Incoming {
    Control(String),
    Frame(Frame),
}

pub(super) fn broke(cause: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unavailable, "the link broke").with_operation("link").with_context("cause", cause)
}

/// Writes what the streams have until the link is closed; `stall` is how long one write may take.
///
/// # Errors
/// `Unavailable` when the connection breaks or stalls.
pub(super) async fn write<S: AsyncRead + AsyncWrite + Unpin>(
    mux: &Mux,
    mut sink: SplitSink<WebSocketStream<S>, Message>,
    stall: Duration,
) -> Result<()> {
    let message = |next| match next {
        Outgoing::Text(text) => Message::text(text),
        Outgoing::Binary(frame) => Message::Binary(frame),
    };
    let stalled = |_| broke("the other side does not read");
    while let Some(next) = mux.next().await {
        let mut next = Some(next);
        while let Some(one) = next {
            let feeding = sink.feed(message(one));
            tokio::time::timeout(stall, feeding).await.map_err(stalled)?.map_err(broke)?;
            next = mux.try_next();
        }
        tokio::time::timeout(stall, sink.flush()).await.map_err(stalled)?.map_err(broke)?;
    }
    // The other side may be gone already.
    let _ = tokio::time::timeout(CLOSE_LIMIT, sink.close()).await;
    Ok(())
}

/// The next message, which must come within `silence`.
///
/// # Errors
/// `Unavailable` when the connection ends, breaks or is silent for too long; `InvalidInput` for what is no message of
/// this protocol.
pub(super) async fn read<S: AsyncRead + AsyncWrite + Unpin>(
    source: &mut SplitStream<WebSocketStream<S>>,
    silence: Duration,
) -> Result<Incoming> {
    let malformed = || super::exec::malformed("a frame");
    loop {
        let next = tokio::time::timeout(silence, source.next());
        let message = next.await.map_err(|_| broke("nothing was heard for too long"))?;
        match message.ok_or_else(|| broke("the connection was closed"))?.map_err(broke)? {
            Message::Binary(bytes) => {
                return Frame::decode(bytes).map(Incoming::Frame).ok_or_else(malformed);
            }
            Message::Text(text) if text.len() <= CONTROL_BYTES_MAX => {
                return Ok(Incoming::Control(text.as_str().to_owned()));
            }
            Message::Text(_) => return Err(malformed()),
            Message::Close(_) => return Err(broke("the connection was closed")),
            _ => {}
        }
    }
}
