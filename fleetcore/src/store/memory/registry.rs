use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{future::FutureExt, stream::BoxStream};
use jiff::Timestamp;

use super::{MemoryStore, store::Shared};
use crate::{
    AgentId, AgentInfo, AgentRegistration, AgentRegistry, AgentReport, Labels, Lease, RegistryEvent, Result,
    store::{agents, watch},
};

impl Shared {
    fn snapshot(&self) -> watch::Snapshot {
        let state = self.state.lock();
        watch::Snapshot {
            agents: state.agents.values().cloned().collect(),
            changes: self.changes.subscribe(),
        }
    }

    fn tell(&self, event: RegistryEvent) {
        // Fails when nobody watches.
        let _ = self.changes.send(event);
    }
}

#[async_trait]
impl AgentRegistry for MemoryStore {
    async fn register(&self, agent: AgentRegistration, ttl: Duration) -> Result<Lease> {
        let mut state = self.state();
        let id = agent.id.clone();
        let epoch = state.epochs.get(&id).map_or(1, |last| last + 1);
        let info = agents::registered(agent, epoch, ttl, Timestamp::now(), state.agents.get(&id))?;
        state.epochs.insert(id.clone(), epoch);
        state.agents.insert(id, info.clone());
        let lease = info.lease.clone();
        self.shared.tell(RegistryEvent::Online(info));
        Ok(lease)
    }

    async fn heartbeat(&self, lease: &Lease, report: AgentReport) -> Result<Lease> {
        let mut state = self.state();
        let info = state.agents.get_mut(&lease.agent).ok_or_else(|| agents::absent(&lease.agent))?;
        let (next, event) = agents::heartbeat(info, lease, report, Timestamp::now())?;
        *info = next;
        if let Some(event) = event {
            self.shared.tell(event);
        }
        Ok(info.lease.clone())
    }

    async fn deregister(&self, lease: &Lease) -> Result<()> {
        let mut state = self.state();
        let info = state.agents.get(&lease.agent).ok_or_else(|| agents::absent(&lease.agent))?;
        agents::check(info, lease)?;
        state.agents.remove(&lease.agent);
        self.shared.tell(RegistryEvent::Removed(lease.agent.clone()));
        Ok(())
    }

    async fn get(&self, id: &AgentId) -> Result<AgentInfo> {
        self.state().agents.get(id).cloned().ok_or_else(|| agents::absent(id))
    }

    async fn list(&self, labels: &Labels) -> Result<Vec<AgentInfo>> {
        let state = self.state();
        let carries = |a: &&AgentInfo| agents::carries(&a.registration.labels, labels);
        Ok(state.agents.values().filter(carries).cloned().collect())
    }

    async fn expire(&self, now: Timestamp) -> Result<Vec<AgentId>> {
        let mut state = self.state();
        let mut gone = Vec::new();
        for info in state.agents.values_mut() {
            if let Some(next) = agents::expired(info, now) {
                *info = next;
                gone.push(info.registration.id.clone());
            }
        }
        for id in &gone {
            self.shared.tell(RegistryEvent::Offline(id.clone()));
        }
        Ok(gone)
    }

    async fn watch(&self) -> Result<BoxStream<'static, Result<RegistryEvent>>> {
        let weak = Arc::downgrade(&self.shared);
        let again = move || {
            let snapshot = weak.upgrade().map(|shared| shared.snapshot());
            std::future::ready(Ok(snapshot)).boxed()
        };
        Ok(watch::stream(self.shared.snapshot(), again))
    }
}
