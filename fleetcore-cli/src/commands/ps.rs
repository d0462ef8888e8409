//! `fleetcore ps`

use fleetcore::{CommandState, Error, ErrorKind};
use fleetcore_http::client::wire::{Command, CommandQuery};
use jiff::Timestamp;

use crate::{
    cli::Ps,
    config::Settings,
    control,
    error::Outcome,
    exit,
    render::{self, Cell, Row, Tone},
};

/// How many characters of an id a table shows: the random end, which tells commands apart.
const SHORT_ID: usize = 12;

/// Lists commands.
pub(crate) async fn ps(args: Ps, settings: &Settings) -> Outcome {
    let mut query = CommandQuery {
        target: args.target.map(|t| t.to_string()),
        states: args.state,
        ..CommandQuery::default()
    };
    if query.states.is_empty() && !args.all {
        query.states = vec![CommandState::Queued, CommandState::Running];
    }
    query.labels = args.label.into_iter().collect();
    query.search = args.search;
    query.limit = Some(usize::from(args.limit));
    if let Some(back) = args.since {
        let since = Timestamp::now().checked_sub(back).map_err(|e| {
            Error::new(ErrorKind::InvalidInput, "--since reaches too far back").with_source(e)
        })?;
        query.since = Some(since);
    }
    let control = control::open(settings).await?;
    let page = control.commands(&query).await?;
    render::list(&page.items, settings.output, settings.quiet)?;
    Ok(exit::OK)
}

fn tone(state: CommandState) -> Tone {
    match state {
        CommandState::Succeeded => Tone::Good,
        CommandState::Failed | CommandState::Lost => Tone::Bad,
        CommandState::Running | CommandState::Queued => Tone::Busy,
        _ => Tone::Dim,
    }
}

fn exit_text(command: &Command) -> String {
    match command.exit.as_ref().map(|e| (e.code, e.signal)) {
        Some((Some(code), _)) => code.to_string(),
        Some((_, Some(signal))) => format!("signal {signal}"),
        _ => "-".to_owned(),
    }
}

impl Row for Command {
    const HEAD: &'static [&'static str] =
        &["ID", "TARGET", "STATE", "EXIT", "CREATED", "TIME", "OUTPUT", "COMMAND"];

    fn cells(&self) -> Vec<Cell> {
        let short = self.id.get(self.id.len().saturating_sub(SHORT_ID)..).unwrap_or(&self.id);
        let running = self.started_at.filter(|_| !self.state.is_settled());
        let took = match (self.duration_ms, running) {
            (Some(ms), _) => render::span(ms),
            (None, Some(since)) => {
                render::span((Timestamp::now().duration_since(since).as_secs_f64() * 1e3).max(0.0))
            }
            (None, None) => "-".to_owned(),
        };
        vec![
            short.into(),
            self.target.as_str().into(),
            Cell::toned(self.state.as_str(), tone(self.state)),
            exit_text(self).into(),
            Cell::toned(render::ago(Some(self.created_at)), Tone::Dim),
            took.into(),
            render::bytes(self.output_bytes).into(),
            self.display.as_str().into(),
        ]
    }

    fn fields(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.target.clone(),
            self.state.to_string(),
            exit_text(self),
            render::time(Some(self.created_at)),
            render::time(self.ended_at),
            self.output_bytes.to_string(),
            self.display.clone(),
        ]
    }

    fn key(&self) -> String {
        self.id.clone()
    }
}
