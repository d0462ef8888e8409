//! `fleetcore logs`

use base64::{Engine as _, prelude::BASE64_STANDARD};
use fleetcore::{Channel, CommandEvent, Offset, OutputChunk};
use futures::StreamExt as _;

use super::exec::write;
use crate::{
    cli::{Logs, Output},
    config::Settings,
    control::{self, find_command},
    error::{Failure, Outcome, note},
    exit, render,
    signals::StopSignals,
};

/// Prints output: standard error to stderr, everything else to stdout.
pub(crate) async fn logs(args: Logs, settings: &Settings) -> Outcome {
    let mut stops = StopSignals::listen()?;
    let control = stops.or(control::open(settings)).await?;
    let id = stops.or(find_command(&*control, &args.id)).await?;
    let command = stops.or(control.command(id)).await?;
    // Without --follow a command that runs is printed up to now.
    let until = (!args.follow && !command.state.is_settled()).then_some(command.output_bytes);
    let from = Offset(args.from);
    if until.is_some_and(|end| from.0 >= end) {
        return Ok(exit::OK);
    }
    let times = args.timestamps || settings.output == Output::Json;
    let mut events = stops.or(control.output(id, from, times)).await?;
    let mut printer =
        Printer { timestamps: args.timestamps, json: settings.output == Output::Json, at_start: [true; 2] };
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            // Leaving ends the reading, not the command.
            stop = stops.next() => return Ok(stop.exit_code()),
        };
        match event {
            Some(event) => match event? {
                CommandEvent::Output(mut chunk) => {
                    if let Some(end) = until {
                        let room = usize::try_from(end.saturating_sub(chunk.offset.0)).unwrap_or(usize::MAX);
                        chunk.data.truncate(room);
                    }
                    let reached = chunk.end().0;
                    printer.output(&chunk)?;
                    if until.is_some_and(|end| reached >= end) {
                        return Ok(exit::OK);
                    }
                }
                CommandEvent::Gap { from, to } => {
                    printer.gap(from, to, settings.quiet)?;
                    if until.is_some_and(|end| to.0 >= end) {
                        return Ok(exit::OK);
                    }
                }
                CommandEvent::Exited(_) => return Ok(exit::OK),
                _ => {}
            },
            None => return Ok(exit::OK),
        }
    }
}

struct Printer {
    timestamps: bool,
    json: bool,
    /// Whether the next byte of stdout and stderr begins a line.
    at_start: [bool; 2],
}

impl Printer {
    fn output(&mut self, chunk: &OutputChunk) -> Result<(), Failure> {
        if chunk.data.is_empty() {
            return Ok(());
        }
        if self.json {
            // One object per line, as the event stream of the HTTP API has it.
            let mut event = serde_json::json!({
                "event": "output", "offset": chunk.offset, "channel": chunk.channel, "at": chunk.at,
            });
            let (key, value) = match std::str::from_utf8(&chunk.data) {
                Ok(text) => ("text", text.to_owned()),
                Err(_) => ("base64", BASE64_STANDARD.encode(&chunk.data)),
            };
            if let Some(object) = event.as_object_mut() {
                object.insert(key.to_owned(), value.into());
            }
            return render::print(&format!("{event}\n"));
        }
        if !self.timestamps {
            return write(chunk.channel, &chunk.data);
        }
        let [stdout, stderr] = &mut self.at_start;
        let at_start = if matches!(chunk.channel, Channel::Stderr | Channel::Log) { stderr } else { stdout };
        let mut text = Vec::with_capacity(chunk.data.len() + 64);
        for line in chunk.data.split_inclusive(|b| *b == b'\n') {
            if *at_start {
                text.extend_from_slice(format!("{:.3} ", chunk.at).as_bytes());
            }
            text.extend_from_slice(line);
            *at_start = line.ends_with(b"\n");
        }
        write(chunk.channel, &text)
    }

    fn gap(&self, from: Offset, to: Offset, quiet: bool) -> Result<(), Failure> {
        if self.json {
            let event = serde_json::json!({ "event": "gap", "from": from, "to": to });
            return render::print(&format!("{event}\n"));
        }
        note(quiet, &format!("bytes {from} to {to} of the output are gone"));
        Ok(())
    }
}
