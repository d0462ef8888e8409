//! The task that owns a process: reads its output, passes signals on, ends it, keeps its record.

use std::{
    pin::Pin,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use parking_lot::Mutex;
use tokio::{
    sync::{Mutex as AsyncMutex, mpsc, watch},
    time::{Instant, Sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    CommandHandle, Recording, RunningCommand,
    handle::{Request, Shared},
};
use crate::{
    Channel, CommandId, CommandRecord, CommandSpec, CommandState, EndReason, Error, ErrorKind, Executor,
    ExitKind, ExitStatus, Io, Offset, OnDrop, OpContext, OutputChunk, Result, Signal, StateChange, Target,
    journal::Journal, raw::RawProcess,
};

/// Requests (signals, resizes) that may wait for the supervisor.
const REQUEST_QUEUE: usize = 16;

/// Settles the record of a command whose start was given up: the caller dropped the future.
struct Unstarted {
    record: Arc<CommandRecord>,
    recording: Option<Recording>,
}

impl Unstarted {
    async fn failed(mut self, error: &Error) {
        if let Some(recording) = self.recording.take() {
            let state = match error.kind() {
                ErrorKind::Cancelled => CommandState::Cancelled,
                _ => CommandState::Failed,
            };
            settle(&recording, &self.record, StateChange::to(state).with_error(error.to_string())).await;
        }
    }
}

impl Drop for Unstarted {
    fn drop(&mut self) {
        let Some(recording) = self.recording.take() else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let record = Arc::clone(&self.record);
        runtime.spawn(async move {
            let change = StateChange::to(CommandState::Cancelled)
                .with_error("the request was dropped before it began");
            settle(&recording, &record, change).await;
        });
    }
}

async fn settle(recording: &Recording, record: &Arc<CommandRecord>, change: StateChange) {
    let next = record.apply(&change);
    recording.store_change(record, change).await;
    if let Ok(next) = next {
        recording.tell(&Arc::new(next));
    }
}

/// Starts `spec` on `executor` under supervision.
///
/// The record is written before the process exists. Dropping the future leaves no process.
///
/// # Errors
/// Those of [`Executor::spawn`]; `AlreadyExists` when the id has been used; `InvalidInput`.
pub(crate) async fn spawn(
    executor: &dyn Executor,
    cx: &OpContext,
    id: CommandId,
    spec: CommandSpec,
    recording: Recording,
) -> Result<RunningCommand> {
    spec.check()?;
    let target = recording.target.clone().unwrap_or_else(Target::local);
    let record = CommandRecord::new(id, target, &spec, cx.actor.as_deref().map(str::to_owned))
        .with_request(recording.request);
    let record = Arc::new(record);
    // From here on a dropped future settles the record; the store takes changes in order, so after the insert.
    let mut unstarted = Unstarted { record, recording: Some(recording.clone()) };
    let record = Arc::clone(&unstarted.record);
    if let Some(store) = &recording.store
        && let Err(e) = cx.guard("record", store.insert(CommandRecord::clone(&record))).await
    {
        if !matches!(e.kind(), ErrorKind::Timeout | ErrorKind::Cancelled) {
            unstarted.recording = None;
        }
        return Err(e);
    }
    recording.tell(&record);
    let raw = match cx.guard("spawn", executor.spawn(cx, id, &spec)).await {
        Ok(raw) => raw,
        Err(e) => {
            let e = e.with_context("command", id);
            unstarted.failed(&e).await;
            return Err(e);
        }
    };
    let recording = unstarted.recording.take().unwrap_or_default();
    let outlives = executor.capabilities().reattach;
    Ok(supervise(raw, spec, Arc::clone(&unstarted.record), recording, outlives))
}

/// Takes up a command again that runs elsewhere under a supervisor of its own: `record` was given up as `Lost`, and its
/// log ends at the record's `output_end`.
///
/// # Errors
/// Those of [`Executor::reattach`]; the record stays as it is then.
pub(crate) async fn adopt(
    executor: &dyn Executor,
    cx: &OpContext,
    record: CommandRecord,
    recording: Recording,
) -> Result<CommandHandle> {
    let mut spec = CommandSpec::new(record.program.clone());
    spec.io = record.pty.map_or(spec.io, Io::Pty);
    spec.on_drop = OnDrop::Detach;
    let raw = cx.guard("reattach", executor.reattach(cx, record.id, record.output_end)).await?;
    Ok(supervise(raw, spec, Arc::new(record), recording, true).detach())
}

/// Puts a running process under supervision.
pub(super) fn supervise(
    mut raw: RawProcess,
    spec: CommandSpec,
    record: Arc<CommandRecord>,
    recording: Recording,
    outlives: bool,
) -> RunningCommand {
    let (id, from) = (record.id, record.output_end);
    let journal = Journal::resumed(id, spec.replay_bytes, spec.overflow, recording.store.clone(), from);
    let (requests, request_queue) = mpsc::channel(REQUEST_QUEUE);
    // One that is taken up again is lost no more from the moment it is listed.
    let running = record.apply(&StateChange::to(CommandState::Running)).ok().map(Arc::new);
    let shown = running.filter(|_| record.state == CommandState::Lost).unwrap_or_else(|| Arc::clone(&record));
    let shared = Arc::new(Shared {
        id,
        journal,
        record: Mutex::new(shown),
        requests,
        end: watch::channel(None).0,
        exit: watch::channel(None).0,
        stdin: AsyncMutex::new(raw.stdin.take()),
        let_go: outlives.then(CancellationToken::new),
        detached: AtomicBool::new(spec.on_drop == OnDrop::Detach),
    });
    let on_drop = spec.on_drop;
    let actor = Actor {
        end: shared.end.subscribe(),
        deadline: spec.timeout.and_then(|t| Instant::now().checked_add(t)),
        polite: if matches!(spec.io, Io::Pty(_)) { Signal::Hangup } else { Signal::Terminate },
        grace: spec.grace,
        drain: spec.drain,
        shared: Arc::clone(&shared),
        recording,
        raw,
        request_queue,
        reason: None,
        kill_at: None,
        exited: None,
        drain_at: None,
        output_done: false,
        keeping: None,
        ahead: None,
        gap_to: None,
        before: record,
        log_failed: false,
        settling: false,
        last_call: None,
    };
    tokio::spawn(actor.run());
    RunningCommand::new(CommandHandle { shared }, on_drop)
}

struct Actor {
    shared: Arc<Shared>,
    recording: Recording,
    raw: RawProcess,
    request_queue: mpsc::Receiver<Request>,
    end: watch::Receiver<Option<EndReason>>,
    /// Interactive shells ignore TERM; a terminal ends with a hang-up.
    polite: Signal,
    grace: Duration,
    drain: Duration,
    /// When the time limit strikes.
    deadline: Option<Instant>,
    /// Why it is being ended.
    reason: Option<EndReason>,
    /// When politeness ends.
    kill_at: Option<Instant>,
    exited: Option<ExitKind>,
    /// When output that descendants hold open is given up.
    drain_at: Option<Instant>,
    output_done: bool,
    /// A chunk on its way to the durable log; readers see it once it is there.
    keeping: Option<(OutputChunk, BoxFuture<'static, Result<()>>)>,
    /// What was read while the log was busy with the chunk before; only ever there beside `keeping`.
    ahead: Option<(Channel, Bytes)>,
    /// Where the output goes on after what is on its way to the log; only ever there beside `keeping`.
    gap_to: Option<Offset>,
    /// The record before the process ran.
    before: Arc<CommandRecord>,
    log_failed: bool,
    /// Nobody may hold the end back any more: the command is being ended, or its output is safe in the log.
    settling: bool,
    /// The drain is over: what is in the pipes already is still read, up to this many bytes.
    last_call: Option<usize>,
}

/// Where the output goes on after an error that is a gap.
fn skipped(gap: &Error) -> Option<Offset> {
    gap.context_value("to")?.parse().ok().map(Offset)
}

/// Two supervisors watched one command. The one beside the process knows whether it ended by itself; when it was asked
/// to end it, ours knows why.
fn agreed(own: ExitStatus, theirs: ExitStatus) -> ExitStatus {
    let reason = match theirs.reason {
        Some(EndReason::Requested) => own.reason.or(theirs.reason),
        other => other,
    };
    theirs.with_reason(reason).with_leaked(own.leaked || theirs.leaked)
}

/// What is read after the drain at most: two enlarged pipes, twice. An orphan may go on writing for ever.
const LAST_CALL_BYTES: usize = 4 << 20;

/// Ends the streams of a command whose supervisor does not get to its end: a panic, or the end of the runtime.
struct LastWord(Option<(Arc<Shared>, Recording)>);

impl Drop for LastWord {
    fn drop(&mut self) {
        let Some((shared, recording)) = self.0.take() else { return };
        let status = ExitStatus::new(ExitKind::Unknown);
        let before = Arc::clone(&shared.record.lock());
        let change = StateChange::ended(status, shared.journal.end());
        shared.journal.finish(CommandState::Lost, status);
        if let Ok(lost) = before.apply(&change) {
            recording.tell(&Arc::new(lost));
        }
    }
}

impl Actor {
    async fn run(mut self) {
        let mut last_word = LastWord(Some((Arc::clone(&self.shared), self.recording.clone_without_permit())));
        let started = self.started().boxed();
        let mut started = Some(started);
        let mut timer: Pin<Box<Sleep>> = Box::pin(tokio::time::sleep_until(Instant::now()));
        let mut timer_at = None;
        let leaked = loop {
            if self.exited.is_some() && self.output_done && self.keeping.is_none() {
                break false;
            }
            if let Some(left) = self.last_call
                && self.keeping.is_none()
            {
                if self.read_last(left) {
                    continue;
                }
                break true;
            }
            let space = self.settling || self.shared.journal.has_space();
            let next = self.next_deadline(space);
            if next != timer_at {
                timer_at = next;
                if let Some(at) = next {
                    timer.as_mut().reset(at);
                }
            }
            tokio::select! {
                biased;
                kind = &mut self.raw.exit, if self.exited.is_none() => self.on_exit(kind).await,
                Some(request) = self.request_queue.recv() => self.on_request(request).await,
                Ok(()) = self.end.changed() => self.on_end().await,
                () = self.shared.told_to_let_go(), if self.exited.is_none() => {
                    last_word.0 = None;
                    return self.let_go();
                }
                () = timer.as_mut(), if timer_at.is_some() => self.on_timer().await,
                () = async { if let Some(s) = &mut started { s.await } }, if started.is_some() => started = None,
                kept = async { match &mut self.keeping { Some((_, k)) => k.await, None => Ok(()) } },
                    if self.keeping.is_some() => self.on_kept(kept),
                chunk = self.raw.output.next(), if space && self.may_read() => match chunk {
                    Some(Ok(output)) if self.keeping.is_some() => self.ahead = Some(output),
                    Some(Ok((channel, data))) => self.on_output(channel, data),
                    Some(Err(e)) if e.kind() == ErrorKind::DataLoss && skipped(&e).is_some() => {
                        tracing::warn!(command = %self.shared.id, error = %e, "output has a gap");
                        self.gap_to = skipped(&e);
                        self.skip_gap();
                    }
                    Some(Err(e)) => {
                        tracing::warn!(command = %self.shared.id, error = %e, "output cannot be read any more");
                        self.output_done = true;
                    }
                    None => self.output_done = true,
                },
                () = self.shared.journal.space(), if !space => {
                    if self.exited.is_some() {
                        // Time spent held back does not count against the drain.
                        self.drain_at = Instant::now().checked_add(self.drain);
                    }
                }
            }
        };
        if let Some(started) = started {
            started.await;
        }
        let ending = self.finish(leaked).await;
        last_word.0 = None;
        ending.await;
    }

    /// Takes what the pipes hold already; returns whether there may be more. The drain gives up on the future, not on
    /// what was written in time.
    fn read_last(&mut self, left: usize) -> bool {
        // Unconstrained: an empty budget of this task must not look like an empty pipe.
        match tokio::task::unconstrained(self.raw.output.next()).now_or_never() {
            Some(Some(Ok((channel, data)))) if left > 0 => {
                self.last_call = Some(left.saturating_sub(data.len()));
                self.on_output(channel, data);
                true
            }
            Some(None | Some(Err(_))) => {
                self.output_done = true;
                true
            }
            _ => false,
        }
    }

    /// Tells the world that the process runs; the store is told while the process is already at work.
    fn started(&self) -> impl Future<Output = ()> + Send + 'static {
        let change = StateChange::to(CommandState::Running);
        let before = Arc::clone(&self.before);
        let next = before.apply(&change).map_or_else(|_| Arc::clone(&before), Arc::new);
        *self.shared.record.lock() = Arc::clone(&next);
        let recording = self.recording.clone();
        async move {
            recording.store_change(&before, change).await;
            recording.tell(&next);
        }
    }

    fn next_deadline(&self, space: bool) -> Option<Instant> {
        if self.exited.is_some() {
            return self.drain_at.filter(|_| space);
        }
        match self.reason {
            None => self.deadline,
            Some(_) => self.kill_at,
        }
    }

    /// One chunk may be read while the log takes the one before, if the window has room for both.
    fn may_read(&self) -> bool {
        let room = |pending: &OutputChunk| {
            self.settling || self.shared.journal.has_space_after(pending.data.len() as u64)
        };
        !self.output_done
            && self.ahead.is_none()
            && self.gap_to.is_none()
            && self.last_call.is_none()
            && self.keeping.as_ref().is_none_or(|(pending, _)| room(pending))
    }

    /// Skips a gap once everything before it is with the readers.
    fn skip_gap(&mut self) {
        if self.keeping.is_none()
            && let Some(to) = self.gap_to.take()
        {
            self.shared.journal.skip(to);
        }
    }

    fn on_output(&mut self, channel: Channel, data: Bytes) {
        let chunk = self.shared.journal.stamp(channel, data);
        let Some(store) = self.recording.store.clone() else {
            self.shared.journal.push(chunk);
            return;
        };
        let id = self.shared.id;
        let kept = chunk.clone();
        let mut keeping = async move { store.append_output(id, &kept).await }.boxed();
        // Small appends are done at the first poll; a slow disk must not hold up signals and deadlines.
        match (&mut keeping).now_or_never() {
            Some(result) => {
                self.note_log(result);
                self.shared.journal.push(chunk);
            }
            None => self.keeping = Some((chunk, keeping)),
        }
    }

    fn on_kept(&mut self, result: Result<()>) {
        self.note_log(result);
        if let Some((chunk, _)) = self.keeping.take() {
            self.shared.journal.push(chunk);
        }
        if let Some((channel, data)) = self.ahead.take() {
            self.on_output(channel, data);
        }
        self.skip_gap();
    }

    /// A log that cannot be written (a full disk) does not stop the command; later readers will see a gap.
    fn note_log(&mut self, result: Result<()>) {
        match result {
            Ok(()) => self.log_failed = false,
            Err(e) if !self.log_failed => {
                self.log_failed = true;
                tracing::warn!(command = %self.shared.id, error = %e, "output is not kept; its log will have a gap");
            }
            Err(_) => {}
        }
    }

    async fn on_request(&mut self, request: Request) {
        match request {
            Request::Signal(signal, answer) => {
                let _ = answer.send(self.raw.control.signal(signal).await);
            }
            Request::Resize(size, answer) => {
                let _ = answer.send(self.raw.control.resize(size).await);
            }
        }
    }

    async fn on_end(&mut self) {
        let why = *self.end.borrow_and_update();
        if let Some(why) = why {
            self.end_politely(why).await;
        }
    }

    async fn end_politely(&mut self, why: EndReason) {
        self.settling |= self.exited.is_some();
        if self.exited.is_some() || self.reason.is_some() {
            return;
        }
        self.reason = Some(why);
        match self.raw.control.end(self.polite, self.grace).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(e) => tracing::warn!(command = %self.shared.id, error = %e, "the other side cannot end it"),
        }
        if let Err(e) = self.raw.control.signal(self.polite).await {
            tracing::warn!(command = %self.shared.id, error = %e, "the polite signal failed");
        }
        // A stopped process cannot act on the signal.
        let _ = self.raw.control.signal(Signal::Continue).await;
        self.kill_at = Instant::now().checked_add(self.grace);
    }

    async fn kill(&mut self) {
        if let Err(e) = self.raw.control.signal(Signal::Kill).await {
            tracing::error!(command = %self.shared.id, error = %e, "the process tree could not be killed");
        }
    }

    async fn on_exit(&mut self, kind: Result<ExitKind>) {
        self.exited = Some(kind.unwrap_or_else(|e| {
            tracing::warn!(command = %self.shared.id, error = %e, "the exit status is unknown");
            ExitKind::Unknown
        }));
        if self.reason.is_some() {
            // We ended it: nothing of the tree may survive.
            self.kill().await;
        }
        // Holding back is for a process that lives. Now at most what the pipes hold comes on top of the window.
        self.settling |= self.reason.is_some() || self.recording.store.is_some();
        self.drain_at = Instant::now().checked_add(self.drain);
    }

    async fn on_timer(&mut self) {
        if self.exited.is_some() {
            self.drain_at = None;
            self.last_call = Some(LAST_CALL_BYTES);
            // Lets the runtime look at the pipes once more, should it have been held up all this time.
            tokio::task::yield_now().await;
            return;
        }
        if self.reason.is_none() {
            self.end_politely(EndReason::TimedOut).await;
        } else {
            self.kill_at = None;
            self.kill().await;
        }
    }

    /// Stops watching a command that runs on elsewhere. Its record stays as it is, for whoever takes it up again.
    fn let_go(mut self) {
        self.raw.control.disarm();
        let status = ExitStatus::new(ExitKind::Unknown);
        self.shared.journal.finish(CommandState::Lost, status);
        self.shared.exit.send_replace(Some(status));
    }

    /// Ends the command for everybody; what is returned goes on until the store knows it too.
    async fn finish(mut self, leaked: bool) -> impl Future<Output = ()> + Send {
        if self.reason.is_none() {
            self.raw.control.disarm(); // ended by itself: leave what it started alone
        }
        let own = ExitStatus::new(self.exited.unwrap_or(ExitKind::Unknown))
            .with_reason(self.reason)
            .with_leaked(leaked);
        let status = self.raw.control.verdict().map_or(own, |theirs| agreed(own, theirs));
        let before = Arc::clone(&self.shared.record.lock());
        let change = StateChange::ended(status, self.shared.journal.end());
        let next = before.apply(&change).map_or_else(|_| Arc::clone(&before), Arc::new);
        let stored = self.recording.store_change(&before, change.clone()).await;
        *self.shared.record.lock() = Arc::clone(&next);
        let Self { shared, mut recording, raw, request_queue, .. } = self;
        // The process and its descendants go before anybody learns that it has ended.
        drop(raw);
        let permit = recording.held.take().filter(|_| !stored);
        shared.journal.finish(next.state, status);
        shared.exit.send_replace(Some(status));
        drop(request_queue);
        drop(shared.stdin.lock().await.take());
        if stored {
            recording.tell(&next);
        }
        async move {
            if !stored {
                recording.store_end(&next, &change).await;
                recording.tell(&next);
            }
            drop(permit);
        }
    }
}
