//! The machines of all providers in one list, whatever state the providers are in.

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use parking_lot::Mutex;

use super::{Fleet, FleetEvent};
use crate::{
    AgentId, Error, ErrorKind, LOCAL, MachineFilter, MachineId, MachineInfo, MachineState, OpContext, Result,
    Target, TargetInfo,
};

/// How long one provider may take to list its machines before the list is given without it.
const LIST_LIMIT: Duration = Duration::from_secs(10);

/// Machines of all providers.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct MachineListing {
    /// The machines, by target. Those of a provider that could not be asked are as they were last seen.
    pub machines: Vec<TargetInfo>,
    /// Providers that could not be asked.
    pub failures: Vec<ListFailure>,
}

/// A provider whose machines could not be listed.
#[derive(Debug)]
#[non_exhaustive]
pub struct ListFailure {
    /// Its scheme.
    pub provider: String,
    /// The agent it is at; `None` here.
    pub agent: Option<AgentId>,
    /// Why.
    pub error: Error,
}

/// Machines as they were last seen, by the scheme of their provider.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<BTreeMap<String, BTreeMap<Target, MachineInfo>>>);

/// One part of the list, as it comes.
pub(super) enum Part {
    Machines(Vec<TargetInfo>),
    Failure(ListFailure),
}

impl Fleet {
    /// The machines of all providers, here and at agents, without the hosts. A provider that fails or takes longer than
    /// 10 seconds is among the failures and hides nothing of the others. Listeners of [`events`](Self::events) learn what
    /// is different from the list before.
    ///
    /// # Errors
    /// `Timeout` and `Cancelled` from `cx`.
    pub async fn machines(&self, cx: &OpContext, filter: &MachineFilter) -> Result<MachineListing> {
        let mut listing = MachineListing::default();
        let mut parts = self.parts(cx, filter);
        while let Some(part) = parts.next().await {
            for part in part? {
                match part {
                    Part::Machines(machines) => listing.machines.extend(machines),
                    Part::Failure(failure) => listing.failures.push(failure),
                }
            }
        }
        listing.machines.retain(|m| m.target.provider().is_some());
        listing.machines.sort_by(|a, b| a.target.cmp(&b.target));
        Ok(listing)
    }

    /// Hosts and machines, provider by provider, in the order in which they answer.
    pub(super) fn parts<'a>(
        &'a self,
        cx: &'a OpContext,
        filter: &'a MachineFilter,
    ) -> FuturesUnordered<futures::future::BoxFuture<'a, Result<Vec<Part>>>> {
        let parts = FuturesUnordered::new();
        for scheme in self.schemes() {
            let part: futures::future::BoxFuture<'a, _> = Box::pin(self.part(cx, filter, scheme));
            parts.push(part);
        }
        let part: futures::future::BoxFuture<'a, _> = Box::pin(self.elsewhere(cx, filter));
        parts.push(part);
        parts
    }

    async fn part(&self, cx: &OpContext, filter: &MachineFilter, scheme: &'static str) -> Result<Vec<Part>> {
        let Some(provider) = self.layered_provider(scheme) else { return Ok(Vec::new()) };
        // All of them, to see what has changed since the last time.
        let all = MachineFilter { include_deleted: true, ..MachineFilter::default() };
        let limited = cx.clone().with_timeout(LIST_LIMIT);
        let listed = match limited.guard("list machines", provider.list(&limited, all)).await {
            Ok(machines) => self.seen(scheme, machines),
            // The caller's own limits are the caller's.
            Err(error) if cx.cancel.is_cancelled() => return Err(error),
            Err(error) if cx.deadline.is_some_and(|at| at <= tokio::time::Instant::now()) => {
                return Err(error);
            }
            Err(error) => Err(error),
        };
        let (machines, failure) = match listed {
            Ok(machines) => (machines, None),
            // What is not installed has no machines. That it is not there is said where providers are listed.
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                let last = self.known().last(scheme);
                let failure = (!last.is_empty()).then_some(error);
                (last, failure)
            }
            Err(error) => (self.known().last(scheme), Some(error)),
        };
        let mut infos = Vec::new();
        for (target, info) in machines {
            if passes(filter, &info) {
                infos.push(TargetInfo::new(target, scheme, info));
            }
        }
        let mut parts = vec![Part::Machines(infos)];
        if let Some(error) = failure {
            tracing::debug!(provider = scheme, %error, "machines cannot be listed");
            parts.push(Part::Failure(ListFailure { provider: scheme.to_owned(), agent: None, error }));
        }
        Ok(parts)
    }

    /// The host, agents and what is behind them.
    async fn elsewhere(&self, cx: &OpContext, filter: &MachineFilter) -> Result<Vec<Part>> {
        let mut infos = Vec::new();
        if self.host().is_some() {
            let info = MachineInfo::new(MachineId::new(LOCAL)?, MachineState::Running);
            infos.push(TargetInfo::new(Target::local(), LOCAL, info));
        }
        if let Some(agents) = self.agents() {
            infos.extend(agents.targets(cx).await?);
        }
        infos.retain(|t| passes(filter, &t.info));
        Ok(vec![Part::Machines(infos)])
    }

    /// Remembers what a provider listed, and tells what is different.
    fn seen(&self, scheme: &str, machines: Vec<MachineInfo>) -> Result<BTreeMap<Target, MachineInfo>> {
        let mut now = BTreeMap::new();
        for info in machines {
            now.insert(Target::machine(scheme, info.id.as_str())?, info);
        }
        let before = self.known().0.lock().insert(scheme.to_owned(), now.clone());
        // Nothing is news the first time: whoever listens has listed, or will.
        if let Some(before) = before {
            for (target, info) in &now {
                if before.get(target) != Some(info) {
                    self.tell(FleetEvent::Machine(target.clone(), Box::new(info.clone())));
                }
            }
            for target in before.keys().filter(|t| !now.contains_key(*t)) {
                self.tell(FleetEvent::MachineGone(target.clone()));
            }
        }
        Ok(now)
    }

    /// Remembers how one machine is, and tells.
    pub(super) fn saw(&self, target: &Target, info: Option<MachineInfo>) {
        if target.agent().is_none()
            && let Some(scheme) = target.provider()
            && let Some(machines) = self.known().0.lock().get_mut(scheme)
        {
            match &info {
                Some(info) => machines.insert(target.clone(), info.clone()),
                None => machines.remove(target),
            };
        }
        self.tell(match info {
            Some(info) => FleetEvent::Machine(target.clone(), Box::new(info)),
            None => FleetEvent::MachineGone(target.clone()),
        });
    }
}

impl Known {
    fn last(&self, scheme: &str) -> BTreeMap<Target, MachineInfo> {
        self.0.lock().get(scheme).cloned().unwrap_or_default()
    }
}

fn passes(filter: &MachineFilter, info: &MachineInfo) -> bool {
    (filter.include_deleted || info.state != MachineState::Deleted)
        && filter.labels.iter().all(|(k, v)| info.labels.get(k) == Some(v))
}
