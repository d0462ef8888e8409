//! What lies between a process and its reader, with a process that is only pretended: the ring beside a bare channel,
//! the durable log beside a bare file.
#![expect(clippy::expect_used, reason = "a benchmark that cannot run must stop")]

use std::{
    io::{Read, Write},
    sync::Arc,
};

use bytes::Bytes;
use criterion::{Criterion, SamplingMode, Throughput};
use fleetcore::{
    Channel, CommandEvent, CommandId, CommandRecord, CommandSpec, CommandStore, Fleet, Offset, OutputChunk,
    Overflow, Target,
    store::sqlite::{SqliteConfig, SqliteStore},
};
use fleetcore_benches::{FakeHost, criterion, measure, runtime};
use futures::StreamExt;
use jiff::Timestamp;
use tokio::{runtime::Runtime, sync::mpsc};

const CHUNKS: usize = 4096;
const CHUNK_BYTES: usize = 4096;
const TOTAL: usize = CHUNKS * CHUNK_BYTES;

/// A channel between two tasks, as deep as the journal's window of 1 MiB.
async fn bare_channel() {
    let (tx, mut rx) = mpsc::channel::<Bytes>((1 << 20) / CHUNK_BYTES);
    let chunk = Bytes::from(vec![b'x'; CHUNK_BYTES]);
    tokio::spawn(async move {
        for _ in 0..CHUNKS {
            if tx.send(chunk.clone()).await.is_err() {
                return;
            }
        }
    });
    let mut bytes = 0;
    while let Some(chunk) = rx.recv().await {
        bytes += chunk.len();
    }
    assert_eq!(bytes, TOTAL);
}

async fn read(stream: &mut (impl futures::Stream<Item = fleetcore::Result<CommandEvent>> + Unpin)) {
    let mut bytes = 0;
    while let Some(event) = stream.next().await {
        if let CommandEvent::Output(chunk) = event.expect("a whole stream") {
            bytes += chunk.data.len();
        }
    }
    assert_eq!(bytes, TOTAL, "every byte");
}

/// Written and read at the same time, the writer held back by the reader.
async fn live(fleet: &Fleet) {
    let machine = fleet.machine("local").expect("the fake host");
    let spec = CommandSpec::argv(["fake"]).with_replay(1 << 20, Overflow::Block);
    let command = machine.spawn(spec).await.expect("it starts");
    read(&mut command.stream(Offset(0))).await;
}

fn ring(c: &mut Criterion, runtime: &Runtime) {
    let mut group = c.benchmark_group("journal-ring");
    group.throughput(Throughput::Bytes(TOTAL as u64));
    measure(&mut group, runtime, "floor-channel", bare_channel);
    let fleet = Fleet::builder().with_host(Arc::new(FakeHost::new(CHUNKS, CHUNK_BYTES))).build();
    measure(&mut group, runtime, "fleetcore-append-and-read", move || {
        let fleet = fleet.clone();
        async move { live(&fleet).await }
    });
    // Replay alone: everything is in the ring and the command has ended.
    let fleet = Fleet::builder().with_host(Arc::new(FakeHost::new(CHUNKS, CHUNK_BYTES))).build();
    let ended = runtime.block_on(async {
        let spec = CommandSpec::argv(["fake"]).with_replay(2 * TOTAL, Overflow::DropOldest);
        let command = fleet.machine("local").expect("the fake host").spawn(spec).await.expect("it starts");
        command.wait().await.expect("it ends");
        command.detach()
    });
    measure(&mut group, runtime, "fleetcore-replay", move || {
        let mut stream = ended.stream(Offset(0));
        async move { read(&mut stream).await }
    });
    group.finish();
}

fn bare_append(path: &std::path::Path, chunk: &[u8]) {
    let mut file = std::fs::File::create(path).expect("a file");
    for _ in 0..CHUNKS {
        file.write_all(chunk).expect("room on the disk");
    }
}

fn bare_read(path: &std::path::Path) {
    let mut file = std::fs::File::open(path).expect("the file");
    let mut buffer = vec![0; 64 << 10];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer).expect("a file that can be read") {
            0 => break,
            n => bytes += n,
        }
    }
    assert_eq!(bytes, TOTAL);
}

async fn append(store: &SqliteStore, data: &Bytes) -> CommandId {
    let id = CommandId::generate();
    let spec = CommandSpec::argv(["fake"]);
    store.insert(CommandRecord::new(id, Target::local(), &spec, None)).await.expect("a new id");
    for n in 0..CHUNKS {
        let offset = Offset((n * CHUNK_BYTES) as u64);
        let chunk =
            OutputChunk { offset, channel: Channel::Stdout, at: Timestamp::now(), data: data.clone() };
        store.append_output(id, &chunk).await.expect("room on the disk");
    }
    id
}

async fn read_back(store: &SqliteStore, id: CommandId) {
    let mut stream = store.read_output(id, Offset(0)).await.expect("a log");
    let mut bytes = 0;
    while let Some(chunk) = stream.next().await {
        bytes += chunk.expect("a whole log").data.len();
    }
    assert_eq!(bytes, TOTAL, "every byte");
}

fn durable(c: &mut Criterion, runtime: &Runtime) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = Bytes::from(vec![b'x'; CHUNK_BYTES]);
    let config = SqliteConfig::new(dir.path().join("store")).with_max_total_log_bytes(1 << 30);
    let store = Arc::new(SqliteStore::open(config).expect("a fresh store"));
    let path: Arc<std::path::Path> = dir.path().join("bare").into();

    let mut group = c.benchmark_group("journal-append");
    group.sample_size(10).sampling_mode(SamplingMode::Flat).throughput(Throughput::Bytes(TOTAL as u64));
    let (chunk, file) = (data.clone(), Arc::clone(&path));
    measure(&mut group, runtime, "floor-file", move || {
        let (chunk, file) = (chunk.clone(), Arc::clone(&file));
        async move { bare_append(&file, &chunk) }
    });
    let (chunk, kept) = (data.clone(), Arc::clone(&store));
    measure(&mut group, runtime, "fleetcore", move || {
        let (chunk, store) = (chunk.clone(), Arc::clone(&kept));
        async move {
            append(&store, &chunk).await;
        }
    });
    group.finish();

    let mut group = c.benchmark_group("journal-read");
    group.throughput(Throughput::Bytes(TOTAL as u64));
    bare_append(&path, &data);
    measure(&mut group, runtime, "floor-file", move || {
        let path = Arc::clone(&path);
        async move { bare_read(&path) }
    });
    let id = runtime.block_on(append(&store, &data));
    measure(&mut group, runtime, "fleetcore", move || {
        let store = Arc::clone(&store);
        async move { read_back(&store, id).await }
    });
    group.finish();
}

fn main() {
    let runtime = runtime();
    let mut c = criterion();
    ring(&mut c, &runtime);
    durable(&mut c, &runtime);
    c.final_summary();
}
