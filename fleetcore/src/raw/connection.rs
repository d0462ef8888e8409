//! Bytes both ways.

use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes to and from an address that a machine can reach, as over TCP.
///
/// Shutting it down ends what is sent and leaves the other direction open. Its end tells a clean end from a broken one where
/// the way there can: an error of reading says that bytes may be missing. Not reading is back-pressure, for this connection
/// alone. Dropping it closes both directions and leaves nothing behind, here or on the way; before it was shut down, the other
/// side sees a broken connection and what was sent last may be lost.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Connection for T {}

/// Any [`Connection`].
pub type BoxConnection = Box<dyn Connection>;
