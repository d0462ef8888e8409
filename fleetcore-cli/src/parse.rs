//! Words of the command line: durations, signals, pairs, places of files.

use std::{path::PathBuf, str::FromStr, time::Duration};

use fleetcore::{AgentId, Error, ErrorKind, Result, Signal, Target};

/// A duration: `90` (seconds), `1.5s`, `500ms`, `5m`, `2h`, `7d`.
pub(crate) fn duration(text: &str) -> Result<Duration> {
    let rule = "a duration such as 90, 1.5s, 500ms, 5m, 2h or 7d";
    let invalid = || Error::invalid("duration", rule).with_context("value", text.escape_debug());
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().map_err(|_| invalid())?;
    let unit = match unit {
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return Err(invalid()),
    };
    Duration::try_from_secs_f64(number * unit).map_err(|_| invalid())
}

/// A signal: `INT`, `SIGINT`, `interrupt` or `2`.
pub(crate) fn signal(text: &str) -> Result<Signal> {
    let upper = text.to_ascii_uppercase();
    Ok(match upper.strip_prefix("SIG").unwrap_or(&upper) {
        "HUP" | "HANGUP" | "1" => Signal::Hangup,
        "INT" | "INTERRUPT" | "2" => Signal::Interrupt,
        "QUIT" | "3" => Signal::Quit,
        "KILL" | "9" => Signal::Kill,
        "USR1" | "USER1" => Signal::User1,
        "USR2" | "USER2" => Signal::User2,
        "TERM" | "TERMINATE" | "15" => Signal::Terminate,
        "CONT" | "CONTINUE" => Signal::Continue,
        "STOP" => Signal::Stop,
        _ => {
            let rule = "one of HUP INT QUIT KILL TERM STOP CONT USR1 USR2";
            return Err(Error::invalid("signal", rule).with_context("value", text.escape_debug()));
        }
    })
}

/// `KEY=VALUE`.
pub(crate) fn pair(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((k, v)) if !k.is_empty() => Ok((k.to_owned(), v.to_owned())),
        _ => Err(Error::invalid("pair", "KEY=VALUE").with_context("value", text.escape_debug())),
    }
}

/// `ID=FILE`: the token of an agent.
pub(crate) fn agent_token(text: &str) -> Result<(AgentId, PathBuf)> {
    let (id, file) = pair(text)?;
    Ok((AgentId::new(id)?, PathBuf::from(file)))
}

/// `KEY=VALUE`, or `KEY` to pass on our own variable of that name.
pub(crate) fn variable(text: &str) -> Result<(String, String)> {
    if text.contains('=') {
        return pair(text);
    }
    std::env::var(text).map(|v| (text.to_owned(), v)).map_err(|_| {
        Error::invalid("env", "NAME=VALUE, or the NAME of a variable that is set here")
            .with_context("value", text.escape_debug())
    })
}

/// Where a file is: `TARGET:PATH`, `-` for the standard streams, anything else on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FilePlace {
    Here(String),
    Standard,
    There(Target, String),
}

impl FromStr for FilePlace {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "-" {
            return Ok(Self::Standard);
        }
        if text.is_empty() {
            return Err(Error::invalid("path", "PATH or TARGET:PATH"));
        }
        // As with scp: a path that starts like a path is one, whatever follows.
        let here = text.starts_with(['/', '.', '~']);
        match text.split_once(':') {
            Some((target, path)) if !here => {
                let path = if path.is_empty() { "." } else { path };
                Ok(Self::There(target.parse()?, path.to_owned()))
            }
            _ => Ok(Self::Here(text.to_owned())),
        }
    }
}

/// Reads a password from the first line of `text`.
pub(crate) fn first_line(text: &str) -> Result<secrecy::SecretString> {
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "the password is empty")
            .with_context("field", "password")
            .with_context("rule", "on the first line"));
    }
    Ok(line.to_owned().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [("90", 90_000), ("1.5s", 1500), ("500ms", 500), ("5m", 300_000), ("2h", 7_200_000)]
        {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        for bad in ["", "s", "-1", "1y", "1 s", "nan", "inf", "1e400"] {
            assert_eq!(duration(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
    }

    #[test]
    fn signals() {
        for text in ["INT", "int", "SIGINT", "interrupt", "2"] {
            assert_eq!(signal(text).unwrap(), Signal::Interrupt);
        }
        assert!(signal("SIGWHAT").is_err());
        assert!(signal("").is_err());
    }

    #[test]
    fn places() {
        let there = |t: &str, p: &str| FilePlace::There(t.parse().unwrap(), p.to_owned());
        for (text, want) in [
            ("local:/tmp/x", there("local", "/tmp/x")),
            ("multipass/dev1:notes", there("multipass/dev1", "notes")),
            ("local:", there("local", ".")),
            ("./a:b", FilePlace::Here("./a:b".into())),
            ("/a:b", FilePlace::Here("/a:b".into())),
            ("a.txt", FilePlace::Here("a.txt".into())),
            ("-", FilePlace::Standard),
        ] {
            assert_eq!(text.parse::<FilePlace>().unwrap(), want, "{text}");
        }
        assert!("bad target:/x".parse::<FilePlace>().is_err());
        assert!("".parse::<FilePlace>().is_err());
    }
}
