//! `fleetcore targets`

use fleetcore::MachineState;
use fleetcore_http::client::wire::Target;

use crate::{
    config::Settings,
    control,
    error::Outcome,
    exit,
    render::{self, Cell, Row, Tone},
};

/// Lists targets.
pub(crate) async fn targets(settings: &Settings) -> Outcome {
    let control = control::open(settings).await?;
    let all = control.targets().await?;
    render::list(&all, settings.output, settings.quiet)?;
    Ok(exit::OK)
}

/// A state for people.
pub(super) fn state(state: MachineState) -> (&'static str, Tone) {
    match state {
        MachineState::Pending => ("pending", Tone::Busy),
        MachineState::Running => ("running", Tone::Good),
        MachineState::Stopping => ("stopping", Tone::Busy),
        MachineState::Stopped => ("stopped", Tone::Dim),
        MachineState::Suspended => ("suspended", Tone::Dim),
        MachineState::Deleted => ("deleted", Tone::Dim),
        MachineState::Failed => ("failed", Tone::Bad),
        _ => ("unknown", Tone::Bad),
    }
}

impl Row for Target {
    const HEAD: &'static [&'static str] = &["TARGET", "STATE", "ADDRESS", "CPU", "MEMORY", "SYSTEM"];

    fn cells(&self) -> Vec<Cell> {
        let (state, tone) = state(self.state);
        let (cpu, memory) = match &self.load {
            Some(l) => (
                format!("{:.0}%", l.cpu_percent),
                format!("{}/{}", render::bytes(l.memory_used_bytes), render::bytes(l.memory_total_bytes)),
            ),
            None => ("-".to_owned(), "-".to_owned()),
        };
        let system = self.host.as_ref().map_or_else(|| "-".to_owned(), |h| format!("{} {}", h.os, h.arch));
        vec![
            self.target.as_str().into(),
            Cell::toned(state, tone),
            self.addresses.first().map_or("-", String::as_str).into(),
            cpu.into(),
            memory.into(),
            Cell::toned(system, Tone::Dim),
        ]
    }

    fn fields(&self) -> Vec<String> {
        let labels: Vec<String> = self.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        vec![
            self.target.clone(),
            state(self.state).0.to_owned(),
            self.addresses.join(","),
            self.provider.clone(),
            labels.join(","),
        ]
    }

    fn key(&self) -> String {
        self.target.clone()
    }
}
