//! How a shell is started so that it speaks in marks.
//!
//! The set-up travels in the environment and is read by the shell as its start-up file, so that nothing of it shows
//! in the terminal or in the history, on any machine a PTY can be had on.

use secrecy::SecretString;

use super::marks::Flavour;
use crate::{CommandSpec, Error, Result, SessionSpec};

/// Commands longer than this belong in a file.
const COMMAND_MAX_BYTES: usize = 1 << 20;
/// Longest line a terminal in cooked mode takes, less some for the newline: Linux has 4096 (`N_TTY_BUF_SIZE`).
const COOKED_LINE_MAX_BYTES: usize = 4000;
/// Above this a command is loaded by the shell rather than pasted into readline, whose time grows with the square of
/// the number of lines: a second for 100 KB, minutes for 1 MB.
const PASTED_MAX_BYTES: usize = 8 << 10;
/// Text in one line of a command that is loaded; a cooked terminal takes a little more.
const LOADED_LINE_BYTES: usize = 3000;
/// Above this a command is pasted rather than typed; readline redraws less.
const TYPED_MAX_BYTES: usize = 256;
/// Set when the environment does not choose: what the emulator and browsers understand.
const TERM: &str = "xterm-256color";

/// Replaces `sh -c …` by an interactive bash whose start-up file is in `FLEETCORE_RC`.
const BASH_STARTER: &str = r#"exec "$0" --rcfile <(printf %s "$FLEETCORE_RC") "$@" -i"#;

/// The same for a POSIX shell: its start-up file is what `ENV` names. The user's own `ENV` is handed on.
const POSIX_STARTER: &str = r#"exec 3<<E
$FLEETCORE_SH_RC
E
FLEETCORE_ENV=${ENV-} ENV=/dev/fd/3 exec "$@" -i"#;

/// bash where there is one.
const ANY_STARTER: &str = r#"if command -v bash >/dev/null 2>&1; then
exec bash -c "$FLEETCORE_BASH_STARTER" bash
fi
set -- sh
"#;

/// `NONCE`, `LOCATE` and `USER_RC` are filled in. `D` goes first in `PROMPT_COMMAND`, so that what the user's own prompt
/// prints is not part of a turn. Whatever a command does to one of `PS0`, `PS1`, `PS2` and `PROMPT_COMMAND` is
/// mended by the others: `__fc_last` puts the marks back, the `A` mark carries the exit code as well, and the `B` mark
/// puts a hook into an empty `PROMPT_COMMAND` (an expansion in a pattern that is not printed; it is not made for an empty value).
const BASH_RC: &str = r#"case ${BASH_SOURCE-} in /dev/fd/*) eval "exec ${BASH_SOURCE##*/}<&-" ;; esac
unset FLEETCORE_RC FLEETCORE_SH_RC FLEETCORE_BASH_STARTER
USER_RC
__fc_told=
__fc_x=x
__fc_old=1
if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 501)); then __fc_old=0; fi
__fc_end() { printf '\e]133;D;%s;k=NONCE;%s\a' "$1" "${PWD//[[:cntrl:]]/?}"; }
__fc_find() {
  local p=${PATH-}: d f=
  while [[ -n $p ]]; do
    d=${p%%:*}
    p=${p#*:}
    d=${d:-.}/$1
    if [[ -f $d && -x $d ]]; then f=$d; break; fi
  done
  printf '\e]133;W;k=NONCE;%s;%s\a' "$1" "${f//[[:cntrl:]]/?}"
}
__fc_u='\u'
__fc_h='\h'
__fc_facts() {
  local u=${__fc_u@P} h=${__fc_h@P}
  printf '\e]133;F;k=NONCE;%s;%s;%s\a' "${!:-}" "${u//[[:cntrl:];]/?}" "${h//[[:cntrl:]]/?}"
LOCATE
}
if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then __fc_facts() { :; }; fi
__fc_load() {
  local l p m
  __fc_text=
  # The terminal's echo may come late, after what the command writes.
  m=$(stty -g 2>/dev/null) && stty -echo 2>/dev/null
  printf '\e]133;R;k=NONCE\a' >&2
  while IFS= read -rs l && [[ $l != '#.' ]]; do
    printf -v p %b "${l:1}"
    __fc_text+=$p
  done
  if [[ -n $m ]]; then stty "$m" 2>/dev/null; fi
  if [[ -o history ]]; then history -s -- "$__fc_text"; fi
  printf '\e]133;L;k=NONCE\a' >&2
  return "$1"
}
__fc_first() {
  local e=$?
  __fc_told=1
  jobs -rn >/dev/null
  jobs -n
  __fc_facts
  __fc_end "$e"
  if ((__fc_old)); then return "$e"; fi
}
__fc_last() {
  local e=$?
  if [[ -z ${__fc_told-} ]]; then __fc_end "$e"; fi
  __fc_told=
  __fc_arm
}
__fc_arm() {
  local k=k=NONCE
  if [[ ${PS1-} != *"$k"* ]]; then
    PS1='\[\e]133;A;k=NONCE;$?;$PWD\a\]'${PS1-}'\[\e]133;B;k=NONCE;${__fc_x#${PROMPT_COMMAND:=__fc_arm}}\a\]'
  fi
  if [[ ${PS0-} != *"$k"* ]]; then PS0=${PS0-}'\e]133;C;k=NONCE\a'; fi
  if [[ ${PS2-} != *"$k"* ]]; then PS2='\[\e]133;P;k=NONCE\a\]'${PS2-}; fi
  if [[ ${PROMPT_COMMAND-} != *__fc_first* ]]; then
    PROMPT_COMMAND='{ __fc_first; } 2>/dev/null'${PROMPT_COMMAND:+$'\n'$PROMPT_COMMAND}
  fi
  if ((__fc_old)); then
    if [[ $PROMPT_COMMAND != *__fc_last* ]]; then PROMPT_COMMAND+=$'\n{ __fc_last; } 2>/dev/null'; fi
  elif [[ ${PROMPT_COMMAND[*]} != *__fc_last* ]]; then
    PROMPT_COMMAND+=('{ __fc_last; } 2>/dev/null')
  fi
}
__fc_arm
set +H
shopt -s promptvars
bind 'set enable-bracketed-paste on' 2>/dev/null
bind 'set enable-active-region off' 2>/dev/null
if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)); then
  printf '\e]133;I;k=NONCE;bash\a'
else
  __fc_run() { __fc_text=$2; printf '\e]133;C;k=NONCE\a' >&2; return "$1"; }
  printf '\e]133;I;k=NONCE;sh\a'
fi
"#;

/// Parameters in `PS1` are expanded anew at each prompt, which is all a POSIX shell offers.
const POSIX_RC: &str = r#"exec 3<&-
unset FLEETCORE_RC FLEETCORE_SH_RC FLEETCORE_BASH_STARTER
if [ -n "${FLEETCORE_ENV-}" ]; then
  ENV=$FLEETCORE_ENV
  unset FLEETCORE_ENV
  if [ -r "$ENV" ]; then . "$ENV"; fi
else
  unset ENV FLEETCORE_ENV
fi
__fc_run() { __fc_text=$2; printf '\033]133;C;k=NONCE\007' >&2; return "$1"; }
PS1=$(printf '\033]133;D;$?;k=NONCE;$PWD\007')${PS1:-'$ '}$(printf '\033]133;B;k=NONCE\007')
PS2=$(printf '\033]133;P;k=NONCE\007')'> '
printf '\033]133;I;k=NONCE;sh\007'
"#;

/// Sets up a command that starts the shell `spec` asks for, with marks that carry `nonce`.
///
/// # Errors
/// `InvalidInput` for a shell that cannot speak in marks, and for one that is asked to run a script.
pub(super) fn command(spec: &SessionSpec, nonce: &str) -> Result<CommandSpec> {
    let (argv, bash_rc) = start(&spec.shell)?;
    let locate = locate(&spec.locate)?;
    let bash_rc = BASH_RC.replace("NONCE", nonce).replace("LOCATE", &locate).replace("USER_RC", &bash_rc);
    let mut command = CommandSpec::argv(argv).with_pty(spec.size);
    command.cwd.clone_from(&spec.cwd);
    command.user.clone_from(&spec.user);
    command.labels.clone_from(&spec.labels);
    command.env.insert("TERM".into(), TERM.into());
    for (name, value) in &spec.env {
        command.env.insert(name.clone(), value.clone());
    }
    let mut set = |name: &str, value: String| command.env.insert(name.into(), SecretString::from(value));
    set("FLEETCORE_RC", bash_rc);
    set("FLEETCORE_SH_RC", POSIX_RC.replace("NONCE", nonce));
    set("FLEETCORE_BASH_STARTER", BASH_STARTER.into());
    Ok(command)
}

/// Calls that tell where programs are.
fn locate(programs: &[String]) -> Result<String> {
    let mut calls = String::new();
    for name in programs {
        let plain = |c: char| c.is_ascii_alphanumeric() || ".+_-".contains(c);
        if name.is_empty() || name.starts_with('-') || !name.chars().all(plain) {
            let rule = "names of programs: letters, digits and .+_-";
            return Err(Error::invalid("locate", rule).with_context("name", name));
        }
        calls.push_str(&format!("__fc_find {name}\n"));
    }
    Ok(calls)
}

const USER_BASHRC: &str = "if [[ -r ~/.bashrc ]]; then . ~/.bashrc; fi";
const LOGIN_PROFILE: &str = r#"if [[ -r /etc/profile ]]; then . /etc/profile; fi
for __fc_file in ~/.bash_profile ~/.bash_login ~/.profile; do
  if [[ -r $__fc_file ]]; then . "$__fc_file"; break; fi
done
unset __fc_file"#;
const NO_RC: &str = r"unset PROMPT_COMMAND; unset -f command_not_found_handle; PS1='\s-\v\$ '";

fn start(shell: &[String]) -> Result<(Vec<String>, String)> {
    let wrong = |rule| Err(Error::invalid("shell", rule).with_context("shell", shell.join(" ")));
    let Some((program, args)) = shell.split_first() else {
        let script = format!("{ANY_STARTER}{POSIX_STARTER}");
        return Ok((vec!["sh".into(), "-c".into(), script, "sh".into()], USER_BASHRC.into()));
    };
    if args.iter().any(|a| a.starts_with('-') && !a.starts_with("--") && a.contains('c')) {
        return wrong("interactive, without -c");
    }
    match program.rsplit('/').next().unwrap_or_default() {
        "bash" => {
            let mut rc = USER_BASHRC.to_owned();
            let mut argv = vec![program.clone(), "-c".into(), BASH_STARTER.into(), program.clone()];
            let mut args = args.iter();
            while let Some(arg) = args.next() {
                match arg.as_str() {
                    "--norc" => rc = NO_RC.into(),
                    "-l" | "--login" => rc = LOGIN_PROFILE.into(),
                    "-i" | "--noprofile" => {}
                    "--rcfile" | "--init-file" => match args.next() {
                        Some(file) => rc = format!(". {}", crate::sim::quote::quote(file)),
                        None => return wrong("--rcfile with a file"),
                    },
                    "-O" | "+O" | "-o" | "+o" => {
                        argv.push(arg.clone());
                        argv.extend(args.next().cloned());
                    }
                    option if option.starts_with(['-', '+']) => argv.push(arg.clone()),
                    _ => return wrong("interactive, without a script"),
                }
            }
            Ok((argv, rc))
        }
        "sh" | "dash" | "ash" | "ksh" | "mksh" | "busybox" => {
            let starter = vec!["sh".into(), "-c".into(), POSIX_STARTER.into(), "sh".into()];
            let keep = shell.iter().filter(|a| *a != "-i").cloned();
            Ok((starter.into_iter().chain(keep).collect(), String::new()))
        }
        _ => wrong("bash or a POSIX shell (sh, dash, ash, ksh, mksh, busybox sh)"),
    }
}

/// How a command reaches the shell.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Typed {
    /// What to type at the prompt.
    pub(super) line: Vec<u8>,
    /// What to type once that has started.
    pub(super) then: Option<Vec<u8>>,
}

/// The text in lines that `__fc_load` reads. Each begins with `#`, so that what an interrupted load leaves over is
/// a comment to the shell.
fn loaded(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + text.len() / 8 + 16);
    let mut room = 0;
    for c in text.chars() {
        if room < 4 {
            if !out.is_empty() {
                out.push(b'\n');
            }
            out.push(b'#');
            room = LOADED_LINE_BYTES;
        }
        let before = out.len();
        match c {
            '\\' => out.extend_from_slice(br"\\"),
            '\n' => out.extend_from_slice(br"\n"),
            '\t' => out.extend_from_slice(br"\t"),
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
        room -= out.len() - before;
    }
    out.extend_from_slice(b"\n#.\n");
    out
}

/// What may be at the prompt before a command is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Discard {
    Nothing,
    /// Somebody has begun to type a line.
    Line,
    /// A Ctrl-C is under way. The key that the shell reads next is lost to it, or the line without readline.
    Interrupts,
}

/// What to type so that `text` runs as one turn, whatever `discard` says is there.
///
/// # Errors
/// `InvalidInput` for text a terminal would take for keys, and for more than it takes.
pub(super) fn typed(text: &str, flavour: Flavour, discard: Discard) -> Result<Typed> {
    if let Some(c) = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
        let rule = "text without control characters other than newline and tab";
        return Err(Error::invalid("command", rule).with_context("character", c.escape_unicode()));
    }
    if text.len() > COMMAND_MAX_BYTES {
        return Err(Error::invalid("command", "at most 1 MiB").with_context("bytes", text.len()));
    }
    let text = text.trim_end_matches('\n');
    let mut out = Vec::with_capacity(text.len().min(PASTED_MAX_BYTES) + 32);
    let mut then = None;
    match flavour {
        Flavour::Bash => {
            if discard != Discard::Nothing {
                out.extend_from_slice(b"\x05\x15"); // to the end of the line, then kill it
            }
            if text.len() <= TYPED_MAX_BYTES && text.bytes().all(|b| matches!(b, b' '..=b'~')) {
                out.extend_from_slice(text.as_bytes());
            } else if text.len() > PASTED_MAX_BYTES {
                // In a condition, so that `set -e` does not end the shell because of the status that is handed on.
                out.extend_from_slice(
                    br#"if __fc_load $?; then eval "$__fc_text"; else eval "$__fc_text"; fi"#,
                );
                then = Some(loaded(text));
            } else {
                out.extend_from_slice(b"\x1b[200~");
                out.extend_from_slice(text.as_bytes());
                out.extend_from_slice(b"\x1b[201~");
            }
            out.push(b'\r');
        }
        Flavour::Posix => {
            match discard {
                Discard::Nothing => {}
                Discard::Line => out.push(0x15),
                Discard::Interrupts => out.extend_from_slice(b"\x15\n"),
            }
            // In a condition, so that `set -e` does not end the shell because of the status that is handed on.
            let lines = format!(
                "if __fc_run $? '{}'; then eval \"$__fc_text\"; else eval \"$__fc_text\"; fi\n",
                text.replace('\'', r"'\''")
            );
            if lines.lines().any(|l| l.len() > COOKED_LINE_MAX_BYTES) {
                let rule = "lines of at most 4000 bytes, because this shell reads from a cooked terminal";
                return Err(Error::invalid("command", rule));
            }
            out.extend_from_slice(lines.as_bytes());
        }
    }
    Ok(Typed { line: out, then })
}

/// Whether typing `data` at a prompt makes the shell act, so that a new prompt will follow: Return or Ctrl-C
/// outside of a bracketed paste.
pub(super) fn submits(data: &[u8]) -> bool {
    const OPEN: &[u8] = b"\x1b[200~";
    const CLOSE: &[u8] = b"\x1b[201~";
    let mut rest = data;
    loop {
        let (typed, pasted) = match memchr::memmem::find(rest, OPEN) {
            Some(i) => rest.split_at(i),
            None => (rest, &[][..]),
        };
        if memchr::memchr3(b'\r', b'\n', 0x03, typed).is_some() {
            return true;
        }
        match memchr::memmem::find(pasted, CLOSE) {
            Some(i) => rest = pasted.get(i + CLOSE.len()..).unwrap_or_default(),
            None => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ErrorKind, Program, SessionId};

    fn argv(shell: &[&str]) -> Result<Vec<String>> {
        let spec = SessionSpec::new(SessionId::new("s").unwrap()).with_shell(shell.iter().copied());
        match command(&spec, "n")?.program {
            Program::Argv(argv) => Ok(argv),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn shells_that_cannot_speak_are_refused() {
        for bad in [
            &["fish"][..],
            &["bash", "-c", "x"],
            &["bash", "x.sh"],
            &["bash", "--rcfile"],
            &["sh", "-ec", "x"],
        ] {
            assert_eq!(argv(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad:?}");
        }
    }

    #[test]
    fn arguments_are_handed_on() {
        assert_eq!(
            argv(&["/usr/bin/bash", "--norc", "-O", "globstar", "-i"]).unwrap()[3..],
            ["/usr/bin/bash", "-O", "globstar"]
        );
        assert_eq!(argv(&["busybox", "sh", "-i"]).unwrap()[4..], ["busybox", "sh"]);
    }

    #[test]
    fn only_text_is_typed() {
        for bad in ["a\0", "a\x1b[201~", "a\rb", "\u{9b}1m", "\x7f"] {
            assert_eq!(
                typed(bad, Flavour::Bash, Discard::Nothing).unwrap_err().context_value("field"),
                Some("command"),
                "{bad:?}"
            );
        }
        assert_eq!(typed("ls\n\n", Flavour::Bash, Discard::Line).unwrap().line, b"\x05\x15ls\r");
        assert_eq!(typed("a\nb", Flavour::Bash, Discard::Nothing).unwrap().line, b"\x1b[200~a\nb\x1b[201~\r");
        assert_eq!(
            typed("it's", Flavour::Posix, Discard::Nothing).unwrap().line,
            b"if __fc_run $? 'it'\\''s'; then eval \"$__fc_text\"; else eval \"$__fc_text\"; fi\n"
        );
        assert!(typed("ls", Flavour::Posix, Discard::Line).unwrap().line.starts_with(b"\x15if"));
        assert!(typed("ls", Flavour::Posix, Discard::Interrupts).unwrap().line.starts_with(b"\x15\nif"));
        let long = "x".repeat(4001);
        assert!(typed(&long, Flavour::Bash, Discard::Nothing).is_ok());
        assert!(typed(&long, Flavour::Posix, Discard::Nothing).is_err());
        assert!(typed(&"x\n".repeat(3000), Flavour::Posix, Discard::Nothing).is_ok());
        assert!(typed(&"x\n".repeat(1 << 20), Flavour::Bash, Discard::Nothing).is_err());
    }

    #[test]
    fn long_commands_are_loaded_in_lines() {
        let text = "a\\b\tä\n".repeat(2000);
        let typed = typed(&text, Flavour::Bash, Discard::Nothing).unwrap();
        assert!(typed.line.starts_with(b"if __fc_load"));
        let lines = String::from_utf8(typed.then.unwrap()).unwrap();
        assert!(lines.lines().all(|l| l.starts_with('#') && l.len() <= LOADED_LINE_BYTES + 1));
        let body: String = lines.strip_suffix("\n#.\n").unwrap().lines().map(|l| &l[1..]).collect();
        assert_eq!(body.replace(r"\n", "\n").replace(r"\t", "\t").replace(r"\\", r"\"), text.trim_end());
        let spec = |name: &str| {
            let mut spec = SessionSpec::new(SessionId::new("s").unwrap());
            spec.locate.push(name.into());
            spec
        };
        assert!(command(&spec("python3.13"), "n").is_ok());
        for bad in ["", "-x", "a;b", "a b"] {
            assert_eq!(
                command(&spec(bad), "n").unwrap_err().context_value("field"),
                Some("locate"),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn returns_inside_a_paste_do_not_submit() {
        for (data, expect) in [
            (&b"ls"[..], false),
            (b"ls\r", true),
            (b"\x03", true),
            (b"\x1b[200~a\rb\x1b[201~", false),
            (b"\x1b[200~a\rb\x1b[201~\r", true),
            (b"\x1b[200~a\rb", false),
            (b"\n\x1b[200~a", true),
        ] {
            assert_eq!(submits(data), expect, "{data:?}");
        }
    }
}
