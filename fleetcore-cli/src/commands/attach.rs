//! `fleetcore attach`

use std::io::IsTerminal as _;

use fleetcore::{Error, ErrorKind};

use super::{
    exec::{Left, interact, watch},
    shell::{join, join_offset},
};
use crate::{
    cli::Attach,
    config::Settings,
    control::{self, Control, Named, find_any},
    error::{Outcome, note},
    exit,
    signals::StopSignals,
};

/// Attaches; gives the exit code of the program when it ends.
pub(crate) async fn attach(args: Attach, settings: &Settings) -> Outcome {
    let mut stops = StopSignals::listen()?;
    let control = stops.or(control::open(settings)).await?;
    let id = match stops.or(find_any(&*control, &args.id)).await? {
        Named::Command(id) => id,
        Named::Session(id) => {
            let all = stops.or(control.sessions(None)).await?;
            let session = all.iter().find(|s| s.id == id.as_str()).ok_or_else(|| {
                Error::new(ErrorKind::NotFound, "no such session").with_context("session", &id)
            })?;
            let from = join_offset(session.output_bytes);
            return join(&*control, &id, from, &mut stops, settings, !args.read_only).await;
        }
    };
    command(&*control, id, args.read_only, stops, settings).await
}

async fn command(
    control: &dyn Control,
    id: fleetcore::CommandId,
    read_only: bool,
    mut stops: StopSignals,
    settings: &Settings,
) -> Outcome {
    let command = stops.or(control.command(id)).await?;
    let terminal = command.pty.is_some() && std::io::stdin().is_terminal();
    let input = terminal && !read_only && !command.state.is_settled();
    let running = stops.or(control.attach(id, fleetcore::Offset(0), input)).await?;
    if !input {
        return watch(running, &mut stops, settings.quiet).await;
    }
    running.input.resize(crate::tty::size()).await?;
    match interact(running, &mut stops, false, true).await? {
        Left::Ended(code) => Ok(code),
        Left::Detached => {
            note(settings.quiet, &format!("detached; come back with: fleetcore attach {id}"));
            Ok(exit::OK)
        }
    }
}
