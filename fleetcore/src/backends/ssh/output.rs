//! Between a channel and whoever reads a command's output: a queue of bounded size.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures::Stream;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::error;
use crate::{Channel, Result};

/// Bytes read ahead of the reader. Then the channel waits, and with it the whole connection: see
/// [`Connection`](super::pool::Connection).
const AHEAD: usize = 256 << 10;
/// The same while a signal is on its way: its answer comes behind whatever was sent before, and a killed command has at
/// most a window left to say.
const AHEAD_LIFTED: usize = 8 << 20;

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<(Channel, Bytes)>,
    bytes: usize,
    lifted: usize,
    /// Nothing follows; `true` when that is because the connection broke.
    end: Option<bool>,
    /// Nobody reads any more.
    abandoned: bool,
    reader: Option<Waker>,
}

/// Output on its way.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Notify,
}

impl Queue {
    pub(super) fn push(&self, channel: Channel, data: Bytes) {
        let mut state = self.state.lock();
        if data.is_empty() || state.abandoned {
            return;
        }
        state.bytes += data.len();
        state.chunks.push_back((channel, data));
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }

    /// Nothing follows.
    pub(super) fn finish(&self, broken: bool) {
        let mut state = self.state.lock();
        state.end.get_or_insert(broken);
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }

    #[cfg(test)]
    pub(super) fn is_abandoned(&self) -> bool {
        self.state.lock().abandoned
    }

    pub(super) fn has_room(&self) -> bool {
        let state = self.state.lock();
        state.abandoned || state.bytes < if state.lifted > 0 { AHEAD_LIFTED } else { AHEAD }
    }

    /// Resolves when something changed that may have made room, since this was created.
    pub(super) fn changed(&self) -> impl Future<Output = ()> + '_ {
        self.changed.notified()
    }

    /// Lets more in until the guard is dropped.
    pub(super) fn lift(self: &Arc<Self>) -> Lifted {
        self.state.lock().lifted += 1;
        self.changed.notify_one();
        Lifted(Arc::clone(self))
    }

    /// The reader's end.
    pub(super) fn reader(self: &Arc<Self>) -> Output {
        Output(Arc::clone(self))
    }
}

/// See [`Queue::lift`].
pub(super) struct Lifted(Arc<Queue>);

impl Lifted {
    /// Never takes it back.
    pub(super) fn keep(&self) {
        self.0.state.lock().lifted += 1;
    }
}

impl Drop for Lifted {
    fn drop(&mut self) {
        self.0.state.lock().lifted -= 1;
    }
}

/// Reads a queue. Dropping it says that nobody reads any more.
pub(super) struct Output(Arc<Queue>);

impl Stream for Output {
    type Item = Result<(Channel, Bytes)>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.0.state.lock();
        if let Some((channel, data)) = state.chunks.pop_front() {
            state.bytes -= data.len();
            drop(state);
            self.0.changed.notify_one();
            return Poll::Ready(Some(Ok((channel, data))));
        }
        match &mut state.end {
            Some(broken) if *broken => {
                *broken = false;
                Poll::Ready(Some(Err(error::lost("read output"))))
            }
            Some(_) => Poll::Ready(None),
            None => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.abandoned = true;
        state.chunks.clear();
        state.bytes = 0;
        drop(state);
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, StreamExt as _};

    use super::*;

    #[tokio::test]
    async fn a_full_queue_waits_for_its_reader_or_a_signal() {
        let queue = Arc::new(Queue::default());
        let mut output = queue.reader();
        assert!(output.next().now_or_never().is_none());
        queue.push(Channel::Stdout, Bytes::from(vec![1; AHEAD]));
        assert!(!queue.has_room());
        let lifted = queue.lift();
        assert!(queue.has_room());
        drop(lifted);
        assert!(!queue.has_room());
        let (_, data) = output.next().await.unwrap().unwrap();
        assert!(data.len() == AHEAD && queue.has_room());
        queue.changed().await;
        queue.finish(true);
        assert!(output.next().await.unwrap().is_err());
        assert!(output.next().await.is_none());
        drop(output);
        assert!(queue.is_abandoned() && queue.has_room());
    }
}
