//! Reading a journal: from the durable log where the ring has forgotten, from the ring otherwise.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::{Stream, StreamExt, future::BoxFuture, stream::BoxStream};

use super::Journal;
use crate::{CommandEvent, CommandId, CommandState, CommandStream, Offset, OutputChunk, Result};

type Stored = BoxStream<'static, Result<OutputChunk>>;

/// A reader of one command's output. See [`CommandStream`].
pub struct JournalStream {
    journal: Arc<Journal>,
    key: u64,
    pos: u64,
    source: Source,
    /// The end has been told: first the state where it says more than the exit, then the exit.
    told: Told,
}

enum Source {
    Ring,
    /// The durable log is being opened at this position.
    Opening(u64, BoxFuture<'static, Result<Stored>>),
    /// Reading the durable log that was opened at this position.
    Log(u64, Stored),
}

#[derive(PartialEq)]
enum Told {
    Nothing,
    State,
    Exit,
}

impl JournalStream {
    pub(super) fn new(journal: Arc<Journal>, key: u64, pos: u64) -> Self {
        Self { journal, key, pos, source: Source::Ring, told: Told::Nothing }
    }

    /// A chunk from the log, cut to what is new; a hole before it becomes a gap first.
    fn accept(&mut self, mut chunk: OutputChunk) -> Option<CommandEvent> {
        if chunk.end().0 <= self.pos {
            return None;
        }
        if chunk.offset.0 > self.pos {
            // What the ring holds is not lost, even where the log could not keep it.
            let to = chunk.offset.0.min(self.journal.lock().base).max(self.pos + 1);
            let gap = CommandEvent::Gap { from: Offset(self.pos), to: Offset(to) };
            self.pos = to;
            // The chunk is read again after the gap has been told.
            self.source = Source::Ring;
            return Some(gap);
        }
        let skip = (self.pos - chunk.offset.0) as usize;
        chunk.data = chunk.data.slice(skip..);
        chunk.offset = Offset(self.pos);
        self.pos = chunk.end().0;
        Some(CommandEvent::Output(chunk))
    }

    fn poll_ring(&mut self, cx: &Context<'_>) -> Poll<Option<CommandEvent>> {
        let journal = Arc::clone(&self.journal);
        let mut inner = journal.lock();
        let event = if self.pos < inner.base {
            if let Some(store) = &journal.store {
                let (store, id, from) = (Arc::clone(store), journal.id, Offset(self.pos));
                self.source =
                    Source::Opening(self.pos, Box::pin(async move { store.read_output(id, from).await }));
                return Poll::Ready(None);
            }
            let gap = CommandEvent::Gap { from: Offset(self.pos), to: Offset(inner.base) };
            self.pos = inner.base;
            gap
        } else if let Some(to) = inner.gap_at(self.pos) {
            let gap = CommandEvent::Gap { from: Offset(self.pos), to: Offset(to) };
            self.pos = to;
            gap
        } else if let Some(chunk) = inner.find(self.pos) {
            let skip = (self.pos - chunk.offset.0) as usize;
            let chunk =
                OutputChunk { offset: Offset(self.pos), data: chunk.data.slice(skip..), ..chunk.clone() };
            self.pos = chunk.end().0;
            CommandEvent::Output(chunk)
        } else if let Some((state, exit)) = inner.end {
            if state == CommandState::Lost && self.told == Told::Nothing {
                self.told = Told::State;
                CommandEvent::State(state)
            } else {
                self.told = Told::Exit;
                CommandEvent::Exited(exit)
            }
        } else {
            Journal::move_reader(&mut inner, self.key, self.pos, Some(cx.waker().clone()));
            return Poll::Pending;
        };
        Journal::move_reader(&mut inner, self.key, self.pos, None);
        drop(inner);
        journal.announce_space();
        Poll::Ready(Some(event))
    }

    /// The log has nothing more: what the ring has forgotten meanwhile is read by opening it again, unless that
    /// brought nothing new, which means the bytes are gone.
    fn log_ended(&mut self, opened_at: u64) -> Option<CommandEvent> {
        self.source = Source::Ring;
        let base = self.journal.lock().base;
        if self.pos == opened_at && self.pos < base {
            let gap = CommandEvent::Gap { from: Offset(self.pos), to: Offset(base) };
            self.pos = base;
            return Some(gap);
        }
        None
    }
}

impl Stream for JournalStream {
    type Item = Result<CommandEvent>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.told == Told::Exit {
            return Poll::Ready(None);
        }
        loop {
            match &mut this.source {
                Source::Ring => {
                    if let Some(event) = ready!(this.poll_ring(cx)) {
                        return Poll::Ready(Some(Ok(event)));
                    }
                }
                Source::Opening(at, opening) => {
                    let at = *at;
                    match ready!(opening.as_mut().poll(cx)) {
                        Ok(log) => this.source = Source::Log(at, log),
                        // The bytes may be there: the reader can come back at the same position.
                        Err(e) => {
                            this.source = Source::Ring;
                            return Poll::Ready(Some(Err(e)));
                        }
                    }
                }
                Source::Log(at, log) => {
                    let at = *at;
                    let event = match ready!(log.poll_next_unpin(cx)) {
                        Some(Ok(chunk)) => {
                            let event = this.accept(chunk);
                            let mut inner = this.journal.lock();
                            // Back in the window: the ring is cheaper.
                            if this.pos >= inner.base {
                                this.source = Source::Ring;
                            }
                            Journal::move_reader(&mut inner, this.key, this.pos, None);
                            drop(inner);
                            this.journal.announce_space();
                            event
                        }
                        Some(Err(e)) => {
                            this.source = Source::Ring;
                            return Poll::Ready(Some(Err(e)));
                        }
                        None => this.log_ended(at),
                    };
                    if let Some(event) = event {
                        return Poll::Ready(Some(Ok(event)));
                    }
                }
            }
        }
    }
}

impl CommandStream for JournalStream {
    fn command_id(&self) -> CommandId {
        self.journal.id
    }

    fn position(&self) -> Offset {
        Offset(self.pos)
    }
}

impl Drop for JournalStream {
    fn drop(&mut self) {
        self.journal.unsubscribe(self.key);
    }
}

impl fmt::Debug for JournalStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JournalStream").field("id", &self.journal.id).field("pos", &self.pos).finish()
    }
}
