//! A persistent shell on a pseudo-terminal.

use std::{ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use tokio::{sync::Mutex, time::Instant};

use super::{
    keys, marks,
    marks::Flavour,
    render,
    setup::{self, Discard},
    tap::Tap,
    track::{Phase, Slot, Tracker},
    wait::{Expect, wait},
};
use crate::{
    CommandHandle, CommandId, CommandStream, Error, ErrorKind, Executor, ExitKind, ExitStatus, HandedBack,
    Key, Offset, OpContext, PtySize, Rendered, Result, RunningCommand, Screen, Session, SessionId,
    SessionInfo, SessionSpec, Turn, TurnStatus, WaitPolicy,
    supervisor::{Recording, spawn},
};

/// How long a shell may take to its first prompt when the caller sets no deadline: start-up files of a loaded
/// machine take seconds, an hour would only hide a shell that waits for input.
const OPEN_LIMIT: Duration = Duration::from_secs(30);
/// How long `run` waits for the end of a prompt whose beginning was seen. Only a prompt that lost its marks takes
/// this long.
const PROMPT_LIMIT: Duration = Duration::from_secs(2);
/// How long `interrupt` waits for a long command to be handed to the shell: a megabyte takes a second.
const LOAD_LIMIT: Duration = Duration::from_secs(60);
/// More output than this is rendered on a thread of its own: some milliseconds' work.
const RENDER_INLINE_BYTES: usize = 128 << 10;
const CTRL_C: &[u8] = b"\x03";
/// How long a continuation prompt may take to answer Ctrl-C before it is typed again; doubles each time. Readline
/// overlooks a signal that comes between drawing the prompt and waiting for a key, until the next key.
const RETRY_CTRL_C: Duration = Duration::from_millis(50);
/// A shell that is about to start a program has the signal itself, and heeds it when the program has ended. Output
/// less than this ago means that it may have been so.
const MAY_FORK: Duration = Duration::from_secs(1);
/// How long the answer to such a Ctrl-C may take before it is typed again, as a person would; doubles each time. Long,
/// because one that comes when the program has just ended cuts off what is typed next.
const UNHEEDED_CTRL_C: Duration = Duration::from_millis(500);
/// How often it is typed again to a program: some take another one for a demand to stop at once.
const UNHEEDED_BY_PROGRAM: usize = 2;
/// How often it is typed again to a shell that has not begun to run what was typed.
const UNHEEDED_BY_SHELL: usize = 5;
/// What a terminal shows of Ctrl-C, `^C`, and the new line that bash then begins.
const CTRL_C_ECHO_BYTES: u64 = 4;

/// A persistent bash, or POSIX `sh` where there is no bash, over any executor that has pseudo-terminals.
///
/// The end of a command, its exit code and the directory are told by the shell itself, in marks (OSC 133 with a
/// nonce) that terminals do not show; nothing is polled and program output cannot forge them by accident. The
/// person's own start-up file is read (`~/.bashrc`; `--norc` or `--rcfile FILE` in [`SessionSpec::shell`] change
/// that), so a terminal view feels like home. Two things differ: history expansion with `!` is off, and the hooks
/// `PS0`, `PS1`, `PS2` and `PROMPT_COMMAND` carry the marks. Commands of `run` are part of the shell's history.
///
/// `run` types the command. People may type in the same terminal: their commands make the session busy until they
/// end, and a line that was only begun is emptied first.
///
/// Limits: a command that replaces the shell (`exec zsh`) or leaves neither `PS1` nor `PROMPT_COMMAND` with a mark
/// never ends its turn, as a nested shell does not until it is left. An incomplete command is refused with
/// `InvalidInput`, but complete lines before the incomplete one have run by then.
///
/// Without bash (`sh`, tested with dash) a command goes through `eval`: under `set -e` any last status but 0 ends the
/// shell, commands that a person types have no start mark, and a line of a command is at most 4000 bytes long. Shells
/// with a line editor of their own (busybox, ksh) run commands, but lines typed by a person may confuse them.
#[derive(Debug)]
pub struct ShellSession {
    id: SessionId,
    nonce: String,
    /// Owns the shell: dropped, the shell and its jobs end.
    command: RunningCommand,
    tracker: Arc<Tracker>,
    /// Held while a command or a Ctrl-C is typed, so that no Ctrl-C comes behind the command it is not meant for.
    typing: Arc<Mutex<()>>,
    scrollback_lines: usize,
}

impl ShellSession {
    /// Starts a shell and waits for its first prompt, then runs [`SessionSpec::startup`].
    ///
    /// # Errors
    /// `Unsupported` when the executor has no pseudo-terminals; `InvalidInput` for a shell that cannot be followed;
    /// `NotFound` when it is not there; `Timeout` when it shows no prompt before the context's deadline (30 s when
    /// there is none); `Unavailable` when it ends instead; `CommandFailed` when a start-up command fails. Nothing
    /// is left running after an error or when the future is dropped.
    pub async fn open(executor: Arc<dyn Executor>, cx: &OpContext, spec: SessionSpec) -> Result<Self> {
        const OPERATION: &str = "open session";
        let able = executor.capabilities();
        if !able.pty || !able.stdin {
            return Err(Error::unsupported(OPERATION));
        }
        spec.check().map_err(|e| e.with_operation(OPERATION))?;
        let nonce = uuid::Uuid::new_v4().simple().to_string();
        let work = async {
            let command = setup::command(&spec, &nonce)?;
            let tracker = Arc::new(Tracker::new(&spec, &nonce));
            let tap = Tap { inner: executor, tracker: Arc::clone(&tracker) };
            let id = CommandId::generate();
            let command = spawn(&tap, cx, id, command, Recording::default()).await?;
            let scrollback_lines = spec.scrollback_lines;
            let typing = Arc::default();
            let session = Self { id: spec.id.clone(), nonce, command, tracker, typing, scrollback_lines };
            tokio::spawn(watch(session.keyboard()));
            session.first_prompt().await?;
            session.start_up(&spec).await?;
            Ok(session)
        };
        let work = work.boxed(); // says that it is `Send`, which callers could not derive
        let cx = if cx.deadline.is_none() { &cx.clone().with_timeout(OPEN_LIMIT) } else { cx };
        let session: Result<Self> = cx.guard(OPERATION, work).await;
        session.map_err(|e| e.with_operation(OPERATION).with_context("session", &spec.id))
    }

    fn keyboard(&self) -> Keyboard {
        Keyboard {
            handle: self.command.handle(),
            tracker: Arc::clone(&self.tracker),
            typing: Arc::clone(&self.typing),
        }
    }

    async fn first_prompt(&self) -> Result<()> {
        let tracker = &self.tracker;
        tracker.until(|| tracker.phase() == Phase::Ready || tracker.ended().is_some()).await;
        let Some(status) = tracker.ended() else { return Ok(()) };
        let said = self.command.slice(Offset(0)..self.command.output_end());
        let said = String::from_utf8_lossy(&said);
        let kind = match status.kind {
            ExitKind::Code(126) => ErrorKind::PermissionDenied,
            ExitKind::Code(127) => ErrorKind::NotFound, // what `sh` answers for a program it cannot find
            _ => ErrorKind::Unavailable,
        };
        Err(Error::new(kind, "the shell ended before its first prompt")
            .with_context("said", said.trim().escape_debug()))
    }

    async fn start_up(&self, spec: &SessionSpec) -> Result<()> {
        for command in &spec.startup {
            let turn = self.run(command, WaitPolicy::forever()).await?;
            if turn.status != (TurnStatus::Completed { exit_code: Some(0) }) {
                return Err(Error::new(ErrorKind::CommandFailed, "a start-up command failed")
                    .with_context("command", command)
                    .with_context("status", format!("{:?}", turn.status)));
            }
        }
        let shell = match self.tracker.flavour() {
            _ if !spec.shell.is_empty() => spec.shell.clone(),
            Some(Flavour::Bash) => vec!["bash".to_owned()],
            _ => vec!["sh".to_owned()],
        };
        self.tracker.open(shell);
        Ok(())
    }

    /// Writes all of `data` even if the caller goes away: half a command is worse than a whole one.
    async fn put(&self, data: impl Into<Bytes>) -> Result<()> {
        let (handle, data) = (self.command.handle(), data.into());
        let mut write = async move { handle.write_stdin(data).await }.boxed();
        if let Some(result) = (&mut write).now_or_never() {
            return result;
        }
        let gone = |e: tokio::task::JoinError| {
            Error::new(ErrorKind::Unavailable, "the runtime is shutting down").with_source(e)
        };
        tokio::spawn(write).await.map_err(gone)?
    }

    /// Waits until the shell reads, so that what is typed meets readline and not the bare terminal.
    async fn prompt(&self, policy: &WaitPolicy) -> Result<()> {
        let Phase::Prompting(since) = self.tracker.phase() else { return Ok(()) };
        let limit = since + PROMPT_LIMIT;
        let soft =
            policy.soft_timeout.and_then(|d| Instant::now().checked_add(d)).filter(|soft| *soft < limit);
        let drawn = || !matches!(self.tracker.phase(), Phase::Prompting(_)) || self.tracker.ended().is_some();
        let waited = tokio::time::timeout_at(soft.unwrap_or(limit), self.tracker.until(drawn)).await;
        if waited.is_err() && soft.is_some() {
            return Err(Error::new(ErrorKind::Busy, "the shell still draws its prompt").with_operation("run"));
        }
        Ok(())
    }
}

/// Work that takes a screen, on a thread that may be busy with it.
async fn busy<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::new(ErrorKind::Unavailable, "the runtime is shutting down").with_source(e))
}

/// What types Ctrl-C again, whatever becomes of the session's callers.
struct Keyboard {
    handle: CommandHandle,
    tracker: Arc<Tracker>,
    typing: Arc<Mutex<()>>,
}

impl Keyboard {
    /// Types Ctrl-C for the command in `slot` once more. False when that has ended, or the shell has.
    async fn interrupt_again(&self, slot: &Slot) -> bool {
        let _typing = self.typing.lock().await;
        if !slot.running() {
            return false;
        }
        self.tracker.interrupted_again();
        self.handle.write_stdin(CTRL_C).await.is_ok()
    }

    /// Types Ctrl-C again while no program has started, and while nothing but its echo has come since `before`, when
    /// it was typed first.
    async fn until_heeded(self, slot: Arc<Slot>, before: u64) {
        let mut pause = UNHEEDED_CTRL_C;
        let (mut to_shell, mut to_program) = (UNHEEDED_BY_SHELL, UNHEEDED_BY_PROGRAM);
        let mut echo = CTRL_C_ECHO_BYTES;
        while tokio::time::timeout(pause, self.tracker.until(|| !slot.running())).await.is_err() {
            let answered = slot.started() && self.tracker.position() > before + echo;
            let left = if slot.started() { &mut to_program } else { &mut to_shell };
            if answered || *left == 0 || !self.interrupt_again(&slot).await {
                return;
            }
            *left -= 1;
            echo += CTRL_C_ECHO_BYTES;
            pause *= 2;
        }
    }
}

/// Tells the tracker of the shell's end, and takes incomplete commands back. Ends with the shell.
async fn watch(keyboard: Keyboard) {
    let tracker = &keyboard.tracker;
    let end = keyboard.handle.wait();
    tokio::pin!(end);
    loop {
        tokio::select! {
            status = &mut end => {
                tracker.on_end(status.unwrap_or_else(|_| ExitStatus::new(ExitKind::Unknown)));
                return;
            }
            slot = tracker.stuck() => {
                let mut pause = RETRY_CTRL_C;
                while keyboard.interrupt_again(&slot).await
                    && tokio::time::timeout(pause, tracker.until(|| !slot.running())).await.is_err()
                {
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
            }
        }
    }
}

#[async_trait]
impl Session for ShellSession {
    fn id(&self) -> &SessionId {
        &self.id
    }

    fn info(&self) -> SessionInfo {
        self.tracker.info()
    }

    async fn run(&self, command: &str, policy: WaitPolicy) -> Result<Turn> {
        let expect = Expect::new(&policy)?;
        let flavour = self.tracker.flavour().unwrap_or(Flavour::Posix);
        let checked = setup::typed(command, flavour, Discard::Nothing)?;
        self.prompt(&policy).await?;
        // Nobody types Ctrl-C for the command before from here on.
        let typing = self.typing.lock().await;
        let (slot, discard) = self.tracker.begin().map_err(|e| e.with_operation("run"))?;
        let typed = match discard {
            Discard::Nothing => checked,
            discard => setup::typed(command, flavour, discard)?,
        };
        if let Some(text) = typed.then {
            slot.load();
            let (handle, tracker, slot) =
                (self.command.handle(), Arc::clone(&self.tracker), Arc::clone(&slot));
            // Whatever becomes of this call: the shell waits for the text.
            tokio::spawn(async move {
                tracker.until(|| slot.reading() || tracker.ended().is_some()).await;
                if slot.running() && tracker.ended().is_none() {
                    let _ = handle.write_stdin(text).await; // fails when the shell has ended
                }
            });
        }
        match self.put(typed.line).await {
            // A shell that ends while it is typed to ends the turn.
            Err(e) if e.kind() != ErrorKind::InvalidState => return Err(e.with_operation("run")),
            _ => {}
        }
        drop(typing);
        wait(&self.tracker, &self.command, &slot, &policy, &expect).await
    }

    async fn resume(&self, policy: WaitPolicy) -> Result<Turn> {
        let expect = Expect::new(&policy)?;
        let slot = self.tracker.current().map_err(|e| e.with_operation("resume"))?;
        wait(&self.tracker, &self.command, &slot, &policy, &expect).await
    }

    async fn send_keys(&self, keys: &[Key]) -> Result<()> {
        let application = keys.iter().any(keys::depends_on_mode) && {
            let tracker = Arc::clone(&self.tracker);
            busy(move || tracker.application_cursor_keys()).await?
        };
        self.write(keys::encode(keys, application)?).await
    }

    async fn write(&self, data: Bytes) -> Result<()> {
        self.tracker.on_input(&data);
        self.put(data).await.map_err(|e| e.with_operation("write").with_context("session", &self.id))
    }

    async fn interrupt(&self, policy: WaitPolicy) -> Result<Turn> {
        let expect = Expect::new(&policy)?;
        let (slot, running) = self.tracker.interrupt().map_err(|e| e.with_operation("interrupt"))?;
        if running && slot.loading() {
            let loaded = self.tracker.until(|| !slot.loading());
            let limit = policy.soft_timeout.unwrap_or(LOAD_LIMIT);
            if tokio::time::timeout(limit, loaded).await.is_err() {
                return Ok(self.tracker.running(&slot, HandedBack::SoftTimeout));
            }
        }
        if running {
            // Before the command has started, Ctrl-C would meet the line that is still being typed.
            let started = self.tracker.until(|| slot.started());
            let limit = policy.soft_timeout.map_or(PROMPT_LIMIT, |soft| soft.min(PROMPT_LIMIT));
            let _ = tokio::time::timeout(limit, started).await; // late or not, it is typed
            let typing = self.typing.lock().await;
            if slot.running() {
                let lively = !slot.started() || self.tracker.last_output().elapsed() < MAY_FORK;
                let before = self.tracker.position();
                match self.put(CTRL_C).await {
                    Err(e) if e.kind() != ErrorKind::InvalidState => {
                        return Err(e.with_operation("interrupt"));
                    }
                    _ => {}
                }
                drop(typing);
                if lively {
                    // Whatever becomes of this call: the command was to be interrupted.
                    tokio::spawn(self.keyboard().until_heeded(Arc::clone(&slot), before));
                }
            }
        }
        wait(&self.tracker, &self.command, &slot, &policy, &expect).await
    }

    async fn resize(&self, size: PtySize) -> Result<()> {
        self.command.resize(size).await.map_err(|e| e.with_context("session", &self.id))?;
        let tracker = Arc::clone(&self.tracker);
        busy(move || tracker.resized(size)).await
    }

    async fn stream(&self, from: Offset) -> Result<Box<dyn CommandStream>> {
        Ok(self.command.stream(from))
    }

    async fn text(&self, range: Range<Offset>) -> Result<String> {
        if range.start > range.end {
            return Err(Error::invalid("range", "a range that starts before it ends"));
        }
        if self.tracker.only_echo(range.start.0) {
            return Ok(String::new());
        }
        // The tap sees a chunk a moment before the ring has it.
        let known = range.end.0.min(self.tracker.position());
        while self.command.output_end().0 < known {
            if self.command.subscribe(Offset(known - 1)).next().await.transpose()?.is_none() {
                break;
            }
        }
        let raw = self.command.slice(range.clone());
        let whole = raw.len() as u64 == range.end.0 - range.start.0;
        Ok(marks::turn_text(&raw, &self.nonce, whole))
    }

    async fn rendered(&self, turn: &Turn) -> Result<Rendered> {
        let Some(shown) = self.tracker.turn_bytes(turn.output.start) else {
            let text = self.text(turn.output.clone()).await?;
            let (size, at) = (self.info().size, turn.output.end);
            return busy(move || render::render_text(&text, size, at)).await;
        };
        let lines = self.scrollback_lines;
        if shown.len() < RENDER_INLINE_BYTES
            && let Some(shown) = shown.render_lines(lines)
        {
            return Ok(shown);
        }
        busy(move || shown.render(lines)).await
    }

    async fn screen(&self) -> Result<Screen> {
        let tracker = Arc::clone(&self.tracker);
        busy(move || tracker.screen()).await
    }

    async fn ended(&self) -> Result<ExitStatus> {
        let status = self.command.wait().await?;
        self.tracker.on_end(status); // `info` must know it too, though the watcher may not have run yet
        Ok(status)
    }

    async fn close(&self) -> Result<ExitStatus> {
        self.command.cancel();
        self.ended().await
    }
}
