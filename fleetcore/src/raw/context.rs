//! Per-call environment: what a caller provides besides the arguments.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{Error, ErrorKind, Result};

/// Deadline, cancellation and identity of one call. The default has no deadline and nobody's name.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct OpContext {
    /// When the call must be over.
    pub deadline: Option<Instant>,
    /// Cancels the call.
    pub cancel: CancellationToken,
    /// Who asks, for the audit log.
    pub actor: Option<Arc<str>>,
    /// Where a slow operation reports. Bounded: use `try_send`, a full queue drops the line.
    pub progress: Option<mpsc::Sender<String>>,
}

impl OpContext {
    /// A context on behalf of `actor`.
    pub fn for_actor(actor: impl Into<Arc<str>>) -> Self {
        Self { actor: Some(actor.into()), ..Self::default() }
    }

    /// Sets the deadline `limit` from now, unless an earlier one is set.
    #[must_use]
    pub fn with_timeout(mut self, limit: Duration) -> Self {
        let at = Instant::now() + limit;
        self.deadline = Some(self.deadline.map_or(at, |d| d.min(at)));
        self
    }

    /// Sets where progress goes.
    #[must_use]
    pub fn with_progress(mut self, progress: mpsc::Sender<String>) -> Self {
        self.progress = Some(progress);
        self
    }

    /// Sends a line of progress, if anybody listens and has room.
    pub fn report(&self, line: impl Into<String>) {
        if let Some(p) = &self.progress {
            let _ = p.try_send(line.into());
        }
    }

    /// Runs `work` under this context's deadline and cancellation; the work is dropped when they strike.
    ///
    /// # Errors
    /// Those of `work`; `Timeout` and `Cancelled` with `operation`.
    pub async fn guard<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let deadline = async {
            match self.deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            result = work => result,
            () = self.cancel.cancelled() => {
                Err(Error::new(ErrorKind::Cancelled, "the caller cancelled").with_operation(operation))
            }
            () = deadline => {
                Err(Error::new(ErrorKind::Timeout, "the deadline passed").with_operation(operation))
            }
        }
    }
}
