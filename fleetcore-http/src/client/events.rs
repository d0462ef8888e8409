//! What happens on a server, as it happens.

use bytes::Bytes;
use fleetcore::Result;
use futures::{StreamExt as _, stream::BoxStream};
use serde::Deserialize;

use super::{
    Client,
    output::sse_connect,
    sse::{Decoder, SseEvent},
    wire,
};

/// One thing that happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A command is new or changed.
    Command(Box<wire::Command>),
    /// A session is new or changed.
    Session(Box<wire::Session>),
    /// A session is gone.
    SessionClosed(String),
    /// A machine was made or has changed.
    Machine(Box<wire::Machine>),
    /// A machine is gone.
    MachineGone(String),
    /// An agent is new or changed.
    Agent(Box<wire::Agent>),
    /// An agent is gone for good.
    AgentRemoved(String),
    /// Load of a target.
    Load {
        /// The target.
        target: String,
        /// The figures.
        load: wire::Load,
    },
    /// This reader was too slow and missed events: list again.
    Lagged {
        /// How many.
        missed: u64,
    },
}

/// Events of a server. This is state, not a log: list first, then follow. A break ends the stream with an error;
/// connect again and list again.
pub type EventStream = BoxStream<'static, Result<Event>>;

#[derive(Deserialize)]
struct Closed {
    id: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum MachineEvent {
    Gone { target: String, gone: bool },
    Machine(Box<wire::Machine>),
}

#[derive(Deserialize)]
struct LoadEvent {
    target: String,
    load: wire::Load,
}

#[derive(Deserialize)]
struct LaggedEvent {
    missed: u64,
}

pub(super) fn parse(event: &SseEvent) -> Result<Option<Event>> {
    const OP: &str = "client.events";
    let data = event.data.as_bytes();
    Ok(match event.event.as_str() {
        "command" => Some(Event::Command(Box::new(wire::from_json(OP, data)?))),
        "session" => Some(Event::Session(Box::new(wire::from_json(OP, data)?))),
        "session_closed" => Some(Event::SessionClosed(wire::from_json::<Closed>(OP, data)?.id)),
        "machine" => match wire::from_json(OP, data)? {
            MachineEvent::Gone { target, gone: true } => Some(Event::MachineGone(target)),
            MachineEvent::Gone { .. } => None,
            MachineEvent::Machine(machine) => Some(Event::Machine(machine)),
        },
        "agent" => Some(Event::Agent(Box::new(wire::from_json(OP, data)?))),
        "agent_removed" => Some(Event::AgentRemoved(wire::from_json::<Closed>(OP, data)?.id)),
        "load" => {
            let LoadEvent { target, load } = wire::from_json(OP, data)?;
            Some(Event::Load { target, load })
        }
        "lagged" => Some(Event::Lagged { missed: wire::from_json::<LaggedEvent>(OP, data)?.missed }),
        _ => None,
    })
}

impl Client {
    /// Follows what happens: changes of commands, sessions, machines and agents, and load figures when `load`.
    ///
    /// # Errors
    /// `PermissionDenied`, `Unavailable`.
    pub async fn events(&self, load: bool) -> Result<EventStream> {
        let topics =
            if load { "commands,sessions,machines,agents,load" } else { "commands,sessions,machines,agents" };
        let body =
            sse_connect(self, &["api".into(), "v1".into(), "events".into()], None, &[("topics", topics)])
                .await?;
        let state = (body, Decoder::default());
        let events = futures::stream::try_unfold(state, |(mut body, mut decoder)| async move {
            loop {
                while let Some(event) = decoder.next()? {
                    if let Some(event) = parse(&event)? {
                        return Ok(Some((event, (body, decoder))));
                    }
                }
                let part: Option<Result<Bytes>> = body.next().await;
                match part {
                    Some(part) => decoder.push(&part?),
                    None => return Ok(None),
                }
            }
        });
        Ok(events.boxed())
    }
}
