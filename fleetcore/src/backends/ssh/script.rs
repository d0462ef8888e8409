//! What runs on the machine around a command.
//!
//! sshd hands the text of a request to the user's shell, whichever that is; so it is short, fixed, and means the same in
//! all of them. It reads one line from its input and evaluates it: everything that is particular to a command, secrets
//! in variables above all, travels in that line and shows in no process list.

use std::fmt::Write as _;

use secrecy::{ExposeSecret, SecretString};

use crate::{CommandId, CommandSpec, Error, ErrorKind, Io, Program, Result, sim::quote::quote};

/// The request: no quotes, backslashes or line breaks inside, so every shell takes it as it is.
pub(super) const BOOTSTRAP: &str = r#"exec /bin/sh -c 'IFS= read -r l && eval "$l"'"#;

/// Set in every command to its id. Descendants inherit it, which is how those are found that left the process group.
pub(super) const MARKER: &str = "FLEETCORE_COMMAND_ID";

/// A word for `eval` that holds no line break: these are written as `$nl`, which [`PREAMBLE`] sets.
fn word(text: &str) -> String {
    text.split('\n').map(quote).collect::<Vec<_>>().join("\"$nl\"")
}

/// `$(…)` takes trailing line breaks away, so something must stand behind it.
const PREAMBLE: &str = r#"nl=$(printf '\nx'); nl=${nl%x}; "#;

/// One line that evaluates `script`.
pub(super) fn line(script: &str) -> String {
    format!("{PREAMBLE}eval {}\n", word(script))
}

/// Everything that would fail on the machine only, or worse would not.
fn check(spec: &CommandSpec) -> Result<()> {
    let no_nul = |field, text: &str| {
        if text.contains('\0') { Err(Error::invalid(field, "without NUL characters")) } else { Ok(()) }
    };
    match &spec.program {
        Program::Argv(argv) => {
            if argv.first().is_none_or(String::is_empty) {
                return Err(Error::invalid("argv", "a program name and its arguments"));
            }
            argv.iter().try_for_each(|a| no_nul("argv", a))?;
        }
        Program::Shell(script) => no_nul("shell", script)?,
        Program::Action { name, .. } => {
            return Err(Error::unsupported("spawn").with_context("action", name.escape_debug()));
        }
    }
    for (name, value) in &spec.env {
        let first = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        if !first || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            // A shell sets them, and it knows no other names.
            let rule = "set by names of letters, digits and _ that do not start with a digit";
            return Err(Error::invalid("env", rule).with_context("name", name.escape_debug()));
        }
        no_nul("env", value.expose_secret()).map_err(|e| e.with_context("name", name))?;
    }
    spec.cwd.iter().try_for_each(|c| no_nul("cwd", c))?;
    if spec.user.is_some() {
        let why = "commands run as the user of the SSH connection";
        return Err(Error::new(ErrorKind::Unsupported, why)
            .with_operation("spawn")
            .with_context("field", "user"));
    }
    if let Io::Pty(size) = spec.io { size.check().map(drop) } else { Ok(()) }
}

/// Finds the program as `exec` will, and says what is wrong while there is still somebody to say it.
const FIND: &str = r#"case $1 in
*/*) p=$1; [ -e "$p" ] || fail noprogram; [ ! -d "$p" ] && [ -x "$p" ] || fail notallowed;;
*) p=$(command -v -- "$1") && [ -n "$p" ] || fail noprogram;;
esac
"#;

/// `env -i` would show the variables that are set anew in its arguments.
const CLEAR: &str = r#"for v in $(env | LC_ALL=C sed -n 's/^\([A-Za-z_][A-Za-z0-9_]*\)=.*/\1/p'); do
case $v in p|nl|v|_) ;; *) unset "$v" 2>/dev/null;; esac; done
unset PWD OLDPWD SHLVL
"#;

/// A terminal is opened without echo, line editing and signal characters, so that the line with the command gets
/// through; this is how a fresh terminal looks.
const COOKED: &str = "stty echo icanon isig iexten icrnl ixon 2>/dev/null\n";

/// The line that becomes the command. `token` marks what is said before it begins.
///
/// # Errors
/// `InvalidInput` and `Unsupported` for what cannot be run.
pub(super) fn command(id: CommandId, token: &str, spec: &CommandSpec) -> Result<SecretString> {
    check(spec).map_err(|e| if e.operation().is_empty() { e.with_operation("spawn") } else { e })?;
    let mut text = String::with_capacity(1024);
    let _ = writeln!(text, "fail() {{ echo \"{token} $1\"; exit 0; }}");
    if let Some(cwd) = &spec.cwd {
        // `cd -` and CDPATH have meanings of their own.
        let cwd = if cwd.starts_with('/') { cwd.clone() } else { format!("./{cwd}") };
        let cwd = quote(&cwd);
        let _ = writeln!(
            text,
            "cd -- {cwd} 2>/dev/null || {{ [ -e {cwd} ] || fail nocwd; [ -d {cwd} ] && fail deniedcwd; fail notcwd; }}"
        );
    }
    let mut argv: Vec<&str> = match &spec.program {
        Program::Argv(argv) => argv.iter().map(String::as_str).collect(),
        Program::Shell(script) => vec!["/bin/sh", "-c", script],
        Program::Action { .. } => Vec::new(),
    };
    text.push_str("set --");
    for arg in &argv {
        text.push(' ');
        text.push_str(&quote(arg));
    }
    text.push('\n');
    if let Some(path) = spec.env.get("PATH") {
        let _ = writeln!(text, "PATH={}", quote(path.expose_secret()));
    }
    text.push_str(FIND);
    if matches!(spec.io, Io::Pty(_)) {
        text.push_str("[ -t 0 ] || fail noterminal\n");
        text.push_str(COOKED);
    }
    if spec.clear_env {
        let term = if matches!(spec.io, Io::Pty(_)) { "TERM=xterm-256color; export TERM\n" } else { "" };
        text.push_str(CLEAR);
        text.push_str(term);
    }
    for (name, value) in &spec.env {
        let _ = writeln!(text, "{name}={}; export {name}", quote(value.expose_secret()));
    }
    let _ = writeln!(text, "{MARKER}={id}; export {MARKER}");
    let _ = writeln!(text, "echo \"{token} pid $$\"");
    text.push_str(match spec.io {
        Io::Pipes { stdin: false, merge: false } => "exec </dev/null\n",
        Io::Pipes { stdin: false, merge: true } => "exec </dev/null 2>&1\n",
        Io::Pipes { stdin: true, merge: true } => "exec 2>&1\n",
        _ => "",
    });
    let first = argv.drain(..1).next().unwrap_or_default();
    // Without PATH the name means nothing any more, and a name that starts with - would be an option of exec.
    let by_path = (spec.clear_env && !spec.env.contains_key("PATH")) || first.starts_with('-');
    text.push_str(if by_path && !first.contains('/') { "shift\nexec \"$p\" \"$@\"" } else { "exec \"$@\"" });
    Ok(line(&text).into())
}

/// What a command's shell said before it became the command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// Its process id, which is that of its process group too.
    Pid(u32),
    /// Why it did not begin.
    Failed(String),
}

impl Begin {
    /// Reads the rest of a line behind the token.
    pub(super) fn parse(said: &str) -> Self {
        match said.strip_prefix("pid ").and_then(|p| p.parse().ok()) {
            // 1 and 0 would mean everybody to kill(1).
            Some(pid) if pid > 1 => Self::Pid(pid),
            _ => Self::Failed(said.to_owned()),
        }
    }
}

/// The error for a command that did not begin.
pub(super) fn refusal(why: &str, spec: &CommandSpec) -> Error {
    let (kind, message) = match why {
        "noprogram" => (ErrorKind::NotFound, "program not found"),
        "notallowed" => (ErrorKind::PermissionDenied, "program may not be executed"),
        "nocwd" => (ErrorKind::NotFound, "working directory does not exist"),
        "deniedcwd" => (ErrorKind::PermissionDenied, "working directory cannot be entered"),
        "notcwd" => (ErrorKind::InvalidState, "working directory is not a directory"),
        "noterminal" => (ErrorKind::Unsupported, "the host gives no terminals to this account"),
        _ => (ErrorKind::Unexpected, "the shell on the machine answered in an unknown way"),
    };
    let error = Error::new(kind, message).with_operation("spawn");
    match (&spec.program, &spec.cwd) {
        (_, Some(cwd)) if why.ends_with("cwd") => error.with_context("field", "cwd").with_context("cwd", cwd),
        (Program::Argv(argv), _) => error.with_context("program", argv.first().map_or("", String::as_str)),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        process::{Command, Output, Stdio},
    };

    use proptest::prelude::*;

    use super::*;

    fn run(spec: &CommandSpec, input: &[u8]) -> Output {
        let line = command(CommandId::generate(), "T", spec).unwrap();
        let mut child = Command::new("sh")
            .args(["-c", BOOTSTRAP])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(line.expose_secret().as_bytes()).unwrap();
        stdin.write_all(input).unwrap();
        drop(stdin);
        child.wait_with_output().unwrap()
    }

    /// What came after the line with the process id.
    fn rest(output: &Output) -> String {
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        let (first, rest) = text.split_once('\n').unwrap();
        assert!(matches!(Begin::parse(first.strip_prefix("T ").unwrap()), Begin::Pid(_)), "{text}");
        rest.to_owned()
    }

    #[test]
    fn secrets_are_not_in_the_request() {
        assert!(
            !BOOTSTRAP.trim_start_matches("exec /bin/sh -c ").trim_matches('\'').contains(['\'', '\\', '\n'])
        );
        let spec = CommandSpec::argv(["true"]).with_env("TOKEN", "geheim");
        let line = command(CommandId::generate(), "T", &spec).unwrap();
        assert!(!format!("{line:?}").contains("geheim"));
        assert_eq!(line.expose_secret().matches('\n').count(), 1, "it is one line");
    }

    #[test]
    fn input_behind_the_line_is_the_commands() {
        let out = run(&CommandSpec::argv(["cat"]).with_stdin(), b"a\n\\b \n");
        assert_eq!(rest(&out), "a\n\\b \n");
    }

    #[test]
    fn what_cannot_begin_says_why() {
        for (spec, why) in [
            (CommandSpec::argv(["fleetcore-none"]), "noprogram"),
            (CommandSpec::argv(["/etc/hostname/x"]), "noprogram"),
            (CommandSpec::argv(["/etc/passwd"]), "notallowed"),
            (CommandSpec::argv(["/etc"]), "notallowed"),
            (CommandSpec::argv(["true"]).with_cwd("/no/such"), "nocwd"),
            (CommandSpec::argv(["true"]).with_cwd("/etc/passwd"), "notcwd"),
        ] {
            let out = run(&spec, b"");
            assert_eq!(String::from_utf8_lossy(&out.stdout), format!("T {why}\n"), "{spec:?}");
            assert_ne!(refusal(why, &spec).kind(), ErrorKind::Unexpected);
        }
        assert_eq!(Begin::parse("pid 1"), Begin::Failed("pid 1".into()));
    }

    #[test]
    fn a_cleared_environment_has_only_what_was_set() {
        let out = run(&CommandSpec::argv(["env"]).with_clear_env().with_env("A", "x\ny"), b"");
        let text = rest(&out);
        let lines: Vec<_> = text.lines().filter(|l| !l.starts_with(MARKER) && !l.starts_with("_=")).collect();
        assert_eq!(lines, ["A=x", "y"], "{text}");
    }

    #[test]
    fn a_shell_cannot_set_any_name() {
        for name in ["", "A=B", "A-B", "1A", "A\0", "ü"] {
            let err = command(CommandId::generate(), "T", &CommandSpec::argv(["true"]).with_env(name, "x"));
            assert_eq!(err.unwrap_err().context_value("field"), Some("env"), "{name:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn arguments_and_variables_arrive_exactly(arg in "[^\0]{0,20}", value in "[^\0]{0,20}") {
            let spec = CommandSpec::argv(["sh", "-c", "printf '%s|%s.' \"$1\" \"$V\"", "sh", &arg]).with_env("V", value.as_str());
            prop_assert_eq!(rest(&run(&spec, b"")), format!("{arg}|{value}."));
        }
    }
}
