//! Signals this process gets, as a stream.

use fleetcore::{Error, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

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

    /// The next one. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Stop {
        tokio::select! {
            _ = self.interrupt.recv() => Stop::Interrupt,
            _ = self.terminate.recv() => Stop::Terminate,
            _ = self.hangup.recv() => Stop::Hangup,
        }
    }
}
