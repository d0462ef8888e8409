//! `fleetcore run`

use std::io::IsTerminal as _;

use fleetcore::{CommandSpec, Error, Io, Labels, Overflow, Program, Target};

use super::{
    exec::{Left, follow, interact, pipe_stdin, start},
    fanout,
};
use crate::{
    cli::{Output, Run},
    config::Settings,
    control::{self, Control, Ownership},
    error::{Failure, Outcome},
    exit, render,
    signals::StopSignals,
    tty,
};

/// Runs a command; gives its exit code.
pub(crate) async fn run(args: Run, settings: &Settings) -> Outcome {
    let mut stops = StopSignals::listen()?;
    let control = stops.or(control::open(settings)).await?;
    let outcome = match fanout::single(&args) {
        Some(target) => run_on(&*control, target, args, stops, settings).await,
        None => fanout::fan_out(&*control, args, stops, settings).await,
    };
    control.close().await;
    outcome
}

async fn run_on(
    control: &dyn Control,
    target: Target,
    args: Run,
    mut stops: StopSignals,
    settings: &Settings,
) -> Outcome {
    let forward = !args.no_stdin && !args.detach && (args.interactive || !std::io::stdin().is_terminal());
    let keys = args.tty && std::io::stdin().is_terminal();
    let detach = args.detach;
    let tty = args.tty;
    let labels: Labels = args.label.iter().chain(&args.tag).cloned().collect();
    let mut spec = spec(args, forward);
    spec.labels = labels;
    if detach {
        let (id, _) = start(control, &target, spec, Ownership::Detached, &mut stops).await?;
        match settings.output {
            Output::Json => render::print(&format!("{{\"id\":\"{id}\"}}\n"))?,
            _ => render::print(&format!("{id}\n"))?,
        }
        return Ok(exit::OK);
    }
    let (_, running) = start(control, &target, spec, Ownership::Wait, &mut stops).await?;
    if tty {
        if !keys && forward {
            pipe_stdin(running.input.clone(), settings.quiet);
        }
        return match interact(running, &mut stops, true, keys).await? {
            Left::Ended(code) => Ok(code),
            Left::Detached => Ok(exit::OK),
        };
    }
    if forward {
        pipe_stdin(running.input.clone(), settings.quiet);
    }
    match follow(running, stops, settings.quiet).await {
        Err(Failure::Error(e)) => Err(Failure::Exec(Error::with_operation(e, "run"))),
        other => other,
    }
}

/// What to run, without labels.
pub(super) fn spec(args: Run, stdin: bool) -> CommandSpec {
    let program = match args.shell {
        Some(script) => Program::Shell(script),
        None => Program::Argv(args.argv),
    };
    let mut spec = CommandSpec::new(program).with_grace(args.grace);
    spec.io = if args.tty { Io::Pty(tty::size()) } else { Io::Pipes { stdin, merge: false } };
    spec.cwd = args.cwd;
    spec.env = args.env.into_iter().map(|(k, v)| (k, v.into())).collect();
    spec.clear_env = args.clear_env;
    spec.user = args.user;
    spec.timeout = args.timeout;
    if !args.detach {
        // We are the reader: a slow one slows the command, as a pipe would, and no byte is lost.
        spec.overflow = Overflow::Block;
    }
    if args.tty && !spec.env.contains_key("TERM") {
        let term = std::env::var("TERM").unwrap_or_else(|_| "xterm-256color".to_owned());
        spec.env.insert("TERM".to_owned(), term.into());
    }
    spec
}
