//! A command's record from queued to succeeded beside the same three statements in bare rusqlite, and a page of a
//! hundred out of ten thousand.
#![expect(clippy::expect_used, reason = "a benchmark that cannot run must stop")]

use std::sync::Arc;

use criterion::Criterion;
use fleetcore::{
    CommandFilter, CommandId, CommandRecord, CommandSpec, CommandState, CommandStore, ExitKind, ExitStatus,
    Offset, StateChange, Target,
    store::sqlite::{SqliteConfig, SqliteStore},
};
use fleetcore_benches::{TestServer, criterion, measure, runtime};
use futures::future::join_all;
use hyper::Method;
use rusqlite::{Connection, params};
use serde_json::Value;
use tokio::{runtime::Runtime, sync::Mutex};

const RECORDS: usize = 10_000;
const PAGE: usize = 100;
/// Every tenth record failed: a page of them reaches over a thousand records.
const FAILED_EVERY: usize = 10;

/// The columns and indexes of the product's table, in the same journal mode.
fn bare_connection(dir: &std::path::Path) -> Connection {
    let conn = Connection::open(dir.join("bare.db")).expect("a database");
    conn.pragma_update(None, "journal_mode", "WAL").expect("WAL");
    conn.pragma_update(None, "synchronous", "NORMAL").expect("a setting");
    conn.execute_batch(
        "CREATE TABLE commands (id BLOB PRIMARY KEY NOT NULL, target TEXT NOT NULL, state TEXT NOT NULL,
            created_ns INTEGER NOT NULL, ended_ns INTEGER, revision INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
         CREATE INDEX by_target ON commands (target, state, id);
         CREATE INDEX by_state ON commands (state, id);",
    )
    .expect("a table");
    conn
}

/// About the size of a record.
fn body() -> String {
    "x".repeat(600)
}

fn bare_insert(conn: &Connection, id: CommandId, state: &str) {
    conn.prepare_cached(
        "INSERT INTO commands (id, target, state, created_ns, revision, body) VALUES (?1, 'local', ?2, 1, 1, ?3)",
    )
    .and_then(|mut s| s.execute(params![id.as_uuid().as_bytes(), state, body()]))
    .expect("a new id");
}

fn bare_cycle(conn: &Connection) {
    let id = CommandId::generate();
    bare_insert(conn, id, "queued");
    for (state, revision) in [("running", 2), ("succeeded", 3)] {
        conn.prepare_cached("UPDATE commands SET state = ?2, revision = ?3, body = ?4 WHERE id = ?1")
            .and_then(|mut s| s.execute(params![id.as_uuid().as_bytes(), state, revision, body()]))
            .expect("a known id");
    }
}

fn bare_page(conn: &Connection) {
    let mut query = conn
        .prepare_cached("SELECT body FROM commands WHERE state = 'failed' ORDER BY id DESC LIMIT 100")
        .expect("a query");
    let rows = query.query_map([], |row| row.get::<_, String>(0)).expect("rows");
    assert_eq!(rows.filter(Result::is_ok).count(), PAGE);
}

async fn cycle(store: &dyn CommandStore, code: i32) {
    let spec = CommandSpec::argv(["make", "-C", "/srv/project", "test"]).with_label("project", "bench");
    let record = CommandRecord::new(CommandId::generate(), Target::local(), &spec, Some("admin".to_owned()));
    let id = record.id;
    store.insert(record).await.expect("a new id");
    store.transition(id, 1, StateChange::to(CommandState::Running)).await.expect("it starts");
    let ended = StateChange::ended(ExitStatus::new(ExitKind::Code(code)), Offset(0));
    store.transition(id, 2, ended).await.expect("it ends");
}

async fn fill(store: &dyn CommandStore) {
    let numbers: Vec<usize> = (0..RECORDS).collect();
    for part in numbers.chunks(500) {
        join_all(part.iter().map(|n| cycle(store, i32::from(n % FAILED_EVERY == 0)))).await;
    }
}

fn failed() -> CommandFilter {
    let mut filter = CommandFilter::default();
    filter.states = vec![CommandState::Failed];
    filter.limit = Some(PAGE);
    filter
}

fn record(c: &mut Criterion, runtime: &Runtime) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut group = c.benchmark_group("store-cycle");
    let conn = Arc::new(Mutex::new(bare_connection(dir.path())));
    measure(&mut group, runtime, "floor-rusqlite", move || {
        let conn = Arc::clone(&conn);
        async move { bare_cycle(&*conn.lock().await) }
    });
    let config = SqliteConfig::new(dir.path().join("store"));
    let store = Arc::new(SqliteStore::open(config).expect("a fresh store"));
    measure(&mut group, runtime, "fleetcore", move || {
        let store = Arc::clone(&store);
        async move { cycle(&*store, 0).await }
    });
    group.finish();
}

fn list(c: &mut Criterion, runtime: &Runtime, server: &TestServer) {
    let mut group = c.benchmark_group("store-list");
    let conn = bare_connection(server.dir.path());
    conn.execute_batch("BEGIN").expect("a transaction");
    for n in 0..RECORDS {
        bare_insert(&conn, CommandId::generate(), if n % FAILED_EVERY == 0 { "failed" } else { "succeeded" });
    }
    conn.execute_batch("COMMIT").expect("a transaction");
    let conn = Arc::new(Mutex::new(conn));
    measure(&mut group, runtime, "floor-rusqlite", move || {
        let conn = Arc::clone(&conn);
        async move { bare_page(&*conn.lock().await) }
    });
    let store = Arc::clone(server.fleet.commands().store().expect("a store"));
    runtime.block_on(fill(&*store));
    for (name, filter) in [
        ("fleetcore-state", failed()),
        ("fleetcore-label", {
            let mut filter = failed();
            filter.labels.insert("project".to_owned(), "bench".to_owned());
            filter
        }),
        ("fleetcore-search", {
            let mut filter = failed();
            filter.search = Some("project test".to_owned());
            filter
        }),
    ] {
        let store = Arc::clone(&store);
        measure(&mut group, runtime, name, move || {
            let (store, filter) = (Arc::clone(&store), filter.clone());
            async move { assert_eq!(store.list(filter).await.expect("a page").len(), PAGE) }
        });
    }
    let http = Arc::new(Mutex::new(runtime.block_on(server.connect())));
    measure(&mut group, runtime, "fleetcore-http", move || {
        let http = Arc::clone(&http);
        async move {
            let path = "/api/v1/commands?state=failed&limit=100";
            let page = http.lock().await.bytes(Method::GET, path, bytes::Bytes::new()).await;
            let page: Value = serde_json::from_slice(&page).expect("JSON");
            assert_eq!(page.get("items").and_then(Value::as_array).map(Vec::len), Some(PAGE));
        }
    });
    group.finish();
}

fn main() {
    let runtime = runtime();
    let server = TestServer::start(&runtime);
    let mut c = criterion();
    record(&mut c, &runtime);
    list(&mut c, &runtime, &server);
    c.final_summary();
}
