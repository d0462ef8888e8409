//! All agents of one server.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    fmt,
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use fleetcore::{
    AgentDirectory, AgentId, AgentRegistry, Error, ErrorKind, Executor, HostPort, Labels, MachineId,
    MachineInfo, MachineState, OpContext, Provider, Result, Target, TargetInfo,
};
use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::{
    AgentAuth,
    protocol::Refusal,
    provider::LinkProvider,
    remote::{AgentState, Connected, LinkExecutor},
    tunnel,
};

/// Settings of the server's side of all links.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LinkConfig {
    /// How often an agent says that it is alive. Default 10 s; agents vary it a little so that they do not all speak at
    /// once.
    pub heartbeat: Duration,
    /// How long an agent counts as online without a heartbeat. Default 30 s.
    pub ttl: Duration,
    /// How long commands at an agent that is away are waited for before their records say `Lost`. They are taken up
    /// again if the agent comes back later. Default 10 min.
    pub lost_after: Duration,
    /// How long a list of targets waits for one agent. Default 1 s; then its last answer is used.
    pub list_deadline: Duration,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(10),
            ttl: Duration::from_secs(30),
            lost_after: Duration::from_secs(600),
            list_deadline: Duration::from_secs(1),
        }
    }
}

impl LinkConfig {
    /// Sets how often agents say that they are alive; they count as online for three times as long.
    #[must_use]
    pub fn with_heartbeat(mut self, every: Duration) -> Self {
        self.heartbeat = every;
        self.ttl = every * 3;
        self
    }

    /// Sets how long commands at an agent that is away are waited for.
    #[must_use]
    pub fn with_lost_after(mut self, limit: Duration) -> Self {
        self.lost_after = limit;
        self
    }
}

/// The server's side of all links, and the fleet's way to agents. Cheap to clone.
///
/// Give it to the fleet with [`FleetBuilder::with_agents`](fleetcore::FleetBuilder::with_agents) and to the server with
/// [`Stores::with_agents`](crate::Stores::with_agents).
#[derive(Clone)]
pub struct AgentHub(Arc<Inner>);

struct Inner {
    registry: Arc<dyn AgentRegistry>,
    auth: Arc<dyn AgentAuth>,
    config: LinkConfig,
    agents: RwLock<BTreeMap<AgentId, Arc<AgentState>>>,
    /// When leases of agents that are away run out.
    expiries: Mutex<BinaryHeap<Reverse<Timestamp>>>,
    expiry_added: Arc<Notify>,
}

impl fmt::Debug for AgentHub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentHub")
            .field("agents", &self.0.agents.read().len())
            .field("config", &self.0.config)
            .finish_non_exhaustive()
    }
}

/// An instance name as the registry keeps it: where the agent can be found is its link.
pub(super) fn endpoint(instance: &str) -> String {
    format!("link:{instance}")
}

impl AgentHub {
    /// A hub over the agents that `registry` knows, who prove their names to `auth`. Needs a runtime: a task watches over
    /// leases.
    ///
    /// # Errors
    /// Those of the registry.
    pub async fn open(
        registry: Arc<dyn AgentRegistry>,
        auth: Arc<dyn AgentAuth>,
        config: LinkConfig,
    ) -> Result<Self> {
        let hub = Self(Arc::new(Inner {
            registry,
            auth,
            config,
            agents: RwLock::default(),
            expiries: Mutex::default(),
            expiry_added: Arc::new(Notify::new()),
        }));
        for info in hub.0.registry.list(&Labels::new()).await? {
            let state = hub.state(&info.registration.id);
            {
                let mut facts = state.facts.lock();
                facts.exec = info.registration.exec;
                facts.labels = info.registration.labels;
                facts.version = info.registration.version;
                facts.last_seen = Some(info.last_seen);
            }
            if info.online {
                *state.expected_until.lock() = Some(tokio::time::Instant::now() + hub.0.config.ttl);
                hub.expires_at(info.lease.expires_at);
            }
        }
        let (weak, added) = (Arc::downgrade(&hub.0), Arc::clone(&hub.0.expiry_added));
        tokio::spawn(async move {
            while let Some(pause) = next_expiry(&weak).await {
                let _ = tokio::time::timeout(pause, added.notified()).await;
            }
        });
        Ok(hub)
    }

    pub(super) fn config(&self) -> &LinkConfig {
        &self.0.config
    }

    /// Where agents are kept.
    pub(crate) fn registry(&self) -> &dyn AgentRegistry {
        &*self.0.registry
    }

    pub(super) fn auth(&self) -> &dyn AgentAuth {
        &*self.0.auth
    }

    /// The state of an agent, made if it is new.
    pub(super) fn state(&self, id: &AgentId) -> Arc<AgentState> {
        if let Some(known) = self.0.agents.read().get(id) {
            return Arc::clone(known);
        }
        let mut agents = self.0.agents.write();
        Arc::clone(
            agents.entry(id.clone()).or_insert_with(|| AgentState::new(id.clone(), self.0.config.lost_after)),
        )
    }

    fn find(&self, id: &AgentId) -> Result<Arc<AgentState>> {
        self.0.agents.read().get(id).cloned().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "no such agent").with_operation("agent").with_context("agent", id)
        })
    }

    /// A lease that nobody renews any more.
    pub(super) fn expires_at(&self, at: Timestamp) {
        self.0.expiries.lock().push(Reverse(at));
        self.0.expiry_added.notify_one();
    }

    /// When an agent was last heard of.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn last_seen(&self, id: &AgentId) -> Result<Option<Timestamp>> {
        Ok(self.find(id)?.facts.lock().last_seen)
    }

    /// Whether an agent's link is up now.
    pub fn is_connected(&self, id: &AgentId) -> bool {
        self.find(id).is_ok_and(|a| a.link.borrow().is_some())
    }

    /// Agents whose link is up now.
    pub fn connected(&self) -> usize {
        self.0.agents.read().values().filter(|a| a.link.borrow().is_some()).count()
    }

    /// Resolves when an agent's link is up.
    ///
    /// # Errors
    /// `NotFound` for an agent that never registered.
    pub async fn wait_connected(&self, id: &AgentId, limit: Duration) -> Result<()> {
        self.find(id)?.connection(limit).await.map(drop)
    }

    /// Puts an agent out for good: it is told and does not come back with this process; its targets are gone. Its token
    /// is the business of whoever issued it.
    ///
    /// # Errors
    /// `NotFound`; those of the registry.
    pub async fn remove(&self, id: &AgentId) -> Result<()> {
        let state = self.find(id)?;
        let _one = state.registering.lock().await;
        state.removed.store(true, Ordering::Release);
        if let Ok(info) = self.0.registry.get(id).await {
            self.0.registry.deregister(&info.lease).await?;
        }
        if let Some(link) = state.link.send_replace(None) {
            put_out(&link, Refusal::Removed, "the agent was removed from the server");
        }
        self.0.agents.write().remove(id);
        Ok(())
    }

    /// Connects to an address that an agent can reach.
    ///
    /// # Errors
    /// `NotFound` for an unknown agent, `Unavailable` when it is away or the address does not answer,
    /// `PermissionDenied` when the agent does not allow it.
    pub async fn tunnel(&self, agent: &AgentId, host: &str, port: u16) -> Result<super::StreamIo> {
        let agent = self.find(agent)?;
        tunnel::open(&agent, &HostPort::new(host, port)?).await
    }
}

/// How long the watch over leases sleeps at most; it wakes up for what is due before.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Sees to the leases that have run out; gives the time to the next. `None` when the hub is gone. Nothing of the hub is
/// held between the calls, so that it ends with its last user.
async fn next_expiry(hub: &Weak<Inner>) -> Option<Duration> {
    let hub = hub.upgrade()?;
    loop {
        let next = hub.expiries.lock().peek().map(|Reverse(at)| *at);
        let now = Timestamp::now();
        match next {
            Some(at) if at < now => hub.expire(now).await,
            Some(at) => {
                // One tick more: a lease holds until its last instant.
                let left =
                    Duration::try_from(at.duration_since(now)).unwrap_or_default() + Duration::from_millis(1);
                return Some(left.min(LOOK_EVERY));
            }
            None => return Some(LOOK_EVERY),
        }
    }
}

impl Inner {
    async fn expire(&self, now: Timestamp) {
        {
            let mut expiries = self.expiries.lock();
            while expiries.peek().is_some_and(|Reverse(at)| *at < now) {
                expiries.pop();
            }
        }
        match self.registry.expire(now).await {
            Ok(gone) => {
                for id in gone {
                    tracing::info!(agent = %id, "the agent's lease ran out");
                }
            }
            Err(error) => tracing::warn!(%error, "leases cannot be looked at"),
        }
    }
}

/// Tells an agent why and closes its link.
pub(super) fn put_out(link: &Connected, reason: Refusal, message: &str) {
    let refused = super::protocol::FromServer::Refused { reason, message: message.to_owned() };
    // Fails when it is down already.
    let _ = link.mux.send_text(super::protocol::encode(&refused));
    link.mux.close(message);
}

#[async_trait]
impl AgentDirectory for AgentHub {
    fn agents(&self) -> Vec<AgentId> {
        self.0.agents.read().keys().cloned().collect()
    }

    fn executor(&self, target: &Target) -> Result<Arc<dyn Executor>> {
        let Some(agent) = target.agent() else {
            return Err(Error::invalid("target", "one that names an agent"));
        };
        Ok(Arc::new(LinkExecutor::new(self.find(agent)?, target)?))
    }

    fn provider(&self, agent: &AgentId, scheme: &str) -> Result<Arc<dyn Provider>> {
        Ok(Arc::new(LinkProvider::new(self.find(agent)?, scheme)?))
    }

    fn schemes(&self, agent: &AgentId) -> Vec<String> {
        let Ok(agent) = self.find(agent) else { return Vec::new() };
        let facts = agent.facts.lock();
        facts.providers.iter().map(|p| p.scheme.clone()).collect()
    }

    async fn caught_up(&self, agent: &AgentId) {
        if let Ok(agent) = self.find(agent) {
            agent.caught_up().await;
        }
    }

    async fn targets(&self, cx: &OpContext) -> Result<Vec<TargetInfo>> {
        let agents: Vec<_> = self.0.agents.read().values().cloned().collect();
        let deadline = self.0.config.list_deadline;
        // All at once where there is something to ask; one that is slow costs its own last answer only.
        let asking =
            agents.iter().filter(|a| a.link.borrow().is_some() && !a.facts.lock().providers.is_empty());
        let asking: Vec<_> =
            asking.map(|agent| super::provider::refresh(Arc::clone(agent), deadline)).collect();
        let all = stream::iter(asking).buffer_unordered(256).for_each(|()| async {});
        cx.guard("list agents", async {
            all.await;
            Ok(())
        })
        .await?;
        let mut targets = Vec::with_capacity(agents.len());
        for agent in agents {
            targets.push(host(&agent)?);
            targets.extend(agent.machines.lock().iter().cloned());
        }
        Ok(targets)
    }
}

fn host(agent: &AgentState) -> Result<TargetInfo> {
    let up = agent.link.borrow().is_some();
    let facts = agent.facts.lock();
    let state = if up { MachineState::Running } else { MachineState::Unknown };
    let mut info = MachineInfo::new(MachineId::new(agent.id.as_str())?, state);
    info.native_state = if up { "connected" } else { "away" }.to_owned();
    info.labels = facts.labels.clone();
    let mut can = facts.exec.clone();
    (can.native_files, can.native_sessions, can.reattach) = (true, true, true);
    let target = Target::local().via(agent.id.clone());
    Ok(TargetInfo::new(target, "agent", info).with_capabilities(up.then_some(can)))
}
