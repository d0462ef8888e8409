//! A persistent shell, blocking.

use std::{ops::Range, sync::Arc};

use super::fleet::Engine;
use crate::{ExitStatus, Key, Offset, PtySize, Rendered, Result, Screen, SessionInfo, Turn, WaitPolicy};

/// A persistent shell. Dropping the last handle ends it. See [`crate::Session`].
#[derive(Debug)]
pub struct Session {
    session: Arc<dyn crate::Session>,
    engine: Arc<Engine>,
}

impl Session {
    pub(super) fn new(session: Arc<dyn crate::Session>, engine: Arc<Engine>) -> Self {
        Self { session, engine }
    }

    /// What is known now.
    pub fn info(&self) -> SessionInfo {
        self.session.info()
    }

    /// Runs a command in the shell. Errors as for the async twin: `Busy`, `InvalidState`, `InvalidInput`.
    pub fn run(&self, command: &str, wait: WaitPolicy) -> Result<Turn> {
        self.engine.run(self.session.run(command, wait))
    }

    /// Waits on for the command that still runs. `InvalidState` when none does.
    pub fn resume(&self, wait: WaitPolicy) -> Result<Turn> {
        self.engine.run(self.session.resume(wait))
    }

    /// Types Ctrl-C, then waits.
    pub fn interrupt(&self, wait: WaitPolicy) -> Result<Turn> {
        self.engine.run(self.session.interrupt(wait))
    }

    /// Types into the foreground program.
    pub fn send_keys(&self, keys: &[Key]) -> Result<()> {
        self.engine.run(self.session.send_keys(keys))
    }

    /// Changes the terminal size.
    pub fn resize(&self, size: PtySize) -> Result<()> {
        self.engine.run(self.session.resize(size))
    }

    /// Text of a turn.
    pub fn text(&self, range: Range<Offset>) -> Result<String> {
        self.engine.run(self.session.text(range))
    }

    /// What a terminal shows of the output of a turn.
    pub fn rendered(&self, turn: &Turn) -> Result<Rendered> {
        self.engine.run(self.session.rendered(turn))
    }

    /// What the terminal shows.
    pub fn screen(&self) -> Result<Screen> {
        self.engine.run(self.session.screen())
    }

    /// Ends the shell and everything it started.
    pub fn close(&self) -> Result<ExitStatus> {
        self.engine.run(self.session.close())
    }
}
