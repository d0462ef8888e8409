//! `fleetcore agents`

use fleetcore::{AgentId, Labels};
use fleetcore_http::client::wire;
use secrecy::ExposeSecret as _;

use crate::{
    cli::{Agents, Output},
    config::Settings,
    error::{Failure, Outcome, note, report},
    exit,
    render::{self, Cell, Row, Tone},
};

/// Manages agents of a server.
pub(crate) async fn agents(verb: Option<Agents>, settings: &Settings) -> Outcome {
    let client = settings.need_server()?;
    match verb.unwrap_or(Agents::Ls) {
        Agents::Ls => {
            let agents = client.agents().await?;
            render::list(&agents, settings.output, settings.quiet)?;
            Ok(exit::OK)
        }
        Agents::Rm { ids } => {
            let mut first = None;
            for id in ids {
                let removed = async { client.delete_agent(&id.parse::<AgentId>()?).await };
                if let Err(e) = removed.await {
                    let e = if e.context_value("agent").is_some() { e } else { e.with_context("agent", &id) };
                    first.get_or_insert(report(&Failure::Error(e), settings.output));
                }
            }
            first.map_or(Ok(exit::OK), |code| Err(Failure::Code(code)))
        }
        Agents::JoinCode { label, expires_in } => {
            let labels: Labels = label.into_iter().collect();
            let made = client.create_join_code(&labels, expires_in).await?;
            match settings.output {
                Output::Json => {
                    let json = serde_json::json!({
                        "code": made.code.expose_secret(),
                        "expires_at": made.expires_at,
                        "command": made.command.expose_secret(),
                    });
                    render::print(&format!("{json}\n"))?;
                }
                _ if settings.quiet => render::print(&format!("{}\n", made.code.expose_secret()))?,
                _ => {
                    render::print(&format!("{}\n", made.command.expose_secret()))?;
                    note(
                        false,
                        &format!(
                            "run this on the host that is to join; works once, until {}",
                            made.expires_at
                        ),
                    );
                }
            }
            Ok(exit::OK)
        }
    }
}

fn state(agent: &wire::Agent) -> (&'static str, Tone) {
    match (agent.online, agent.last_seen) {
        (true, _) => ("online", Tone::Good),
        (false, Some(_)) => ("offline", Tone::Bad),
        (false, None) => ("new", Tone::Dim),
    }
}

impl Row for wire::Agent {
    const HEAD: &'static [&'static str] =
        &["AGENT", "STATE", "VERSION", "CPU", "MEMORY", "DISK", "LOAD", "RUNNING", "LAST SEEN", "SYSTEM"];

    fn cells(&self) -> Vec<Cell> {
        let (state, tone) = state(self);
        let load = |show: fn(&wire::Load) -> String| self.load.as_ref().map_or_else(|| "-".to_owned(), show);
        let system = self.host.as_ref().map_or_else(|| "-".to_owned(), |h| format!("{} {}", h.os, h.arch));
        vec![
            self.id.as_str().into(),
            Cell::toned(state, tone),
            self.version.as_deref().unwrap_or("-").into(),
            load(|l| format!("{:.0}%", l.cpu_percent)).into(),
            load(|l| part(l.memory_used_bytes, l.memory_total_bytes)).into(),
            load(|l| part(l.disk_used_bytes, l.disk_total_bytes)).into(),
            load(|l| format!("{:.2}", l.load1)).into(),
            self.running.to_string().into(),
            Cell::toned(render::ago(self.last_seen), Tone::Dim),
            Cell::toned(system, Tone::Dim),
        ]
    }

    fn fields(&self) -> Vec<String> {
        let labels: Vec<String> = self.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        vec![
            self.id.clone(),
            state(self).0.to_owned(),
            self.version.clone().unwrap_or_else(|| "-".to_owned()),
            self.running.to_string(),
            render::time(self.last_seen),
            render::time(self.joined_at),
            labels.join(","),
        ]
    }

    fn key(&self) -> String {
        self.id.clone()
    }
}

fn part(used: u64, total: u64) -> String {
    format!("{}/{}", render::bytes(used), render::bytes(total))
}
