//! `fleetcore machines`, `fleetcore providers`

use fleetcore_http::client::wire::{Machine, MachineQuery, Provider};

use super::targets;
use crate::{
    cli::Machines,
    config::Settings,
    control,
    error::{Outcome, note},
    exit,
    render::{self, Cell, Row, Tone},
};

/// Lists machines. Providers that fail are told on stderr and give the exit code for what is not available.
pub(crate) async fn machines(args: Machines, settings: &Settings) -> Outcome {
    let query = MachineQuery {
        provider: args.provider,
        labels: args.label.into_iter().collect(),
        states: args.state,
        include_deleted: args.all,
    };
    let control = control::open(settings).await?;
    let all = control.machines(&query).await?;
    render::list(&all.items, settings.output, settings.quiet)?;
    for failed in &all.errors {
        let at = failed.agent.as_ref().map(|a| format!("{a}/")).unwrap_or_default();
        let why = failed.problem.get("detail").and_then(|d| d.as_str()).unwrap_or("it does not answer");
        note(settings.quiet, &format!("{at}{}: {why}", failed.provider));
    }
    Ok(if all.errors.is_empty() { exit::OK } else { exit::UNAVAILABLE })
}

/// Lists providers.
pub(crate) async fn providers(settings: &Settings) -> Outcome {
    let control = control::open(settings).await?;
    let all = control.providers().await?;
    render::list(&all, settings.output, settings.quiet)?;
    Ok(exit::OK)
}

fn labels(machine: &Machine) -> String {
    machine.labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",")
}

impl Row for Machine {
    const HEAD: &'static [&'static str] = &["TARGET", "STATE", "ADDRESS", "CREATED", "LABELS"];

    fn cells(&self) -> Vec<Cell> {
        let (state, tone) = targets::state(self.state);
        vec![
            self.target.as_str().into(),
            Cell::toned(state, tone),
            self.addresses.first().map_or("-", String::as_str).into(),
            Cell::toned(render::ago(self.created_at), Tone::Dim),
            labels(self).into(),
        ]
    }

    fn fields(&self) -> Vec<String> {
        vec![
            self.target.clone(),
            targets::state(self.state).0.to_owned(),
            self.addresses.join(","),
            render::time(self.created_at),
            labels(self),
        ]
    }

    fn key(&self) -> String {
        self.target.clone()
    }
}

fn name(provider: &Provider) -> String {
    let at = provider.agent.as_ref().map(|a| format!("{a}/")).unwrap_or_default();
    format!("{at}{}", provider.name)
}

fn can(provider: &Provider) -> String {
    let can = provider.capabilities;
    let all = [
        (can.create, "create"),
        (can.start, "start"),
        (can.stop, "stop"),
        (can.stop_with_suspend, "suspend"),
        (can.delete, "delete"),
        (can.delete_is_soft, "purge"),
    ];
    let actions = provider.actions.iter().map(|a| a.name.as_str());
    all.into_iter().filter(|(has, _)| *has).map(|(_, n)| n).chain(actions).collect::<Vec<_>>().join(",")
}

impl Row for Provider {
    const HEAD: &'static [&'static str] = &["PROVIDER", "WORKS", "CAN", "REASON"];

    fn cells(&self) -> Vec<Cell> {
        let works =
            if self.available { Cell::toned("yes", Tone::Good) } else { Cell::toned("no", Tone::Bad) };
        vec![name(self).into(), works, can(self).into(), self.reason.clone().unwrap_or_default().into()]
    }

    fn fields(&self) -> Vec<String> {
        let works = if self.available { "yes" } else { "no" };
        vec![name(self), works.to_owned(), can(self), self.reason.clone().unwrap_or_default()]
    }

    fn key(&self) -> String {
        name(self)
    }
}
