//! Connections from this host, and from the network of a sandbox.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{place::Place, tree::is_dead};
use crate::{
    Error, ErrorKind, HostPort, Result,
    raw::{BoxConnection, OpContext},
};

/// How long an address may take to answer: what an unreachable one costs.
const LIMIT: Duration = Duration::from_secs(15);
/// The one name that a network without anything else in it knows.
const LOCALHOST: &str = "localhost";

/// Connects to `to`, as seen from `place`.
pub(super) async fn connect(cx: &OpContext, to: &HostPort, place: Option<&Place>) -> Result<BoxConnection> {
    let work = async {
        let late = || io::Error::new(io::ErrorKind::TimedOut, "the address does not answer");
        let opened = tokio::time::timeout(LIMIT, open(to, place)).await.unwrap_or_else(|_| Err(late()));
        let socket = opened.map_err(|e| failed(to, e))?;
        // Keystrokes must not wait for the answer to the one before (Nagle).
        let _ = socket.set_nodelay(true);
        Ok(Box::new(Socket { socket, ended: false }) as BoxConnection)
    };
    cx.guard("connect", work).await
}

/// A connection whose other end sees whether it was given all there was.
struct Socket {
    socket: TcpStream,
    /// All was sent.
    ended: bool,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if !self.ended {
            // An end like any other would pass for all there was.
            let _ = self.socket.set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = ready!(Pin::new(&mut self.socket).poll_shutdown(cx));
        self.ended = ended.is_ok();
        Poll::Ready(ended)
    }
}

/// Whatever keeps us from an address, nobody answers there now; unless we are not allowed to, or have run out of something
/// ourselves.
fn failed(to: &HostPort, e: io::Error) -> Error {
    let refused = matches!(e.kind(), io::ErrorKind::PermissionDenied);
    let kind = if refused { ErrorKind::PermissionDenied } else { ErrorKind::Unavailable };
    Error::new(kind, e.to_string()).with_operation("connect").with_context("address", to).with_source(e)
}

async fn open(to: &HostPort, place: Option<&Place>) -> io::Result<TcpStream> {
    let Some(place) = place else { return TcpStream::connect((to.host(), to.port())).await };
    if is_dead(&place.holder.1) {
        return Err(io::Error::other("the sandbox has ended"));
    }
    if !place.own_network {
        return TcpStream::connect((to.host(), to.port())).await;
    }
    // Its network has nothing but itself in it: no name service either.
    let addresses: Vec<IpAddr> = match to.ip() {
        Some(ip) => vec![ip],
        None if to.host() == LOCALHOST => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        None => {
            return Err(io::Error::other("the sandbox has no network, so it knows no names but localhost"));
        }
    };
    let mut last = None;
    for ip in addresses {
        match from_inside(place, SocketAddr::new(ip, to.port())).await {
            Ok(socket) => return Ok(socket),
            Err(e) => last = Some(e),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::other("no address")))
}

#[cfg(target_os = "linux")]
async fn from_inside(place: &Place, to: SocketAddr) -> io::Result<TcpStream> {
    let holder = std::sync::Arc::clone(&place.holder.1);
    // Making a process takes a thread a millisecond or two.
    let socket = tokio::task::spawn_blocking(move || crate::sys::socket_of(&holder, to.is_ipv6()));
    let socket = socket.await.map_err(io::Error::other)??;
    tokio::net::TcpSocket::from_std_stream(std::net::TcpStream::from(socket)).connect(to).await
}

#[cfg(not(target_os = "linux"))]
async fn from_inside(_: &Place, _: SocketAddr) -> io::Result<TcpStream> {
    Err(io::ErrorKind::Unsupported.into())
}
