//! News that are not for everybody: the audit log grew, files changed.

use bytes::{Bytes, BytesMut};
use fleetcore::{AuditEntry, Scope};
use tokio::sync::broadcast;

use super::{
    sse::json_event,
    wire::{AuditNews, FilesChanged},
};

/// Events that may wait for one reader.
const BACKLOG: usize = 1024;

/// One event, as it is written to all who may know.
#[derive(Clone, Debug)]
pub(crate) struct Notice {
    /// What a reader must be allowed to do.
    pub(super) scope: Scope,
    pub(super) text: Bytes,
}

/// Tells readers of the event stream.
#[derive(Clone, Debug)]
pub(crate) struct Notices(broadcast::Sender<Notice>);

impl Default for Notices {
    fn default() -> Self {
        Self(broadcast::channel(BACKLOG).0)
    }
}

impl Notices {
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Notice> {
        self.0.subscribe()
    }

    /// What to tell once an entry is in the audit log; nothing when nobody listens.
    pub(crate) fn of_audit(&self, entry: &AuditEntry) -> Option<Notice> {
        let news = || AuditNews { at: entry.at, actor: entry.actor.clone(), action: entry.action.clone() };
        self.notice(Scope::Admin, "audit", news)
    }

    /// Files of a target were changed through this server.
    pub(super) fn files(&self, target: &str, paths: &[&str]) {
        let paths = || paths.iter().map(|p| (*p).to_owned()).collect();
        let changed = || FilesChanged { target: target.to_owned(), paths: paths() };
        self.tell(self.notice(Scope::Files, "files", changed));
    }

    fn notice<T: serde::Serialize>(
        &self,
        scope: Scope,
        event: &str,
        body: impl FnOnce() -> T,
    ) -> Option<Notice> {
        (self.0.receiver_count() > 0).then(|| {
            let mut text = BytesMut::new();
            json_event(&mut text, event, &body());
            Notice { scope, text: text.freeze() }
        })
    }

    pub(crate) fn tell(&self, notice: Option<Notice>) {
        // Fails when nobody listens any more.
        let _ = notice.map(|notice| self.0.send(notice));
    }
}
