//! One command on many targets: lines of the fleet's own fan-out, with the output that belongs to each.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use ::fleetcore::{
    Channel, CommandEvent, CommandId, Error, ErrorKind, ExitKind, ExitStatus, FanOut as Plan, Offset,
    OpContext, Output, Overflow, Result, RunningCommand,
};
use bytes::BytesMut;
use fleetcore_http::client::{
    Transport, parse_problem,
    wire::{FanOutLine, NewFanOut},
};
use futures::StreamExt as _;
use pyo3::{prelude::*, types::PyBytes};
use tokio::task::JoinHandle;

use crate::{
    command::{EventStream, View},
    convert::exit,
    op::Op,
    place::Place,
};

type Collector = JoinHandle<Result<(Output, f64)>>;
type Collectors = Arc<Mutex<HashMap<CommandId, Collector>>>;

/// All output of a command.
async fn collect(mut events: EventStream) -> Result<(Output, f64)> {
    let began = Instant::now();
    let (mut stdout, mut stderr, mut truncated) = (Vec::new(), Vec::new(), false);
    let mut status = ExitStatus::new(ExitKind::Unknown);
    while let Some(event) = events.next().await {
        match event? {
            CommandEvent::Output(c) if c.channel == Channel::Stderr => stderr.extend_from_slice(&c.data),
            CommandEvent::Output(c) => stdout.extend_from_slice(&c.data),
            CommandEvent::Gap { .. } => truncated = true,
            CommandEvent::Exited(s) => status = s,
            _ => {}
        }
    }
    let mut output = Output::new(status);
    (output.stdout, output.stderr, output.truncated) = (stdout, stderr, truncated);
    Ok((output, began.elapsed().as_secs_f64()))
}

struct Progress {
    place: Place,
    events: EventStream,
    /// Dropping it ends all of it.
    parent: Option<RunningCommand>,
    collectors: Collectors,
    text: BytesMut,
    over: bool,
    seen: usize,
}

/// What came of one target.
struct Item {
    target: String,
    command: Option<String>,
    state: String,
    output: Option<(Output, f64)>,
    error: Option<String>,
}

fn collectors(of: &Collectors) -> std::sync::MutexGuard<'_, HashMap<CommandId, Collector>> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Progress {
    async fn begin(place: Place, id: CommandId, mut plan: Plan) -> Result<Self> {
        let children = Collectors::default();
        let (events, parent) = match &place {
            Place::Here(fleet, _) => {
                // All of it is read, and nothing else keeps it for sure.
                plan.command.overflow = Overflow::Block;
                let told = Arc::clone(&children);
                let plan = plan.with_on_start(move |handle| {
                    let task = tokio::spawn(collect(handle.stream(Offset(0)).boxed()));
                    collectors(&told).insert(handle.id(), task);
                });
                let parent = fleet.fan_out(&OpContext::default(), id, plan).await?;
                (parent.stream(Offset(0)).boxed(), Some(parent))
            }
            Place::Server(server) => {
                let mut request = NewFanOut::from_plan(&plan)?;
                request.id = Some(id.to_string());
                server.client.fan_out(&request).await?;
                (server.client.output(id, Offset(0), Transport::WebSocket).await?.boxed(), None)
            }
        };
        let text = BytesMut::new();
        Ok(Self { place, events, parent, collectors: children, text, over: false, seen: 0 })
    }

    /// The next line of the parent.
    async fn line(&mut self) -> Result<Option<FanOutLine>> {
        loop {
            if let Some(end) = self.text.iter().position(|b| *b == b'\n') {
                let line = self.text.split_to(end + 1);
                // Lines of a newer server that mean nothing here.
                if let Ok(line) = serde_json::from_slice(&line) {
                    return Ok(Some(line));
                }
                continue;
            }
            if self.over {
                return Ok(None);
            }
            match self.events.next().await.transpose()? {
                Some(CommandEvent::Output(chunk)) => self.text.extend_from_slice(&chunk.data),
                Some(CommandEvent::Exited(_)) | None => {
                    self.over = true;
                    self.text.extend_from_slice(b"\n");
                    self.parent = None;
                }
                Some(_) => {}
            }
        }
    }

    async fn next(&mut self) -> Result<Option<Item>> {
        while let Some(line) = self.line().await? {
            if let Some(problem) = &line.problem
                && self.seen == 0
            {
                return Err(parse_problem(problem.to_string().as_bytes()));
            }
            let id = line.command.as_deref().and_then(|id| id.parse::<CommandId>().ok());
            let state = line.state.unwrap_or_default();
            if state == "running" {
                if let (Place::Server(server), Some(id)) = (&self.place, id) {
                    let client = server.client.clone();
                    let task = tokio::spawn(async move {
                        collect(client.output(id, Offset(0), Transport::WebSocket).await?.boxed()).await
                    });
                    collectors(&self.collectors).insert(id, task);
                }
                continue;
            }
            let Some(target) = line.target.or_else(|| line.provider.map(|p| format!("{p}/*"))) else {
                continue;
            };
            let collector = id.and_then(|id| collectors(&self.collectors).remove(&id));
            let output = match collector {
                Some(task) => Some(task.await.map_err(|e| {
                    Error::new(ErrorKind::Unexpected, "output could not be collected").with_source(e)
                })??),
                None => None,
            };
            let error = line.error.map(|e| match e.get("detail").and_then(|d| d.as_str()) {
                Some(detail) => detail.to_owned(),
                None => e.to_string(),
            });
            self.seen += 1;
            return Ok(Some(Item { target, command: line.command, state, output, error }));
        }
        Ok(None)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        for task in collectors(&self.collectors).values() {
            task.abort();
        }
    }
}

/// A fan-out as it goes on.
#[pyclass(module = "fleetcore._fleetcore", frozen)]
pub(crate) struct FanOut {
    progress: Arc<tokio::sync::Mutex<Progress>>,
    view: Option<View>,
    handle: Option<::fleetcore::CommandHandle>,
}

impl FanOut {
    pub(crate) fn begin(place: Place, plan: Plan) -> Op {
        let work = async move {
            let id = CommandId::generate();
            let progress = Progress::begin(place, id, plan).await?;
            let view = match &progress.place {
                Place::Server(server) => Some(View::Server(server.client.clone(), id)),
                Place::Here(..) => None,
            };
            let handle = progress.parent.as_ref().map(RunningCommand::handle);
            Ok(Self { progress: Arc::new(tokio::sync::Mutex::new(progress)), view, handle })
        };
        Op::new(work, |py, fan_out| Ok(Py::new(py, fan_out)?.into_any()))
    }
}

#[pymethods]
impl FanOut {
    /// `(target, command, state, output, error)` of the next target that is done, or `None` at the end.
    fn next(&self) -> Op {
        let progress = Arc::clone(&self.progress);
        Op::new(async move { progress.lock().await.next().await }, |py, item| {
            let Some(item) = item else { return Ok(py.None()) };
            let output = item.output.map(|(o, took)| {
                let (stdout, stderr) = (PyBytes::new(py, &o.stdout), PyBytes::new(py, &o.stderr));
                (exit(o.status), stdout, stderr, o.truncated, took)
            });
            let all = (item.target, item.command, item.state, output, item.error);
            Ok(all.into_pyobject(py)?.into_any().unbind())
        })
    }

    /// Ends all of it, and waits until nothing runs any more.
    fn cancel(&self) -> Op {
        let (view, handle) = (self.view.clone(), self.handle.clone());
        Op::unit(async move {
            if let Some(handle) = handle {
                handle.cancel();
                handle.wait().await?;
            }
            match view {
                Some(view) => view.cancel().await,
                None => Ok(()),
            }
        })
    }
}
