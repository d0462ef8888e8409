//! Running things on a machine that has no Python: with its shell alone.
//!
//! The script goes to a file on the machine first, so that variables are in no list of processes and the program has its
//! input, or its terminal, to itself. It says when it starts and how it ended in lines that begin with a mark; what the
//! client's own status says could be the client's.
//!
//! Weaker than the runner: input ends at two megabytes, with an error; a program killed by a signal is told by the
//! shell's 128 and more; what leaves its process group is not found again; no other users.

use std::{
    fmt::{self, Write as _},
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{FutureExt as _, StreamExt as _, stream};
use secrecy::ExposeSecret as _;
use tokio::{
    io::AsyncWrite,
    sync::{mpsc, oneshot},
};

use super::{client::Call, error::Failure, executor::MachineExecutor};
use crate::{
    Channel, CommandSpec, Error, ErrorKind, ExitKind, Io, Program, PtySize, Result, Signal,
    raw::{ProcessControl, RawProcess},
    sim::quote::quote,
};

/// What the client carries in; more would be lost without a word.
const INPUT_MAX_BYTES: usize = 2_000_000;
/// Longest script: it goes in the same way.
const SCRIPT_MAX_BYTES: usize = 900 << 10;
/// Pieces of output that may wait.
const OUTPUT_QUEUE: usize = 16;
/// How much of a complaint is kept.
const COMPLAINT_MAX_BYTES: usize = 8 << 10;
/// Keeps a script on the machine and says where.
const KEEP: &str = r#"umask 077; f=$(mktemp) && cat >"$f" && printf '%s\n' "$f""#;
/// Signals a process group.
const KILL: &str = r#"kill -s "$1" -- "-$2" 2>/dev/null; exit 0"#;

/// The script that runs `spec`.
fn script(spec: &CommandSpec, mark: &str) -> Result<String> {
    let unsupported = |field: &'static str| {
        Err(Error::unsupported("spawn")
            .with_context("field", field)
            .with_context("hint", "takes python3 on the machine"))
    };
    if spec.user.is_some() {
        return unsupported("user");
    }
    let (words, check): (Vec<&str>, _) = match &spec.program {
        Program::Argv(argv) => (argv.iter().map(String::as_str).collect(), true),
        Program::Shell(text) => (vec!["/bin/sh", "-c", text], false),
        Program::Action { .. } => return unsupported("action"),
    };
    let mut text = String::from("rm -f -- \"$0\"\nread -r _ _ _ _ g _ </proc/$$/stat\n");
    if let Some(cwd) = &spec.cwd {
        // A name that begins with a dash is no option, and one with $CDPATH means no other place.
        let at = if cwd.starts_with('/') { cwd.clone() } else { format!("./{cwd}") };
        let _ = writeln!(text, "cd -- {} 2>/dev/null || {{ echo {mark}:cwd: >&2; exit 0; }}", quote(&at));
    }
    if spec.clear_env {
        text.push_str(
            "for v in $(env | sed -n 's/^\\([A-Za-z_][A-Za-z0-9_]*\\)=.*/\\1/p'); do unset \"$v\"; done\n",
        );
        text.push_str("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n");
    }
    for (name, value) in &spec.env {
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !plain || name.starts_with(|c: char| c.is_ascii_digit()) || name.is_empty() {
            return Err(Error::invalid("env", "set by names a shell knows: letters, digits and _"));
        }
        let _ = writeln!(text, "export {name}={}", quote(value.expose_secret()));
    }
    let mut run = words.iter().map(|w| quote(w)).collect::<Vec<_>>().join(" ");
    if words.first().is_some_and(|w| !w.contains('\'')) && run.starts_with(|c| c != '\'') {
        // As it stands, one with an equals sign would set a variable.
        let first = words.first().map_or(0, |w| w.len());
        run = format!("'{}'{}", run.get(..first).unwrap_or_default(), run.get(first..).unwrap_or_default());
    }
    if check && let Some(program) = words.first() {
        let program = quote(program);
        let _ = writeln!(
            text,
            "command -v -- {program} >/dev/null 2>&1 || {{ echo {mark}:program: >&2; exit 0; }}"
        );
    }
    // The shell outlives signals to the group, and the program does not inherit that.
    let input = if wants_input(spec) { "" } else { " </dev/null" };
    let _ = writeln!(text, "trap : HUP INT QUIT TERM USR1 USR2\necho {mark}:start:$g: >&2");
    let _ = writeln!(text, "{run}{input}\ns=$?\nprintf '%s' {mark}:exit:$s: >&2\nexit 0");
    if text.contains('\0') {
        return Err(Error::invalid("argv", "without NUL characters"));
    }
    if text.len() > SCRIPT_MAX_BYTES {
        return Err(Error::invalid("argv", format!("together with env at most {SCRIPT_MAX_BYTES} bytes")));
    }
    Ok(text)
}

fn wants_input(spec: &CommandSpec) -> bool {
    matches!(spec.io, Io::Pipes { stdin: true, .. } | Io::Pty(_))
}

impl MachineExecutor {
    /// Starts a command with the machine's shell.
    pub(super) async fn start_plain(&self, spec: &CommandSpec) -> Result<RawProcess> {
        let mark = format!("fleetcore-{:032x}", rand::random::<u128>());
        let text = script(spec, &mark).map_err(|e| e.with_operation("spawn"))?;
        let keep = self.shell_call(KEEP).await?.stdin(Bytes::from(text));
        let file = self.client().call(keep).await?;
        let file = String::from_utf8_lossy(&file).trim().to_owned();
        let mut args = self.exec_args().await?;
        args.extend(["sh".to_owned(), file]);
        let io = match spec.io {
            Io::Pipes { merge, .. } => Io::Pipes { stdin: wants_input(spec), merge },
            other => other,
        };
        let mut raw = self.client().spawn_on("exec", &args, io).await?;
        let mut marks = Marks::new(&mark);
        let mut held = Vec::new();
        // Everything before the first line of the script is the client's own.
        let group = loop {
            match raw.output.next().await {
                Some(Ok((channel, data))) => {
                    let (before, said) = marks.push(channel, &data);
                    match said {
                        Some(Said { what, value }) if what == "start" => break value,
                        Some(Said { what, .. }) => {
                            raw.control.disarm();
                            return Err(self.about(refused(&what, spec)));
                        }
                        None => {
                            let room = COMPLAINT_MAX_BYTES.saturating_sub(held.len());
                            held.extend(before.iter().take(room));
                        }
                    }
                }
                Some(Err(e)) => return Err(self.about(e)),
                None => {
                    let code = match raw.exit.await {
                        Ok(ExitKind::Code(code)) => code,
                        _ => 2,
                    };
                    raw.control.disarm();
                    let said = String::from_utf8_lossy(&held);
                    return Err(self.about(Failure::classify("exec", code, &said).into_error()));
                }
            }
        };
        Ok(self.assemble_plain(raw, marks, group))
    }

    fn assemble_plain(&self, raw: RawProcess, marks: Marks, group: String) -> RawProcess {
        let RawProcess { output, stdin, exit, control, .. } = raw;
        let (pieces, from_machine) = mpsc::channel(OUTPUT_QUEUE);
        let (tell, told) = oneshot::channel();
        let killed = Arc::new(AtomicBool::new(false));
        let seen_killed = Arc::clone(&killed);
        let about = self.clone();
        tokio::spawn(async move {
            let status = copy(output, marks, pieces).await;
            let ended = exit.await;
            let _ = tell.send(match status {
                Some(code) if code > 128 && code < 128 + 65 => Ok(ExitKind::Signal(code - 128)),
                Some(code) => Ok(ExitKind::Code(code)),
                None if seen_killed.load(Ordering::Relaxed) => Ok(ExitKind::Signal(9)),
                None => Err(about.about(
                    Error::new(ErrorKind::Unavailable, "the connection to the machine was lost")
                        .with_context("client", format!("{ended:?}")),
                )),
            });
        });
        let exit = async move {
            told.await.unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Unavailable, "the connection to the machine was lost"))
            })
        };
        RawProcess {
            pid: None,
            output: stream::unfold(from_machine, |mut rx| async move { Some((Ok(rx.recv().await?), rx)) })
                .boxed(),
            stdin: stdin.map(|inner| Box::pin(Bounded { inner, left: INPUT_MAX_BYTES }) as _),
            exit: exit.boxed(),
            control: Box::new(PlainControl {
                machine: self.clone(),
                group,
                client: control,
                killed,
                armed: true,
            }),
        }
    }

    async fn shell_call(&self, script: &'static str) -> Result<Call, Failure> {
        let mut call = Call::new("exec", self.exec_limit());
        // The command itself is the first of them.
        call = call.args(self.exec_args().await?.into_iter().skip(1));
        Ok(call.args(["sh", "-c", script, "sh"]))
    }

    async fn kill_group(&self, signal: &'static str, group: &str) -> Result<()> {
        let call = self.shell_call(KILL).await?.args([signal, group]);
        self.client().call(call).await.map(drop).map_err(|f| self.about(f.into_error()))
    }
}

/// What the script could not do.
fn refused(what: &str, spec: &CommandSpec) -> Error {
    match what {
        "cwd" => Error::new(ErrorKind::NotFound, "the working directory cannot be entered")
            .with_context("field", "cwd")
            .with_context("cwd", spec.cwd.as_deref().unwrap_or("home")),
        _ => Error::new(ErrorKind::NotFound, "no such program")
            .with_context("program", spec.program.display().split(' ').next().unwrap_or_default()),
    }
    .with_operation("spawn")
}

/// Passes output on; gives the status the script told.
async fn copy(
    mut output: stream::BoxStream<'static, Result<(Channel, Bytes)>>,
    mut marks: Marks,
    pieces: mpsc::Sender<(Channel, Bytes)>,
) -> Option<i32> {
    let mut status = None;
    let mut open = true;
    // What came together with the first word was not looked at yet.
    let held: Vec<Channel> = marks.held.iter().map(|(channel, _)| *channel).collect();
    let mut begun =
        stream::iter(held.into_iter().map(|channel| Ok((channel, Bytes::new())))).chain(&mut output);
    while let Some(Ok((channel, mut data))) = begun.next().await {
        loop {
            let (before, said) = marks.push(channel, &std::mem::take(&mut data));
            if open && !before.is_empty() {
                // Nobody reads it: the program goes on as if somebody did.
                open = pieces.send((channel, before)).await.is_ok();
            }
            match said {
                Some(said) if said.what == "exit" => status = said.value.parse().ok(),
                Some(_) => {}
                None => break,
            }
        }
    }
    for (channel, rest) in marks.rest() {
        if open {
            open = pieces.send((channel, rest)).await.is_ok();
        }
    }
    status
}

/// A word of the script: `MARK:WHAT:VALUE:`.
struct Said {
    what: String,
    value: String,
}

/// Finds the words of the script in what comes from the machine.
struct Marks {
    mark: Vec<u8>,
    /// What could be the beginning of a word.
    held: Vec<(Channel, BytesMut)>,
}

/// Longest word behind a mark.
const WORD_MAX_BYTES: usize = 64;

impl Marks {
    fn new(mark: &str) -> Self {
        Self { mark: format!("{mark}:").into_bytes(), held: Vec::new() }
    }

    /// What is output, and the word if there is one.
    fn push(&mut self, channel: Channel, data: &[u8]) -> (Bytes, Option<Said>) {
        let mut all = match self.held.iter().position(|(c, _)| *c == channel) {
            Some(at) => self.held.swap_remove(at).1,
            None => BytesMut::new(),
        };
        all.extend_from_slice(data);
        let mark = self.mark.as_slice();
        if let Some(at) = memchr::memmem::find(&all, mark) {
            let word = all.get(at + mark.len()..).unwrap_or_default();
            let mut colons = word.iter().enumerate().filter(|(_, b)| **b == b':').map(|(i, _)| i);
            if let (Some(first), Some(second)) = (colons.next(), colons.next()) {
                let text = |range: std::ops::Range<usize>| {
                    String::from_utf8_lossy(word.get(range).unwrap_or_default()).into_owned()
                };
                let said = Said { what: text(0..first), value: text(first + 1..second) };
                let end = at + mark.len() + second + 1;
                let before = all.split_to(at).freeze();
                let mut rest = all.split_off(end - at);
                // The line of the first word ends in a line break, which on a terminal is two characters.
                if said.what == "start" {
                    let breaks = rest.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count().min(2);
                    let _ = rest.split_to(breaks);
                }
                if !rest.is_empty() {
                    self.held.push((channel, rest));
                }
                return (before, Some(said));
            }
            if word.len() < WORD_MAX_BYTES {
                let before = all.split_to(at).freeze();
                self.held.push((channel, all));
                return (before, None);
            }
        }
        // The end may be the beginning of a mark.
        let longest = mark.len().min(all.len());
        let keep =
            (1..=longest).rev().find(|n| all.ends_with(mark.get(..*n).unwrap_or_default())).unwrap_or(0);
        let rest = all.split_off(all.len() - keep);
        if !rest.is_empty() {
            self.held.push((channel, rest));
        }
        (all.freeze(), None)
    }

    fn rest(self) -> impl Iterator<Item = (Channel, Bytes)> {
        self.held.into_iter().map(|(channel, data)| (channel, data.freeze()))
    }
}

/// Input that ends with an error rather than be lost.
struct Bounded {
    inner: Pin<Box<dyn AsyncWrite + Send>>,
    left: usize,
}

impl AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.left == 0 && !data.is_empty() {
            let why = "without python3 on the machine, input ends at 2000000 bytes";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::FileTooLarge, why)));
        }
        let most = data.len().min(self.left);
        let written =
            std::task::ready!(self.inner.as_mut().poll_write(cx, data.get(..most).unwrap_or_default()));
        if let Ok(n) = &written {
            self.left -= n;
        }
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.as_mut().poll_shutdown(cx)
    }
}

/// Signals, by further calls.
struct PlainControl {
    machine: MachineExecutor,
    group: String,
    client: Box<dyn ProcessControl>,
    killed: Arc<AtomicBool>,
    armed: bool,
}

impl fmt::Debug for PlainControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlainControl").field("group", &self.group).finish_non_exhaustive()
    }
}

#[async_trait]
impl ProcessControl for PlainControl {
    async fn signal(&self, signal: Signal) -> Result<()> {
        let name = match signal {
            Signal::Hangup => "HUP",
            Signal::Interrupt => "INT",
            Signal::Quit => "QUIT",
            Signal::Kill => "KILL",
            Signal::User1 => "USR1",
            Signal::User2 => "USR2",
            Signal::Terminate => "TERM",
            Signal::Continue => "CONT",
            Signal::Stop => "STOP",
        };
        if signal == Signal::Kill {
            self.killed.store(true, Ordering::Relaxed);
        }
        self.machine.kill_group(name, &self.group).await
    }

    async fn resize(&self, size: PtySize) -> Result<()> {
        // The client passes the size of its own terminal on.
        self.client.resize(size).await
    }

    fn disarm(&mut self) {
        self.armed = false;
        self.client.disarm();
    }
}

impl Drop for PlainControl {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (machine, group) = (self.machine.clone(), std::mem::take(&mut self.group));
        runtime.spawn(async move {
            if let Err(error) = machine.kill_group("KILL", &group).await {
                tracing::warn!(%error, "a program may go on running");
            }
        });
    }
}

/// Whether a start failed for want of Python.
pub(super) fn lacks_python(error: &Error) -> bool {
    error.kind() == ErrorKind::Unsupported
        && error.context_value("said").is_some_and(|said| said.contains("python3"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_out_wherever_they_are_torn() {
        let text = b"noise m:start:77:\nout\nput m:exi m:exit:3:";
        for at in 0..text.len() {
            let mut marks = Marks::new("m");
            let (mut seen, mut said) = (Vec::new(), Vec::new());
            let (a, b) = text.split_at(at);
            // What comes with a word is looked at with the next piece, as more always comes.
            for piece in [a, b, b"", b""] {
                let (out, word) = marks.push(Channel::Stderr, piece);
                seen.extend_from_slice(&out);
                said.extend(word.map(|w| format!("{}={}", w.what, w.value)));
            }
            marks.rest().for_each(|(_, rest)| seen.extend_from_slice(&rest));
            assert_eq!(said, ["start=77", "exit=3"], "{at}");
            assert_eq!(String::from_utf8_lossy(&seen), "noise out\nput m:exi ", "{at}");
        }
    }

    #[test]
    fn what_a_shell_cannot_do_is_refused() {
        let spec = CommandSpec::argv(["true"]).with_env("A-B", "x");
        assert_eq!(script(&spec, "m").unwrap_err().kind(), ErrorKind::InvalidInput);
        let spec = CommandSpec::argv(["true"]).with_user("root");
        assert_eq!(script(&spec, "m").unwrap_err().kind(), ErrorKind::Unsupported);
        let spec = CommandSpec::argv(["-x", "it's"]).with_cwd("-d").with_env("A", "$(x)");
        let text = script(&spec, "m").unwrap();
        assert!(text.contains("export A='$(x)'") && text.contains("'-x' 'it'\\''s'"), "{text}");
        assert!(text.contains("cd -- ./-d "), "{text}");
    }
}
