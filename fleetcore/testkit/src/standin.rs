//! A provider without a hypervisor: its machines are entries in a table, and all of them are this host.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use fleetcore::{
    ActionInfo, ActionScope, ArgumentKind, Error, ErrorKind, Executor, Json, MachineCapabilities,
    MachineFilter, MachineId, MachineInfo, MachineSpec, MachineState, OpContext, Provider, Result, StopMode,
    backends::local::{Local, LocalConfig},
};
use tokio::sync::Mutex;

/// Machines in a table. Good for testing whatever drives machines.
#[derive(Debug)]
pub struct TableProvider {
    can: MachineCapabilities,
    machines: Mutex<BTreeMap<MachineId, MachineInfo>>,
    host: Arc<dyn Executor>,
}

impl Default for TableProvider {
    fn default() -> Self {
        let mut can = MachineCapabilities::default();
        (can.create, can.start, can.stop, can.stop_with_suspend) = (true, true, true, true);
        (can.delete, can.delete_is_soft) = (true, true);
        Self::new(can)
    }
}

impl TableProvider {
    /// A provider that can do this much.
    pub fn new(can: MachineCapabilities) -> Self {
        Self { can, machines: Mutex::default(), host: Arc::new(Local::new(LocalConfig::default())) }
    }

    async fn change(&self, id: &MachineId, state: MachineState) -> Result<MachineInfo> {
        let mut machines = self.machines.lock().await;
        let machine = machines.get_mut(id).ok_or_else(|| missing(id))?;
        if machine.state == MachineState::Deleted {
            return Err(
                Error::new(ErrorKind::InvalidState, "the machine is deleted").with_context("machine", id)
            );
        }
        set(machine, state);
        Ok(machine.clone())
    }
}

fn set(machine: &mut MachineInfo, state: MachineState) {
    machine.state = state;
    machine.native_state = format!("{state:?}").to_lowercase();
}

fn missing(id: &MachineId) -> Error {
    Error::new(ErrorKind::NotFound, "no such machine").with_context("machine", id)
}

fn need(has: bool, operation: &'static str) -> Result<()> {
    if has { Ok(()) } else { Err(Error::unsupported(operation)) }
}

#[async_trait]
impl Provider for TableProvider {
    fn scheme(&self) -> &'static str {
        "table"
    }

    fn capabilities(&self) -> MachineCapabilities {
        self.can
    }

    async fn create(&self, _: &OpContext, spec: MachineSpec) -> Result<MachineInfo> {
        need(self.can.create, "create")?;
        if let Some(option) = spec.options.keys().next() {
            return Err(Error::invalid("options", "empty").with_context("option", option.escape_debug()));
        }
        let id = MachineId::new(&spec.name)?;
        let mut machines = self.machines.lock().await;
        if machines.contains_key(&id) {
            return Err(
                Error::new(ErrorKind::AlreadyExists, "the name is taken").with_context("machine", &id)
            );
        }
        let mut machine = MachineInfo::new(id.clone(), MachineState::Running);
        set(&mut machine, MachineState::Running);
        machine.labels = spec.labels;
        machine.created_at = Some(jiff::Timestamp::now());
        machines.insert(id, machine.clone());
        Ok(machine)
    }

    async fn start(&self, _: &OpContext, id: &MachineId) -> Result<MachineInfo> {
        need(self.can.start, "start")?;
        self.change(id, MachineState::Running).await
    }

    async fn stop(&self, _: &OpContext, id: &MachineId, mode: StopMode) -> Result<MachineInfo> {
        need(self.can.stop, "stop")?;
        match mode {
            StopMode::Suspend => {
                need(self.can.stop_with_suspend, "stop")?;
                self.change(id, MachineState::Suspended).await
            }
            _ => self.change(id, MachineState::Stopped).await,
        }
    }

    async fn delete(&self, _: &OpContext, id: &MachineId, purge: bool) -> Result<()> {
        need(self.can.delete, "delete")?;
        let mut machines = self.machines.lock().await;
        if purge || !self.can.delete_is_soft {
            machines.remove(id);
        } else if let Some(machine) = machines.get_mut(id) {
            set(machine, MachineState::Deleted);
        }
        Ok(())
    }

    async fn list(&self, _: &OpContext, filter: MachineFilter) -> Result<Vec<MachineInfo>> {
        let machines = self.machines.lock().await;
        let passes = |m: &&MachineInfo| {
            (filter.include_deleted || m.state != MachineState::Deleted)
                && filter.labels.iter().all(|(k, v)| m.labels.get(k) == Some(v))
        };
        Ok(machines.values().filter(passes).cloned().collect())
    }

    async fn info(&self, _: &OpContext, id: &MachineId) -> Result<MachineInfo> {
        self.machines.lock().await.get(id).cloned().ok_or_else(|| missing(id))
    }

    async fn connect(&self, cx: &OpContext, id: &MachineId) -> Result<Arc<dyn Executor>> {
        let info = self.info(cx, id).await?;
        if info.state != MachineState::Running {
            return Err(Error::new(ErrorKind::InvalidState, "the machine is not up")
                .with_context("machine", id)
                .with_context("state", info.native_state));
        }
        Ok(Arc::clone(&self.host))
    }

    /// `recover` takes a deleted machine back, `count` counts machines: one action of each kind.
    fn actions(&self) -> Vec<ActionInfo> {
        if !self.can.delete_is_soft {
            return Vec::new();
        }
        vec![
            ActionInfo::new("recover", ActionScope::Machine, "Takes a deleted machine back"),
            ActionInfo::question("count", ActionScope::Provider, "Counts machines").accepts(
                "deleted",
                ArgumentKind::Flag,
                "also those that are deleted",
            ),
        ]
    }

    async fn act(
        &self,
        _: &OpContext,
        machine: Option<&MachineId>,
        action: &str,
        args: Json,
    ) -> Result<serde_json::Value> {
        ActionInfo::find(&self.actions(), action)?.check(machine, &args)?;
        let mut machines = self.machines.lock().await;
        let Some(id) = machine else {
            let all = args.get("deleted").and_then(serde_json::Value::as_bool).unwrap_or(false);
            let counted = machines.values().filter(|m| all || m.state != MachineState::Deleted).count();
            return Ok(counted.into());
        };
        let machine = machines.get_mut(id).ok_or_else(|| missing(id))?;
        if machine.state == MachineState::Deleted {
            set(machine, MachineState::Stopped);
        }
        Ok(serde_json::Value::Null)
    }
}
