//! The one owner of a running command.

use std::sync::atomic::Ordering;

use futures::StreamExt;

use super::CommandHandle;
use crate::{
    Channel, CommandEvent, EndReason, Error, ErrorKind, ExitKind, ExitStatus, Offset, OnDrop, Result,
};

/// The one owner of a running command. Dropping it ends the command, unless its spec says
/// [`OnDrop::Detach`] or [`detach`](Self::detach) was called.
#[derive(Debug)]
#[must_use = "dropping a RunningCommand ends the command; call detach() to let it run on"]
pub struct RunningCommand {
    handle: CommandHandle,
    on_drop: OnDrop,
}

impl RunningCommand {
    pub(super) fn new(handle: CommandHandle, on_drop: OnDrop) -> Self {
        Self { handle, on_drop }
    }

    /// Gives up ownership: the supervisor keeps the command until it ends or the fleet shuts down.
    pub fn detach(mut self) -> CommandHandle {
        self.on_drop = OnDrop::Detach;
        self.handle.shared.detached.store(true, Ordering::Release);
        self.handle.clone()
    }

    /// A shared view.
    pub fn handle(&self) -> CommandHandle {
        self.handle.clone()
    }

    /// Collects all output and waits for the end. Dropping the future ends the command.
    ///
    /// Output is held in memory; for much of it use [`stream`](CommandHandle::stream). Bytes that left the replay
    /// window before they could be read set [`Output::truncated`].
    ///
    /// # Errors
    /// Not for a command that fails: see [`Output::check`].
    pub async fn output(self) -> Result<Output> {
        let mut out = Output::new(ExitStatus::new(ExitKind::Unknown));
        let mut events = self.handle.subscribe(Offset(0));
        while let Some(event) = events.next().await {
            match event? {
                CommandEvent::Output(c) if c.channel == Channel::Stderr => {
                    out.stderr.extend_from_slice(&c.data)
                }
                CommandEvent::Output(c) => out.stdout.extend_from_slice(&c.data),
                CommandEvent::Gap { .. } => out.truncated = true,
                CommandEvent::Exited(status) => out.status = status,
                CommandEvent::State(_) => {}
            }
        }
        Ok(out)
    }
}

impl std::ops::Deref for RunningCommand {
    type Target = CommandHandle;
    fn deref(&self) -> &CommandHandle {
        &self.handle
    }
}

impl Drop for RunningCommand {
    fn drop(&mut self) {
        if self.on_drop == OnDrop::Kill {
            self.handle.end(EndReason::OwnerDropped);
        }
    }
}

/// Collected output.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Output {
    /// Standard output, or everything where channels are not apart.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// How it ended.
    pub status: ExitStatus,
    /// Some output was forgotten before it could be read.
    pub truncated: bool,
}

impl Output {
    /// No output yet, of a command that ended so. For those who collect it themselves.
    pub fn new(status: ExitStatus) -> Self {
        Self { stdout: vec![], stderr: vec![], status, truncated: false }
    }

    /// The output of a command that succeeded.
    ///
    /// # Errors
    /// `CommandFailed` with the status and the end of standard error, for any other end. This is the only place where
    /// a command's failure becomes an `Err`.
    pub fn check(self) -> Result<Self> {
        if self.status.success() {
            return Ok(self);
        }
        let tail_start = self.stderr.len().saturating_sub(2000);
        let tail =
            String::from_utf8_lossy(self.stderr.get(tail_start..).unwrap_or_default()).trim().to_owned();
        Err(Error::new(ErrorKind::CommandFailed, format!("the command ended with {:?}", self.status.kind))
            .with_context("stderr", tail))
    }

    /// Standard output as text; invalid UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}
