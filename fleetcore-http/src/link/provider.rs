//! Machines of an agent's providers.

use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use fleetcore::{
    ActionInfo, AgentId, CommandEvent, CommandId, Error, ErrorKind, Executor, Json, MachineCapabilities,
    MachineFilter, MachineId, MachineInfo, MachineSpec, Offset, OpContext, Provider, Result, StopMode,
    Target, TargetInfo,
};
use futures::StreamExt as _;

use super::{
    protocol::ProviderInfo,
    remote::{AgentState, LinkExecutor},
};
use crate::client::{
    Client, Transport, parse_problem,
    wire::{Acted, Machine, MachineQuery, NewMachine},
};

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

    /// The name of a machine as the agent has it.
    fn there(&self, name: &MachineId) -> Result<Target> {
        Target::machine(self.scheme, name.as_str())
    }

    fn facts(&self) -> Option<ProviderInfo> {
        self.agent.facts.lock().providers.iter().find(|p| p.scheme == self.scheme).cloned()
    }
}

/// Cancels a command at the agent when nobody follows it any more.
struct Abandoned<'a> {
    client: &'a Client,
    /// `None` once it has ended.
    id: Option<CommandId>,
}

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        let (Some(id), Ok(runtime)) = (self.id, tokio::runtime::Handle::try_current()) else { return };
        let client = self.client.clone();
        runtime.spawn(async move {
            if let Err(error) = client.cancel(id).await {
                tracing::debug!(%error, command = %id, "what nobody waits for any more cannot be cancelled");
            }
        });
    }
}

/// Follows an operation at the agent to its end, passing its progress on; gives its last line. When `cx` is cancelled the
/// operation is, and its end is waited for.
async fn follow(client: &Client, cx: &OpContext, id: CommandId) -> Result<Option<String>> {
    let mut abandoned = Abandoned { client, id: Some(id) };
    let mut events = client.output(id, Offset(0), Transport::WebSocket).await?;
    let (mut text, mut lines) = (Vec::new(), VecDeque::new());
    let mut cancelled = false;
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = cx.cancel.cancelled(), if !cancelled => {
                cancelled = true;
                client.cancel(id).await?;
                continue;
            }
        };
        match event.ok_or_else(|| super::exec::malformed("an operation"))?? {
            CommandEvent::Output(chunk) => {
                text.extend_from_slice(&chunk.data);
                while let Some(end) = text.iter().position(|b| *b == b'\n') {
                    let line: Vec<u8> = text.drain(..=end).collect();
                    lines.push_back(String::from_utf8_lossy(&line).trim_end().to_owned());
                }
                // The last two may be the error, or the answer.
                while lines.len() > 2 {
                    cx.report(lines.pop_front().unwrap_or_default());
                }
            }
            CommandEvent::Exited(status) => {
                abandoned.id = None;
                if status.success() {
                    let last = lines.pop_back();
                    lines.into_iter().for_each(|line| cx.report(line));
                    return Ok(last);
                }
                return Err(failure(lines.make_contiguous()));
            }
            _ => {}
        }
    }
}

/// The error in the last lines of an operation.
fn failure(lines: &[String]) -> Error {
    let found = lines.iter().rev().find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(parse_problem(line.get("problem")?.to_string().as_bytes()))
    });
    found.unwrap_or_else(|| Error::new(ErrorKind::Cancelled, "it was given up at the agent"))
}

fn info_of(there: Machine) -> Option<MachineInfo> {
    let target: Target = there.target.parse().ok()?;
    if target.agent().is_some() {
        return None;
    }
    let mut info = MachineInfo::new(target.machine_id()?.clone(), there.state);
    info.native_state = there.native_state;
    info.addresses = there.addresses.iter().filter_map(|a| a.parse().ok()).collect();
    info.labels = there.labels;
    info.created_at = there.created_at;
    Some(info)
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
        self.facts().map(|p| p.capabilities).unwrap_or_default()
    }

    async fn create(&self, cx: &OpContext, spec: MachineSpec) -> Result<MachineInfo> {
        let name = MachineId::new(&spec.name)?;
        let target = self.there(&name)?;
        let client = self.agent.client()?;
        let id = CommandId::generate();
        let mut request = NewMachine::from_spec(&target, &spec)?;
        request.id = Some(id.to_string());
        // What the agent makes it must also take back, so this is not dropped half-way but cancelled there.
        client.create_machine(&request).await?;
        follow(client, cx, id).await?;
        self.info(cx, &name).await
    }

    async fn start(&self, cx: &OpContext, name: &MachineId) -> Result<MachineInfo> {
        let (client, id) = (self.agent.client()?, CommandId::generate());
        client.start_machine(&self.there(name)?, Some(id)).await?;
        follow(client, cx, id).await?;
        self.info(cx, name).await
    }

    async fn stop(&self, cx: &OpContext, name: &MachineId, mode: StopMode) -> Result<MachineInfo> {
        let (client, id) = (self.agent.client()?, CommandId::generate());
        client.stop_machine(&self.there(name)?, Some(id), mode).await?;
        follow(client, cx, id).await?;
        self.info(cx, name).await
    }

    async fn delete(&self, cx: &OpContext, name: &MachineId, purge: bool) -> Result<()> {
        let (client, id) = (self.agent.client()?, CommandId::generate());
        client.delete_machine(&self.there(name)?, Some(id), purge).await?;
        follow(client, cx, id).await.map(drop)
    }

    async fn list(&self, cx: &OpContext, filter: MachineFilter) -> Result<Vec<MachineInfo>> {
        let query = MachineQuery {
            provider: Some(self.scheme.to_owned()),
            labels: filter.labels,
            include_deleted: filter.include_deleted,
            ..MachineQuery::default()
        };
        let listed = cx.guard("agent.list", self.agent.client()?.machines(&query)).await?;
        if let Some(failed) = listed.errors.iter().find(|e| e.agent.is_none()) {
            return Err(parse_problem(failed.problem.to_string().as_bytes()));
        }
        Ok(listed.items.into_iter().filter_map(info_of).collect())
    }

    async fn info(&self, cx: &OpContext, id: &MachineId) -> Result<MachineInfo> {
        let there = cx.guard("agent.info", self.agent.client()?.machine(&self.there(id)?)).await?;
        info_of(there).ok_or_else(|| super::exec::malformed("a machine"))
    }

    fn actions(&self) -> Vec<ActionInfo> {
        self.facts().map(|p| p.actions).unwrap_or_default()
    }

    async fn act(
        &self,
        cx: &OpContext,
        machine: Option<&MachineId>,
        action: &str,
        args: Json,
    ) -> Result<serde_json::Value> {
        let (client, id) = (self.agent.client()?, CommandId::generate());
        let asked = async {
            match machine {
                Some(name) => client.act_machine(&self.there(name)?, Some(id), action, &args).await,
                None => client.act_provider(self.scheme, Some(id), action, &args).await,
            }
        };
        match asked.await? {
            Acted::Answer { result } => Ok(result),
            Acted::Command(_) => {
                let last = follow(client, cx, id).await?;
                Ok(last.and_then(|line| serde_json::from_str(&line).ok()).unwrap_or_default())
            }
        }
    }

    async fn connect(&self, _: &OpContext, id: &MachineId) -> Result<Arc<dyn Executor>> {
        Ok(Arc::new(LinkExecutor::new(Arc::clone(&self.agent), &self.there(id)?)?))
    }
}
