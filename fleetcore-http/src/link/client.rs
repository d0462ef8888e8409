//! The agent: dials the server, stays connected, does what is asked.

use std::{fmt, sync::Arc, time::Duration};

use fleetcore::{
    AddressRules, AgentId, CommandFilter, CommandId, CommandState, Error, ErrorKind, Fleet, Json, Labels,
    OpContext, Result,
};
use futures::{StreamExt as _, stream::SplitStream};
use jiff::Timestamp;
use rand::Rng as _;
use reqwest::Upgraded;
use secrecy::SecretString;
use tokio::time::Instant;
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};
use tokio_util::sync::CancellationToken;

use super::{
    ahead::ReadAhead,
    mux::Mux,
    protocol::{
        DEAD_TOKEN, FromAgent, FromServer, Hello, ProviderInfo, Refusal, SUBPROTOCOL, VERSION, encode,
    },
    pump::{self, Incoming},
    serve::Work,
};
use crate::{
    app::Stores,
    client::{Client, ClientBuilder, Credentials, ReconnectPolicy},
};

/// Streams the server may have open at once: commands, requests, tunnels.
const STREAMS_MAX: usize = 65_536;
/// How long the server may take to answer the hello.
const WELCOME_LIMIT: Duration = Duration::from_secs(20);
/// Commands named in a heartbeat at most.
const RUNNING_MAX: usize = 4096;

/// Gives the measurements that go with each heartbeat. Called on the agent's runtime; must not block.
pub type StatusSource = Arc<dyn Fn() -> Json + Send + Sync>;

/// Settings of an [`Agent`].
#[derive(Clone)]
#[non_exhaustive]
pub struct AgentConfig {
    /// Address of the server, e.g. `https://fleet.example`.
    pub server: String,
    /// Its own token.
    pub token: SecretString,
    /// Its name, to notice a token of another one; the token decides.
    pub id: Option<AgentId>,
    /// Its labels.
    pub labels: Labels,
    /// Addresses that tunnels may lead to. Default: this host only.
    pub tunnels: AddressRules,
    /// Certificates (PEM) to trust besides those of the system.
    pub roots: Vec<Vec<u8>>,
    /// Measurements for heartbeats.
    pub status: Option<StatusSource>,
    /// Pause before the first try to come back, at most; every agent picks a part of it by chance. Default 1 s.
    pub reconnect_first: Duration,
    /// Longest pause between tries. Default 30 s.
    pub reconnect_most: Duration,
}

impl fmt::Debug for AgentConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentConfig")
            .field("server", &self.server)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl AgentConfig {
    /// An agent of `server` with its token.
    pub fn new(server: impl Into<String>, token: SecretString) -> Self {
        Self {
            server: server.into(),
            token,
            id: None,
            labels: Labels::new(),
            tunnels: AddressRules::default(),
            roots: vec![],
            status: None,
            reconnect_first: Duration::from_secs(1),
            reconnect_most: Duration::from_secs(30),
        }
    }

    /// Sets the name it expects to have.
    #[must_use]
    pub fn with_id(mut self, id: Option<AgentId>) -> Self {
        self.id = id;
        self
    }

    /// Sets its labels.
    #[must_use]
    pub fn with_labels(mut self, labels: Labels) -> Self {
        self.labels = labels;
        self
    }

    /// Sets where tunnels may lead.
    #[must_use]
    pub fn with_tunnels(mut self, allowed: AddressRules) -> Self {
        self.tunnels = allowed;
        self
    }

    /// Sets the pauses between tries to come back.
    #[must_use]
    pub fn with_reconnect(mut self, first: Duration, most: Duration) -> Self {
        (self.reconnect_first, self.reconnect_most) = (first, most);
        self
    }

    /// Sets where measurements come from.
    #[must_use]
    pub fn with_status(mut self, status: StatusSource) -> Self {
        self.status = Some(status);
        self
    }
}

/// Why an agent has ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum AgentEnd {
    /// It was told to.
    Stopped,
    /// The server does not want it any more: another agent has its name (`Conflict`), it was removed or its token is not
    /// known there (`Unauthenticated`), the versions do not match (`Unsupported`), or it is not the agent the token is
    /// for (`InvalidInput`).
    Refused(Error),
}

/// An agent over a fleet of its own. The fleet needs a store: what its commands write is kept there while the server
/// cannot be reached.
pub struct Agent {
    config: AgentConfig,
    client: Client,
    fleet: Fleet,
    work: Arc<Work>,
    instance: String,
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent").field("config", &self.config).finish_non_exhaustive()
    }
}

/// What is kept from one connection to the next.
#[derive(Default)]
struct Memory {
    epoch: Option<u64>,
    running: Option<Vec<CommandId>>,
}

/// How one connection ended.
enum Ended {
    Stopped,
    Refused(Error),
    /// The server let it in, some time.
    Broke(Error, bool),
}

impl Agent {
    /// An agent that offers `fleet`. Nothing is sent yet. Needs a runtime.
    ///
    /// # Errors
    /// `InvalidInput` for a bad server address, token or certificate.
    pub fn new(config: AgentConfig, fleet: Fleet, stores: Stores) -> Result<Self> {
        let mut client: ClientBuilder = Client::builder(&config.server)
            .with_credentials(Credentials::Token(config.token.clone()))
            .with_reconnect(ReconnectPolicy::never());
        for pem in &config.roots {
            client = client.with_root_certificates(pem.clone());
        }
        let work = Arc::new(Work::new(fleet.clone(), stores, config.tunnels.clone()));
        let instance = format!("{:032x}", rand::random::<u128>());
        Ok(Self { client: client.build()?, fleet, work, instance, config })
    }

    /// Connects, and comes back whenever the link breaks, until `stop` or until the server refuses it for good. Commands
    /// and sessions run on meanwhile; ending them is the business of whoever holds the fleet.
    pub async fn run(&self, stop: CancellationToken) -> AgentEnd {
        let mut memory = Memory::default();
        let mut pause = self.config.reconnect_first;
        loop {
            match self.once(&mut memory, &stop).await {
                Ended::Stopped => return AgentEnd::Stopped,
                Ended::Refused(error) => {
                    tracing::error!(%error, "the server does not want this agent");
                    return AgentEnd::Refused(error);
                }
                Ended::Broke(error, welcomed) => {
                    if welcomed {
                        pause = self.config.reconnect_first;
                    }
                    // Some part of it, by chance: the agents of a server that was restarted do not all come at once.
                    let wait = pause.mul_f64(rand::rng().random_range(0.1..=1.0));
                    tracing::warn!(%error, wait_ms = wait.as_millis(), "the link is down; trying again");
                    if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                        return AgentEnd::Stopped;
                    }
                    pause = (pause * 2).min(self.config.reconnect_most);
                }
            }
        }
    }

    async fn hello(&self, memory: &Memory) -> FromAgent {
        let cx = OpContext::default();
        let exec = match self.fleet.machine(fleetcore::LOCAL) {
            Ok(host) => host.executor(&cx).await.map(|e| e.capabilities()).unwrap_or_default(),
            Err(_) => fleetcore::ExecCapabilities::default(),
        };
        let providers = self.fleet.providers().into_iter();
        FromAgent::Hello(Box::new(Hello {
            protocol: VERSION,
            id: self.config.id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.instance.clone(),
            epoch: memory.epoch,
            now: Some(Timestamp::now()),
            exec,
            machines: fleetcore::MachineCapabilities::default(),
            providers: providers
                .map(|p| ProviderInfo {
                    scheme: p.scheme().to_owned(),
                    capabilities: p.capabilities(),
                    actions: p.actions(),
                })
                .collect(),
            labels: self.config.labels.clone(),
            running: self.running().await,
        }))
    }

    async fn running(&self) -> Vec<CommandId> {
        let mut filter = CommandFilter::default();
        filter.states = vec![CommandState::Running];
        filter.limit = Some(RUNNING_MAX);
        match self.fleet.commands().list(filter).await {
            Ok(records) => records.into_iter().map(|r| r.id).collect(),
            Err(error) => {
                tracing::warn!(%error, "running commands cannot be listed");
                vec![]
            }
        }
    }

    /// One connection, from dialling to its end.
    async fn once(&self, memory: &mut Memory, stop: &CancellationToken) -> Ended {
        let config = pump::socket_config();
        let dialling = self.client.websocket("agent.link", &["api", "v1", "link"], &[], SUBPROTOCOL, config);
        let socket = match stop.run_until_cancelled(dialling).await {
            None => return Ended::Stopped,
            Some(Err(error)) if error.context_value(DEAD_TOKEN).is_some() => {
                return Ended::Refused(error.with_context(
                    "hint",
                    "the agent was removed from the server or its token was replaced; let it join anew",
                ));
            }
            Some(Err(error)) => return Ended::Broke(error, false),
            Some(Ok(socket)) => socket,
        };
        // Nothing has been read yet: the server waits for the hello.
        let io = ReadAhead::new(socket.into_inner());
        let socket = WebSocketStream::from_raw_socket(io, Role::Client, Some(config)).await;
        let (sink, source) = socket.split();
        let mux = Mux::new(2, STREAMS_MAX);
        if let Err(error) = mux.send_text(encode(&self.hello(memory).await)) {
            return Ended::Broke(error, false);
        }
        memory.running = None;
        let writing = pump::write(&mux, sink, WELCOME_LIMIT);
        let talking = self.talk(memory, source, &mux);
        tokio::pin!(writing, talking);
        let ended = tokio::select! {
            ended = &mut talking => ended,
            broke = &mut writing => {
                // What the server said last may say why.
                let why = broke.err().unwrap_or_else(|| pump::broke("closed"));
                match tokio::time::timeout(LAST_WORD, &mut talking).await {
                    Ok(Ended::Refused(error)) => Ended::Refused(error),
                    Ok(Ended::Broke(_, welcomed)) => Ended::Broke(why, welcomed),
                    _ => Ended::Broke(why, true),
                }
            }
            () = stop.cancelled() => {
                mux.close("the agent stops");
                let _ = writing.await;
                return Ended::Stopped;
            }
        };
        mux.close("the link is down");
        ended
    }

    /// Says and hears everything but the streams' contents.
    async fn talk(
        &self,
        memory: &mut Memory,
        mut source: SplitStream<WebSocketStream<ReadAhead<Upgraded>>>,
        mux: &Mux,
    ) -> Ended {
        let first = match pump::read(&mut source, WELCOME_LIMIT).await {
            Ok(Incoming::Control(text)) => serde_json::from_str(&text).unwrap_or(FromServer::Unknown),
            Ok(Incoming::Frame(_)) => FromServer::Unknown,
            Err(error) => return Ended::Broke(error, false),
        };
        let (epoch, ttl, heartbeat) = match first {
            FromServer::Welcome { protocol, epoch, ttl_ms, heartbeat_ms } => {
                tracing::info!(server = self.client.base_url(), %protocol, epoch, "connected");
                (epoch, Duration::from_millis(ttl_ms.max(1)), Duration::from_millis(heartbeat_ms.max(1)))
            }
            FromServer::Refused { reason, message } => return refused(reason, message, false),
            _ => return Ended::Broke(super::exec::malformed("an answer to the hello"), false),
        };
        memory.epoch = Some(epoch);
        let beating = self.beat(memory, mux, heartbeat);
        let hearing = async {
            loop {
                match pump::read(&mut source, ttl).await {
                    Ok(Incoming::Frame(frame)) => match mux.accept(frame) {
                        Ok(Some((stream, first))) => self.work.start(stream, first),
                        Ok(None) => {}
                        Err(error) => return Ended::Broke(error, true),
                    },
                    Ok(Incoming::Control(text)) => {
                        if let Ok(FromServer::Refused { reason, message }) = serde_json::from_str(&text) {
                            return refused(reason, message, true);
                        }
                    }
                    Err(error) => return Ended::Broke(error, true),
                }
            }
        };
        tokio::select! {
            ended = hearing => ended,
            error = beating => Ended::Broke(error, true),
        }
    }

    /// Says that we are alive, now and again; ends when that cannot be said.
    async fn beat(&self, memory: &mut Memory, mux: &Mux, every: Duration) -> Error {
        let mut next = Instant::now();
        loop {
            tokio::time::sleep_until(next).await;
            let running = self.running().await;
            let changed = memory.running.as_ref() != Some(&running);
            let status = self.config.status.as_ref().map(|status| status()).unwrap_or_default();
            let beat = FromAgent::Heartbeat { running: changed.then(|| running.clone()), status };
            if let Err(error) = mux.send_text(encode(&beat)) {
                return error;
            }
            memory.running = Some(running);
            next = Instant::now() + every.mul_f64(rand::rng().random_range(0.8..=1.0));
        }
    }
}

/// How long to listen for a last word after the way there broke.
const LAST_WORD: Duration = Duration::from_millis(500);

fn refused(reason: Refusal, message: String, welcomed: bool) -> Ended {
    let kind = match reason {
        Refusal::Fenced => ErrorKind::Conflict,
        // As at the next try to connect.
        Refusal::Removed => ErrorKind::Unauthenticated,
        Refusal::Version => ErrorKind::Unsupported,
        Refusal::Malformed => ErrorKind::InvalidInput,
        _ => ErrorKind::Unavailable,
    };
    let error = Error::new(kind, message).with_operation("agent.link");
    if reason.is_final() { Ended::Refused(error) } else { Ended::Broke(error, welcomed) }
}
