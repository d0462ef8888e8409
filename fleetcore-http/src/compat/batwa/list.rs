//! The list of all machines, kept for less than a second and asked for once however many want it.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture, future::join_all};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{agents::Agent, map, map::Members, wire::ListError};

/// An answer younger than this is given again.
const FRESH: Duration = Duration::from_millis(400);
/// One younger than this is given while the next one is on its way, so that those who ask often never wait. What
/// changes without us is seen after this time at the latest.
const USABLE: Duration = Duration::from_millis(900);
/// How long the list waits for one host; after that it goes without, and says so.
const PATIENCE: Duration = Duration::from_secs(2);
/// A host that does not answer now is shown as it was not longer ago than this.
const REMEMBERED: Duration = Duration::from_secs(60);

/// One question, asked at most once at a time.
pub(super) struct Shared<T>(Mutex<Slot<T>>);

struct Slot<T> {
    /// Goes up with everything that makes older answers wrong.
    epoch: u64,
    known: Option<Known<T>>,
    asking: Option<Asking<T>>,
}

#[derive(Debug)]
struct Known<T> {
    value: T,
    at: Instant,
    epoch: u64,
}

struct Asking<T> {
    answer: watch::Receiver<Option<T>>,
    since: Instant,
    epoch: u64,
}

impl<T> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("epoch", &self.0.lock().epoch).finish_non_exhaustive()
    }
}

/// What is known now.
pub(super) enum Now<T> {
    /// An answer, and how long it may be used.
    Have(T, Instant),
    /// It is being asked, since then.
    Wait(watch::Receiver<Option<T>>, Instant),
}

impl<T: Clone + Send + Sync + 'static> Shared<T> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Slot { epoch: 0, known: None, asking: None })))
    }

    /// Makes all answers so far too old, also those on their way.
    pub(super) fn outdate(&self) {
        self.0.lock().epoch += 1;
    }

    /// The answer, or what to wait for. `ask` is called when nobody asks already and the answer is not fresh.
    pub(super) fn now(self: &Arc<Self>, ask: impl FnOnce() -> BoxFuture<'static, T>) -> Now<T> {
        let mut slot = self.0.lock();
        let now = Instant::now();
        let epoch = slot.epoch;
        let known = slot.known.as_ref().filter(|k| k.epoch == epoch);
        let known = known.map(|k| (k.value.clone(), k.at)).filter(|(_, at)| now.duration_since(*at) < USABLE);
        if let Some((value, at)) = &known
            && now.duration_since(*at) < FRESH
        {
            return Now::Have(value.clone(), *at + FRESH);
        }
        if slot.asking.as_ref().is_none_or(|a| a.epoch != epoch) {
            let (tell, answer) = watch::channel(None);
            slot.asking = Some(Asking { answer, since: now, epoch });
            let (this, question) = (self.clone(), ask());
            tokio::spawn(async move {
                // A panic of the question counts as no answer; the sender is dropped then.
                let value = question.await;
                this.keep(value.clone(), now, epoch);
                // Nobody waiting any more is fine.
                let _ = tell.send(Some(value));
            });
        }
        match (known, &slot.asking) {
            (Some((value, _)), _) => Now::Have(value, now),
            (None, Some(asking)) => Now::Wait(asking.answer.clone(), asking.since),
            // Not reached: it was set above.
            (None, None) => Now::Wait(watch::channel(None).1, now),
        }
    }

    fn keep(&self, value: T, asked_at: Instant, epoch: u64) {
        let mut slot = self.0.lock();
        if slot.known.as_ref().is_none_or(|k| k.epoch <= epoch) {
            // Dated to when it was asked: the answer may have been true only then.
            slot.known = Some(Known { value, at: asked_at.max(Instant::now() - USABLE / 2), epoch });
        }
        if slot.asking.as_ref().is_some_and(|a| a.epoch == epoch) {
            slot.asking = None;
        }
    }

    /// An older answer that is better than none.
    fn remembered(&self) -> Option<T> {
        let slot = self.0.lock();
        slot.known.as_ref().filter(|k| k.at.elapsed() < REMEMBERED).map(|k| k.value.clone())
    }

    /// The answer, however long it takes. `None` when whoever asked failed.
    pub(super) async fn get(self: &Arc<Self>, ask: impl FnOnce() -> BoxFuture<'static, T>) -> Option<T> {
        match self.now(ask) {
            Now::Have(value, _) => Some(value),
            Now::Wait(mut answer, _) => answer.wait_for(Option::is_some).await.ok().and_then(|v| v.clone()),
        }
    }
}

/// Members of one host, or why there are none.
pub(super) type HostList = Result<Arc<Members>, Arc<str>>;

/// How hosts are asked.
pub(super) trait Ask: Send + Sync + 'static {
    /// The master's own.
    fn local(&self) -> BoxFuture<'static, HostList>;
    /// An agent's.
    fn agent(&self, agent: &Agent) -> BoxFuture<'static, HostList>;
}

/// The merged list.
pub(super) struct Lists {
    ask: Box<dyn Ask>,
    local: Arc<Shared<HostList>>,
    agents: Mutex<HashMap<String, Source>>,
    /// Goes up when agents come, go or change.
    registry: Arc<AtomicU64>,
    actions: AtomicU64,
    merged: Mutex<Option<Merged>>,
}

struct Source {
    shared: Arc<Shared<HostList>>,
    /// Address and host name of the agent: others mean another host.
    whose: String,
}

struct Merged {
    body: Bytes,
    until: Instant,
    registry: u64,
    actions: u64,
}

impl fmt::Debug for Lists {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lists").field("agents", &self.agents.lock().len()).finish_non_exhaustive()
    }
}

impl Lists {
    pub(super) fn new(ask: Box<dyn Ask>, registry: Arc<AtomicU64>) -> Self {
        Self {
            ask,
            local: Shared::new(),
            agents: Mutex::default(),
            registry,
            actions: AtomicU64::new(0),
            merged: Mutex::new(None),
        }
    }

    /// Something was done to a machine of this host.
    pub(super) fn outdate(&self, agent: Option<&str>) {
        match agent {
            None => self.local.outdate(),
            Some(id) => {
                if let Some(source) = self.agents.lock().get(id) {
                    source.shared.outdate();
                }
            }
        }
        self.actions.fetch_add(1, Ordering::AcqRel);
    }

    /// `GET /api/vm/list`. `online` is called only when the answer is not at hand.
    pub(super) async fn body(&self, online: impl FnOnce() -> Vec<Agent>) -> Bytes {
        let (registry, actions) =
            (self.registry.load(Ordering::Acquire), self.actions.load(Ordering::Acquire));
        if let Some(merged) = &*self.merged.lock()
            && merged.registry == registry
            && merged.actions == actions
            && Instant::now() < merged.until
        {
            return merged.body.clone();
        }
        self.merge(online(), registry, actions).await
    }

    /// What each of these agents has; `None` for one that takes too long. They have to be all that are online.
    pub(super) async fn of_agents(&self, agents: &[Agent]) -> Vec<Option<HostList>> {
        let sources = self.sources(agents);
        let asked: Vec<_> = sources.iter().zip(agents).map(|(s, a)| s.now(|| self.ask.agent(a))).collect();
        join_all(asked.into_iter().map(patiently)).await
    }

    async fn merge(&self, agents: Vec<Agent>, registry: u64, actions: u64) -> Bytes {
        let sources = self.sources(&agents);
        let mut until = Instant::now() + FRESH;
        let mut asked = vec![self.local.now(|| self.ask.local())];
        for (shared, agent) in sources.iter().zip(&agents) {
            asked.push(shared.now(|| self.ask.agent(agent)));
        }
        let mut complete = true;
        for now in &asked {
            match now {
                Now::Have(_, usable) => until = until.min(*usable),
                Now::Wait(..) => complete = false,
            }
        }
        let answers: Vec<Option<HostList>> = if complete {
            asked
                .into_iter()
                .map(|now| if let Now::Have(list, _) = now { Some(list) } else { None })
                .collect()
        } else {
            join_all(asked.into_iter().map(patiently)).await
        };
        let shareds = std::iter::once(&self.local).chain(&sources);
        let names = std::iter::once((None, "local".to_owned()))
            .chain(agents.iter().map(|a| (Some(a.info.agent_id.clone()), a.info.hostname.clone())));
        let mut hosts: Vec<Arc<Members>> = Vec::with_capacity(answers.len());
        let mut errors = Vec::new();
        for ((answer, shared), (agent_id, agent_hostname)) in answers.into_iter().zip(shareds).zip(names) {
            let mut problem = |detail: String| {
                errors.push(ListError {
                    agent_id: agent_id.clone(),
                    agent_hostname: agent_hostname.clone(),
                    detail,
                });
            };
            match answer {
                Some(Ok(members)) => {
                    if members.odd > 0 {
                        problem(format!("{} VMs with invalid names are not shown", members.odd));
                    }
                    hosts.push(members);
                }
                Some(Err(why)) => problem(why.to_string()),
                None => {
                    problem("no answer yet".to_owned());
                    if let Some(Ok(members)) = shared.remembered() {
                        hosts.push(members);
                    }
                }
            }
        }
        let body = Bytes::from(map::list_body(hosts.iter().map(|m| m.json.as_str()), &errors));
        if complete {
            *self.merged.lock() = Some(Merged { body: body.clone(), until, registry, actions });
        }
        body
    }

    /// One source per agent; a changed address or host name makes a new one. Those of agents that are gone go.
    fn sources(&self, agents: &[Agent]) -> Vec<Arc<Shared<HostList>>> {
        let mut known = self.agents.lock();
        let mut next = HashMap::with_capacity(agents.len());
        let mut sources = Vec::with_capacity(agents.len());
        for agent in agents {
            let id = &agent.info.agent_id;
            let whose = format!("{} {}", agent.info.api_url, agent.info.hostname);
            let shared = match known.remove(id) {
                Some(source) if source.whose == whose => source.shared,
                _ => Shared::new(),
            };
            next.insert(id.clone(), Source { shared: shared.clone(), whose });
            sources.push(shared);
        }
        *known = next;
        sources
    }
}

/// The answer, unless the host takes too long. Those who come later do not wait anew.
async fn patiently(now: Now<HostList>) -> Option<HostList> {
    match now {
        Now::Have(list, _) => Some(list),
        Now::Wait(mut answer, since) => {
            if let Some(known) = answer.borrow().clone() {
                return Some(known);
            }
            let left = PATIENCE.saturating_sub(since.elapsed());
            let waiting = answer.wait_for(Option::is_some);
            let answered = if left.is_zero() {
                waiting.now_or_never()?
            } else {
                tokio::time::timeout(left, waiting).await.ok()?
            };
            answered.ok().and_then(|list| list.clone())
        }
    }
}
