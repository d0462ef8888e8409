//! Many streams over one connection, each with its own flow control.
//!
//! Why not the yamux crate: here messages keep their borders and are not copied on their way in, a stream is open as
//! soon as its first message is written, control messages overtake everything, and an idle connection holds nothing
//! but two empty collections, of which a server has thousands.
//!
//! Nothing in here waits for the network: [`Mux::next`] hands out frames to whoever writes, and [`Mux::accept`] is fed
//! by whoever reads. What a stream may have on its way is bounded by the receiver's window, so one that is not read
//! holds up nobody but itself.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use fleetcore::{Error, ErrorKind, Result, Retry};
use parking_lot::Mutex;

use super::frame::{Frame, Message, PAYLOAD_MAX};

/// Bytes a stream may have under way until the other side has taken them.
pub(super) const WINDOW: u32 = 512 << 10;
/// Bytes of one stream that may wait for the writer.
const OUT_MAX: usize = 256 << 10;
/// Control messages that may wait for the writer; more means that the other side does not read.
const TEXT_MAX: usize = 64;
/// Answers to streams nobody wants that may wait for the writer.
const RESETS_MAX: usize = 4096;

/// What to write next.
#[derive(Debug)]
pub(super) enum Outgoing {
    Text(String),
    /// A frame.
    Binary(Bytes),
}

/// One connection's streams. Cheap to clone.
#[derive(Clone)]
pub(super) struct Mux(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Streams the other side may have open.
    incoming_max: usize,
}

struct State {
    streams: HashMap<u32, Entry>,
    text: VecDeque<String>,
    resets: VecDeque<u32>,
    /// Streams with something to write, in turn.
    ready: VecDeque<u32>,
    writer: Option<Waker>,
    next_id: u32,
    incoming: usize,
    closed: Option<String>,
}

struct Entry {
    ours: bool,
    /// Frames, each with the bytes of data in it.
    out: VecDeque<(Bytes, usize)>,
    out_bytes: usize,
    /// Is in `ready`.
    queued: bool,
    /// What we may still send; the last message may overshoot.
    may_send: i64,
    send_waker: Option<Waker>,
    ended: bool,
    inbox: VecDeque<Bytes>,
    /// What the other side may still send.
    may_receive: i64,
    /// Taken by the reader, not yet credited.
    taken: u32,
    recv_waker: Option<Waker>,
    their_end: bool,
    reset: bool,
    /// The handle is gone; the rest of `out` still goes.
    dropped: bool,
}

impl Entry {
    fn new(ours: bool) -> Self {
        Self {
            ours,
            out: VecDeque::new(),
            out_bytes: 0,
            queued: false,
            may_send: i64::from(WINDOW),
            send_waker: None,
            ended: false,
            inbox: VecDeque::new(),
            may_receive: i64::from(WINDOW),
            taken: 0,
            recv_waker: None,
            their_end: false,
            reset: false,
            dropped: false,
        }
    }

    fn wake(&mut self) {
        for waker in [self.send_waker.take(), self.recv_waker.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    fn credit_due(&self) -> bool {
        self.taken >= WINDOW / 2 && !self.their_end && !self.dropped
    }
}

impl State {
    fn wake_writer(&mut self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }

    fn schedule(&mut self, id: u32) {
        if let Some(entry) = self.streams.get_mut(&id)
            && !entry.queued
        {
            entry.queued = true;
            self.ready.push_back(id);
            self.wake_writer();
        }
    }

    fn remove(&mut self, id: u32) {
        if let Some(entry) = self.streams.remove(&id)
            && !entry.ours
        {
            self.incoming -= 1;
        }
    }

    fn send_reset(&mut self, id: u32) {
        self.resets.push_back(id);
        self.wake_writer();
    }

    /// The next frame of a stream whose turn it is.
    fn take_turn(&mut self, id: u32) -> Option<Bytes> {
        let entry = self.streams.get_mut(&id)?;
        entry.queued = false;
        if entry.credit_due() {
            let more = std::mem::take(&mut entry.taken);
            entry.may_receive += i64::from(more);
            if !entry.out.is_empty() {
                self.schedule(id);
            }
            return Some(Frame::Credit(id, more).encode());
        }
        let frame = entry.out.pop_front().map(|(frame, data)| {
            entry.out_bytes -= data;
            if let Some(waker) = entry.send_waker.take_if(|_| data > 0) {
                waker.wake();
            }
            frame
        });
        if !entry.out.is_empty() {
            self.schedule(id);
        } else if entry.dropped {
            let reset = !(entry.their_end || entry.reset);
            self.remove(id);
            if reset {
                self.send_reset(id);
            }
        }
        frame
    }
}

impl fmt::Debug for Mux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.state.lock();
        f.debug_struct("Mux").field("streams", &state.streams.len()).field("closed", &state.closed).finish()
    }
}

fn down(why: &str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the link to the agent is down: {why}"))
        .with_operation("link")
        .with_retry(Retry::Temporary { after: None })
}

fn broken_rule(rule: &'static str) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("the other side broke a rule of the link: {rule}"))
        .with_operation("link")
        .with_context("rule", rule)
}

impl Mux {
    /// A connection on which we open the streams with odd (`first_id` 1) or even (2) numbers, and the other side may
    /// have `incoming_max` open.
    pub(super) fn new(first_id: u32, incoming_max: usize) -> Self {
        let state = State {
            streams: HashMap::new(),
            text: VecDeque::new(),
            resets: VecDeque::new(),
            ready: VecDeque::new(),
            writer: None,
            next_id: first_id,
            incoming: 0,
            closed: None,
        };
        Self(Arc::new(Shared { state: Mutex::new(state), incoming_max }))
    }

    /// Sends a control message, ahead of everything else.
    ///
    /// # Errors
    /// `Unavailable` when the link is down or the other side does not read.
    pub(super) fn send_text(&self, text: String) -> Result<()> {
        let mut state = self.0.state.lock();
        if let Some(why) = &state.closed {
            return Err(down(why));
        }
        if state.text.len() >= TEXT_MAX {
            return Err(down("the other side does not read"));
        }
        state.text.push_back(text);
        state.wake_writer();
        Ok(())
    }

    /// Opens a stream; `first` goes with it.
    ///
    /// # Errors
    /// `Unavailable` when the link is down, `InvalidInput` when `first` is too long.
    pub(super) fn open(&self, first: Bytes) -> Result<MuxStream> {
        if first.len() > PAYLOAD_MAX {
            return Err(Error::invalid("request", format!("at most {PAYLOAD_MAX} bytes for an agent")));
        }
        let mut state = self.0.state.lock();
        if let Some(why) = &state.closed {
            return Err(down(why));
        }
        let id = state.next_id;
        // Wrapping round takes two billion streams on one connection; whatever is open then is long-lived but few.
        state.next_id = state.next_id.wrapping_add(2);
        if state.streams.contains_key(&id) {
            return Err(down("stream numbers are used up"));
        }
        let mut entry = Entry::new(true);
        entry.out.push_back((Frame::Open(id, first).encode(), 0));
        state.streams.insert(id, entry);
        state.schedule(id);
        drop(state);
        Ok(MuxStream { mux: self.clone(), id })
    }

    /// Takes what the other side sent; gives a stream it has opened, with its first message.
    ///
    /// # Errors
    /// `InvalidInput` when the other side breaks a rule: the connection must be closed.
    pub(super) fn accept(&self, frame: Frame) -> Result<Option<(MuxStream, Bytes)>> {
        let mut state = self.0.state.lock();
        match frame {
            Frame::Open(id, first) => {
                if id % 2 == state.next_id % 2 || state.streams.contains_key(&id) {
                    return Err(broken_rule("a stream number is used once, and only by its side"));
                }
                if state.incoming >= self.0.incoming_max {
                    if state.resets.len() >= RESETS_MAX {
                        return Err(broken_rule("streams that are refused are not opened again and again"));
                    }
                    state.send_reset(id);
                    return Ok(None);
                }
                state.incoming += 1;
                state.streams.insert(id, Entry::new(false));
                drop(state);
                return Ok(Some((MuxStream { mux: self.clone(), id }, first)));
            }
            Frame::Data(id, data) => {
                // For one we have forgotten: it crossed our reset.
                let Some(entry) = state.streams.get_mut(&id) else { return Ok(None) };
                entry.may_receive -= data.len() as i64;
                if entry.their_end || entry.may_receive < -(PAYLOAD_MAX as i64) {
                    return Err(broken_rule("no more is sent than was granted, and nothing after the end"));
                }
                if !entry.dropped {
                    entry.inbox.push_back(data);
                    if let Some(waker) = entry.recv_waker.take() {
                        waker.wake();
                    }
                }
            }
            Frame::Credit(id, more) => {
                let Some(entry) = state.streams.get_mut(&id) else { return Ok(None) };
                entry.may_send += i64::from(more);
                if entry.may_send > i64::from(WINDOW) {
                    return Err(broken_rule("no more is granted than was taken"));
                }
                if let Some(waker) = entry.send_waker.take() {
                    waker.wake();
                }
            }
            Frame::End(id) => {
                let Some(entry) = state.streams.get_mut(&id) else { return Ok(None) };
                entry.their_end = true;
                entry.wake();
            }
            Frame::Reset(id) => {
                let Some(entry) = state.streams.get_mut(&id) else { return Ok(None) };
                entry.reset = true;
                entry.out.clear();
                entry.out_bytes = 0;
                entry.wake();
                if entry.dropped {
                    state.remove(id);
                }
            }
        }
        Ok(None)
    }

    /// What to write next, if anything: control messages first, then each stream in turn.
    pub(super) fn try_next(&self) -> Option<Outgoing> {
        let mut state = self.0.state.lock();
        Self::pick(&mut state)
    }

    fn pick(state: &mut State) -> Option<Outgoing> {
        if let Some(text) = state.text.pop_front() {
            return Some(Outgoing::Text(text));
        }
        if let Some(id) = state.resets.pop_front() {
            return Some(Outgoing::Binary(Frame::Reset(id).encode()));
        }
        while let Some(id) = state.ready.pop_front() {
            if let Some(frame) = state.take_turn(id) {
                return Some(Outgoing::Binary(frame));
            }
        }
        state.resets.pop_front().map(|id| Outgoing::Binary(Frame::Reset(id).encode()))
    }

    /// Waits for something to write; `None` once closed and everything said. For one caller at a time.
    pub(super) async fn next(&self) -> Option<Outgoing> {
        poll_fn(|cx| {
            let mut state = self.0.state.lock();
            if let Some(next) = Self::pick(&mut state) {
                return Poll::Ready(Some(next));
            }
            if state.closed.is_some() {
                return Poll::Ready(None);
            }
            state.writer = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Ends all streams. Control messages that wait are still handed to the writer.
    pub(super) fn close(&self, why: &str) {
        let mut state = self.0.state.lock();
        if state.closed.is_none() {
            state.closed = Some(why.to_owned());
        }
        state.ready.clear();
        state.resets.clear();
        for entry in state.streams.values_mut() {
            entry.out.clear();
            entry.out_bytes = 0;
            entry.wake();
        }
        state.streams.retain(|_, e| !e.dropped);
        state.wake_writer();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.0.state.lock().closed.is_some()
    }

    #[cfg(test)]
    fn streams(&self) -> usize {
        self.0.state.lock().streams.len()
    }
}

/// One stream. Sending and receiving may go on at the same time, each by one task. Dropping it tells the other side,
/// after what was sent.
pub(super) struct MuxStream {
    mux: Mux,
    id: u32,
}

impl fmt::Debug for MuxStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MuxStream").field("id", &self.id).finish_non_exhaustive()
    }
}

impl MuxStream {
    /// Waits for room; then [`push`](Self::push) takes one message.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<Result<()>> {
        let mut state = self.mux.0.state.lock();
        if let Some(why) = &state.closed {
            return Poll::Ready(Err(down(why)));
        }
        let Some(entry) = state.streams.get_mut(&self.id) else { return Poll::Ready(Err(down("no stream"))) };
        if entry.reset || entry.ended {
            return Poll::Ready(Err(down("the stream is closed")));
        }
        if entry.may_send > 0 && entry.out_bytes < OUT_MAX {
            return Poll::Ready(Ok(()));
        }
        entry.send_waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Queues a message of 1 to [`PAYLOAD_MAX`] bytes, after [`poll_room`](Self::poll_room).
    pub(super) fn push(&self, message: Message) {
        let bytes = message.len();
        debug_assert!(bytes > 0 && bytes <= PAYLOAD_MAX);
        let mut state = self.mux.0.state.lock();
        if state.closed.is_some() {
            return;
        }
        if let Some(entry) = state.streams.get_mut(&self.id)
            && !(entry.reset || entry.ended)
        {
            entry.may_send -= bytes as i64;
            entry.out_bytes += bytes;
            entry.out.push_back((message.into_frame(self.id), bytes));
            state.schedule(self.id);
        }
    }

    /// Sends a message when there is room. Cancel-safe: it is sent or not.
    pub(super) async fn send(&self, message: Message) -> Result<()> {
        poll_fn(|cx| self.poll_room(cx)).await?;
        self.push(message);
        Ok(())
    }

    /// The next message; `None` after the last. Cancel-safe.
    pub(super) async fn recv(&self) -> Result<Option<Bytes>> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    pub(super) fn poll_recv(&self, cx: &Context<'_>) -> Poll<Result<Option<Bytes>>> {
        let mut state = self.mux.0.state.lock();
        let Some(entry) = state.streams.get_mut(&self.id) else { return Poll::Ready(Err(down("no stream"))) };
        if let Some(data) = entry.inbox.pop_front() {
            entry.taken += data.len() as u32;
            if entry.credit_due() {
                state.schedule(self.id);
            }
            return Poll::Ready(Ok(Some(data)));
        }
        if entry.their_end {
            return Poll::Ready(Ok(None));
        }
        if entry.reset {
            return Poll::Ready(Err(down("the other side dropped the stream")));
        }
        entry.recv_waker = Some(cx.waker().clone());
        if let Some(why) = &state.closed {
            return Poll::Ready(Err(down(why)));
        }
        Poll::Pending
    }

    /// Says that no more data will come from us.
    pub(super) fn end(&self) {
        let mut state = self.mux.0.state.lock();
        if state.closed.is_some() {
            return;
        }
        if let Some(entry) = state.streams.get_mut(&self.id)
            && !(entry.reset || entry.ended)
        {
            entry.ended = true;
            entry.out.push_back((Frame::End(self.id).encode(), 0));
            state.schedule(self.id);
        }
    }
}

impl Drop for MuxStream {
    fn drop(&mut self) {
        let mut state = self.mux.0.state.lock();
        let closed = state.closed.is_some();
        let Some(entry) = state.streams.get_mut(&self.id) else { return };
        entry.dropped = true;
        entry.inbox.clear();
        let done = entry.reset || (entry.their_end && entry.ended);
        if closed || entry.out.is_empty() {
            state.remove(self.id);
            if !closed && !done {
                state.send_reset(self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Two ends, and a wire that this function is.
    fn carry(from: &Mux, to: &Mux) -> Vec<(MuxStream, Bytes)> {
        let mut opened = vec![];
        while let Some(next) = from.try_next() {
            if let Outgoing::Binary(frame) = next {
                let frame = Frame::decode(frame).unwrap();
                opened.extend(to.accept(frame).unwrap());
            }
        }
        opened
    }

    fn pair() -> (Mux, Mux) {
        (Mux::new(1, 0), Mux::new(2, 8))
    }

    fn recv(stream: &MuxStream) -> Option<Result<Option<Bytes>>> {
        let cx = Context::from_waker(Waker::noop());
        match stream.poll_recv(&cx) {
            Poll::Ready(r) => Some(r),
            Poll::Pending => None,
        }
    }

    fn has_room(stream: &MuxStream) -> bool {
        let cx = Context::from_waker(Waker::noop());
        matches!(stream.poll_room(&cx), Poll::Ready(Ok(())))
    }

    #[test]
    fn a_stream_that_is_not_read_stops_its_sender_and_nobody_else() {
        let (a, b) = pair();
        let (slow, fast) = (a.open("s".into()).unwrap(), a.open("f".into()).unwrap());
        let theirs: Vec<_> = carry(&a, &b);
        let block = Bytes::from(vec![7; 64 << 10]);
        let mut sent = 0;
        while has_room(&slow) {
            slow.push(Message::from(&block[..]));
            carry(&a, &b);
            sent += block.len();
            assert!(sent <= WINDOW as usize + PAYLOAD_MAX);
        }
        for _ in 0..100 {
            assert!(has_room(&fast));
            fast.push(Message::from(&block[..]));
            carry(&a, &b);
            assert_eq!(recv(&theirs[1].0).unwrap().unwrap().unwrap().len(), block.len());
            carry(&b, &a);
        }
        assert!(!has_room(&slow));
        while let Some(Ok(Some(_))) = recv(&theirs[0].0) {}
        carry(&b, &a);
        assert!(has_room(&slow));
    }

    #[test]
    fn what_was_sent_arrives_after_the_sender_has_left() {
        let (a, b) = pair();
        let stream = a.open("x".into()).unwrap();
        stream.push(Message::from(&b"hello"[..]));
        stream.end();
        drop(stream);
        let theirs = carry(&a, &b).pop().unwrap().0;
        assert_eq!(recv(&theirs).unwrap().unwrap(), Some(Bytes::from("hello")));
        assert_eq!(recv(&theirs).unwrap().unwrap(), None);
        drop(theirs);
        carry(&b, &a);
        assert_eq!((a.streams(), b.streams()), (0, 0));
    }

    #[test]
    fn control_goes_before_data() {
        let (a, _) = pair();
        let stream = a.open("x".into()).unwrap();
        stream.push(Message::from(&b"bulk"[..]));
        a.send_text("beat".to_owned()).unwrap();
        assert!(matches!(a.try_next(), Some(Outgoing::Text(t)) if t == "beat"));
    }

    #[test]
    fn rules_are_enforced() {
        let (a, b) = pair();
        let stream = a.open("x".into()).unwrap();
        let _theirs = carry(&a, &b);
        // More than the window.
        let block = Bytes::from(vec![0; PAYLOAD_MAX]);
        let over = (0..10).find_map(|_| b.accept(Frame::Data(stream.id, block.clone())).err());
        assert_eq!(over.unwrap().kind(), ErrorKind::InvalidInput);
        // More credit than there is.
        assert!(a.accept(Frame::Credit(stream.id, u32::MAX)).is_err());
        // A number of the wrong side, and one twice.
        assert!(b.accept(Frame::Open(2, "x".into())).is_err());
        assert!(b.accept(Frame::Open(stream.id, "x".into())).is_err());
        // Streams nobody knows are not worth a word.
        assert!(b.accept(Frame::Data(77, "x".into())).unwrap().is_none());
        // A flood of streams that are refused.
        let flood = (0..10_000).find_map(|n| a.accept(Frame::Open(2 + 2 * n, "x".into())).err());
        assert_eq!(flood.unwrap().kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn closing_wakes_everybody_and_forgets() {
        let (a, b) = pair();
        let stream = a.open("x".into()).unwrap();
        let theirs = carry(&a, &b).pop().unwrap().0;
        b.close("cable cut");
        assert_eq!(recv(&theirs).unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
        assert!(b.open("y".into()).is_err());
        drop((stream, theirs));
        assert_eq!(b.streams(), 0);
    }

    proptest! {
        /// However sends, receives and the wire interleave: bytes arrive once and in order, and nobody is stuck.
        #[test]
        fn bytes_arrive_in_order(steps in prop::collection::vec((0u8..4, 1usize..100_000), 1..200)) {
            let (a, b) = pair();
            let stream = a.open("x".into()).unwrap();
            let theirs = carry(&a, &b).pop().unwrap().0;
            let (mut sent, mut got) = (0u64, 0u64);
            let drain = |got: &mut u64| {
                while let Some(Ok(Some(data))) = recv(&theirs) {
                    for byte in &data {
                        assert_eq!(*byte, (*got % 251) as u8);
                        *got += 1;
                    }
                }
            };
            for (step, size) in steps {
                match step {
                    0 => if has_room(&stream) {
                        let data: Vec<u8> = (sent..sent + size as u64).map(|n| (n % 251) as u8).collect();
                        sent += size as u64;
                        stream.push(Message::from(&data[..]));
                    },
                    1 => drop(carry(&a, &b)),
                    2 => drop(carry(&b, &a)),
                    _ => drain(&mut got),
                }
            }
            for _ in 0..100 {
                carry(&a, &b);
                drain(&mut got);
                carry(&b, &a);
            }
            prop_assert_eq!(sent, got);
            prop_assert!(has_room(&stream));
        }
    }
}
