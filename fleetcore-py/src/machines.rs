//! Lists of things, and the life of machines: the same JSON whether it is known here or a server says it.

use std::{sync::Arc, time::Duration};

use ::fleetcore::{
    AgentId, CommandFilter, CommandId, Error, ErrorKind, Labels, MachineFilter, OpContext, Operation, Result,
    Target,
};
use fleetcore_http::client::{
    parse_problem,
    wire::{Acted, Command as Record, CommandQuery, Machine, MachineQuery, Machines, NewMachine, Provider},
};
use serde_json::{Value, json};

use crate::{
    command::{Command, View},
    convert::value,
    place::{Place, Server},
};

/// How long a server is asked to wait for a command's end at a time.
pub(crate) const WAIT_AT_ONCE: Duration = Duration::from_secs(20);

/// What became of an operation.
pub(crate) enum Done {
    Begun(Command),
    Answered(Value),
}

fn needs_server(what: &str) -> Error {
    Error::unsupported("local").with_context("hint", format!("{what} belong to a server: Fleet.connect"))
}

fn server(place: &Place, what: &str) -> Result<Arc<Server>> {
    match place {
        Place::Here(..) => Err(needs_server(what)),
        Place::Server(server) => Ok(Arc::clone(server)),
    }
}

pub(crate) async fn targets(place: Place) -> Result<Value> {
    match place {
        Place::Here(fleet, _) => {
            let all = fleet.targets(&OpContext::default()).await?;
            let line = |t: &::fleetcore::TargetInfo| {
                let of = fleetcore_http::client::wire::Target::from_machine;
                of(&t.target, &t.provider, &t.info, t.capabilities.clone())
            };
            value(&all.iter().map(line).collect::<Vec<_>>())
        }
        Place::Server(server) => value(&server.client.targets().await?),
    }
}

pub(crate) async fn commands(place: Place, target: Option<Target>, limit: Option<usize>) -> Result<Value> {
    match place {
        Place::Here(fleet, _) => {
            let mut filter = CommandFilter::default();
            (filter.target, filter.limit) = (target, limit);
            let records = fleet.commands().list(filter).await?;
            value(&records.iter().map(Record::from).collect::<Vec<_>>())
        }
        Place::Server(server) => {
            let query =
                CommandQuery { target: target.map(|t| t.to_string()), limit, ..CommandQuery::default() };
            value(&server.client.commands(&query).await?.items)
        }
    }
}

pub(crate) async fn machines(place: Place, labels: Labels, deleted: bool) -> Result<Value> {
    match place {
        Place::Here(fleet, _) => {
            let mut filter = MachineFilter::default();
            (filter.labels, filter.include_deleted) = (labels, deleted);
            let listing = fleet.machines(&OpContext::default(), &filter).await?;
            let machines = listing.machines.iter().map(|m| Machine::from_info(&m.target, &m.info));
            value(&Machines::new(machines.collect(), listing.failures.iter().map(Into::into).collect()))
        }
        Place::Server(server) => {
            let query = MachineQuery { labels, include_deleted: deleted, ..MachineQuery::default() };
            value(&server.client.machines(&query).await?)
        }
    }
}

pub(crate) async fn machine(place: Place, target: Target) -> Result<Value> {
    match place {
        Place::Here(fleet, _) => {
            let info = fleet.target(&target)?.info(&OpContext::default()).await?;
            value(&Machine::from_info(&target, &info))
        }
        Place::Server(server) => value(&server.client.machine(&target).await?),
    }
}

pub(crate) async fn providers(place: Place) -> Result<Value> {
    match place {
        Place::Here(fleet, _) => {
            let mut all = Vec::new();
            for provider in fleet.providers() {
                let works = provider.check(&OpContext::default()).await;
                all.push(Provider::from_handle(&provider, works));
            }
            value(&all)
        }
        Place::Server(server) => value(&server.client.providers().await?),
    }
}

pub(crate) async fn operate(place: Place, target: Target, operation: Operation) -> Result<Done> {
    let id = CommandId::generate();
    let server = match place {
        Place::Here(fleet, _) => {
            let machine = fleet.target(&target)?;
            if let Operation::Act { action, args } = &operation
                && machine.actions().iter().any(|a| a.name == *action && !a.changes)
            {
                let answer = machine.act(&OpContext::default(), action, args.clone()).await?;
                return Ok(Done::Answered(answer));
            }
            let running = machine.operate_with(&OpContext::default(), id, operation).await?;
            return Ok(Done::Begun(Command::owning(running)));
        }
        Place::Server(server) => server,
    };
    let client = &server.client;
    match &operation {
        Operation::Create(spec) => {
            let mut request = NewMachine::from_spec(&target, spec)?;
            request.id = Some(id.to_string());
            client.create_machine(&request).await?;
        }
        Operation::Start => drop(client.start_machine(&target, Some(id)).await?),
        Operation::Stop(mode) => drop(client.stop_machine(&target, Some(id), *mode).await?),
        Operation::Delete { purge } => drop(client.delete_machine(&target, Some(id), *purge).await?),
        Operation::Act { action, args } => {
            if let Acted::Answer { result } = client.act_machine(&target, Some(id), action, args).await? {
                return Ok(Done::Answered(result));
            }
        }
        _ => return Err(Error::unsupported("operate")),
    }
    Ok(Done::Begun(Command::viewing(View::Server(client.clone(), id))))
}

/// The error a line of an operation's output tells of.
pub(crate) fn problem(line: &[u8]) -> Option<Error> {
    let line: Value = serde_json::from_slice(line).ok()?;
    let problem = line.get("problem").filter(|p| !p.is_null())?;
    Some(parse_problem(problem.to_string().as_bytes()))
}

pub(crate) async fn agents(place: Place) -> Result<Value> {
    value(&server(&place, "agents")?.client.agents().await?)
}

pub(crate) async fn remove_agent(place: Place, id: AgentId) -> Result<()> {
    server(&place, "agents")?.client.delete_agent(&id).await
}

pub(crate) async fn join_code(place: Place, labels: Labels, expires_in: Option<Duration>) -> Result<Value> {
    use secrecy::ExposeSecret as _;
    let made = server(&place, "agents")?.client.create_join_code(&labels, expires_in).await?;
    Ok(json!({
        "code": made.code.expose_secret(),
        "command": made.command.expose_secret(),
        "expires_at": made.expires_at,
    }))
}

/// Ends a command of this process, and waits until it is gone, wherever its start has got to.
pub(crate) async fn settle(place: Place, target: Target, id: CommandId) -> Result<()> {
    if let Some(fleet) = place.supervisor(&target) {
        let gone = async {
            fleet.commands().cancel(id).await?;
            fleet.commands().wait(id).await.map(drop)
        };
        ignore_missing(gone.await)?;
    }
    if let Place::Server(server) = &place {
        // A start that was given up half-way may have come through over there.
        let gone = async {
            let mut command = server.client.cancel(id).await?;
            while !command.state.is_settled() {
                command = server.client.wait_command(id, WAIT_AT_ONCE).await?;
            }
            Ok(())
        };
        ignore_missing(gone.await)?;
    }
    Ok(())
}

fn ignore_missing(done: Result<()>) -> Result<()> {
    match done {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
