//! Commands of a fleet: those that run and those that are recorded.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, Semaphore, broadcast, watch};
use tokio_util::sync::CancellationToken;

use super::{FleetEvent, FleetLimits, Machine};
use crate::{
    AgentDirectory, AgentId, CommandFilter, CommandId, CommandRecord, CommandSpec, CommandState,
    CommandStore, CommandStream, EndReason, Error, ErrorKind, Executor, ExitKind, ExitStatus, Offset,
    OpContext, RequestKey, Result, Retry, RunningCommand, Target,
    journal::Journal,
    supervisor::{self, CommandHandle, Observer, Recording},
};

/// Page length of [`Commands::list`] without a store.
const DEFAULT_PAGE: usize = 100;
/// How long a caller who wants to steer a command waits for it to start. A machine far away may take long to answer;
/// beyond this the caller had better ask again than hang.
const START_WAIT: Duration = Duration::from_secs(10);

/// The commands of a fleet. Running ones are in memory; ended ones are in the store, if there is one.
#[derive(Clone)]
pub struct Commands {
    inner: Arc<Inner>,
}

struct Inner {
    store: Option<Arc<dyn CommandStore>>,
    agents: Option<Arc<dyn AgentDirectory>>,
    limits: FleetLimits,
    running: Mutex<HashMap<CommandId, CommandHandle>>,
    /// Ids between the request and the entry in `running`.
    starting: Mutex<HashMap<CommandId, Starting>>,
    /// `None` with a store that has none: digests would outlive the key.
    request_key: Option<RequestKey>,
    permits: Arc<Semaphore>,
    events: broadcast::Sender<FleetEvent>,
    /// Lost commands that an agent may still know; read from the store when the first agent comes back.
    orphans: AsyncMutex<Option<Orphans>>,
    /// Those that were lost since.
    new_orphans: Mutex<Vec<(CommandId, Target)>>,
}

type Orphans = HashMap<AgentId, Vec<(CommandId, Target)>>;

/// Lost commands that are remembered for agents. More would mean that agents went away for good.
const ORPHANS_MAX: usize = 100_000;

impl fmt::Debug for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commands")
            .field("running", &self.inner.running.lock().len())
            .field("store", &self.inner.store)
            .finish_non_exhaustive()
    }
}

/// A command on its way.
struct Starting {
    /// Dropped when that is over; nothing is ever sent.
    over: watch::Sender<()>,
    /// Gives the start up.
    cancel: CancellationToken,
}

/// Keeps an id from being started twice at the same time.
struct Reserved<'a>(&'a Inner, CommandId);

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.0.starting.lock().remove(&self.1);
    }
}

impl Inner {
    /// The store refuses an id it knows; this refuses one that runs, which holds without a store too.
    fn reserve(&self, id: CommandId, cancel: CancellationToken) -> Result<Reserved<'_>> {
        let taken = || {
            Error::new(ErrorKind::AlreadyExists, "a command with this id runs")
                .with_operation("spawn")
                .with_context("command", id)
        };
        let mut starting = self.starting.lock();
        if self.running.lock().contains_key(&id) {
            return Err(taken());
        }
        match starting.entry(id) {
            Entry::Occupied(_) => Err(taken()),
            Entry::Vacant(place) => {
                place.insert(Starting { over: watch::channel(()).0, cancel });
                Ok(Reserved(self, id))
            }
        }
    }

    /// Waits while a command is between the request and the entry in `running`.
    async fn started(&self, id: CommandId) {
        let waiting = self.starting.lock().get(&id).map(|s| s.over.subscribe());
        if let Some(mut over) = waiting {
            // Ends when the sender is dropped.
            let _ = over.changed().await;
        }
    }

    /// As [`started`](Self::started), for at most [`START_WAIT`]; whether it has started or is not about to.
    async fn started_soon(&self, id: CommandId) -> bool {
        tokio::time::timeout(START_WAIT, self.started(id)).await.is_ok()
    }
}

impl Observer for Inner {
    fn changed(&self, record: &Arc<CommandRecord>) {
        if record.state.is_settled() {
            self.running.lock().remove(&record.id);
        }
        if may_come_back(record) {
            let mut orphans = self.new_orphans.lock();
            if orphans.len() < ORPHANS_MAX {
                orphans.push((record.id, record.target.clone()));
            }
        }
        // Nobody listening is fine.
        let _ = self.events.send(FleetEvent::Command(Arc::clone(record)));
    }
}

impl Commands {
    pub(super) fn new(
        store: Option<Arc<dyn CommandStore>>,
        agents: Option<Arc<dyn AgentDirectory>>,
        limits: FleetLimits,
        events: broadcast::Sender<FleetEvent>,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(limits.commands.min(Semaphore::MAX_PERMITS)));
        let request_key = match &store {
            Some(store) => store.request_key(),
            None => Some(RequestKey::generate()),
        };
        Self {
            inner: Arc::new(Inner {
                store,
                agents,
                limits,
                running: Mutex::default(),
                starting: Mutex::default(),
                request_key,
                permits,
                events,
                orphans: AsyncMutex::default(),
                new_orphans: Mutex::default(),
            }),
        }
    }

    pub(super) async fn spawn(
        &self,
        machine: &Machine,
        cx: &OpContext,
        id: CommandId,
        mut spec: CommandSpec,
    ) -> Result<RunningCommand> {
        if spec.replay_bytes > self.inner.limits.replay_bytes {
            return Err(Error::invalid(
                "replay_bytes",
                format!("at most {}", self.inner.limits.replay_bytes),
            ));
        }
        let target = machine.target();
        let request = self.inner.request_key.as_ref().map(|key| key.digest(target, &spec));
        spec.replay_bytes = spec.replay_bytes.max(1);
        // Its own token: ending this command must end nothing else of the caller's.
        let cancel = cx.cancel.child_token();
        let cx = OpContext { cancel: cancel.clone(), ..cx.clone() };
        let _reserved = self.inner.reserve(id, cancel.clone())?;
        let executor = machine.executor(&cx).await?;
        let recording = Recording { request, ..self.recording(target)? };
        let running = supervisor::spawn(&*executor, &cx, id, spec, recording).await?;
        self.enter(running.handle());
        if cancel.is_cancelled() {
            // Somebody asked for its end just when it began.
            running.end(EndReason::Requested);
        }
        Ok(running)
    }

    /// Lost commands of an agent, each handed out once.
    pub(super) async fn orphans(&self, agent: &AgentId) -> Result<Vec<(CommandId, Target)>> {
        let Some(store) = &self.inner.store else { return Ok(Vec::new()) };
        let mut known = self.inner.orphans.lock().await;
        if known.is_none() {
            *known = Some(lost_commands(&**store).await?);
        }
        let orphans = known.get_or_insert_default();
        for (id, target) in std::mem::take(&mut *self.inner.new_orphans.lock()) {
            if let Some(agent) = target.agent() {
                orphans.entry(agent.clone()).or_default().push((id, target));
            }
        }
        let mut mine = orphans.remove(agent).unwrap_or_default();
        mine.sort_unstable();
        mine.dedup();
        Ok(mine)
    }

    /// Takes up a lost command again that still runs, or has ended, where `executor` leads.
    pub(super) async fn adopt(
        &self,
        executor: &dyn Executor,
        cx: &OpContext,
        target: &Target,
        id: CommandId,
    ) -> Result<()> {
        let store = self.inner.store.as_ref().ok_or_else(|| not_found(id))?;
        let _reserved = self.inner.reserve(id, cx.cancel.child_token())?;
        let record = store.get(id).await?;
        if record.state != CommandState::Lost {
            return Err(Error::new(ErrorKind::InvalidState, "the command is not lost")
                .with_context("command", id)
                .with_context("state", record.state));
        }
        let recording = self.recording(target)?;
        let handle = match supervisor::adopt(executor, cx, record, recording).await {
            Ok(handle) => handle,
            Err(e) => {
                if e.kind() != ErrorKind::NotFound {
                    self.inner.new_orphans.lock().push((id, target.clone()));
                }
                return Err(e);
            }
        };
        self.enter(handle);
        Ok(())
    }

    /// Lists a command that has begun.
    fn enter(&self, handle: CommandHandle) {
        let id = handle.id();
        self.inner.running.lock().insert(id, handle.clone());
        // It may have ended before it was entered.
        if handle.record().state.is_settled() {
            self.inner.running.lock().remove(&id);
        }
        if self.inner.permits.is_closed() {
            // It began while the fleet was being shut down.
            handle.leave();
        }
    }

    /// A recording for one more command; takes one of the fleet's permits.
    pub(super) fn recording(&self, target: &Target) -> Result<Recording> {
        let permit = Arc::clone(&self.inner.permits).try_acquire_owned().map_err(|_| {
            let message = if self.inner.permits.is_closed() {
                "the fleet is shutting down"
            } else {
                "too many commands"
            };
            Error::new(ErrorKind::RateLimited, message)
                .with_operation("spawn")
                .with_context("limit", self.inner.limits.commands)
                .with_retry(crate::Retry::Temporary { after: None })
        })?;
        Ok(Recording {
            store: self.inner.store.clone(),
            observer: Some(Arc::clone(&self.inner) as Arc<dyn Observer>),
            held: Some(Arc::new(permit)),
            target: Some(target.clone()),
            request: None,
        })
    }

    /// The store behind the records, if there is one.
    pub fn store(&self) -> Option<&Arc<dyn CommandStore>> {
        self.inner.store.as_ref()
    }

    /// A running command; `None` when it has ended or is not known here.
    pub fn handle(&self, id: CommandId) -> Option<CommandHandle> {
        self.inner.running.lock().get(&id).cloned()
    }

    /// Number of commands that run now.
    pub fn running(&self) -> usize {
        self.inner.running.lock().len()
    }

    /// Whether `record` is of a request to run `spec` on `target`: the same in every setting, the values of variables
    /// included. Where the record has no digest of its request (see [`CommandRecord::request`]), what it does show is
    /// compared.
    pub fn is_repeat(&self, record: &CommandRecord, target: &Target, spec: &CommandSpec) -> bool {
        match (&self.inner.request_key, &record.request) {
            (Some(key), Some(request)) => key.digest(target, spec) == *request,
            _ => record.resembles(target, spec),
        }
    }

    /// A command that runs here, to steer it. One that is just starting is waited for, up to 10 seconds.
    ///
    /// # Errors
    /// `NotFound`; `InvalidState` when it has ended or runs elsewhere; `Busy` when its start takes too long; those of
    /// the store.
    pub async fn steer(&self, id: CommandId) -> Result<CommandHandle> {
        if !self.inner.started_soon(id).await {
            return Err(Error::new(ErrorKind::Busy, "the command is still being started")
                .with_context("command", id)
                .with_retry(Retry::Temporary { after: None }));
        }
        if let Some(handle) = self.handle(id) {
            return Ok(handle);
        }
        let record = self.get(id).await?;
        Err(Error::new(ErrorKind::InvalidState, "the command has ended")
            .with_context("command", id)
            .with_context("state", record.state))
    }

    /// Ends a command: TERM (HUP on a terminal), grace, KILL to the tree. The start of one that is just starting is
    /// given up. One that has ended is left alone. Returns its record when the end is on its way; see
    /// [`wait`](Self::wait).
    ///
    /// # Errors
    /// `NotFound`, also when it was given up before it was recorded; those of the store.
    pub async fn cancel(&self, id: CommandId) -> Result<CommandRecord> {
        // In this order: a command is entered as running before it is taken from those that start.
        let start = self.inner.starting.lock().get(&id).map(|s| s.cancel.clone());
        if let Some(start) = start {
            start.cancel();
            // Should it take longer, it ends all the same.
            self.inner.started_soon(id).await;
        }
        if let Some(handle) = self.handle(id) {
            handle.cancel();
        }
        self.get(id).await
    }

    /// The record of a command, as of now.
    ///
    /// # Errors
    /// `NotFound`; those of the store.
    pub async fn get(&self, id: CommandId) -> Result<CommandRecord> {
        match self.look(id).await {
            // A request with this id may be on its way to the store.
            Err(e) if e.kind() == ErrorKind::NotFound => {
                self.inner.started(id).await;
                self.look(id).await
            }
            found => found,
        }
    }

    async fn look(&self, id: CommandId) -> Result<CommandRecord> {
        match (self.handle(id), &self.inner.store) {
            (Some(handle), _) => Ok(CommandRecord::clone(&handle.record())),
            (None, Some(store)) => store.get(id).await,
            (None, None) => Err(not_found(id)),
        }
    }

    /// Records that pass, newest first. Without a store, those that run.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn list(&self, filter: CommandFilter) -> Result<Vec<CommandRecord>> {
        if let Some(store) = &self.inner.store {
            let mut records = store.list(filter).await?;
            for record in &mut records {
                if let Some(live) = self.handle(record.id) {
                    *record = CommandRecord::clone(&live.record());
                }
            }
            return Ok(records);
        }
        let handles: Vec<_> = self.inner.running.lock().values().cloned().collect();
        let records: Vec<_> = handles.iter().map(CommandHandle::record).collect();
        let page = filter.page(records.iter().map(Arc::as_ref), filter.limit.unwrap_or(DEFAULT_PAGE));
        Ok(page.into_iter().cloned().collect())
    }

    /// Events of a command from byte `from` on, whether it runs or has ended; always ends with
    /// [`Exited`](crate::CommandEvent::Exited).
    ///
    /// # Errors
    /// `NotFound`; those of the store.
    pub async fn stream(&self, id: CommandId, from: Offset) -> Result<Box<dyn CommandStream>> {
        self.read(id, from, CommandHandle::stream).await
    }

    /// As [`stream`](Self::stream), but the command never waits for this reader; see [`CommandHandle::watch`].
    ///
    /// # Errors
    /// As for [`stream`](Self::stream).
    pub async fn watch(&self, id: CommandId, from: Offset) -> Result<Box<dyn CommandStream>> {
        self.read(id, from, CommandHandle::watch).await
    }

    async fn read(
        &self,
        id: CommandId,
        from: Offset,
        live: fn(&CommandHandle, Offset) -> Box<dyn CommandStream>,
    ) -> Result<Box<dyn CommandStream>> {
        self.inner.started(id).await;
        if let Some(handle) = self.handle(id) {
            return Ok(live(&handle, from));
        }
        let store = self.inner.store.as_ref().ok_or_else(|| not_found(id))?;
        let mut record = store.get(id).await?;
        if self.may_be_back(&record).await {
            record = store.get(id).await?;
        }
        if !record.state.is_settled() || record.target.agent().is_some() {
            // It began between the two looks, or was taken up again.
            if let Some(handle) = self.handle(id) {
                return Ok(live(&handle, from));
            }
        }
        let exit = record.exit.unwrap_or(ExitStatus::new(ExitKind::Unknown));
        let state = if record.state.is_settled() { record.state } else { CommandState::Lost };
        let journal = Journal::ended(id, state, exit, record.output_end, Arc::clone(store));
        Ok(Box::new(journal.subscribe(from)))
    }

    /// Waits until a command has settled and gives its record.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    pub async fn wait(&self, id: CommandId) -> Result<CommandRecord> {
        self.inner.started(id).await;
        if let Some(handle) = self.handle(id) {
            handle.wait().await?;
            return Ok(CommandRecord::clone(&handle.record()));
        }
        let record = self.get(id).await?;
        if self.may_be_back(&record).await {
            if let Some(handle) = self.handle(id) {
                handle.wait().await?;
                return Ok(CommandRecord::clone(&handle.record()));
            }
            return self.get(id).await;
        }
        Ok(record)
    }

    /// For a lost command, waits until its agent has had the chance to come back; says whether to look again.
    async fn may_be_back(&self, record: &CommandRecord) -> bool {
        let (Some(agents), Some(agent)) = (&self.inner.agents, record.target.agent()) else { return false };
        if !may_come_back(record) {
            return false;
        }
        agents.caught_up(agent).await;
        true
    }

    pub(super) async fn shutdown(&self) {
        self.inner.permits.close();
        loop {
            let starting: Vec<_> = self.inner.starting.lock().keys().copied().collect();
            for id in &starting {
                if self.inner.started_soon(*id).await {
                    continue;
                }
                // A machine that does not answer must not keep the fleet from ending.
                if let Some(start) = self.inner.starting.lock().get(id) {
                    start.cancel.cancel();
                }
            }
            let handles: Vec<_> = self.inner.running.lock().values().cloned().collect();
            if handles.is_empty() && starting.is_empty() {
                break;
            }
            for handle in &handles {
                handle.leave();
            }
            for handle in handles {
                // An error means that its runtime is gone, and the process with it.
                let _ = handle.wait().await;
                self.inner.running.lock().remove(&handle.id());
            }
        }
    }
}

/// Whether an agent may still know better: nobody saw how the command ended. An agent that has lost it itself says so
/// with an exit of an unknown kind.
fn may_come_back(record: &CommandRecord) -> bool {
    let unseen = record.exit.is_none_or(|e| e.reason == Some(EndReason::LeaseExpired));
    record.state == CommandState::Lost && unseen && record.target.agent().is_some()
}

/// All lost commands of all agents, page by page.
async fn lost_commands(store: &dyn CommandStore) -> Result<Orphans> {
    let mut orphans = Orphans::new();
    let mut filter =
        CommandFilter { states: vec![CommandState::Lost], limit: Some(1000), ..CommandFilter::default() };
    let mut total = 0;
    loop {
        let page = store.list(filter.clone()).await?;
        let Some(last) = page.last().map(|r| r.id) else { break };
        for record in page.into_iter().filter(may_come_back) {
            if let Some(agent) = record.target.agent() {
                total += 1;
                orphans.entry(agent.clone()).or_default().push((record.id, record.target));
            }
        }
        if total >= ORPHANS_MAX {
            break;
        }
        filter.before = Some(last);
    }
    Ok(orphans)
}

fn not_found(id: CommandId) -> Error {
    Error::new(ErrorKind::NotFound, "no such command").with_context("command", id)
}
