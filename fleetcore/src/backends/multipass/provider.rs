//! The provider: what it knows, and the methods of the trait.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Weak},
    time::Instant,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{OnceCell, OwnedMutexGuard, Semaphore};

use super::{
    MultipassConfig, actions,
    client::Client,
    executor::MachineExecutor,
    inventory::Inventory,
    launch::Launches,
    names,
    parse::Item,
    records::{Record, Records},
};
use crate::{
    ActionInfo, Error, ErrorKind, Json, MachineCapabilities, MachineFilter, MachineId, MachineInfo,
    MachineSpec, MachineState, Result, StopMode,
    raw::{Executor, OpContext, Provider},
};

/// Machines whose locks are remembered before those nobody holds are forgotten.
const LOCKS_MAX: usize = 1024;

/// Machines of the Multipass of this host: scheme `multipass`. Cheap to clone; clones share lists and limits.
#[derive(Clone, Debug)]
pub struct Multipass(Arc<Inner>);

impl Multipass {
    /// The Multipass these settings describe. Nothing is started: whether it is there shows at the first call.
    pub fn new(config: MultipassConfig) -> Self {
        let config = Arc::new(config);
        let client = Arc::new(Client::new(Arc::clone(&config)));
        Self(Arc::new(Inner {
            inventory: Inventory::new(Arc::clone(&client), Arc::clone(&config)),
            records: Records::new(config.records.clone()),
            launches: Launches::new(config.launches),
            calls: Arc::new(Semaphore::new(config.calls.max(1))),
            serial: Semaphore::new(1),
            locks: Mutex::default(),
            resumed: OnceCell::new(),
            plain: Mutex::default(),
            client,
            config,
        }))
    }

    /// Follows launches that a process before this one began and whose outcome it did not see, as far as
    /// [`records`](MultipassConfig::records) tell: a machine that came up is taken over with its labels, one that was
    /// cancelled is purged. In the background; nothing is started where there are none. The first launch or list does the
    /// same.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn resume(&self) {
        let inner = Arc::clone(&self.0);
        tokio::spawn(async move { inner.resumed().await });
    }
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) config: Arc<MultipassConfig>,
    pub(super) client: Arc<Client>,
    pub(super) inventory: Inventory,
    pub(super) records: Records,
    pub(super) launches: Launches,
    /// Changes at once.
    pub(super) calls: Arc<Semaphore>,
    /// What the daemon does one after another anyway: in its queue the client's clock would run.
    pub(super) serial: Semaphore,
    locks: Mutex<HashMap<MachineId, Weak<tokio::sync::Mutex<()>>>>,
    /// The launches of processes before this one are followed.
    pub(super) resumed: OnceCell<()>,
    /// Machines without Python, and when that was seen.
    pub(super) plain: Mutex<BTreeMap<MachineId, Instant>>,
}

impl Inner {
    /// One change of one machine at a time.
    pub(super) async fn lock(&self, id: &MachineId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock();
            match locks.get(id).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    if locks.len() >= LOCKS_MAX {
                        locks.retain(|_, lock| lock.strong_count() > 0);
                    }
                    let lock = Arc::new(tokio::sync::Mutex::new(()));
                    locks.insert(id.clone(), Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }

    /// The machine as the list has it.
    pub(super) async fn item(&self, id: &MachineId) -> Result<Item> {
        if names::possible(id) {
            let items = self.inventory.states().await?;
            if let Some(item) = items.iter().find(|i| i.name == id.as_str()) {
                return Ok(item.clone());
            }
        }
        Err(Error::new(ErrorKind::NotFound, "no such machine").with_context("machine", id))
    }

    /// The machine, which is not deleted.
    pub(super) async fn living(&self, id: &MachineId) -> Result<Item> {
        let item = self.item(id).await?;
        if item.state() == MachineState::Deleted {
            return Err(Error::new(ErrorKind::InvalidState, "the machine is deleted")
                .with_context("machine", id)
                .with_context("hint", "recover it first, or purge it"));
        }
        Ok(item)
    }

    /// The machine as it is reported, with its addresses.
    pub(super) async fn report(&self, id: &MachineId) -> Result<MachineInfo> {
        let records = self.records.all().await?;
        let items = if names::possible(id) { self.inventory.items().await? } else { Vec::new() };
        let item = items.iter().find(|i| i.name == id.as_str());
        item.and_then(|i| info(i, &records))
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "no such machine").with_context("machine", id))
    }
}

/// `None` for a name that is none.
fn info(item: &Item, records: &BTreeMap<String, Record>) -> Option<MachineInfo> {
    let mut info = MachineInfo::new(MachineId::new(&item.name).ok()?, item.state());
    info.native_state.clone_from(&item.native_state);
    info.addresses.clone_from(&item.addresses);
    if let Some(record) = records.get(&item.name) {
        info.labels.clone_from(&record.labels);
        info.created_at = record.created_at;
    }
    Some(info)
}

#[async_trait]
impl Provider for Multipass {
    fn scheme(&self) -> &'static str {
        "multipass"
    }

    fn capabilities(&self) -> MachineCapabilities {
        MachineCapabilities {
            create: true,
            start: true,
            stop: true,
            stop_with_suspend: true,
            delete: true,
            delete_is_soft: true,
        }
    }

    async fn create(&self, cx: &OpContext, spec: MachineSpec) -> Result<MachineInfo> {
        cx.guard("machine.create", self.0.create(cx, spec)).await
    }

    async fn start(&self, cx: &OpContext, id: &MachineId) -> Result<MachineInfo> {
        cx.guard("machine.start", self.0.start(cx, id)).await
    }

    async fn stop(&self, cx: &OpContext, id: &MachineId, mode: StopMode) -> Result<MachineInfo> {
        cx.guard("machine.stop", self.0.stop(cx, id, mode)).await
    }

    async fn delete(&self, cx: &OpContext, id: &MachineId, purge: bool) -> Result<()> {
        cx.guard("machine.delete", self.0.delete(id, purge)).await
    }

    async fn list(&self, cx: &OpContext, filter: MachineFilter) -> Result<Vec<MachineInfo>> {
        let list = async {
            self.0.resumed().await;
            let records = self.0.records.all().await?;
            let items = self.0.inventory.items_soon().await?;
            let passes = |m: &MachineInfo| {
                (filter.include_deleted || m.state != MachineState::Deleted)
                    && filter.labels.iter().all(|(k, v)| m.labels.get(k) == Some(v))
            };
            Ok(items.iter().filter_map(|i| info(i, &records)).filter(passes).collect())
        };
        cx.guard("machine.list", list).await
    }

    async fn info(&self, cx: &OpContext, id: &MachineId) -> Result<MachineInfo> {
        cx.guard("machine.info", self.0.report(id)).await
    }

    async fn connect(&self, cx: &OpContext, id: &MachineId) -> Result<Arc<dyn Executor>> {
        let item = cx.guard("machine.connect", self.0.item(id)).await?;
        // The client would start a machine that is down, which is not what somebody asks for who connects to it.
        if item.state() != MachineState::Running {
            return Err(Error::new(ErrorKind::InvalidState, "the machine is not up")
                .with_context("machine", id)
                .with_context("state", item.native_state));
        }
        Ok(Arc::new(MachineExecutor::new(Arc::clone(&self.0), id.clone())))
    }

    fn actions(&self) -> Vec<ActionInfo> {
        actions::all()
    }

    async fn act(
        &self,
        cx: &OpContext,
        machine: Option<&MachineId>,
        action: &str,
        args: Json,
    ) -> Result<serde_json::Value> {
        ActionInfo::find(&actions::all(), action)?
            .check(machine, &args)
            .map_err(|e| e.with_operation("machine.act"))?;
        cx.guard("machine.act", actions::act(&self.0, cx, machine, action, &args)).await
    }
}
