//! What an agent does with the streams its server opens.

use std::{collections::HashMap, net::Ipv4Addr, sync::Arc};

use axum::{Router, body::Body};
use bytes::Bytes;
use fleetcore::{
    AddressRules, CommandEvent, CommandHandle, CommandId, CommandStream, Error, ErrorKind, Fleet, Offset,
    OpContext, Result, Signal, Target,
};
use futures::StreamExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tower::Service as _;

use super::{
    StreamIo, behind,
    exec::{Exec, FromAgent, OUTPUT_MAX, Purpose, Request},
    mux::MuxStream,
    server::LinkPeer,
    tunnel,
};
use crate::{
    app::{App, Stores, router},
    config::ServerConfig,
    extract::Peer,
};

/// Who the server is in the agent's audit log when it does not say on whose behalf it asks.
const SERVER: &str = "server";

/// The agent's fleet and its HTTP API, for one server.
pub(super) struct Work {
    fleet: Fleet,
    routes: Router,
    tunnels: AddressRules,
    inputs: Mutex<HashMap<CommandId, Arc<Input>>>,
}

/// Input of one command, whoever brings it.
struct Input {
    handle: CommandHandle,
    /// How much the command was given. Held while writing, so that a connection that takes over learns the truth.
    taken: tokio::sync::Mutex<u64>,
}

impl Work {
    pub(super) fn new(fleet: Fleet, stores: Stores, tunnels: AddressRules) -> Self {
        let mut config = ServerConfig::default();
        // The one user here is the server, which has limits of its own.
        config.limits.commands_per_actor = usize::MAX >> 4;
        config.limits.sessions_per_actor = usize::MAX >> 4;
        config.limits.streams_per_actor = usize::MAX >> 4;
        config.limits.tunnels_per_actor = usize::MAX >> 4;
        config.limits.tunnels = usize::MAX >> 4;
        // Machines behind the agent are under the same rules.
        config.allow_tunnel = tunnels.clone();
        let routes = router(App::new(config, fleet.clone(), stores));
        Self { fleet, routes, tunnels, inputs: Mutex::default() }
    }

    /// Begins to work on a stream.
    pub(super) fn start(self: &Arc<Self>, stream: MuxStream, first: Bytes) {
        let work = Arc::clone(self);
        tokio::spawn(async move {
            match serde_json::from_slice(&first) {
                Ok(Purpose::Exec(exec)) => work.exec(stream, *exec).await,
                Ok(Purpose::Stdin { id, from }) => work.stdin(stream, id, from).await,
                Ok(Purpose::Control { id, request }) => {
                    let answer = work.control(id, request).await;
                    let _ = stream.send(FromAgent::Answer(answer.err()).encode()).await;
                    stream.end();
                }
                Ok(Purpose::Http { actor }) => work.http(stream, actor).await,
                Ok(Purpose::Tunnel { host, port }) => tunnel::serve(stream, host, port, &work.tunnels).await,
                // Of a newer server: it hears that at once, by the stream being dropped.
                Err(error) => tracing::warn!(%error, "the server wants something this agent does not know"),
            }
        });
    }

    /// Starts a command unless it is known; gives its output from the byte that is wanted.
    async fn ensure(&self, exec: &mut Exec) -> Result<Box<dyn CommandStream>> {
        let from = Offset(exec.from);
        let Some(spec) = exec.spec.take() else { return self.fleet.commands().stream(exec.id, from).await };
        let target: Target = exec.target.parse()?;
        if target.agent().is_some() {
            return Err(Error::invalid("target", "one of this agent's own").with_context("target", target));
        }
        let cx = OpContext::for_actor(exec.actor.as_deref().unwrap_or(SERVER));
        let machine = self.fleet.target(&target)?;
        let starting = machine.spawn_with(&cx, exec.id, spec.into_spec());
        let started = if exec.first { behind::fresh(starting).await } else { starting.await };
        match started {
            // From the command itself: looked up, it may have ended and be on its way to the store.
            Ok(command) => Ok(command.detach().stream(from)),
            // Sent a second time because the link broke before the answer.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                self.fleet.commands().stream(exec.id, from).await
            }
            Err(e) => Err(e),
        }
    }

    async fn exec(&self, stream: MuxStream, mut exec: Exec) {
        let mut events = match self.ensure(&mut exec).await {
            Ok(events) => events,
            Err(error) => {
                let _ = stream.send(FromAgent::Refused(error).encode()).await;
                stream.end();
                return;
            }
        };
        if stream.send(FromAgent::Started.encode()).await.is_err() {
            return;
        }
        loop {
            let event = tokio::select! {
                biased;
                event = events.next() => event,
                // The server says nothing here: it left, or the link is down. The command runs on.
                _ = stream.recv() => return,
            };
            let sent = match event {
                Some(Ok(CommandEvent::Output(chunk))) => {
                    let (mut offset, mut data) = (chunk.offset.0, chunk.data);
                    let mut sent = Ok(());
                    while !data.is_empty() && sent.is_ok() {
                        let part = data.split_to(data.len().min(OUTPUT_MAX));
                        let len = part.len() as u64;
                        let message = FromAgent::Output { offset, channel: chunk.channel, data: part };
                        sent = stream.send(message.encode()).await;
                        offset += len;
                    }
                    sent
                }
                Some(Ok(CommandEvent::Gap { from, to })) => {
                    stream.send(FromAgent::Gap { from: from.0, to: to.0 }.encode()).await
                }
                Some(Ok(CommandEvent::Exited(status))) => {
                    let _ = stream.send(FromAgent::Exited(status).encode()).await;
                    stream.end();
                    return;
                }
                Some(Ok(_)) => Ok(()),
                Some(Err(error)) => {
                    // Dropping the stream makes the server ask again.
                    tracing::warn!(command = %exec.id, %error, "output cannot be read");
                    return;
                }
                None => return,
            };
            if sent.is_err() {
                return;
            }
        }
    }

    fn input(&self, id: CommandId) -> Option<Arc<Input>> {
        let mut inputs = self.inputs.lock();
        if let Some(input) = inputs.get(&id) {
            return Some(Arc::clone(input));
        }
        inputs.retain(|_, input| !input.handle.record().state.is_settled());
        let handle = self.fleet.commands().handle(id)?;
        let input = Arc::new(Input { handle, taken: tokio::sync::Mutex::new(0) });
        inputs.insert(id, Arc::clone(&input));
        Some(input)
    }

    async fn stdin(&self, stream: MuxStream, id: CommandId, from: Option<u64>) {
        let Some(input) = self.input(id) else {
            let _ = stream.send(FromAgent::StdinGone.encode()).await;
            stream.end();
            return;
        };
        // A write of the connection before may still be under way.
        let mut taken = input.taken.lock().await;
        let mut at = from.unwrap_or(*taken);
        if stream.send(FromAgent::StdinTaken(*taken).encode()).await.is_err() {
            return;
        }
        if at < *taken {
            // The server starts again from what it has just heard.
            at = *taken;
        }
        loop {
            match stream.recv().await {
                Ok(Some(mut data)) => {
                    let end = at + data.len() as u64;
                    let new = end.saturating_sub(*taken);
                    at = end;
                    if let Ok(new) = usize::try_from(new)
                        && new < data.len()
                    {
                        data = data.split_off(data.len() - new);
                    }
                    if data.is_empty() {
                        continue;
                    }
                    let len = data.len() as u64;
                    if input.handle.write_stdin(data).await.is_err() {
                        let _ = stream.send(FromAgent::StdinGone.encode()).await;
                        stream.end();
                        return;
                    }
                    *taken += len;
                    if stream.send(FromAgent::StdinTaken(*taken).encode()).await.is_err() {
                        return;
                    }
                }
                Ok(None) => {
                    input.handle.close_stdin().await;
                    stream.end();
                    return;
                }
                // The link is down: the next one goes on where this one was.
                Err(_) => return,
            }
        }
    }

    async fn control(&self, id: CommandId, request: Request) -> Result<()> {
        let gone = || Error::new(ErrorKind::NotFound, "the command does not run").with_context("command", id);
        if request == Request::Kill {
            // It may be starting just now; this waits for that.
            drop(self.fleet.commands().stream(id, Offset(u64::MAX)).await);
        }
        let handle = self.fleet.commands().handle(id).ok_or_else(gone)?;
        match request {
            Request::Signal(signal) => handle.signal(signal).await,
            Request::Resize(size) => handle.resize(size).await,
            Request::End => {
                handle.cancel();
                Ok(())
            }
            Request::Kill => {
                handle.cancel();
                handle.signal(Signal::Kill).await
            }
        }
    }

    async fn http(&self, stream: MuxStream, actor: Option<String>) {
        let peer = LinkPeer { actor: actor.as_deref().unwrap_or(SERVER).into() };
        let routes = self.routes.clone();
        let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer.clone());
            request.extensions_mut().insert(Peer((Ipv4Addr::LOCALHOST, 0).into()));
            routes.clone().call(request)
        });
        let io = TokioIo::new(StreamIo::new(stream));
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(io, service);
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a request of the server broke off");
        }
    }
}
