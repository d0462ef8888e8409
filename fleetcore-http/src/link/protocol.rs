//! Control messages: WebSocket text in both directions, JSON with a `type`.
//!
//! The first message is the agent's [`Hello`]; the server answers with `welcome` or `refused`. Unknown fields and
//! unknown types are skipped, so that a newer minor version may add some.

use std::time::Duration;

use fleetcore::{AgentId, CommandId, ExecCapabilities, Json, Labels, MachineCapabilities};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The version this build speaks.
pub(super) const VERSION: Version = Version { major: 1, minor: 0 };
/// Subprotocol of the WebSocket.
pub(super) const SUBPROTOCOL: &str = "fleetcore.link.v1";
/// Key in the context of a problem document: the server itself says that it does not know the agent's token.
pub(super) const DEAD_TOKEN: &str = "dead_token";
/// Longest control message: a heartbeat with the ids of 4096 commands and measurements is well below.
pub(super) const CONTROL_BYTES_MAX: usize = 512 << 10;

/// Version of the link: both sides must have the same major, and speak the lesser minor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Version {
    pub(super) major: u16,
    pub(super) minor: u16,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Version {
    /// What both speak, if anything.
    pub(super) fn common(self, other: Self) -> Option<Self> {
        (self.major == other.major).then(|| self.min(other))
    }
}

/// A provider of machines at the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ProviderInfo {
    pub(super) scheme: String,
    #[serde(default)]
    pub(super) capabilities: MachineCapabilities,
    #[serde(default)]
    pub(super) actions: Vec<fleetcore::ActionInfo>,
}

/// What an agent says first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) protocol: Version,
    /// Its name, as it knows it; the token decides.
    #[serde(default)]
    pub(super) id: Option<AgentId>,
    /// Of the program, for people.
    pub(super) version: String,
    /// Random, one per start of the agent: tells a process that comes back from another one of the same name.
    pub(super) instance: String,
    /// Epoch of the last lease this process held.
    #[serde(default)]
    pub(super) epoch: Option<u64>,
    /// The agent's clock, which may be wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) now: Option<Timestamp>,
    #[serde(default)]
    pub(super) exec: ExecCapabilities,
    #[serde(default)]
    pub(super) machines: MachineCapabilities,
    #[serde(default)]
    pub(super) providers: Vec<ProviderInfo>,
    #[serde(default)]
    pub(super) labels: Labels,
    #[serde(default)]
    pub(super) running: Vec<CommandId>,
}

/// From the agent, after the hello.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum FromAgent {
    /// The first message.
    Hello(Box<Hello>),
    /// Alive.
    Heartbeat {
        /// What runs, when that has changed since the last heartbeat.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        running: Option<Vec<CommandId>>,
        /// Measurements.
        #[serde(default, skip_serializing_if = "Json::is_empty")]
        status: Json,
    },
    /// Leaves on purpose; not to be waited for.
    Leaving,
    /// Of a newer version.
    #[serde(other)]
    Unknown,
}

/// Why an agent is not let in, or is put out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Refusal {
    /// No common version.
    Version,
    /// Another process with this agent's name has a newer lease.
    Fenced,
    /// The agent was removed.
    Removed,
    /// The hello makes no sense.
    Malformed,
    /// The server stops, or cannot reach its store: worth another try.
    Unavailable,
    /// Of a newer version.
    #[serde(other)]
    Unknown,
}

impl Refusal {
    /// Whether trying again is pointless.
    pub(super) fn is_final(self) -> bool {
        !matches!(self, Self::Unavailable | Self::Unknown)
    }
}

/// From the server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum FromServer {
    /// The agent is in.
    Welcome { protocol: Version, epoch: u64, ttl_ms: u64, heartbeat_ms: u64 },
    /// Answer to a heartbeat: the lease holds on.
    Renewed,
    /// The agent is out; the connection ends.
    Refused { reason: Refusal, message: String },
    /// Of a newer version.
    #[serde(other)]
    Unknown,
}

/// As text.
pub(super) fn encode(message: &impl Serialize) -> String {
    // Plain data with string keys: cannot fail.
    serde_json::to_string(message).unwrap_or_default()
}

/// How often an agent is heard of and when it is thought gone; the server's clock decides.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn versions_meet_at_the_lesser_minor() {
        let v = |major, minor| Version { major, minor };
        assert_eq!(v(1, 3).common(v(1, 1)), Some(v(1, 1)));
        assert_eq!(v(1, 0).common(v(1, 9)), Some(v(1, 0)));
        assert_eq!(v(1, 0).common(v(2, 0)), None);
    }

    #[test]
    fn what_a_newer_version_adds_is_skipped() {
        let newer = r#"{"type":"heartbeat","status":{"cpu":1},"colour":"red"}"#;
        let known = FromAgent::Heartbeat {
            running: None,
            status: [("cpu".to_owned(), 1.into())].into_iter().collect(),
        };
        assert_eq!(serde_json::from_str::<FromAgent>(newer).unwrap(), known);
        assert_eq!(
            serde_json::from_str::<FromAgent>(r#"{"type":"dance","x":1}"#).unwrap(),
            FromAgent::Unknown
        );
        assert_eq!(serde_json::from_str::<FromServer>(r#"{"type":"sing"}"#).unwrap(), FromServer::Unknown);
        let refused =
            serde_json::from_str::<FromServer>(r#"{"type":"refused","reason":"moon","message":""}"#).unwrap();
        assert!(matches!(refused, FromServer::Refused { reason: Refusal::Unknown, .. }));
    }

    proptest! {
        #[test]
        fn text_of_strangers_never_panics(text in ".{0,200}") {
            let _ = serde_json::from_str::<FromAgent>(&text);
            let _ = serde_json::from_str::<FromServer>(&text);
        }

        #[test]
        fn heartbeats_round_trip(ids in prop::collection::vec(any::<u128>(), 0..20), change in any::<bool>()) {
            let ids: Vec<_> = ids.into_iter().map(|n| CommandId::from(uuid::Uuid::from_u128(n))).collect();
            let message = FromAgent::Heartbeat { running: change.then_some(ids), status: Json::new() };
            prop_assert_eq!(serde_json::from_str::<FromAgent>(&encode(&message)).unwrap(), message);
        }
    }
}
