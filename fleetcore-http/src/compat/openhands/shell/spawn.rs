//! The shell as the runtime uses it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fleetcore::{
    CommandStream, Error, ErrorKind, Machine, Offset, OnIncomplete, PtySize, Result, Session, SessionSpec,
};
use parking_lot::Mutex;
use secrecy::SecretString;

use super::live::{Limits, Live};
use crate::compat::openhands::{observation::Observation, watch::Watch};

/// What the terminal of the original calls itself, and how large it is.
const TERM: &str = "tmux-256color";
const SIZE: PtySize = PtySize { cols: 1000, rows: 1000 };
/// Typed first: the original shows no continuation prompt.
const QUIET: &str = "PS2=";
/// Typed first into the main shell, as the original's server does.
const ALIAS: &str = r#"PS2=; alias git="git --no-pager""#;

/// Arguments of a `run` action.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::compat::openhands) struct RunArgs {
    /// The command, or what to type into the program that runs.
    pub(in crate::compat::openhands) command: String,
    /// Type it into the program that runs.
    pub(in crate::compat::openhands) is_input: bool,
    /// Wait even if there is no output.
    pub(in crate::compat::openhands) blocking: bool,
    /// Run it in a shell of its own.
    pub(in crate::compat::openhands) is_static: bool,
    /// Where that one starts.
    pub(in crate::compat::openhands) cwd: Option<String>,
    /// Not for the agent: all of the output is wanted.
    pub(in crate::compat::openhands) hidden: bool,
}

/// How shells are opened.
#[derive(Debug)]
pub(super) struct Settings {
    machine: Machine,
    pub(super) working_dir: String,
    user: Option<String>,
    env: BTreeMap<String, SecretString>,
    pub(super) soft: Duration,
    /// Who is told of every shell.
    watch: Arc<Watch>,
}

impl Settings {
    /// Opens a shell in the first of `dirs` that is there, or else at home.
    pub(super) async fn open(&self, dirs: &[&str], startup: &str) -> Result<Arc<dyn Session>> {
        let mut dirs = dirs.iter();
        loop {
            let dir = dirs.next();
            let mut spec = SessionSpec::new(self.watch.session_id()?)
                .with_shell(["bash"])
                .with_size(SIZE)
                .with_on_incomplete(OnIncomplete::Wait);
            spec.cwd = dir.map(|d| (*d).to_owned());
            spec.user.clone_from(&self.user);
            spec.env.clone_from(&self.env);
            spec.env.entry("TERM".to_owned()).or_insert_with(|| TERM.into());
            spec.locate = vec!["python".to_owned()];
            spec.startup = vec![startup.to_owned()];
            match self.machine.open_session(spec).await {
                Err(e) if dir.is_some() && e.context_value("field") == Some("cwd") => {}
                opened => {
                    return opened.inspect(|session| self.watch.opened(session, startup == ALIAS));
                }
            }
        }
    }
}

/// What is known of a shell from outside, also while it works.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) session: Option<Arc<dyn Session>>,
    pub(super) cwd: String,
    pub(super) closed: bool,
}

/// The shell: one that lives as long as this, and a fresh one for each static command.
#[derive(Debug)]
pub(in crate::compat::openhands) struct Shell {
    settings: Arc<Settings>,
    pub(super) known: Arc<Mutex<Known>>,
    main: tokio::sync::Mutex<Live>,
}

impl Shell {
    /// Opens it on `machine` in `working_dir`, as `user` if that is not who this is. Commands that are silent for
    /// `soft` are handed back; whole seconds are told.
    ///
    /// # Errors
    /// Those of [`Machine::open_session`]; `NotFound` when the directory or the user is not there.
    pub(in crate::compat::openhands) async fn open(
        machine: Machine,
        working_dir: &str,
        user: Option<&str>,
        soft: Duration,
        env: BTreeMap<String, SecretString>,
        watch: Arc<Watch>,
    ) -> Result<Self> {
        let (working_dir, user) = (working_dir.to_owned(), user.map(str::to_owned));
        let settings =
            Arc::new(Settings { machine, working_dir: working_dir.clone(), user, env, soft, watch });
        let known = Arc::new(Mutex::new(Known { session: None, cwd: working_dir, closed: false }));
        let main = Live::new(Arc::clone(&settings), Arc::clone(&known), ALIAS);
        let shell = Self { settings, known, main: tokio::sync::Mutex::new(main) };
        shell.main.lock().await.session().await?;
        Ok(shell)
    }

    /// Performs a `run` action and answers it. `timeout` is the hard one, in seconds; 0 is none.
    ///
    /// Actions on the main shell wait for each other; static ones have a shell of their own and do not. Cancel-safe:
    /// what a dropped call has started runs on, and the next action finds it running.
    pub(in crate::compat::openhands) async fn run(
        &self,
        args: &RunArgs,
        timeout: Option<f64>,
    ) -> Observation {
        let limits = Limits::new(args, self.settings.soft, timeout);
        if !args.is_static {
            return self.main.lock().await.act(args, &limits).await;
        }
        let dir = match args.cwd.as_deref() {
            None => self.settings.working_dir.clone(),
            Some(dir) if dir.starts_with('/') => dir.to_owned(),
            Some(dir) => format!("{}/{dir}", self.settings.working_dir),
        };
        let known = Arc::new(Mutex::new(Known { session: None, cwd: dir, closed: false }));
        // Dropped with all it has started.
        Live::new(Arc::clone(&self.settings), known, QUIET).or_at_home().act(args, &limits).await
    }

    /// The main shell's directory after the last command that has ended.
    pub(in crate::compat::openhands) fn cwd(&self) -> String {
        self.known.lock().cwd.clone()
    }

    /// Output of the main shell as it comes, from `from` on. Ends when that shell does: the one in its place has a
    /// stream of its own, from 0.
    ///
    /// # Errors
    /// `InvalidState` when there is no shell at the moment.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "for who wants to watch; the original's clients cannot")
    )]
    pub(in crate::compat::openhands) async fn feed(&self, from: Offset) -> Result<Box<dyn CommandStream>> {
        let session = self.known.lock().session.clone();
        let none = || Error::new(ErrorKind::InvalidState, "there is no shell at the moment");
        session.ok_or_else(none)?.stream(from).await
    }

    /// Ends the shell and all it has started; an action that waits is answered.
    pub(in crate::compat::openhands) async fn close(&self) {
        let session = {
            let mut known = self.known.lock();
            known.closed = true;
            known.session.take()
        };
        if let Some(session) = session
            && let Err(error) = session.close().await
        {
            tracing::warn!(%error, "the shell could not be closed");
        }
    }
}
