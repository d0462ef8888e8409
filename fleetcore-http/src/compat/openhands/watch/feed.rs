//! Events for one reader, who reads as fast as it likes: what it has not taken yet is not kept for it here.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use fleetcore::{CommandEvent, CommandStream, Offset};
use futures::StreamExt as _;
use serde::Serialize;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::log::{Entry, Next, Place, Watch};

/// Where a reader begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum From {
    /// With the action that runs, or what comes.
    #[default]
    Now,
    /// With the oldest that is kept.
    Start,
    /// Behind what it has seen.
    After(Mark),
}

/// A position: the id of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    seq: u64,
    main: (u64, Offset),
    aside: Option<(u64, Offset)>,
}

impl Mark {
    /// Reads the id of an event.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let whole = |t: &str| t.bytes().all(|b| b.is_ascii_digit()).then(|| t.parse().ok())?;
        let numbers: Option<Vec<u64>> = text.split('-').map(whole).collect();
        match *numbers?.as_slice() {
            [seq, shell, at] => Some(Self { seq, main: (shell, Offset(at)), aside: None }),
            [seq, shell, at, other, there] => {
                Some(Self { seq, main: (shell, Offset(at)), aside: Some((other, Offset(there))) })
            }
            _ => None,
        }
    }
}

impl std::fmt::Display for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}-{}", self.seq, self.main.0, self.main.1.0)?;
        match self.aside {
            Some((shell, at)) => write!(f, "-{shell}-{}", at.0),
            None => Ok(()),
        }
    }
}

/// One shell that is followed.
#[derive(Debug)]
struct Following {
    shell: u64,
    /// `None`: it is over, or was never there.
    stream: Option<Box<dyn CommandStream>>,
    /// It was over before it could be read.
    missed: bool,
    /// What was read beyond a limit.
    rest: Option<Bytes>,
    /// The beginning of a character.
    held: Vec<u8>,
    /// Behind what was told and what is held.
    at: Offset,
}

enum Piece {
    Text(Offset, String),
    Binary(Offset, String),
    /// Without an end, nobody knows how much it was.
    Gap(Offset, Option<Offset>),
}

impl Following {
    /// What there was before something happened, if it cannot be read any more.
    fn missing(&mut self, limit: Option<Offset>) -> Option<Piece> {
        if !std::mem::take(&mut self.missed) || limit.is_some_and(|limit| self.at >= limit) {
            return None;
        }
        let from = self.at;
        self.at = limit.unwrap_or(from);
        Some(Piece::Gap(from, limit))
    }

    /// The next piece up to `limit`; `None` at the limit, and at the end of the shell. Cancel-safe.
    async fn next(&mut self, limit: Option<Offset>) -> Option<Piece> {
        loop {
            if limit.is_some_and(|limit| self.at >= limit) {
                return self.flush();
            }
            let mut data = match self.rest.take() {
                Some(rest) => rest,
                None => {
                    let Some(stream) = &mut self.stream else { return self.flush() };
                    match stream.next().await {
                        Some(Ok(CommandEvent::Output(chunk))) => chunk.data,
                        Some(Ok(CommandEvent::Gap { from, to })) => {
                            self.held.clear();
                            self.at = to;
                            return Some(Piece::Gap(from, Some(to)));
                        }
                        Some(Ok(CommandEvent::State(_))) => continue,
                        // The end, and whatever else leads nowhere.
                        _ => {
                            self.stream = None;
                            continue;
                        }
                    }
                }
            };
            if let Some(limit) = limit {
                let room = usize::try_from(limit.0.saturating_sub(self.at.0)).unwrap_or(usize::MAX);
                if room < data.len() {
                    self.rest = Some(data.split_off(room));
                }
            }
            let from = Offset(self.at.0 - self.held.len() as u64);
            self.at.0 += data.len() as u64;
            self.held.extend_from_slice(&data);
            let all = std::mem::take(&mut self.held);
            match std::str::from_utf8(&all) {
                Ok(_) => {}
                Err(e) if e.error_len().is_none() => {
                    let (whole, rest) = all.split_at(e.valid_up_to());
                    self.held = rest.to_vec();
                    if whole.is_empty() {
                        continue;
                    }
                    return Some(Piece::Text(from, String::from_utf8_lossy(whole).into_owned()));
                }
                Err(_) => return Some(Piece::Binary(from, STANDARD.encode(&all))),
            }
            return Some(Piece::Text(from, String::from_utf8_lossy(&all).into_owned()));
        }
    }

    /// What will not become whole.
    fn flush(&mut self) -> Option<Piece> {
        if self.held.is_empty() {
            return None;
        }
        let held = std::mem::take(&mut self.held);
        Some(Piece::Binary(Offset(self.at.0 - held.len() as u64), STANDARD.encode(&held)))
    }

    fn told(&self) -> Offset {
        Offset(self.at.0 - self.held.len() as u64)
    }
}

/// A reader of the events of a runtime.
#[derive(Debug)]
pub(crate) struct Feed {
    watch: Arc<Watch>,
    changed: watch::Receiver<u64>,
    output: bool,
    seq: u64,
    action: Option<u64>,
    /// How much was told of the main shell, also while another one is followed.
    main: (u64, Offset),
    /// The same of the shell of a static command that runs.
    aside: Option<(u64, Offset)>,
    now: Option<Following>,
    done: bool,
    _place: OwnedSemaphorePermit,
}

impl Watch {
    /// A reader; with or without output. `None` when there are too many.
    ///
    /// # Errors
    /// `()` for an id that is none of this runtime.
    pub(crate) fn feed(self: &Arc<Self>, from: From, output: bool) -> Result<Option<Feed>, ()> {
        let Ok(place) = Arc::clone(self.places()).try_acquire_owned() else { return Ok(None) };
        let (mark, aside) = match from {
            From::Now => (self.now(), None),
            From::Start => (self.start(), None),
            From::After(mark) if mark.seq > self.last() => return Err(()),
            From::After(mark) => ((mark.seq, mark.main.0, mark.main.1), mark.aside),
        };
        let (seq, shell, offset) = mark;
        Ok(Some(Feed {
            changed: self.changes(),
            action: self.running_after(seq),
            watch: Arc::clone(self),
            output,
            seq,
            main: (shell, offset),
            aside,
            now: None,
            done: false,
            _place: place,
        }))
    }
}

impl Feed {
    /// The next event; `None` when the runtime has ended. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let stop = self.watch.stop().clone();
        tokio::select! {
            biased;
            event = self.step() => Some(event),
            () = stop.cancelled() => {
                self.done = true;
                Some(self.event("closed", &json!({})))
            }
        }
    }

    async fn step(&mut self) -> Bytes {
        loop {
            self.changed.borrow_and_update();
            match self.watch.after(self.seq) {
                Next::Lost(to) => {
                    let event = json!({ "after": self.seq, "to": to });
                    self.seq = to;
                    return self.event("lost", &event);
                }
                Next::Entry(seq, entry) => {
                    if let Some(place) = entry.place().filter(|_| self.output)
                        && let Some(event) = self.up_to(place).await
                    {
                        return event;
                    }
                    self.seq = seq;
                    return self.entry(&entry);
                }
                Next::Nothing => {
                    if self.output && self.now.is_none() {
                        self.turn_to(self.aside.map_or(self.main.0, |(shell, _)| shell)).await;
                    }
                    let Self { now, changed, .. } = self;
                    let piece = tokio::select! {
                        biased;
                        piece = next_of(now) => Some(piece),
                        // The sender is ours: it is never gone.
                        _ = changed.changed() => None,
                    };
                    if let Some(piece) = piece {
                        return self.piece(piece);
                    }
                }
            }
        }
    }

    /// Output before something happened; `None` when all of it was told.
    async fn up_to(&mut self, place: Place) -> Option<Bytes> {
        if self.now.as_ref().is_none_or(|now| now.shell != place.shell) {
            self.turn_to(place.shell).await;
        }
        let now = self.now.as_mut()?;
        let piece = match now.missing(place.to) {
            Some(gap) => gap,
            None => now.next(place.to).await?,
        };
        Some(self.piece(piece))
    }

    /// Follows another shell, from where it was followed before.
    async fn turn_to(&mut self, shell: u64) {
        let told = self.aside.filter(|(aside, _)| *aside == shell).map(|(_, at)| at);
        let at = if self.main.0 == shell { self.main.1 } else { told.unwrap_or(Offset(0)) };
        let stream = match self.watch.shell(shell) {
            Some(session) => session.stream(at).await.ok(),
            None => None,
        };
        let missed = stream.is_none();
        self.now = Some(Following { shell, stream, missed, rest: None, held: Vec::new(), at });
    }

    fn piece(&mut self, piece: Piece) -> Bytes {
        let Some(now) = &self.now else { return Bytes::new() };
        let (shell, told) = (now.shell, now.told());
        if self.main.0 == shell {
            self.main.1 = told;
        } else {
            self.aside = Some((shell, told));
        }
        let action = self.action;
        match piece {
            Piece::Text(at, text) => self
                .event("output", &json!({ "action": action, "shell": shell, "offset": at.0, "text": text })),
            Piece::Binary(at, data) => self.event(
                "output",
                &json!({ "action": action, "shell": shell, "offset": at.0, "base64": data }),
            ),
            Piece::Gap(from, to) => {
                self.event("gap", &json!({ "shell": shell, "from": from.0, "to": to.map(|to| to.0) }))
            }
        }
    }

    fn entry(&mut self, entry: &Entry) -> Bytes {
        match entry {
            Entry::Shell { number, main, session, .. } => {
                if *main {
                    self.main = (*number, Offset(0));
                } else {
                    self.aside = Some((*number, Offset(0)));
                }
                self.now = None;
                self.event("shell", &json!({ "shell": number, "main": main, "session": session }))
            }
            Entry::Started { action, .. } => {
                self.action = Some(action.number);
                self.event("started", action)
            }
            Entry::Ended { action, .. } => {
                self.action = None;
                if self.aside.take().is_some() {
                    self.now = None;
                }
                self.event("ended", action)
            }
        }
    }

    fn event(&self, name: &str, data: &impl Serialize) -> Bytes {
        let mark = Mark { seq: self.seq, main: self.main, aside: self.aside };
        let data = serde_json::to_string(data).unwrap_or_default();
        format!("id: {mark}\nevent: {name}\ndata: {data}\n\n").into()
    }
}

/// Output of the shell that is followed; never, when there is none or it has ended.
async fn next_of(now: &mut Option<Following>) -> Piece {
    match now {
        Some(now) => match now.next(None).await {
            Some(piece) => piece,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_written() {
        for text in ["0-1-2", "7-1-200-3-4"] {
            assert_eq!(Mark::parse(text).unwrap().to_string(), text);
        }
        for bad in ["", "1", "1-2", "a-1-2", "1-2-3-4", "+1-2-3", "1-2-99999999999999999999"] {
            assert!(Mark::parse(bad).is_none(), "{bad}");
        }
    }
}
