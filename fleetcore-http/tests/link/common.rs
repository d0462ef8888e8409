use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use fleetcore::{
    AgentId, CommandEvent, CommandSpec, CommandStore, CommandStream, ExitStatus, Fleet, FleetBuilder,
    Machine, OpContext, Target,
    backends::local::{Local, LocalConfig},
    store::{
        memory::MemoryStore,
        sqlite::{SqliteConfig, SqliteStore},
    },
};
use fleetcore_http::{
    Server, ServerConfig, Stores,
    link::{Agent, AgentConfig, AgentEnd, AgentHub, AgentTokens, BehindStore, LinkConfig},
};
pub(crate) use fleetcore_testkit::until;
use futures::StreamExt as _;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::broadcast,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// Long enough for a slow machine; nothing waits for it when all is well.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);

pub(crate) fn id(name: &str) -> AgentId {
    AgentId::new(name).unwrap()
}

/// A server with agents.
pub(crate) struct Home {
    pub(crate) address: SocketAddr,
    pub(crate) hub: AgentHub,
    pub(crate) fleet: Fleet,
    pub(crate) tokens: AgentTokens,
    stop: CancellationToken,
    done: Option<JoinHandle<fleetcore::Result<()>>>,
}

impl Drop for Home {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(crate) fn quick() -> LinkConfig {
    LinkConfig::default().with_heartbeat(Duration::from_millis(200)).with_lost_after(Duration::from_secs(60))
}

pub(crate) async fn home() -> Home {
    home_with(quick()).await
}

pub(crate) async fn home_with(config: LinkConfig) -> Home {
    let store = Arc::new(MemoryStore::new());
    let tokens = AgentTokens::new();
    let hub = AgentHub::open(store.clone(), Arc::new(tokens.clone()), config).await.unwrap();
    serve(store.clone(), Stores::new(store), hub, tokens, "127.0.0.1:0".parse().unwrap()).await
}

/// A server over a directory that outlives it.
pub(crate) async fn home_on(dir: &Path, tokens: AgentTokens, address: SocketAddr) -> Home {
    let store = Arc::new(SqliteStore::open(SqliteConfig::new(dir)).unwrap());
    store.mark_lost("the server ended").await.unwrap();
    let hub = AgentHub::open(store.clone(), Arc::new(tokens.clone()), quick()).await.unwrap();
    serve(store.clone(), Stores::new(store), hub, tokens, address).await
}

async fn serve(
    store: Arc<dyn CommandStore>,
    stores: Stores,
    hub: AgentHub,
    tokens: AgentTokens,
    address: SocketAddr,
) -> Home {
    let mut config = ServerConfig::on(address);
    config.shutdown_grace = Duration::from_secs(5);
    let fleet = Fleet::builder()
        .with_host(Arc::new(Local::new(LocalConfig::default())))
        .with_store(store)
        .with_agents(Arc::new(hub.clone()))
        .build();
    let server = Server::bind(config, fleet.clone(), stores.with_agents(hub.clone())).await.unwrap();
    let address = server.local_addr();
    let stop = CancellationToken::new();
    let done = Some(tokio::spawn(server.run(stop.clone())));
    Home { address, hub, fleet, tokens, stop, done }
}

impl Home {
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops as a server does that is told to.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        let done = self.done.take().unwrap();
        tokio::time::timeout(LIMIT, done).await.expect("the server stops").unwrap().unwrap();
    }

    /// An agent that is connected.
    pub(crate) async fn agent(&self, name: &str) -> Host {
        let host = Host::start(&self.url(), self.tokens.issue(id(name)));
        self.up(name).await;
        host
    }

    pub(crate) async fn up(&self, name: &str) {
        until("the agent connects", || self.hub.is_connected(&id(name))).await;
    }

    pub(crate) async fn down(&self, name: &str) {
        until("the agent is away", || !self.hub.is_connected(&id(name))).await;
    }

    pub(crate) fn machine(&self, target: &str) -> Machine {
        self.fleet.machine(target).unwrap()
    }

    /// Runs to the end; gives standard output.
    pub(crate) async fn run(&self, target: &str, script: &str) -> String {
        let running = self.machine(target).spawn(CommandSpec::shell(script)).await.unwrap();
        limited(running.output()).await.unwrap().check().unwrap().text()
    }
}

/// An agent in this process.
pub(crate) struct Host {
    pub(crate) fleet: Fleet,
    pub(crate) stop: CancellationToken,
    pub(crate) end: Option<JoinHandle<AgentEnd>>,
    _dir: tempfile::TempDir,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Host {
    pub(crate) fn start(server: &str, token: SecretString) -> Self {
        Self::start_with(server, token, |c| c)
    }

    pub(crate) fn start_with(
        server: &str,
        token: SecretString,
        change: impl FnOnce(AgentConfig) -> AgentConfig,
    ) -> Self {
        Self::start_on(Fleet::builder(), server, token, change)
    }

    /// An agent with more in its fleet than its host.
    pub(crate) fn start_on(
        fleet: FleetBuilder,
        server: &str,
        token: SecretString,
        change: impl FnOnce(AgentConfig) -> AgentConfig,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(SqliteConfig::new(dir.path())).unwrap());
        let fleet = fleet
            .with_host(Arc::new(Local::new(LocalConfig::default())))
            .with_store(Arc::new(BehindStore::new(store.clone())))
            .build();
        let config = AgentConfig::new(server, token)
            .with_reconnect(Duration::from_millis(10), Duration::from_millis(200));
        let agent = Agent::new(change(config), fleet.clone(), Stores::new(store)).unwrap();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let end = Some(tokio::spawn(async move { agent.run(stopped).await }));
        Self { fleet, stop, end, _dir: dir }
    }

    pub(crate) async fn ended(&mut self) -> AgentEnd {
        limited(self.end.take().unwrap()).await.unwrap()
    }
}

/// The future, unless it takes for ever.
pub(crate) async fn limited<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.expect("it does not hang")
}

/// A stretch of network that can be cut.
pub(crate) struct Cable {
    pub(crate) address: SocketAddr,
    cuts: broadcast::Sender<()>,
    plugged: Arc<AtomicBool>,
    pub(crate) connections: Arc<AtomicUsize>,
}

impl Cable {
    pub(crate) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cuts, _) = broadcast::channel(16);
        let plugged = Arc::new(AtomicBool::new(true));
        let connections = Arc::new(AtomicUsize::new(0));
        let (cut, open, count) = (cuts.clone(), plugged.clone(), connections.clone());
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut cut = cut.subscribe();
                if !open.load(Ordering::SeqCst) {
                    continue;
                }
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(server).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.recv() => {
                            // As a cable does: nothing more comes out, on either side, without a goodbye.
                            let _ = near.set_zero_linger();
                            let _ = far.set_zero_linger();
                        }
                    }
                });
            }
        });
        Self { address, cuts, plugged, connections }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Breaks what is connected; it may connect again.
    pub(crate) fn cut(&self) {
        // Fails when nothing is connected.
        let _ = self.cuts.send(());
    }

    pub(crate) fn unplug(&self) {
        self.plugged.store(false, Ordering::SeqCst);
        self.cut();
    }

    pub(crate) fn plug(&self) {
        self.plugged.store(true, Ordering::SeqCst);
    }
}

/// Reads up to `end` bytes, or to the end; every byte must follow the one before.
pub(crate) async fn read_to(
    stream: &mut Box<dyn CommandStream>,
    bytes: &mut Vec<u8>,
    end: usize,
) -> Option<ExitStatus> {
    while bytes.len() < end {
        match limited(stream.next()).await.expect("the stream ends with an exit").unwrap() {
            CommandEvent::Output(chunk) => {
                assert_eq!(chunk.offset.0, bytes.len() as u64, "in order, once");
                bytes.extend_from_slice(&chunk.data);
            }
            CommandEvent::Gap { from, to } => panic!("a gap from {from} to {to}"),
            CommandEvent::Exited(status) => return Some(status),
            _ => {}
        }
    }
    None
}

/// What [`script`] writes.
pub(crate) fn pattern(lines: usize) -> Bytes {
    (0..lines).map(|n| format!("{n:07x}\n")).collect::<String>().into()
}

/// Writes `lines` lines of eight bytes.
pub(crate) fn script(lines: usize) -> String {
    format!("awk 'BEGIN {{ for (i = 0; i < {lines}; i++) printf \"%07x\\n\", i }}'")
}

pub(crate) fn secret(token: &SecretString) -> &str {
    token.expose_secret()
}

pub(crate) fn cx(limit: Duration) -> OpContext {
    OpContext::default().with_timeout(limit)
}

pub(crate) fn target(name: &str) -> Target {
    name.parse().unwrap()
}
