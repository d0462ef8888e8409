//! JSON, with the field names of the HTTP API.

use fleetcore::{Error, ErrorKind, Result};
use serde::Serialize;

fn pretty(value: &(impl Serialize + ?Sized)) -> Result<String> {
    let mut text = serde_json::to_string_pretty(value).map_err(|e| {
        Error::new(ErrorKind::Unexpected, "the result cannot be written as JSON").with_source(e)
    })?;
    text.push('\n');
    Ok(text)
}

/// An array.
pub(super) fn list(rows: &[impl Serialize]) -> Result<String> {
    pretty(rows)
}

/// An object.
pub(super) fn one(row: &impl Serialize) -> Result<String> {
    pretty(row)
}
