//! `fleetcore sessions`

use fleetcore_http::client::wire::Session;

use crate::{
    cli::Sessions,
    config::Settings,
    control,
    error::Outcome,
    exit,
    render::{self, Cell, Row, Tone},
};

/// Lists sessions.
pub(crate) async fn sessions(args: Sessions, settings: &Settings) -> Outcome {
    let control = control::open(settings).await?;
    let all = control.sessions(args.target.as_ref()).await?;
    render::list(&all, settings.output, settings.quiet)?;
    Ok(exit::OK)
}

fn state(session: &Session) -> (&'static str, Tone) {
    match (&session.ended, session.busy) {
        (Some(_), _) => ("ended", Tone::Dim),
        (None, true) => ("busy", Tone::Busy),
        (None, false) => ("ready", Tone::Good),
    }
}

impl Row for Session {
    const HEAD: &'static [&'static str] = &["ID", "TARGET", "STATE", "VIEWERS", "ACTIVE", "DIRECTORY"];

    fn cells(&self) -> Vec<Cell> {
        let (state, tone) = state(self);
        vec![
            self.id.as_str().into(),
            self.target.as_str().into(),
            Cell::toned(state, tone),
            self.viewers.to_string().into(),
            Cell::toned(render::ago(Some(self.active_at)), Tone::Dim),
            self.cwd.as_deref().unwrap_or("-").into(),
        ]
    }

    fn fields(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.target.clone(),
            state(self).0.to_owned(),
            self.viewers.to_string(),
            render::time(Some(self.active_at)),
            self.cwd.clone().unwrap_or_default(),
        ]
    }

    fn key(&self) -> String {
        self.id.clone()
    }
}
