//! The stores: the behaviour suite over each of them, and what only files on disk can suffer.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod agents;
mod crash;
mod disk;
mod files;

use std::{
    future::Future,
    sync::{Arc, LazyLock},
};

use fleetcore::{
    OutputChunk,
    store::{
        memory::MemoryStore,
        sqlite::{SqliteConfig, SqliteStore},
    },
};
use fleetcore_testkit::suite::{Case, identity, join, metrics, registry, store};
use libtest_mimic::{Arguments, Trial};

fn main() {
    if crash::is_child() {
        return crash::child();
    }
    let mut trials = Vec::new();
    trials.extend(cases("commands", store::all(), |s| s, |s| s));
    trials.extend(cases("agents", registry::all(), |s| s, |s| s));
    trials.extend(cases("identity", identity::all(), |s| s, |s| s));
    trials.extend(cases("audit", identity::audit(), |s| s, |s| s));
    trials.extend(cases("joining", join::all(), |s| s, |s| s));
    trials.extend(cases("metrics", metrics::all(), |s| s, |s| s));
    trials.extend(agents::trials());
    trials.extend(files::trials());
    trials.extend(disk::trials());
    trials.extend(crash::trials());
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// Each case over each store, freshly made.
fn cases<T: ?Sized + Send + Sync + 'static>(
    area: &str,
    cases: Vec<Case<T>>,
    memory: fn(Arc<MemoryStore>) -> Arc<T>,
    sqlite: fn(Arc<SqliteStore>) -> Arc<T>,
) -> Vec<Trial> {
    let mut trials = Vec::new();
    for Case { name, run, .. } in cases {
        trials.push(trial(format!("memory::{area}::{name}"), move || {
            block_on(run(memory(Arc::new(MemoryStore::new()))));
        }));
        trials.push(trial(format!("sqlite::{area}::{name}"), move || {
            let dir = tempfile::tempdir().unwrap();
            let store = SqliteStore::open(SqliteConfig::new(dir.path().join("data"))).unwrap();
            block_on(run(sqlite(Arc::new(store))));
        }));
    }
    trials
}

fn trial(name: impl Into<String>, body: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name, move || {
        body();
        Ok(())
    })
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}

/// What every test writes at a position, so that any range can be checked without keeping it: noise that repeats
/// after a prime number of bytes, so never in step with blocks and frames.
static NOISE: LazyLock<Vec<u8>> =
    LazyLock::new(|| (0..65_521_u64).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect());

/// The noise from `from` on, in slices.
fn noise(from: u64, len: u64) -> impl Iterator<Item = &'static [u8]> {
    let period = NOISE.len() as u64;
    let (mut at, end) = (from, from + len);
    std::iter::from_fn(move || {
        let start = at % period;
        let take = (end - at).min(period - start);
        at += take;
        (take > 0).then(|| &NOISE[start as usize..(start + take) as usize])
    })
}

fn bytes(from: u64, len: u64) -> Vec<u8> {
    noise(from, len).collect::<Vec<_>>().concat()
}

/// Whether a chunk holds what was written at its position.
fn is_right(chunk: &OutputChunk) -> bool {
    let mut rest = &chunk.data[..];
    noise(chunk.offset.0, rest.len() as u64).all(|want| {
        let (head, tail) = rest.split_at(want.len());
        rest = tail;
        head == want
    })
}
