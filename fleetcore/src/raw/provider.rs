//! Life of machines.

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use super::{Executor, OpContext};
use crate::{
    ActionInfo, Json, MachineCapabilities, MachineFilter, MachineId, MachineInfo, MachineSpec, Result,
    StopMode,
};

/// The machines of one account, hypervisor or inventory.
///
/// `start`, `stop` and `delete` are idempotent: asking for what is already so succeeds.
#[async_trait]
pub trait Provider: Send + Sync + fmt::Debug + 'static {
    /// Its name in targets, e.g. `multipass`.
    fn scheme(&self) -> &'static str;
    /// Which operations it has, after layers.
    fn capabilities(&self) -> MachineCapabilities;
    /// Makes a machine; returns as soon as it has an id. Wait for `Running` with `Machine::wait_for`.
    async fn create(&self, cx: &OpContext, spec: MachineSpec) -> Result<MachineInfo>;
    /// Starts a machine.
    async fn start(&self, cx: &OpContext, id: &MachineId) -> Result<MachineInfo>;
    /// Stops a machine.
    async fn stop(&self, cx: &OpContext, id: &MachineId, mode: StopMode) -> Result<MachineInfo>;
    /// Deletes a machine; `purge` makes that final where deletion is soft.
    async fn delete(&self, cx: &OpContext, id: &MachineId, purge: bool) -> Result<()>;
    /// One consistent snapshot.
    async fn list(&self, cx: &OpContext, filter: MachineFilter) -> Result<Vec<MachineInfo>>;
    /// One machine; `NotFound` if absent.
    async fn info(&self, cx: &OpContext, id: &MachineId) -> Result<MachineInfo>;
    /// The way to run things on it. Cheap; `InvalidState` when the machine is not up.
    async fn connect(&self, cx: &OpContext, id: &MachineId) -> Result<Arc<dyn Executor>>;
    /// What it can do besides the life of machines, e.g. snapshots. Constant for one provider, cheap.
    fn actions(&self) -> Vec<ActionInfo>;
    /// Does one of its [`actions`](Self::actions), for `machine` or for the provider as a whole; gives what that
    /// action answers. Slow ones report through [`OpContext::progress`].
    ///
    /// `Unsupported` for an action it does not have; `InvalidInput` when `machine` or `args` are not what
    /// [`ActionInfo::check`] demands.
    async fn act(
        &self,
        cx: &OpContext,
        machine: Option<&MachineId>,
        action: &str,
        args: Json,
    ) -> Result<serde_json::Value>;
}
