//! Ports of this host that lead to addresses machines can reach.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, broadcast},
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Machine;
use crate::{BoxConnection, Error, ErrorKind, HostPort, OpContext, Result};

/// Buffer of each direction of a connection.
const BUFFER: usize = 64 << 10;
/// First and longest pause after the system could give no further connection (out of descriptors, most likely).
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));
/// Events a slow listener may be behind.
const EVENTS: usize = 256;

/// How a [`Tunnel`] behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TunnelOptions {
    /// Connections at once; further ones wait until one ends. Default 256.
    pub connections: usize,
    /// How long connecting on the other side may take. Default 30 s.
    pub connect_timeout: Duration,
}

impl Default for TunnelOptions {
    fn default() -> Self {
        Self { connections: 256, connect_timeout: Duration::from_secs(30) }
    }
}

impl TunnelOptions {
    /// Sets how many connections there may be at once.
    #[must_use]
    pub fn with_connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }
}

/// What happens to a connection of a [`Tunnel`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TunnelEvent {
    /// It is through.
    Opened {
        /// Who connected to the port.
        peer: SocketAddr,
    },
    /// The other side could not be reached; this connection is closed, the tunnel goes on.
    Refused {
        /// Who connected to the port.
        peer: SocketAddr,
        /// Why.
        error: Arc<Error>,
    },
    /// It has ended.
    Closed {
        /// Who connected to the port.
        peer: SocketAddr,
        /// Why it broke off, if it did.
        error: Option<Arc<Error>>,
    },
    /// The system cannot take connections now; tried again.
    Stuck {
        /// Why.
        error: Arc<Error>,
    },
}

/// A port of this host that leads elsewhere: each connection to it is a connection there, with both directions ending by
/// themselves. Dropping it closes the port and all connections, and leaves no task.
///
/// ```no_run
/// # async fn demo() -> fleetcore::Result<()> {
/// use fleetcore::{Fleet, HostPort};
/// let machine = Fleet::local().machine("local")?;
/// let tunnel = machine.tunnel(([127, 0, 0, 1], 0).into(), HostPort::new("localhost", 5432)?).await?;
/// println!("psql -h 127.0.0.1 -p {}", tunnel.local_addr().port());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Tunnel {
    local: SocketAddr,
    events: broadcast::Sender<TunnelEvent>,
    task: JoinHandle<()>,
    /// Ends the task, and with it its connections.
    stop: DropGuard,
}

impl Tunnel {
    /// Listens on `bind` (port 0 picks one); each connection gets one that `connect` makes.
    ///
    /// # Errors
    /// Those of listening, naming the address: `AlreadyExists` when the port is taken, `PermissionDenied`.
    pub async fn listen<F, Fut>(bind: SocketAddr, options: TunnelOptions, connect: F) -> Result<Self>
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<BoxConnection>> + Send + 'static,
    {
        let failed = |e: io::Error| {
            let kind = match e.kind() {
                io::ErrorKind::AddrInUse => ErrorKind::AlreadyExists,
                io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
                io::ErrorKind::AddrNotAvailable => ErrorKind::InvalidInput,
                _ => ErrorKind::Unavailable,
            };
            Error::new(kind, e.to_string())
                .with_operation("listen")
                .with_context("address", bind)
                .with_source(e)
        };
        let listener = TcpListener::bind(bind).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        let (events, _) = broadcast::channel(EVENTS);
        let stop = CancellationToken::new();
        let serving = Serving { options, connect: Arc::new(connect), events: events.clone() };
        let task = tokio::spawn(serving.run(listener, stop.clone()));
        Ok(Self { local, events, task, stop: stop.drop_guard() })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// What happens from now on. Bounded: a receiver that is too slow gets `Lagged`.
    pub fn events(&self) -> broadcast::Receiver<TunnelEvent> {
        self.events.subscribe()
    }

    /// Closes the port and all connections, and waits until they are gone.
    pub async fn close(self) {
        drop(self.stop);
        // Fails only when it panicked or the runtime ends; it is gone then too.
        let _ = self.task.await;
    }
}

impl Machine {
    /// Connects to an address as seen from the machine: `localhost` is the machine.
    ///
    /// # Errors
    /// `Unsupported` where the backend cannot; `Unavailable` when nothing answers there, `PermissionDenied` when it is not
    /// allowed; those of [`executor`](Self::executor).
    pub async fn connect(&self, to: &HostPort) -> Result<BoxConnection> {
        self.connect_with(&OpContext::default(), to).await
    }

    /// Connects to an address within `cx`, which is about connecting only. Errors as for [`connect`](Self::connect).
    pub async fn connect_with(&self, cx: &OpContext, to: &HostPort) -> Result<BoxConnection> {
        let executor = self.executor(cx).await?;
        cx.guard("tunnel.open", executor.connect(cx, to)).await
    }

    /// Makes a port of this host lead to an address as seen from the machine. Whether anybody answers there shows with
    /// each connection: see [`Tunnel::events`].
    ///
    /// # Errors
    /// `Unsupported` where the backend cannot connect; those of [`executor`](Self::executor) and [`Tunnel::listen`].
    pub async fn tunnel(&self, bind: SocketAddr, to: HostPort) -> Result<Tunnel> {
        self.tunnel_with(&OpContext::default(), bind, to, TunnelOptions::default()).await
    }

    /// As [`tunnel`](Self::tunnel), with options; connections are opened on behalf of the actor of `cx`, whose deadline and
    /// cancellation are about the beginning only.
    pub async fn tunnel_with(
        &self,
        cx: &OpContext,
        bind: SocketAddr,
        to: HostPort,
        options: TunnelOptions,
    ) -> Result<Tunnel> {
        if !self.executor(cx).await?.capabilities().connect {
            return Err(Error::unsupported("tunnel").with_context("target", self.target()));
        }
        let (machine, actor) = (self.clone(), cx.actor.clone());
        Tunnel::listen(bind, options, move || {
            let (machine, to) = (machine.clone(), to.clone());
            let cx = OpContext { actor: actor.clone(), ..OpContext::default() };
            async move { machine.connect_with(&cx, &to).await }
        })
        .await
    }
}

struct Serving<F> {
    options: TunnelOptions,
    connect: Arc<F>,
    events: broadcast::Sender<TunnelEvent>,
}

impl<F> fmt::Debug for Serving<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving").field("options", &self.options).finish_non_exhaustive()
    }
}

impl<F, Fut> Serving<F>
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<BoxConnection>> + Send + 'static,
{
    async fn run(self, listener: TcpListener, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.accept(&listener, &mut connections) => {}
        }
        drop(listener);
        connections.shutdown().await;
    }

    async fn accept(&self, listener: &TcpListener, connections: &mut JoinSet<()>) {
        let most = self.options.connections.clamp(1, Semaphore::MAX_PERMITS);
        let places = Arc::new(Semaphore::new(most));
        let mut pause = PAUSES.0;
        loop {
            // What waits for a place waits in the system's queue, not here.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            while connections.try_join_next().is_some() {}
            match listener.accept().await {
                Ok((socket, peer)) => {
                    pause = PAUSES.0;
                    let connecting = (self.connect)();
                    let (events, limit) = (self.events.clone(), self.options.connect_timeout);
                    connections.spawn(async move {
                        serve(socket, peer, connecting, limit, &events).await;
                        drop(place);
                    });
                }
                Err(e) => {
                    // One that was reset before we took it is nobody's trouble; for descriptors we can only wait.
                    if e.kind() != io::ErrorKind::ConnectionAborted {
                        let error = Arc::new(Error::io("accept", e));
                        let _ = self.events.send(TunnelEvent::Stuck { error });
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(PAUSES.1);
                    }
                }
            }
        }
    }
}

/// The near end of a connection. Unless all of it went through, whoever connected sees that it broke when this is dropped: an
/// end like any other would pass for all there was.
struct Near {
    socket: TcpStream,
    whole: bool,
}

impl Drop for Near {
    fn drop(&mut self) {
        if !self.whole {
            let _ = self.socket.set_zero_linger();
        }
    }
}

/// One connection, from beginning to end.
async fn serve(
    socket: TcpStream,
    peer: SocketAddr,
    connecting: impl Future<Output = Result<BoxConnection>>,
    limit: Duration,
    events: &broadcast::Sender<TunnelEvent>,
) {
    let mut near = Near { socket, whole: false };
    // Nobody listening is fine, here and below.
    let tell = |event| drop(events.send(event));
    let late = |_| {
        Error::new(ErrorKind::Timeout, "connecting took too long")
            .with_operation("tunnel.open")
            .with_context("limit_s", limit.as_secs())
    };
    let connected = tokio::time::timeout(limit, connecting).await.map_err(late);
    let mut far = match connected.and_then(|c| c) {
        Ok(far) => far,
        Err(error) => return tell(TunnelEvent::Refused { peer, error: Arc::new(error) }),
    };
    tell(TunnelEvent::Opened { peer });
    // Keystrokes must not wait for the answer to the one before (Nagle).
    let _ = near.socket.set_nodelay(true);
    // Ends when both directions have; what breaks one ends both.
    let copied = tokio::io::copy_bidirectional_with_sizes(&mut near.socket, &mut far, BUFFER, BUFFER).await;
    near.whole = copied.is_ok();
    tell(TunnelEvent::Closed { peer, error: copied.err().map(|e| Arc::new(Error::io("tunnel", e))) });
}

#[cfg(test)]
mod tests {
    use std::{
        net::Ipv4Addr,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Sends back what it gets.
    fn echo() -> BoxConnection {
        let (ours, theirs) = tokio::io::duplex(64);
        tokio::spawn(async move {
            let (mut from, mut to) = tokio::io::split(theirs);
            let _ = tokio::io::copy(&mut from, &mut to).await;
            let _ = to.shutdown().await;
        });
        Box::new(ours)
    }

    fn here() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 0).into()
    }

    #[tokio::test]
    async fn further_connections_wait_for_a_place() {
        let options = TunnelOptions::default().with_connections(1);
        let tunnel = Tunnel::listen(here(), options, || async { Ok(echo()) }).await.unwrap();
        let mut events = tunnel.events();
        let mut first = TcpStream::connect(tunnel.local_addr()).await.unwrap();
        let mut second = TcpStream::connect(tunnel.local_addr()).await.unwrap();
        second.write_all(b"y").await.unwrap();
        first.write_all(b"x").await.unwrap();
        let mut got = [0];
        first.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"x");
        let (one, two) = (first.local_addr().unwrap(), second.local_addr().unwrap());
        drop(first);
        second.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"y");
        let order = [events.recv().await, events.recv().await, events.recv().await];
        assert!(
            matches!(&order, [
                Ok(TunnelEvent::Opened { peer: a }),
                Ok(TunnelEvent::Closed { peer: b, error: None }),
                Ok(TunnelEvent::Opened { peer: c }),
            ] if *a == one && *b == one && *c == two),
            "{order:?}"
        );
    }

    #[tokio::test]
    async fn one_that_is_refused_is_reported_and_the_next_one_is_served() {
        let calls = AtomicUsize::new(0);
        let tunnel = Tunnel::listen(here(), TunnelOptions::default(), move || {
            let first = calls.fetch_add(1, Ordering::Relaxed) == 0;
            async move { if first { Err(Error::new(ErrorKind::Unavailable, "away")) } else { Ok(echo()) } }
        })
        .await
        .unwrap();
        let mut events = tunnel.events();
        // The reset may come while we still connect.
        if let Ok(mut refused) = TcpStream::connect(tunnel.local_addr()).await {
            assert!(refused.read_to_end(&mut Vec::new()).await.is_err());
        }
        let event = events.recv().await.unwrap();
        assert!(
            matches!(&event, TunnelEvent::Refused { error, .. } if error.kind() == ErrorKind::Unavailable),
            "{event:?}"
        );
        let mut socket = TcpStream::connect(tunnel.local_addr()).await.unwrap();
        socket.write_all(b"x").await.unwrap();
        socket.shutdown().await.unwrap();
        let mut got = Vec::new();
        socket.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"x");
        tunnel.close().await;
    }
}
