//! Which runtimes there are, and how they come and go.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use fleetcore::{
    AgentId, Error, ErrorKind, Fleet, Machine, MachineSpec, OpContext, Result, Target, UserName,
};
use jiff::Timestamp;
use parking_lot::Mutex;
use secrecy::SecretString;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::super::wire::{CreateRuntime, Runtime, RuntimePlugin, RuntimeState};
use crate::{
    app::App,
    auth::{Actor, Permit, Quotas},
    compat::{Hosted, HostedSpec},
    error::Problem,
};

/// Who makes machines for runtimes.
const PROVIDER: &str = "sandbox";
/// Where the shell of a new sandbox begins: its users can write there.
const WORKSPACE: &str = "/home/sandbox/workspace";
/// Limits of a new sandbox that asks for nothing else.
const CPUS: u32 = 2;
const MEMORY_BYTES: u64 = 4 << 30;
const PROCESSES: u32 = 1024;
/// Fewest processes a new sandbox may be limited to: the shell, what it runs, and what helps with files. With fewer it
/// would not start, and take its time over that.
const LEAST_PROCESSES: u32 = 32;
/// Longest the end of its shell and helpers may take.
const END_LIMIT: Duration = Duration::from_secs(30);
/// Longest the end of a sandbox may take.
const REMOVE_LIMIT: Duration = Duration::from_secs(30);
/// Letters and digits of an id that nobody mistakes for another.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// The runtimes of a server.
#[derive(Debug)]
pub(crate) struct Runtimes {
    most: usize,
    places: Arc<Semaphore>,
    per_actor: Quotas,
    table: Mutex<BTreeMap<String, Arc<One>>>,
    /// Those that are being made, and whose: they end like the others.
    making: Arc<Making>,
}

type Making = Mutex<BTreeMap<String, (UserName, CancellationToken)>>;

/// One that is being made, for as long as this is there.
#[derive(Debug)]
struct Begun {
    all: Arc<Making>,
    id: String,
    /// When it is not wanted any more.
    unwanted: CancellationToken,
}

impl Begun {
    fn new(all: &Arc<Making>, id: &str, user: &UserName) -> Self {
        let unwanted = CancellationToken::new();
        all.lock().insert(id.to_owned(), (user.clone(), unwanted.clone()));
        Self { all: Arc::clone(all), id: id.to_owned(), unwanted }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.all.lock().remove(&self.id);
    }
}

/// One of them.
#[derive(Debug)]
pub(super) struct One {
    info: Runtime,
    user: UserName,
    pub(super) hosted: Arc<Hosted>,
    /// Dropped with the table: the runtime ends also then.
    stop: CancellationToken,
    _end: DropGuard,
    /// When all of it has ended.
    gone: CancellationToken,
}

impl One {
    /// How it is now.
    pub(super) fn describe(&self) -> Runtime {
        Runtime { state: self.hosted.state(), ..self.info.clone() }
    }

    /// Who made it.
    pub(super) fn owner(&self) -> &str {
        &self.info.created_by
    }

    /// Ends it, and waits until it has.
    pub(super) async fn end(&self) {
        self.stop.cancel();
        self.gone.cancelled().await;
    }
}

/// What a runtime holds of what is limited.
#[derive(Debug)]
struct Places {
    _all: OwnedSemaphorePermit,
    _user: Permit,
}

/// A request that was understood.
#[derive(Debug)]
pub(super) struct Plan {
    id: String,
    target: Target,
    /// The machine to make first.
    sandbox: Option<MachineSpec>,
    working_dir: String,
    request: CreateRuntime,
    places: Places,
    begun: Begun,
}

impl Plan {
    pub(super) fn id(&self) -> &str {
        &self.id
    }
    pub(super) fn target(&self) -> &Target {
        &self.target
    }
    pub(super) fn makes_machine(&self) -> bool {
        self.sandbox.is_some()
    }
}

fn new_id() -> String {
    let letter = |byte: u8| char::from(ALPHABET.get(usize::from(byte & 31)).copied().unwrap_or(b'a'));
    let random: [u8; 11] = rand::random();
    // A name of a machine and a session has to begin with a letter.
    format!("r{}", random.into_iter().map(letter).collect::<String>())
}

/// The base URL of a runtime.
pub(super) fn url(id: &str) -> String {
    format!("/api/v1/runtimes/{id}")
}

impl Runtimes {
    /// None yet, and never more than `most`.
    pub(crate) fn new(most: usize, per_actor: usize) -> Self {
        Self {
            most,
            places: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))),
            per_actor: Quotas::new("runtimes", per_actor),
            table: Mutex::default(),
            making: Arc::default(),
        }
    }

    /// All of them, by id.
    pub(super) fn list(&self) -> Vec<Arc<One>> {
        self.table.lock().values().cloned().collect()
    }

    /// One of them.
    pub(super) fn get(&self, id: &str) -> Result<Arc<One>, Problem> {
        let one = self.table.lock().get(id).cloned();
        one.ok_or_else(|| Problem::not_found("runtime", id.escape_debug()))
    }

    /// Ends those of somebody who may not have them any more. Does not wait.
    pub(crate) fn end_of(&self, user: &UserName) {
        // Before the others: one that is ready in between is told as one of those.
        for (_, unwanted) in self.making.lock().values().filter(|(of, _)| of == user) {
            unwanted.cancel();
        }
        for one in self.table.lock().values().filter(|one| one.user == *user) {
            one.stop.cancel();
        }
    }

    /// Checks a request.
    pub(super) fn plan(&self, actor: &Actor, request: CreateRuntime) -> Result<Plan, Problem> {
        if request.processes.is_some_and(|n| n < LEAST_PROCESSES) {
            return Err(Problem::invalid("processes", format!("at least {LEAST_PROCESSES}")));
        }
        if request.no_change_timeout_s == Some(0) {
            return Err(Problem::invalid("no_change_timeout_s", "at least 1"));
        }
        let id = new_id();
        let (target, sandbox) = match &request.target {
            Some(target) => {
                let only_new = [
                    ("agent", request.agent.is_some()),
                    ("network", request.network),
                    ("cpus", request.cpus.is_some()),
                    ("memory_bytes", request.memory_bytes.is_some()),
                    ("processes", request.processes.is_some()),
                ];
                if let Some((field, _)) = only_new.iter().find(|(_, given)| *given) {
                    return Err(Problem::invalid(field, "only without target: for a sandbox that is made"));
                }
                (target.parse::<Target>()?, None)
            }
            None => {
                let target = Target::machine(PROVIDER, &id)?;
                let target = match &request.agent {
                    Some(agent) => target.via(AgentId::new(agent)?),
                    None => target,
                };
                (target, Some(sandbox(&id, &request)))
            }
        };
        let working_dir = match &request.working_dir {
            Some(dir) if dir.starts_with('/') && !dir.contains('\0') => dir.clone(),
            None if sandbox.is_some() => WORKSPACE.to_owned(),
            _ => {
                return Err(Problem::invalid(
                    "working_dir",
                    "an absolute path; with a target it must be given",
                ));
            }
        };
        for name in request.env.keys() {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(Problem::invalid("env", "names without = and NUL"));
            }
        }
        let all = Arc::clone(&self.places).try_acquire_owned();
        let all = all.map_err(|_| Problem::quota("runtimes of all users", self.most))?;
        let places = Places { _all: all, _user: self.per_actor.take(actor.name())? };
        let begun = Begun::new(&self.making, &id, &actor.0.user);
        Ok(Plan { id, target, sandbox, working_dir, request, places, begun })
    }

    /// Does what was planned, and gives the key. Not to be dropped on the way: a sandbox would stay.
    pub(super) async fn make(app: &App, actor: &Actor, plan: Plan) -> Result<(Arc<One>, String)> {
        let Plan { id, target, sandbox, working_dir, request, places, begun } = plan;
        let (cx, owns, network) =
            (actor.context(), sandbox.is_some(), sandbox.is_some().then_some(request.network));
        if let Some(spec) = sandbox {
            make_sandbox(app.fleet(), &cx, &target, spec).await?;
        }
        let machine = app.fleet().target(&target)?;
        let key = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        let stop = app.stopping().child_token();
        let spec = HostedSpec {
            name: format!("runtime-{id}"),
            mount: url(&id),
            key: SecretString::from(key.as_str()),
            working_dir: working_dir.clone(),
            plugins: request.plugins.iter().map(|p| p.name().to_owned()).collect(),
            env: request.env,
            no_change_timeout_s: request.no_change_timeout_s,
        };
        let cancelled = |why| Err(Error::new(ErrorKind::Cancelled, why).with_operation("start a runtime"));
        let started = tokio::select! {
            biased;
            () = stop.cancelled() => cancelled("the server stops"),
            () = begun.unwanted.cancelled() => cancelled("who asked for it may not have it any more"),
            started = Hosted::start(app, machine.clone(), spec, stop.clone()) => started,
        };
        let hosted = match started {
            Ok(hosted) => Arc::new(hosted),
            Err(error) => {
                if owns {
                    remove(&machine).await;
                }
                return Err(error);
            }
        };
        let gone = CancellationToken::new();
        let info = Runtime {
            url: url(&id),
            id: id.clone(),
            target,
            owns_target: owns,
            network,
            working_dir,
            plugins: once(request.plugins),
            created_by: actor.name().to_string(),
            created_at: Timestamp::now(),
            state: RuntimeState { session: None, cwd: None, running: None, actions: Vec::new() },
        };
        let one = Arc::new(One {
            info,
            user: actor.0.user.clone(),
            hosted: hosted.clone(),
            _end: stop.clone().drop_guard(),
            stop: stop.clone(),
            gone: gone.clone(),
        });
        app.runtimes().table.lock().insert(id.clone(), one.clone());
        // From here on it is found in the table; until here, this was told.
        if begun.unwanted.is_cancelled() {
            stop.cancel();
        }
        drop(begun);
        let weak = app.downgrade();
        app.tasks().spawn(async move {
            stop.cancelled().await;
            // A machine that does not answer must not keep who waits for the end.
            if tokio::time::timeout(END_LIMIT, hosted.end()).await.is_err() {
                tracing::warn!(runtime = id, "its shell did not end in time");
            }
            if owns {
                remove(&machine).await;
            }
            if let Some(app) = App::of(&weak) {
                app.runtimes().table.lock().remove(&id);
            }
            drop(places);
            gone.cancel();
        });
        Ok((one, key))
    }
}

fn once(mut plugins: Vec<RuntimePlugin>) -> Vec<RuntimePlugin> {
    plugins.dedup();
    plugins
}

fn sandbox(id: &str, request: &CreateRuntime) -> MachineSpec {
    let mut spec = MachineSpec::default();
    id.clone_into(&mut spec.name);
    spec.cpus = Some(request.cpus.unwrap_or(CPUS));
    spec.memory_bytes = Some(request.memory_bytes.unwrap_or(MEMORY_BYTES));
    spec.labels.insert("fleetcore.runtime".to_owned(), id.to_owned());
    spec.options.insert("network".to_owned(), request.network.into());
    spec.options.insert("processes".to_owned(), request.processes.unwrap_or(PROCESSES).into());
    spec
}

async fn make_sandbox(fleet: &Fleet, cx: &OpContext, target: &Target, spec: MachineSpec) -> Result<()> {
    let provider = match target.agent() {
        None => fleet.provider(PROVIDER).ok(),
        Some(agent) => {
            let mut all = fleet.agent_providers().into_iter();
            all.find(|p| p.scheme() == PROVIDER && p.agent() == Some(agent))
        }
    };
    let provider = provider.ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, "there are no sandboxes to make a runtime in")
            .with_operation("start a runtime")
            .with_context("hint", "install bubblewrap, or name a target")
    })?;
    provider.create(cx, spec).await.map(drop)
}

async fn remove(machine: &Machine) {
    let cx = OpContext::default().with_timeout(REMOVE_LIMIT);
    if let Err(error) = machine.delete(&cx, true).await {
        tracing::warn!(%error, target = %machine.target(), "the sandbox of a runtime stays");
    }
}
