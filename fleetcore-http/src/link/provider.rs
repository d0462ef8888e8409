//! Machines of an agent's providers.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use fleetcore::{
    ActionInfo, AgentId, Error, Executor, Json, MachineCapabilities, MachineFilter, MachineId, MachineInfo,
    MachineSpec, OpContext, Provider, Result, StopMode, Target, TargetInfo,
};

use super::remote::{AgentState, LinkExecutor};

/// One provider of one agent, as the agent's own HTTP API shows it.
pub(super) struct LinkProvider {
    agent: Arc<AgentState>,
    scheme: &'static str,
}

impl fmt::Debug for LinkProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkProvider").field("agent", &self.agent.id).field("scheme", &self.scheme).finish()
    }
}

impl LinkProvider {
    pub(super) fn new(agent: Arc<AgentState>, scheme: &str) -> Result<Self> {
        // A name in use somewhere; bounded, whatever agents say.
        let scheme = crate::client::problem::intern(MachineId::new(scheme)?.as_str());
        Ok(Self { agent, scheme })
    }
}

/// Asks an agent for its machines; keeps the last answer when it takes too long.
pub(super) async fn refresh(agent: Arc<AgentState>, deadline: Duration) {
    let asked = async {
        tokio::time::timeout(deadline, agent.client()?.targets()).await.map_err(|_| slow(&agent.id))?
    };
    match asked.await {
        Ok(targets) => {
            let machines = targets.into_iter().filter_map(|t| seen_from_here(&agent.id, t)).collect();
            *agent.machines.lock() = machines;
        }
        Err(error) => tracing::debug!(agent = %agent.id, %error, "machines as they were last heard of"),
    }
}

fn slow(agent: &AgentId) -> Error {
    Error::new(fleetcore::ErrorKind::Timeout, "the agent takes too long").with_context("agent", agent)
}

/// A machine behind the agent; `None` for the host, and for agents of the agent.
fn seen_from_here(agent: &AgentId, there: crate::client::wire::Target) -> Option<TargetInfo> {
    let target: Target = there.target.parse().ok()?;
    if target.agent().is_some() {
        return None;
    }
    let mut info = MachineInfo::new(target.machine_id()?.clone(), there.state);
    info.native_state = there.native_state;
    info.addresses = there.addresses.iter().filter_map(|a| a.parse().ok()).collect();
    info.labels = there.labels;
    info.created_at = there.created_at;
    Some(
        TargetInfo::new(target.via(agent.clone()), there.provider, info)
            .with_capabilities(there.capabilities),
    )
}

#[async_trait]
impl Provider for LinkProvider {
    fn scheme(&self) -> &'static str {
        self.scheme
    }

    fn capabilities(&self) -> MachineCapabilities {
        let facts = self.agent.facts.lock();
        facts.providers.iter().find(|p| p.scheme == self.scheme).map(|p| p.capabilities).unwrap_or_default()
    }

    async fn create(&self, _: &OpContext, _: MachineSpec) -> Result<MachineInfo> {
        Err(Error::unsupported("agent.machine_create"))
    }

    async fn start(&self, _: &OpContext, _: &MachineId) -> Result<MachineInfo> {
        Err(Error::unsupported("agent.machine_start"))
    }

    async fn stop(&self, _: &OpContext, _: &MachineId, _: StopMode) -> Result<MachineInfo> {
        Err(Error::unsupported("agent.machine_stop"))
    }

    async fn delete(&self, _: &OpContext, _: &MachineId, _: bool) -> Result<()> {
        Err(Error::unsupported("agent.machine_delete"))
    }

    async fn list(&self, cx: &OpContext, filter: MachineFilter) -> Result<Vec<MachineInfo>> {
        let targets = cx.guard("agent.list", self.agent.client()?.targets()).await?;
        let machines = targets.into_iter().filter_map(|t| seen_from_here(&self.agent.id, t));
        let machines = machines.filter(|t| t.provider == self.scheme).map(|t| t.info);
        Ok(machines.filter(|m| filter.labels.iter().all(|(k, v)| m.labels.get(k) == Some(v))).collect())
    }

    async fn info(&self, cx: &OpContext, id: &MachineId) -> Result<MachineInfo> {
        let target = Target::machine(self.scheme, id.as_str())?;
        let there = cx.guard("agent.info", self.agent.client()?.target(&target)).await?;
        seen_from_here(&self.agent.id, there)
            .map(|t| t.info)
            .ok_or_else(|| super::exec::malformed("a target"))
    }

    fn actions(&self) -> Vec<ActionInfo> {
        vec![]
    }

    async fn act(&self, _: &OpContext, _: Option<&MachineId>, _: &str, _: Json) -> Result<serde_json::Value> {
        Err(Error::unsupported("agent.machine_action"))
    }

    async fn connect(&self, _: &OpContext, id: &MachineId) -> Result<Arc<dyn Executor>> {
        let target = Target::machine(self.scheme, id.as_str())?;
        Ok(Arc::new(LinkExecutor::new(Arc::clone(&self.agent), &target)?))
    }
}
