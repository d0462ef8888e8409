//! The life of sandboxes.

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::{
    SandboxConfig,
    executor::SandboxExecutor,
    holder::Holder,
    state::{PROBE, Spec, Store},
};
use crate::{
    ActionInfo, Error, ErrorKind, Json, MachineCapabilities, MachineFilter, MachineId, MachineInfo,
    MachineSpec, MachineState, Result, StopMode,
    backends::local::{Local, LocalConfig},
    raw::{Executor, OpContext, Provider},
};

/// Sandboxes of this host, kept in one directory. See the [module](super).
pub struct Sandboxes {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    config: SandboxConfig,
    store: Store,
    local: Local,
    /// One place per sandbox that was used; whoever changes it waits for its turn.
    running: parking_lot::Mutex<BTreeMap<MachineId, Arc<Mutex<Option<Holder>>>>>,
}

impl fmt::Debug for Sandboxes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandboxes").field("dir", &self.inner.config.dir).finish_non_exhaustive()
    }
}

impl Sandboxes {
    /// Sandboxes below `config.dir`, which is made if missing. Those that were up when the last owner of the directory
    /// ended come up again when they are first used.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn open(config: SandboxConfig) -> Result<Self> {
        let store = Store::open(&config.dir)?;
        let local = Local::new(LocalConfig::default());
        let running = parking_lot::Mutex::default();
        Ok(Self { inner: Arc::new(Inner { config, store, local, running }) })
    }

    /// Whether sandboxes can work here, by setting one up.
    ///
    /// # Errors
    /// `Unsupported` with what to install or to set.
    pub async fn probe(&self) -> Result<()> {
        let name = MachineId::new(format!("{PROBE}{}", uuid::Uuid::now_v7()))?;
        let mut spec = MachineSpec::default();
        name.as_str().clone_into(&mut spec.name);
        let cx = OpContext::default();
        let made = self.create(&cx, spec).await.map(drop);
        let removed = self.delete(&cx, &name, true).await;
        made.and(removed)
    }
}

impl Inner {
    fn slot(&self, name: &MachineId) -> Arc<Mutex<Option<Holder>>> {
        Arc::clone(self.running.lock().entry(name.clone()).or_default())
    }

    /// Blocking work on the directory.
    async fn disk<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Store) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(self);
        tokio::task::spawn_blocking(move || work(&inner.store))
            .await
            .map_err(|e| Error::new(ErrorKind::Unexpected, "file operation was aborted").with_source(e))?
    }

    /// The holder in `slot`, started if need be.
    async fn up<'a>(
        &self,
        slot: &'a mut Option<Holder>,
        name: &MachineId,
        spec: &Spec,
    ) -> Result<&'a Holder> {
        if slot.as_ref().is_some_and(|h| !h.alive()) {
            *slot = None;
        }
        let holder = match slot.take() {
            Some(holder) => holder,
            None => Holder::start(&self.config, &self.local, name, &self.store.dir(name), spec).await?,
        };
        Ok(slot.insert(holder))
    }

    /// What runs things in a sandbox that is meant to run, brought up if it is not.
    pub(super) async fn executor(self: &Arc<Self>, id: &MachineId) -> Result<Arc<Local>> {
        let (inner, id) = (Arc::clone(self), id.clone());
        to_the_end(async move {
            let slot = inner.slot(&id);
            let mut slot = slot.lock().await;
            if let Some(holder) = slot.as_ref().filter(|h| h.alive()) {
                return Ok(holder.executor());
            }
            let spec = known(&inner, &id).await?;
            meant_to_run(&id, &spec)?;
            Ok(inner.up(&mut slot, &id, &spec).await?.executor())
        })
        .await
    }

    async fn set_running(self: &Arc<Self>, name: &MachineId, running: bool) -> Result<Spec> {
        let name = name.clone();
        self.disk(move |store| {
            let mut spec = store.read(&name)?;
            if spec.running != running {
                spec.running = running;
                store.write(&name, &spec)?;
            }
            Ok(spec)
        })
        .await
    }
}

fn describe(name: MachineId, spec: Spec) -> MachineInfo {
    let state = if spec.running { MachineState::Running } else { MachineState::Stopped };
    let mut info = MachineInfo::new(name, state);
    info.native_state = if spec.running { "running" } else { "stopped" }.to_owned();
    info.labels = spec.labels;
    info.created_at = Some(spec.created_at);
    info
}

/// Lets `work` run to its end even if nobody waits for it any more: a state on disk must not stop half-way.
async fn to_the_end<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(work)
        .await
        .map_err(|e| Error::new(ErrorKind::Unexpected, "the operation was aborted").with_source(e))?
}

#[async_trait]
impl Provider for Sandboxes {
    fn scheme(&self) -> &'static str {
        "sandbox"
    }

    fn capabilities(&self) -> MachineCapabilities {
        MachineCapabilities {
            create: true,
            start: true,
            stop: true,
            delete: true,
            ..MachineCapabilities::default()
        }
    }

    async fn create(&self, cx: &OpContext, spec: MachineSpec) -> Result<MachineInfo> {
        let name = MachineId::new(&spec.name)?;
        let wanted = Spec::from_machine(&spec)?;
        let inner = Arc::clone(&self.inner);
        let most = inner.config.most;
        let (id, made) = (name.clone(), wanted.clone());
        inner
            .disk(move |store| {
                if store.list()?.len() >= most {
                    return Err(Error::new(ErrorKind::RateLimited, "there are too many sandboxes")
                        .with_context("limit", most));
                }
                store.create(&id, &made)
            })
            .await?;
        cx.report(format!("made the directory of {name}"));
        let progress = cx.progress.clone();
        to_the_end(async move {
            let slot = inner.slot(&name);
            let mut slot = slot.lock().await;
            match inner.up(&mut slot, &name, &wanted).await {
                Ok(_) => {
                    if let Some(progress) = progress {
                        let _ = progress.try_send(format!("{name} is up"));
                    }
                    Ok(describe(name, wanted))
                }
                Err(e) => {
                    // What cannot come up is not left lying around.
                    let id = name.clone();
                    inner.disk(move |store| store.remove(&id)).await?;
                    inner.running.lock().remove(&name);
                    Err(e)
                }
            }
        })
        .await
    }

    async fn start(&self, _: &OpContext, id: &MachineId) -> Result<MachineInfo> {
        let (inner, id) = (Arc::clone(&self.inner), id.clone());
        to_the_end(async move {
            let slot = inner.slot(&id);
            let mut slot = slot.lock().await;
            let spec = known(&inner, &id).await?;
            inner.up(&mut slot, &id, &spec).await?;
            Ok(describe(id.clone(), inner.set_running(&id, true).await?))
        })
        .await
    }

    async fn stop(&self, _: &OpContext, id: &MachineId, mode: StopMode) -> Result<MachineInfo> {
        if mode == StopMode::Suspend {
            return Err(Error::unsupported("stop")
                .with_context("mode", "suspend")
                .with_context("machine", id));
        }
        let (inner, id) = (Arc::clone(&self.inner), id.clone());
        to_the_end(async move {
            let slot = inner.slot(&id);
            let mut slot = slot.lock().await;
            known(&inner, &id).await?;
            let spec = inner.set_running(&id, false).await?;
            if let Some(holder) = slot.take() {
                holder.stop().await;
            }
            Ok(describe(id, spec))
        })
        .await
    }

    async fn delete(&self, _: &OpContext, id: &MachineId, _purge: bool) -> Result<()> {
        let (inner, id) = (Arc::clone(&self.inner), id.clone());
        to_the_end(async move {
            let slot = inner.slot(&id);
            let mut slot = slot.lock().await;
            if let Some(holder) = slot.take() {
                holder.stop().await;
            }
            let name = id.clone();
            inner.disk(move |store| store.remove(&name)).await?;
            inner.running.lock().remove(&id);
            Ok(())
        })
        .await
    }

    async fn list(&self, cx: &OpContext, filter: MachineFilter) -> Result<Vec<MachineInfo>> {
        let all = cx.guard("list", self.inner.disk(Store::list)).await?;
        let passes = |spec: &Spec| filter.labels.iter().all(|(k, v)| spec.labels.get(k) == Some(v));
        Ok(all.into_iter().filter(|(_, s)| passes(s)).map(|(n, s)| describe(n, s)).collect())
    }

    async fn info(&self, cx: &OpContext, id: &MachineId) -> Result<MachineInfo> {
        let name = id.clone();
        let spec = cx.guard("info", self.inner.disk(move |store| store.read(&name))).await?;
        Ok(describe(id.clone(), spec))
    }

    fn actions(&self) -> Vec<ActionInfo> {
        Vec::new()
    }

    async fn act(
        &self,
        _: &OpContext,
        _: Option<&MachineId>,
        action: &str,
        _: Json,
    ) -> Result<serde_json::Value> {
        Err(Error::unsupported("act").with_context("action", action.escape_debug()))
    }

    async fn connect(&self, cx: &OpContext, id: &MachineId) -> Result<Arc<dyn Executor>> {
        // Whoever lists machines connects to all of them: nothing is started before something is to run.
        let spec = cx.guard("connect", known(&self.inner, id)).await?;
        meant_to_run(id, &spec)?;
        Ok(Arc::new(SandboxExecutor::new(Arc::clone(&self.inner), id.clone())))
    }
}

fn meant_to_run(id: &MachineId, spec: &Spec) -> Result<()> {
    if spec.running {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidState, "the sandbox is stopped")
        .with_operation("connect")
        .with_context("machine", id)
        .with_context("hint", "start it first"))
}

/// The description of a sandbox; an unknown one leaves no slot behind.
async fn known(inner: &Arc<Inner>, id: &MachineId) -> Result<Spec> {
    let name = id.clone();
    let spec = inner.disk(move |store| store.read(&name)).await;
    if spec.as_ref().is_err_and(|e| e.kind() == ErrorKind::NotFound) {
        inner.running.lock().remove(id);
    }
    spec
}
