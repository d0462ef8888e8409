//! Spawn-and-wait of `/bin/true`: bare tokio, the fleet, the fleet with its store, HTTP; one and a hundred at once.
#![expect(clippy::expect_used, reason = "a benchmark that cannot run must stop")]

use std::{process::Stdio, sync::Arc};

use criterion::Criterion;
use fleetcore::{CommandSpec, Fleet, Machine};
use fleetcore_benches::{Http, TestServer, criterion, measure, runtime};
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::{process::Command, runtime::Runtime, sync::Mutex};

const AT_ONCE: usize = 100;

fn bare() -> Command {
    let mut command = Command::new("/bin/true");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

async fn bare_status() {
    assert!(bare().status().await.expect("it runs").success());
}

/// With both outputs captured, as the fleet does it.
async fn bare_output() {
    let output = Command::new("/bin/true").stdin(Stdio::null()).output().await;
    assert!(output.expect("it runs").status.success());
}

async fn through(machine: &Machine) {
    let command = machine.spawn(CommandSpec::argv(["/bin/true"])).await.expect("it starts");
    assert!(command.output().await.expect("it runs").status.success());
}

async fn over_http(http: &Mutex<Http>) {
    let command = json!({"target": "local", "argv": ["/bin/true"], "wait": {"timeout_ms": 30_000}});
    let answer = http.lock().await.post("/api/v1/commands", &command).await;
    assert_eq!(answer.get("state").and_then(Value::as_str), Some("succeeded"), "{answer}");
}

fn one(c: &mut Criterion, runtime: &Runtime, server: &TestServer) {
    let mut group = c.benchmark_group("spawn");
    measure(&mut group, runtime, "floor-status", bare_status);
    measure(&mut group, runtime, "floor-output", bare_output);
    let machine = Fleet::local().machine("local").expect("this host");
    measure(&mut group, runtime, "fleetcore", move || {
        let machine = machine.clone();
        async move { through(&machine).await }
    });
    let machine = server.fleet.machine("local").expect("this host");
    measure(&mut group, runtime, "fleetcore-sqlite", move || {
        let machine = machine.clone();
        async move { through(&machine).await }
    });
    let http = Arc::new(Mutex::new(runtime.block_on(server.connect())));
    measure(&mut group, runtime, "fleetcore-http", move || {
        let http = Arc::clone(&http);
        async move { over_http(&http).await }
    });
    group.finish();
}

fn at_once(c: &mut Criterion, runtime: &Runtime, server: &TestServer) {
    let mut group = c.benchmark_group("spawn100");
    group.sample_size(10);
    measure(&mut group, runtime, "floor-status", || async {
        join_all((0..AT_ONCE).map(|_| bare_status())).await;
    });
    measure(&mut group, runtime, "floor-output", || async {
        join_all((0..AT_ONCE).map(|_| bare_output())).await;
    });
    let machine = Fleet::local().machine("local").expect("this host");
    measure(&mut group, runtime, "fleetcore", move || {
        let machine = machine.clone();
        async move {
            join_all((0..AT_ONCE).map(|_| through(&machine))).await;
        }
    });
    let machine = server.fleet.machine("local").expect("this host");
    measure(&mut group, runtime, "fleetcore-sqlite", move || {
        let machine = machine.clone();
        async move {
            join_all((0..AT_ONCE).map(|_| through(&machine))).await;
        }
    });
    let connections = runtime.block_on(join_all((0..AT_ONCE).map(|_| server.connect())));
    let connections: Arc<[Mutex<Http>]> = connections.into_iter().map(Mutex::new).collect();
    measure(&mut group, runtime, "fleetcore-http", move || {
        let connections = Arc::clone(&connections);
        async move {
            join_all(connections.iter().map(over_http)).await;
        }
    });
    group.finish();
}

fn main() {
    let runtime = runtime();
    let server = TestServer::start(&runtime);
    let mut c = criterion();
    one(&mut c, &runtime, &server);
    at_once(&mut c, &runtime, &server);
    c.final_summary();
}
