//! What is wrong with a request, whatever the backend.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret as _, SecretString};

use super::{CommandSpec, Io, Program, SessionSpec};
use crate::{Error, Result};

/// No system takes a NUL in a text, and each backend would say so differently.
fn text(field: &'static str, text: &str) -> Result<()> {
    if text.contains('\0') { Err(Error::invalid(field, "text without a NUL character")) } else { Ok(()) }
}

fn path(cwd: Option<&str>) -> Result<()> {
    match cwd {
        Some("") => Err(Error::invalid("cwd", "a path")),
        Some(cwd) => text("cwd", cwd),
        None => Ok(()),
    }
}

fn user(user: Option<&str>) -> Result<()> {
    match user {
        Some(name) if name.is_empty() || name.contains('\0') => {
            Err(Error::invalid("user", "the name of a user"))
        }
        _ => Ok(()),
    }
}

fn env(env: &BTreeMap<String, SecretString>) -> Result<()> {
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) {
            let rule = "set by names that are not empty and have neither = nor NUL in them";
            return Err(Error::invalid("env", rule).with_context("name", name.escape_debug()));
        }
        text("env", value.expose_secret()).map_err(|e| e.with_context("name", name))?;
    }
    Ok(())
}

impl CommandSpec {
    /// Refuses what no executor could run, whatever it runs on.
    ///
    /// # Errors
    /// `InvalidInput` that names the field and the rule.
    pub fn check(&self) -> Result<()> {
        match &self.program {
            Program::Argv(argv) if argv.first().is_none_or(String::is_empty) => {
                return Err(Error::invalid("argv", "a list that begins with the name of a program"));
            }
            Program::Argv(argv) => argv.iter().try_for_each(|arg| text("argv", arg))?,
            Program::Shell(script) => text("shell", script)?,
            Program::Action { name, .. } if name.is_empty() => {
                return Err(Error::invalid("action", "the name of an operation"));
            }
            Program::Action { name, args } => {
                text("action", name)?;
                args.iter().flat_map(<[&String; 2]>::from).try_for_each(|t| text("action", t))?;
            }
        }
        path(self.cwd.as_deref())?;
        user(self.user.as_deref())?;
        env(&self.env)?;
        if let Io::Pty(size) = self.io {
            size.check()?;
        }
        if self.timeout.is_some_and(|t| t.is_zero()) {
            return Err(Error::invalid("timeout", "longer than zero"));
        }
        Ok(())
    }
}

impl SessionSpec {
    /// Refuses what no shell could be opened with, whatever it runs on.
    ///
    /// # Errors
    /// `InvalidInput` that names the field and the rule.
    pub fn check(&self) -> Result<()> {
        if self.shell.first().is_some_and(String::is_empty) {
            return Err(Error::invalid("shell", "a list that begins with the name of a program"));
        }
        self.shell.iter().try_for_each(|arg| text("shell", arg))?;
        path(self.cwd.as_deref())?;
        user(self.user.as_deref())?;
        env(&self.env)?;
        self.size.check().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{ErrorKind, PtySize, SessionId};

    #[test]
    fn malformed_commands_name_the_field_and_the_rule() {
        let argv = || CommandSpec::argv(["true"]);
        let action =
            |name: &str| CommandSpec::new(Program::Action { name: name.to_owned(), args: BTreeMap::new() });
        let cases = [
            ("argv", CommandSpec::argv(Vec::<String>::new())),
            ("argv", CommandSpec::argv([""])),
            ("argv", CommandSpec::argv(["a", "b\0c"])),
            ("shell", CommandSpec::shell("a\0")),
            ("action", action("")),
            ("action", action("a\0")),
            ("cwd", argv().with_cwd("")),
            ("cwd", argv().with_cwd("/\0")),
            ("user", argv().with_user("")),
            ("user", argv().with_user("a\0")),
            ("env", argv().with_env("A=B", "c")),
            ("env", argv().with_env("", "c")),
            ("env", argv().with_env("A", "b\0")),
            ("cols", argv().with_pty(PtySize { cols: 0, rows: 1 })),
            ("rows", argv().with_pty(PtySize { cols: 1, rows: 1001 })),
            ("timeout", argv().with_timeout(Duration::ZERO)),
        ];
        for (field, spec) in cases {
            let error = spec.check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert_eq!(error.context_value("field"), Some(field), "{error}");
            assert!(error.context_value("rule").is_some());
        }
        argv().with_cwd("/").with_user("me").with_env("A", "=").check().unwrap();
        CommandSpec::argv(["true", ""]).check().unwrap();
    }

    #[test]
    fn malformed_sessions_name_the_field() {
        let spec = || SessionSpec::new(SessionId::new("s").unwrap());
        spec().check().unwrap();
        let bad = spec().with_size(PtySize { cols: 0, rows: 1 }).check().unwrap_err();
        assert_eq!(bad.context_value("field"), Some("cols"));
        let bad = spec().with_cwd("a\0b").check().unwrap_err();
        assert_eq!(bad.context_value("field"), Some("cwd"));
        for shell in ["", "a\0b"] {
            let bad = spec().with_shell([shell]).check().unwrap_err();
            assert_eq!(bad.context_value("field"), Some("shell"));
        }
    }
}
