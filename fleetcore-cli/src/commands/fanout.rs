//! `fleetcore run` on many targets: output as it comes, a summary at the end.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, Read as _, Seek as _, Write as _},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use fleetcore::{Channel, CommandEvent, CommandId, Error, ErrorKind, FanOut, Result, Target};
use fleetcore_http::client::{
    AttachEvent, parse_problem,
    wire::{Exit, FanOutLine, FanOutSummary},
};
use futures::{StreamExt as _, stream::BoxStream};
use serde_json::json;
use tempfile::SpooledTempFile;
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    exec::{self, Writing},
    run,
};
use crate::{
    cli::{Output, Run},
    config::Settings,
    control::{Control, Running},
    error::{Failure, Outcome, note, one_line, stdout_failed},
    exit, render,
    signals::{Stop, StopSignals},
};

/// Pieces of output that may wait for our own stdout; then the commands wait too.
const PIECES: usize = 256;
/// Longest line that is kept together.
const LINE_MAX: usize = 64 << 10;
/// Output of one target that waits for its end in memory; more of it waits on disk.
const GROUP_IN_MEMORY: usize = 256 << 10;
/// Exit code when not all succeeded.
const SOME_FAILED: u8 = 1;

/// The target, if it is about one: a name, and no option for many.
pub(super) fn single(args: &Run) -> Option<Target> {
    let many = args.parallel.is_some() || args.batch.is_some() || args.max_failures.is_some() || args.group;
    match args.targets.as_slice() {
        [one] if !many => one.exact().cloned(),
        _ => None,
    }
}

/// Something to print.
enum Piece {
    /// A line of output, with its end.
    Line(Channel, Vec<u8>),
    /// All of it: channel, length, bytes, and so on.
    Group(SpooledTempFile),
    /// A remark for people.
    Note(String),
    /// An event, as JSON.
    Event(serde_json::Value),
}

/// Where and of what, then what.
type Said = (String, CommandId, Piece);

/// Runs a command on many targets.
pub(super) async fn fan_out(
    control: &dyn Control,
    args: Run,
    mut stops: StopSignals,
    settings: &Settings,
) -> Outcome {
    if args.interactive {
        let rule = "left out: one input cannot be given to many commands";
        return Err(Error::invalid("interactive", rule).into());
    }
    let (group, detach) = (args.group, args.detach);
    let plan = plan(args)?;
    let id = CommandId::generate();
    let asked = stops.or(control.fan_out(id, plan, !detach)).await;
    if let Err(Failure::Code(_)) = &asked {
        // The request may be on its way. What was not begun cannot be cancelled, and that is fine.
        let _ = control.cancel(id).await;
    }
    let Some(running) = asked? else {
        match settings.output {
            Output::Json => render::print(&format!("{{\"id\":\"{id}\"}}\n"))?,
            _ => render::print(&format!("{id}\n"))?,
        }
        return Ok(exit::OK);
    };
    let mut view = View::new(settings, group);
    let Running { events, input } = running;
    let outcome = view.watch(control, events, &*input, &mut stops).await;
    if outcome.is_err() {
        // Nobody reads any more: the commands would run for nothing.
        let _ = input.cancel().await;
    }
    outcome
}

fn plan(mut args: Run) -> Result<FanOut> {
    let labels = std::mem::take(&mut args.label).into_iter().collect();
    let tags = std::mem::take(&mut args.tag).into_iter().collect();
    let targets = std::mem::take(&mut args.targets);
    let (parallel, batch, max_failures) = (args.parallel, args.batch, args.max_failures);
    let mut command = run::spec(args, false);
    command.labels = tags;
    let mut plan = FanOut::new(targets, command);
    plan.labels = labels;
    plan.parallel = parallel.unwrap_or(plan.parallel);
    plan.batch = batch;
    plan.max_failures = max_failures;
    plan.check()?;
    Ok(plan)
}

struct View<'a> {
    settings: &'a Settings,
    json: bool,
    group: bool,
    readers: JoinSet<()>,
    said: mpsc::Sender<Said>,
    saying: mpsc::Receiver<Said>,
    /// Our own events, two for each target at most.
    events: VecDeque<serde_json::Value>,
    /// How each target ended, for the summary.
    failed: BTreeMap<String, String>,
    summary: Option<FanOutSummary>,
    problem: Option<Error>,
}

impl<'a> View<'a> {
    fn new(settings: &'a Settings, group: bool) -> Self {
        let (said, saying) = mpsc::channel(PIECES);
        Self {
            settings,
            json: settings.output == Output::Json,
            group,
            readers: JoinSet::new(),
            said,
            saying,
            events: VecDeque::new(),
            failed: BTreeMap::new(),
            summary: None,
            problem: None,
        }
    }

    /// Prints what happens until all is over. The first signal ends the commands, the second one leaves at once.
    async fn watch(
        &mut self,
        control: &dyn Control,
        mut events: BoxStream<'static, Result<AttachEvent>>,
        input: &dyn crate::control::Input,
        stops: &mut StopSignals,
    ) -> Outcome {
        let mut stopped: Option<Stop> = None;
        let mut text = Vec::new();
        let mut ended = None;
        let mut printing = Writing::<()>::default();
        let (json, quiet) = (self.json, self.settings.quiet);
        while ended.is_none()
            || !self.readers.is_empty()
            || !self.saying.is_empty()
            || !self.events.is_empty()
            || printing.is_busy()
        {
            if !printing.is_busy()
                && let Some(event) = self.events.pop_front()
            {
                let said = (String::new(), CommandId::generate(), Piece::Event(event));
                printing.start(move || print(said, json, quiet));
            }
            tokio::select! {
                printed = printing.done(), if printing.is_busy() => printed?,
                event = events.next(), if ended.is_none() => {
                    let event = event.ok_or_else(|| {
                        Failure::Exec(Error::new(ErrorKind::Unavailable, "the end of the commands was not seen"))
                    })?;
                    match event.map_err(Failure::Exec)? {
                        AttachEvent::Command(CommandEvent::Output(chunk)) => {
                            text.extend_from_slice(&chunk.data);
                            while let Some(end) = text.iter().position(|b| *b == b'\n') {
                                let line: Vec<u8> = text.drain(..=end).collect();
                                self.heard(control, &line).await?;
                            }
                        }
                        AttachEvent::Command(CommandEvent::Exited(status)) => ended = Some(status),
                        AttachEvent::Problem(e) => note(self.settings.quiet, e.message()),
                        AttachEvent::Reconnecting(_) => note(self.settings.quiet, "connection lost, trying again"),
                        AttachEvent::Reconnected => note(self.settings.quiet, "connected again"),
                        _ => {}
                    }
                }
                Some(said) = self.saying.recv(), if !printing.is_busy() => {
                    printing.start(move || print(said, json, quiet));
                }
                Some(_) = self.readers.join_next(), if !self.readers.is_empty() => {}
                stop = stops.next() => {
                    if stopped.is_some() {
                        return Err(Failure::Code(stop.exit_code()));
                    }
                    stopped = Some(stop);
                    note(self.settings.quiet, "ending all; once more to leave at once");
                    let _ = input.cancel().await;
                }
            }
        }
        self.summarize()?;
        if let Some(stop) = stopped {
            return Ok(stop.exit_code());
        }
        let succeeded = ended.is_some_and(|status| status.success());
        match &self.problem {
            _ if succeeded => Ok(exit::OK),
            // No target at all, say: more than a failure of a command.
            Some(e) if e.kind() != ErrorKind::CommandFailed => {
                let kind = e.kind();
                let again = Error::new(kind, e.message().to_owned());
                Err(Failure::Error(e.context().fold(again, |a, (k, v)| a.with_context(k, v))))
            }
            _ => Ok(SOME_FAILED),
        }
    }

    /// A line of the parent.
    async fn heard(&mut self, control: &dyn Control, line: &[u8]) -> std::result::Result<(), Failure> {
        let Ok(line) = serde_json::from_slice::<FanOutLine>(line) else { return Ok(()) };
        if let Some(summary) = line.summary {
            self.summary = Some(summary);
        }
        if let Some(problem) = &line.problem {
            self.problem = Some(parse_problem(problem.to_string().as_bytes()));
        }
        let Some(name) = line.target.clone().or_else(|| line.provider.as_ref().map(|p| format!("{p}/*")))
        else {
            return Ok(());
        };
        let state = line.state.as_deref().unwrap_or_default();
        let command: Option<CommandId> = line.command.as_deref().and_then(|c| c.parse().ok());
        if state == "running" {
            if self.json {
                self.events.push_back(json!({ "event": "start", "target": name, "command": command }));
            }
            if let Some(id) = command {
                let (said, group) = (self.said.clone(), self.group);
                match control.child(id).await {
                    Ok(events) => drop(self.readers.spawn(read(name, id, events, group, said))),
                    Err(e) => note(self.settings.quiet, &format!("{name}: {}", e.message())),
                }
            }
            return Ok(());
        }
        if state != "succeeded" {
            self.failed.insert(name.clone(), why(&line));
        }
        if self.json {
            self.events.push_back(json!({
                "event": if state == "skipped" { "skipped" } else { "exit" }, "target": name, "command": command,
                "state": state, "exit": line.exit, "error": line.error,
            }));
        }
        Ok(())
    }

    fn summarize(&self) -> std::result::Result<(), Failure> {
        let Some(sum) = self.summary else { return Ok(()) };
        if self.json {
            return json_line(&json!({ "event": "summary", "summary": sum }));
        }
        if self.settings.quiet {
            return Ok(());
        }
        let mut text = String::new();
        for (target, why) in &self.failed {
            text.push_str(&format!("{target}: {}\n", one_line(why)));
        }
        text.push_str(&format!(
            "{} targets: {} succeeded, {} failed",
            sum.targets, sum.succeeded, sum.failed
        ));
        if sum.skipped > 0 {
            text.push_str(&format!(", {} skipped", sum.skipped));
        }
        text.push('\n');
        // Nobody left to tell when stderr is gone.
        let _ = io::stderr().lock().write_all(text.as_bytes());
        Ok(())
    }
}

fn json_line(value: &serde_json::Value) -> std::result::Result<(), Failure> {
    render::print(&format!("{value}\n"))
}

/// Prints one piece. Blocks while nobody reads.
fn print((target, command, piece): Said, json: bool, quiet: bool) -> std::result::Result<(), Failure> {
    match piece {
        Piece::Event(value) => json_line(&value),
        Piece::Note(text) => {
            note(quiet, &format!("{target}: {text}"));
            Ok(())
        }
        Piece::Line(channel, line) if json => {
            let line = line.strip_suffix(b"\n").unwrap_or(&line);
            let mut value =
                json!({ "event": "output", "target": target, "command": command, "channel": channel });
            if let Some(fields) = value.as_object_mut() {
                match std::str::from_utf8(line) {
                    Ok(text) => fields.insert("line".to_owned(), text.into()),
                    Err(_) => fields.insert("base64".to_owned(), BASE64_STANDARD.encode(line).into()),
                };
            }
            json_line(&value)
        }
        Piece::Line(channel, line) => {
            let mut text = format!("{target} | ").into_bytes();
            text.extend_from_slice(&line);
            exec::write(channel, &text)
        }
        Piece::Group(mut spool) => {
            if !json {
                exec::write(Channel::Stdout, format!("==> {target} <==\n").as_bytes())?;
            }
            while let Some((channel, data)) = next_frame(&mut spool).map_err(stdout_failed)? {
                if json {
                    print((target.clone(), command, Piece::Line(channel, data)), json, quiet)?;
                } else {
                    exec::write(channel, &data)?;
                }
            }
            Ok(())
        }
    }
}

/// Why one did not succeed, in a few words.
fn why(line: &FanOutLine) -> String {
    if line.state.as_deref() == Some("skipped") {
        return "skipped".to_owned();
    }
    if let Some(Exit { code, signal, reason, .. }) = &line.exit {
        let reason = reason.map(|r| serde_json::to_value(r).unwrap_or_default());
        return match (reason.as_ref().and_then(|r| r.as_str()), code, signal) {
            (Some("timed_out"), _, _) => "ran into its time limit".to_owned(),
            (Some(reason), _, _) => format!("ended: {}", reason.replace('_', " ")),
            (None, Some(code), _) => format!("exit {code}"),
            (None, None, Some(signal)) => format!("signal {signal}"),
            _ => "how it ended is not known".to_owned(),
        };
    }
    let detail = line.error.as_ref().and_then(|e| e.get("detail")).and_then(|d| d.as_str());
    detail.or(line.state.as_deref()).unwrap_or("failed").to_owned()
}

/// Cuts the output of one command into lines, channel by channel.
#[derive(Default)]
struct Lines(BTreeMap<u8, (Option<Channel>, Vec<u8>)>);

impl Lines {
    /// The lines that are whole now.
    fn push(&mut self, channel: Channel, mut data: &[u8]) -> Vec<(Channel, Vec<u8>)> {
        let (of, held) = self.0.entry(code(channel)).or_default();
        *of = Some(channel);
        let mut whole = Vec::new();
        while let Some(end) = data.iter().position(|b| *b == b'\n') {
            let (line, rest) = data.split_at(end + 1);
            held.extend_from_slice(line);
            whole.push((channel, std::mem::take(held)));
            data = rest;
        }
        held.extend_from_slice(data);
        if held.len() > LINE_MAX {
            held.push(b'\n');
            whole.push((channel, std::mem::take(held)));
        }
        whole
    }

    /// What is left, as lines.
    fn rest(self) -> impl Iterator<Item = (Channel, Vec<u8>)> {
        self.0.into_values().filter_map(|(channel, mut held)| {
            if held.is_empty() {
                return None;
            }
            held.push(b'\n');
            channel.map(|c| (c, held))
        })
    }
}

fn code(channel: Channel) -> u8 {
    match channel {
        Channel::Stderr => 1,
        Channel::Pty => 2,
        Channel::Log => 3,
        _ => 0,
    }
}

/// Reads the output of one command to its end.
async fn read(
    target: String,
    id: CommandId,
    mut events: BoxStream<'static, Result<CommandEvent>>,
    group: bool,
    said: mpsc::Sender<Said>,
) {
    let mut lines = Lines::default();
    let mut spool = SpooledTempFile::new(GROUP_IN_MEMORY);
    // Fails only when nobody prints any more.
    let say = async |piece| said.send((target.clone(), id, piece)).await.is_ok();
    while let Some(event) = events.next().await {
        let whole = match event {
            Ok(CommandEvent::Output(chunk)) => lines.push(chunk.channel, &chunk.data),
            Ok(CommandEvent::Gap { from, to }) => {
                if !say(Piece::Note(format!("bytes {from} to {to} of the output are gone"))).await {
                    return;
                }
                continue;
            }
            Ok(CommandEvent::Exited(_)) => break,
            Ok(_) => continue,
            Err(e) => {
                say(Piece::Note(e.message().to_owned())).await;
                break;
            }
        };
        for (channel, line) in whole {
            if group {
                if let Err(e) = keep(&mut spool, channel, &line) {
                    say(Piece::Note(format!("its output cannot be kept: {e}"))).await;
                    return;
                }
            } else if !say(Piece::Line(channel, line)).await {
                return;
            }
        }
    }
    for (channel, line) in lines.rest() {
        if group {
            // The whole is told below; a full disk has been told above, or costs the last line.
            let _ = keep(&mut spool, channel, &line);
        } else {
            say(Piece::Line(channel, line)).await;
        }
    }
    if group && spool.rewind().is_ok() {
        say(Piece::Group(spool)).await;
    }
}

/// Writes one frame: channel, length, bytes.
fn keep(spool: &mut SpooledTempFile, channel: Channel, line: &[u8]) -> io::Result<()> {
    let length = u32::try_from(line.len()).map_err(io::Error::other)?;
    spool.write_all(&[code(channel)])?;
    spool.write_all(&length.to_le_bytes())?;
    spool.write_all(line)
}

/// Reads one frame; `None` at the end.
fn next_frame(spool: &mut SpooledTempFile) -> io::Result<Option<(Channel, Vec<u8>)>> {
    let mut head = [0; 5];
    match spool.read_exact(&mut head) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let [channel, a, b, c, d] = head;
    let mut line = vec![0; u32::from_le_bytes([a, b, c, d]) as usize];
    spool.read_exact(&mut line)?;
    let channel = match channel {
        1 => Channel::Stderr,
        2 => Channel::Pty,
        3 => Channel::Log,
        _ => Channel::Stdout,
    };
    Ok(Some((channel, line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_and_channels_do_not_mix() {
        let mut lines = Lines::default();
        assert!(lines.push(Channel::Stdout, b"ab").is_empty());
        assert!(lines.push(Channel::Stderr, b"x").is_empty());
        let whole = lines.push(Channel::Stdout, b"c\nd\ne");
        assert_eq!(whole, [(Channel::Stdout, b"abc\n".to_vec()), (Channel::Stdout, b"d\n".to_vec())]);
        let long = lines.push(Channel::Stdout, &vec![b'z'; LINE_MAX]);
        assert_eq!((long.len(), long[0].1.len()), (1, LINE_MAX + 2), "a line without end is cut");
        assert_eq!(lines.rest().collect::<Vec<_>>(), [(Channel::Stderr, b"x\n".to_vec())]);
    }

    #[test]
    fn what_waits_comes_back_as_it_was() {
        let mut spool = SpooledTempFile::new(4);
        keep(&mut spool, Channel::Stderr, b"one\n").unwrap();
        keep(&mut spool, Channel::Stdout, b"").unwrap();
        spool.rewind().unwrap();
        assert_eq!(next_frame(&mut spool).unwrap(), Some((Channel::Stderr, b"one\n".to_vec())));
        assert_eq!(next_frame(&mut spool).unwrap(), Some((Channel::Stdout, Vec::new())));
        assert_eq!(next_frame(&mut spool).unwrap(), None);
    }
}
