//! The one grammar by which every frontend names a machine.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{ExecCapabilities, MachineInfo};
use crate::{AgentId, Error, ErrorKind, MachineId, Result};

/// Where something runs: `[agent/]provider/machine`, or the name of an agent for its host, or `local`.
///
/// | text | meaning |
/// |---|---|
/// | `local` | the host of this process |
/// | `multipass/dev1` | machine `dev1` of the provider `multipass` here |
/// | `office-1` | the host the agent `office-1` runs on |
/// | `office-1/multipass/dev1` | machine `dev1` of the provider `multipass` at that agent |
///
/// ```
/// # use fleetcore::Target;
/// let target: Target = "office-1/multipass/dev1".parse()?;
/// assert_eq!(target.agent().map(|a| a.as_str()), Some("office-1"));
/// assert_eq!(target.to_string(), "office-1/multipass/dev1");
/// # Ok::<(), fleetcore::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Target {
    agent: Option<AgentId>,
    machine: Option<(MachineId, MachineId)>,
}

/// Name of the target that is the host of this process.
pub const LOCAL: &str = "local";

impl Target {
    /// The host of this process.
    pub fn local() -> Self {
        Self { agent: None, machine: None }
    }

    /// Machine `machine` of provider `provider` in this process.
    ///
    /// # Errors
    /// `InvalidInput` when a name breaks the name grammar.
    pub fn machine(provider: &str, machine: &str) -> Result<Self> {
        Ok(Self { agent: None, machine: Some((MachineId::new(provider)?, MachineId::new(machine)?)) })
    }

    /// The same target seen from outside the agent `agent`.
    #[must_use]
    pub fn via(mut self, agent: AgentId) -> Self {
        self.agent = Some(agent);
        self
    }

    /// The agent to go through, if it is not this process.
    pub fn agent(&self) -> Option<&AgentId> {
        self.agent.as_ref()
    }

    /// Scheme of the provider; `None` means the host itself.
    pub fn provider(&self) -> Option<&str> {
        self.machine.as_ref().map(|(p, _)| p.as_str())
    }

    /// Name of the machine within its provider; `None` means the host itself.
    pub fn machine_id(&self) -> Option<&MachineId> {
        self.machine.as_ref().map(|(_, m)| m)
    }

    /// Whether this is the host of this process.
    pub fn is_local(&self) -> bool {
        self.agent.is_none() && self.machine.is_none()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.agent, &self.machine) {
            (None, None) => f.write_str(LOCAL),
            (Some(a), None) => write!(f, "{a}"),
            (None, Some((p, m))) => write!(f, "{p}/{m}"),
            (Some(a), Some((p, m))) => write!(f, "{a}/{p}/{m}"),
        }
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = |e: Error| {
            Error::new(ErrorKind::InvalidInput, "target is not valid")
                .with_context("field", "target")
                .with_context("value", text.chars().take(64).collect::<String>().escape_debug())
                .with_context("rule", "local, AGENT, PROVIDER/MACHINE or AGENT/PROVIDER/MACHINE")
                .with_source(e)
        };
        let agent = |name: &str| {
            if name == LOCAL {
                return Err(Error::new(ErrorKind::InvalidInput, "local names this host, not an agent"));
            }
            AgentId::new(name)
        };
        let parts: Vec<&str> = text.split('/').collect();
        let target = match parts.as_slice() {
            [LOCAL] => Ok(Self::local()),
            [a] => agent(a).map(|a| Self::local().via(a)),
            [p, m] if *p != LOCAL => Self::machine(p, m),
            [a, p, m] if *p != LOCAL => Self::machine(p, m).and_then(|t| Ok(t.via(agent(a)?))),
            _ => Err(Error::new(ErrorKind::InvalidInput, "wrong number of parts")),
        };
        target.map_err(invalid)
    }
}

impl TryFrom<String> for Target {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.to_string()
    }
}

/// One line of the list of targets.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TargetInfo {
    /// Its name everywhere.
    pub target: Target,
    /// The scheme of its provider, or `local`.
    pub provider: String,
    /// What its provider reports.
    pub info: MachineInfo,
    /// What can be done on it; `None` when it cannot be reached now.
    pub capabilities: Option<ExecCapabilities>,
}

impl TargetInfo {
    /// A line of the list.
    pub fn new(target: Target, provider: impl Into<String>, info: MachineInfo) -> Self {
        Self { target, provider: provider.into(), info, capabilities: None }
    }

    /// Sets what can be done on it.
    #[must_use]
    pub fn with_capabilities(mut self, capabilities: Option<ExecCapabilities>) -> Self {
        self.capabilities = capabilities;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn forms() {
        for text in ["local", "office-1", "multipass/dev1", "office-1/multipass/dev1"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        for bad in ["", "/", "a/", "/a", "a/b/c/d", "local/x", "a/local/x", "local/p/m", "a b", "-x", "../x"]
        {
            assert_eq!(bad.parse::<Target>().unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_round_trips(text in ".{0,40}") {
            if let Ok(t) = text.parse::<Target>() {
                prop_assert_eq!(t.to_string().parse::<Target>().unwrap(), t.clone());
                prop_assert_eq!(t.to_string(), text);
            }
        }

        #[test]
        fn well_formed_targets_parse(a in "[a-z0-9][a-z0-9_.-]{0,8}", p in "[a-z]{2,4}x", m in "[A-Z0-9][a-z0-9_.-]{0,8}") {
            prop_assume!(a != LOCAL && p != LOCAL);
            let t: Target = format!("{a}/{p}/{m}").parse().unwrap();
            prop_assert_eq!(t.agent().unwrap().as_str(), a);
            prop_assert_eq!(t.provider().unwrap(), p);
            prop_assert_eq!(t.machine_id().unwrap().as_str(), m);
        }
    }
}
