//! The fleet, blocking.

use std::{sync::Arc, time::Duration};

use tokio::runtime::{Builder, Runtime};

use super::{Command, Files, Session};
use crate::{CommandSpec, Error, OpContext, Output, Result, SessionSpec, TargetInfo};

/// How long the end of the runtime waits for its tasks. Processes are killed at once; this is for what is left.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);

/// A runtime that can be shared and ends without blocking for ever.
#[derive(Debug)]
pub(super) struct Engine {
    runtime: Option<Runtime>,
}

impl Engine {
    pub(super) fn run<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        match &self.runtime {
            Some(runtime) => runtime.block_on(work),
            None => Err(Error::new(crate::ErrorKind::Unavailable, "the runtime has ended")),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(SHUTDOWN_LIMIT);
        }
    }
}

/// All machines, commands and sessions of one process, for callers without a runtime. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Fleet {
    fleet: crate::Fleet,
    engine: Arc<Engine>,
}

impl Fleet {
    /// A fleet of this host alone, with nothing stored.
    ///
    /// # Errors
    /// `Unexpected` when threads cannot be made.
    #[cfg(feature = "local")]
    pub fn local() -> Result<Self> {
        Self::new(crate::Fleet::local())
    }

    /// A blocking view of any fleet.
    ///
    /// # Errors
    /// As for [`local`](Self::local).
    pub fn new(fleet: crate::Fleet) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .thread_name("fleetcore")
            .build()
            .map_err(|e| Error::io("start runtime", e))?;
        Ok(Self { fleet, engine: Arc::new(Engine { runtime: Some(runtime) }) })
    }

    /// All targets that are there now. See [`crate::Fleet::targets`].
    ///
    /// # Errors
    /// As for the async twin.
    pub fn targets(&self) -> Result<Vec<TargetInfo>> {
        self.engine.run(self.fleet.targets(&OpContext::default()))
    }

    /// Runs a command to its end and collects its output. A command that fails is not an error: see
    /// [`Output::check`].
    ///
    /// # Errors
    /// As for [`crate::Machine::spawn`].
    pub fn run(&self, target: &str, spec: CommandSpec) -> Result<Output> {
        let machine = self.fleet.machine(target)?;
        self.engine.run(async { machine.spawn(spec).await?.output().await })
    }

    /// Starts a command.
    ///
    /// # Errors
    /// As for [`crate::Machine::spawn`].
    pub fn spawn(&self, target: &str, spec: CommandSpec) -> Result<Command> {
        let machine = self.fleet.machine(target)?;
        let running = self.engine.run(machine.spawn(spec))?;
        Ok(Command::new(running, Arc::clone(&self.engine)))
    }

    /// Opens a persistent shell.
    ///
    /// # Errors
    /// As for [`crate::Machine::open_session`].
    pub fn open_session(&self, target: &str, spec: SessionSpec) -> Result<Session> {
        let machine = self.fleet.machine(target)?;
        let session = self.engine.run(machine.open_session(spec))?;
        Ok(Session::new(session, Arc::clone(&self.engine)))
    }

    /// Files of a target.
    ///
    /// # Errors
    /// As for [`crate::Machine::files`].
    pub fn files(&self, target: &str) -> Result<Files> {
        let machine = self.fleet.machine(target)?;
        let files = self.engine.run(machine.files())?;
        Ok(Files::new(files, Arc::clone(&self.engine)))
    }

    /// Ends every command and session and waits for them.
    pub fn shutdown(&self) {
        let ended = self.engine.run(async {
            self.fleet.shutdown().await;
            Ok(())
        });
        if let Err(e) = ended {
            tracing::warn!(error = %e, "shutdown was not complete");
        }
    }
}
