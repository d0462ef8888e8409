//! Live views: what changes on the server, and how busy it is.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{body::Body, extract::State, response::Response};
use bytes::{Bytes, BytesMut};
use fleetcore::{Error, FleetEvent, Target as CoreTarget};
use futures::stream;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::broadcast::{self, error::RecvError, error::TryRecvError};
use utoipa::IntoParams;

use super::{
    load::HostWatch,
    output::event_stream,
    sse::{KEEP_ALIVE, KEEP_ALIVE_EVERY, json_event},
    watch::Listening,
    wire::{Command, Host, Load, LoadEvent, Machine, MachineGone, Session, SessionClosed},
};
use crate::{
    app::App,
    auth::{CanRead, StreamPass},
    error::{Problem, Reply},
    extract::Query,
};

/// How often load is measured while somebody looks.
const SAMPLE_EVERY: Duration = Duration::from_secs(2);
/// How much of it is kept.
const KEEP: Duration = Duration::from_secs(300);
/// Samples in that time.
const KEEP_SAMPLES: usize = 150;
/// A body frame holds about this much when more is ready.
const BATCH_BYTES: usize = 32 << 10;

/// Measures the load of this host while somebody looks, and remembers five minutes of it.
#[derive(Debug)]
pub(crate) struct LoadWatch {
    host: Arc<HostWatch>,
    recent: Mutex<VecDeque<Load>>,
    asked: Mutex<Instant>,
    running: AtomicBool,
    samples: broadcast::Sender<Load>,
}

impl Default for LoadWatch {
    fn default() -> Self {
        Self {
            host: Arc::default(),
            recent: Mutex::default(),
            asked: Mutex::new(Instant::now()),
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
        *self.asked.lock() = Instant::now();
        if !self.running.swap(true, Ordering::AcqRel) {
            self.measure().await;
            app.tasks().spawn(keep_measuring(app.clone()));
        }
        self.recent.lock().back().copied()
    }

    /// The last five minutes, oldest first.
    pub(crate) fn recent(&self) -> Vec<Load> {
        self.recent.lock().iter().copied().collect()
    }

    async fn measure(&self) {
        let host = self.host.clone();
        let Ok(load) = tokio::task::spawn_blocking(move || host.measure()).await else { return };
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
        self.samples.receiver_count() == 0 && self.asked.lock().elapsed() > KEEP
    }
}

async fn keep_measuring(app: App) {
    let mut every = tokio::time::interval_at(tokio::time::Instant::now() + SAMPLE_EVERY, SAMPLE_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while app.stopping().run_until_cancelled(every.tick()).await.is_some() {
        if app.load().unwatched() {
            break;
        }
        app.load().measure().await;
    }
    app.load().running.store(false, Ordering::Release);
}

/// Kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Topic {
    Commands,
    Sessions,
    Machines,
    Load,
}

/// Which events.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventsQuery {
    /// Some of `commands`, `sessions`, `machines` and `load`, with commas between. Default: all.
    #[param(nullable = false, example = "commands,sessions,machines,load")]
    topics: Option<String>,
}

fn topics(text: Option<&str>) -> Result<BTreeSet<Topic>, Problem> {
    let Some(text) = text else {
        return Ok(BTreeSet::from([Topic::Commands, Topic::Sessions, Topic::Machines, Topic::Load]));
    };
    text.split(',')
        .map(|t| match t.trim() {
            "commands" => Ok(Topic::Commands),
            "sessions" => Ok(Topic::Sessions),
            "machines" => Ok(Topic::Machines),
            "load" => Ok(Topic::Load),
            _ => Err(Problem::invalid(
                "topics",
                "some of commands, sessions, machines and load, with commas between",
            )),
        })
        .collect()
}

/// Changes as they happen: events `command`, `session`, `session_closed`, `machine` and `load`. List first, then apply
/// these; after `lagged` list again. A `machine` event holds the machine, or `target` and `gone`.
#[utoipa::path(get, path = "/api/v1/events", tag = "events", params(EventsQuery),
    responses((status = 200, description = "Until the client leaves", body = String, content_type = "text/event-stream")))]
pub(super) async fn events(
    CanRead(actor): CanRead,
    State(app): State<App>,
    Query(query): Query<EventsQuery>,
) -> Reply<Response> {
    let topics = topics(query.topics.as_deref())?;
    let pass = actor.stream(&app)?;
    let loads = topics.contains(&Topic::Load).then(|| app.load().samples.subscribe());
    let mut first = BytesMut::from(&KEEP_ALIVE[..]);
    if topics.contains(&Topic::Load)
        && let Some(load) = app.load().latest(&app).await
    {
        json_event(&mut first, "load", &LoadEvent { target: CoreTarget::local(), load });
    }
    let listening = topics.contains(&Topic::Machines).then(|| app.machine_watch().listen(&app));
    let feed = Feed {
        fleet: app.fleet().events(),
        app,
        topics,
        loads,
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
