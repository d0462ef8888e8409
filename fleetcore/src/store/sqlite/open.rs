//! Opening the data directory: lock, version, migrations.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::error::db;
use crate::{Error, ErrorKind, RequestKey, Result};

const OPEN: &str = "store.open";
const DATABASE: &str = "fleetcore.db";

/// Each takes the format one version further. The last one is what this build reads and writes. A new minor version
/// only adds what an older build could ignore; it is refused there all the same, because an older build would write
/// rows without it.
const MIGRATIONS: [(Version, &str); 4] = [
    (Version { major: 1, minor: 0 }, include_str!("migrations/0001_init.sql")),
    (Version { major: 1, minor: 1 }, include_str!("migrations/0002_request_key.sql")),
    (Version { major: 1, minor: 2 }, include_str!("migrations/0003_agents.sql")),
    (Version { major: 1, minor: 3 }, include_str!("migrations/0004_banned_tokens.sql")),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    major: u32,
    minor: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Makes the directory and takes its lock, which holds until the file is dropped or the process ends.
pub(super) fn lock(dir: &Path) -> Result<File> {
    let at = |e: std::io::Error| Error::io(OPEN, e).with_context("path", dir.display());
    // An existing directory keeps its mode: it may be the operator's choice.
    if !dir.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at)?;
    }
    let path = dir.join("lock");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(&path).map_err(at)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // Only to tell people; the lock itself is what counts.
            let _ = file.read_to_string(&mut pid);
            let pid = if pid.trim().is_empty() { "unknown" } else { pid.trim() };
            return Err(Error::new(
                ErrorKind::Busy,
                format!("the data directory is in use by process {pid}"),
            )
            .with_operation(OPEN)
            .with_context("path", dir.display())
            .with_context("pid", pid));
        }
        Err(TryLockError::Error(e)) => return Err(at(e)),
    }
    let note = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        write!(file, "{}", std::process::id())
    };
    note(&mut file).map_err(at)?;
    Ok(file)
}

/// The one connection that writes, migrated.
pub(super) fn writer(dir: &Path) -> Result<Connection> {
    let path = dir.join(DATABASE);
    let named = |e: Error| e.with_context("path", path.display());
    let found =
        if path.metadata().is_ok_and(|m| m.len() > 0) { inspect(&path).map_err(named)? } else { None };
    // SQLite gives its other files the mode of this one.
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    options.open(&path).map_err(|e| named(Error::io(OPEN, e)))?;
    let connect = || -> Result<Connection> {
        let mut conn = Connection::open_with_flags(
            &path,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )
        .map_err(db(OPEN))?;
        settle(&conn)?;
        conn.pragma_update(None, "journal_mode", "WAL").map_err(db(OPEN))?;
        conn.pragma_update(None, "synchronous", "NORMAL").map_err(db(OPEN))?;
        conn.pragma_update(None, "foreign_keys", true).map_err(db(OPEN))?;
        // Another thread moves the log into the database well before; this is for when it cannot keep up.
        conn.pragma_update(None, "wal_autocheckpoint", 16_384).map_err(db(OPEN))?;
        conn.pragma_update(None, "journal_size_limit", 64 << 20).map_err(db(OPEN))?;
        migrate(&mut conn, found)?;
        Ok(conn)
    };
    connect().map_err(named)
}

/// A connection that only reads.
pub(super) fn reader(dir: &Path) -> Result<Connection> {
    let path = dir.join(DATABASE);
    let connect = || -> Result<Connection> {
        let conn = Connection::open_with_flags(
            &path,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )
        .map_err(db(OPEN))?;
        settle(&conn)?;
        conn.pragma_update(None, "query_only", true).map_err(db(OPEN))?;
        conn.pragma_update(None, "wal_autocheckpoint", 0).map_err(db(OPEN))?;
        Ok(conn)
    };
    connect().map_err(|e| e.with_context("path", path.display()))
}

/// The key that the digests of requests are made with.
pub(super) fn request_key(conn: &Connection) -> Result<RequestKey> {
    let sql = "SELECT key FROM store_keys WHERE name = 'request'";
    let key = conn.query_row(sql, [], |row| row.get::<_, [u8; 32]>(0)).map_err(db(OPEN))?;
    Ok(RequestKey::from_bytes(key))
}

fn settle(conn: &Connection) -> Result<()> {
    conn.busy_timeout(Duration::from_secs(5)).map_err(db(OPEN))?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// The version of an existing file, read without the power to change it.
fn inspect(path: &Path) -> Result<Option<Version>> {
    let conn =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
            .map_err(db(OPEN))?;
    settle(&conn)?;
    let tables: i64 = conn
        .query_row("SELECT count(*) FROM sqlite_schema WHERE type = 'table'", [], |r| r.get(0))
        .map_err(db(OPEN))?;
    if tables == 0 {
        return Ok(None);
    }
    let ours: bool = conn
        .query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'fleetcore_format'", [], |r| r.get(0))
        .map_err(db(OPEN))?;
    let found = if ours {
        let row = |r: &rusqlite::Row<'_>| Ok(Version { major: r.get(0)?, minor: r.get(1)? });
        conn.query_row("SELECT major, minor FROM fleetcore_format", [], row).optional().map_err(db(OPEN))?
    } else {
        None
    };
    let Some(found) = found else {
        return Err(Error::new(ErrorKind::InvalidState, "the file is a database of another program")
            .with_operation(OPEN));
    };
    let [.., (known, _)] = MIGRATIONS;
    if found > known {
        let text = format!(
            "the data directory has format {found}, this build writes format {known}: use a newer build, nothing was changed"
        );
        return Err(Error::new(ErrorKind::InvalidState, text)
            .with_operation(OPEN)
            .with_context("found", found)
            .with_context("supported", known));
    }
    Ok(Some(found))
}

fn migrate(conn: &mut Connection, found: Option<Version>) -> Result<()> {
    for (version, sql) in MIGRATIONS {
        if found.is_some_and(|found| found >= version) {
            continue;
        }
        // A kill in the middle leaves the step undone as a whole.
        let tx = conn.transaction().map_err(db(OPEN))?;
        tx.execute_batch(
            "CREATE TABLE IF NOT EXISTS fleetcore_format (
                one INTEGER PRIMARY KEY CHECK (one = 1), major INTEGER NOT NULL, minor INTEGER NOT NULL) STRICT;",
        )
        .and_then(|()| tx.execute_batch(sql))
        .and_then(|()| {
            tx.execute(
                "INSERT OR REPLACE INTO fleetcore_format VALUES (1, ?1, ?2)",
                params![version.major, version.minor],
            )
        })
        .map_err(db(OPEN))?;
        tx.commit().map_err(db(OPEN))?;
        tracing::info!(%version, "data directory has a new format");
    }
    Ok(())
}
