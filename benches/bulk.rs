//! 50 MB on standard output: bare pipe loops, the fleet, HTTP as raw bytes and as server-sent events.
#![expect(clippy::expect_used, reason = "a benchmark that cannot run must stop")]

use std::{os::fd::AsFd, path::Path, process::Stdio, sync::Arc};

use criterion::{SamplingMode, Throughput};
use fleetcore::{CommandEvent, CommandSpec, Fleet, Machine, Offset, Overflow};
use fleetcore_benches::{BULK_BYTES, Http, SseScan, TestServer, criterion, measure, runtime, text_file};
use futures::StreamExt;
use serde_json::json;
use tokio::{io::AsyncReadExt, net::unix::pipe, process::Command, sync::Mutex};

/// The kernel's default limit of a pipe for processes without privileges.
const LARGE_PIPE: usize = 1 << 20;

/// Reads `cat FILE` from a pipe and throws it away.
async fn bare(file: &Path, pipe_bytes: Option<usize>) {
    let (mine, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
    if let Some(bytes) = pipe_bytes {
        rustix::pipe::fcntl_setpipe_size(mine.as_fd(), bytes).expect("an enlarged pipe");
    }
    let mut child = Command::new("cat")
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::from(theirs))
        .spawn()
        .expect("it starts");
    let mut mine = pipe::Receiver::from_owned_fd(mine).expect("a pipe");
    let mut buffer = vec![0; pipe_bytes.unwrap_or(64 << 10)];
    let mut bytes = 0;
    loop {
        match mine.read(&mut buffer).await.expect("a pipe that can be read") {
            0 => break,
            n => bytes += n,
        }
    }
    assert!(child.wait().await.expect("it ends").success());
    assert_eq!(bytes, BULK_BYTES);
}

async fn through(machine: &Machine, file: &str, overflow: Overflow) {
    let spec = CommandSpec::argv(["cat", file]).with_replay(1 << 20, overflow);
    let command = machine.spawn(spec).await.expect("it starts");
    let mut events = command.stream(Offset(0));
    let (mut bytes, mut success) = (0, false);
    while let Some(event) = events.next().await {
        match event.expect("a whole stream") {
            CommandEvent::Output(chunk) => bytes += chunk.data.len(),
            CommandEvent::Exited(status) => success = status.success(),
            _ => {}
        }
    }
    assert!(success);
    assert_eq!(bytes, BULK_BYTES, "every byte");
}

async fn raw(http: &mut Http, file: &str, overflow: &str) {
    let id = http.start(&json!({"target": "local", "argv": ["cat", file], "overflow": overflow})).await;
    let mut bytes = 0;
    http.scan(&format!("/api/v1/commands/{id}/output"), "application/octet-stream", &mut bytes).await;
    assert_eq!(bytes, BULK_BYTES as u64, "every byte");
}

async fn events(http: &mut Http, file: &str) {
    let id = http.start(&json!({"target": "local", "argv": ["cat", file]})).await;
    let mut scan = SseScan::default();
    http.scan(&format!("/api/v1/commands/{id}/output"), "text/event-stream", &mut scan).await;
    assert!(scan.exited && !scan.gap, "{scan:?}");
    assert_eq!(scan.position, BULK_BYTES as u64, "every byte");
}

fn main() {
    let runtime = runtime();
    let server = TestServer::start(&runtime);
    let plain = TestServer::start_without_store(&runtime);
    let file: Arc<str> = text_file(server.dir.path(), BULK_BYTES).to_str().expect("a plain path").into();
    let mut c = criterion();
    let mut group = c.benchmark_group("bulk");
    group.sample_size(10).sampling_mode(SamplingMode::Flat).throughput(Throughput::Bytes(BULK_BYTES as u64));

    for (name, size) in [("floor-pipe", None), ("floor-pipe-1m", Some(LARGE_PIPE))] {
        let file = Arc::clone(&file);
        measure(&mut group, &runtime, name, move || {
            let file = Arc::clone(&file);
            async move { bare(Path::new(&*file), size).await }
        });
    }
    // Without a store the reader must hold the process back, or bytes are forgotten.
    let local = Fleet::local().machine("local").expect("this host");
    let stored = server.fleet.machine("local").expect("this host");
    for (name, machine, overflow) in [
        ("fleetcore", local, Overflow::Block),
        ("fleetcore-sqlite", stored.clone(), Overflow::DropOldest),
        ("fleetcore-sqlite-block", stored, Overflow::Block),
    ] {
        let file = Arc::clone(&file);
        measure(&mut group, &runtime, name, move || {
            let (machine, file) = (machine.clone(), Arc::clone(&file));
            async move { through(&machine, &file, overflow).await }
        });
    }
    for (name, server, overflow) in [
        ("fleetcore-http-raw", &server, "drop_oldest"),
        ("fleetcore-http-raw-block", &server, "block"),
        ("fleetcore-http-raw-nostore", &plain, "block"),
    ] {
        let http = Arc::new(Mutex::new(runtime.block_on(server.connect())));
        let file = Arc::clone(&file);
        measure(&mut group, &runtime, name, move || {
            let (http, file) = (Arc::clone(&http), Arc::clone(&file));
            async move { raw(&mut *http.lock().await, &file, overflow).await }
        });
    }
    let http = Arc::new(Mutex::new(runtime.block_on(server.connect())));
    measure(&mut group, &runtime, "fleetcore-http-sse", move || {
        let (http, file) = (Arc::clone(&http), Arc::clone(&file));
        async move { events(&mut *http.lock().await, &file).await }
    });
    group.finish();
    c.final_summary();
}
