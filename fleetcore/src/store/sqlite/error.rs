//! SQLite's errors in the words of the library.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::ErrorCode;
use serde::{Serialize, de::DeserializeOwned};

use crate::{Error, ErrorKind, Result, Retry};

/// What a damaged file calls for.
const ADVICE: &str = "stop the server, keep a copy of the data directory, then restore a backup or save what can be \
                      read with `sqlite3 fleetcore.db .recover`";

/// Maps an error of SQLite.
pub(super) fn db(operation: &'static str) -> impl Fn(rusqlite::Error) -> Error {
    move |e| {
        let (kind, text) = match e.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => (ErrorKind::Unavailable, "the disk is full"),
            Some(ErrorCode::SystemIoFailure) => (ErrorKind::Unavailable, "the disk failed"),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                (ErrorKind::Unavailable, "the database is locked")
            }
            Some(ErrorCode::CannotOpen) => (ErrorKind::Unavailable, "the database file cannot be opened"),
            Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
                (ErrorKind::PermissionDenied, "the database file cannot be written")
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                (ErrorKind::DataLoss, "the database file is damaged")
            }
            _ => (ErrorKind::Unexpected, "the database refused"),
        };
        let mut err =
            Error::new(kind, text).with_operation(operation).with_context("sqlite", &e).with_source(e);
        if kind == ErrorKind::DataLoss {
            err = err.with_context("advice", ADVICE);
        }
        if kind == ErrorKind::Unavailable {
            err = err.with_retry(Retry::Temporary { after: Some(Duration::from_secs(1)) });
        }
        err
    }
}

/// Whether a statement failed because a row with this key exists.
pub(super) fn is_duplicate(e: &rusqlite::Error) -> bool {
    use rusqlite::ffi::{SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_UNIQUE};
    e.sqlite_error()
        .is_some_and(|e| matches!(e.extended_code, SQLITE_CONSTRAINT_PRIMARYKEY | SQLITE_CONSTRAINT_UNIQUE))
}

/// Whether a statement failed because the row it refers to does not exist.
pub(super) fn is_dangling(e: &rusqlite::Error) -> bool {
    e.sqlite_error().is_some_and(|e| e.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_FOREIGNKEY)
}

pub(super) fn encode<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| {
        Error::new(ErrorKind::Unexpected, "a record cannot be written as JSON")
            .with_operation("store")
            .with_source(e)
    })
}

pub(super) fn decode<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| {
        Error::new(ErrorKind::DataLoss, format!("a stored record cannot be read: {e}"))
            .with_operation("store")
            .with_context("advice", ADVICE)
            .with_source(e)
    })
}

/// Nanoseconds since 1970; the edge of the range (1677 to 2262) for anything beyond it.
pub(super) fn nanos(at: Timestamp) -> i64 {
    i64::try_from(at.as_nanosecond()).unwrap_or(if at < Timestamp::UNIX_EPOCH { i64::MIN } else { i64::MAX })
}

/// The reverse; every 64-bit count of nanoseconds is within the calendar.
pub(super) fn timestamp(nanos: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(Timestamp::UNIX_EPOCH)
}
