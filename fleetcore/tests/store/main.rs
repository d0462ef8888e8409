//! The stores: the behaviour suite over each of them, and what only files on disk can suffer.

mod crash;
mod disk;
mod files;

use std::{future::Future, sync::Arc};

use fleetcore::store::{
    memory::MemoryStore,
    sqlite::{SqliteConfig, SqliteStore},
};
use fleetcore_testkit::suite::{Case, identity, registry, store};
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
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

/// The byte every test puts at a position, so that any range can be checked without keeping it.
fn byte_at(offset: u64) -> u8 {
    (offset.wrapping_mul(2_654_435_761) >> 13) as u8
}

fn bytes(from: u64, len: u64) -> Vec<u8> {
    (from..from + len).map(byte_at).collect()
}
