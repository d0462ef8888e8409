//! `true` in a shell that stays open: a bare bash on a terminal with a private marker, a session, the same over HTTP.
#![expect(clippy::expect_used, reason = "a benchmark that cannot run must stop")]

use std::sync::Arc;

use fleetcore::{Fleet, SessionId, SessionSpec, TurnStatus, WaitPolicy};
use fleetcore_benches::{BarePty, TestServer, criterion, measure, runtime};
use serde_json::{Value, json};
use tokio::sync::Mutex;

/// The marker in two parts: the terminal echoes the command, and only its output has them joined.
const COMMAND: &[u8] = b"true; printf 'MA%s' RKER\n";
const MARKER: &[u8] = b"MARKER";

async fn bare_bash(options: &[&str]) -> BarePty {
    let mut bash = BarePty::spawn("bash", options);
    bash.write(COMMAND).await;
    bash.wait_for(MARKER).await;
    bash
}

fn main() {
    let runtime = runtime();
    let server = TestServer::start(&runtime);
    let mut c = criterion();
    let mut group = c.benchmark_group("session");
    // With the line editor as a person has it, and without as the quickest way.
    for (name, options) in [
        ("floor-bash", &["--norc", "--noprofile", "-i"][..]),
        ("floor-bash-noediting", &["--norc", "--noprofile", "--noediting", "-i"][..]),
    ] {
        let bash = Arc::new(Mutex::new(runtime.block_on(bare_bash(options))));
        measure(&mut group, &runtime, name, move || {
            let bash = Arc::clone(&bash);
            async move {
                let mut bash = bash.lock().await;
                bash.write(COMMAND).await;
                bash.wait_for(MARKER).await;
            }
        });
    }
    let machine = Fleet::local().machine("local").expect("this host");
    let spec = SessionSpec::new(SessionId::new("bench").expect("a name")).with_shell(["bash", "--norc"]);
    let session = runtime.block_on(machine.open_session(spec)).expect("a shell");
    measure(&mut group, &runtime, "fleetcore", move || {
        let session = Arc::clone(&session);
        async move {
            let turn = session.run("true", WaitPolicy::forever()).await.expect("it runs");
            assert_eq!(turn.status, TurnStatus::Completed { exit_code: Some(0) });
        }
    });
    let http = runtime.block_on(async {
        let mut http = server.connect().await;
        let spec = json!({"id": "bench", "target": "local", "shell": ["bash", "--norc"]});
        http.post("/api/v1/sessions", &spec).await;
        http
    });
    let http = Arc::new(Mutex::new(http));
    measure(&mut group, &runtime, "fleetcore-http", move || {
        let http = Arc::clone(&http);
        async move {
            let turn =
                http.lock().await.post("/api/v1/sessions/bench/run", &json!({"command": "true"})).await;
            assert_eq!(turn.get("exit_code").and_then(Value::as_i64), Some(0), "{turn}");
        }
    });
    group.finish();
    c.final_summary();
}
