//! One output to a hundred readers: a bare broadcast channel beside one command with a hundred streams.
#![expect(clippy::expect_used, reason = "a benchmark that cannot run must stop")]

use std::sync::Arc;

use bytes::Bytes;
use criterion::{SamplingMode, Throughput};
use fleetcore::{CommandEvent, CommandSpec, Fleet, Offset, Overflow};
use fleetcore_benches::{FakeHost, criterion, measure, runtime};
use futures::{StreamExt, future::join_all};
use tokio::sync::broadcast;

const READERS: usize = 100;
const CHUNKS: usize = 1000;
const CHUNK_BYTES: usize = 4096;
const TOTAL: usize = CHUNKS * CHUNK_BYTES;

/// As deep as all of the output: a reader that lags would miss some.
async fn bare() {
    let (tx, _) = broadcast::channel::<Bytes>(CHUNKS.next_power_of_two());
    let readers: Vec<_> = (0..READERS)
        .map(|_| {
            let mut rx = tx.subscribe();
            tokio::spawn(async move {
                let mut bytes = 0;
                while let Ok(chunk) = rx.recv().await {
                    bytes += chunk.len();
                }
                assert_eq!(bytes, TOTAL);
            })
        })
        .collect();
    let chunk = Bytes::from(vec![b'x'; CHUNK_BYTES]);
    tokio::spawn(async move {
        for _ in 0..CHUNKS {
            let _ = tx.send(chunk.clone());
            // The supervisor gives way to its readers, too.
            tokio::task::consume_budget().await;
        }
    });
    for reader in join_all(readers).await {
        reader.expect("every byte");
    }
}

async fn through(fleet: &Fleet, replay: usize, overflow: Overflow) {
    let machine = fleet.machine("local").expect("the fake host");
    let spec = CommandSpec::argv(["fake"]).with_replay(replay, overflow);
    let command = machine.spawn(spec).await.expect("it starts");
    let readers: Vec<_> = (0..READERS)
        .map(|_| {
            let mut stream = command.stream(Offset(0));
            tokio::spawn(async move {
                let mut bytes = 0;
                while let Some(event) = stream.next().await {
                    if let CommandEvent::Output(chunk) = event.expect("a whole stream") {
                        bytes += chunk.data.len();
                    }
                }
                assert_eq!(bytes, TOTAL, "every byte");
            })
        })
        .collect();
    for reader in join_all(readers).await {
        reader.expect("every byte");
    }
}

fn main() {
    let runtime = runtime();
    let mut c = criterion();
    let mut group = c.benchmark_group("fanout");
    group
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat)
        .throughput(Throughput::Bytes((TOTAL * READERS) as u64));
    measure(&mut group, &runtime, "floor-broadcast", bare);
    let fleet = Fleet::builder().with_host(Arc::new(FakeHost::new(CHUNKS, CHUNK_BYTES))).build();
    let all = fleet.clone();
    measure(&mut group, &runtime, "fleetcore", move || {
        let fleet = all.clone();
        async move { through(&fleet, 2 * TOTAL, Overflow::DropOldest).await }
    });
    // A small window that the slowest reader holds back; those who are in time before the first byte see all.
    measure(&mut group, &runtime, "fleetcore-block", move || {
        let fleet = fleet.clone();
        async move { through(&fleet, TOTAL / 4, Overflow::Block).await }
    });
    group.finish();
    c.final_summary();
}
