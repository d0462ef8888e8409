//! What the link to an agent costs: one short command, bulk output, bytes through a tunnel, a key and its echo; each
//! beside the same without a link.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a benchmark that cannot run must stop; it also reports by printing"
)]

use std::{net::SocketAddr, sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};
use criterion::{SamplingMode, Throughput};
use fleetcore::{
    AgentId, CommandEvent, CommandSpec, CommandStream, Fleet, Machine, Offset, Overflow, PtySize,
    backends::local::{Local, LocalConfig},
    store::sqlite::{SqliteConfig, SqliteStore},
};
use fleetcore_benches::{BULK_BYTES, criterion, measure, runtime, text_file};
use fleetcore_http::{
    Server, ServerConfig, Stores,
    link::{Agent, AgentConfig, AgentHub, AgentTokens, BehindStore, LinkConfig},
};
use futures::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Mutex,
};
use tokio_tungstenite::{accept_async, client_async, tungstenite::Message};
use tokio_util::sync::CancellationToken;

const AGENT: &str = "agent-1";

struct Rig {
    fleet: Fleet,
    hub: AgentHub,
    dir: tempfile::TempDir,
}

fn store(dir: &std::path::Path) -> Arc<SqliteStore> {
    let config = SqliteConfig::new(dir).with_max_total_log_bytes(2 << 30);
    Arc::new(SqliteStore::open(config).expect("a fresh store"))
}

/// A server and an agent as the programs have them, in one process.
async fn rig() -> Rig {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let here = store(&dir.path().join("server"));
    let tokens = AgentTokens::new();
    let hub =
        AgentHub::open(here.clone(), Arc::new(tokens.clone()), LinkConfig::default()).await.expect("a hub");
    let host = || Arc::new(Local::new(LocalConfig::default()));
    let fleet = Fleet::builder()
        .with_host(host())
        .with_store(here.clone())
        .with_agents(Arc::new(hub.clone()))
        .build();
    let config = ServerConfig::on(SocketAddr::from(([127, 0, 0, 1], 0)));
    let stores = Stores::new(here).with_agents(hub.clone());
    let server = Server::bind(config, fleet.clone(), stores).await.expect("a free port");
    let url = server.url();
    tokio::spawn(server.run(CancellationToken::new()));
    let there = store(&dir.path().join("agent"));
    let agents_fleet =
        Fleet::builder().with_host(host()).with_store(Arc::new(BehindStore::new(there.clone()))).build();
    let token = tokens.issue(AgentId::new(AGENT).expect("a name"));
    let agent = Agent::new(AgentConfig::new(url, token), agents_fleet, Stores::new(there)).expect("an agent");
    tokio::spawn(async move { agent.run(CancellationToken::new()).await });
    while hub.connected() == 0 {
        tokio::task::yield_now().await;
    }
    Rig { fleet, hub, dir }
}

async fn short(machine: &Machine) {
    let command = machine.spawn(CommandSpec::argv(["true"])).await.expect("it starts");
    assert!(command.wait().await.expect("it ends").success());
}

async fn bulk(machine: &Machine, file: &str) {
    let spec = CommandSpec::argv(["cat", file]).with_replay(1 << 20, Overflow::Block);
    let command = machine.spawn(spec).await.expect("it starts");
    let mut events = command.stream(Offset(0));
    let mut bytes = 0;
    while let Some(event) = events.next().await {
        if let CommandEvent::Output(chunk) = event.expect("a whole stream") {
            bytes += chunk.data.len();
        }
    }
    assert_eq!(bytes, BULK_BYTES, "every byte");
}

/// Messages over a plain WebSocket, as large as those of the link.
async fn bare_websocket() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let sender = tokio::spawn(async move {
        let stream = TcpStream::connect(addr).await.expect("it listens");
        let (mut socket, _) = client_async(format!("ws://{addr}/"), stream).await.expect("a handshake");
        let block = Bytes::from(vec![b'x'; 64 << 10]);
        let mut left = BULK_BYTES;
        while left > 0 {
            let n = left.min(block.len());
            socket.feed(Message::Binary(block.slice(..n))).await.expect("it is read");
            left -= n;
        }
        socket.flush().await.expect("it is read");
        socket
    });
    take_bulk(&listener).await;
    drop(sender.await);
}

/// Takes the bulk from whoever connects with a WebSocket.
async fn take_bulk(listener: &TcpListener) {
    let (stream, _) = listener.accept().await.expect("a connection");
    let mut socket = accept_async(stream).await.expect("a handshake");
    let mut bytes = 0;
    while bytes < BULK_BYTES {
        bytes += socket.next().await.expect("more").expect("whole").into_data().len();
    }
}

/// What any tunnel over a WebSocket has to do: read from a service, pass it on.
async fn bare_relay(service: u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let relay = tokio::spawn(async move {
        let stream = TcpStream::connect(addr).await.expect("it listens");
        let (mut socket, _) = client_async(format!("ws://{addr}/"), stream).await.expect("a handshake");
        let mut service = TcpStream::connect(("127.0.0.1", service)).await.expect("it listens");
        let mut left = BULK_BYTES;
        while left > 0 {
            let mut block = BytesMut::with_capacity(64 << 10);
            left -= service.read_buf(&mut block).await.expect("it sends");
            socket.feed(Message::Binary(block.freeze())).await.expect("it is read");
        }
        socket.flush().await.expect("it is read");
        socket
    });
    take_bulk(&listener).await;
    drop(relay.await);
}

/// A service at the agent's side that sends the bulk to whoever connects.
async fn source() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        let block = vec![b'x'; 64 << 10];
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut left = BULK_BYTES;
            while left > 0 {
                let (part, _) = block.split_at(left.min(block.len()));
                if socket.write_all(part).await.is_err() {
                    break;
                }
                left -= part.len();
            }
        }
    });
    port
}

async fn tunnel(hub: &AgentHub, port: u16) {
    let mut io =
        hub.tunnel(&AgentId::new(AGENT).expect("a name"), "127.0.0.1", port).await.expect("a tunnel");
    let (mut bytes, mut buffer) = (0, vec![0; 64 << 10]);
    while bytes < BULK_BYTES {
        bytes += io.read(&mut buffer).await.expect("a whole tunnel");
    }
}

struct Terminal {
    command: fleetcore::RunningCommand,
    output: Box<dyn CommandStream>,
}

async fn terminal(machine: &Machine) -> Terminal {
    let spec = CommandSpec::shell("stty raw -echo; printf ready; exec cat").with_pty(PtySize::default());
    let command = machine.spawn(spec).await.expect("it starts");
    let mut output = command.stream(Offset(0));
    let mut seen = vec![];
    while !seen.ends_with(b"ready") {
        match output.next().await {
            Some(Ok(CommandEvent::Output(chunk))) => seen.extend_from_slice(&chunk.data),
            Some(Ok(_)) => {}
            other => panic!("no terminal: {other:?}"),
        }
    }
    Terminal { command, output }
}

async fn key(terminal: &mut Terminal) {
    terminal.command.write_stdin("x").await.expect("it reads");
    loop {
        match terminal.output.next().await {
            Some(Ok(CommandEvent::Output(_))) => return,
            Some(Ok(_)) => {}
            other => panic!("no echo: {other:?}"),
        }
    }
}

/// Commands in turn, here and there, so that whatever else this host does happens to both: prints the middle and the fast
/// end of each.
async fn in_turn(machines: [(&'static str, Machine); 2], rounds: usize) {
    let mut times = [const { Vec::new() }; 2];
    for _ in 0..rounds {
        for ((_, machine), times) in machines.iter().zip(&mut times) {
            let start = Instant::now();
            short(machine).await;
            times.push(start.elapsed());
        }
    }
    for ((name, _), times) in machines.iter().zip(&mut times) {
        times.sort_unstable();
        let part = |percent| times.get(rounds * percent / 100).copied().unwrap_or_default();
        println!("link-command/{name} in turn: median {:?}, fastest tenth {:?}", part(50), part(10));
    }
}

fn main() {
    let runtime = runtime();
    let rig = Arc::new(runtime.block_on(rig()));
    let file: Arc<str> = text_file(rig.dir.path(), BULK_BYTES).to_str().expect("a plain path").into();
    let machine = |target: &str| rig.fleet.machine(target).expect("a target");
    let targets = [("local", machine("local")), ("agent", machine(AGENT))];
    let timed = runtime.spawn(in_turn(targets.clone(), 1000));
    runtime.block_on(timed).expect("the measured work does not panic");
    let mut c = criterion();

    let mut group = c.benchmark_group("link-command");
    for (name, machine) in targets.clone() {
        measure(&mut group, &runtime, name, move || {
            let machine = machine.clone();
            async move { short(&machine).await }
        });
    }
    group.finish();

    let mut group = c.benchmark_group("link-echo");
    for (name, machine) in targets.clone() {
        let terminal = Arc::new(Mutex::new(runtime.block_on(terminal(&machine))));
        measure(&mut group, &runtime, name, move || {
            let terminal = Arc::clone(&terminal);
            async move { key(&mut *terminal.lock().await).await }
        });
    }
    group.finish();

    let mut group = c.benchmark_group("link-bulk");
    group.sample_size(10).sampling_mode(SamplingMode::Flat).throughput(Throughput::Bytes(BULK_BYTES as u64));
    measure(&mut group, &runtime, "bare-websocket", bare_websocket);
    let (hub, port) = (rig.hub.clone(), runtime.block_on(source()));
    measure(&mut group, &runtime, "bare-relay", move || bare_relay(port));
    measure(&mut group, &runtime, "tunnel", move || {
        let hub = hub.clone();
        async move { tunnel(&hub, port).await }
    });
    for (name, machine) in targets {
        let file = Arc::clone(&file);
        measure(&mut group, &runtime, name, move || {
            let (machine, file) = (machine.clone(), Arc::clone(&file));
            async move { bulk(&machine, &file).await }
        });
    }
    group.finish();
    c.final_summary();
}
