//! The connections of one host: shared, limited, made one at a time, closed when idle.

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use russh::{
    Channel,
    client::{Handle, Msg},
};
use tokio::sync::Mutex as AsyncMutex;

use super::{
    config::SshHost,
    connect::{self, Client, Connected},
    error,
    helper::Helper,
    sftp::Sftp,
};
use crate::{Error, ErrorKind, Result};

/// After so many channels closed by us a connection is not used for new ones.
const FORCED_MAX: usize = 256;

/// One connection.
pub(super) struct Connection {
    session: Handle<Client>,
    helper: Helper,
    sftp: AsyncMutex<Option<Arc<Sftp>>>,
    /// Carries at most one command, whose reader may keep it waiting.
    exclusive: bool,
    used: AtomicUsize,
    /// The host refused a further channel although there should have been room.
    full: AtomicBool,
    /// Counts how often it was put to use, so that an old timer knows that it is old.
    uses: AtomicU64,
    /// Channels that we closed first. russh keeps something of these for as long as the connection lives.
    forced: AtomicUsize,
    /// Dropped last: what carries the bytes of all the rest.
    _through: Option<Lease>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("exclusive", &self.exclusive)
            .field("used", &self.used)
            .finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) fn helper(&self) -> &Helper {
        &self.helper
    }

    pub(super) fn closed_by_force(&self) {
        self.forced.fetch_add(1, Ordering::Relaxed);
    }

    /// It takes no new channels, and ends with its last one.
    pub(super) fn retire(&self) {
        self.forced.fetch_add(FORCED_MAX + 1, Ordering::Relaxed);
    }

    /// Should end once nobody uses it.
    fn is_worn(&self) -> bool {
        self.forced.load(Ordering::Relaxed) > FORCED_MAX
    }

    pub(super) fn is_closed(&self) -> bool {
        self.session.is_closed()
    }

    /// Resolves when the host has answered: everything it sent before has arrived then.
    pub(super) async fn ping(&self) -> Result<()> {
        self.session.send_ping().await.map_err(|e| error::ssh("ping", e))
    }

    /// Opens a channel for a command.
    pub(super) async fn open(&self) -> std::result::Result<Channel<Msg>, russh::Error> {
        self.session.channel_open_session().await
    }

    /// Files over this connection; opened once, and again when that broke.
    pub(super) async fn sftp(self: &Arc<Self>) -> Result<Arc<Sftp>> {
        let mut kept = self.sftp.lock().await;
        if let Some(sftp) = kept.as_ref().filter(|s| !s.is_broken()) {
            return Ok(Arc::clone(sftp));
        }
        // A channel that is half open when its caller loses interest would stay so; a task sees it through.
        let this = Arc::clone(self);
        let open = tokio::spawn(async move {
            let channel = this.open().await.map_err(|e| error::ssh("open SFTP", e))?;
            Sftp::start(channel).await.map(Arc::new)
        });
        let opened = open.await.unwrap_or_else(|e| Err(Error::new(ErrorKind::Unexpected, e.to_string())))?;
        *kept = Some(Arc::clone(&opened));
        Ok(opened)
    }
}

/// The right to a channel on a connection.
pub(super) struct Lease {
    connection: Arc<Connection>,
    pool: Weak<Pool>,
    refused: bool,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.connection.fmt(f)
    }
}

impl Lease {
    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    pub(super) fn session(&self) -> &Handle<Client> {
        &self.connection.session
    }

    /// Gives it back because the host refused a channel: it wants fewer than we thought. `false` when nobody else has
    /// one there, so that waiting for room would be in vain.
    pub(super) fn refused(mut self) -> bool {
        self.refused = true;
        let others = self.connection.used.load(Ordering::Acquire) > 1;
        self.connection.full.store(others, Ordering::Relaxed);
        others
    }

    /// Gives it back because the connection turned out to be broken.
    pub(super) fn broken(self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.connections.lock().retain(|c| !Arc::ptr_eq(c, &self.connection));
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.refused {
            self.connection.full.store(false, Ordering::Relaxed);
        }
        if self.connection.used.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(pool) = self.pool.upgrade()
        {
            pool.idle(&self.connection);
        }
    }
}

/// How the last attempt to connect ended, for all who waited for it.
#[derive(Default)]
struct Failures {
    count: u64,
    last: Option<Error>,
}

/// All connections to one host.
pub(super) struct Pool {
    name: String,
    host: SshHost,
    jump: Option<Arc<Pool>>,
    connections: Mutex<Vec<Arc<Connection>>>,
    /// Held while connecting.
    connecting: AsyncMutex<()>,
    failures: Mutex<Failures>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("name", &self.name)
            .field("connections", &self.connections.lock().len())
            .finish()
    }
}

/// The same error once more; sources cannot be shared.
fn copy(error: &Error) -> Error {
    let mut copy = Error::new(error.kind(), error.message().to_owned())
        .with_operation(error.operation())
        .with_retry(error.retry());
    for (key, value) in error.context() {
        copy = copy.with_context(key, value);
    }
    copy
}

impl Pool {
    pub(super) fn new(name: String, host: SshHost, jump: Option<Arc<Self>>) -> Arc<Self> {
        Arc::new(Self {
            name,
            host,
            jump,
            connections: Mutex::default(),
            connecting: AsyncMutex::default(),
            failures: Mutex::default(),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn host(&self) -> &SshHost {
        &self.host
    }

    /// Whether a connection is open now.
    pub(super) fn is_connected(&self) -> bool {
        self.connections.lock().iter().any(|c| !c.is_closed())
    }

    /// A place on an open connection.
    fn take(self: &Arc<Self>, exclusive: bool) -> Option<Lease> {
        let mut connections = self.connections.lock();
        let over = |c: &Connection| c.is_closed() || (c.is_worn() && c.used.load(Ordering::Acquire) == 0);
        connections.retain(|c| !over(c));
        let room = if exclusive { 1 } else { self.host.max_channels };
        let used = |c: &Arc<Connection>| c.used.load(Ordering::Acquire);
        // The busiest that has room: the others may become idle and be closed.
        let best = connections
            .iter()
            .filter(|c| {
                c.exclusive == exclusive && used(c) < room && !c.is_worn() && !c.full.load(Ordering::Relaxed)
            })
            .max_by_key(|c| used(c))?;
        Some(self.lend(best))
    }

    fn lend(self: &Arc<Self>, connection: &Arc<Connection>) -> Lease {
        connection.used.fetch_add(1, Ordering::AcqRel);
        connection.uses.fetch_add(1, Ordering::AcqRel);
        Lease { connection: Arc::clone(connection), pool: Arc::downgrade(self), refused: false }
    }

    /// A place for a channel, on a connection of its own if `exclusive`. Connects if it must; everybody else who needs
    /// a connection waits for that, and shares its failure.
    ///
    /// # Errors
    /// Those of connecting; `RateLimited` when there may be no further connection.
    pub(super) async fn lease(self: &Arc<Self>, exclusive: bool) -> Result<Lease> {
        if let Some(lease) = self.take(exclusive) {
            return Ok(lease);
        }
        let seen = self.failures.lock().count;
        let _turn = self.connecting.lock().await;
        if let Some(lease) = self.take(exclusive) {
            return Ok(lease);
        }
        {
            let failures = self.failures.lock();
            if let Some(last) = failures.last.as_ref().filter(|_| failures.count != seen) {
                return Err(copy(last));
            }
        }
        if self.connections.lock().len() >= self.host.max_connections {
            let message = "all connections to the host are in use";
            return Err(error::temporary(Error::new(ErrorKind::RateLimited, message))
                .with_context("target", format!("ssh/{}", self.name))
                .with_context("max_connections", self.host.max_connections));
        }
        match connect::connect(&self.name, &self.host, self.jump.as_ref(), exclusive).await {
            Ok(Connected { session, helper, through }) => {
                let connection = Arc::new(Connection {
                    session,
                    helper,
                    sftp: AsyncMutex::default(),
                    exclusive,
                    used: AtomicUsize::new(0),
                    full: AtomicBool::new(false),
                    forced: AtomicUsize::new(0),
                    uses: AtomicU64::new(0),
                    _through: through,
                });
                let lease = self.lend(&connection);
                self.connections.lock().push(connection);
                Ok(lease)
            }
            Err(e) => {
                let mut failures = self.failures.lock();
                failures.count += 1;
                failures.last = Some(copy(&e));
                Err(e)
            }
        }
    }

    /// Nothing uses this connection now; it is closed unless that changes.
    fn idle(self: &Arc<Self>, connection: &Arc<Connection>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (pool, connection) = (Arc::downgrade(self), Arc::downgrade(connection));
        let uses = connection.upgrade().map(|c| c.uses.load(Ordering::Acquire));
        let limit = self.host.idle_timeout;
        runtime.spawn(async move {
            tokio::time::sleep(limit).await;
            let (Some(pool), Some(connection)) = (pool.upgrade(), connection.upgrade()) else { return };
            {
                let mut connections = pool.connections.lock();
                let idle = connection.used.load(Ordering::Acquire) == 0;
                if !idle || Some(connection.uses.load(Ordering::Acquire)) != uses {
                    return;
                }
                connections.retain(|c| !Arc::ptr_eq(c, &connection));
            }
            let (why, text, language) = error::BYE;
            let _ = connection.session.disconnect(why, text, language).await;
        });
    }
}
