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

    /// An entry is in the audit log.
    pub(crate) fn audited(&self, entry: &AuditEntry) {
        let news = || AuditNews { at: entry.at, actor: entry.actor.clone(), action: entry.action.clone() };
        self.tell(Scope::Admin, "audit", news);
    }

    /// Files of a target were changed through this server.
    pub(super) fn files(&self, target: &str, paths: &[&str]) {
        let paths = || paths.iter().map(|p| (*p).to_owned()).collect();
        self.tell(Scope::Files, "files", || FilesChanged { target: target.to_owned(), paths: paths() });
    }

    fn tell<T: serde::Serialize>(&self, scope: Scope, event: &str, body: impl FnOnce() -> T) {
        if self.0.receiver_count() == 0 {
            return;
        }
        let mut text = BytesMut::new();
        json_event(&mut text, event, &body());
        // Fails when nobody listens any more.
        let _ = self.0.send(Notice { scope, text: text.freeze() });
    }
}
