//! `fleetcore kill`

use fleetcore::Error;

use crate::{
    cli::Kill,
    config::Settings,
    control::{self, Control, Named, find_any},
    error::{Failure, Outcome, report},
    exit,
};

/// Ends or signals commands, closes sessions. All are tried; the first failure gives the exit code.
pub(crate) async fn kill(args: Kill, settings: &Settings) -> Outcome {
    let control = control::open(settings).await?;
    let mut first = None;
    for id in &args.ids {
        if let Err(e) = one(&*control, id, &args).await {
            let code = report(&Failure::Error(e.with_context("id", id)), settings.output);
            first.get_or_insert(code);
        }
    }
    match first {
        Some(code) => Err(Failure::Code(code)),
        None => Ok(exit::OK),
    }
}

async fn one(control: &dyn Control, id: &str, args: &Kill) -> Result<(), Error> {
    match (find_any(control, id).await?, args.signal) {
        (Named::Command(id), Some(signal)) => control.signal(id, signal).await,
        (Named::Command(id), None) => control.cancel(id).await,
        (Named::Session(id), None) => control.close_session(&id).await,
        (Named::Session(_), Some(_)) => {
            Err(Error::invalid("signal", "left out for a session, which is closed"))
        }
    }
}
