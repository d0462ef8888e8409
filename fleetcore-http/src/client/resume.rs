//! Coming back after the connection broke.

use std::time::Duration;

use fleetcore::{CommandEvent, Error, ErrorKind, Offset};
use rand::Rng as _;
use tokio::time::Instant;

/// How a stream connects again. Pauses grow from `first` to `longest`, each cut by a random part so that many
/// clients do not come back at the same moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReconnectPolicy {
    /// First pause. Default 100 ms.
    pub first: Duration,
    /// Longest pause. Default 10 s.
    pub longest: Duration,
    /// Give up after this long without a connection. Default 5 min; zero means never come back.
    pub give_up_after: Duration,
}

impl Default for ReconnectPolicy {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            longest: Duration::from_secs(10),
            give_up_after: Duration::from_secs(300),
        }
    }
}

impl ReconnectPolicy {
    /// Never connects again: a broken connection is an error.
    pub fn never() -> Self {
        Self { give_up_after: Duration::ZERO, ..Self::default() }
    }

    /// Sets when to give up.
    #[must_use]
    pub fn with_give_up_after(mut self, limit: Duration) -> Self {
        self.give_up_after = limit;
        self
    }

    /// Sets the first and the longest pause.
    #[must_use]
    pub fn with_pauses(mut self, first: Duration, longest: Duration) -> Self {
        (self.first, self.longest) = (first, longest);
        self
    }
}

/// One outage: counts tries and says when it is over.
#[derive(Debug)]
pub(super) struct Backoff {
    policy: ReconnectPolicy,
    since: Option<Instant>,
    tries: u32,
}

impl Backoff {
    pub(super) fn new(policy: ReconnectPolicy) -> Self {
        Self { policy, since: None, tries: 0 }
    }

    /// Bytes arrived: the next outage starts from scratch.
    pub(super) fn progressed(&mut self) {
        self.since = None;
        self.tries = 0;
    }

    /// A connection that began at `start` broke. One that lasted was a good one even if it had nothing to say; one
    /// that breaks again and again before a single byte got through is still the same outage.
    pub(super) fn broke(&mut self, start: Instant) {
        if start.elapsed() > self.policy.longest {
            self.progressed();
        }
    }

    /// How long to wait before the next try, or `None` to give up.
    pub(super) fn next_pause(&mut self) -> Option<Duration> {
        self.next_pause_at(Instant::now())
    }

    fn next_pause_at(&mut self, now: Instant) -> Option<Duration> {
        if self.policy.give_up_after.is_zero() {
            return None;
        }
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= self.policy.give_up_after {
            return None;
        }
        let full = self.policy.first.saturating_mul(1 << self.tries.min(16)).min(self.policy.longest);
        self.tries += 1;
        Some(full.mul_f64(rand::rng().random_range(0.5..=1.0)))
    }
}

/// The place in a stream, and the guard that each byte is passed on exactly once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place(Option<u64>);

impl Place {
    /// `None` is the end of the stream at the moment of connecting.
    pub(super) fn new(from: Option<Offset>) -> Self {
        Self(from.map(|o| o.0))
    }

    /// Where to go on; `None` while nothing is known.
    pub(super) fn offset(self) -> Option<u64> {
        self.0
    }

    /// Passes an event on: cuts what was seen before, turns a hole into an explicit gap in front of it.
    pub(super) fn admit(&mut self, event: CommandEvent) -> (Option<CommandEvent>, Option<CommandEvent>) {
        match event {
            CommandEvent::Output(mut chunk) => {
                let at = *self.0.get_or_insert(chunk.offset.0);
                let end = chunk.end().0;
                if end <= at {
                    return (None, None);
                }
                let hole =
                    (chunk.offset.0 > at).then_some(CommandEvent::Gap { from: Offset(at), to: chunk.offset });
                if let Ok(seen) = usize::try_from(at.saturating_sub(chunk.offset.0)) {
                    chunk.data = chunk.data.slice(seen.min(chunk.data.len())..);
                    chunk.offset = Offset(chunk.offset.0.max(at));
                }
                self.0 = Some(end);
                (hole, Some(CommandEvent::Output(chunk)))
            }
            CommandEvent::Gap { from, to } => {
                let at = *self.0.get_or_insert(from.0);
                if to.0 <= at {
                    return (None, None);
                }
                self.0 = Some(to.0);
                (Some(CommandEvent::Gap { from: Offset(at), to }), None)
            }
            other => (None, Some(other)),
        }
    }
}

/// The error that ends a stream which could not come back.
pub(super) fn gave_up(last: Error, policy: &ReconnectPolicy) -> Error {
    if policy.give_up_after.is_zero() {
        return last;
    }
    Error::new(ErrorKind::Unavailable, "the connection to the server was lost and did not come back")
        .with_operation("client.stream")
        .with_context("tried_for_s", policy.give_up_after.as_secs())
        .with_source(last)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use fleetcore::{Channel, OutputChunk};
    use jiff::Timestamp;

    use super::*;

    fn chunk(offset: u64, data: &'static [u8]) -> CommandEvent {
        CommandEvent::Output(OutputChunk {
            offset: Offset(offset),
            channel: Channel::Stdout,
            at: Timestamp::UNIX_EPOCH,
            data: Bytes::from_static(data),
        })
    }

    /// However often the stream breaks and whatever is sent again: every byte once, in order.
    #[test]
    fn bytes_arrive_exactly_once() {
        const ALL: &[u8] = b"abcdefghijklmnopqrstuvwxyz";
        for step in 1..9 {
            for back in 0..=step + 3 {
                let mut place = Place::new(Some(Offset(0)));
                let mut got = Vec::new();
                while got.len() < ALL.len() {
                    // Every answer after a break starts a little before the place, as a chunky server may.
                    for from in [got.len().saturating_sub(back), got.len()] {
                        let to = (from + step).min(ALL.len());
                        let (gap, event) = place.admit(chunk(from as u64, &ALL[from..to]));
                        assert!(gap.is_none());
                        if let Some(CommandEvent::Output(c)) = event {
                            assert_eq!(c.offset.0 as usize, got.len());
                            got.extend_from_slice(&c.data);
                        }
                    }
                }
                assert_eq!(got, ALL);
            }
        }
    }

    #[test]
    fn holes_are_never_silent() {
        let mut place = Place::new(Some(Offset(0)));
        let (gap, out) = place.admit(chunk(5, b"xy"));
        assert_eq!(gap, Some(CommandEvent::Gap { from: Offset(0), to: Offset(5) }));
        assert!(out.is_some());
        assert_eq!(place.offset(), Some(7));
        let told_again = place.admit(CommandEvent::Gap { from: Offset(0), to: Offset(5) });
        assert_eq!(told_again, (None, None));
    }

    #[test]
    fn joining_at_the_end_learns_the_place_from_the_first_chunk() {
        let mut place = Place::new(None);
        assert_eq!(place.admit(chunk(100, b"x")).0, None);
        assert_eq!(place.offset(), Some(101));
    }

    #[test]
    fn pauses_grow_and_end() {
        let policy = ReconnectPolicy::default();
        let mut backoff = Backoff::new(policy.clone());
        let mut longest = Duration::ZERO;
        let mut tries = 0;
        let mut now = Instant::now();
        while let Some(pause) = backoff.next_pause_at(now) {
            assert!(pause <= policy.longest);
            longest = longest.max(pause);
            now += pause;
            tries += 1;
        }
        assert!(longest >= policy.longest / 2);
        assert!((20..200).contains(&tries), "{tries}");
        backoff.progressed();
        assert!(backoff.next_pause().is_some_and(|p| p <= policy.first));
        assert!(Backoff::new(ReconnectPolicy::never()).next_pause().is_none());
    }
}
