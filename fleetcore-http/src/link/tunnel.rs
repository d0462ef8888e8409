//! Bytes to an address that the agent can reach.

use std::{sync::Arc, time::Duration};

use fleetcore::{AddressRules, BoxConnection, Error, ErrorKind, HostPort, OpContext, Result, Target};
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

/// The server's side, for a host or a machine behind it: `target` is as the agent sees it.
pub(super) async fn connect(
    agent: &Arc<AgentState>,
    target: &Target,
    cx: &OpContext,
    to: &HostPort,
) -> Result<BoxConnection> {
    let work = async {
        if target.machine_id().is_none() {
            return Ok(Box::new(open(agent, to).await?) as BoxConnection);
        }
        Ok(Box::new(agent.client()?.connect(target, to).await?) as BoxConnection)
    };
    cx.guard("agent.connect", work).await
}

/// The server's side: the agent's answer comes first, then bytes.
pub(super) async fn open(agent: &AgentState, to: &HostPort) -> Result<StreamIo> {
    let stream = agent.open(&Purpose::Tunnel { host: to.host().to_owned(), port: to.port() })?;
    let answer = tokio::time::timeout(2 * CONNECT_LIMIT, stream.recv()).await;
    let answer = answer.map_err(|_| Error::new(ErrorKind::Timeout, "the agent did not answer"))??;
    match answer.map(FromAgent::decode).transpose()? {
        Some(FromAgent::Answer(None)) => Ok(StreamIo::new(stream)),
        Some(FromAgent::Answer(Some(error))) => Err(error),
        _ => Err(malformed("an answer")),
    }
}

/// The agent's side.
pub(super) async fn serve(stream: MuxStream, host: String, port: u16, allowed: &AddressRules) {
    let connected = async {
        let to = HostPort::new(&host, port)?;
        allowed.check(&to).map_err(|e| e.with_operation("agent.tunnel"))?;
        let named = |e: Error| e.with_operation("agent.tunnel").with_context("address", &to);
        let late = |_| named(Error::new(ErrorKind::Unavailable, "the address does not answer"));
        let connecting = TcpStream::connect((to.host(), to.port()));
        let socket = tokio::time::timeout(CONNECT_LIMIT, connecting).await.map_err(late)?;
        // Whatever keeps us from an address, nobody answers there now.
        let failed = |e: std::io::Error| Error::new(ErrorKind::Unavailable, e.to_string()).with_source(e);
        let socket = socket.map_err(|e| named(failed(e)))?;
        // Keystrokes must not wait for the answer to the one before (Nagle).
        let _ = socket.set_nodelay(true);
        Ok(socket)
    };
    match connected.await {
        Ok(mut socket) => {
            if stream.send(FromAgent::Answer(None).encode()).await.is_ok() {
                let mut io = StreamIo::new(stream);
                // Ends when both directions have; what breaks one ends both.
                let copied =
                    tokio::io::copy_bidirectional_with_sizes(&mut io, &mut socket, BUFFER, BUFFER).await;
                if copied.is_err() {
                    // An end like any other would pass for all there was.
                    let _ = socket.set_zero_linger();
                }
            }
        }
        Err(error) => {
            let _ = stream.send(FromAgent::Answer(Some(error)).encode()).await;
            stream.end();
        }
    }
}
