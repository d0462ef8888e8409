//! Live views: what changes on the server, and how busy it is.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{body::Body, extract::State, response::Response};
use bytes::{Bytes, BytesMut};
use fleetcore::{Error, FleetEvent, LOCAL, Scope, Target as CoreTarget};
use futures::stream;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::{
    Notify,
    broadcast::{self, error::RecvError, error::TryRecvError},
};
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use super::{
    load::HostWatch,
    notices::Notice,
    output::event_stream,
    sse::{KEEP_ALIVE, KEEP_ALIVE_EVERY, json_event},
    watch::Listening,
    wire::{Command, Host, Load, LoadEvent, Machine, MachineGone, Session, SessionClosed},
};
use crate::{
    app::{App, Inner},
    auth::{Actor, CanRead, StreamPass},
    error::{Problem, Reply},
    extract::Query,
};

/// How often load is measured while somebody looks.
const SAMPLE_EVERY: Duration = Duration::from_secs(2);
/// How often it is measured for the history alone: the length of its finest buckets.
const HISTORY_EVERY: Duration = Duration::from_secs(10);
/// How old a sample may be to count as the load now.
const STALE: Duration = Duration::from_secs(6);
/// How much of it is kept.
const KEEP: Duration = Duration::from_secs(300);
/// Samples in that time.
const KEEP_SAMPLES: usize = 150;
/// A body frame holds about this much when more is ready.
const BATCH_BYTES: usize = 32 << 10;

/// Measures the load of this host: often while somebody looks, of which it remembers five minutes, and now and then for
/// the history, if one is kept. One task does both.
#[derive(Debug)]
pub(crate) struct LoadWatch {
    host: Arc<HostWatch>,
    recent: Mutex<VecDeque<Load>>,
    /// When somebody last looked.
    asked: Mutex<Option<Instant>>,
    wake: Arc<Notify>,
    running: AtomicBool,
    samples: broadcast::Sender<Load>,
}

impl Default for LoadWatch {
    fn default() -> Self {
        Self {
            host: Arc::default(),
            recent: Mutex::default(),
            asked: Mutex::default(),
            wake: Arc::default(),
            running: AtomicBool::new(false),
            samples: broadcast::channel(16).0,
        }
    }
}

impl LoadWatch {
    /// What this host is.
    pub(crate) async fn host(&self) -> Option<Host> {
        tokio::task::spawn_blocking(HostWatch::facts).await.ok()
    }

    /// How busy it is now; starts measuring.
    pub(crate) async fn latest(&self, app: &App) -> Option<Load> {
        let fresh = |l: &Load| Timestamp::now().duration_since(l.at).unsigned_abs() < STALE;
        let first = !self.recent.lock().back().is_some_and(fresh);
        *self.asked.lock() = Some(Instant::now());
        if first {
            self.measure(app).await;
        }
        if !self.running.swap(true, Ordering::AcqRel) {
            app.tasks().spawn(keep_measuring(app.downgrade(), app.stopping().clone()));
        } else if first {
            self.wake.notify_one();
        }
        self.recent.lock().back().copied()
    }

    /// Starts measuring for the history, if one is kept.
    pub(crate) fn start(&self, app: &App) {
        if app.metrics().is_some() && !self.running.swap(true, Ordering::AcqRel) {
            app.tasks().spawn(keep_measuring(app.downgrade(), app.stopping().clone()));
        }
    }

    /// The last five minutes, oldest first.
    pub(crate) fn recent(&self) -> Vec<Load> {
        self.recent.lock().iter().copied().collect()
    }

    async fn measure(&self, app: &App) {
        let host = self.host.clone();
        let Ok(sample) = tokio::task::spawn_blocking(move || host.measure()).await else { return };
        if let Some(metrics) = app.metrics() {
            metrics.record(LOCAL, Timestamp::now(), &sample);
        }
        let load = Load::from(sample);
        let mut recent = self.recent.lock();
        recent.push_back(load);
        let oldest = load.at.as_second().saturating_sub(KEEP.as_secs().cast_signed());
        while recent.len() > KEEP_SAMPLES || recent.front().is_some_and(|l| l.at.as_second() < oldest) {
            recent.pop_front();
        }
        drop(recent);
        // Nobody listening is fine.
        let _ = self.samples.send(load);
    }

    fn unwatched(&self) -> bool {
        self.samples.receiver_count() == 0 && self.asked.lock().is_none_or(|at| at.elapsed() > KEEP)
    }
}

async fn keep_measuring(weak: Weak<Inner>, stop: CancellationToken) {
    loop {
        let Some(app) = App::of(&weak) else { return };
        let load = app.load();
        let every = match (load.unwatched(), app.metrics()) {
            (false, _) => SAMPLE_EVERY,
            (true, Some(_)) => HISTORY_EVERY,
            (true, None) => {
                load.running.store(false, Ordering::Release);
                return;
            }
        };
        let wake = load.wake.clone();
        // Nothing is held meanwhile.
        drop(app);
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            // Whoever woke us has measured.
            () = wake.notified() => continue,
            () = stop.cancelled() => return,
        }
        let Some(app) = App::of(&weak) else { return };
        app.load().measure(&app).await;
    }
}

/// Kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Topic {
    Commands,
    Sessions,
    Machines,
    Load,
    Agents,
    Audit,
    Files,
}

impl Topic {
    const ALL: [(&'static str, Self); 7] = [
        ("commands", Self::Commands),
        ("sessions", Self::Sessions),
        ("machines", Self::Machines),
        ("agents", Self::Agents),
        ("load", Self::Load),
        ("audit", Self::Audit),
        ("files", Self::Files),
    ];

    /// What one must be allowed to do to be told.
    fn scope(self) -> Scope {
        match self {
            Self::Audit => Scope::Admin,
            Self::Files => Scope::Files,
            _ => Scope::Read,
        }
    }
}

/// Which events.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventsQuery {
    /// Some of `commands`, `sessions`, `machines`, `agents`, `load`, `audit` (needs the scope `admin`) and `files` (needs
    /// `files`), with commas between. Default: all that are allowed.
    #[param(nullable = false, example = "commands,sessions,machines,agents,load")]
    topics: Option<String>,
}

fn topics(text: Option<&str>, actor: &Actor) -> Result<BTreeSet<Topic>, Problem> {
    let Some(text) = text else {
        let allowed = Topic::ALL.into_iter().map(|(_, topic)| topic).filter(|t| actor.may(t.scope()));
        return Ok(allowed.collect());
    };
    text.split(',')
        .map(|name| {
            let known = Topic::ALL.into_iter().find(|(known, _)| *known == name.trim());
            let (_, topic) = known.ok_or_else(|| {
                let rule =
                    "some of commands, sessions, machines, agents, load, audit and files, with commas between";
                Problem::invalid("topics", rule)
            })?;
            actor.require(topic.scope()).map(|()| topic)
        })
        .collect()
}

/// Changes as they happen: events `command`, `session`, `session_closed`, `machine`, `agent`, `agent_removed`, `load`,
/// `audit` (the log grew) and `files` (changed through this server). List first, then apply these; after `lagged` list
/// again. A `machine` event holds the machine, or `target` and `gone`.
#[utoipa::path(get, path = "/api/v1/events", tag = "events", params(EventsQuery),
    responses((status = 200, description = "Until the client leaves", body = String, content_type = "text/event-stream")))]
pub(super) async fn events(
    CanRead(actor): CanRead,
    State(app): State<App>,
    Query(query): Query<EventsQuery>,
) -> Reply<Response> {
    let topics = topics(query.topics.as_deref(), &actor)?;
    let pass = actor.stream(&app)?;
    let loads = topics.contains(&Topic::Load).then(|| app.load().samples.subscribe());
    let mut first = BytesMut::from(&KEEP_ALIVE[..]);
    if topics.contains(&Topic::Load)
        && let Some(load) = app.load().latest(&app).await
    {
        json_event(&mut first, "load", &LoadEvent { target: CoreTarget::local(), load });
    }
    let listening = topics.contains(&Topic::Machines).then(|| app.machine_watch().listen(&app));
    let agents = AgentFeed::new(&app, &topics);
    let private = topics.iter().any(|t| t.scope() != Scope::Read);
    let notices = private.then(|| app.notices().subscribe());
    let feed = Feed {
        fleet: app.fleet().events(),
        app,
        topics,
        loads,
        agents,
        notices,
        first: Some(first),
        pass,
        _listening: listening,
    };
    Ok(event_stream(Body::from_stream(stream::unfold(feed, Feed::next))))
}

struct Feed {
    app: App,
    topics: BTreeSet<Topic>,
    fleet: broadcast::Receiver<FleetEvent>,
    loads: Option<broadcast::Receiver<Load>>,
    agents: AgentFeed,
    notices: Option<broadcast::Receiver<Notice>>,
    first: Option<BytesMut>,
    pass: StreamPass,
    _listening: Option<Listening>,
}

impl Feed {
    async fn next(mut self) -> Option<(Result<Bytes, Error>, Self)> {
        let mut out = self.first.take().unwrap_or_default();
        let quiet = tokio::time::sleep(KEEP_ALIVE_EVERY);
        tokio::pin!(quiet);
        while out.is_empty() {
            tokio::select! {
                biased;
                () = &mut self.pass.ended => return None,
                event = self.fleet.recv() => match event {
                    Ok(event) => self.write(&event, &mut out),
                    Err(RecvError::Lagged(missed)) => lagged(missed, &mut out),
                    Err(RecvError::Closed) => return None,
                },
                load = next_load(&mut self.loads) => {
                    json_event(&mut out, "load", &LoadEvent { target: CoreTarget::local(), load });
                }
                text = self.agents.next(&self.topics) => out.extend_from_slice(&text),
                text = next_notice(&mut self.notices, &self.topics) => out.extend_from_slice(&text),
                () = &mut quiet => out.extend_from_slice(&KEEP_ALIVE),
                () = self.app.stopping().cancelled() => return None,
            }
        }
        while out.len() < BATCH_BYTES {
            match self.fleet.try_recv() {
                Ok(event) => self.write(&event, &mut out),
                Err(TryRecvError::Lagged(missed)) => lagged(missed, &mut out),
                Err(_) => break,
            }
        }
        Some((Ok(out.freeze()), self))
    }

    fn write(&self, event: &FleetEvent, out: &mut BytesMut) {
        match event {
            FleetEvent::Command(record) if self.topics.contains(&Topic::Commands) => {
                json_event(out, "command", &Command::from(&**record));
            }
            FleetEvent::Session(target, info) if self.topics.contains(&Topic::Sessions) => {
                let viewers = self.app.fleet().sessions().viewers(&info.id);
                json_event(out, "session", &Session::new(target.clone(), (**info).clone(), viewers));
            }
            FleetEvent::Machine(target, info) if self.topics.contains(&Topic::Machines) => {
                json_event(out, "machine", &Machine::new(target.clone(), (**info).clone()));
            }
            FleetEvent::MachineGone(target) if self.topics.contains(&Topic::Machines) => {
                json_event(out, "machine", &MachineGone { target: target.clone(), gone: true });
            }
            FleetEvent::SessionClosed(id) if self.topics.contains(&Topic::Sessions) => {
                json_event(out, "session_closed", &SessionClosed { id: id.clone() });
            }
            _ => {}
        }
    }
}

fn lagged(missed: u64, out: &mut BytesMut) {
    json_event(out, "lagged", &serde_json::json!({ "missed": missed }));
}

/// What the event stream says about agents.
struct AgentFeed {
    #[cfg(feature = "client")]
    events: Option<broadcast::Receiver<super::AgentEvent>>,
}

#[cfg(feature = "client")]
impl AgentFeed {
    fn new(app: &App, topics: &BTreeSet<Topic>) -> Self {
        let wanted = topics.contains(&Topic::Agents) || topics.contains(&Topic::Load);
        Self { events: wanted.then(|| app.agent_events().subscribe()) }
    }

    /// The next event that is wanted.
    async fn next(&mut self, topics: &BTreeSet<Topic>) -> Bytes {
        use super::AgentEvent;
        loop {
            let Some(events) = &mut self.events else { return std::future::pending().await };
            match events.recv().await {
                Ok(AgentEvent::Agent(text)) if topics.contains(&Topic::Agents) => return text,
                Ok(AgentEvent::Load(text)) if topics.contains(&Topic::Load) => return text,
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => {
                    let mut out = BytesMut::new();
                    lagged(missed, &mut out);
                    return out.freeze();
                }
                Err(RecvError::Closed) => self.events = None,
            }
        }
    }
}

#[cfg(not(feature = "client"))]
impl AgentFeed {
    fn new(_: &App, _: &BTreeSet<Topic>) -> Self {
        Self {}
    }

    async fn next(&mut self, _: &BTreeSet<Topic>) -> Bytes {
        std::future::pending().await
    }
}

async fn next_notice(notices: &mut Option<broadcast::Receiver<Notice>>, topics: &BTreeSet<Topic>) -> Bytes {
    loop {
        let Some(receiver) = notices else { return std::future::pending().await };
        match receiver.recv().await {
            Ok(notice) if topics.iter().any(|t| t.scope() == notice.scope) => return notice.text,
            Ok(_) => {}
            Err(RecvError::Lagged(missed)) => {
                let mut out = BytesMut::new();
                lagged(missed, &mut out);
                return out.freeze();
            }
            Err(RecvError::Closed) => *notices = None,
        }
    }
}

async fn next_load(loads: &mut Option<broadcast::Receiver<Load>>) -> Load {
    loop {
        let Some(receiver) = loads else { return std::future::pending().await };
        match receiver.recv().await {
            Ok(load) => return load,
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => *loads = None,
        }
    }
}
