//! Waiting for a command, with the policies that hand control back early.

use bytes::Bytes;
use futures::StreamExt;
use memchr::memmem::Finder;
use tokio::time::Instant;

use super::track::{Slot, Tracker};
use crate::{
    CommandEvent, CommandHandle, Error, HandedBack, JournalStream, Offset, PtySize, Result, Turn, WaitPolicy,
};

/// Longest expected text; as much of the output is held to find text that is split over chunks.
const EXPECT_MAX_BYTES: usize = 64 << 10;

/// Texts to look for, in the bytes a terminal gets: a newline is a return and a newline there.
#[derive(Debug)]
pub(super) struct Expect {
    finders: Vec<Finder<'static>>,
    longest: usize,
}

impl Expect {
    /// # Errors
    /// `InvalidInput` for empty and huge texts.
    pub(super) fn new(policy: &WaitPolicy) -> Result<Self> {
        let mut finders = Vec::with_capacity(policy.expect.len());
        let mut longest = 0;
        for text in &policy.expect {
            if text.is_empty() || text.len() > EXPECT_MAX_BYTES {
                return Err(Error::invalid("expect", "texts of 1 byte to 64 KiB"));
            }
            let bytes = text.replace("\r\n", "\n").replace('\n', "\r\n").into_bytes();
            longest = longest.max(bytes.len());
            finders.push(Finder::new(&bytes).into_owned());
        }
        Ok(Self { finders, longest })
    }

    fn is_empty(&self) -> bool {
        self.finders.is_empty()
    }

    /// The text that begins first, and where it ends.
    fn find(&self, bytes: &[u8]) -> Option<(usize, usize)> {
        let hits = self.finders.iter().enumerate();
        let hits = hits.filter_map(|(i, f)| Some((f.find(bytes)?, i, f.needle().len())));
        hits.min_by_key(|(at, i, _)| (*at, *i)).map(|(at, i, len)| (i, at + len))
    }
}

/// Reads the output of a command from where the last search ended.
struct Scan<'a> {
    expect: &'a Expect,
    stream: JournalStream,
    /// The last bytes seen, and the offset behind them.
    held: Vec<u8>,
    at: u64,
}

impl Scan<'_> {
    /// Looks through one event, but not beyond `end`. Returns the index and the end of a match.
    fn look(&mut self, event: CommandEvent, end: Option<u64>) -> Option<(usize, u64)> {
        match event {
            CommandEvent::Output(chunk) => {
                let from = chunk.offset.0;
                let len = end.map_or(chunk.data.len(), |end| {
                    usize::try_from(end.saturating_sub(from)).unwrap_or(usize::MAX).min(chunk.data.len())
                });
                // The tap sees a chunk before the ring has it, so the stream may begin too early: at the echo.
                let skip = usize::try_from(self.at.saturating_sub(from)).unwrap_or(usize::MAX);
                self.held.extend_from_slice(chunk.data.get(skip..len).unwrap_or_default());
                self.at = self.at.max(from + len as u64);
                if let Some((index, stop)) = self.expect.find(&self.held) {
                    return Some((index, self.at - (self.held.len() - stop) as u64));
                }
                let keep = self.expect.longest.saturating_sub(1).min(self.held.len());
                self.held.drain(..self.held.len() - keep);
            }
            CommandEvent::Gap { to, .. } => {
                self.held.clear();
                self.at = to.0;
            }
            _ => {}
        }
        None
    }
}

/// Waits for the end of `slot`, or until the policy hands control back.
///
/// Text that is expected wins over an end that comes after it, so that the answer does not depend on timing.
pub(super) async fn wait(
    tracker: &Tracker,
    handle: &CommandHandle,
    slot: &Slot,
    policy: &WaitPolicy,
    expect: &Expect,
) -> Result<Turn> {
    let began = Instant::now();
    let soft = policy.soft_timeout.and_then(|d| began.checked_add(d));
    let mut scan: Option<Scan<'_>> = None;
    loop {
        let changed = tracker.changed();
        tokio::pin!(changed);
        changed.as_mut().enable();
        if !expect.is_empty()
            && let Some((from, _)) = slot.search()
        {
            scan.get_or_insert_with(|| Scan {
                expect,
                stream: handle.subscribe(Offset(from)),
                held: Vec::new(),
                at: from,
            });
        }
        let searched = match (&scan, slot.search()) {
            (Some(scan), Some((_, Some(end)))) => scan.at >= end,
            (Some(_), _) => false,
            (None, _) => true,
        };
        if searched && let Some(outcome) = slot.outcome() {
            return outcome;
        }
        let quiet = policy.quiet_timeout.and_then(|d| tracker.last_output().max(began).checked_add(d));
        let (until, why) = match (soft, quiet) {
            (Some(s), Some(q)) if q <= s => (Some(q), HandedBack::Quiet),
            (Some(s), _) => (Some(s), HandedBack::SoftTimeout),
            (None, q) => (q, HandedBack::Quiet),
        };
        if tracker.is_back(slot) {
            // An empty line makes it draw a prompt, with its marks.
            let _ = handle.write_stdin(Bytes::from_static(b"\r")).await; // fails when the shell has ended
        }
        let unseen = tracker.unseen_prompt(slot);
        tokio::select! {
            biased; // the timer first: output may never pause
            () = async { match until { Some(at) => tokio::time::sleep_until(at).await, None => std::future::pending().await } } => {
                let still = why == HandedBack::SoftTimeout
                    || policy.quiet_timeout.is_some_and(|d| tracker.last_output().max(began) + d <= Instant::now());
                if still {
                    return Ok(tracker.running(slot, why));
                }
            }
            event = async { match &mut scan { Some(s) => s.stream.next().await, None => std::future::pending().await } } => {
                let Some(scan) = &mut scan else { continue };
                match event.transpose()? {
                    Some(event) => {
                        let end = slot.search().and_then(|(_, end)| end);
                        if let Some((index, at)) = scan.look(event, end) {
                            slot.found(at);
                            return Ok(tracker.running(slot, HandedBack::Expected { index }));
                        }
                    }
                    None => scan.at = u64::MAX, // the shell has ended
                }
                if scan.at == u64::MAX && slot.outcome().is_none() {
                    changed.await; // the end is told next
                }
            }
            () = async { match unseen { Some(at) => tokio::time::sleep_until(at).await, None => std::future::pending().await } } => {
                // Whoever has the terminal is told of each change; only the shell answers to it.
                let size = tracker.asked();
                let other = PtySize { rows: if size.rows > 1 { size.rows - 1 } else { 2 }, ..size };
                // Fails when the shell has ended, which is told next.
                if handle.resize(other).await.is_ok() {
                    let _ = handle.resize(size).await;
                }
            }
            () = &mut changed => {}
        }
    }
}
