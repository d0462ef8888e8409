//! A command and its output.

use std::sync::{Arc, Mutex, PoisonError};

use ::fleetcore::{
    Channel, CommandEvent, CommandHandle, CommandId, CommandRecord, Error, ErrorKind, ExitStatus, Fleet,
    Offset, OutputChunk, PtySize, Result, RunningCommand, Signal,
};
use bytes::Bytes;
use fleetcore_http::client::{Client, Transport};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::BoxStream};
use pyo3::{prelude::*, types::PyList};

use crate::{
    convert::{bytes, exit, joined, signal},
    machines::WAIT_AT_ONCE,
    op::Op,
    place::Place,
    spec::size,
};

/// Output that is handed over at once, if that much is there.
const BATCH_BYTES: usize = 1 << 20;
/// Events that are.
const BATCH_EVENTS: usize = 1024;

pub(crate) type EventStream = BoxStream<'static, Result<CommandEvent>>;

/// How to get at a command.
#[derive(Clone)]
pub(crate) enum View {
    /// It runs under a supervisor of ours.
    Handle(CommandHandle),
    /// It has ended, and is in the store.
    Stored(Fleet, CommandId),
    /// It is a server's.
    Server(Client, CommandId),
}

fn over(id: CommandId) -> Error {
    Error::new(ErrorKind::InvalidState, "the command has ended").with_context("command", id)
}

/// How a recorded command ended.
fn settled(record: &CommandRecord) -> Result<ExitStatus> {
    record.exit.ok_or_else(|| {
        let text = record.error.clone().unwrap_or_else(|| "nobody saw how the command ended".to_owned());
        Error::new(ErrorKind::Unavailable, text).with_context("command", record.id)
    })
}

impl View {
    pub(crate) fn id(&self) -> CommandId {
        match self {
            Self::Handle(handle) => handle.id(),
            Self::Stored(_, id) | Self::Server(_, id) => *id,
        }
    }

    async fn open(self, from: Offset) -> Result<EventStream> {
        Ok(match self {
            Self::Handle(handle) => handle.stream(from).boxed(),
            Self::Stored(fleet, id) => fleet.commands().stream(id, from).await?.boxed(),
            Self::Server(client, id) => client.output(id, from, Transport::WebSocket).await?.boxed(),
        })
    }

    async fn write(self, data: Bytes) -> Result<()> {
        match self {
            Self::Handle(handle) => handle.write_stdin(data).await,
            Self::Stored(_, id) => Err(over(id)),
            Self::Server(client, id) => {
                let data = futures::stream::once(async move { Ok(data) }).boxed();
                client.write_stdin(id, data, false).await
            }
        }
    }

    async fn close_stdin(self) -> Result<()> {
        match self {
            Self::Handle(handle) => handle.close_stdin().await,
            Self::Stored(..) => {}
            Self::Server(client, id) => client.close_stdin(id).await?,
        }
        Ok(())
    }

    async fn signal(self, signal: Signal) -> Result<()> {
        match self {
            Self::Handle(handle) => handle.signal(signal).await,
            Self::Stored(_, id) => Err(over(id)),
            Self::Server(client, id) => client.signal(id, signal).await,
        }
    }

    async fn resize(self, size: PtySize) -> Result<()> {
        match self {
            Self::Handle(handle) => handle.resize(size).await,
            Self::Stored(_, id) => Err(over(id)),
            Self::Server(client, id) => client.resize(id, size).await,
        }
    }

    pub(crate) async fn cancel(self) -> Result<()> {
        match self {
            Self::Handle(handle) => handle.cancel(),
            Self::Stored(..) => {}
            Self::Server(client, id) => drop(client.cancel(id).await?),
        }
        Ok(())
    }

    async fn wait(self) -> Result<ExitStatus> {
        match self {
            Self::Handle(handle) => handle.wait().await,
            Self::Stored(fleet, id) => settled(&fleet.commands().wait(id).await?),
            Self::Server(client, id) => loop {
                let command = client.wait_command(id, WAIT_AT_ONCE).await?;
                if command.state.is_settled() {
                    let none = || {
                        let text = command.error.clone().unwrap_or_default();
                        Error::new(ErrorKind::Unavailable, text).with_context("command", id)
                    };
                    return command.exit.as_ref().map(ExitStatus::from).ok_or_else(none);
                }
            },
        }
    }
}

/// One command: control it, read it. Dropping the one that owns it ends it.
#[pyclass(module = "fleetcore._fleetcore", frozen)]
pub(crate) struct Command {
    owner: Mutex<Option<RunningCommand>>,
    view: View,
}

impl Command {
    pub(crate) fn owning(running: RunningCommand) -> Self {
        Self { view: View::Handle(running.handle()), owner: Mutex::new(Some(running)) }
    }

    pub(crate) fn viewing(view: View) -> Self {
        Self { view, owner: Mutex::new(None) }
    }

    /// A command somebody has started, by its id.
    pub(crate) async fn find(place: &Place, id: CommandId) -> Result<Self> {
        let view = match place {
            Place::Here(fleet, _) => match fleet.commands().handle(id) {
                Some(handle) => View::Handle(handle),
                None => {
                    fleet.commands().get(id).await?;
                    View::Stored(fleet.clone(), id)
                }
            },
            Place::Server(server) => {
                server.client.command(id).await?;
                View::Server(server.client.clone(), id)
            }
        };
        Ok(Self::viewing(view))
    }

    pub(crate) fn into_py(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(Py::new(py, self)?.into_any())
    }
}

#[pymethods]
impl Command {
    #[getter]
    fn id(&self) -> String {
        self.view.id().to_string()
    }

    /// Output from a byte on.
    fn events(&self, offset: u64) -> Events {
        match &self.view {
            // Attached at once: what comes from now on is not lost.
            View::Handle(handle) => Events::new(handle.stream(Offset(offset)).boxed()),
            view => Events::opening(view.clone().open(Offset(offset)).boxed()),
        }
    }

    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<Op> {
        Ok(Op::unit(self.view.clone().write(bytes(data, "data")?)))
    }

    fn close_stdin(&self) -> Op {
        Op::unit(self.view.clone().close_stdin())
    }

    fn signal(&self, which: &Bound<'_, PyAny>) -> PyResult<Op> {
        Ok(Op::unit(self.view.clone().signal(signal(which)?)))
    }

    fn resize(&self, cols: i64, rows: i64) -> PyResult<Op> {
        Ok(Op::unit(self.view.clone().resize(size((cols, rows))?)))
    }

    fn cancel(&self) -> Op {
        Op::unit(self.view.clone().cancel())
    }

    /// `(code, signal, reason, leaked)` once it has ended.
    fn wait(&self) -> Op {
        Op::new(self.view.clone().wait(), |py, status| {
            Ok(exit(status).into_pyobject(py)?.into_any().unbind())
        })
    }

    /// Gives up ownership.
    fn detach(&self) {
        if let Some(running) = self.owner.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = running.detach();
        }
    }
}

struct Source {
    opening: Option<BoxFuture<'static, Result<EventStream>>>,
    stream: Option<EventStream>,
    /// What was handed out last: a wait that was cancelled may have taken it without delivering it.
    last: (u64, Vec<CommandEvent>),
}

/// Events in batches.
#[pyclass(module = "fleetcore._fleetcore", frozen)]
pub(crate) struct Events {
    source: Arc<tokio::sync::Mutex<Source>>,
}

impl Events {
    pub(crate) fn new(stream: EventStream) -> Self {
        Self::from_parts(None, Some(stream.fuse().boxed()))
    }

    pub(crate) fn opening(opening: BoxFuture<'static, Result<EventStream>>) -> Self {
        Self::from_parts(Some(opening), None)
    }

    fn from_parts(
        opening: Option<BoxFuture<'static, Result<EventStream>>>,
        stream: Option<EventStream>,
    ) -> Self {
        let source = Source { opening, stream, last: (0, Vec::new()) };
        Self { source: Arc::new(tokio::sync::Mutex::new(source)) }
    }
}

impl Source {
    /// The next batch, with its number. `seen` is the number of the last one that arrived. Nothing is lost when this is
    /// dropped: what it opens and takes is kept here.
    async fn next(&mut self, seen: u64) -> Result<(u64, Vec<CommandEvent>)> {
        if self.last.0 > seen {
            return Ok(self.last.clone());
        }
        if let Some(opening) = &mut self.opening {
            let opened = opening.await;
            self.opening = None;
            self.stream = Some(opened?.fuse().boxed());
        }
        let mut batch = Vec::new();
        if let Some(stream) = &mut self.stream {
            let mut size = 0;
            let mut next = stream.next().await;
            while let Some(event) = next {
                let event = match event {
                    Ok(event) => event,
                    Err(error) if batch.is_empty() => return Err(error),
                    Err(error) => {
                        // After what came before it.
                        let rest = self.stream.take().unwrap_or_else(|| futures::stream::empty().boxed());
                        self.stream = Some(futures::stream::iter([Err(error)]).chain(rest).boxed());
                        break;
                    }
                };
                if let CommandEvent::Output(chunk) = &event {
                    size += chunk.data.len();
                }
                batch.push(event);
                if size >= BATCH_BYTES || batch.len() >= BATCH_EVENTS {
                    break;
                }
                let Some(stream) = &mut self.stream else { break };
                // Only what is there.
                next = stream.next().now_or_never().flatten();
            }
        }
        self.last = (seen + 1, batch);
        Ok(self.last.clone())
    }
}

fn channel(channel: Channel) -> &'static str {
    match channel {
        Channel::Stdout => "stdout",
        Channel::Stderr => "stderr",
        Channel::Pty => "pty",
        _ => "log",
    }
}

/// Neighbours of one channel become one: `("output", offset, channel, time, bytes)`, `("gap", from, to)`, `("exit", …)`.
fn batch(py: Python<'_>, events: &[CommandEvent]) -> PyResult<Py<PyAny>> {
    let list = PyList::empty(py);
    let flush = |run: &mut Vec<&OutputChunk>| -> PyResult<()> {
        if let Some(first) = run.first() {
            let pieces: Vec<Bytes> = run.iter().map(|c| c.data.clone()).collect();
            let at = first.at.as_microsecond();
            let data = joined(py, &pieces)?;
            list.append(("output", first.offset.0, channel(first.channel), at, data))?;
        }
        run.clear();
        Ok(())
    };
    let mut run: Vec<&OutputChunk> = Vec::new();
    for event in events {
        match event {
            CommandEvent::Output(chunk) => {
                let follows =
                    run.last().is_some_and(|l| l.channel == chunk.channel && l.end() == chunk.offset);
                if !follows {
                    flush(&mut run)?;
                }
                run.push(chunk);
            }
            CommandEvent::Gap { from, to } => {
                flush(&mut run)?;
                list.append(("gap", from.0, to.0))?;
            }
            CommandEvent::Exited(status) => {
                flush(&mut run)?;
                list.append(("exit", exit(*status)))?;
            }
            _ => {}
        }
    }
    flush(&mut run)?;
    Ok(list.into_any().unbind())
}

#[pymethods]
impl Events {
    /// `(number, batch)`: the batch after the one numbered `seen`. One without events is the end.
    fn next(&self, seen: u64) -> Op {
        let source = Arc::clone(&self.source);
        Op::new(async move { source.lock().await.next(seen).await }, |py, (number, events)| {
            let over = events.is_empty();
            Ok((number, over, batch(py, &events)?).into_pyobject(py)?.into_any().unbind())
        })
    }
}
