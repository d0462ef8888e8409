//! What has happened, for as long as it is worth knowing. Output is not kept here: the shells have it.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use fleetcore::{Offset, Result, Session, SessionId};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::super::{
    action::{Act, Deed},
    observation::Observation,
    queue::Answer,
};

/// Entries that are kept for those who come back.
const ENTRIES: usize = 512;
/// Shells that are known; older ones have ended.
const SHELLS: usize = 16;
/// Actions that are remembered.
const ACTIONS: usize = 64;
/// Answers that are kept, all together.
const ANSWERS_BYTES: usize = 16 << 20;
/// The largest that is kept.
const ANSWER_BYTES: usize = 8 << 20;
/// Characters of a command that are told.
const ABOUT_CHARS: usize = 4096;
/// Most who watch at once.
pub(crate) const WATCHERS: usize = 64;

/// One action of a runtime.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ActionState {
    /// Counts the actions of the runtime, from 1.
    pub number: u64,
    /// What kind: `run`, `run_ipython`, `read`, `write`, `edit`, `browse`, or `invalid`.
    pub kind: String,
    /// The command, the code or the path; the first 4096 characters.
    pub about: String,
    /// When its turn came.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// When it was answered.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
    /// Of a command that has ended; -1 when the command runs on after its action was answered.
    pub exit_code: Option<i64>,
    /// Status of the answer; null while there is none, or when the runtime ended first.
    pub status: Option<u16>,
    /// Whether the answer can still be fetched.
    pub answer_kept: bool,
}

/// What a runtime is doing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RuntimeState {
    /// Name of the shell's session; it changes when the shell is replaced.
    pub session: Option<String>,
    /// The shell's directory.
    pub cwd: Option<String>,
    /// What runs now. Static commands and files too; actions that wait for their turn are not counted yet.
    pub running: Option<ActionState>,
    /// The last actions, newest first; without the one that runs.
    pub actions: Vec<ActionState>,
}

/// What an action is, in two words.
pub(in super::super) fn describe(act: &Act) -> (&'static str, String) {
    let (kind, about) = match act {
        Act::Do(deed) => match &**deed {
            Deed::Run(run) => ("run", run.command.as_str()),
            Deed::Cell(cell) => ("run_ipython", cell.code.as_str()),
            Deed::Read(read) => ("read", read.path.as_str()),
            Deed::Write(write) => ("write", write.path.as_str()),
            Deed::Edit(edit) => ("edit", edit.path.as_str()),
            Deed::Browse(_) => ("browse", ""),
        },
        Act::Unable(name) => ("invalid", *name),
        Act::Wrong(text) | Act::Failed(text) => ("invalid", text.as_str()),
    };
    (kind, about.chars().take(ABOUT_CHARS).collect())
}

/// A position in the output of a shell; without an offset, its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) shell: u64,
    pub(super) to: Option<Offset>,
}

/// Something that happened, and how far the output was then.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    Shell { number: u64, main: bool, session: String, before: Option<Place> },
    Started { action: ActionState, at: Option<Place> },
    Ended { action: ActionState, at: Option<Place> },
}

impl Entry {
    /// How much output came before.
    pub(super) fn place(&self) -> Option<Place> {
        match self {
            Self::Shell { before, .. } => *before,
            Self::Started { at, .. } | Self::Ended { at, .. } => *at,
        }
    }
}

/// What comes next for a reader.
pub(super) enum Next {
    Nothing,
    Entry(u64, Entry),
    /// It came too late for everything up to this one.
    Lost(u64),
}

struct Opened {
    number: u64,
    session: Weak<dyn Session>,
}

impl Opened {
    fn end(&self) -> Option<Offset> {
        self.session.upgrade().map(|s| s.info().output_end)
    }
}

struct Past {
    state: ActionState,
    answer: Option<Answer>,
}

type OnOpen = Arc<dyn Fn(Arc<dyn Session>) + Send + Sync>;

#[derive(Default)]
struct Inner {
    last: u64,
    entries: VecDeque<(u64, Entry)>,
    shells: VecDeque<Opened>,
    shell_count: u64,
    /// The main shell, and the one of the static command that runs.
    main: u64,
    /// The latter is kept until its action is told to have ended, so that its end is known.
    aside: Option<(u64, Arc<dyn Session>)>,
    action_count: u64,
    running: Option<ActionState>,
    past: VecDeque<Past>,
    kept_bytes: usize,
    on_open: Option<OnOpen>,
}

/// Where everything that happens is told.
pub(crate) struct Watch {
    /// What the shell's sessions are called, before a number.
    name: Option<String>,
    inner: Mutex<Inner>,
    /// Number of the last entry.
    changed: watch::Sender<u64>,
    places: Arc<Semaphore>,
    stop: CancellationToken,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("last", &*self.changed.borrow()).finish_non_exhaustive()
    }
}

/// What is known of an action by its number.
pub(in super::super) enum Found {
    Running(Box<ActionState>),
    Answer(Answer),
    Forgotten,
    Unknown,
}

impl Watch {
    /// One that tells its readers to end with `stop`. Sessions are called `name` and a number, or all the same.
    pub(crate) fn new(name: Option<String>, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            name,
            inner: Mutex::default(),
            changed: watch::Sender::new(0),
            places: Arc::new(Semaphore::new(WATCHERS)),
            stop,
        })
    }

    /// The name for the next session.
    pub(in super::super) fn session_id(&self) -> Result<SessionId> {
        match &self.name {
            None => SessionId::new("openhands"),
            Some(name) => SessionId::new(format!("{name}-{}", self.inner.lock().shell_count + 1)),
        }
    }

    /// A shell was opened: the main one, or that of a static command.
    pub(in super::super) fn opened(&self, session: &Arc<dyn Session>, main: bool) {
        let mut gone = None;
        let told = {
            let mut inner = self.inner.lock();
            let before = inner.place();
            inner.shell_count += 1;
            let number = inner.shell_count;
            if inner.shells.len() == SHELLS {
                // Static ones come and go; the main one is needed.
                let main = inner.main;
                if let Some(at) = inner.shells.iter().position(|s| s.number != main) {
                    inner.shells.remove(at);
                }
            }
            inner.shells.push_back(Opened { number, session: Arc::downgrade(session) });
            if main {
                inner.main = number;
            } else {
                gone = inner.aside.replace((number, Arc::clone(session)));
            }
            let session = session.id().to_string();
            inner.tell(&self.changed, Entry::Shell { number, main, session, before });
            inner.on_open.clone().filter(|_| main)
        };
        drop(gone);
        if let Some(told) = told {
            told(Arc::clone(session));
        }
    }

    /// Hands the main shell, and every one that takes its place, to somebody.
    pub(in super::super) fn on_open(&self, hook: impl Fn(Arc<dyn Session>) + Send + Sync + 'static) {
        let hook: OnOpen = Arc::new(hook);
        let current = {
            let mut inner = self.inner.lock();
            inner.on_open = Some(Arc::clone(&hook));
            inner.shell(inner.main).and_then(|s| s.session.upgrade())
        };
        if let Some(session) = current {
            hook(session);
        }
    }

    /// The turn of an action has come. It has ended when what is given back is dropped, or before.
    pub(in super::super) fn began(self: &Arc<Self>, kind: &str, about: String) -> Acting {
        let mut inner = self.inner.lock();
        inner.action_count += 1;
        let action = ActionState {
            number: inner.action_count,
            kind: kind.to_owned(),
            about,
            started_at: Timestamp::now(),
            ended_at: None,
            exit_code: None,
            status: None,
            answer_kept: false,
        };
        inner.running = Some(action.clone());
        let at = inner.place();
        inner.tell(&self.changed, Entry::Started { action, at });
        Acting { watch: Arc::clone(self), exit_code: None, answer: None }
    }

    /// What is going on.
    pub(crate) fn state(&self) -> RuntimeState {
        let inner = self.inner.lock();
        let session = inner.shell(inner.main).and_then(|s| s.session.upgrade());
        RuntimeState {
            session: session.as_ref().map(|s| s.id().to_string()),
            cwd: session.and_then(|s| s.info().cwd),
            running: inner.running.clone(),
            actions: inner.past.iter().rev().map(|p| p.state.clone()).collect(),
        }
    }

    /// An action by its number.
    pub(in super::super) fn action(&self, number: u64) -> Found {
        let inner = self.inner.lock();
        if let Some(running) = inner.running.as_ref().filter(|a| a.number == number) {
            return Found::Running(Box::new(running.clone()));
        }
        match inner.past.iter().find(|p| p.state.number == number) {
            Some(Past { answer: Some(answer), .. }) => Found::Answer(answer.clone()),
            Some(_) => Found::Forgotten,
            None if (1..=inner.action_count).contains(&number) => Found::Forgotten,
            None => Found::Unknown,
        }
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
    pub(super) fn places(&self) -> &Arc<Semaphore> {
        &self.places
    }
    pub(super) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// The first entry behind `seq`.
    pub(super) fn after(&self, seq: u64) -> Next {
        let inner = self.inner.lock();
        let Some((first, _)) = inner.entries.front() else { return Next::Nothing };
        if seq + 1 < *first {
            return Next::Lost(first - 1);
        }
        let at = usize::try_from(seq + 1 - first).unwrap_or(usize::MAX);
        inner.entries.get(at).map_or(Next::Nothing, |(seq, entry)| Next::Entry(*seq, entry.clone()))
    }

    /// Where a reader begins that wants what is new, or the action that runs from its start: the entry before, the
    /// main shell and the offset in it.
    pub(super) fn now(&self) -> (u64, u64, Offset) {
        let inner = self.inner.lock();
        let running = inner.running.as_ref().map(|a| a.number);
        let started = inner.entries.iter().rev().find_map(|(seq, entry)| match entry {
            Entry::Started { action, at } if Some(action.number) == running => Some((*seq, *at)),
            _ => None,
        });
        match started {
            Some((seq, Some(Place { shell, to: Some(offset) }))) => (seq - 1, shell, offset),
            Some((seq, _)) => (seq - 1, inner.main, Offset(0)),
            None => {
                let end = inner.shell(inner.main).and_then(Opened::end).unwrap_or(Offset(0));
                (inner.last, inner.main, end)
            }
        }
    }

    /// The same for who wants everything that is kept.
    pub(super) fn start(&self) -> (u64, u64, Offset) {
        let inner = self.inner.lock();
        let first = inner.entries.front().map_or(0, |(seq, _)| seq - 1);
        let shell = inner.entries.iter().find_map(|(_, entry)| Some(entry.place()?.shell));
        (first, shell.unwrap_or(inner.main), Offset(0))
    }

    pub(super) fn last(&self) -> u64 {
        self.inner.lock().last
    }

    /// What ran after this entry.
    pub(super) fn running_after(&self, seq: u64) -> Option<u64> {
        let inner = self.inner.lock();
        let mut before = inner.entries.iter().rev().filter(|(s, _)| *s <= seq);
        before.find_map(|(_, entry)| match entry {
            Entry::Started { action, .. } => Some(Some(action.number)),
            Entry::Ended { .. } => Some(None),
            Entry::Shell { .. } => None,
        })?
    }

    /// A shell, while it is there.
    pub(super) fn shell(&self, number: u64) -> Option<Arc<dyn Session>> {
        self.inner.lock().shell(number)?.session.upgrade()
    }
}

impl Inner {
    fn shell(&self, number: u64) -> Option<&Opened> {
        self.shells.iter().find(|s| s.number == number)
    }

    /// Where the output is now.
    fn place(&self) -> Option<Place> {
        if let Some((shell, session)) = &self.aside {
            return Some(Place { shell: *shell, to: Some(session.info().output_end) });
        }
        let shell = self.shell(self.main)?;
        Some(Place { shell: shell.number, to: shell.end() })
    }

    fn tell(&mut self, changed: &watch::Sender<u64>, entry: Entry) {
        if self.entries.len() == ENTRIES {
            self.entries.pop_front();
        }
        self.last += 1;
        self.entries.push_back((self.last, entry));
        changed.send_replace(self.last);
    }

    fn keep(&mut self, mut state: ActionState, answer: Option<Answer>) {
        // One that takes all the room would push the others out, and still not fit.
        let answer = answer.filter(|a| a.body.len() <= ANSWER_BYTES);
        state.answer_kept = answer.is_some();
        self.kept_bytes += answer.as_ref().map_or(0, |a| a.body.len());
        self.past.push_back(Past { state, answer });
        if self.past.len() > ACTIONS
            && let Some(gone) = self.past.pop_front()
        {
            self.kept_bytes -= gone.answer.map_or(0, |a| a.body.len());
        }
        for past in &mut self.past {
            if self.kept_bytes <= ANSWERS_BYTES {
                break;
            }
            if let Some(answer) = past.answer.take() {
                self.kept_bytes -= answer.body.len();
                past.state.answer_kept = false;
            }
        }
    }
}

/// An action that has its turn.
pub(in super::super) struct Acting {
    watch: Arc<Watch>,
    exit_code: Option<i64>,
    answer: Option<Answer>,
}

impl Acting {
    /// What came of it.
    pub(in super::super) fn saw(&mut self, outcome: &Result<Observation, String>) {
        let metadata = outcome.as_ref().ok().and_then(|o| o.extras.get("metadata"));
        self.exit_code = metadata.and_then(|m| m.get("exit_code")?.as_i64());
    }

    /// It ends with this answer.
    pub(in super::super) fn ends(mut self, answer: &Answer) {
        self.answer = Some(answer.clone());
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        let mut inner = self.watch.inner.lock();
        let at = inner.place();
        let aside = inner.aside.take();
        let Some(mut action) = inner.running.take() else { return };
        let answer = self.answer.take();
        action.ended_at = Some(Timestamp::now());
        action.exit_code = self.exit_code;
        action.status = answer.as_ref().map(|a| a.status.as_u16());
        action.answer_kept = answer.as_ref().is_some_and(|a| a.body.len() <= ANSWER_BYTES);
        inner.keep(action.clone(), answer);
        inner.tell(&self.watch.changed, Entry::Ended { action, at });
        drop(inner);
        // The shell ends here.
        drop(aside);
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    fn act(watch: &Arc<Watch>, bytes: usize) {
        let acting = watch.began("run", String::new());
        acting.ends(&Answer { status: StatusCode::OK, body: vec![b'x'; bytes].into() });
    }

    #[test]
    fn a_large_answer_does_not_push_the_others_out() {
        let watch = Watch::new(None, CancellationToken::new());
        act(&watch, 100);
        act(&watch, ANSWERS_BYTES + 1);
        act(&watch, ANSWER_BYTES);
        let kept: Vec<bool> = watch.state().actions.iter().map(|a| a.answer_kept).collect();
        assert_eq!(kept, [true, false, true], "newest first");
        assert!(matches!(watch.action(1), Found::Answer(_)) && matches!(watch.action(2), Found::Forgotten));
        for _ in 0..8 {
            act(&watch, ANSWER_BYTES);
        }
        assert!(matches!(watch.action(1), Found::Forgotten), "there is a bound");
        assert!(watch.inner.lock().kept_bytes <= ANSWERS_BYTES);
    }
}
