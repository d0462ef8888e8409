//! One call of a tool.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use fleetcore::{CommandId, Error, Result, SessionId, Target};
use rmcp::{
    Peer, RoleServer,
    model::{ProgressNotificationParam, ProgressToken},
};
use tokio_util::sync::CancellationToken;

use super::options::McpOptions;
use crate::client::{
    Client,
    wire::{Command, Session},
};

/// How often a client that wants to know hears that a call goes on.
pub(super) const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// Longest text of one such message, in characters.
pub(super) const PROGRESS_CHARS: usize = 200;

/// What a tool works with.
pub(super) struct Call {
    /// The API, as the caller.
    pub(super) client: Client,
    pub(super) options: Arc<McpOptions>,
    /// The client does not want the answer any more, or is gone.
    pub(super) stop: CancellationToken,
    pub(super) progress: Option<Progress>,
}

/// Tells a client that a call goes on.
pub(super) struct Progress {
    pub(super) peer: Peer<RoleServer>,
    pub(super) token: ProgressToken,
    pub(super) began: Instant,
}

impl Progress {
    /// Progress is the time so far, in seconds: it always grows, and is known of everything.
    pub(super) async fn tell(&self, message: Option<String>) {
        let mut news = ProgressNotificationParam::new(self.token.clone(), self.began.elapsed().as_secs_f64());
        news.message = message;
        // Who is not there to hear it has said so by other means.
        let _ = self.peer.notify_progress(news).await;
    }
}

impl Call {
    /// The target, when the tools may touch it.
    pub(super) fn target(&self, text: &str) -> Result<Target> {
        let target: Target = text.parse()?;
        self.options.check(&target)?;
        Ok(target)
    }

    /// A command, when the tools may touch its target.
    pub(super) async fn command(&self, text: &str) -> Result<(CommandId, Command)> {
        let id: CommandId = text.parse()?;
        let command = self.client.command(id).await?;
        self.options.check(&command.target.parse()?)?;
        Ok((id, command))
    }

    /// A session, when the tools may touch its target.
    pub(super) async fn session(&self, text: &str) -> Result<SessionId> {
        let id = SessionId::new(text)?;
        if self.options.limits_targets() {
            let session: Session = self.client.session(&id).await?;
            self.options.check(&session.target.parse()?)?;
        }
        Ok(id)
    }

    /// Waits for something, telling those who want to know that it goes on. `None` when the caller gave up first.
    pub(super) async fn wait<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        let mut every = tokio::time::interval(PROGRESS_EVERY);
        every.reset();
        loop {
            tokio::select! {
                done = &mut work => return Some(done),
                () = self.stop.cancelled() => return None,
                _ = every.tick(), if self.progress.is_some() => {
                    if let Some(progress) = &self.progress {
                        progress.tell(None).await;
                    }
                }
            }
        }
    }
}

/// The caller gave up.
pub(super) fn given_up() -> Error {
    Error::new(fleetcore::ErrorKind::Cancelled, "the call was cancelled").with_operation("mcp.call")
}

/// A time a model asked for, within bounds.
pub(super) fn millis(field: &'static str, asked: Option<u64>, default: u64, most: u64) -> Result<Duration> {
    match asked.unwrap_or(default) {
        ms if ms > most => Err(Error::invalid(field, format!("at most {most}"))),
        ms => Ok(Duration::from_millis(ms)),
    }
}

/// A number of bytes a model asked for, within bounds.
pub(super) fn bytes(field: &'static str, asked: Option<usize>, default: usize, most: usize) -> Result<usize> {
    match asked.unwrap_or(default) {
        n if n > most => Err(Error::invalid(field, format!("at most {most}"))),
        n => Ok(n),
    }
}
