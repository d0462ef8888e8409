//! Tools for commands.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use fleetcore::{
    CommandId, CommandSpec, CommandState, Error, ErrorKind, ExitKind, ExitStatus, Io, Offset, Result, Target,
};
use futures::StreamExt as _;
use serde_json::{Value, json};

use super::{
    answer::{json_of, readable, state},
    args,
    call::{Call, bytes, given_up, millis},
    follow::follow,
};
use crate::client::wire::{Command, CommandQuery, NewCommand};

/// Output of `run` per channel unless the call says otherwise, and most of it.
const RUN_BYTES: (usize, usize) = (16 << 10, 1 << 20);
/// The same for reading output.
const READ_BYTES: (usize, usize) = (32 << 10, 1 << 20);
/// Time limit of `run` unless the call says otherwise.
const RUN_MS: u64 = 600_000;
/// Longest a tool waits for something that goes on without it.
const WAIT_MS: u64 = 600_000;
/// Longest a part of the output that is there takes to arrive.
const ARRIVAL: Duration = Duration::from_secs(10);
/// Label of commands that tools started.
const LABEL: (&str, &str) = ("via", "mcp");

struct What {
    argv: Option<Vec<String>>,
    shell: Option<String>,
    cwd: Option<String>,
    env: BTreeMap<String, String>,
    user: Option<String>,
    stdin: bool,
    timeout_ms: Option<u64>,
}

fn request(id: CommandId, target: &Target, what: What) -> Result<NewCommand> {
    let mut spec = match (what.argv, what.shell) {
        (Some(argv), None) => CommandSpec::argv(argv),
        (None, Some(script)) => CommandSpec::shell(script),
        _ => return Err(Error::invalid("argv", "given, or shell instead, but not both")),
    };
    spec.cwd = what.cwd;
    spec.env = what.env.into_iter().map(|(k, v)| (k, v.into())).collect();
    spec.user = what.user;
    spec.io = Io::Pipes { stdin: what.stdin, merge: false };
    spec.timeout = what.timeout_ms.map(Duration::from_millis);
    spec.labels.insert(LABEL.0.to_owned(), LABEL.1.to_owned());
    let mut request = NewCommand::from_spec(target, &spec)?;
    request.id = Some(id.to_string());
    Ok(request)
}

/// `run`
pub(super) async fn run(call: &Call, args: args::Run) -> Result<Value> {
    let target = call.target(&args.target)?;
    let each = bytes("output_bytes", args.output_bytes, RUN_BYTES.0, RUN_BYTES.1)?;
    let timeout_ms = Some(args.timeout_ms.unwrap_or(RUN_MS)).filter(|ms| *ms > 0);
    let id = CommandId::generate();
    let what = What {
        argv: args.argv,
        shell: args.shell,
        cwd: args.cwd,
        env: args.env,
        user: args.user,
        stdin: args.stdin.is_some(),
        timeout_ms,
    };
    let began = Instant::now();
    call.client.create_command(&request(id, &target, what)?).await?;
    let feeding = async {
        if let Some(text) = args.stdin {
            let data = futures::stream::once(async move { Ok(Bytes::from(text)) });
            // A program that does not read its input is fine: its end tells the rest.
            if let Err(error) = call.client.write_stdin(id, data.boxed(), true).await {
                tracing::debug!(%error, %id, "input was not taken");
            }
        }
        std::future::pending::<()>().await;
    };
    let ended = tokio::select! {
        ended = follow(call, id, each) => ended?,
        () = feeding => return Err(given_up()),
    };
    let mut answer = json!({
        "command": id.to_string(),
        "target": target.to_string(),
        "stdout": ended.stdout.text(),
        "stderr": ended.stderr.text(),
        "output_bytes": ended.bytes,
        "duration_ms": u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
    });
    add_end(&mut answer, &ended.status);
    let cut = ended.stdout.left_out() + ended.stderr.left_out();
    if cut > 0 || ended.gap {
        let note = format!(
            "The middle of the output was left out. command_output with command {id} and an offset reads all of it."
        );
        add(&mut answer, "truncated", true.into());
        add(&mut answer, "note", note.into());
    }
    Ok(answer)
}

fn add(answer: &mut Value, key: &str, value: Value) {
    if let Some(fields) = answer.as_object_mut() {
        fields.insert(key.to_owned(), value);
    }
}

/// How it ended, in the words of the API.
fn add_end(answer: &mut Value, status: &ExitStatus) {
    let (code, signal) = match status.kind {
        ExitKind::Code(code) => (Some(code), None),
        ExitKind::Signal(signal) => (None, Some(signal)),
        _ => (None, None),
    };
    add(answer, "state", state(status.state()));
    add(answer, "exit_code", code.into());
    if signal.is_some() {
        add(answer, "signal", signal.into());
    }
    if let Some(reason) = status.reason.and_then(|r| json_of(&r).ok()) {
        add(answer, "reason", reason);
    }
    if status.leaked {
        add(answer, "leaked", true.into());
    }
}

/// A command in few words.
fn describe(command: &Command) -> Value {
    let mut answer = json!({
        "command": command.id,
        "target": command.target,
        "program": command.display,
        "state": state(command.state),
        "output_bytes": command.output_bytes,
        "created_at": command.created_at,
    });
    if let Some(exit) = &command.exit {
        add(&mut answer, "exit_code", exit.code.into());
        if exit.signal.is_some() {
            add(&mut answer, "signal", exit.signal.into());
        }
        if let Some(reason) = exit.reason.and_then(|r| json_of(&r).ok()) {
            add(&mut answer, "reason", reason);
        }
    }
    if let Some(error) = &command.error {
        add(&mut answer, "error", error.as_str().into());
    }
    if let Some(ms) = command.duration_ms {
        add(&mut answer, "duration_ms", ms.into());
    }
    answer
}

/// `command_start`
pub(super) async fn start(call: &Call, args: args::StartCommand) -> Result<Value> {
    let target = call.target(&args.target)?;
    let what = What {
        argv: args.argv,
        shell: args.shell,
        cwd: args.cwd,
        env: args.env,
        user: args.user,
        stdin: args.stdin,
        timeout_ms: args.timeout_ms.filter(|ms| *ms > 0),
    };
    let command = call.client.create_command(&request(CommandId::generate(), &target, what)?).await?;
    Ok(describe(&command))
}

/// `command_output`
pub(super) async fn output(call: &Call, args: args::CommandOutput) -> Result<Value> {
    let most = bytes("max_bytes", args.max_bytes, READ_BYTES.0, READ_BYTES.1)?;
    let wait = millis("wait_ms", args.wait_ms, 0, WAIT_MS)?;
    let (id, command) = call.command(&args.command).await?;
    if args.offset > command.output_bytes {
        let rule = format!("at most {}, where the output ends", command.output_bytes);
        return Err(Error::invalid("offset", rule).with_context("command", id));
    }
    let there = usize::try_from(command.output_bytes - args.offset).unwrap_or(usize::MAX).min(most);
    let ended = command.state.is_settled();
    let mut data = Vec::with_capacity(there);
    if there > 0 || (!ended && !wait.is_zero()) {
        // What is there comes at once; only for news there is something to wait for.
        let limit = if there > 0 { ARRIVAL } else { wait };
        let reading = async {
            let mut parts = call.client.output_bytes(id, Offset(args.offset), there == 0).await?;
            while let Some(part) = parts.next().await {
                data.extend_from_slice(&part?);
                if data.len() >= there.max(1) {
                    break;
                }
            }
            Ok::<(), Error>(())
        };
        match call.wait(tokio::time::timeout(limit, reading)).await {
            Some(Ok(read)) => read.map_err(|e| e.with_context("command", id))?,
            Some(Err(_)) => {}
            None => return Err(given_up()),
        }
        data.truncate(most);
    }
    // It may have ended meanwhile.
    let command = if ended { command } else { call.client.command(id).await? };
    let read_to = args.offset + data.len() as u64;
    let more = read_to < command.output_bytes || !command.state.is_settled();
    let (text, encoding, used) = readable(&data, more);
    let next = args.offset + used as u64;
    let mut answer = describe(&command);
    add(&mut answer, "offset", args.offset.into());
    add(&mut answer, "next_offset", next.into());
    add(&mut answer, "output", text);
    add(&mut answer, "encoding", encoding.into());
    add(&mut answer, "eof", (command.state.is_settled() && next >= command.output_bytes).into());
    Ok(answer)
}

/// `command_wait`
pub(super) async fn wait(call: &Call, args: args::WaitCommand) -> Result<Value> {
    let limit = millis("timeout_ms", args.timeout_ms, 60_000, WAIT_MS)?;
    let (id, command) = call.command(&args.command).await?;
    if command.state.is_settled() {
        return Ok(describe(&command));
    }
    match call.wait(call.client.wait_command(id, limit)).await {
        Some(command) => Ok(describe(&command?)),
        None => Err(given_up()),
    }
}

/// `command_input`
pub(super) async fn input(call: &Call, args: args::CommandInput) -> Result<Value> {
    let (id, _) = call.command(&args.command).await?;
    let written = args.text.len();
    let data = futures::stream::once(async move { Ok(Bytes::from(args.text)) });
    // A program that does not read holds this up until the caller has had enough.
    match call.wait(call.client.write_stdin(id, data.boxed(), args.close)).await {
        Some(done) => done?,
        None => return Err(given_up()),
    }
    Ok(json!({ "command": id.to_string(), "written": written, "closed": args.close }))
}

/// `command_cancel`
pub(super) async fn cancel(call: &Call, args: args::TheCommand) -> Result<Value> {
    let (id, command) = call.command(&args.command).await?;
    if command.state.is_settled() {
        return Ok(describe(&command));
    }
    match call.client.cancel(id).await {
        // It ended by itself in this moment.
        Err(e) if e.kind() == ErrorKind::InvalidState => {}
        other => drop(other?),
    }
    match call.wait(call.client.wait_command(id, Duration::from_secs(30))).await {
        Some(command) => Ok(describe(&command?)),
        None => Err(given_up()),
    }
}

/// `command_list`
pub(super) async fn list(call: &Call, args: args::ListCommands) -> Result<Value> {
    let limit = bytes("limit", args.limit, 20, 1000)?.max(1);
    let target = args.target.as_deref().map(|t| call.target(t)).transpose()?;
    let mut query = CommandQuery { limit: Some(limit), search: args.search, ..CommandQuery::default() };
    query.target = target.map(|t| t.to_string());
    if args.running {
        query.states = vec![CommandState::Queued, CommandState::Running];
    }
    let page = call.client.commands(&query).await?;
    let covered = |c: &&Command| c.target.parse().is_ok_and(|t| call.options.covers(&t));
    let items: Vec<Value> = page.items.iter().filter(covered).map(describe).collect();
    Ok(json!({ "commands": items, "more": page.next.is_some() }))
}
