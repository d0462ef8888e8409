//! Running things on a machine that has no Python: with its shell alone.
//!
//! The script goes to a file on the machine first, so that variables are in no list of processes and the program has its
//! input, or its terminal, to itself. It says when it starts and how it ended in words behind a mark; what the client's
//! own status says could be the client's.
//!
//! Weaker than the runner: input ends at two megabytes, which kills the program with an error rather than let it take a
//! part for all; a program killed by a signal is told by the shell's 128 and more; what leaves its process group is not
//! found again, nor is a program whose caller leaves in the moment of its start; a program goes on when this process
//! dies; no other users.

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
use bytes::{Buf as _, Bytes, BytesMut};
use futures::{FutureExt as _, StreamExt as _, stream};
use secrecy::ExposeSecret as _;
use tokio::{
    io::AsyncWrite,
    sync::{mpsc, oneshot},
};

use super::{
    client::Call,
    error::Failure,
    executor::{MachineExecutor, refusal},
};
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
/// Removes a script that was not run.
const REMOVE: &str = r#"rm -f -- "$1""#;
/// Signals a process group.
const KILL: &str = r#"kill -s "$1" -- "-$2" 2>/dev/null; exit 0"#;
/// First byte of a mark: one that no program ends its output with, so that none of it has to wait for more. The script
/// writes it in octal.
const LEAD: u8 = 0o36;

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
    let words: Vec<&str> = match &spec.program {
        Program::Argv(argv) => argv.iter().map(String::as_str).collect(),
        Program::Shell(text) => vec!["/bin/sh", "-c", text],
        Program::Action { .. } => return unsupported("action"),
    };
    let Some(program) = words.first() else {
        return Err(Error::invalid("argv", "at least one word"));
    };
    // The shell itself outlives signals to the group, which the program does not inherit, and does not comment on how
    // the program ended.
    let mut text = format!(
        "rm -f -- \"$0\"\n\
         read -r _ _ _ _ g _ </proc/$$/stat\n\
         set -- \"$g\"\n\
         say() {{ printf '\\036%s' \"{mark}:$1:$2:\"; }}\n\
         trap : HUP INT QUIT TERM USR1 USR2\n\
         exec 3>&2 2>/dev/null\n\
         (\n\
         exec 2>&3 3>&-\n"
    );
    if let Some(cwd) = &spec.cwd {
        // A name that begins with a dash is no option, and one with $CDPATH means no other place.
        let at = if cwd.starts_with('/') { cwd.clone() } else { format!("./{cwd}") };
        let at = quote(&at);
        let _ = writeln!(
            text,
            "cd -- {at} 2>/dev/null || {{ if [ -d {at} ]; then say cwd 13; elif [ -e {at} ]; then say cwd 20; else \
             say cwd 2; fi >&2; exit 0; }}"
        );
    }
    if spec.clear_env {
        text.push_str(
            "for v in $(env | sed -n 's/^\\([A-Za-z_][A-Za-z0-9_]*\\)=.*/\\1/p'); do command unset \"$v\"; done\n",
        );
        // Programs are found through it; where the shell is dash they see it too.
        text.push_str("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n");
    }
    // From here on variables are the program's own.
    for (name, value) in &spec.env {
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !plain || name.starts_with(|c: char| c.is_ascii_digit()) || name.is_empty() {
            return Err(Error::invalid("env", "set by names a shell knows: letters, digits and _"));
        }
        let _ = writeln!(text, "export {name}={}", quote(value.expose_secret()));
    }
    let name = quote(program);
    if program.contains('/') {
        let _ = writeln!(
            text,
            "[ -e {name} ] || {{ say program 2 >&2; exit 0; }}\n\
             [ -f {name} ] && [ -x {name} ] || {{ say program 13 >&2; exit 0; }}"
        );
    } else {
        let _ = writeln!(
            text,
            "( f=2; IFS=:; set -f\n\
             for d in $PATH; do [ -f \"${{d:-.}}/\"{name} ] || continue; [ -x \"${{d:-.}}/\"{name} ] && exit 0; f=13; done\n\
             say program \"$f\" >&2; exit 1 ) || exit 0"
        );
    }
    if is_split(spec) {
        text.push_str("say start \"$1\"\n");
    }
    text.push_str("say start \"$1\" >&2\n");
    // Neither something the shell has of its own, nor a variable to set. It would take a dash for an option of `exec`.
    let exec = if program.starts_with('-') { "" } else { "exec " };
    let run = words.iter().map(|w| quote(w)).collect::<Vec<_>>().join(" ");
    let input = if wants_input(spec) { "" } else { " </dev/null" };
    let _ = writeln!(text, "{exec}{run}\n){input}\ns=$?\nsay exit \"$s\" >&3\nexit 0");
    if text.contains('\0') {
        return Err(Error::invalid("argv", "without NUL characters"));
    }
    if text.len() > SCRIPT_MAX_BYTES {
        return Err(Error::invalid("argv", format!("together with env at most {SCRIPT_MAX_BYTES} bytes")));
    }
    Ok(text)
}

/// Whether errors come on a channel of their own.
fn is_split(spec: &CommandSpec) -> bool {
    matches!(spec.io, Io::Pipes { merge: false, .. })
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
        let said = self.client().call(keep).await.map_err(|f| self.about(f.into_error()))?;
        let mut kept = self.kept(&said)?;
        let mut args = self.exec_args().await?;
        args.extend(["sh".to_owned(), kept.file.clone()]);
        let io = match spec.io {
            Io::Pipes { merge, .. } => Io::Pipes { stdin: wants_input(spec), merge },
            other => other,
        };
        let mut raw = self.client().spawn_on("exec", &args, io).await?;
        let mut marks = Marks::new(&mark);
        let mut noise = Vec::new();
        // What comes before the mark is the client's own, or of a talkative profile on the machine.
        loop {
            match raw.output.next().await {
                Some(Ok((channel, data))) => {
                    let mut parts = marks.push(channel, &data).into_iter();
                    while let Some(part) = parts.next() {
                        match part {
                            Part::Noise(data) => {
                                let room = COMPLAINT_MAX_BYTES.saturating_sub(noise.len());
                                noise.extend(data.iter().take(room));
                            }
                            Part::Said(said) if said.what == "start" => {
                                kept.used = true;
                                let group = group(&said.value).map_err(|e| self.about(e))?;
                                let parts = parts.map(|part| (channel, part)).collect();
                                return Ok(self.assemble_plain(raw, marks, parts, group));
                            }
                            Part::Said(said) => {
                                kept.used = true;
                                raw.control.disarm();
                                return Err(self.about(refused(&said, spec)));
                            }
                            Part::Output(_) => {}
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
                    let said = String::from_utf8_lossy(&noise);
                    return Err(self.about(Failure::classify("exec", code, &said).into_error()));
                }
            }
        }
    }

    /// The file the script is in.
    fn kept(&self, said: &[u8]) -> Result<Kept> {
        // A talkative profile comes before it.
        let said = String::from_utf8_lossy(said);
        match said.lines().last().map(str::trim) {
            Some(file) if file.starts_with('/') => {
                Ok(Kept { machine: self.clone(), file: file.to_owned(), used: false })
            }
            _ => Err(self.about(
                Error::new(ErrorKind::Unexpected, "the machine did not take the script of a command")
                    .with_operation("spawn"),
            )),
        }
    }

    fn assemble_plain(
        &self,
        raw: RawProcess,
        marks: Marks,
        parts: Vec<(Channel, Part)>,
        group: String,
    ) -> RawProcess {
        let RawProcess { output, stdin, exit, control, .. } = raw;
        let (pieces, from_machine) = mpsc::channel(OUTPUT_QUEUE);
        let (tell, told) = oneshot::channel();
        let fate = Arc::new(Fate::default());
        let (about, seen) = (self.clone(), Arc::clone(&fate));
        tokio::spawn(async move {
            let untold = copy(output, marks, parts, pieces, tell).await;
            seen.ended.store(true, Ordering::Relaxed);
            let Some(tell) = untold else { return };
            let _ = tell.send(if seen.killed.load(Ordering::Relaxed) {
                Ok(ExitKind::Signal(9))
            } else {
                let ended = exit.await;
                Err(about.about(
                    Error::new(ErrorKind::Unavailable, "the connection to the machine was lost")
                        .with_context("client", format!("{ended:?}")),
                ))
            });
        });
        let exit = async move {
            told.await.unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Unavailable, "the connection to the machine was lost"))
            })
        };
        let stdin = stdin.map(|inner| {
            let (machine, group, fate) = (self.clone(), group.clone(), Arc::clone(&fate));
            Box::pin(Bounded { inner: Some(inner), left: INPUT_MAX_BYTES, machine, group, fate }) as _
        });
        RawProcess {
            pid: None,
            output: stream::unfold(from_machine, |mut rx| async move { Some((Ok(rx.recv().await?), rx)) })
                .boxed(),
            stdin,
            exit: exit.boxed(),
            control: Box::new(PlainControl {
                machine: self.clone(),
                group,
                client: control,
                fate,
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

    async fn call_shell<const N: usize>(&self, script: &'static str, words: [&str; N]) -> Result<()> {
        let call = self.shell_call(script).await?.args(words);
        self.client().call(call).await.map(drop).map_err(|f| self.about(f.into_error()))
    }

    async fn kill_group(&self, signal: &'static str, group: &str) -> Result<()> {
        self.call_shell(KILL, [signal, group]).await
    }
}

/// A process group as the script tells it: one that may be signalled.
fn group(told: &str) -> Result<String> {
    match told.parse::<u32>() {
        Ok(number) if number > 1 => Ok(number.to_string()),
        _ => {
            Err(Error::new(ErrorKind::Unexpected, "the machine does not tell the process group of a command")
                .with_operation("spawn"))
        }
    }
}

/// What the script could not do: stage and number of the error.
fn refused(said: &Said, spec: &CommandSpec) -> Error {
    let text = match (said.what.as_str(), said.value.as_str()) {
        ("program", "2") => "no such program",
        ("program", _) => "the program cannot be run",
        ("cwd", "2") => "no such working directory",
        ("cwd", "20") => "the working directory is none",
        ("cwd", _) => "the working directory cannot be entered",
        _ => "the shell of the machine did not start the command",
    };
    refusal(&format!("{} {} {text}", said.what, said.value), spec)
}

/// A script on the machine, removed when it was not run.
struct Kept {
    machine: MachineExecutor,
    file: String,
    used: bool,
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.used {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (machine, file) = (self.machine.clone(), std::mem::take(&mut self.file));
        runtime.spawn(async move {
            if let Err(error) = machine.call_shell(REMOVE, [file.as_str()]).await {
                tracing::warn!(%error, "a script may be left on a machine");
            }
        });
    }
}

/// Passes output on and tells the status as soon as the script does; gives `tell` back when it never did.
async fn copy(
    mut output: stream::BoxStream<'static, Result<(Channel, Bytes)>>,
    mut marks: Marks,
    mut parts: Vec<(Channel, Part)>,
    pieces: mpsc::Sender<(Channel, Bytes)>,
    tell: oneshot::Sender<Result<ExitKind>>,
) -> Option<oneshot::Sender<Result<ExitKind>>> {
    let mut tell = Some(tell);
    let mut open = true;
    loop {
        for (channel, part) in parts.drain(..) {
            match part {
                // Nobody reads it: the program goes on as if somebody did.
                Part::Output(data) if open => open = pieces.send((channel, data)).await.is_ok(),
                Part::Said(said) if said.what == "exit" => {
                    let kind = match said.value.parse::<i32>() {
                        Ok(code) if code > 128 && code < 128 + 65 => ExitKind::Signal(code - 128),
                        Ok(code) => ExitKind::Code(code),
                        Err(_) => ExitKind::Unknown,
                    };
                    if let Some(tell) = tell.take() {
                        let _ = tell.send(Ok(kind));
                    }
                }
                _ => {}
            }
        }
        match output.next().await {
            Some(Ok((channel, data))) => {
                parts.extend(marks.push(channel, &data).into_iter().map(|part| (channel, part)));
            }
            _ => break,
        }
    }
    for (channel, rest) in marks.rest() {
        if open {
            open = pieces.send((channel, rest)).await.is_ok();
        }
    }
    tell
}

/// A word of the script: `MARK:WHAT:VALUE:`.
#[derive(Debug, PartialEq)]
struct Said {
    what: String,
    value: String,
}

/// A part of what comes from the machine.
#[derive(Debug, PartialEq)]
enum Part {
    /// Before the program was started.
    Noise(Bytes),
    /// Of the program.
    Output(Bytes),
    /// Of the script.
    Said(Said),
}

/// Finds the words of the script in what comes from the machine.
struct Marks {
    mark: Vec<u8>,
    lines: Vec<Line>,
}

/// One channel.
struct Line {
    channel: Channel,
    /// The script said that the program starts.
    begun: bool,
    /// What could be the beginning of a word.
    held: BytesMut,
}

/// What may be a word.
enum Word {
    Whole { what: usize, value: usize },
    Torn,
    No,
}

/// Longest parts of a word.
const WHAT_MAX_BYTES: usize = 8;
const VALUE_MAX_BYTES: usize = 10;

impl Word {
    /// What stands behind a mark.
    fn at(data: &[u8]) -> Self {
        let end = |from: usize, most: usize, fits: fn(&u8) -> bool| {
            let count = data.iter().skip(from).take_while(|b| fits(b)).count();
            match data.get(from + count) {
                _ if count > most => Err(Self::No),
                None => Err(Self::Torn),
                Some(b':') => Ok(count),
                Some(_) => Err(Self::No),
            }
        };
        let parts = end(0, WHAT_MAX_BYTES, u8::is_ascii_lowercase)
            .and_then(|what| Ok((what, end(what + 1, VALUE_MAX_BYTES, u8::is_ascii_digit)?)));
        parts.map_or_else(|no| no, |(what, value)| Self::Whole { what, value })
    }
}

impl Marks {
    fn new(mark: &str) -> Self {
        let mut lead = vec![LEAD];
        lead.extend_from_slice(mark.as_bytes());
        lead.push(b':');
        Self { mark: lead, lines: Vec::new() }
    }

    /// What is in this piece.
    fn push(&mut self, channel: Channel, data: &[u8]) -> Vec<Part> {
        let at = match self.lines.iter().position(|l| l.channel == channel) {
            Some(at) => at,
            None => {
                self.lines.push(Line { channel, begun: false, held: BytesMut::new() });
                self.lines.len() - 1
            }
        };
        let mut parts = Vec::new();
        if let Some(line) = self.lines.get_mut(at) {
            line.held.extend_from_slice(data);
            while line.cut(&self.mark, &mut parts) {}
        }
        parts
    }

    /// What was held back and is no word after all.
    fn rest(self) -> impl Iterator<Item = (Channel, Bytes)> {
        self.lines.into_iter().filter(|l| l.begun && !l.held.is_empty()).map(|l| (l.channel, l.held.freeze()))
    }
}

impl Line {
    /// Cuts off what comes up to the end of the next word; whether there was one.
    fn cut(&mut self, mark: &[u8], parts: &mut Vec<Part>) -> bool {
        let mut from = 0;
        let behind = |at: usize| at + mark.len();
        while let Some(found) = memchr::memmem::find(self.held.get(from..).unwrap_or_default(), mark) {
            let at = from + found;
            match Word::at(self.held.get(behind(at)..).unwrap_or_default()) {
                Word::Whole { what, value } => {
                    self.put(at, parts);
                    self.held.advance(mark.len());
                    let what = self.take_text(what);
                    let value = self.take_text(value);
                    self.begun |= what == "start";
                    parts.push(Part::Said(Said { what, value }));
                    return true;
                }
                Word::Torn => {
                    self.put(at, parts);
                    return false;
                }
                Word::No => from = at + 1,
            }
        }
        // The end may be the beginning of a mark.
        let longest = (mark.len() - 1).min(self.held.len());
        let begins = |n: &usize| self.held.ends_with(mark.get(..*n).unwrap_or_default());
        let keep = (1..=longest).rev().find(begins).unwrap_or(0);
        self.put(self.held.len() - keep, parts);
        false
    }

    /// Takes so many bytes off as what they are.
    fn put(&mut self, count: usize, parts: &mut Vec<Part>) {
        if count > 0 {
            let data = self.held.split_to(count).freeze();
            parts.push(if self.begun { Part::Output(data) } else { Part::Noise(data) });
        }
    }

    /// Takes so many letters off, and the colon behind them.
    fn take_text(&mut self, count: usize) -> String {
        let text = self.held.split_to(count);
        self.held.advance(1);
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// What is known of a program.
#[derive(Default)]
struct Fate {
    /// Somebody killed it.
    killed: AtomicBool,
    /// Nobody holds its output any more, so its process group may come to mean something else.
    ended: AtomicBool,
}

/// Input that ends with an error rather than be lost. The program is killed before its input ends: it must not take what
/// came for all.
struct Bounded {
    inner: Option<Pin<Box<dyn AsyncWrite + Send>>>,
    left: usize,
    machine: MachineExecutor,
    group: String,
    fate: Arc<Fate>,
}

impl Bounded {
    fn inner(&mut self) -> io::Result<Pin<&mut (dyn AsyncWrite + Send + 'static)>> {
        self.inner.as_mut().map(Pin::as_mut).ok_or_else(too_much)
    }
}

fn too_much() -> io::Error {
    let why = "without python3 on the machine, input ends at 2000000 bytes; the program was killed";
    io::Error::new(io::ErrorKind::FileTooLarge, why)
}

impl AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.left == 0 && !data.is_empty() {
            if let Some(inner) = self.inner.take() {
                self.fate.killed.store(true, Ordering::Relaxed);
                let (machine, group) = (self.machine.clone(), self.group.clone());
                tokio::spawn(async move {
                    if let Err(error) = machine.kill_group("KILL", &group).await {
                        tracing::warn!(%error, "a program got a part of its input only");
                    }
                    drop(inner);
                });
            }
            return Poll::Ready(Err(too_much()));
        }
        let most = data.len().min(self.left);
        let written = std::task::ready!(self.inner()?.poll_write(cx, data.get(..most).unwrap_or_default()));
        if let Ok(n) = &written {
            self.left -= n;
        }
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner()?.poll_shutdown(cx)
    }
}

/// Signals, by further calls.
struct PlainControl {
    machine: MachineExecutor,
    group: String,
    client: Box<dyn ProcessControl>,
    fate: Arc<Fate>,
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
        if self.fate.ended.load(Ordering::Relaxed) {
            return Ok(());
        }
        if signal == Signal::Kill {
            self.fate.killed.store(true, Ordering::Relaxed);
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
        if !self.armed || self.fate.ended.load(Ordering::Relaxed) {
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
        let text = b"noise \x1em:start:77:\nout\nput \x1em:exi \x1em:exit:3:\x1em:";
        for at in 0..text.len() {
            let mut marks = Marks::new("m");
            let (mut noise, mut seen, mut said) = (Vec::new(), Vec::new(), Vec::new());
            let (a, b) = text.split_at(at);
            for part in [a, b].into_iter().flat_map(|piece| marks.push(Channel::Stderr, piece)) {
                match part {
                    Part::Noise(data) => noise.extend_from_slice(&data),
                    Part::Output(data) => seen.extend_from_slice(&data),
                    Part::Said(word) => said.push(format!("{}={}", word.what, word.value)),
                }
            }
            marks.rest().for_each(|(_, rest)| seen.extend_from_slice(&rest));
            assert_eq!(said, ["start=77", "exit=3"], "{at}");
            assert_eq!(noise, b"noise ", "{at}");
            assert_eq!(String::from_utf8_lossy(&seen), "\nout\nput \x1em:exi \x1em:", "{at}");
        }
    }

    #[test]
    fn each_channel_begins_by_itself_and_nothing_else_waits() {
        let mut marks = Marks::new("fleetcore-1");
        marks.push(Channel::Stderr, b"\x1efleetcore-1:start:5:");
        let noise = marks.push(Channel::Stdout, b"hello from .bashrc\n");
        assert_eq!(noise, [Part::Noise("hello from .bashrc\n".into())]);
        let parts = marks.push(Channel::Stdout, b"\x1efleetcore-1:start:5:f");
        assert_eq!(parts.last(), Some(&Part::Output("f".into())));
    }

    #[test]
    fn what_a_shell_cannot_do_is_refused() {
        let spec = CommandSpec::argv(["true"]).with_env("A-B", "x");
        assert_eq!(script(&spec, "m").unwrap_err().kind(), ErrorKind::InvalidInput);
        let spec = CommandSpec::argv(["true"]).with_user("root");
        assert_eq!(script(&spec, "m").unwrap_err().kind(), ErrorKind::Unsupported);
        for told in ["", "0", "1", "x"] {
            assert_eq!(group(told).unwrap_err().kind(), ErrorKind::Unexpected, "{told}");
        }
    }

    /// What the script says and prints on errors and output, run by this host's shell.
    fn run(spec: &CommandSpec) -> (Vec<String>, String, String) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), script(spec, "m").unwrap()).unwrap();
        let out = std::process::Command::new("sh").arg(file.path()).output().unwrap();
        assert!(!file.path().exists(), "variables are left behind");
        let mut marks = Marks::new("m");
        let mut said = Vec::new();
        let mut text = |channel, data: &[u8]| {
            let mut text = String::new();
            for part in marks.push(channel, data) {
                match part {
                    Part::Output(data) => text.push_str(std::str::from_utf8(&data).unwrap()),
                    Part::Said(word) if word.what == "start" => {}
                    Part::Said(word) => said.push(format!("{}={}", word.what, word.value)),
                    Part::Noise(data) => panic!("{data:?}"),
                }
            }
            text
        };
        let (errors, output) = (text(Channel::Stderr, &out.stderr), text(Channel::Stdout, &out.stdout));
        (said, output, errors)
    }

    #[test]
    fn words_and_variables_reach_the_program_as_they_are() {
        let words = ["%s|", "it's", "", "$(x)", "-n", "a\nb", "FOO=bar", "~", "*"];
        let spec = CommandSpec::argv([&["printf"][..], &words].concat());
        assert_eq!(
            run(&spec),
            (vec!["exit=0".into()], "it's||$(x)|-n|a\nb|FOO=bar|~|*|".into(), String::new())
        );
        // Names the script uses itself, and what the shell takes for its own.
        let mut spec = CommandSpec::shell("printf %s \"$g$f$d$v$s\" >&2; exit 4");
        for name in ["g", "f", "d", "v", "s", "IFS"] {
            spec = spec.with_env(name, "7");
        }
        assert_eq!(run(&spec), (vec!["exit=4".into()], String::new(), "77777".into()));
        assert_eq!(run(&CommandSpec::shell("kill -9 $$")).0, ["exit=137"]);
        assert_eq!(run(&CommandSpec::shell("kill -9 $$")).2, "", "the shell does not comment");
        let mut bare = CommandSpec::argv(["env"]).with_env("A", "$(x)");
        bare.clear_env = true;
        let (_, output, _) = run(&bare);
        // What some shells export whatever one tells them; dash never forgets that PATH was exported.
        let shells = ["PWD=", "OLDPWD=", "PATH="];
        let lines = output.lines().filter(|l| !shells.iter().any(|name| l.starts_with(name)));
        assert_eq!(lines.collect::<Vec<_>>(), ["A=$(x)"]);
    }

    #[test]
    fn what_cannot_be_started_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("text"), "no program").unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        for (spec, word) in [
            (CommandSpec::argv(["nosuch"]), "program=2"),
            (CommandSpec::argv(["cd"]), "program=2"),
            (CommandSpec::argv([at("none")]), "program=2"),
            (CommandSpec::argv([at("text")]), "program=13"),
            (CommandSpec::argv(["/"]), "program=13"),
            (CommandSpec::argv(["text"]).with_env("PATH", at("")), "program=13"),
            (CommandSpec::argv(["true"]).with_cwd(at("none")), "cwd=2"),
            (CommandSpec::argv(["true"]).with_cwd("-d"), "cwd=2"),
            (CommandSpec::argv(["true"]).with_cwd(at("text")), "cwd=20"),
        ] {
            assert_eq!(run(&spec).0.first().map(String::as_str), Some(word), "{spec:?}");
        }
    }
}
