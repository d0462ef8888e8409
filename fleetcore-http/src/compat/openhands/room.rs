//! Room in memory for the bodies of requests that wait.
//!
//! As many actions may wait as clients send, and each may carry a file. What they carry together is bounded here: a
//! request that finds no room waits with its body unread, and is refused in the end.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::reply;

/// Bytes of all bodies together: two of the largest.
const ROOM_BYTES: usize = 512 << 20;
/// Bodies up to this size are always taken, so that nobody waits behind large ones for a short command.
const SMALL_BYTES: usize = 64 << 10;
/// What one permit stands for.
const UNIT: usize = 4 << 10;
/// Longest wait for room. Clients give up later than that.
const PATIENCE: Duration = Duration::from_secs(60);
/// Largest piece of memory that is taken before there is anything in it.
const AT_ONCE: usize = 1 << 20;

/// Room for bodies.
#[derive(Debug)]
pub(super) struct Room {
    left: Arc<Semaphore>,
    patience: Duration,
    total: usize,
}

/// What a body takes of it, for as long as this is there.
#[derive(Debug, Default)]
pub(super) struct Held(Option<OwnedSemaphorePermit>);

impl Held {
    /// Whether it is so large that it takes room: such a body takes a while to be looked through.
    pub(super) fn is_some(&self) -> bool {
        self.0.is_some()
    }

    fn add(&mut self, more: OwnedSemaphorePermit) {
        match &mut self.0 {
            Some(held) => held.merge(more),
            None => self.0 = Some(more),
        }
    }
}

/// A request that was read.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) held: Held,
}

impl Room {
    pub(super) fn new() -> Self {
        Self::of(ROOM_BYTES, PATIENCE)
    }

    fn of(total: usize, patience: Duration) -> Self {
        Self { left: Arc::new(Semaphore::new(total / UNIT)), patience, total }
    }

    /// Reads a request whose body may have `limit` bytes. The error is its answer.
    pub(super) async fn read(&self, request: Request, limit: usize) -> Result<Whole, Response> {
        let (parts, body) = request.into_parts();
        let length = parts.headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length > limit) {
            return Err(too_large(limit));
        }
        let mut held = Held::default();
        if let Some(length) = length.filter(|length| *length > SMALL_BYTES) {
            let wanted = u32::try_from(length.div_ceil(UNIT)).unwrap_or(u32::MAX);
            let room = Arc::clone(&self.left).acquire_many_owned(wanted);
            match tokio::time::timeout(self.patience, room).await {
                Ok(Ok(room)) => held.add(room),
                _ => return Err(self.none()),
            }
        }
        let body = self.take(body, limit, length, &mut held).await?;
        Ok(Whole { headers: parts.headers, body, held })
    }

    async fn take(
        &self,
        body: Body,
        limit: usize,
        length: Option<usize>,
        held: &mut Held,
    ) -> Result<Bytes, Response> {
        let mut all = BytesMut::with_capacity(length.unwrap_or_default().min(AT_ONCE));
        let mut pieces = body.into_data_stream();
        // What is left of the room that was taken.
        let mut free = length.unwrap_or_default().max(SMALL_BYTES);
        while let Some(piece) = pieces.next().await {
            let Ok(piece) = piece else { return Err(broken()) };
            if all.len() + piece.len() > limit {
                return Err(too_large(limit));
            }
            if piece.len() > free {
                // Nobody said how much would come. Who holds some room already must not wait for more.
                let wanted = piece.len().max(AT_ONCE);
                let room = Arc::clone(&self.left)
                    .try_acquire_many_owned(u32::try_from(wanted.div_ceil(UNIT)).unwrap_or(u32::MAX));
                held.add(room.map_err(|_| self.none())?);
                free += wanted;
            }
            free -= piece.len();
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }

    fn none(&self) -> Response {
        let text = format!(
            "The actions that wait hold {} MiB already, and this one does not fit: send it again later",
            self.total >> 20
        );
        reply::detail(StatusCode::SERVICE_UNAVAILABLE, text)
    }
}

fn too_large(limit: usize) -> Response {
    let text = format!("The body is too large: at most {} MiB", limit >> 20);
    reply::detail(StatusCode::PAYLOAD_TOO_LARGE, text)
}

fn broken() -> Response {
    reply::detail(StatusCode::BAD_REQUEST, "The body ended early")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(body: Body, length: Option<usize>) -> Request {
        let mut request = Request::new(body);
        if let Some(length) = length {
            request.headers_mut().insert(header::CONTENT_LENGTH, length.into());
        }
        request
    }

    fn said(bytes: usize) -> Request {
        request(Body::from(vec![b'x'; bytes]), Some(bytes))
    }

    fn unsaid(pieces: usize) -> Request {
        let pieces = futures::stream::iter(0..pieces).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 100_000]));
        request(Body::from_stream(pieces), None)
    }

    #[tokio::test]
    async fn what_does_not_fit_waits_and_small_ones_do_not() {
        let room = Room::of(1 << 20, Duration::from_secs(600));
        let first = room.read(said(1 << 20), 8 << 20).await.unwrap();
        assert_eq!((first.body.len(), room.left.available_permits()), (1 << 20, 0));
        let mut second = Box::pin(room.read(said(100_000), 8 << 20));
        assert!(futures::poll!(&mut second).is_pending(), "there is no room");
        assert_eq!(room.read(said(SMALL_BYTES), 8 << 20).await.unwrap().body.len(), SMALL_BYTES);
        // Without a length there is nothing to wait for.
        assert_eq!(room.read(unsaid(3), 8 << 20).await.unwrap_err().status(), 503);
        drop(first);
        let second = second.await.unwrap();
        assert_eq!(second.body.len(), 100_000);
        drop(second);
        assert_eq!(room.left.available_permits(), (1 << 20) / UNIT);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever_and_limits_hold() {
        let room = Room::of(4 << 20, Duration::from_secs(60));
        let all = room.read(unsaid(30), 8 << 20).await.unwrap();
        assert_eq!(all.body.len(), 3_000_000);
        let refused = room.read(said(4 << 20), 8 << 20).await.unwrap_err();
        assert_eq!(refused.status(), 503);
        drop(all);
        for large in [said((8 << 20) + 1), unsaid(100)] {
            let room = Room::of(64 << 20, Duration::from_secs(60));
            assert_eq!(room.read(large, 8 << 20).await.unwrap_err().status(), 413);
            assert_eq!(room.left.available_permits(), (64 << 20) / UNIT);
        }
        assert_eq!(room.left.available_permits(), (4 << 20) / UNIT);
    }
}
