//! A server with thousands of agents: memory and processor time while they are idle, and one command on 500 at once.
//!
//! The agents are in a process of their own: `FLEETCORE_AGENTS` (default 2000) of them, each with its own link, all on
//! this host. `FLEETCORE_IDLE_S` (default 30) is how long the idle server is watched.
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark that cannot run must stop; it reports by printing"
)]

use std::{
    io::Write as _,
    net::SocketAddr,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use fleetcore::{
    AgentId, CommandSpec, Fleet,
    backends::local::{Local, LocalConfig},
    store::{
        memory::MemoryStore,
        sqlite::{SqliteConfig, SqliteStore},
    },
};
use fleetcore_http::{
    Server, ServerConfig, Stores,
    link::{Agent, AgentConfig, AgentHub, AgentTokens, LinkConfig},
};
use futures::future::join_all;
use secrecy::{ExposeSecret as _, SecretString};
use tokio_util::sync::CancellationToken;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    match std::env::args().skip_while(|a| a != "--agents").nth(1) {
        Some(url) => runtime.block_on(agents(&url)),
        None => runtime.block_on(server()),
    }
}

/// The other process: an agent for each token on standard input.
async fn agents(url: &str) {
    let tokens = std::io::read_to_string(std::io::stdin()).expect("tokens");
    let host = Arc::new(Local::new(LocalConfig::default()));
    let running = tokens.lines().map(|token| {
        let store = Arc::new(MemoryStore::new());
        let fleet = Fleet::builder().with_host(host.clone()).with_store(store.clone()).build();
        let config = AgentConfig::new(url, SecretString::from(token.to_owned()));
        let agent = Agent::new(config, fleet, Stores::new(store)).expect("an agent");
        async move { agent.run(CancellationToken::new()).await }
    });
    join_all(running.map(tokio::spawn)).await;
}

/// Resident bytes of this process.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize = statm.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("pages");
    pages * rustix::param::page_size()
}

/// Processor seconds of this process.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks: f64 = after.split(' ').skip(12).take(2).filter_map(|n| n.parse::<f64>().ok()).sum();
    ticks / rustix::param::clock_ticks_per_second() as f64
}

async fn server() {
    let count = number("FLEETCORE_AGENTS", 2000);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = Arc::new(SqliteStore::open(SqliteConfig::new(dir.path())).expect("a fresh store"));
    let tokens = AgentTokens::new();
    let hub =
        AgentHub::open(store.clone(), Arc::new(tokens.clone()), LinkConfig::default()).await.expect("a hub");
    let fleet = Fleet::builder().with_store(store.clone()).with_agents(Arc::new(hub.clone())).build();
    let config = ServerConfig::on(SocketAddr::from(([127, 0, 0, 1], 0)));
    let server = Server::bind(config, fleet.clone(), Stores::new(store).with_agents(hub.clone()))
        .await
        .expect("a port");
    let url = server.url();
    tokio::spawn(server.run(CancellationToken::new()));

    let names: Vec<_> = (0..count).map(|n| AgentId::new(format!("agent-{n}")).expect("a name")).collect();
    let secrets: Vec<_> = names.iter().map(|id| tokens.issue(id.clone())).collect();
    let before = resident();
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--agents", &url])
        .stdin(Stdio::piped())
        .spawn()
        .expect("it starts");
    {
        let mut to = child.stdin.take().expect("a pipe");
        for secret in secrets {
            writeln!(to, "{}", secret.expose_secret()).expect("it reads");
        }
    }
    let started = Instant::now();
    while hub.connected() < count {
        assert!(started.elapsed() < Duration::from_secs(120), "{} of {count} are there", hub.connected());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("{count} agents connected after {:.1} s", started.elapsed().as_secs_f64());

    let idle = Duration::from_secs(number("FLEETCORE_IDLE_S", 30) as u64);
    // A full round of heartbeats first.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let (used, began) = (processor(), Instant::now());
    tokio::time::sleep(idle).await;
    let cores = (processor() - used) / began.elapsed().as_secs_f64();
    let kib = (resident().saturating_sub(before)) as f64 / 1024.0 / count as f64;
    println!("idle: {cores:.3} cores, {kib:.1} KiB resident per agent (wanted: under 0.5 and 40)");

    let some = names.iter().take(500.min(count));
    let began = Instant::now();
    let runs = some.map(|id| {
        let machine = fleet.machine(id.as_str()).expect("a known agent");
        async move {
            let command = machine.spawn(CommandSpec::argv(["true"])).await.expect("it starts");
            assert!(command.wait().await.expect("it ends").success());
        }
    });
    let done = join_all(runs).await.len();
    println!("`true` on {done} agents: {:.2} s (wanted: under 2)", began.elapsed().as_secs_f64());
    child.kill().expect("it runs");
    child.wait().expect("it ends");
}
