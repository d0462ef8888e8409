//! Large answers, sent so that everybody else has a turn.
//!
//! A client that reads as fast as it is written to would otherwise keep a thread for as long as its answer is: the
//! connection writes while there is something to write and room for it.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};

/// After so many bytes others have their turn: a fraction of a millisecond.
const TURN_BYTES: usize = 512 << 10;
/// Memory of this size takes the kernel milliseconds to take back.
const HEAVY_BYTES: usize = 4 << 20;

/// A stream that makes a pause after some bytes.
#[derive(Debug)]
pub(super) struct Fair<S> {
    inner: S,
    left: usize,
}

impl<S> Fair<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, left: TURN_BYTES }
    }
}

impl<S: Stream<Item = Result<Bytes, E>> + Unpin, E> Stream for Fair<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.left == 0 {
            self.left = TURN_BYTES;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let next = self.inner.poll_next_unpin(cx);
        if let Poll::Ready(Some(Ok(piece))) = &next {
            self.left = self.left.saturating_sub(piece.len());
        }
        next
    }
}

/// Bytes that are given back to the system, in the end, by a thread that nobody waits for.
pub(super) fn heavy(bytes: Vec<u8>) -> Bytes {
    if bytes.len() < HEAVY_BYTES { bytes.into() } else { Bytes::from_owner(Heavy(bytes)) }
}

struct Heavy(Vec<u8>);

impl AsRef<[u8]> for Heavy {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Heavy {
    fn drop(&mut self) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let bytes = std::mem::take(&mut self.0);
            // Nobody has to know when.
            drop(runtime.spawn_blocking(move || drop(bytes)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn others_have_their_turn_and_nothing_is_lost() {
        let piece = Bytes::from(vec![b'x'; 100 << 10]);
        let pieces = futures::stream::iter(vec![Ok::<_, std::convert::Infallible>(piece); 100]);
        let mut fair = Fair::new(pieces);
        let (mut bytes, mut pauses) = (0, 0);
        loop {
            match futures::poll!(fair.next()) {
                Poll::Ready(Some(piece)) => bytes += piece.unwrap().len(),
                Poll::Ready(None) => break,
                Poll::Pending => pauses += 1,
            }
        }
        assert_eq!((bytes, pauses), (100 * (100 << 10), 100 / 6));
        let heavy = heavy(vec![7; HEAVY_BYTES]);
        assert!(heavy.len() == HEAVY_BYTES && heavy.iter().all(|b| *b == 7));
    }
}
