//! Bytes to an address that the agent can reach.

use std::time::Duration;

use fleetcore::{Error, ErrorKind, Result};
use tokio::net::TcpStream;

use super::{
    StreamIo,
    exec::{FromAgent, Purpose, malformed},
    mux::MuxStream,
    remote::AgentState,
};

/// How long connecting on the agent's side may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);

/// Buffer of each direction, as large as a message.
const BUFFER: usize = 64 << 10;

/// The server's side: the agent's answer comes first, then bytes.
pub(super) async fn open(agent: &AgentState, host: &str, port: u16) -> Result<StreamIo> {
    if host.is_empty() || host.len() > 255 || host.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(Error::invalid("host", "a host name or address"));
    }
    let stream = agent.open(&Purpose::Tunnel { host: host.to_owned(), port })?;
    let answer = tokio::time::timeout(2 * CONNECT_LIMIT, stream.recv()).await;
    let answer = answer.map_err(|_| Error::new(ErrorKind::Timeout, "the agent did not answer"))??;
    match answer.map(FromAgent::decode).transpose()? {
        Some(FromAgent::Answer(None)) => Ok(StreamIo::new(stream)),
        Some(FromAgent::Answer(Some(error))) => Err(error),
        _ => Err(malformed("an answer")),
    }
}

/// The agent's side.
pub(super) async fn serve(stream: MuxStream, host: String, port: u16, allowed: &[String]) {
    let connected = async {
        let wanted = format!("{host}:{port}");
        let open = allowed.iter().any(|rule| rule == "*" || *rule == wanted || *rule == format!("{host}:*"));
        if !open {
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                "the agent allows no tunnel to this address",
            )
            .with_context("address", wanted));
        }
        let late = |_| Error::new(ErrorKind::Unavailable, "the address does not answer");
        let connecting = TcpStream::connect((host.as_str(), port));
        let socket = tokio::time::timeout(CONNECT_LIMIT, connecting).await.map_err(late)?;
        let socket = socket.map_err(|e| Error::io("agent.tunnel", e).with_context("address", wanted))?;
        // Keystrokes must not wait for the answer to the one before (Nagle).
        let _ = socket.set_nodelay(true);
        Ok(socket)
    };
    match connected.await {
        Ok(mut socket) => {
            if stream.send(FromAgent::Answer(None).encode()).await.is_ok() {
                let mut io = StreamIo::new(stream);
                // Ends when both directions have; what breaks one ends both.
                let _ = tokio::io::copy_bidirectional_with_sizes(&mut io, &mut socket, BUFFER, BUFFER).await;
            }
        }
        Err(error) => {
            let _ = stream.send(FromAgent::Answer(Some(error)).encode()).await;
            stream.end();
        }
    }
}
