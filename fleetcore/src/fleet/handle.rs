//! The fleet itself.

use std::{collections::BTreeMap, fmt, sync::Arc};

use futures::{StreamExt, stream};
use tokio::sync::broadcast;

use super::{Commands, FleetBuilder, Machine, Probe, ProviderHandle, Sessions, listing::Known};
use crate::{
    AgentDirectory, AgentId, CommandRecord, Error, ErrorKind, Executor, Layer, MachineFilter, MachineId,
    MachineInfo, MachineState, OpContext, Provider, Result, SessionId, SessionInfo, Target, TargetInfo,
};

/// Something has happened; for live views. A listener that falls behind must list anew.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum FleetEvent {
    /// A command's record is new or has changed.
    Command(Arc<CommandRecord>),
    /// A session is new or has changed.
    Session(Target, Box<SessionInfo>),
    /// A session is no longer listed.
    SessionClosed(SessionId),
    /// A machine was made or has changed, as far as this fleet has seen: after its own operations, and when a list of
    /// machines differs from the one before.
    Machine(Target, Box<MachineInfo>),
    /// A machine is gone.
    MachineGone(Target),
}

pub(super) struct Inner {
    host: Option<Arc<dyn Executor>>,
    providers: BTreeMap<&'static str, Arc<dyn Provider>>,
    probes: BTreeMap<&'static str, Probe>,
    layers: Vec<Arc<dyn Layer>>,
    agents: Option<Arc<dyn AgentDirectory>>,
    pub(super) commands: Commands,
    pub(super) sessions: Sessions,
    pub(super) known: Known,
    events: broadcast::Sender<FleetEvent>,
}

/// All machines, commands and sessions of one process. Cheap to clone; all clones are the same fleet.
///
/// ```
/// # #[cfg(feature = "local")] {
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use fleetcore::{CommandSpec, Fleet};
///
/// let fleet = Fleet::local();
/// let command = fleet.machine("local")?.spawn(CommandSpec::argv(["echo", "hello"])).await?;
/// assert_eq!(command.output().await?.check()?.text(), "hello\n");
/// # Ok::<(), fleetcore::Error>(())
/// # }).unwrap();
/// # }
/// ```
#[derive(Clone)]
pub struct Fleet {
    inner: Arc<Inner>,
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet")
            .field("host", &self.inner.host)
            .field("providers", &self.inner.providers.keys())
            .field("layers", &self.inner.layers)
            .finish_non_exhaustive()
    }
}

impl Fleet {
    /// A fleet of this host alone, with nothing stored.
    #[cfg(feature = "local")]
    pub fn local() -> Self {
        let host = crate::backends::local::Local::new(crate::backends::local::LocalConfig::default());
        Self::builder().with_host(Arc::new(host)).build()
    }

    /// Starts putting a fleet together.
    pub fn builder() -> FleetBuilder {
        FleetBuilder::default()
    }

    pub(super) fn assemble(parts: FleetBuilder) -> Self {
        let (events, _) = broadcast::channel(parts.limits.events.max(1));
        let commands = Commands::new(parts.store, parts.agents.clone(), parts.limits, events.clone());
        let sessions = Sessions::new(parts.limits, events.clone());
        let FleetBuilder { host, providers, probes, layers, agents, .. } = parts;
        let known = Known::default();
        Self {
            inner: Arc::new(Inner {
                host,
                providers,
                probes,
                layers,
                agents,
                commands,
                sessions,
                known,
                events,
            }),
        }
    }

    /// The machine of a target such as `local` or `multipass/dev1`.
    ///
    /// # Errors
    /// `InvalidInput` for a text outside the grammar; `NotFound` when no such provider is there. Whether the machine
    /// exists shows when it is used.
    pub fn machine(&self, target: &str) -> Result<Machine> {
        self.target(&target.parse()?)
    }

    /// The machine of a target. Errors as for [`machine`](Self::machine).
    pub fn target(&self, target: &Target) -> Result<Machine> {
        let missing = |what: &'static str, name: &str| {
            Error::new(ErrorKind::NotFound, format!("no such {what}"))
                .with_context("target", target)
                .with_context("wanted", name)
                .with_context("available", self.available())
        };
        if let Some(agent) = target.agent() {
            let agents = self.inner.agents.as_ref().ok_or_else(|| missing("agent", agent.as_str()))?;
            return Machine::through_agent(self.clone(), target.clone(), agents);
        }
        match (target.provider(), target.machine_id()) {
            (Some(scheme), Some(id)) => {
                let provider = self.layered_provider(scheme).ok_or_else(|| missing("provider", scheme))?;
                Ok(Machine::new(self.clone(), target.clone(), Some((provider, id.clone()))))
            }
            _ if self.inner.host.is_some() => Ok(Machine::new(self.clone(), target.clone(), None)),
            _ => Err(missing("host", "local")),
        }
    }

    fn available(&self) -> String {
        let host = self.inner.host.iter().map(|_| "local".to_owned());
        let agents = self.inner.agents.iter().map(|_| "AGENT".to_owned());
        let providers = self.inner.providers.keys().map(|p| format!("{p}/…"));
        host.chain(providers).chain(agents).collect::<Vec<_>>().join(", ")
    }

    /// The provider of a scheme such as `multipass`: to create machines and for what is not about one machine.
    ///
    /// # Errors
    /// `NotFound` when no such provider is there.
    pub fn provider(&self, scheme: &str) -> Result<ProviderHandle> {
        self.handle_of(scheme).ok_or_else(|| {
            let schemes: Vec<&str> = self.inner.providers.keys().copied().collect();
            Error::new(ErrorKind::NotFound, "no such provider")
                .with_context("wanted", scheme.escape_debug())
                .with_context("available", schemes.join(", "))
        })
    }

    /// All providers, by scheme.
    pub fn providers(&self) -> Vec<ProviderHandle> {
        self.inner.providers.keys().filter_map(|s| self.handle_of(s)).collect()
    }

    /// All providers of all agents that are known.
    pub fn agent_providers(&self) -> Vec<ProviderHandle> {
        let Some(agents) = &self.inner.agents else { return Vec::new() };
        let mut all = Vec::new();
        for agent in agents.agents() {
            for scheme in agents.schemes(&agent) {
                if let Ok(provider) = agents.provider(&agent, &scheme) {
                    let provider = self.layered_around(provider);
                    all.push(ProviderHandle::new(self.clone(), provider, None).through(agent.clone()));
                }
            }
        }
        all
    }

    fn handle_of(&self, scheme: &str) -> Option<ProviderHandle> {
        let provider = self.layered_provider(scheme)?;
        Some(ProviderHandle::new(self.clone(), provider, self.inner.probes.get(scheme).cloned()))
    }

    pub(super) fn schemes(&self) -> impl Iterator<Item = &'static str> {
        self.inner.providers.keys().copied()
    }

    pub(super) fn agents(&self) -> Option<&Arc<dyn AgentDirectory>> {
        self.inner.agents.as_ref()
    }

    pub(super) fn known(&self) -> &Known {
        &self.inner.known
    }

    pub(super) fn tell(&self, event: FleetEvent) {
        // Nobody listening is fine.
        let _ = self.inner.events.send(event);
    }

    /// A provider with all layers around it.
    pub(super) fn layered_provider(&self, scheme: &str) -> Option<Arc<dyn Provider>> {
        Some(self.layered_around(Arc::clone(self.inner.providers.get(scheme)?)))
    }

    /// A provider from elsewhere with all layers around it.
    pub(super) fn layered_around(&self, base: Arc<dyn Provider>) -> Arc<dyn Provider> {
        self.inner.layers.iter().fold(base, |inner, layer| layer.layer_provider(inner))
    }

    pub(super) fn host(&self) -> Option<Arc<dyn Executor>> {
        Some(self.layered(Arc::clone(self.inner.host.as_ref()?)))
    }

    pub(super) fn layered(&self, base: Arc<dyn Executor>) -> Arc<dyn Executor> {
        self.inner.layers.iter().fold(base, |inner, layer| layer.layer_executor(inner))
    }

    /// All targets that are there now: the host, then the machines of every provider. A provider that cannot be
    /// reached is left out and logged, so that one broken backend does not hide the others.
    ///
    /// # Errors
    /// `Timeout` and `Cancelled` from `cx`.
    pub async fn targets(&self, cx: &OpContext) -> Result<Vec<TargetInfo>> {
        let mut all = Vec::new();
        if let Some(host) = self.host() {
            let mut info = MachineInfo::new(MachineId::new(crate::LOCAL)?, MachineState::Running);
            info.addresses = vec![std::net::Ipv4Addr::LOCALHOST.into()];
            all.push(TargetInfo {
                target: Target::local(),
                provider: crate::LOCAL.to_owned(),
                info,
                capabilities: Some(host.capabilities()),
            });
        }
        // One method call each, in a loop: closures that return futures of borrowed names are not general enough for
        // the compiler to see that the whole is `Send`.
        let mut listings = stream::FuturesOrdered::new();
        for scheme in self.inner.providers.keys() {
            listings.push_back(self.list_one(cx, scheme));
        }
        // Providers do not wait for one another; results keep their order.
        while let Some(machines) = listings.next().await {
            all.extend(machines?);
        }
        if let Some(agents) = &self.inner.agents {
            all.extend(agents.targets(cx).await?);
        }
        Ok(all)
    }

    async fn list_one(&self, cx: &OpContext, scheme: &'static str) -> Result<Vec<TargetInfo>> {
        let Some(provider) = self.layered_provider(scheme) else { return Ok(Vec::new()) };
        match cx.guard("list machines", provider.list(cx, MachineFilter::default())).await {
            Ok(machines) => self.describe(cx, scheme, &*provider, machines).await,
            Err(e) if cx.cancel.is_cancelled() => Err(e),
            // It is not installed.
            Err(e) if e.kind() == ErrorKind::Unsupported => Ok(Vec::new()),
            Err(e) => {
                tracing::warn!(provider = scheme, error = %e, "machines cannot be listed");
                Ok(Vec::new())
            }
        }
    }

    async fn describe(
        &self,
        cx: &OpContext,
        scheme: &str,
        provider: &dyn Provider,
        machines: Vec<MachineInfo>,
    ) -> Result<Vec<TargetInfo>> {
        let mut described = Vec::with_capacity(machines.len());
        for info in machines {
            let capabilities = match info.state {
                MachineState::Running => {
                    provider.connect(cx, &info.id).await.ok().map(|e| self.layered(e).capabilities())
                }
                _ => None,
            };
            let target = Target::machine(scheme, info.id.as_str())?;
            described.push(TargetInfo { target, provider: scheme.to_owned(), info, capabilities });
        }
        Ok(described)
    }

    /// Takes over again what runs at an agent: commands whose record was given up as `Lost`, because this process was
    /// started anew or because the agent was away for too long. Their output goes on where the log ends. For whoever
    /// connects agents, to be called when one is back.
    ///
    /// # Errors
    /// Those of the store; commands the agent does not know stay `Lost`.
    pub async fn resume_agent(&self, agent: &AgentId) -> Result<()> {
        let cx = OpContext::default();
        for (id, target) in self.inner.commands.orphans(agent).await? {
            let adopted = async {
                let executor = self.target(&target)?.executor(&cx).await?;
                self.inner.commands.adopt(&*executor, &cx, &target, id).await
            };
            match adopted.await {
                Ok(()) => tracing::info!(command = %id, %target, "a command was taken over again"),
                Err(e) => tracing::info!(command = %id, %target, error = %e, "a command stays lost"),
            }
        }
        Ok(())
    }

    /// Commands of this fleet, running and recorded.
    pub fn commands(&self) -> &Commands {
        &self.inner.commands
    }

    /// Sessions that belong to this fleet rather than to a connection.
    pub fn sessions(&self) -> &Sessions {
        &self.inner.sessions
    }

    /// Changes from now on. Bounded: a receiver that is too slow gets `Lagged` and should list anew.
    pub fn events(&self) -> broadcast::Receiver<FleetEvent> {
        self.inner.events.subscribe()
    }

    /// Ends every command (reason `Shutdown`) and session, and waits for them. New ones are refused.
    pub async fn shutdown(&self) {
        // Together: a shell that takes all of its grace to end must not cost the commands theirs.
        tokio::join!(self.inner.sessions.shutdown(), self.inner.commands.shutdown());
    }
}
