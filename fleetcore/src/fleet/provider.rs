//! One provider of the fleet.

use std::sync::Arc;

use crate::{
    ActionInfo, Json, MachineCapabilities, MachineFilter, MachineInfo, MachineSpec, OpContext, Provider,
    Result, Target,
};

/// One provider with all layers around it: makes machines, lists them, and does what is not about one machine. Cheap to
/// clone. Made by [`Fleet::provider`](super::Fleet::provider).
#[derive(Clone, Debug)]
pub struct ProviderHandle {
    provider: Arc<dyn Provider>,
}

impl ProviderHandle {
    pub(super) fn new(provider: Arc<dyn Provider>) -> Self {
        Self { provider }
    }

    /// Its name in targets.
    pub fn scheme(&self) -> &'static str {
        self.provider.scheme()
    }

    /// Which operations it has.
    pub fn capabilities(&self) -> MachineCapabilities {
        self.provider.capabilities()
    }

    /// Makes a machine. Where that takes long, lines about it go to [`OpContext::progress`]. Whether the machine is
    /// up when this returns depends on the provider: see [`Machine::wait_for`](super::Machine::wait_for).
    ///
    /// # Errors
    /// `Unsupported`, `InvalidInput`, `AlreadyExists`; those of the provider and `cx`.
    ///
    /// # Cancellation
    /// A provider whose work cannot be stopped half-way finishes in the background and removes what was made.
    pub async fn create(&self, cx: &OpContext, spec: MachineSpec) -> Result<MachineInfo> {
        cx.guard("create", self.provider.create(cx, spec)).await
    }

    /// Its machines.
    ///
    /// # Errors
    /// Those of the provider and `cx`.
    pub async fn list(&self, cx: &OpContext, filter: MachineFilter) -> Result<Vec<MachineInfo>> {
        cx.guard("list machines", self.provider.list(cx, filter)).await
    }

    /// The target of a machine this provider listed or made.
    ///
    /// # Errors
    /// `InvalidInput` when its scheme is no name.
    pub fn target(&self, machine: &MachineInfo) -> Result<Target> {
        Target::machine(self.scheme(), machine.id.as_str())
    }

    /// What it can do besides the life of machines; for those of one machine see
    /// [`Machine::act`](super::Machine::act).
    pub fn actions(&self) -> Vec<ActionInfo> {
        self.provider.actions()
    }

    /// Does an action of the provider as a whole; gives what the action answers.
    ///
    /// # Errors
    /// `Unsupported` for an unknown action, `InvalidInput` for bad arguments or one that needs a machine; those of the
    /// provider and `cx`.
    pub async fn act(&self, cx: &OpContext, action: &str, args: Json) -> Result<serde_json::Value> {
        cx.guard("act", self.provider.act(cx, None, action, args)).await
    }
}
