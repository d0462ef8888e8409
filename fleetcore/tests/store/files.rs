//! The data directory: who may open it, and what is said when it cannot be used.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use fleetcore::{
    AgentId, AgentRegistration, AgentRegistry, Channel, CommandFilter, CommandId, CommandRecord, CommandSpec,
    CommandState, CommandStore, ErrorKind, StateChange, Target,
    store::sqlite::{SqliteConfig, SqliteStore},
};
use fleetcore_testkit::suite::store::{chunk, output, record};
use libtest_mimic::Trial;

use crate::{block_on, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("files::everything_is_there_after_a_restart", everything_is_there_after_a_restart),
        trial("files::only_the_owner_can_look", only_the_owner_can_look),
        trial("files::one_process_at_a_time", one_process_at_a_time),
        trial("files::a_newer_format_is_left_alone", a_newer_format_is_left_alone),
        trial("files::format_1_0_is_taken_further", format_1_0_is_taken_further),
        trial("files::a_foreign_database_is_left_alone", a_foreign_database_is_left_alone),
        trial("files::damage_is_named", damage_is_named),
        trial("files::output_without_a_record_is_removed", output_without_a_record_is_removed),
        trial("files::limits_must_leave_room", limits_must_leave_room),
        trial("files::a_watcher_ends_with_its_store", a_watcher_ends_with_its_store),
        trial("files::ten_thousand_records", ten_thousand_records),
    ]
}

fn open(dir: &Path) -> SqliteStore {
    SqliteStore::open(SqliteConfig::new(dir)).unwrap()
}

fn refused(dir: &Path) -> fleetcore::Error {
    SqliteStore::open(SqliteConfig::new(dir)).unwrap_err()
}

/// Paths below a directory with their contents.
fn contents(dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(contents(&path));
        } else {
            all.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    all
}

fn everything_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let agent = || AgentRegistration::new(AgentId::new("a").unwrap(), "1");
    let r = record(&["true"]);
    block_on(async {
        let store = open(dir.path());
        let lease = store.register(agent(), Duration::from_secs(9)).await.unwrap();
        store.deregister(&lease).await.unwrap();
        store.insert(r.clone()).await.unwrap();
        store.append_output(r.id, &chunk(0, Channel::Pty, "kept")).await.unwrap();
    });
    block_on(async {
        let store = open(dir.path());
        assert_eq!(CommandStore::get(&store, r.id).await.unwrap(), r);
        store.append_output(r.id, &chunk(4, Channel::Pty, "+more")).await.unwrap();
        let kept = output(&store, r.id, 2).await;
        assert_eq!(kept.iter().map(|c| &c.data[..]).collect::<Vec<_>>(), [&b"pt"[..], b"+more"]);
        let lease = store.register(agent(), Duration::from_secs(9)).await.unwrap();
        assert_eq!(lease.epoch, 2, "epochs outlive agent and server");
        assert_eq!(store.mark_lost("restart").await.unwrap(), [r.id]);
    });
}

fn only_the_owner_can_look() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("deep/data");
    let store = open(&dir);
    let r = record(&["true"]);
    block_on(async {
        store.insert(r.clone()).await.unwrap();
        store.append_output(r.id, &chunk(0, Channel::Stdout, "secret")).await.unwrap();
    });
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(dir.join("output")).unwrap().permissions().mode() & 0o777, 0o700);
    let files = contents(&dir);
    assert!(files.iter().any(|(p, _)| p.extension().is_some_and(|e| e == "seg")));
    for (path, _) in files {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", path.display());
    }
}

fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    let err = refused(dir.path());
    assert_eq!(err.kind(), ErrorKind::Busy);
    assert_eq!(err.context_value("pid"), Some(std::process::id().to_string().as_str()));
    assert!(err.message().contains(&std::process::id().to_string()), "{err}");
    drop(first);
    drop(open(dir.path()));
}

fn a_newer_format_is_left_alone() {
    for (major, minor, refusal) in [(1, 4, true), (2, 0, true), (1, 3, false)] {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()));
        let file = dir.path().join("fleetcore.db");
        let conn = rusqlite::Connection::open(&file).unwrap();
        conn.execute("UPDATE fleetcore_format SET major = ?1, minor = ?2", [major, minor]).unwrap();
        drop(conn);
        let before = fs::read(&file).unwrap();
        match SqliteStore::open(SqliteConfig::new(dir.path())) {
            Ok(_) => assert!(!refusal, "{major}.{minor}"),
            Err(e) => {
                assert!(refusal, "{e}");
                assert_eq!(e.kind(), ErrorKind::InvalidState);
                assert!(
                    e.message().contains(&format!("{major}.{minor}")) && e.message().contains("1.3"),
                    "{e}"
                );
                assert!(e.context_value("path").is_some());
                assert!(fs::read(&file).unwrap() == before, "the file was changed");
            }
        }
    }
}

fn format_1_0_is_taken_further() {
    let dir = tempfile::tempdir().unwrap();
    let conn = rusqlite::Connection::open(dir.path().join("fleetcore.db")).unwrap();
    conn.execute_batch(include_str!("../../src/store/sqlite/migrations/0001_init.sql")).unwrap();
    conn.execute_batch(
        "CREATE TABLE fleetcore_format (
            one INTEGER PRIMARY KEY CHECK (one = 1), major INTEGER NOT NULL, minor INTEGER NOT NULL) STRICT;
         INSERT INTO fleetcore_format VALUES (1, 1, 0);",
    )
    .unwrap();
    // As a build for 1.0 wrote it: without a digest.
    let record =
        CommandRecord::new(CommandId::generate(), Target::local(), &CommandSpec::argv(["true"]), None);
    let body = serde_json::to_string(&record).unwrap();
    assert!(!body.contains("\"request\""), "{body}");
    conn.execute(
        "INSERT INTO commands (id, target, state, created_ns, revision, display, body)
         VALUES (?1, 'local', 'queued', 0, 1, 'true', ?2)",
        rusqlite::params![record.id.as_uuid().into_bytes(), body],
    )
    .unwrap();
    drop(conn);

    let digest = |store: &SqliteStore| {
        store.request_key().unwrap().digest(&Target::local(), &CommandSpec::argv(["true"]))
    };
    let store = open(dir.path());
    let first = digest(&store);
    assert_eq!(block_on(CommandStore::get(&store, record.id)).unwrap(), record);
    drop(store);
    assert_eq!(digest(&open(dir.path())), first, "the key stays");
}

fn a_foreign_database_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("fleetcore.db");
    rusqlite::Connection::open(&file).unwrap().execute_batch("CREATE TABLE songs (title TEXT)").unwrap();
    let before = fs::read(&file).unwrap();
    assert_eq!(refused(dir.path()).kind(), ErrorKind::InvalidState);
    assert!(fs::read(&file).unwrap() == before, "the file was changed");
}

fn damage_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("fleetcore.db");
    for garbage in [b"hello".to_vec(), vec![0x5a; 100_000]] {
        fs::write(&file, &garbage).unwrap();
        let err = refused(dir.path());
        assert_eq!(err.kind(), ErrorKind::DataLoss, "{err}");
        assert_eq!(err.context_value("path"), file.to_str());
        assert!(err.context_value("advice").is_some());
        assert!(fs::read(&file).unwrap() == garbage, "the file was changed");
    }
    // Damage behind a good first page shows when it is read; it is an error, not a crash.
    fs::remove_file(&file).unwrap();
    let store = open(dir.path());
    block_on(async {
        for _ in 0..50 {
            store.insert(record(&["true"])).await.unwrap();
        }
    });
    drop(store);
    let mut data = fs::read(&file).unwrap();
    data[4096..].fill(0x5a);
    fs::write(&file, data).unwrap();
    let err = match SqliteStore::open(SqliteConfig::new(dir.path())) {
        Ok(store) => block_on(CommandStore::list(&store, CommandFilter::default())).unwrap_err(),
        Err(e) => e,
    };
    assert_eq!(err.kind(), ErrorKind::DataLoss, "{err}");
}

fn output_without_a_record_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (known, orphan) = (record(&["true"]), record(&["true"]));
    let store = open(dir.path());
    block_on(async {
        store.insert(known.clone()).await.unwrap();
        for r in [&known, &orphan] {
            store.append_output(r.id, &chunk(0, Channel::Stdout, "x")).await.unwrap();
        }
    });
    drop(store);
    let store = open(dir.path());
    block_on(async {
        // The sweep runs beside; a running command shows it is not what holds this up.
        let limit = tokio::time::Instant::now() + Duration::from_secs(20);
        while !output(&store, orphan.id, 0).await.is_empty() {
            assert!(tokio::time::Instant::now() < limit, "the orphan is still there");
            tokio::task::yield_now().await;
        }
        assert_eq!(output(&store, known.id, 0).await.len(), 1);
    });
}

fn limits_must_leave_room() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    for (config, field) in [
        (SqliteConfig::new(&data).with_max_log_bytes(0), "max_log_bytes"),
        (SqliteConfig::new(&data).with_max_total_log_bytes(0), "max_total_log_bytes"),
    ] {
        let err = SqliteStore::open(config).unwrap_err();
        assert_eq!((err.kind(), err.context_value("field")), (ErrorKind::InvalidInput, Some(field)));
    }
    assert!(!data.exists(), "nothing half-done is left behind");
}

fn a_watcher_ends_with_its_store() {
    use futures::StreamExt;
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let store = open(dir.path());
        let events = store.watch().await.unwrap();
        drop(store);
        assert_eq!(events.count().await, 2, "an empty snapshot, then the end");
        drop(open(dir.path()));
    });
}

/// The size the lists are made for; also runs the queries over every index.
fn ten_thousand_records() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    block_on(async {
        let mut records = Vec::new();
        for i in 0..10_000 {
            let mut r = record(&["job", &i.to_string()]);
            r.labels.insert("tenth".to_owned(), (i % 10).to_string());
            records.push(r);
        }
        for group in records.chunks(500) {
            let inserted = futures::future::join_all(group.iter().map(|r| store.insert(r.clone()))).await;
            assert!(inserted.iter().all(Result::is_ok));
        }
        for r in records.iter().step_by(3) {
            store.transition(r.id, 1, StateChange::to(CommandState::Cancelled)).await.unwrap();
        }
        let mut filter = CommandFilter::default();
        filter.target = Some(records[0].target.clone());
        filter.states = vec![CommandState::Cancelled];
        filter.labels.insert("tenth".to_owned(), "3".to_owned());
        filter.search = Some("job".to_owned());
        let want: Vec<_> = records.iter().enumerate().filter(|(i, _)| i % 3 == 0 && i % 10 == 3).collect();
        let got = CommandStore::list(&store, filter).await.unwrap();
        assert_eq!(got.len(), 100);
        // Which of those inserted at once comes first is open; the groups followed one another.
        let number = |r: &CommandRecord| want.iter().find(|(_, w)| w.id == r.id).map(|(i, _)| *i).unwrap();
        let numbers: Vec<usize> = got.iter().map(number).collect();
        assert!(numbers.is_sorted_by_key(|n| std::cmp::Reverse(n / 500)), "{numbers:?}");
        let unique: std::collections::BTreeSet<_> = numbers.iter().collect();
        assert!(unique.len() == 100 && numbers.iter().all(|n| *n >= 6500), "{numbers:?}");
        let cancelled = store.prune(jiff::Timestamp::now() + Duration::from_secs(1)).await.unwrap();
        assert_eq!(cancelled, 3334);
    });
}
