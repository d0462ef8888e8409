//! What is said on a stream, once it is open: purposes, and the messages about a command.

use std::{collections::BTreeMap, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use fleetcore::{
    Channel, CommandId, CommandSpec, Error, ErrorKind, ExitStatus, Io, Labels, OnDrop, Overflow, Program,
    PtySize, Result, Signal,
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::frame::{Message, PAYLOAD_MAX};
use crate::{client::problem, error::Problem};

/// Most output in one message; the header comes on top.
pub(super) const OUTPUT_MAX: usize = PAYLOAD_MAX - 64;

/// First message of a stream: what it is for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "purpose", rename_all = "snake_case")]
pub(super) enum Purpose {
    /// A command: started unless the agent knows its id, then told about.
    Exec(Box<Exec>),
    /// Input of a command, from byte `from` on; without it from where the agent is. Messages are bytes, and their end
    /// closes the input.
    Stdin {
        id: CommandId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<u64>,
    },
    /// Something is wanted of a command. One answer.
    Control { id: CommandId, request: Request },
    /// The agent's own HTTP API.
    Http {
        /// On whose behalf, for the agent's audit log.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        actor: Option<String>,
    },
    /// Bytes to and from an address that the agent can reach.
    Tunnel { host: String, port: u16 },
}

/// What can be wanted of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    Signal(Signal),
    Resize(PtySize),
    /// Politely, after its grace by force.
    End,
    /// By force, now.
    Kill,
}

impl Request {
    /// Is wanted however late it arrives.
    pub(super) fn keeps(self) -> bool {
        let ends = |s| matches!(s, Signal::Terminate | Signal::Hangup | Signal::Kill | Signal::Quit);
        match self {
            Self::Signal(signal) => ends(signal),
            Self::End | Self::Kill => true,
            Self::Resize(_) => false,
        }
    }
}

/// A command to start or to tell about.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Exec {
    pub(super) id: CommandId,
    /// As the agent sees it: `local` or `provider/machine`.
    pub(super) target: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) actor: Option<String>,
    /// Absent: only tell, `not_found` when it is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) spec: Option<SpecWire>,
    /// It is asked for the first time: the id cannot be known there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) first: bool,
    /// First byte of output that is wanted.
    #[serde(default)]
    pub(super) from: u64,
}

/// A [`CommandSpec`] on its way.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct SpecWire {
    program: Program,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cwd: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    env: BTreeMap<String, String>,
    #[serde(default)]
    clear_env: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    io: Io,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<u64>,
    grace_ms: u64,
    drain_ms: u64,
    replay_bytes: usize,
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    labels: Labels,
}

impl std::fmt::Debug for SpecWire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpecWire")
            .field("program", &self.program)
            .field("io", &self.io)
            .finish_non_exhaustive()
    }
}

/// Smallest replay window at the agent: what is under way on the link must fit.
const REPLAY_MIN: usize = 256 << 10;

impl From<&CommandSpec> for SpecWire {
    fn from(spec: &CommandSpec) -> Self {
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        Self {
            program: spec.program.clone(),
            cwd: spec.cwd.clone(),
            env: spec.env.iter().map(|(k, v)| (k.clone(), v.expose_secret().to_owned())).collect(),
            clear_env: spec.clear_env,
            user: spec.user.clone(),
            io: spec.io,
            timeout_ms: spec.timeout.map(|t| millis(t).max(1)),
            grace_ms: millis(spec.grace),
            drain_ms: millis(spec.drain),
            // Ours keeps what readers want; the one over there only has to bridge the link.
            replay_bytes: spec.replay_bytes.clamp(1, REPLAY_MIN),
            labels: spec.labels.clone(),
        }
    }
}

impl SpecWire {
    /// The command as the agent runs it: it belongs to the agent, and the pace of the link is that of the program while
    /// there is one. Without a link nothing holds it up.
    pub(super) fn into_spec(self) -> CommandSpec {
        let mut spec = CommandSpec::new(self.program)
            .with_io(self.io)
            .with_grace(Duration::from_millis(self.grace_ms))
            .with_replay(self.replay_bytes.max(1), Overflow::Block)
            .with_on_drop(OnDrop::Detach);
        spec.cwd = self.cwd;
        spec.env = self.env.into_iter().map(|(k, v)| (k, SecretString::from(v))).collect();
        spec.clear_env = self.clear_env;
        spec.user = self.user;
        spec.timeout = self.timeout_ms.map(Duration::from_millis);
        spec.drain = Duration::from_millis(self.drain_ms);
        spec.labels = self.labels;
        spec
    }
}

/// From the agent, about a command. The first is `Started` or `Refused`.
#[derive(Debug)]
pub(super) enum FromAgent {
    /// It runs, or has run.
    Started,
    /// It could not be started, or is unknown.
    Refused(Error),
    Output {
        offset: u64,
        channel: Channel,
        data: Bytes,
    },
    /// Bytes that are no longer kept.
    Gap {
        from: u64,
        to: u64,
    },
    /// The end; the last message.
    Exited(ExitStatus),
    /// This many bytes of input have been taken, in all.
    StdinTaken(u64),
    /// The input is closed for good.
    StdinGone,
    /// How the request went.
    Answer(Option<Error>),
}

fn problem_bytes(error: Error) -> Vec<u8> {
    serde_json::to_vec(&Problem::from(error).body()).unwrap_or_default()
}

fn channel_code(channel: Channel) -> u8 {
    match channel {
        Channel::Stderr => 1,
        Channel::Pty => 2,
        Channel::Log => 3,
        _ => 0,
    }
}

/// Reads fixed parts off the front of a message.
struct Fields(Bytes);

impl Fields {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        (self.0.len() >= N).then(|| self.0.split_to(N)).and_then(|b| b[..].try_into().ok())
    }
    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[b]| b)
    }
    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }
    fn rest(self) -> Bytes {
        self.0
    }
    fn end<T>(self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }
}

fn message(kind: u8, size: usize, fill: impl FnOnce(&mut BytesMut)) -> Message {
    let mut message = Message::with_capacity(1 + size);
    message.payload().put_u8(kind);
    fill(message.payload());
    message
}

impl Purpose {
    pub(super) fn encode(&self) -> Bytes {
        // Plain data with string keys: cannot fail.
        serde_json::to_vec(self).unwrap_or_default().into()
    }
}

impl FromAgent {
    pub(super) fn encode(self) -> Message {
        match self {
            Self::Started => message(1, 0, |_| ()),
            Self::Refused(error) => {
                let body = problem_bytes(error);
                message(2, body.len(), |m| m.put_slice(&body))
            }
            Self::Output { offset, channel, data } => message(3, 9 + data.len(), |m| {
                m.put_u64(offset);
                m.put_u8(channel_code(channel));
                m.put_slice(&data);
            }),
            Self::Gap { from, to } => message(4, 16, |m| {
                m.put_u64(from);
                m.put_u64(to);
            }),
            Self::Exited(status) => {
                let body = serde_json::to_vec(&status).unwrap_or_default();
                message(5, body.len(), |m| m.put_slice(&body))
            }
            Self::StdinTaken(n) => message(6, 8, |m| m.put_u64(n)),
            Self::StdinGone => message(7, 0, |_| ()),
            Self::Answer(error) => {
                let body = error.map(problem_bytes).unwrap_or_default();
                message(8, body.len(), |m| m.put_slice(&body))
            }
        }
    }

    pub(super) fn decode(message: Bytes) -> Result<Self> {
        Self::parse(message).ok_or_else(|| malformed("a message about a command"))
    }

    fn parse(message: Bytes) -> Option<Self> {
        let mut m = Fields(message);
        match m.u8()? {
            1 => m.end(Self::Started),
            2 => Some(Self::Refused(problem::error("agent.spawn", None, &m.rest()))),
            3 => {
                let offset = m.u64()?;
                let channel = match m.u8()? {
                    0 => Channel::Stdout,
                    1 => Channel::Stderr,
                    2 => Channel::Pty,
                    3 => Channel::Log,
                    _ => return None,
                };
                let data = m.rest();
                (!data.is_empty() && offset.checked_add(data.len() as u64).is_some())
                    .then_some(Self::Output { offset, channel, data })
            }
            4 => {
                let (from, to) = (m.u64()?, m.u64()?);
                if from >= to {
                    return None;
                }
                m.end(Self::Gap { from, to })
            }
            5 => serde_json::from_slice(&m.rest()).ok().map(Self::Exited),
            6 => {
                let n = m.u64()?;
                m.end(Self::StdinTaken(n))
            }
            7 => m.end(Self::StdinGone),
            8 => {
                let body = m.rest();
                Some(Self::Answer((!body.is_empty()).then(|| problem::error("agent.command", None, &body))))
            }
            _ => None,
        }
    }
}

pub(super) fn malformed(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("the other side sent {what} that makes no sense"))
        .with_operation("link")
}

#[cfg(test)]
mod tests {
    use fleetcore::ExitKind;
    use proptest::prelude::*;

    use super::{super::frame::HEADER, *};

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = serde_json::from_slice::<Purpose>(&bytes);
            let _ = FromAgent::decode(bytes.into());
        }
    }

    #[test]
    fn messages_round_trip() {
        let gone = Error::new(ErrorKind::NotFound, "no such program").with_context("program", "x");
        for message in [
            FromAgent::Started,
            FromAgent::Refused(gone),
            FromAgent::Output { offset: 9, channel: Channel::Pty, data: "abc".into() },
            FromAgent::Gap { from: 1, to: 2 },
            FromAgent::Exited(ExitStatus::new(ExitKind::Signal(9)).with_leaked(true)),
            FromAgent::StdinTaken(1 << 40),
            FromAgent::StdinGone,
            FromAgent::Answer(None),
        ] {
            let sent = format!("{message:?}").replace("not_found:", "not_found at agent.spawn:");
            let again = FromAgent::decode(message.encode().payload().split_off(HEADER).freeze()).unwrap();
            assert_eq!(format!("{again:?}"), sent);
        }
    }

    #[test]
    fn secrets_do_not_show() {
        let spec = CommandSpec::argv(["x"]).with_env("PASSWORD", "geheim");
        let wire = SpecWire::from(&spec);
        assert!(!format!("{wire:?}").contains("geheim"));
        let env = wire.into_spec().env;
        assert_eq!(env["PASSWORD"].expose_secret(), "geheim");
    }
}
