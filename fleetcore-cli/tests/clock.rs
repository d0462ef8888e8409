//! The real server under a wall clock that jumps. Preloads libfaketime (Debian: `apt-get install faketime`) and says so
//! where that is missing.
//!
//! What the wall clock rules by right (when a token expires, what a record says about when) follows it; everything
//! that lasts (timeouts, idle sessions, the order of ids and lists) does not. Retention is tested where it counts
//! age, in the store.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use common::{Home, wait_for};
use fleetcore::{
    CommandEvent, CommandId, CommandSpec, CommandState, EndReason, ErrorKind, Offset, PtySize, Result, Scope,
};
use fleetcore_http::client::{
    Client, Credentials, ReconnectPolicy, Transport,
    wire::{Command, CommandQuery, NewCommand, NewSession, SessionWait},
};
use futures::StreamExt as _;
use secrecy::ExposeSecret as _;

const LIMIT: Duration = Duration::from_secs(60);

fn library() -> Option<PathBuf> {
    ["x86_64-linux-gnu", "aarch64-linux-gnu", ""]
        .iter()
        .flat_map(|arch| ["lib", "lib64"].map(|lib| Path::new("/usr").join(lib).join(arch)))
        .map(|dir| dir.join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.exists())
}

fn client(url: &str, token: &str) -> Client {
    let credentials = Credentials::token(token.to_owned());
    Client::builder(url)
        .with_credentials(credentials)
        .with_reconnect(ReconnectPolicy::never())
        .build()
        .unwrap()
}

/// Starts a command whose id the server chooses.
async fn start(client: &Client, spec: CommandSpec) -> Result<CommandId> {
    let mut new = NewCommand::from_spec(&"local".parse()?, &spec)?;
    new.id = None;
    client.create_command(&new).await?.id.parse()
}

async fn ended(client: &Client, id: CommandId) -> Command {
    client.wait_command(id, LIMIT).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_may_jump() {
    let Some(library) = library() else {
        eprintln!("SKIPPED clocks_may_jump: libfaketime is not installed (apt-get install faketime)");
        return;
    };
    let home = Home::new();
    let clock = home.path("clock");
    let set = |offset: &str| {
        // Replaced in one step: the server reads it at every look at the clock.
        let new = home.path("clock.new");
        std::fs::write(&new, offset).unwrap();
        std::fs::rename(new, &clock).unwrap();
    };
    set("+0d");
    let env = [
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        // As with a real clock that is set: the monotonic one runs on.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let server = home.serve_with(&["--retention", "1d"], &env);
    let token = home.data_dir().join("local-token");
    wait_for(|| home.data_dir().join("server.json").exists() && token.exists());
    let admin = client(&server.url, &std::fs::read_to_string(token).unwrap());
    let day = 86_400;
    let short = admin.create_token("short", &[Scope::Read], Some(day)).await.unwrap();
    let short = client(&server.url, short.secret.expose_secret());
    short.me().await.unwrap();

    let lasting = CommandSpec::argv(["sleep", "600"]).with_timeout(Duration::from_secs(600));
    let lasting = start(&admin, lasting).await.unwrap();
    let mut session = NewSession::new(&"local".parse().unwrap(), PtySize::default());
    session.id = Some("s".to_owned());
    session.idle_timeout_s = Some(600);
    admin.open_session(&session).await.unwrap();
    let name = "s".parse().unwrap();
    let mut ids = vec![lasting];

    for (offset, moved) in [("+10d", 10), ("-10d", -10), ("+0d", 0)] {
        let limited = CommandSpec::argv(["sleep", "600"]).with_timeout(Duration::from_secs(1));
        let limited = start(&admin, limited).await.unwrap();
        let reads = start(&admin, CommandSpec::argv(["cat"]).with_stdin()).await.unwrap();
        set(offset);
        let after = start(&admin, CommandSpec::shell("echo hello; exit 3")).await.unwrap();
        ids.extend([limited, reads, after]);

        // The clock has really jumped.
        let record = ended(&admin, after).await;
        let shift = record.created_at.duration_since(jiff::Timestamp::now()).as_hours();
        assert!((shift - moved * 24).abs() <= 1, "{shift} hours");
        assert_eq!(record.exit.unwrap().code, Some(3));

        // What takes time takes the time that passes.
        let record = ended(&admin, limited).await;
        assert_eq!(record.exit.unwrap().reason, Some(EndReason::TimedOut));
        assert!(record.duration_ms.unwrap() >= 0.0);
        admin.close_stdin(reads).await.unwrap();
        let record = ended(&admin, reads).await;
        assert_eq!(record.state, CommandState::Succeeded);
        assert!(record.duration_ms.unwrap() >= 0.0);
        assert_eq!(admin.command(lasting).await.unwrap().state, CommandState::Running);
        let turn = admin.session_run(&name, "echo still here", &SessionWait::default()).await.unwrap();
        assert!(turn.output.contains("still here"), "{turn:?}");

        // Output is whole and in order.
        let mut events = admin.output(after, Offset(0), Transport::EventStream).await.unwrap();
        let mut bytes = vec![];
        while let Some(event) = events.next().await {
            if let CommandEvent::Output(chunk) = event.unwrap() {
                bytes.extend_from_slice(&chunk.data);
            }
        }
        assert_eq!(bytes, b"hello\n");

        // A token is good until its date: over while the clock says so, and not lost when the clock was wrong.
        match (moved > 1, short.me().await) {
            (true, Err(e)) => assert_eq!(e.kind(), ErrorKind::Unauthenticated),
            (false, Ok(_)) => {}
            (over, other) => panic!("expired: {over}, answered {other:?}"),
        }
    }

    assert!(ids.is_sorted(), "ids go back with the clock: {ids:?}");
    let listed = admin.commands(&CommandQuery::default()).await.unwrap();
    let listed: Vec<CommandId> = listed.items.iter().map(|c| c.id.parse().unwrap()).collect();
    ids.reverse();
    assert_eq!(listed, ids, "newest first, whatever the clock said");
    assert_eq!(server.stop(), 0);
}

/// An agent; ends with this value.
struct Agent(std::process::Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn log(host: &Home) -> String {
    std::fs::read_to_string(host.path("agent.log")).unwrap_or_default()
}

/// Whether it is a time of this test, by the server's clock.
#[track_caller]
fn is_now(what: &str, at: jiff::Timestamp) {
    let off = jiff::Timestamp::now().duration_since(at).as_secs();
    assert!((-1..300).contains(&off), "{what}: {off} s ago");
}

/// Hosts without a battery start in 1970, and others are set wrong: an agent with such a clock is as good as any.
#[tokio::test(flavor = "multi_thread")]
async fn an_agents_clock_may_be_wrong() {
    let Some(library) = library() else {
        eprintln!(
            "SKIPPED an_agents_clock_may_be_wrong: libfaketime is not installed (apt-get install faketime)"
        );
        return;
    };
    let home = Home::new();
    let server = home.serve_with(&["--agent-heartbeat", "200ms"], &[]);
    let token = home.data_dir().join("local-token");
    wait_for(|| home.data_dir().join("server.json").exists() && token.exists());
    let admin = client(&server.url, &std::fs::read_to_string(token).unwrap());
    for (name, first, then) in [("early", "-10d", "+10d"), ("late", "+10d", "-10d")] {
        let host = Home::new();
        let clock = host.path("clock");
        std::fs::write(&clock, first).unwrap();
        let code = home.run(&["agents", "join-code", "-q"]).ok().out;
        let mut command =
            host.command(&["agent", "--server", &server.url, "--join", code.trim(), "--id", name]);
        command.args(["--reconnect-first", "20ms"]).stdout(std::process::Stdio::null());
        command.stderr(std::fs::File::create(host.path("agent.log")).unwrap()).envs([
            ("LD_PRELOAD", library.to_str().unwrap()),
            ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ]);
        let agent = Agent(command.spawn().unwrap());
        let known = async || admin.agents().await.unwrap().into_iter().find(|a| a.id == name);
        let online = async || known().await.filter(|a| a.online && a.connected && a.load.is_some());
        let joined = fleetcore_testkit::sometime(online).await.unwrap_or_else(|| panic!("{}", log(&host)));
        is_now("joined", joined.joined_at.unwrap());

        let run = async |spec: CommandSpec| {
            let mut new = NewCommand::from_spec(&name.parse().unwrap(), &spec).unwrap();
            new.id = None;
            let id: CommandId = admin.create_command(&new).await.unwrap().id.parse().unwrap();
            ended(&admin, id).await
        };
        let session_id = format!("on-{name}");
        for step in ["as it starts", "after its clock was set"] {
            if step != "as it starts" {
                std::fs::write(host.path("clock.new"), then).unwrap();
                std::fs::rename(host.path("clock.new"), &clock).unwrap();
            }
            // The clock over there is really wrong.
            let date = run(CommandSpec::argv(["date", "+%s"])).await;
            let mut said = vec![];
            let mut output =
                admin.output(date.id.parse().unwrap(), Offset(0), Transport::WebSocket).await.unwrap();
            while let Some(event) = output.next().await {
                if let CommandEvent::Output(chunk) = event.unwrap() {
                    is_now("output", chunk.at);
                    said.extend_from_slice(&chunk.data);
                }
            }
            let said: i64 = String::from_utf8(said).unwrap().trim().parse().unwrap();
            let off = (said - jiff::Timestamp::now().as_second()).abs();
            assert!((off - 864_000).abs() < 3600, "{step}: {off} s");

            assert_eq!(date.exit.unwrap().code, Some(0));
            for at in [Some(date.created_at), date.started_at, date.ended_at] {
                is_now("a command", at.unwrap());
            }
            assert!((0.0..60_000.0).contains(&date.duration_ms.unwrap()), "{:?}", date.duration_ms);
            // What takes time takes the time that passes.
            let sleep = CommandSpec::argv(["sleep", "600"]).with_timeout(Duration::from_secs(1));
            assert_eq!(run(sleep).await.exit.unwrap().reason, Some(EndReason::TimedOut));

            if step == "as it starts" {
                let mut session = NewSession::new(&name.parse().unwrap(), PtySize::default());
                session.id = Some(session_id.clone());
                admin.open_session(&session).await.unwrap();
            }
            let id = session_id.parse().unwrap();
            let turn = admin.session_run(&id, "echo still here", &SessionWait::default()).await.unwrap();
            assert!(turn.output.contains("still here"), "{turn:?}");
            let session = admin.session(&id).await.unwrap();
            is_now("a session", session.created_at);
            is_now("a session's last sign", session.active_at);

            // Heard of again and again, on the link it came with: for longer than a lease holds.
            let since = known().await.unwrap().last_seen.unwrap();
            let limit = std::time::Instant::now() + LIMIT;
            loop {
                let now = known().await.unwrap();
                assert!(now.online && now.connected, "{step}: {}", log(&host));
                is_now("heard of", now.last_seen.unwrap());
                is_now("measured", now.load.unwrap().at);
                if now.last_seen.unwrap().duration_since(since).as_millis() > 2000 {
                    break;
                }
                assert!(std::time::Instant::now() < limit, "{}", log(&host));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        let log = std::fs::read_to_string(home.path("serve.log")).unwrap();
        let links = log.lines().filter(|l| l.contains("the agent is connected") && l.contains(name)).count();
        assert_eq!(links, 1, "{log}");
        drop(agent);
    }
    assert_eq!(server.stop(), 0);
}
