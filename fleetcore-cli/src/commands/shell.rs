//! `fleetcore shell`

use std::io::IsTerminal as _;

use fleetcore::{CommandSpec, Error, ErrorKind, Offset, Overflow, Program};

use super::exec::{Left, interact, pipe_stdin, start};
use crate::{
    cli::Shell,
    config::Settings,
    control::{self, Control, Ownership, SessionRequest},
    error::{Outcome, note},
    exit,
    signals::StopSignals,
    tty,
};

/// How much of a session's past is shown when joining it.
const JOIN_BYTES: u64 = 256 << 10;

/// The user's shell there, without data in the script.
const SHELL: &str = r#"exec "${SHELL:-/bin/sh}" -i"#;

/// Opens a terminal; gives the exit code of its shell.
pub(crate) async fn shell(args: Shell, settings: &Settings) -> Outcome {
    let mut stops = StopSignals::listen()?;
    let control = stops.or(control::open(settings)).await?;
    let outcome = match &args.session {
        Some(_) => session(&*control, args, &mut stops, settings).await,
        None => plain(&*control, args, &mut stops, settings).await,
    };
    control.close().await;
    outcome
}

async fn plain(control: &dyn Control, args: Shell, stops: &mut StopSignals, settings: &Settings) -> Outcome {
    let keys = std::io::stdin().is_terminal();
    let mut spec =
        CommandSpec::new(Program::Shell(SHELL.to_owned())).with_pty(tty::size()).with_label("kind", "shell");
    spec.cwd = args.cwd;
    spec.user = args.user;
    spec.env = args.env.into_iter().map(|(k, v)| (k, v.into())).collect();
    let term = std::env::var("TERM").unwrap_or_else(|_| "xterm-256color".to_owned());
    spec.env.entry("TERM".to_owned()).or_insert_with(|| term.into());
    if !control.is_server() {
        spec.overflow = Overflow::Block;
    }
    let (id, running) = start(control, &args.target, spec, Ownership::Wait, stops).await?;
    if !keys {
        pipe_stdin(running.input.clone(), settings.quiet);
    }
    let input = running.input.clone();
    match interact(running, stops, !control.is_server(), keys).await? {
        Left::Ended(code) => {
            if code > 128 && control.is_server() {
                // Our terminal was closed: a shell nobody named would stay behind for ever.
                let _ = input.cancel().await;
            }
            Ok(code)
        }
        Left::Detached => {
            note(settings.quiet, &format!("detached; come back with: fleetcore attach {id}"));
            Ok(exit::OK)
        }
    }
}

async fn session(
    control: &dyn Control,
    args: Shell,
    stops: &mut StopSignals,
    settings: &Settings,
) -> Outcome {
    let Some(id) = args.session else {
        return Err(Error::new(ErrorKind::Unexpected, "no session was named").into());
    };
    let request = SessionRequest {
        id: id.clone(),
        target: args.target,
        size: tty::size(),
        cwd: args.cwd,
        user: args.user,
        env: args.env,
    };
    let session = stops.or(control.ensure_session(&request)).await?;
    let from = Offset(session.output_bytes.saturating_sub(JOIN_BYTES));
    join(control, &id, from, stops, settings, true).await
}

/// Joins a session until it ends or the user leaves.
pub(super) async fn join(
    control: &dyn Control,
    id: &fleetcore::SessionId,
    from: Offset,
    stops: &mut StopSignals,
    settings: &Settings,
    input: bool,
) -> Outcome {
    let terminal = std::io::stdin().is_terminal();
    let keys = input && terminal;
    let running = stops.or(control.attach_session(id, from, input)).await?;
    if keys {
        running.input.resize(tty::size()).await?;
    } else if input {
        pipe_stdin(running.input.clone(), settings.quiet);
    }
    match interact(running, stops, false, keys).await? {
        Left::Ended(code) => Ok(code),
        Left::Detached => {
            note(settings.quiet, &format!("detached; come back with: fleetcore attach {id}"));
            Ok(exit::OK)
        }
    }
}

/// Where joining starts.
pub(super) fn join_offset(output_bytes: u64) -> Offset {
    Offset(output_bytes.saturating_sub(JOIN_BYTES))
}
