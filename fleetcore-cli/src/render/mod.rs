//! Results on stdout, in the form the user asked for.

mod json;
mod plain;
mod progress;
mod table;

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

pub(crate) use progress::Progress;

use crate::{
    cli::Output,
    error::{Failure, stdout_failed},
};

/// What a cell means, for colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tone {
    #[default]
    Plain,
    Good,
    Bad,
    Busy,
    Dim,
}

/// One cell of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) text: String,
    pub(crate) tone: Tone,
}

impl Cell {
    pub(crate) fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

/// Something that prints as a row.
pub(crate) trait Row: Serialize {
    /// Heads of the columns.
    const HEAD: &'static [&'static str];
    /// Cells for people: short ids, ages.
    fn cells(&self) -> Vec<Cell>;
    /// Cells for programs: whole ids, timestamps.
    fn fields(&self) -> Vec<String>;
    /// What `--quiet` prints.
    fn key(&self) -> String;
}

/// Prints a list.
///
/// # Errors
/// When stdout is gone.
pub(crate) fn list<R: Row>(rows: &[R], output: Output, quiet: bool) -> Result<(), Failure> {
    let text = match output {
        Output::Json => json::list(rows)?,
        _ if quiet => rows.iter().map(|r| plain::line(&[r.key()])).collect(),
        Output::Plain => rows.iter().map(|r| plain::line(&r.fields())).collect(),
        Output::Table => table::list(rows, color()),
    };
    print(&text)
}

/// Prints one thing: a document, or a row.
///
/// # Errors
/// When stdout is gone.
pub(crate) fn one<R: Row>(row: &R, output: Output, quiet: bool) -> Result<(), Failure> {
    match output {
        Output::Json => print(&json::one(row)?),
        _ => list(std::slice::from_ref(row), output, quiet),
    }
}

/// Writes text to stdout.
///
/// # Errors
/// When stdout is gone.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(stdout_failed)
}

/// Whether stdout is for people who want colour (<https://no-color.org>).
fn color() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|v| v == "dumb");
    io::stdout().is_terminal() && !unwanted && !dumb
}

/// A number of bytes for people.
pub(crate) fn bytes(n: u64) -> String {
    indicatif::BinaryBytes(n).to_string()
}

/// A time for programs, `-` when there is none.
pub(crate) fn time(at: Option<jiff::Timestamp>) -> String {
    at.map_or_else(|| "-".to_owned(), |t| t.to_string())
}

/// How long ago, for people.
pub(crate) fn ago(at: Option<jiff::Timestamp>) -> String {
    match at {
        Some(at) => {
            format!("{} ago", span(jiff::Timestamp::now().duration_since(at).as_secs_f64().max(0.0) * 1e3))
        }
        None => "-".to_owned(),
    }
}

/// A span of milliseconds for people: two units at most.
pub(crate) fn span(ms: f64) -> String {
    let s = ms / 1e3;
    match s {
        s if s < 1.0 => format!("{ms:.0}ms"),
        s if s < 10.0 => format!("{s:.1}s"),
        s if s < 60.0 => format!("{s:.0}s"),
        s if s < 3600.0 => format!("{:.0}m{:02.0}s", (s / 60.0).floor(), (s % 60.0).floor()),
        s if s < 86_400.0 => format!("{:.0}h{:02.0}m", (s / 3600.0).floor(), (s % 3600.0 / 60.0).floor()),
        s => format!("{:.0}d{:02.0}h", (s / 86_400.0).floor(), (s % 86_400.0 / 3600.0).floor()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        let cases =
            [(3.2, "3ms"), (1500.0, "1.5s"), (59_000.0, "59s"), (61_000.0, "1m01s"), (7_260_000.0, "2h01m")];
        for (ms, want) in cases {
            assert_eq!(span(ms), want);
        }
        assert_eq!(span(90_000_000.0), "1d01h");
    }
}
