//! Bounded replay window of one command's output.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    ops::Range,
    sync::Arc,
    task::Waker,
};

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::reader::JournalStream;
use crate::{Channel, CommandId, CommandState, CommandStore, ExitStatus, Offset, OutputChunk, Overflow};

/// Above this many chunks, small neighbours are merged: a program that writes byte by byte must not cost a
/// hundred times its output in bookkeeping.
const COMPACT_ABOVE_CHUNKS: usize = 4096;
/// Most by which the ring exceeds its window for a reader that keeps up, but not always: a few of the largest chunks.
/// Sending it to the log would cost another copy of all that it reads there.
const LAG_BYTES: u64 = 3 << 20;
/// Size up to which neighbours are merged.
const COMPACT_TO_BYTES: usize = 64 * 1024;

/// Ring of recent output. The command's supervisor is its only writer.
pub(crate) struct Journal {
    pub(super) id: CommandId,
    capacity: u64,
    overflow: Overflow,
    pub(super) store: Option<Arc<dyn CommandStore>>,
    inner: Mutex<Inner>,
    space: Notify,
}

#[derive(Default)]
pub(super) struct Inner {
    /// Offset of the oldest byte in the ring.
    pub(super) base: u64,
    /// Offset of the next byte.
    pub(super) next: u64,
    pub(super) chunks: VecDeque<OutputChunk>,
    pub(super) end: Option<(CommandState, ExitStatus)>,
    readers: BTreeMap<u64, Reader>,
    readers_ever: u64,
    compact_at: usize,
}

struct Reader {
    pos: u64,
    /// Under `Block` the writer waits for it.
    holds: bool,
    waker: Option<Waker>,
}

impl Inner {
    /// Under `Block`: the position that must not be forgotten yet. Before the first reader ever attaches that is
    /// the start; after the last one that holds left, nothing is protected.
    fn floor(&self) -> Option<u64> {
        if self.readers_ever == 0 {
            Some(self.base)
        } else {
            self.readers.values().filter(|r| r.holds).map(|r| r.pos).min()
        }
    }

    /// The position of the last reader that is at most `bytes` behind. One that is further behind has stopped, or reads
    /// the log at its own pace: nothing is kept for it.
    fn floor_within(&self, bytes: u64) -> Option<u64> {
        self.readers.values().map(|r| r.pos).filter(|pos| self.next.saturating_sub(*pos) <= bytes).min()
    }

    fn wake_all(&mut self) {
        for reader in self.readers.values_mut() {
            if let Some(waker) = reader.waker.take() {
                waker.wake();
            }
        }
    }

    /// Index of the chunk that holds the byte at `pos`.
    pub(super) fn find(&self, pos: u64) -> Option<&OutputChunk> {
        self.chunks.get(self.chunks.partition_point(|c| c.end().0 <= pos))
    }

    /// End of the hole at `pos`, if there is one.
    pub(super) fn gap_at(&self, pos: u64) -> Option<u64> {
        let there = self.find(pos).map_or(self.next, |chunk| chunk.offset.0);
        (there > pos).then_some(there)
    }

    /// Merges small neighbours of one channel.
    fn compact(&mut self) {
        let mut merged: VecDeque<OutputChunk> = VecDeque::with_capacity(self.chunks.len() / 2);
        let mut run: Option<(OutputChunk, BytesMut)> = None;
        let close = |run: Option<(OutputChunk, BytesMut)>, merged: &mut VecDeque<OutputChunk>| {
            if let Some((head, data)) = run {
                let data = if data.is_empty() { head.data } else { data.freeze() };
                merged.push_back(OutputChunk { data, ..head });
            }
        };
        for chunk in self.chunks.drain(..) {
            run = match run {
                Some((head, mut data))
                    if head.channel == chunk.channel
                        && head.offset.0 + data.len().max(head.data.len()) as u64 == chunk.offset.0
                        && data.len().max(head.data.len()) + chunk.data.len() <= COMPACT_TO_BYTES =>
                {
                    if data.is_empty() {
                        data.extend_from_slice(&head.data);
                    }
                    data.extend_from_slice(&chunk.data);
                    Some((head, data))
                }
                other => {
                    close(other, &mut merged);
                    Some((chunk, BytesMut::new()))
                }
            };
        }
        close(run, &mut merged);
        self.chunks = merged;
        // If nothing could be merged, do not try again at every push.
        self.compact_at = (self.chunks.len() * 2).max(COMPACT_ABOVE_CHUNKS);
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Journal {
    /// An empty journal that keeps `capacity` bytes, and what is older in `store` if there is one.
    pub(crate) fn new(
        id: CommandId,
        capacity: usize,
        overflow: Overflow,
        store: Option<Arc<dyn CommandStore>>,
    ) -> Arc<Self> {
        let inner = Inner { compact_at: COMPACT_ABOVE_CHUNKS, ..Inner::default() };
        Arc::new(Self {
            id,
            capacity: (capacity as u64).max(1),
            overflow,
            store,
            inner: Mutex::new(inner),
            space: Notify::new(),
        })
    }

    /// The journal of a command that is taken up again at `from`: what is older is in the store.
    pub(crate) fn resumed(
        id: CommandId,
        capacity: usize,
        overflow: Overflow,
        store: Option<Arc<dyn CommandStore>>,
        from: Offset,
    ) -> Arc<Self> {
        let journal = Self::new(id, capacity, overflow, store);
        {
            let mut inner = journal.lock();
            (inner.base, inner.next) = (from.0, from.0);
        }
        journal
    }

    /// The journal of a command that ended before: everything is in the store.
    pub(crate) fn ended(
        id: CommandId,
        state: CommandState,
        exit: ExitStatus,
        output_end: Offset,
        store: Arc<dyn CommandStore>,
    ) -> Arc<Self> {
        let journal = Self::new(id, 1, Overflow::DropOldest, Some(store));
        {
            let mut inner = journal.lock();
            inner.base = output_end.0;
            inner.next = output_end.0;
            inner.end = Some((state, exit));
        }
        journal
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// Whether the writer may go on; only ever false under [`Overflow::Block`].
    pub(crate) fn has_space(&self) -> bool {
        self.has_space_after(0)
    }

    /// Whether the writer may go on once `pending` bytes, which are on their way to the log, have been pushed.
    pub(crate) fn has_space_after(&self, pending: u64) -> bool {
        if self.overflow != Overflow::Block {
            return true;
        }
        let inner = self.lock();
        // A reader of the log may be ahead by the chunk that is on its way here.
        inner.floor().is_none_or(|pos| inner.next.saturating_sub(pos) + pending < self.capacity)
    }

    /// What may be held beyond the window for readers that are a little behind; in proportion, so that a small window
    /// stays small.
    fn lag_bytes(&self) -> u64 {
        self.capacity.saturating_mul(3).min(LAG_BYTES)
    }

    /// Resolves when a reader has moved or left since the last call.
    pub(crate) async fn space(&self) {
        self.space.notified().await;
    }

    pub(super) fn announce_space(&self) {
        if self.overflow == Overflow::Block {
            self.space.notify_one();
        }
    }

    /// Stamps bytes with the offset they will get; [`Journal::push`] them next.
    pub(crate) fn stamp(&self, channel: Channel, data: Bytes) -> OutputChunk {
        OutputChunk { offset: self.end(), channel, at: Timestamp::now(), data }
    }

    /// The bytes up to `to` will never come: readers see a gap, and the next chunk begins there.
    pub(crate) fn skip(&self, to: Offset) {
        let mut inner = self.lock();
        if to.0 <= inner.next {
            return;
        }
        inner.next = to.0;
        if inner.chunks.is_empty() && self.store.is_none() {
            inner.base = to.0;
        }
        inner.wake_all();
    }

    /// Appends a stamped chunk and wakes the readers.
    pub(crate) fn push(&self, chunk: OutputChunk) {
        if chunk.data.is_empty() {
            return;
        }
        let mut inner = self.lock();
        debug_assert_eq!(chunk.offset.0, inner.next, "one writer, in order");
        inner.next = chunk.end().0;
        inner.chunks.push_back(chunk);
        let floor = match self.overflow {
            Overflow::Block => inner.floor(),
            Overflow::DropOldest if self.store.is_some() => {
                inner.floor_within(self.capacity + self.lag_bytes())
            }
            Overflow::DropOldest => None,
        };
        while inner.next - inner.base > self.capacity && inner.chunks.len() > 1 {
            let Some(end) = inner.chunks.front().map(|c| c.end().0) else { break };
            if floor.is_some_and(|f| end > f) {
                break; // one chunk over capacity is better than a hole
            }
            inner.chunks.pop_front();
            inner.base = end;
        }
        if inner.chunks.len() > inner.compact_at {
            inner.compact();
        }
        inner.wake_all();
    }

    /// Ends the journal; only the first call counts.
    pub(crate) fn finish(&self, state: CommandState, exit: ExitStatus) {
        let mut inner = self.lock();
        inner.end.get_or_insert((state, exit));
        inner.wake_all();
    }

    /// End of output so far.
    pub(crate) fn end(&self) -> Offset {
        Offset(self.lock().next)
    }

    /// Bytes of `range` that are still in the ring, all channels.
    pub(crate) fn slice(&self, range: Range<Offset>) -> Vec<u8> {
        let inner = self.lock();
        let mut out = Vec::new();
        for chunk in &inner.chunks {
            let (start, end) = (chunk.offset.0, chunk.end().0);
            let (a, b) = (range.start.0.max(start), range.end.0.min(end));
            if a < b {
                out.extend_from_slice(&chunk.data.slice((a - start) as usize..(b - start) as usize));
            }
        }
        out
    }

    /// A new reader at `from`, at most at the end.
    pub(crate) fn subscribe(self: &Arc<Self>, from: Offset) -> JournalStream {
        self.reader(from, true)
    }

    /// As [`subscribe`](Self::subscribe), but the writer never waits for it.
    pub(crate) fn watch(self: &Arc<Self>, from: Offset) -> JournalStream {
        self.reader(from, false)
    }

    fn reader(self: &Arc<Self>, from: Offset, holds: bool) -> JournalStream {
        let mut inner = self.lock();
        let key = inner.readers_ever;
        inner.readers_ever += 1;
        let pos = from.0.min(inner.next);
        inner.readers.insert(key, Reader { pos, holds, waker: None });
        drop(inner);
        self.announce_space();
        JournalStream::new(Arc::clone(self), key, pos)
    }

    pub(super) fn move_reader(inner: &mut Inner, key: u64, pos: u64, waker: Option<Waker>) {
        if let Some(reader) = inner.readers.get_mut(&key) {
            reader.pos = pos;
            reader.waker = waker;
        }
    }

    pub(super) fn unsubscribe(&self, key: u64) {
        self.lock().readers.remove(&key);
        self.announce_space();
    }
}
