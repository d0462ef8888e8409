//! Machines behind agents.

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use super::{Executor, OpContext, Provider};
use crate::{AgentId, Result, Target, TargetInfo};

/// The way to what agents offer, however they are connected. A fleet asks it for every target that names an agent.
///
/// Agents come and go; what this hands out stays valid: an executor of an agent that is away refuses new work as
/// `Unavailable`, and what runs there already waits for its return.
#[async_trait]
pub trait AgentDirectory: Send + Sync + fmt::Debug + 'static {
    /// Names of all agents that are known, here or away.
    fn agents(&self) -> Vec<AgentId>;
    /// Runs things on a target that names an agent. No I/O happens; `NotFound` for an unknown agent.
    fn executor(&self, target: &Target) -> Result<Arc<dyn Executor>>;
    /// The machines of one provider at an agent. No I/O happens; `NotFound` for an unknown agent.
    fn provider(&self, agent: &AgentId, scheme: &str) -> Result<Arc<dyn Provider>>;
    /// Resolves when an agent that is expected back is there, with all it runs taken up again, or is not expected any
    /// more; at once for one that is away for good. Whoever looks at a lost command waits for this before believing it.
    async fn caught_up(&self, agent: &AgentId);
    /// All targets of all agents by their full names: the hosts and the machines of their providers. An agent that is
    /// slow or away delays nobody: its last answer is used.
    async fn targets(&self, cx: &OpContext) -> Result<Vec<TargetInfo>>;
}
