//! Watching a command to its end.

use std::time::Duration;

use fleetcore::{Channel, CommandEvent, CommandId, Error, ErrorKind, ExitStatus, Offset, Result};
use futures::StreamExt as _;

use super::{
    answer::Ends,
    call::{Call, PROGRESS_CHARS, PROGRESS_EVERY, given_up},
};
use crate::client::Transport;

/// How long a command that was cancelled may take to be gone, beyond its grace: the kill ladder, a slow target.
const GONE_LIMIT: Duration = Duration::from_secs(30);

/// A command that has ended.
pub(super) struct Followed {
    pub(super) status: ExitStatus,
    pub(super) stdout: Ends,
    pub(super) stderr: Ends,
    /// Bytes of output in all.
    pub(super) bytes: u64,
    /// Some output was gone before it could be read.
    pub(super) gap: bool,
}

/// Watches a command of this call from its first byte. When the caller gives up, or the command cannot be watched, it is
/// ended: nobody else knows of it.
pub(super) async fn follow(call: &Call, id: CommandId, each: usize) -> Result<Followed> {
    let mut guard = Guard { call, id, armed: true };
    let followed = watch(call, id, each).await;
    if followed.is_err() {
        let gone = async {
            call.client.cancel(id).await?;
            call.client.wait_command(id, GONE_LIMIT).await
        };
        // What cannot be reached cannot be ended from here; its time limit remains.
        if let Ok(Err(error)) = tokio::time::timeout(GONE_LIMIT, gone).await {
            tracing::debug!(%error, %id, "a command could not be cancelled");
        }
    }
    guard.armed = false;
    followed.map_err(|e| e.with_context("command", id))
}

/// Cancels the command when the call is dropped on the way.
struct Guard<'a> {
    call: &'a Call,
    id: CommandId,
    armed: bool,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (client, id) = (self.call.client.clone(), self.id);
            runtime.spawn(async move { client.cancel(id).await });
        }
    }
}

async fn watch(call: &Call, id: CommandId, each: usize) -> Result<Followed> {
    if call.stop.is_cancelled() {
        return Err(given_up());
    }
    let mut events = call.client.output(id, Offset(0), Transport::WebSocket).await?;
    let (mut stdout, mut stderr) = (Ends::new(each), Ends::new(each));
    let (mut bytes, mut gap, mut last_was_stderr) = (0, false, false);
    let mut every = tokio::time::interval(PROGRESS_EVERY);
    every.reset();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = call.stop.cancelled() => return Err(given_up()),
            _ = every.tick(), if call.progress.is_some() => {
                if let Some(progress) = &call.progress {
                    let news = if last_was_stderr { &stderr } else { &stdout };
                    progress.tell(news.last_line(PROGRESS_CHARS)).await;
                }
                continue;
            }
        };
        let unseen = || Error::new(ErrorKind::Unavailable, "the end of the command was not seen");
        match event.ok_or_else(unseen)?? {
            CommandEvent::Output(chunk) => {
                bytes = chunk.end().0;
                last_was_stderr = chunk.channel == Channel::Stderr;
                if last_was_stderr { stderr.push(&chunk.data) } else { stdout.push(&chunk.data) }
            }
            CommandEvent::Gap { to, .. } => (gap, bytes) = (true, to.0),
            CommandEvent::Exited(status) => return Ok(Followed { status, stdout, stderr, bytes, gap }),
            _ => {}
        }
    }
}
