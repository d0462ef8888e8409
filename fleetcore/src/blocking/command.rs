//! A running command, blocking.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;

use super::fleet::Engine;
use crate::{
    CommandEvent, CommandHandle, CommandId, CommandStream, ExitStatus, Offset, Output, PtySize, Result,
    RunningCommand, Signal,
};

/// The owner of a running command. Dropping it ends the command; [`detach`](Self::detach) lets it run on as long as
/// the fleet lives.
#[derive(Debug)]
#[must_use = "dropping a Command ends it; call detach() to let it run on"]
pub struct Command {
    running: RunningCommand,
    engine: Arc<Engine>,
}

impl Command {
    pub(super) fn new(running: RunningCommand, engine: Arc<Engine>) -> Self {
        Self { running, engine }
    }

    /// Its id.
    pub fn id(&self) -> CommandId {
        self.running.id()
    }

    /// Events from byte `from` on; the last is [`CommandEvent::Exited`]. `next` blocks.
    pub fn events(&self, from: Offset) -> Events {
        Events { stream: self.running.stream(from), engine: Arc::clone(&self.engine) }
    }

    /// Collects all output and waits for the end. See [`RunningCommand::output`].
    ///
    /// # Errors
    /// Not for a command that fails.
    pub fn output(self) -> Result<Output> {
        self.engine.run(self.running.output())
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// `Unavailable` when the runtime has gone.
    pub fn wait(&self) -> Result<ExitStatus> {
        self.engine.run(self.running.wait())
    }

    /// Writes to its input; returns when the process side has taken all.
    ///
    /// # Errors
    /// As for [`CommandHandle::write_stdin`].
    pub fn write_stdin(&self, data: impl Into<Bytes>) -> Result<()> {
        self.engine.run(self.running.write_stdin(data))
    }

    /// Ends its input.
    ///
    /// # Errors
    /// `Unavailable` when the runtime has gone.
    pub fn close_stdin(&self) -> Result<()> {
        self.engine.run(async {
            self.running.close_stdin().await;
            Ok(())
        })
    }

    /// Signals the whole tree.
    ///
    /// # Errors
    /// As for [`CommandHandle::signal`].
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.engine.run(self.running.signal(signal))
    }

    /// Changes the terminal size.
    ///
    /// # Errors
    /// As for [`CommandHandle::resize`].
    pub fn resize(&self, size: PtySize) -> Result<()> {
        self.engine.run(self.running.resize(size))
    }

    /// Ends it: TERM, grace, KILL. Returns at once.
    pub fn cancel(&self) {
        self.running.cancel();
    }

    /// Gives up ownership.
    pub fn detach(self) -> CommandHandle {
        self.running.detach()
    }
}

/// Blocking iterator over the events of a command. Dropping it only detaches.
#[derive(Debug)]
pub struct Events {
    stream: Box<dyn CommandStream>,
    engine: Arc<Engine>,
}

impl Events {
    /// Where the next byte will be; hand this back to [`Command::events`] to resume.
    pub fn position(&self) -> Offset {
        self.stream.position()
    }
}

impl Iterator for Events {
    type Item = Result<CommandEvent>;

    fn next(&mut self) -> Option<Self::Item> {
        let stream = &mut self.stream;
        self.engine.run(async { Ok(stream.next().await) }).unwrap_or_else(|e| Some(Err(e)))
    }
}
