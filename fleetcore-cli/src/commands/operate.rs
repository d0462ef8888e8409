//! `fleetcore create`, `start`, `stop`, `delete`, `action`

use std::io::{IsTerminal as _, Write as _};

use fleetcore::{
    ActionInfo, ArgumentKind, CommandEvent, CommandId, Error, ErrorKind, Json, MachineSpec, Operation,
    Result, StopMode, Target,
};
use fleetcore_http::client::{AttachEvent, parse_problem};
use futures::StreamExt as _;

use crate::{
    cli::{Action, Create, Delete, Output, Start, Stop},
    config::Settings,
    control::{self, Control, Done, Running},
    error::{Failure, Outcome, note, one_line, report},
    exit, parse, render,
    signals::StopSignals,
};

/// Makes a machine.
pub(crate) async fn create(args: Create, settings: &Settings) -> Outcome {
    let mut spec = MachineSpec::default();
    spec.image = args.image;
    spec.cpus = args.cpus;
    spec.memory_bytes = args.memory;
    spec.disk_bytes = args.disk;
    spec.region = args.region;
    spec.labels = args.label.into_iter().collect();
    spec.options = args.option.iter().map(|(k, v)| (k.clone(), parse::loose(v))).collect();
    if let Some(file) = &args.user_data {
        let text = if file.as_os_str() == "-" {
            std::io::read_to_string(std::io::stdin())
        } else {
            std::fs::read_to_string(file)
        };
        let text = text.map_err(|e| Error::io("read user data", e).with_context("path", file.display()))?;
        spec.user_data = Some(text.into());
    }
    if let Some(name) = args.target.machine_id() {
        name.as_str().clone_into(&mut spec.name);
    }
    let operation = Operation::Create(Box::new(spec));
    each(std::slice::from_ref(&args.target), &operation, args.no_wait, settings).await
}

/// Starts machines.
pub(crate) async fn start(args: Start, settings: &Settings) -> Outcome {
    each(&args.targets, &Operation::Start, args.no_wait, settings).await
}

/// Stops machines.
pub(crate) async fn stop(args: Stop, settings: &Settings) -> Outcome {
    let mode = match (args.force, args.suspend) {
        (true, _) => StopMode::Force,
        (_, true) => StopMode::Suspend,
        _ => StopMode::Graceful,
    };
    each(&args.targets, &Operation::Stop(mode), args.no_wait, settings).await
}

/// Deletes machines.
pub(crate) async fn delete(args: Delete, settings: &Settings) -> Outcome {
    if !args.yes {
        let names: Vec<String> = args.targets.iter().map(ToString::to_string).collect();
        confirm(&format!("Delete {}?", names.join(", ")))?;
    }
    each(&args.targets, &Operation::Delete { purge: args.purge }, args.no_wait, settings).await
}

/// Asks somebody, if somebody is there.
fn confirm(question: &str) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Error::new(ErrorKind::InvalidInput, "nobody can be asked here")
            .with_context("field", "yes")
            .with_context("hint", "give --yes to go ahead")
            .into());
    }
    let mut line = String::new();
    let asked = write!(std::io::stderr(), "{} [y/N] ", one_line(question))
        .and_then(|()| std::io::stdin().read_line(&mut line));
    asked.map_err(|e| Error::io("ask", e))?;
    if matches!(line.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(Failure::Code(exit::CANCELLED)) }
}

/// Does the same to each target. All are tried; the first failure gives the exit code.
async fn each(targets: &[Target], operation: &Operation, no_wait: bool, settings: &Settings) -> Outcome {
    let mut stops = StopSignals::listen()?;
    let control = stops.or(control::open(settings)).await?;
    let mut first = None;
    for target in targets {
        let gone = matches!(operation, Operation::Delete { .. });
        match one(&*control, target, operation.clone(), !no_wait, &mut stops, settings).await {
            Ok(Some(id)) => match settings.output {
                Output::Json => render::print(&format!("{{\"id\":\"{id}\"}}\n"))?,
                _ => render::print(&format!("{id}\n"))?,
            },
            Ok(None) if gone && settings.output == Output::Json => {
                render::print(&format!("{}\n", serde_json::json!({ "target": target, "gone": true })))?;
            }
            Ok(None) if gone => render::print(&format!("{target}\n"))?,
            Ok(None) if settings.output == Output::Json => {
                render::one(&control.machine(target).await?, settings.output, settings.quiet)?;
            }
            Ok(None) => render::print(&format!("{target}\n"))?,
            // The user has had enough.
            Err(Failure::Code(code)) => {
                first = Some(code);
                break;
            }
            Err(failure) => {
                let failure = match failure {
                    Failure::Error(e) if e.context_value("target").is_none() => {
                        Failure::Error(e.with_context("target", target))
                    }
                    other => other,
                };
                let code = report(&failure, settings.output);
                first.get_or_insert(code);
            }
        }
    }
    control.close().await;
    match first {
        Some(code) => Err(Failure::Code(code)),
        None => Ok(exit::OK),
    }
}

/// Does something to one target; gives the id of the command if nobody waits for it.
async fn one(
    control: &dyn Control,
    target: &Target,
    operation: Operation,
    wait: bool,
    stops: &mut StopSignals,
    settings: &Settings,
) -> Result<Option<CommandId>, Failure> {
    let id = CommandId::generate();
    let done = stops.or(control.operate(id, target, operation, wait)).await;
    if let Err(Failure::Code(_)) = &done {
        // The request may be on its way. What was not begun cannot be cancelled, and that is fine.
        let _ = control.cancel(id).await;
    }
    match done? {
        Done::Begun(id, None) => Ok(Some(id)),
        Done::Begun(_, Some(running)) => follow(running, stops, settings).await.map(|_| None),
        Done::Answered(_) => Ok(None),
    }
}

/// Shows the progress of an operation to its end; gives its last line, which is not shown. The first signal cancels it, the
/// second one leaves it alone.
async fn follow(
    running: Running,
    stops: &mut StopSignals,
    settings: &Settings,
) -> Result<Option<String>, Failure> {
    let Running { mut events, input } = running;
    let mut stopped = None;
    let (mut text, mut lines): (Vec<u8>, Vec<String>) = (Vec::new(), Vec::new());
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            stop = stops.next() => {
                if stopped.is_some() {
                    return Err(Failure::Code(stop.exit_code()));
                }
                stopped = Some(stop);
                note(settings.quiet, "giving it up; once more to leave at once");
                let _ = input.cancel().await;
                continue;
            }
        };
        let event = event
            .ok_or_else(|| Error::new(ErrorKind::Unavailable, "the end of the operation was not seen"))??;
        match event {
            AttachEvent::Command(CommandEvent::Output(chunk)) => {
                text.extend_from_slice(&chunk.data);
                while let Some(end) = text.iter().position(|b| *b == b'\n') {
                    let line: Vec<u8> = text.drain(..=end).collect();
                    lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
                }
                // The last two may be the problem, or the answer.
                while lines.len() > 2 {
                    note(settings.quiet, &lines.remove(0));
                }
            }
            AttachEvent::Command(CommandEvent::Exited(status)) => {
                if status.success() {
                    let last = lines.pop();
                    lines.iter().for_each(|line| note(settings.quiet, line));
                    return Ok(last);
                }
                if let Some(stop) = stopped {
                    return Err(Failure::Code(stop.exit_code()));
                }
                return Err(Failure::Error(problem(&lines)));
            }
            AttachEvent::Problem(e) => note(settings.quiet, e.message()),
            AttachEvent::Reconnecting(_) => note(settings.quiet, "connection lost, trying again"),
            AttachEvent::Reconnected => note(settings.quiet, "connected again"),
            _ => {}
        }
    }
}

/// The error in the last lines of an operation.
fn problem(lines: &[String]) -> Error {
    let found = lines.iter().rev().find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(parse_problem(line.get("problem")?.to_string().as_bytes()))
    });
    found.unwrap_or_else(|| Error::new(ErrorKind::Cancelled, "it was given up"))
}

/// Does an action, or lists them.
pub(crate) async fn action(args: Action, settings: &Settings) -> Outcome {
    let mut stops = StopSignals::listen()?;
    let control = stops.or(control::open(settings)).await?;
    let target = if args.target.contains('/') { Some(args.target.parse::<Target>()?) } else { None };
    let agent = target.as_ref().and_then(|t| t.agent()).map(|a| a.as_str().to_owned());
    let provider = target.as_ref().and_then(Target::provider).unwrap_or(&args.target).to_owned();
    let actions = control.actions(agent.as_deref(), &provider).await?;
    let Some(name) = &args.name else {
        render::list(&actions.into_iter().map(Listed).collect::<Vec<_>>(), settings.output, settings.quiet)?;
        return Ok(exit::OK);
    };
    let info = ActionInfo::find(&actions, name)?;
    let values = typed(info, &args.args)?;
    if info.destroys && !args.yes {
        confirm(&format!("{}: {} This cannot be undone. Go ahead?", args.target, info.about))?;
    }
    let id = CommandId::generate();
    let asked = async {
        match &target {
            Some(target) => {
                let operation = Operation::Act { action: name.clone(), args: values };
                control.operate(id, target, operation, true).await
            }
            None => control.act_provider(id, &provider, name, values).await,
        }
    };
    let done = stops.or(asked).await?;
    let answer = match done {
        Done::Answered(value) => Some(value),
        Done::Begun(_, Some(running)) => {
            let last = follow(running, &mut stops, settings).await?;
            let answer = last.as_ref().and_then(|line| serde_json::from_str(line).ok());
            if let (None, Some(line)) = (&answer, &last) {
                note(settings.quiet, line);
            }
            answer
        }
        Done::Begun(_, None) => None,
    };
    if let Some(answer) = answer.filter(|a| !a.is_null()) {
        let text = serde_json::to_string_pretty(&answer)
            .map_err(|e| Error::new(ErrorKind::Unexpected, "the answer cannot be shown").with_source(e))?;
        render::print(&format!("{text}\n"))?;
    }
    control.close().await;
    Ok(exit::OK)
}

/// Arguments of the types the action wants.
fn typed(info: &ActionInfo, pairs: &[(String, String)]) -> Result<Json> {
    let mut args = Json::new();
    for (key, text) in pairs {
        let kind = info.arguments.iter().find(|a| a.name == *key).map(|a| a.kind);
        let bad = |rule: &'static str| Error::invalid("args", rule).with_context("argument", key);
        let value = match kind {
            Some(ArgumentKind::Integer) => {
                text.parse::<u64>().map_err(|_| bad("a whole number that is not negative"))?.into()
            }
            Some(ArgumentKind::Flag) => text.parse::<bool>().map_err(|_| bad("true or false"))?.into(),
            Some(ArgumentKind::List) => {
                let list = args.entry(key.clone()).or_insert_with(|| serde_json::Value::Array(Vec::new()));
                if let Some(list) = list.as_array_mut() {
                    list.push(text.as_str().into());
                }
                continue;
            }
            // What is not known is refused by the provider, with the names of those that are.
            _ => text.as_str().into(),
        };
        args.insert(key.clone(), value);
    }
    Ok(args)
}

/// An action in a list.
#[derive(serde::Serialize)]
#[serde(transparent)]
struct Listed(ActionInfo);

impl Listed {
    fn arguments(&self) -> String {
        let arguments = self.0.arguments.iter();
        let shown = arguments.map(|a| if a.required { a.name.clone() } else { format!("[{}]", a.name) });
        shown.collect::<Vec<_>>().join(" ")
    }
}

impl render::Row for Listed {
    const HEAD: &'static [&'static str] = &["ACTION", "ARGUMENTS", "ABOUT"];

    fn cells(&self) -> Vec<render::Cell> {
        vec![self.0.name.clone().into(), self.arguments().into(), self.0.about.clone().into()]
    }

    fn fields(&self) -> Vec<String> {
        vec![self.0.name.clone(), self.arguments(), self.0.about.clone()]
    }

    fn key(&self) -> String {
        self.0.name.clone()
    }
}
