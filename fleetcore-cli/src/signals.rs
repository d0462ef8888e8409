//! Signals this process gets, as a stream.

use std::future::Future;

use fleetcore::{Error, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::Failure;

/// Requests to stop: Ctrl-C, `kill`, a closed terminal.
#[derive(Debug)]
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

/// Which one came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Interrupt,
    Terminate,
    Hangup,
}

impl Stop {
    /// Number of the signal.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Hangup => 1,
            Self::Interrupt => 2,
            Self::Terminate => 15,
        }
    }

    /// Ends this process the way the signal would have, had nobody listened. Returns only if the system refuses.
    pub(crate) fn die_of(self) {
        let number = i32::from(self.number());
        if let Err(error) = signal_hook::low_level::emulate_default_handler(number) {
            tracing::warn!(%error, "cannot die of the signal");
        }
    }

    /// Exit code of a program it ended.
    pub(crate) fn exit_code(self) -> u8 {
        128 + self.number()
    }
}

impl StopSignals {
    /// From here on the signals do not end the process.
    ///
    /// # Errors
    /// When the system refuses handlers.
    pub(crate) fn listen() -> Result<Self> {
        let on = |kind| signal(kind).map_err(|e| Error::io("listen for signals", e));
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            hangup: on(SignalKind::hangup())?,
        })
    }

    /// The work, unless a signal comes first: then it is dropped, and the failure is the exit code of the signal.
    pub(crate) async fn or<T>(
        &mut self,
        work: impl Future<Output = Result<T>> + Send,
    ) -> std::result::Result<T, Failure> {
        tokio::select! {
            biased;
            done = work => done.map_err(Failure::Error),
            stop = self.next() => Err(Failure::Code(stop.exit_code())),
        }
    }

    /// The next one. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Stop {
        tokio::select! {
            _ = self.interrupt.recv() => Stop::Interrupt,
            _ = self.terminate.recv() => Stop::Terminate,
            _ = self.hangup.recv() => Stop::Hangup,
        }
    }
}
