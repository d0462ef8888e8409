//! One shell and what was said about it: what runs, and how much of it the client has seen.

use std::{borrow::Cow, sync::Arc, time::Duration};

use bytes::Bytes;
use fleetcore::{
    Error, ErrorKind, ExitKind, ExitStatus, HandedBack, Rendered, Result, Session, Turn, TurnStatus,
    WaitPolicy,
};
use parking_lot::Mutex;

use super::{
    keys,
    spawn::{Known, RunArgs, Settings},
    split::{self, Parsed},
    text,
};
use crate::compat::openhands::observation::{Metadata, Observation};

/// Longer texts are parsed on a thread of their own.
const PARSE_INLINE_BYTES: usize = 16 << 10;
/// How much longer than the limit for silence an equal hard limit is.
const TIE: Duration = Duration::from_millis(100);
/// What a shell reports for a command that was interrupted: 128 + SIGINT.
const INTERRUPTED: i32 = 130;

/// How long to wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    soft: Duration,
    hard: Option<f64>,
    blocking: bool,
}

impl Limits {
    pub(super) fn new(args: &RunArgs, soft: Duration, timeout: Option<f64>) -> Self {
        let hard = timeout.filter(|t| *t != 0.0 && !t.is_nan());
        Self { soft, hard, blocking: args.blocking }
    }

    fn policy(&self) -> WaitPolicy {
        let mut policy = WaitPolicy::forever();
        // More than a `Duration` holds is for ever.
        policy.soft_timeout = self.hard.and_then(|t| Duration::try_from_secs_f64(t.max(0.0)).ok());
        if policy.soft_timeout == Some(self.soft) && !self.blocking {
            // Of two equal limits the original looks at the one for silence first.
            policy.soft_timeout = Some(self.soft + TIE);
        }
        policy.quiet_timeout = (!self.blocking).then_some(self.soft);
        policy
    }
}

/// What an action did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Did {
    /// Started a command.
    Ran,
    /// Only looked.
    Looked,
    /// Typed its text.
    Typed,
    /// Pressed a key.
    Pressed(char),
}

/// A command that was still running when its last action was answered.
#[derive(Debug, Default)]
struct Pending {
    /// What the client has seen of it.
    seen: Option<Rendered>,
}

/// One shell, which is replaced when it ends.
#[derive(Debug)]
pub(super) struct Live {
    settings: Arc<Settings>,
    known: Arc<Mutex<Known>>,
    startup: &'static str,
    pending: Option<Pending>,
    /// Where it starts when its directory is not there, before the user's home.
    fallback: Option<String>,
    /// Exit code of the last command.
    last_code: i32,
}

impl Live {
    pub(super) fn new(settings: Arc<Settings>, known: Arc<Mutex<Known>>, startup: &'static str) -> Self {
        let fallback = Some(settings.working_dir.clone());
        Self { settings, known, startup, pending: None, fallback, last_code: 0 }
    }

    /// One that starts in the user's home when its directory is not there.
    pub(super) fn or_at_home(mut self) -> Self {
        self.fallback = None;
        self
    }

    /// The shell; a new one in the last directory when it has ended.
    pub(super) async fn session(&mut self) -> Result<Arc<dyn Session>> {
        let (session, cwd) = {
            let known = self.known.lock();
            if known.closed {
                return Err(Error::new(ErrorKind::InvalidState, "the shell has been closed"));
            }
            (known.session.clone(), known.cwd.clone())
        };
        if let Some(session) = session.filter(|s| s.info().ended.is_none()) {
            return Ok(session);
        }
        self.pending = None;
        let session = {
            let dirs: Vec<&str> = std::iter::once(&*cwd).chain(self.fallback.as_deref()).collect();
            self.settings.open(&dirs, self.startup).await?
        };
        let mut known = self.known.lock();
        if known.closed {
            return Err(Error::new(ErrorKind::InvalidState, "the shell has been closed"));
        }
        if let Some(cwd) = session.info().cwd {
            known.cwd = cwd;
        }
        known.session = Some(Arc::clone(&session));
        Ok(session)
    }

    /// Performs an action.
    pub(super) async fn act(&mut self, args: &RunArgs, limits: &Limits) -> Observation {
        let command = args.command.trim();
        if self.pending.is_none()
            && let Some(answer) = nothing_runs(command, args)
        {
            return answer;
        }
        let parsed = if command.len() <= PARSE_INLINE_BYTES {
            split::check(command)
        } else {
            let text = command.to_owned();
            tokio::task::spawn_blocking(move || split::check(&text)).await.unwrap_or(Parsed::One)
        };
        if let Parsed::Several(commands) = &parsed {
            return Observation::error(text::several(commands));
        }
        match self.perform(command, &parsed, args, limits).await {
            Ok(answer) => answer,
            Err(error) => Observation::error(error.to_string()),
        }
    }

    async fn perform(
        &mut self,
        command: &str,
        parsed: &Parsed,
        args: &RunArgs,
        limits: &Limits,
    ) -> Result<Observation> {
        let mut left_over = String::new();
        if self.pending.is_some() {
            let current = self.known.lock().session.clone();
            // Without waiting: has it ended in the meantime?
            let turn = match &current {
                Some(session) => session.resume(WaitPolicy::soft(Duration::ZERO)).await,
                None => Err(Error::new(ErrorKind::InvalidState, "no shell")),
            };
            match (turn, current) {
                (Ok(turn), Some(session)) if matches!(turn.status, TurnStatus::Running(_)) => {
                    return self.go_on(&session, turn, command, args, limits).await;
                }
                (Ok(turn), Some(session)) => {
                    let answer = self.answer(&session, turn, command, Did::Looked, "", args, limits).await?;
                    if command.is_empty() || args.is_input || keys::special(command).is_some() {
                        return Ok(answer);
                    }
                    left_over = answer.content;
                }
                // It never started, or a caller who did not wait for the answer took its end.
                (Err(e), _) if e.kind() == ErrorKind::InvalidState => self.pending = None,
                (Err(e), _) => return Err(e),
                (Ok(_), None) => self.pending = None,
            }
            if let Some(answer) = nothing_runs(command, args) {
                return Ok(answer);
            }
        }
        match keys::special(command) {
            Some('c' | 'C') => {
                self.last_code = INTERRUPTED;
                return Ok(self.idle(command, INTERRUPTED, "^C", Some('c'), args));
            }
            // Like the shell's own end of input: it refuses to end if it has stopped jobs.
            Some('d' | 'D') => {}
            // Nothing runs that could read it, and the line editor would only be confused.
            Some(key) => return Ok(self.idle(command, self.last_code, "", Some(key), args)),
            None => {}
        }
        if *parsed == Parsed::Nothing {
            return Ok(self.idle(command, 0, &left_over, None, args));
        }
        let (typed, did) = match keys::special(command) {
            Some(key) => (Cow::Borrowed("exit"), Did::Pressed(key)),
            None => (keys::verbatim(command), Did::Ran),
        };
        let mut session = self.session().await?;
        self.pending = Some(Pending::default());
        let mut turn = session.run(&typed, limits.policy()).await;
        // It may have ended just now, say by a timer of the shell's own.
        if turn.as_ref().is_err_and(|e| e.kind() == ErrorKind::InvalidState) {
            session = self.session().await?;
            self.pending = Some(Pending::default());
            turn = session.run(&typed, limits.policy()).await;
        }
        match turn {
            Ok(turn) => self.answer(&session, turn, command, did, &left_over, args, limits).await,
            Err(error) => {
                self.pending = None;
                Err(error)
            }
        }
    }

    /// A command runs.
    async fn go_on(
        &mut self,
        session: &Arc<dyn Session>,
        turn: Turn,
        command: &str,
        args: &RunArgs,
        limits: &Limits,
    ) -> Result<Observation> {
        if command.is_empty() {
            let turn = session.resume(limits.policy()).await?;
            return self.answer(session, turn, command, Did::Looked, "", args, limits).await;
        }
        if !args.is_input {
            let content = self.new_output(session, &turn, Did::Looked, command).await?.0;
            let metadata = Metadata {
                prefix: text::CONTINUATION.to_owned(),
                suffix: text::rejected(command),
                ..Metadata::default()
            };
            return Ok(Observation::run(command, text::shortened(content), &metadata, args.hidden));
        }
        let key = keys::special(command).and_then(|key| Some((key, keys::control(key)?)));
        let (turn, did) = match key {
            Some((key @ ('c' | 'C'), _)) => (session.interrupt(limits.policy()).await?, Did::Pressed(key)),
            Some((key, byte)) => {
                self.write(session, vec![byte]).await?;
                (session.resume(limits.policy()).await?, Did::Pressed(key))
            }
            None => {
                self.write(session, keys::input(command)).await?;
                (session.resume(limits.policy()).await?, Did::Typed)
            }
        };
        self.answer(session, turn, command, did, "", args, limits).await
    }

    /// Types. A shell that has just ended is found to have by who waits for it.
    async fn write(&self, session: &Arc<dyn Session>, data: Vec<u8>) -> Result<()> {
        match session.write(Bytes::from(data)).await {
            Err(e) if e.kind() == ErrorKind::InvalidState => Ok(()),
            written => written,
        }
    }

    /// What the client has not seen yet; also whether the start of it is lost.
    async fn new_output(
        &mut self,
        session: &Arc<dyn Session>,
        turn: &Turn,
        did: Did,
        command: &str,
    ) -> Result<(String, Option<usize>)> {
        let shown = session.rendered(turn).await?;
        let pending = self.pending.get_or_insert_default();
        let known = pending.seen.as_ref().and_then(|seen| shown.since(seen));
        let lost = (shown.truncated() && known.is_none()).then_some(shown.lines);
        let mut new = known.unwrap_or(&shown.text).trim_start();
        if did == Did::Typed {
            // The terminal's echo.
            new = new.strip_prefix(command).unwrap_or(new).trim_start();
        }
        let new = new.trim_end().to_owned();
        pending.seen = Some(shown);
        Ok((new, lost))
    }

    #[expect(clippy::too_many_arguments, reason = "an action, and all that came of it")]
    async fn answer(
        &mut self,
        session: &Arc<dyn Session>,
        turn: Turn,
        command: &str,
        did: Did,
        left_over: &str,
        args: &RunArgs,
        limits: &Limits,
    ) -> Result<Observation> {
        let continued = self.pending.as_ref().is_some_and(|p| p.seen.is_some());
        let (mut content, lost) = self.new_output(session, &turn, did, command).await?;
        if !left_over.is_empty() {
            content = format!("{left_over}\n{content}").trim_end().to_owned();
        }
        let code = match turn.status {
            TurnStatus::Completed { exit_code } => exit_code.unwrap_or(-1),
            TurnStatus::SessionEnded(status) => ended(status),
            TurnStatus::Running(why) => {
                let suffix = match (why, limits.hard) {
                    (HandedBack::SoftTimeout, Some(seconds)) => text::timed_out(seconds),
                    _ => text::quiet(limits.soft.as_secs()),
                };
                let prefix = if continued { text::CONTINUATION.to_owned() } else { String::new() };
                let metadata = Metadata { prefix, suffix, ..Metadata::default() };
                return Ok(Observation::run(command, text::shortened(content), &metadata, args.hidden));
            }
            // A status this build does not know.
            _ => -1,
        };
        self.pending = None;
        self.last_code = code;
        let key = match did {
            Did::Pressed(key) => Some(key),
            _ => None,
        };
        // Interrupted at a continuation prompt, where the line editor takes the echo away.
        if content.is_empty() && code == INTERRUPTED && matches!(key, Some('c' | 'C')) {
            content.push_str("^C");
        }
        if let Some(cwd) = &turn.cwd {
            self.known.lock().cwd.clone_from(cwd);
        }
        let mut metadata = self.metadata(Some(session), code, key);
        if let Some(lines) = lost {
            metadata.prefix = text::truncated(lines);
        }
        if !args.hidden {
            content = text::shortened(content);
        }
        Ok(Observation::run(command, content, &metadata, args.hidden))
    }

    fn metadata(&self, session: Option<&Arc<dyn Session>>, code: i32, key: Option<char>) -> Metadata {
        let cwd = self.known.lock().cwd.clone();
        let facts = session.map(|s| s.info().facts).unwrap_or_default();
        Metadata {
            exit_code: code,
            pid: facts.last_job.map_or(-1, i64::from),
            username: facts.user,
            hostname: facts.host,
            working_dir: Some(cwd),
            py_interpreter_path: Some(facts.programs.get("python").cloned().unwrap_or_default()),
            prefix: String::new(),
            suffix: text::completed(code, key),
        }
    }

    /// Answers something that does not reach the shell.
    fn idle(
        &self,
        command: &str,
        code: i32,
        content: &str,
        key: Option<char>,
        args: &RunArgs,
    ) -> Observation {
        let session = self.known.lock().session.clone();
        let metadata = self.metadata(session.as_ref(), code, key);
        Observation::run(command, content.to_owned(), &metadata, args.hidden)
    }
}

/// The answer to what only makes sense while a command runs.
fn nothing_runs(command: &str, args: &RunArgs) -> Option<Observation> {
    let content = match (command.is_empty(), args.is_input) {
        (true, _) => text::NO_LOGS,
        (false, true) => text::NO_PROGRAM,
        _ => return None,
    };
    Some(Observation::run("", content.to_owned(), &Metadata::default(), false))
}

/// The exit code of a shell, as another shell would report it.
fn ended(status: ExitStatus) -> i32 {
    match status.kind {
        ExitKind::Code(code) => code,
        ExitKind::Signal(signal) => 128 + signal,
        _ => -1,
    }
}
