//! What goes wrong in a verb, and how it is told.

use std::io::{self, IsTerminal as _, Write as _};

use fleetcore::{Error, ErrorKind};

use crate::{cli::Output, exit};

/// Why a verb ended without success.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An error to tell; exit code by the table.
    Error(Error),
    /// An error of an exec-like verb to tell; exit code 125.
    Exec(Error),
    /// Already told (or nothing to tell): just this exit code.
    Code(u8),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self::Error(e)
    }
}

/// Result of a verb: its exit code.
pub(crate) type Outcome = Result<u8, Failure>;

/// A failed write to our own stdout. A reader that left is normal (`fleetcore ps | head`).
pub(crate) fn stdout_failed(e: io::Error) -> Failure {
    if e.kind() == io::ErrorKind::BrokenPipe {
        return Failure::Code(exit::BROKEN_PIPE);
    }
    Failure::Error(Error::io("write to stdout", e))
}

/// Tells a failure on stderr and gives the exit code.
pub(crate) fn report(failure: &Failure, output: Output) -> u8 {
    let (err, code) = match failure {
        Failure::Code(code) => return *code,
        Failure::Error(e) => (e, exit::of_error(e)),
        Failure::Exec(e) => (e, exit::FLEETCORE_FAILED),
    };
    let text = match output {
        Output::Json => problem(err, code).to_string(),
        _ => line(err),
    };
    // Nobody left to tell when stderr is gone too.
    let _ = writeln!(io::stderr().lock(), "{text}");
    code
}

/// One line for people: what, then where and by which rule.
pub(crate) fn line(err: &Error) -> String {
    let mut text = format!("fleetcore: {}", one_line(err.message()));
    let (mut details, mut hint) = (Vec::new(), None);
    for (key, value) in err.context() {
        match key {
            "hint" => hint = Some(one_line(value)),
            // `field must be rule` is the message already.
            "rule" if err.message().contains(value) => {}
            "called" => {}
            _ => details.push(format!("{key}: {}", one_line(value))),
        }
    }
    if !details.is_empty() {
        text.push_str(&format!(" ({})", details.join(", ")));
    }
    if let Some(hint) = hint.or_else(|| usual_hint(err)) {
        text.push_str(&format!("; {hint}"));
    }
    text
}

/// What helps against errors that a server or the library gives without knowing our commands.
fn usual_hint(err: &Error) -> Option<String> {
    match (err.kind(), err.context_value("scope")) {
        (ErrorKind::Unauthenticated, _) => {
            Some("log in with `fleetcore login`, or set FLEETCORE_TOKEN".to_owned())
        }
        (ErrorKind::PermissionDenied, Some(scope)) => {
            Some(format!("`fleetcore login --scopes {}` asks for it", one_line(scope)))
        }
        _ => None,
    }
}

/// Text from elsewhere must not move the cursor or hide what came before it.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The same as a document for programs; field names as in the HTTP API.
pub(crate) fn problem(err: &Error, exit_code: u8) -> serde_json::Value {
    let context: serde_json::Map<_, _> = err.context().map(|(k, v)| (k.to_owned(), v.into())).collect();
    serde_json::json!({
        "code": err.kind().code(),
        "detail": err.message(),
        "operation": err.operation(),
        "context": context,
        "exit_code": exit_code,
    })
}

/// A remark on stderr, for people only.
pub(crate) fn note(quiet: bool, text: &str) {
    if !quiet {
        let _ = writeln!(io::stderr().lock(), "fleetcore: {}", one_line(text));
    }
}

/// Whether stderr is for people.
pub(crate) fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_with_field_rule_and_hint() {
        let err = Error::invalid("cols", "at least 1").with_context("hint", "see --help");
        assert_eq!(line(&err), "fleetcore: cols must be at least 1 (field: cols); see --help");
        let err = Error::new(ErrorKind::InvalidInput, "target is not valid")
            .with_context("field", "target")
            .with_context("rule", "local or AGENT");
        assert_eq!(line(&err), "fleetcore: target is not valid (field: target, rule: local or AGENT)");
    }

    #[test]
    fn text_of_others_cannot_drive_the_terminal() {
        let err = Error::new(ErrorKind::NotFound, "a\x1b[2Jb\nc");
        assert_eq!(line(&err), "fleetcore: a [2Jb c");
    }
}
