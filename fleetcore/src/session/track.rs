//! What is known of a shell from its output: where it stands, and which bytes belong to which command.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::{
    marks::{Flavour, Mark, MarkKind, Parser, Told},
    render::{Snapshot, TurnBytes},
    setup::{self, Discard},
};
use crate::{
    Error, ErrorKind, ExitKind, ExitStatus, HandedBack, Offset, OnIncomplete, PtySize, Result, Screen,
    SessionInfo, SessionSpec, Turn, TurnStatus,
    term::{Backlog, Emulator},
};

/// Where the shell stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It has not shown a prompt yet, or runs a command.
    Away,
    /// It draws its prompt, since when.
    Prompting(Instant),
    /// It reads.
    Ready,
}

/// One command, shared by everybody who waits for it. Guarded by the tracker's lock.
#[derive(Debug)]
struct SlotState {
    /// Where the command's own output begins, once its start mark was seen.
    command_start: Option<u64>,
    done: Option<Done>,
    /// Ctrl-C was typed for it.
    interrupted: bool,
    /// Ctrl-C for the command before may answer first.
    late_interrupts: bool,
    /// The shell wanted more text, which is not going to come.
    refused: bool,
    /// The shell waits for more text.
    asks: bool,
    /// The text is still being handed to the shell.
    loading: bool,
    /// The shell has begun to read it.
    reading: bool,
    /// Somebody was told how it ended, or nobody will ask.
    claimed: bool,
    /// Where a search for expected text goes on.
    scanned: u64,
}

#[derive(Clone, Debug)]
struct Done {
    end: u64,
    status: TurnStatus,
    cwd: Option<String>,
}

/// A command that runs or has run.
#[derive(Debug)]
pub(super) struct Slot {
    seq: u64,
    start: u64,
    /// From `run`, not typed by a person.
    by_run: bool,
    state: Mutex<SlotState>,
}

impl Slot {
    fn new(seq: u64, start: u64, by_run: bool) -> Arc<Self> {
        let state = SlotState {
            command_start: None,
            done: None,
            interrupted: false,
            late_interrupts: false,
            refused: false,
            asks: false,
            loading: false,
            reading: false,
            claimed: !by_run,
            scanned: start,
        };
        Arc::new(Self { seq, start, by_run, state: Mutex::new(state) })
    }

    /// Whether the command has not ended.
    pub(super) fn running(&self) -> bool {
        self.state.lock().done.is_none()
    }

    /// Whether the shell has read all that was typed: it has begun to run the command, is through with it, or asks for
    /// more.
    pub(super) fn started(&self) -> bool {
        let state = self.state.lock();
        state.command_start.is_some() || state.done.is_some() || state.asks
    }

    /// The text will be handed to the shell once it has begun to read it.
    pub(super) fn load(&self) {
        self.state.lock().loading = true;
    }

    /// Whether the shell takes the text now, or never will.
    pub(super) fn reading(&self) -> bool {
        let state = self.state.lock();
        state.reading || state.done.is_some()
    }

    /// Whether the shell still reads the text. Ctrl-C would cut it off, and what comes after it would be typed at the
    /// prompt.
    pub(super) fn loading(&self) -> bool {
        let state = self.state.lock();
        state.loading && state.done.is_none()
    }

    /// Where a search for expected text may begin and must end; `None` before the command has started.
    pub(super) fn search(&self) -> Option<(u64, Option<u64>)> {
        let state = self.state.lock();
        let start = state.command_start?;
        Some((state.scanned.max(start), state.done.as_ref().map(|d| d.end)))
    }

    /// Expected text was found up to `at`; the next search goes on there.
    pub(super) fn found(&self, at: u64) {
        let mut state = self.state.lock();
        state.scanned = state.scanned.max(at);
    }

    /// The turn, if the command has ended. Counts as told.
    ///
    /// # Errors
    /// `InvalidInput` when the shell found the command incomplete.
    pub(super) fn outcome(&self) -> Option<Result<Turn>> {
        let mut state = self.state.lock();
        let done = state.done.clone()?;
        state.claimed = true;
        if self.by_run
            && state.command_start.is_none()
            && !state.asks
            && matches!(done.status, TurnStatus::SessionEnded(_))
        {
            let why = "the shell ended before it read the command";
            return Some(Err(Error::new(ErrorKind::InvalidState, why).with_operation("run")));
        }
        if state.refused && matches!(done.status, TurnStatus::Completed { .. }) {
            let rule = "complete: a quote, here-document or compound command is not closed";
            return Some(Err(Error::invalid("command", rule).with_operation("run")));
        }
        Some(Ok(Turn::new(self.seq, Offset(self.start)..Offset(done.end), done.status, done.cwd)))
    }
}

#[derive(Debug)]
struct State {
    parser: Parser,
    backlog: Backlog,
    /// Output of `slot`.
    turn: TurnBytes,
    on_incomplete: OnIncomplete,
    phase: Phase,
    flavour: Option<Flavour>,
    /// The running or last command.
    slot: Option<Arc<Slot>>,
    /// A command of `run` whose end nobody was told, pushed aside by a typed one.
    unclaimed: Option<Arc<Slot>>,
    /// Somebody has typed at the prompt.
    line_begun: bool,
    /// A Ctrl-C for a command may reach the prompt instead, which answers with one more end mark.
    stray_interrupt: bool,
    /// So may those that were typed again, as late as the next command is typed.
    late_interrupts: bool,
    last_output: Instant,
    info: SessionInfo,
}

/// Follows one shell.
#[derive(Debug)]
pub(super) struct Tracker {
    state: Mutex<State>,
    /// Locked before `state`. Interpreting output may take milliseconds; nothing else waits for it.
    emulator: Mutex<Emulator>,
    /// Something a waiter may be interested in has happened.
    changed: Notify,
    /// The shell waits for the rest of an incomplete command.
    stuck: Notify,
}

impl Tracker {
    pub(super) fn new(spec: &SessionSpec, nonce: &str) -> Self {
        let emulator = Emulator::new(spec.size, spec.scrollback_lines);
        let state = State {
            parser: Parser::new(nonce, 0),
            backlog: Backlog::new(spec.size, spec.scrollback_lines),
            turn: TurnBytes::new(0),
            on_incomplete: spec.on_incomplete,
            phase: Phase::Away,
            flavour: None,
            slot: None,
            unclaimed: None,
            line_begun: false,
            stray_interrupt: false,
            late_interrupts: false,
            last_output: Instant::now(),
            info: SessionInfo::new(spec, spec.shell.clone()),
        };
        let (state, emulator) = (Mutex::new(state), Mutex::new(emulator));
        Self { state, emulator, changed: Notify::new(), stuck: Notify::new() }
    }

    /// Resolves at the next change after it was enabled.
    pub(super) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    /// Resolves when `done` holds; it is asked again at every change.
    pub(super) async fn until(&self, mut done: impl FnMut() -> bool) {
        loop {
            let changed = self.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if done() {
                return;
            }
            changed.await;
        }
    }

    /// Resolves when the shell waits for the rest of a command that `run` has typed: that one.
    pub(super) async fn stuck(&self) -> Arc<Slot> {
        loop {
            self.stuck.notified().await;
            if let Some(slot) = &self.state.lock().slot {
                return Arc::clone(slot);
            }
        }
    }

    /// Ctrl-C is typed again for a command that may just have ended.
    pub(super) fn interrupted_again(&self) {
        let mut state = self.state.lock();
        state.stray_interrupt = true;
        state.late_interrupts = true;
    }

    /// Takes the next piece of output.
    pub(super) fn on_output(&self, data: &Bytes) {
        let mut marks = Vec::new();
        let mut state = self.state.lock();
        let start = state.parser.position();
        state.parser.feed(data, |m| marks.push(m));
        state.last_output = Instant::now();
        state.info.active_at = Timestamp::now();
        state.backlog.push(data.clone());
        let mut stuck = false;
        for mark in &marks {
            stuck |= state.on_mark(mark);
        }
        state.turn.push(start, data);
        drop(state);
        if !marks.is_empty() {
            self.changed.notify_waiters();
        }
        if stuck {
            self.stuck.notify_one();
        }
    }

    /// The shell has ended.
    pub(super) fn on_end(&self, status: ExitStatus) {
        let mut state = self.state.lock();
        if state.info.ended.is_some() {
            return;
        }
        state.info.ended = Some(status);
        let (end, cwd) = (state.parser.position(), state.info.cwd.clone());
        if let Some(slot) = &state.slot {
            slot.state.lock().done.get_or_insert(Done { end, status: TurnStatus::SessionEnded(status), cwd });
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Somebody types `data`.
    pub(super) fn on_input(&self, data: &[u8]) {
        let mut state = self.state.lock();
        state.info.active_at = Timestamp::now();
        if state.phase != Phase::Away && !data.is_empty() {
            state.line_begun = true;
            if setup::submits(data) && !state.busy() {
                // Nobody can say yet whether it is a command; the shell answers with a new prompt in any case.
                state.phase = Phase::Away;
                let start = state.parser.position();
                state.typed(start);
            }
        }
    }

    pub(super) fn info(&self) -> SessionInfo {
        let state = self.state.lock();
        let mut info = state.info.clone();
        info.busy = state.busy();
        info.output_end = Offset(state.parser.position());
        info
    }

    pub(super) fn flavour(&self) -> Option<Flavour> {
        self.state.lock().flavour
    }

    /// Whether the shell reads, and since when it has been drawing its prompt otherwise.
    pub(super) fn phase(&self) -> Phase {
        self.state.lock().phase
    }

    pub(super) fn ended(&self) -> Option<ExitStatus> {
        self.state.lock().info.ended
    }

    pub(super) fn last_output(&self) -> Instant {
        self.state.lock().last_output
    }

    pub(super) fn position(&self) -> u64 {
        self.state.lock().parser.position()
    }

    /// Forgets what has been run so far: it was the set-up.
    pub(super) fn open(&self, shell: Vec<String>) {
        let mut state = self.state.lock();
        state.info.turns = 0;
        state.info.shell = shell;
        state.slot = None;
    }

    /// Takes the shell for a command of `run`. Says what must be got out of the way first.
    ///
    /// # Errors
    /// `InvalidState` when the shell has ended, `Busy` when it runs something or nobody has seen its prompt.
    pub(super) fn begin(&self) -> Result<(Arc<Slot>, Discard)> {
        let mut state = self.state.lock();
        if let Some(status) = state.info.ended {
            return Err(ended(status));
        }
        if state.busy() || state.phase == Phase::Away {
            return Err(Error::new(ErrorKind::Busy, "a command is still running")
                .with_context("turn", state.info.turns)
                .with_context("session", &state.info.id));
        }
        state.info.turns += 1;
        state.info.active_at = Timestamp::now();
        state.phase = Phase::Away;
        let start = state.parser.position();
        let slot = Slot::new(state.info.turns, start, true);
        slot.state.lock().late_interrupts = state.late_interrupts;
        state.turn = TurnBytes::new(start);
        state.slot = Some(Arc::clone(&slot));
        state.unclaimed = None;
        let begun = std::mem::take(&mut state.line_begun);
        Ok((
            slot,
            if state.late_interrupts {
                Discard::Interrupts
            } else if begun {
                Discard::Line
            } else {
                Discard::Nothing
            },
        ))
    }

    /// The command to go on waiting for.
    ///
    /// # Errors
    /// `InvalidState` when nothing runs and nothing that ran is untold.
    pub(super) fn current(&self) -> Result<Arc<Slot>> {
        let mut state = self.state.lock();
        if let Some(slot) = state.unclaimed.take() {
            return Ok(slot);
        }
        match &state.slot {
            Some(slot) if slot.running() || !slot.state.lock().claimed => Ok(Arc::clone(slot)),
            _ => Err(match state.info.ended {
                Some(status) => ended(status),
                None => Error::new(ErrorKind::InvalidState, "no command is running"),
            }),
        }
    }

    /// The command to interrupt, and whether it still runs.
    ///
    /// # Errors
    /// `InvalidState` when nothing runs and nothing ever ran.
    pub(super) fn interrupt(&self) -> Result<(Arc<Slot>, bool)> {
        let mut state = self.state.lock();
        let Some(slot) = state.slot.clone() else {
            return Err(match state.info.ended {
                Some(status) => ended(status),
                None => Error::new(ErrorKind::InvalidState, "no command is running"),
            });
        };
        let mut inner = slot.state.lock();
        let running = inner.done.is_none();
        if running {
            inner.interrupted = true;
            state.stray_interrupt = true;
            state.info.active_at = Timestamp::now();
        }
        drop(inner);
        Ok((slot, running))
    }

    /// The turn of a command that runs on.
    pub(super) fn running(&self, slot: &Slot, why: HandedBack) -> Turn {
        let state = self.state.lock();
        let end = slot.state.lock().done.as_ref().map_or(state.parser.position(), |d| d.end);
        let output = Offset(slot.start)..Offset(end);
        Turn::new(slot.seq, output, TurnStatus::Running(why), state.info.cwd.clone())
    }

    /// Whether `start` is where a command was typed of which nothing but the echo has arrived.
    pub(super) fn only_echo(&self, start: u64) -> bool {
        let state = self.state.lock();
        state.slot.as_ref().is_some_and(|slot| {
            let inner = slot.state.lock();
            slot.by_run && slot.start == start && inner.command_start.is_none() && inner.done.is_none()
        })
    }

    /// What there is to render of the turn that began at `start`, if it is the running or last one.
    pub(super) fn turn_bytes(&self, start: Offset) -> Option<Snapshot> {
        let state = self.state.lock();
        let slot = state.slot.as_ref().filter(|slot| slot.start == start.0)?;
        let inner = slot.state.lock();
        // Before a command starts there is only its echo.
        let only_echo = slot.by_run && inner.command_start.is_none() && inner.done.is_none();
        let started = inner.command_start.is_some();
        Some(state.turn.snapshot(started, only_echo, state.info.size))
    }

    /// The picture up to the last byte that has arrived.
    pub(super) fn screen(&self) -> Screen {
        self.with_emulator(|e| e.screen())
    }

    pub(super) fn resized(&self, size: PtySize) {
        self.with_emulator(|e| e.resize(size));
        self.state.lock().info.size = size;
    }

    pub(super) fn application_cursor_keys(&self) -> bool {
        self.with_emulator(|e| e.application_cursor_keys())
    }

    fn with_emulator<T>(&self, work: impl FnOnce(&mut Emulator) -> T) -> T {
        let mut emulator = self.emulator.lock();
        let backlog = self.state.lock().backlog.take();
        emulator.catch_up(backlog);
        work(&mut emulator)
    }
}

fn ended(status: ExitStatus) -> Error {
    let how = match status.kind {
        ExitKind::Code(code) => format!("exit code {code}"),
        ExitKind::Signal(signal) => format!("signal {signal}"),
        ExitKind::Unknown => "unknown".to_owned(),
    };
    Error::new(ErrorKind::InvalidState, "the shell has ended").with_context("status", how)
}

impl State {
    fn busy(&self) -> bool {
        self.slot.as_ref().is_some_and(|s| s.running())
    }

    /// Somebody typed a command.
    fn typed(&mut self, start: u64) -> Arc<Slot> {
        self.turn = TurnBytes::new(start);
        let slot = Slot::new(self.info.turns, start, false);
        let last = self.slot.replace(Arc::clone(&slot));
        if let Some(last) = last.filter(|last| !last.state.lock().claimed) {
            self.unclaimed = Some(last);
        }
        slot
    }

    /// True when the shell waits for the rest of a command of `run`.
    fn on_mark(&mut self, mark: &Mark) -> bool {
        match &mark.kind {
            MarkKind::Init(flavour) => self.flavour = Some(*flavour),
            MarkKind::Start => self.on_start(mark),
            MarkKind::End(told) => self.on_shell_back(mark, told, true),
            MarkKind::PromptStart(told) => {
                // Only counts when the end mark was taken away: a prompt is also drawn anew when the size changes.
                let runs = |s: &Arc<Slot>| s.running() && s.state.lock().command_start.is_some();
                if self.slot.as_ref().is_some_and(runs) {
                    self.on_shell_back(mark, told, false);
                }
            }
            MarkKind::PromptEnd => {
                if self.flavour.is_some() && !self.slot.as_ref().is_some_and(|s| s.running()) {
                    self.phase = Phase::Ready;
                }
            }
            MarkKind::Continuation => return self.on_continuation(),
            MarkKind::Reading => {
                if let Some(slot) = &self.slot {
                    slot.state.lock().reading = true;
                }
            }
            MarkKind::Loaded => {
                if let Some(slot) = &self.slot {
                    let mut inner = slot.state.lock();
                    if inner.done.is_none() && inner.command_start.is_some() {
                        inner.command_start = Some(mark.end);
                        inner.scanned = inner.scanned.max(mark.end);
                        inner.loading = false;
                        self.turn = TurnBytes::new(mark.end);
                    }
                }
            }
            MarkKind::Facts { last_job, user, host } => {
                let known = |name: &String| (!name.is_empty()).then(|| name.clone());
                self.info.facts.last_job = *last_job;
                self.info.facts.user = known(user);
                self.info.facts.host = known(host);
            }
            MarkKind::Located { name, path } => {
                if path.is_empty() {
                    self.info.facts.programs.remove(name);
                } else {
                    self.info.facts.programs.insert(name.clone(), path.clone());
                }
            }
        }
        false
    }

    fn on_start(&mut self, mark: &Mark) {
        self.phase = Phase::Away;
        self.line_begun = false;
        if let Some(slot) = &self.slot {
            let mut inner = slot.state.lock();
            if inner.done.is_none() {
                // Several commands of one paste: the first mark counts.
                if inner.command_start.is_none() {
                    self.late_interrupts &= inner.interrupted;
                    inner.command_start = Some(mark.end);
                    inner.scanned = mark.end;
                    inner.asks = false;
                    self.turn = TurnBytes::new(mark.end);
                }
                return;
            }
        }
        let slot = self.typed(mark.start);
        slot.state.lock().command_start = Some(mark.end);
        self.turn = TurnBytes::new(mark.end);
    }

    fn on_shell_back(&mut self, mark: &Mark, told: &Told, by_hook: bool) {
        if told.cwd.is_some() {
            self.info.cwd.clone_from(&told.cwd);
        }
        self.line_begun = false;
        if let Some(slot) = &self.slot {
            let mut inner = slot.state.lock();
            // What a Ctrl-C leaves behind at a prompt looks like the end of a command that never started.
            let not_started = slot.by_run && inner.done.is_none() && inner.command_start.is_none();
            let stray = std::mem::take(&mut self.stray_interrupt);
            let answers_interrupt = told.exit_code == Some(INTERRUPTED) && (stray || inner.late_interrupts);
            // A POSIX shell answers the empty line before the command as well, which it always starts.
            let answers_line = inner.late_interrupts && self.flavour == Some(Flavour::Posix);
            if by_hook && not_started && (answers_interrupt || answers_line) && !inner.interrupted {
                return;
            }
            self.stray_interrupt = stray && told.exit_code != Some(INTERRUPTED);
            if inner.done.is_none() {
                let status = TurnStatus::Completed { exit_code: told.exit_code };
                inner.done = Some(Done { end: mark.start, status, cwd: self.info.cwd.clone() });
                self.turn.end(mark.start);
            }
        }
        self.phase = Phase::Prompting(Instant::now());
    }

    fn on_continuation(&mut self) -> bool {
        if self.flavour != Some(Flavour::Bash) {
            return false; // `eval` is always complete; its lines show this prompt
        }
        let Some(slot) = &self.slot else { return false };
        let mut inner = slot.state.lock();
        if inner.done.is_some() || inner.refused {
            return false;
        }
        if !slot.by_run || self.on_incomplete == OnIncomplete::Wait {
            inner.asks = true;
            return false;
        }
        inner.refused = true;
        inner.interrupted = true;
        true
    }
}

/// Exit code of a shell whose line was interrupted: 128 + SIGINT.
const INTERRUPTED: i32 = 130;
