//! Sessions that belong to the fleet, not to a connection.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use super::{FleetEvent, FleetLimits, Machine};
use crate::{
    Error, ErrorKind, OnDrop, OpContext, Result, Session, SessionId, SessionInfo, SessionSpec, Target,
};

/// How long a session whose shell has ended stays listed, so that a client that is just reconnecting still gets
/// the last output.
const LINGER: Duration = Duration::from_secs(30);

/// The sessions of a fleet. They live on when every viewer has gone, until they are closed, their shell ends, or
/// they have been idle for too long.
#[derive(Clone)]
pub struct Sessions {
    inner: Arc<Inner>,
}

struct Inner {
    table: Mutex<Table>,
    limits: FleetLimits,
    events: broadcast::Sender<FleetEvent>,
    gone: Gone,
}

/// Cancelled when the table is dropped, so that no watcher keeps a session alive.
#[derive(Default)]
struct Gone(CancellationToken);

impl Gone {
    fn token(&self) -> CancellationToken {
        self.0.clone()
    }
}

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

#[derive(Default)]
struct Table {
    closed: bool,
    entries: BTreeMap<SessionId, Entry>,
}

struct Entry {
    target: Target,
    /// `None` while it is being opened: the name is taken.
    session: Option<Arc<dyn Session>>,
    viewers: Arc<watch::Sender<usize>>,
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions")
            .field("open", &self.inner.table.lock().entries.len())
            .finish_non_exhaustive()
    }
}

/// Says that somebody looks at a session, which keeps it from being idle. Dropping it means leaving.
#[derive(Debug)]
pub struct ViewerGuard {
    viewers: Arc<watch::Sender<usize>>,
}

impl Drop for ViewerGuard {
    fn drop(&mut self) {
        self.viewers.send_modify(|n| *n = n.saturating_sub(1));
    }
}

/// Gives the name back when opening fails or is dropped.
struct Reservation<'a> {
    inner: &'a Inner,
    id: Option<SessionId>,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.inner.table.lock().entries.remove(&id);
        }
    }
}

impl Sessions {
    pub(super) fn new(limits: FleetLimits, events: broadcast::Sender<FleetEvent>) -> Self {
        Self { inner: Arc::new(Inner { table: Mutex::default(), limits, events, gone: Gone::default() }) }
    }

    /// Opens a session on `machine` that belongs to the fleet.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken, `RateLimited` when too many are open, those of
    /// [`Machine::open_session`].
    pub async fn open(
        &self,
        cx: &OpContext,
        machine: &Machine,
        mut spec: SessionSpec,
    ) -> Result<Arc<dyn Session>> {
        let id = spec.id.clone();
        let elsewhere = machine.target().agent().is_some();
        // Sessions of an agent outlive this process, and are watched for idleness over there.
        let idle = spec.idle_timeout.filter(|_| !elsewhere);
        if elsewhere {
            spec.on_drop = OnDrop::Detach;
        }
        let viewers = Arc::new(watch::channel(0).0);
        self.reserve(&id, machine.target(), &viewers)?;
        let mut reservation = Reservation { inner: &self.inner, id: Some(id.clone()) };
        let session = machine.open_session_with(cx, spec).await?;
        reservation.id = None;
        self.enter(machine.target(), &session, idle, &viewers).inspect_err(|_| {
            self.inner.table.lock().entries.remove(&id);
        })?;
        Ok(session)
    }

    /// Lists a session that is open already, at an agent that has come back. Fine when it is listed.
    ///
    /// # Errors
    /// `AlreadyExists` when another session has the name; `RateLimited` when too many are open.
    pub fn adopt(&self, target: &Target, session: Arc<dyn Session>) -> Result<()> {
        let id = session.id().clone();
        if self.target(&id).is_ok_and(|known| known == *target) {
            return Ok(());
        }
        let viewers = Arc::new(watch::channel(0).0);
        self.reserve(&id, target, &viewers)?;
        self.enter(target, &session, None, &viewers).inspect_err(|_| {
            self.inner.table.lock().entries.remove(&id);
        })
    }

    /// Lists a session whose name is reserved.
    fn enter(
        &self,
        target: &Target,
        session: &Arc<dyn Session>,
        idle: Option<Duration>,
        viewers: &Arc<watch::Sender<usize>>,
    ) -> Result<()> {
        let id = session.id().clone();
        {
            let mut table = self.inner.table.lock();
            if table.closed {
                return Err(shutting_down());
            }
            if let Some(entry) = table.entries.get_mut(&id) {
                entry.session = Some(Arc::clone(session));
            }
        }
        let _ = self.inner.events.send(FleetEvent::Session(target.clone(), Box::new(session.info())));
        let gone = self.inner.gone.token();
        let (inner, watched) = (Arc::downgrade(&self.inner), Arc::clone(session));
        tokio::spawn(watch_over(inner, id, watched, idle, viewers.subscribe(), gone));
        Ok(())
    }

    fn reserve(&self, id: &SessionId, target: &Target, viewers: &Arc<watch::Sender<usize>>) -> Result<()> {
        let mut table = self.inner.table.lock();
        if table.closed {
            return Err(shutting_down());
        }
        if let Some(entry) = table.entries.get(id)
            && entry.session.as_ref().is_none_or(|s| s.info().ended.is_none())
        {
            return Err(Error::new(ErrorKind::AlreadyExists, "a session of this name is open")
                .with_operation("open session")
                .with_context("session", id));
        }
        if table.entries.len() >= self.inner.limits.sessions {
            return Err(Error::new(ErrorKind::RateLimited, "too many sessions are open")
                .with_operation("open session")
                .with_context("limit", self.inner.limits.sessions)
                .with_retry(crate::Retry::Temporary { after: None }));
        }
        let entry = Entry { target: target.clone(), session: None, viewers: Arc::clone(viewers) };
        table.entries.insert(id.clone(), entry);
        Ok(())
    }

    fn with_entry<T>(&self, id: &SessionId, get: impl FnOnce(&Entry) -> Option<T>) -> Result<T> {
        self.inner
            .table
            .lock()
            .entries
            .get(id)
            .and_then(get)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "no such session").with_context("session", id))
    }

    /// An open session.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn get(&self, id: &SessionId) -> Result<Arc<dyn Session>> {
        self.with_entry(id, |e| e.session.clone())
    }

    /// Where a session runs. `NotFound` if absent.
    pub fn target(&self, id: &SessionId) -> Result<Target> {
        self.with_entry(id, |e| Some(e.target.clone()))
    }

    /// Open sessions by name.
    pub fn list(&self) -> Vec<(Target, SessionInfo)> {
        let sessions: Vec<_> = {
            let table = self.inner.table.lock();
            table.entries.values().filter_map(|e| Some((e.target.clone(), e.session.clone()?))).collect()
        };
        sessions.into_iter().map(|(target, session)| (target, session.info())).collect()
    }

    /// How many look at a session now.
    pub fn viewers(&self, id: &SessionId) -> usize {
        self.with_entry(id, |e| Some(*e.viewers.borrow())).unwrap_or(0)
    }

    /// Joins the viewers of a session.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn attach(&self, id: &SessionId) -> Result<ViewerGuard> {
        self.with_entry(id, |e| {
            e.viewers.send_modify(|n| *n += 1);
            Some(ViewerGuard { viewers: Arc::clone(&e.viewers) })
        })
    }

    /// Tells listeners that a session has changed.
    pub fn announce(&self, id: &SessionId) {
        if let Ok((target, session)) = self.with_entry(id, |e| Some((e.target.clone(), e.session.clone()?))) {
            let _ = self.inner.events.send(FleetEvent::Session(target, Box::new(session.info())));
        }
    }

    /// Closes a session: its shell and everything it started end. Returns its last state.
    ///
    /// # Errors
    /// `NotFound`; those of the backend.
    pub async fn close(&self, id: &SessionId) -> Result<SessionInfo> {
        let session = self.get(id)?;
        let exit = session.close().await?;
        let mut info = session.info();
        // The session's own view may be a moment behind.
        info.ended = info.ended.or(Some(exit));
        self.inner.remove(id, &session);
        Ok(info)
    }

    pub(super) async fn shutdown(&self) {
        let sessions: Vec<_> = {
            let mut table = self.inner.table.lock();
            table.closed = true;
            std::mem::take(&mut table.entries)
                .into_iter()
                // Those of an agent run on, to be adopted by whoever comes after us.
                .filter(|(_, e)| e.target.agent().is_none())
                .filter_map(|(id, e)| Some((id, e.session?)))
                .collect()
        };
        let closing = sessions.into_iter().map(|(id, session)| async move {
            if let Err(e) = session.close().await {
                tracing::warn!(session = %id, error = %e, "the session could not be closed");
            }
        });
        futures::future::join_all(closing).await;
    }
}

impl Inner {
    /// Where this very session runs, while it is listed.
    fn target_of(&self, id: &SessionId, session: &Arc<dyn Session>) -> Option<Target> {
        let table = self.table.lock();
        let entry = table.entries.get(id)?;
        entry.session.as_ref().is_some_and(|s| Arc::ptr_eq(s, session)).then(|| entry.target.clone())
    }

    fn remove(&self, id: &SessionId, session: &Arc<dyn Session>) {
        let mut table = self.table.lock();
        let same = |e: &Entry| e.session.as_ref().is_some_and(|s| Arc::ptr_eq(s, session));
        if table.entries.get(id).is_some_and(same) {
            table.entries.remove(id);
            let _ = self.events.send(FleetEvent::SessionClosed(id.clone()));
        }
    }
}

fn shutting_down() -> Error {
    Error::new(ErrorKind::Unavailable, "the fleet is shutting down").with_operation("open session")
}

/// Ends an idle session, and forgets one whose shell has ended.
async fn watch_over(
    inner: Weak<Inner>,
    id: SessionId,
    session: Arc<dyn Session>,
    idle: Option<Duration>,
    viewers: watch::Receiver<usize>,
    gone: CancellationToken,
) {
    tokio::select! {
        _ = session.ended() => {}
        () = became_idle(&*session, idle, viewers) => {
            tracing::info!(session = %id, "closing an idle session");
            let _ = session.close().await;
        }
        // The fleet was dropped: so is this handle, and the shell with it.
        () = gone.cancelled() => return,
    }
    {
        let Some(inner) = inner.upgrade() else { return };
        // One that was closed has left the table already, and its name may be another session's by now.
        let Some(target) = inner.target_of(&id, &session) else { return };
        let _ = inner.events.send(FleetEvent::Session(target, Box::new(session.info())));
    }
    tokio::select! {
        () = tokio::time::sleep(LINGER) => {}
        () = gone.cancelled() => return,
    }
    if let Some(inner) = inner.upgrade() {
        inner.remove(&id, &session);
    }
}

/// Resolves when nobody has looked and nothing has happened for `limit`, by the monotonic clock: somewhere between
/// one and two times `limit` after the last sign of life.
async fn became_idle(session: &dyn Session, limit: Option<Duration>, mut viewers: watch::Receiver<usize>) {
    let Some(limit) = limit else { return std::future::pending().await };
    loop {
        if viewers.wait_for(|n| *n == 0).await.is_err() {
            return std::future::pending().await;
        }
        let before = session.info().active_at;
        tokio::select! {
            () = tokio::time::sleep(limit) => {
                if session.info().active_at == before {
                    return;
                }
            }
            _ = viewers.changed() => {}
        }
    }
}
