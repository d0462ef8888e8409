//! The real server and the real agent, killed without warning.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    path::PathBuf,
    process::{Child, Stdio},
};

use common::Home;
use fleetcore::{CommandEvent, CommandId, CommandSpec, CommandState, Offset};
use fleetcore_http::client::{
    Client, Credentials, ReconnectPolicy, Transport,
    wire::{Command, NewCommand},
};
use fleetcore_testkit::sometime;
use futures::StreamExt as _;

const TOKEN: &str = "fca_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

struct Rig {
    home: Home,
    token: PathBuf,
    server: Child,
    agent: Child,
    port: u16,
}

impl Drop for Rig {
    fn drop(&mut self) {
        for child in [&mut self.server, &mut self.agent] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn log(home: &Home, name: &str) -> std::fs::File {
    std::fs::File::options().create(true).append(true).open(home.path(name)).unwrap()
}

fn serve(home: &Home, token: &std::path::Path, port: u16) -> Child {
    let listen = format!("127.0.0.1:{port}");
    let agents = format!("agent-1={}", token.display());
    let mut command = home.command(&["serve", "--listen", &listen, "--agent-token-file", &agents]);
    command.args(["--agent-heartbeat", "300ms"]).stdout(Stdio::null()).stderr(log(home, "serve.log"));
    command.spawn().unwrap()
}

fn agent(home: &Home, token: &std::path::Path, port: u16) -> Child {
    let server = format!("http://127.0.0.1:{port}");
    let token = token.to_str().unwrap();
    let mut command = home.command(&["agent", "--server", &server, "--id", "agent-1", "--token-file", token]);
    command.args(["--reconnect-first", "20ms", "--reconnect-most", "100ms", "--label", "role=test"]);
    command.stdout(Stdio::null()).stderr(log(home, "agent.log")).spawn().unwrap()
}

impl Rig {
    async fn new() -> Self {
        let home = Home::new();
        let token = home.path("token");
        std::fs::write(&token, format!("{TOKEN}\n")).unwrap();
        let port = free_port();
        let (server, agent) = (serve(&home, &token, port), agent(&home, &token, port));
        let rig = Self { home, token, server, agent, port };
        rig.connected().await;
        rig
    }

    fn client(&self) -> Client {
        let token = std::fs::read_to_string(self.home.data_dir().join("local-token")).unwrap();
        let url = format!("http://127.0.0.1:{}", self.port);
        let never = ReconnectPolicy::never();
        Client::builder(url)
            .with_credentials(Credentials::token(token))
            .with_reconnect(never)
            .build()
            .unwrap()
    }

    /// Looks again and again, whatever goes wrong on the way.
    async fn until<T>(&self, what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
        sometime(look).await.unwrap_or_else(|| {
            let read = |name| std::fs::read_to_string(self.home.path(name)).unwrap_or_default();
            panic!("in vain: {what}\nserver:\n{}\nagent:\n{}", read("serve.log"), read("agent.log"))
        })
    }

    async fn connected(&self) {
        self.until("the agent is connected", async || {
            if !self.home.data_dir().join("local-token").exists() {
                return None;
            }
            let targets = self.client().targets().await.ok()?;
            targets.into_iter().find(|t| t.target == "agent-1" && t.native_state == "connected").map(drop)
        })
        .await;
    }

    async fn start(&self, script: &str) -> CommandId {
        let new = NewCommand::from_spec(&"agent-1".parse().unwrap(), &CommandSpec::shell(script)).unwrap();
        self.client().create_command(&new).await.unwrap().id.parse().unwrap()
    }

    async fn record(&self, id: CommandId) -> Option<Command> {
        self.client().command(id).await.ok()
    }

    /// What is there of the output, from the start, until it has `enough` bytes, ends or breaks.
    async fn output(&self, id: CommandId, enough: usize) -> Vec<u8> {
        let mut bytes = vec![];
        let Ok(mut events) = self.client().output(id, Offset(0), Transport::WebSocket).await else {
            return bytes;
        };
        while let Some(Ok(event)) = events.next().await {
            match event {
                CommandEvent::Output(chunk) => {
                    assert_eq!(chunk.offset.0, bytes.len() as u64, "in order, once");
                    bytes.extend_from_slice(&chunk.data);
                }
                CommandEvent::Gap { from, to } => panic!("a gap from {from} to {to}"),
                _ => {}
            }
            if bytes.len() >= enough {
                break;
            }
        }
        bytes
    }
}

fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn pattern(lines: usize) -> Vec<u8> {
    (0..lines).map(|n| format!("{n:07x}\n")).collect::<String>().into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_survive_a_server_that_is_killed() {
    let mut rig = Rig::new().await;
    const LINES: usize = 40_000;
    let stop = rig.home.path("stop");
    // Slow enough to be killed in the middle of, several times.
    let script = format!(
        "awk 'BEGIN {{ for (i = 0; i < {LINES}; i++) {{ printf \"%07x\\n\", i; if (i % 500 == 0) {{ fflush(); \
         system(\"sleep 0.02\") }} }} }}'; until [ -e {} ]; do sleep 0.02; done; exit 9",
        stop.display()
    );
    let id = rig.start(&script).await;
    for round in 1..=10 {
        let seen = rig.output(id, round * 30_000).await;
        assert!(pattern(LINES).starts_with(&seen), "{} bytes", seen.len());
        kill(&mut rig.server);
        rig.server = serve(&rig.home, &rig.token, rig.port);
        rig.connected().await;
        rig.until("it is taken up again", async || {
            rig.record(id).await.filter(|r| r.state == CommandState::Running).map(drop)
        })
        .await;
    }
    std::fs::write(&stop, "").unwrap();
    let ended =
        rig.until("it ends", async || rig.record(id).await.filter(|r| r.state == CommandState::Failed)).await;
    assert_eq!(ended.exit.unwrap().code, Some(9));
    assert!(rig.output(id, usize::MAX).await == pattern(LINES));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_comes_back_and_says_what_was_lost() {
    let mut rig = Rig::new().await;
    for round in 1..=5 {
        let id = rig.start("i=0; while :; do printf '%07x\\n' $i; i=$((i+1)); done").await;
        let seen = rig.output(id, round * 40_000).await;
        kill(&mut rig.agent);
        rig.agent = agent(&rig.home, &rig.token, rig.port);
        rig.connected().await;
        rig.until("it is lost", async || rig.record(id).await.filter(|r| r.state == CommandState::Lost))
            .await;
        let kept = rig.output(id, usize::MAX).await;
        assert!(kept.len() >= seen.len() && kept[..seen.len()] == seen[..]);
        assert!(pattern(kept.len() / 8 + 1).starts_with(&kept));
    }
    // The agent is as good as before.
    let run = rig.home.run(&[
        "--server",
        &format!("http://127.0.0.1:{}", rig.port),
        "run",
        "agent-1",
        "--",
        "echo",
        "again",
    ]);
    assert_eq!((run.code, run.out.as_str()), (0, "again\n"), "{run:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_agents_with_one_name_the_older_is_told_and_stops() {
    let mut rig = Rig::new().await;
    let other = Home::new();
    let mut newer = agent(&other, &rig.token, rig.port);
    assert_eq!(rig.agent.wait().unwrap().code(), Some(75));
    let log = std::fs::read_to_string(rig.home.path("agent.log")).unwrap();
    assert!(log.contains("a newer agent has this name"), "{log}");
    rig.connected().await;
    let url = format!("http://127.0.0.1:{}", rig.port);
    let run = rig.home.run(&["--server", &url, "run", "agent-1", "-c", "echo $HOME"]).ok();
    assert_eq!(run.out.trim(), other.path("").to_str().unwrap().trim_end_matches('/'));
    kill(&mut newer);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_removed_stays_out() {
    let mut rig = Rig::new().await;
    let url = format!("http://127.0.0.1:{}", rig.port);
    rig.home.run(&["--server", &url, "agents", "rm", "agent-1"]).ok();
    assert_eq!(rig.agent.wait().unwrap().code(), Some(77), "it is told");
    // Also by the next server, although the file still has the token.
    for restart in [false, true] {
        if restart {
            kill(&mut rig.server);
            rig.server = serve(&rig.home, &rig.token, rig.port);
        }
        rig.agent = agent(&rig.home, &rig.token, rig.port);
        assert_eq!(rig.agent.wait().unwrap().code(), Some(77), "restarted: {restart}");
    }
    let log = std::fs::read_to_string(rig.home.path("agent.log")).unwrap();
    assert!(log.contains("let it join anew") && !log.contains(TOKEN), "{log}");
    // A new token is a new start.
    std::fs::write(&rig.token, TOKEN.replace('A', "B")).unwrap();
    kill(&mut rig.server);
    rig.server = serve(&rig.home, &rig.token, rig.port);
    rig.agent = agent(&rig.home, &rig.token, rig.port);
    rig.connected().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_runs_things_on_agents() {
    let rig = Rig::new().await;
    let url = format!("http://127.0.0.1:{}", rig.port);
    let run = |args: &[&str]| rig.home.run(&[&["--server", url.as_str()], args].concat());
    assert_eq!(run(&["run", "agent-1", "-c", "echo out; exit 4"]).code, 4);
    let targets = run(&["targets", "-o", "json"]).ok();
    assert!(targets.out.contains("agent-1"), "{targets:?}");
    std::fs::write(rig.home.path("file"), "content").unwrap();
    let there = format!("agent-1:{}", rig.home.path("copy").display());
    run(&["cp", rig.home.path("file").to_str().unwrap(), &there]).ok();
    assert_eq!(std::fs::read(rig.home.path("copy")).unwrap(), b"content");
    let gone = run(&["run", "agent-9", "--", "true"]);
    assert!(gone.code != 0 && gone.err.contains("agent"), "{gone:?}");
}
