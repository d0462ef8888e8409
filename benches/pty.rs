//! `cat` of a 50 MB text file on a terminal: a bare pty-process read loop, the fleet, a WebSocket attach.
#![expect(clippy::expect_used, reason = "a benchmark that cannot run must stop")]

use std::sync::Arc;

use criterion::{SamplingMode, Throughput};
use fleetcore::{CommandEvent, CommandSpec, Fleet, Machine, Offset, Overflow, PtySize};
use fleetcore_benches::{
    Attach, BULK_BYTES, BarePty, LINE_BYTES, TestServer, criterion, measure, runtime, text_file,
};
use futures::StreamExt;
use serde_json::json;

/// A terminal turns every newline into two characters.
const TERMINAL_BYTES: u64 = (BULK_BYTES + BULK_BYTES / LINE_BYTES) as u64;

async fn through(machine: &Machine, file: &str, overflow: Overflow) {
    let spec = CommandSpec::argv(["cat", file]).with_pty(PtySize::default()).with_replay(1 << 20, overflow);
    let command = machine.spawn(spec).await.expect("it starts");
    let mut events = command.stream(Offset(0));
    let mut bytes = 0;
    while let Some(event) = events.next().await {
        if let CommandEvent::Output(chunk) = event.expect("a whole stream") {
            bytes += chunk.data.len() as u64;
        }
    }
    assert_eq!(bytes, TERMINAL_BYTES, "every byte");
}

async fn attached(server: &TestServer, file: &str) {
    let mut http = server.connect().await;
    let command = json!({"target": "local", "argv": ["cat", file], "pty": {"cols": 80, "rows": 24}});
    let id = http.start(&command).await;
    let path = format!("/api/v1/commands/{id}/attach?from=0");
    let bytes = Attach::open(server.addr, &server.token, &path).await.drain().await;
    assert_eq!(bytes, TERMINAL_BYTES, "every byte");
}

fn main() {
    let runtime = runtime();
    let server = Arc::new(TestServer::start(&runtime));
    let file: Arc<str> = text_file(server.dir.path(), BULK_BYTES).to_str().expect("a plain path").into();
    let mut c = criterion();
    let mut group = c.benchmark_group("pty");
    group.sample_size(10).sampling_mode(SamplingMode::Flat).throughput(Throughput::Bytes(BULK_BYTES as u64));

    let path = Arc::clone(&file);
    measure(&mut group, &runtime, "floor", move || {
        let path = Arc::clone(&path);
        async move { assert_eq!(BarePty::spawn("cat", &[&path]).drain().await, TERMINAL_BYTES) }
    });
    let (path, machine) = (Arc::clone(&file), Fleet::local().machine("local").expect("this host"));
    measure(&mut group, &runtime, "fleetcore", move || {
        let (path, machine) = (Arc::clone(&path), machine.clone());
        async move { through(&machine, &path, Overflow::Block).await }
    });
    measure(&mut group, &runtime, "fleetcore-ws", move || {
        let (path, server) = (Arc::clone(&file), Arc::clone(&server));
        async move { attached(&server, &path).await }
    });
    group.finish();
    c.final_summary();
}
