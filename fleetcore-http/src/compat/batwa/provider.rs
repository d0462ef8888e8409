//! Machines of Batwa's agents as machines of the fleet: `batwa/AGENT.VM`.
//!
//! Agents of the originals speak no protocol of ours, so nothing runs in their machines but Batwa's terminals; what they
//! can do - list, launch, start, stop, delete - is there for everybody who uses the fleet.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock, Weak},
};

use async_trait::async_trait;
use axum::http::StatusCode;
use fleetcore::{
    ActionInfo, ActionScope, Error, ErrorKind, Executor, Json, MachineCapabilities, MachineFilter, MachineId,
    MachineInfo, MachineSpec, MachineState, OpContext, Provider, Result, StopMode,
};
use parking_lot::Mutex;
use serde::Deserialize;

use super::{
    agents::Agent,
    checks,
    map::{self, AgentFailure, Deed, Members},
    state::Master,
    wire::{self, Create},
};

/// Name in targets.
pub(super) const SCHEME: &str = "batwa";
/// Label with the id of the agent.
const AGENT: &str = "agent";
/// Label with the host name of the agent.
const HOST: &str = "host";
const MIB: u64 = 1 << 20;

/// The provider of a master. Made before the master, because a fleet takes its providers when it is built.
#[derive(Clone, Debug, Default)]
pub(super) struct AgentVms(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    master: OnceLock<Weak<Master>>,
    /// What agents said last, by their ids.
    last: Mutex<HashMap<String, Arc<Members>>>,
}

/// One machine of the merged list, as it was sent to clients.
#[derive(Debug, Deserialize)]
struct Listed {
    name: String,
    state: String,
    ipv4: Vec<String>,
}

/// The word every backend shares for a state of Multipass.
fn state(native: &str) -> MachineState {
    match native {
        "Running" | "Delayed Shutdown" => MachineState::Running,
        "Starting" | "Restarting" => MachineState::Pending,
        "Suspending" => MachineState::Stopping,
        "Stopped" => MachineState::Stopped,
        "Suspended" => MachineState::Suspended,
        "Deleted" => MachineState::Deleted,
        _ => MachineState::Unknown,
    }
}

/// `AGENT.VM`: names of machines have no dots.
fn split(id: &MachineId) -> Result<(&str, &str)> {
    let parts = id
        .as_str()
        .rsplit_once('.')
        .filter(|(agent, vm)| checks::word("agent_id", agent).is_ok() && checks::vm_name(vm).is_ok());
    parts.ok_or_else(|| Error::invalid("name", "AGENT.VM, such as office-1.web").with_context("name", id))
}

/// An amount in Multipass's words.
fn amount(bytes: u64) -> String {
    if bytes.is_multiple_of(MIB) { format!("{}M", bytes / MIB) } else { bytes.to_string() }
}

fn error(failure: &AgentFailure, id: &str, deed: &'static str) -> Error {
    let (status, text) = failure.tell(id, &format!("Failed to {deed} VM"));
    let kind = match failure {
        AgentFailure::Unknown => ErrorKind::NotFound,
        AgentFailure::Unreachable => ErrorKind::Unavailable,
        AgentFailure::Late => ErrorKind::Timeout,
        AgentFailure::Key => ErrorKind::PermissionDenied,
        AgentFailure::Odd => ErrorKind::Unexpected,
        AgentFailure::Said(_, text) if map::says_unknown(text) => ErrorKind::NotFound,
        AgentFailure::Said(_, text) if text.contains("already exists") => ErrorKind::AlreadyExists,
        AgentFailure::Said(..) if status == StatusCode::UNPROCESSABLE_ENTITY => ErrorKind::InvalidInput,
        AgentFailure::Said(..) => ErrorKind::CommandFailed,
    };
    Error::new(kind, text.trim().to_owned()).with_operation("batwa").with_context("agent", id)
}

impl AgentVms {
    /// From now on it shows what this master knows.
    pub(super) fn belong_to(&self, master: &Arc<Master>) {
        // Set once; a plan is started once.
        let _ = self.0.master.set(Arc::downgrade(master));
    }

    fn master(&self) -> Result<Arc<Master>> {
        let master = self.0.master.get().and_then(Weak::upgrade);
        master.ok_or_else(|| Error::new(ErrorKind::Unavailable, "Batwa's master does not run"))
    }

    /// All of them. Those of agents that are offline or do not answer are as they were, in a state nobody knows.
    async fn all(&self) -> Result<Vec<MachineInfo>> {
        let master = self.master()?;
        let agents = master.agents.all();
        let online: Vec<Agent> = agents.iter().filter(|a| a.info.status == "online").cloned().collect();
        let answers = master.lists.of_agents(&online).await;
        let heard: HashMap<&str, Arc<Members>> = online
            .iter()
            .zip(answers)
            .filter_map(|(agent, answer)| Some((agent.info.agent_id.as_str(), answer?.ok()?)))
            .collect();
        let mut last = self.0.last.lock();
        last.retain(|id, _| agents.iter().any(|a| a.info.agent_id == *id));
        last.extend(heard.iter().map(|(id, members)| ((*id).to_owned(), members.clone())));
        let mut machines = Vec::new();
        for agent in &agents {
            let id = agent.info.agent_id.as_str();
            let Some(members) = last.get(id) else { continue };
            let listed: Vec<Listed> =
                serde_json::from_str(&format!("[{}]", members.json)).unwrap_or_default();
            let answers = heard.contains_key(id);
            machines.extend(listed.into_iter().filter_map(|vm| machine(agent, vm, answers)));
        }
        Ok(machines)
    }

    async fn one(&self, id: &MachineId) -> Result<MachineInfo> {
        let (agent, _) = split(id)?;
        if self.master()?.agents.get(agent).is_none() {
            return Err(error(&AgentFailure::Unknown, agent, "find"));
        }
        let found = self.all().await?.into_iter().find(|m| m.id == *id);
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, "no such machine").with_context("machine", id))
    }

    async fn deed(&self, deed: Deed, id: &MachineId, wanted: Option<&Create>) -> Result<()> {
        let master = self.master()?;
        let (agent_id, name) = split(id)?;
        let failed = |failure: AgentFailure| error(&failure, agent_id, deed.as_str());
        let agent = master.agents.get(agent_id).ok_or(AgentFailure::Unknown).map_err(failed)?;
        let done = match wanted {
            Some(wanted) => master.remote.create(&agent, wanted).await,
            None => master.remote.act(&agent, deed, name).await,
        };
        master.lists.outdate(Some(agent_id));
        done.map(drop).map_err(failed)
    }
}

/// `None` for an agent whose id is no name here.
fn machine(agent: &Agent, vm: Listed, answers: bool) -> Option<MachineInfo> {
    let id = MachineId::new(format!("{}.{}", agent.info.agent_id, vm.name)).ok()?;
    let mut info = MachineInfo::new(id, if answers { state(&vm.state) } else { MachineState::Unknown });
    info.native_state = vm.state;
    info.addresses = vm.ipv4.iter().filter_map(|a| a.parse().ok()).collect();
    info.labels.insert(AGENT.to_owned(), agent.info.agent_id.clone());
    info.labels.insert(HOST.to_owned(), agent.info.hostname.clone());
    Some(info)
}

/// What an agent is asked for.
fn create(spec: &MachineSpec, name: &str) -> Result<Create> {
    let unsupported = |field: &'static str| Error::unsupported("create").with_context("field", field);
    if spec.user_data.is_some()
        || spec.region.is_some()
        || !spec.options.is_empty()
        || !spec.labels.is_empty()
    {
        return Err(unsupported("user_data, region, labels, options"));
    }
    let image = spec.image.as_deref().unwrap_or(wire::IMAGE);
    if checks::image_name(image).is_err() {
        return Err(
            Error::invalid("image", "the name of an image").with_context("image", image.escape_debug())
        );
    }
    Ok(Create {
        name: name.to_owned(),
        cpus: spec.cpus.map_or(wire::CPUS, i64::from),
        memory: spec.memory_bytes.map_or_else(|| wire::MEMORY.to_owned(), amount),
        disk: spec.disk_bytes.map_or_else(|| wire::DISK.to_owned(), amount),
        image: image.to_owned(),
        agent_id: None,
    })
}

#[async_trait]
impl Provider for AgentVms {
    fn scheme(&self) -> &'static str {
        SCHEME
    }

    fn capabilities(&self) -> MachineCapabilities {
        let mut all = MachineCapabilities::default();
        (all.create, all.start, all.stop, all.delete) = (true, true, true, true);
        all
    }

    async fn create(&self, cx: &OpContext, spec: MachineSpec) -> Result<MachineInfo> {
        let id = MachineId::new(&spec.name)?;
        let wanted = create(&spec, split(&id)?.1)?;
        // Seen through when the caller leaves: the agent launches it all the same.
        let (this, task) = (self.clone(), id.clone());
        let launch = tokio::spawn(async move { this.deed(Deed::Create, &task, Some(&wanted)).await });
        let launched = async {
            launch
                .await
                .map_err(|e| Error::new(ErrorKind::Unexpected, "the launch broke off").with_source(e))?
        };
        cx.guard("create", launched).await?;
        cx.guard("create", self.one(&id)).await
    }

    async fn start(&self, cx: &OpContext, id: &MachineId) -> Result<MachineInfo> {
        cx.guard("start", self.deed(Deed::Start, id, None)).await?;
        cx.guard("start", self.one(id)).await
    }

    async fn stop(&self, cx: &OpContext, id: &MachineId, mode: StopMode) -> Result<MachineInfo> {
        if mode != StopMode::Graceful {
            return Err(Error::unsupported("stop").with_context("mode", format!("{mode:?}")));
        }
        cx.guard("stop", self.deed(Deed::Stop, id, None)).await?;
        cx.guard("stop", self.one(id)).await
    }

    async fn delete(&self, cx: &OpContext, id: &MachineId, _purge: bool) -> Result<()> {
        match cx.guard("delete", self.deed(Deed::Delete, id, None)).await {
            Err(e)
                if e.kind() == ErrorKind::NotFound && self.master()?.agents.get(split(id)?.0).is_some() =>
            {
                Ok(())
            }
            done => done,
        }
    }

    async fn list(&self, cx: &OpContext, filter: MachineFilter) -> Result<Vec<MachineInfo>> {
        let mut all = cx.guard("list machines", self.all()).await?;
        all.retain(|m| {
            (filter.include_deleted || m.state != MachineState::Deleted)
                && filter.labels.iter().all(|(k, v)| m.labels.get(k) == Some(v))
        });
        Ok(all)
    }

    async fn info(&self, cx: &OpContext, id: &MachineId) -> Result<MachineInfo> {
        cx.guard("info", self.one(id)).await
    }

    async fn connect(&self, _cx: &OpContext, id: &MachineId) -> Result<Arc<dyn Executor>> {
        Err(Error::unsupported("connect").with_context("machine", id).with_context(
            "hint",
            "agents of Batwa run nothing but its own terminals; `fleetcore agent` does",
        ))
    }

    fn actions(&self) -> Vec<ActionInfo> {
        let about = "Agents that registered with Batwa's master, as it lists them";
        vec![ActionInfo::question("agents", ActionScope::Provider, about)]
    }

    async fn act(
        &self,
        _cx: &OpContext,
        machine: Option<&MachineId>,
        action: &str,
        args: Json,
    ) -> Result<serde_json::Value> {
        ActionInfo::find(&self.actions(), action)?.check(machine, &args)?;
        let list = self.master()?.agents.list_body();
        serde_json::from_slice(&list).map_err(|e| {
            Error::new(ErrorKind::Unexpected, "the list of agents cannot be read").with_source(e)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_an_agent_and_a_machine() {
        let id = |text: &str| MachineId::new(text).unwrap();
        assert_eq!(split(&id("office-1.web")).unwrap(), ("office-1", "web"));
        assert_eq!(split(&id("lab.x.web-2")).unwrap(), ("lab.x", "web-2"));
        for bad in ["web", "office.1web", "office.we_b", "a..web."] {
            assert!(MachineId::new(bad).is_err() || split(&id(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_asked_for_is_said_in_multipass_words() {
        let mut spec = MachineSpec::default();
        let plain = create(&spec, "web").unwrap();
        assert_eq!((plain.cpus, plain.memory.as_str(), plain.disk.as_str()), (1, "1G", "5G"));
        (spec.cpus, spec.memory_bytes, spec.disk_bytes) = (Some(2), Some(2 << 30), Some(5_000_000_001));
        let full = create(&spec, "web").unwrap();
        assert_eq!((full.cpus, full.memory.as_str(), full.disk.as_str()), (2, "2048M", "5000000001"));
        assert!(checks::size("memory", &full.memory).is_ok() && checks::size("disk", &full.disk).is_ok());
        spec.image = Some("--mount=/:/host".to_owned());
        assert_eq!(create(&spec, "web").unwrap_err().kind(), ErrorKind::InvalidInput);
        spec.image = None;
        spec.region = Some("x".to_owned());
        assert_eq!(create(&spec, "web").unwrap_err().kind(), ErrorKind::Unsupported);
    }
}
