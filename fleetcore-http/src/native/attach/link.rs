//! One attached client: three loops in one task, so that nothing waits for another task to be woken.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    extract::ws::{
        CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code, rejection::WebSocketUpgradeRejection,
    },
    http::StatusCode,
    response::Response,
};
use bytes::Bytes;
use fleetcore::{
    AuditEntry, CommandEvent, CommandHandle, CommandStream, Error, ErrorKind, Offset, OutputChunk, PtySize,
    Result, Scope, Session, SessionInfo, Signal, ViewerGuard,
};
use futures::{
    FutureExt, SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use serde::Deserialize;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, broadcast, mpsc},
    time::MissedTickBehavior,
};
use utoipa::IntoParams;

use super::frame::{self, FromClient, OutputFrame};
use crate::{
    app::App,
    auth::{Actor, StreamPass},
    error::Problem,
    native::{
        output::stopped,
        wire::{ExitEvent, Size, StateEvent},
    },
};

/// Small chunks that are ready together travel in one frame of about this size.
const COALESCE_BYTES: usize = 64 << 10;
/// Largest frame: bounds what a connection buffers.
const FRAME_BYTES: usize = 256 << 10;
/// What a client may have outstanding when it names no window.
const DEFAULT_WINDOW: u64 = 256 << 10;
/// Keeps address translation on the way from forgetting a quiet connection.
const PING_EVERY: Duration = Duration::from_secs(30);
/// A client that has not even answered pings for this long has vanished without a word.
const SILENCE: Duration = PING_EVERY.saturating_mul(3);
/// How long the other side may take to answer a close, and typed input to reach the program after its client has left.
const GOODBYE: Duration = Duration::from_secs(5);
/// Buffer for reading from a client; input is small, connections are many.
const READ_BUFFER_BYTES: usize = 8 << 10;

/// How to attach.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AttachQuery {
    /// First byte wanted, or `end` for only what is new. Default 0.
    #[param(nullable = false)]
    from: Option<String>,
    /// Whether to accept input. Default: if the caller may run commands.
    #[param(nullable = false)]
    input: Option<bool>,
    /// Bytes the server may send beyond the last acknowledged one; 0 means any number. Default 262144.
    #[param(nullable = false)]
    window: Option<u64>,
}

/// What the client is attached to.
#[derive(Debug)]
pub(crate) enum Party {
    /// A command; without a handle it has ended.
    Command { id: fleetcore::CommandId, handle: Option<CommandHandle>, state: fleetcore::CommandState },
    /// A session; the guard keeps it from idling.
    Session {
        session: Arc<dyn Session>,
        #[expect(dead_code, reason = "held, never looked at")]
        viewer: ViewerGuard,
    },
}

impl Party {
    fn handle(&self) -> Result<&CommandHandle> {
        match self {
            Self::Command { handle: Some(handle), .. } => Ok(handle),
            Self::Command { id, .. } => {
                Err(Error::new(ErrorKind::InvalidState, "the command has ended").with_context("command", id))
            }
            Self::Session { .. } => Err(Error::unsupported("attach")),
        }
    }

    async fn input(&self, data: Bytes) -> Result<()> {
        match self {
            Self::Session { session, .. } => session.write(data).await,
            Self::Command { .. } => self.handle()?.write_stdin(data).await,
        }
    }

    async fn resize(&self, size: PtySize) -> Result<()> {
        match self {
            Self::Session { session, .. } => session.resize(size).await,
            Self::Command { .. } => self.handle()?.resize(size).await,
        }
    }

    async fn close_input(&self) -> Result<()> {
        match self {
            // What a terminal types for end of file.
            Self::Session { session, .. } => session.write(Bytes::from_static(b"\x04")).await,
            Self::Command { .. } => {
                self.handle()?.close_stdin().await;
                Ok(())
            }
        }
    }

    async fn signal(&self, signal: Signal) -> Result<()> {
        match self {
            Self::Command { .. } => self.handle()?.signal(signal).await,
            // The terminal of the session turns the key into the signal for the program in the foreground.
            Self::Session { session, .. } => {
                let key: &'static [u8] = match signal {
                    Signal::Interrupt => b"\x03",
                    Signal::Quit => b"\x1c",
                    Signal::Stop => b"\x1a",
                    _ => return Err(Error::unsupported("signal")),
                };
                session.write(Bytes::from_static(key)).await
            }
        }
    }

    fn end(&self) -> Option<Offset> {
        match self {
            Self::Session { session, .. } => Some(session.info().output_end),
            Self::Command { handle, .. } => handle.as_ref().map(CommandHandle::output_end),
        }
    }

    fn name(&self) -> (&'static str, String) {
        match self {
            Self::Command { id, .. } => ("command.attach", id.to_string()),
            Self::Session { session, .. } => ("session.attach", session.id().to_string()),
        }
    }
}

/// Upgrades the request and serves the client until either side ends.
pub(crate) async fn attach(
    app: &App,
    actor: &Actor,
    party: Party,
    query: AttachQuery,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    pass: StreamPass,
) -> Result<Response, Problem> {
    let input = match query.input {
        Some(true) => {
            actor.require(Scope::Run)?;
            true
        }
        Some(false) => false,
        None => actor.may(Scope::Run),
    };
    let from = match query.from.as_deref() {
        None => Offset(0),
        Some("end") => match party.end() {
            Some(end) => end,
            None => Offset(u64::MAX),
        },
        Some(text) => {
            Offset(text.parse().map_err(|_| Problem::invalid("from", "an offset or the word end"))?)
        }
    };
    let upgrade = upgrade.map_err(|e| {
        Problem::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", "This is a WebSocket", e.body_text())
            .with_header(axum::http::header::UPGRADE, "websocket")
    })?;
    let stream: Box<dyn CommandStream> = match &party {
        // A command that waits for its readers waits only for those who could as well end it.
        Party::Command { handle: Some(handle), .. } if actor.may(Scope::Run) => handle.stream(from),
        Party::Command { handle: Some(handle), .. } => handle.watch(from),
        Party::Command { id, .. } => {
            let end = app.fleet().commands().get(*id).await?.output_end;
            app.fleet().commands().stream(*id, from.min(end)).await?
        }
        Party::Session { session, .. } => session.stream(from).await?,
    };
    if input {
        let (action, target) = party.name();
        app.audit_later(AuditEntry::new(&**actor.name(), action, target, "ok")).await;
    }
    let limits = &app.config().limits;
    let flow = Flow {
        window: match query.window.unwrap_or(DEFAULT_WINDOW) {
            0 => None,
            n => Some(n),
        },
        acked: AtomicU64::new(stream.position().0),
        reader_waits: AtomicBool::new(false),
        changed: Notify::new(),
    };
    let link = Link { app: app.clone(), party, input, flow };
    let tracked = app.tasks().token();
    Ok(upgrade
        .protocols([frame::PROTOCOL])
        .read_buffer_size(READ_BUFFER_BYTES)
        .max_message_size(limits.message_bytes)
        .max_frame_size(limits.message_bytes)
        .on_upgrade(move |socket| async move {
            let _tracked = tracked;
            link.run(socket, stream, pass).await;
        }))
}

/// Flow control between the loop that reads acks and the one that sends.
struct Flow {
    window: Option<u64>,
    acked: AtomicU64,
    /// The reader is stuck behind input the program does not take, so acks cannot be seen: then the connection's own
    /// back-pressure has to do, or a program that waits for its output to be read would never read its input.
    reader_waits: AtomicBool,
    changed: Notify,
}

impl Flow {
    /// How much may be sent at `position`.
    fn allowance(&self, position: u64) -> u64 {
        match self.window {
            Some(window) if !self.reader_waits.load(Ordering::Acquire) => {
                self.acked.load(Ordering::Acquire).saturating_add(window).saturating_sub(position)
            }
            _ => u64::MAX,
        }
    }
    fn ack(&self, offset: u64) {
        self.acked.fetch_max(offset, Ordering::AcqRel);
        self.changed.notify_one();
    }
    fn set_reader_waits(&self, waits: bool) {
        self.reader_waits.store(waits, Ordering::Release);
        self.changed.notify_one();
    }
}

enum Input {
    Data(Bytes, OwnedSemaphorePermit),
    Close,
}

struct Link {
    app: App,
    party: Party,
    input: bool,
    flow: Flow,
}

/// Why serving a client has ended.
enum End {
    /// All there was to say was said.
    Sent,
    ClientLeft,
    /// Revoked or expired.
    LoginEnded,
    /// The server stops, and the client does not take what there is to say.
    Stopped,
}

type Sink = SplitSink<WebSocket, Message>;

impl Link {
    async fn run(self, socket: WebSocket, stream: Box<dyn CommandStream>, mut pass: StreamPass) {
        let (mut sink, mut source) = socket.split();
        let (frames, mut to_send) = mpsc::channel(16);
        let (inputs, mut typed) = mpsc::channel(256);
        let mut typing = Box::pin(self.type_inputs(&mut typed, &frames));
        let end = {
            let sending = self.send_all(&mut sink, stream, &mut to_send);
            let reading = self.read_all(&mut source, &frames, &inputs);
            let stopped = stopped(self.app.stopping().clone());
            tokio::pin!(sending, reading, stopped);
            tokio::select! {
                result = &mut sending => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "attached client is gone");
                    }
                    End::Sent
                }
                () = &mut reading => End::ClientLeft,
                () = &mut typing => End::Sent,
                () = &mut pass.ended => End::LoginEnded,
                // The loop that sends sees the stop too, unless the client does not read.
                () = &mut stopped => End::Stopped,
            }
        };
        drop(inputs);
        match end {
            End::ClientLeft => {
                // What was typed before leaving still reaches the program.
                let _ = tokio::time::timeout(GOODBYE, typing).await;
                return;
            }
            End::LoginEnded => {
                // Nothing more reaches the program.
                drop(typing);
                let last = close(&mut sink, close_code::POLICY, "the login has ended");
                let _ = tokio::time::timeout(GOODBYE, last).await;
            }
            End::Stopped => return,
            End::Sent => {}
        }
        // Reading on until the client has closed too keeps the kernel from resetting the connection while the last
        // bytes are on their way.
        let drained = async { while let Some(Ok(_)) = source.next().await {} };
        tokio::select! {
            _ = tokio::time::timeout(GOODBYE, drained) => {}
            () = stopped(self.app.stopping().clone()) => {}
        }
    }

    /// Sends output and what the other loops have to say. Ends after the exit, when the server stops, or when the
    /// client is gone.
    async fn send_all(
        &self,
        sink: &mut Sink,
        mut stream: Box<dyn CommandStream>,
        to_send: &mut mpsc::Receiver<Bytes>,
    ) -> Result<(), axum::Error> {
        let mut states = States::new(self);
        if let Some(frame) = states.first(self) {
            sink.send(Message::Binary(frame)).await?;
        }
        let mut position = stream.position().0;
        let mut pending: Option<CommandEvent> = None;
        let mut ping = tokio::time::interval_at(tokio::time::Instant::now() + PING_EVERY, PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = self.app.stopping();
        loop {
            let allowance = self.flow.allowance(position);
            let event = tokio::select! {
                biased;
                Some(frame) = to_send.recv() => {
                    sink.send(Message::Binary(frame)).await?;
                    continue;
                }
                // Before output, or endless output would leave no room for pings.
                _ = ping.tick() => {
                    sink.send(Message::Ping(Bytes::new())).await?;
                    continue;
                }
                event = async {
                    match pending.take() {
                        Some(event) => Some(Ok(event)),
                        None => stream.next().await,
                    }
                }, if allowance > 0 => event,
                () = self.flow.changed.notified(), if allowance == 0 => continue,
                () = states.changed() => {
                    if let Some(frame) = states.update(self) {
                        sink.send(Message::Binary(frame)).await?;
                    }
                    continue;
                }
                () = stop.cancelled() => return close(sink, close_code::AWAY, "the server stops").await,
            };
            match event {
                Some(Ok(CommandEvent::Output(chunk))) => {
                    let frame = collect(chunk, allowance, &mut stream, &mut pending);
                    position += (frame.len() - 10) as u64;
                    sink.send(Message::Binary(frame.freeze())).await?;
                    if let Some(frame) = states.update(self) {
                        sink.send(Message::Binary(frame)).await?;
                    }
                }
                Some(Ok(CommandEvent::Gap { from, to })) => {
                    position = to.0;
                    // What never comes needs no ack.
                    self.flow.ack(to.0);
                    sink.send(Message::Binary(frame::gap(from, to))).await?;
                }
                Some(Ok(CommandEvent::State(state))) => {
                    sink.send(Message::Binary(frame::state(&StateEvent { state }))).await?;
                }
                Some(Ok(CommandEvent::Exited(exit))) => {
                    sink.send(Message::Binary(frame::exit(&ExitEvent::from(exit)))).await?;
                    return close(sink, close_code::NORMAL, "ended").await;
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    sink.send(Message::Binary(frame::error(&Problem::from(error).body()))).await?;
                    return close(sink, close_code::ERROR, "output cannot be read").await;
                }
                None => return close(sink, close_code::NORMAL, "ended").await,
            }
        }
    }

    /// Reads what the client says, until it leaves.
    async fn read_all(
        &self,
        source: &mut SplitStream<WebSocket>,
        frames: &mpsc::Sender<Bytes>,
        inputs: &mpsc::Sender<Input>,
    ) {
        let room = Arc::new(Semaphore::new(self.app.config().limits.input_queue_bytes));
        loop {
            let Ok(message) = tokio::time::timeout(SILENCE, source.next()).await else {
                tracing::debug!("attached client has vanished");
                return;
            };
            let Some(message) = message else { return };
            let result = match message {
                Ok(Message::Binary(frame)) => match FromClient::parse(&frame) {
                    Ok(said) => self.obey(said, frames, inputs, &room).await,
                    Err(error) => Err(error),
                },
                Ok(Message::Text(_)) => Err(Error::invalid("frame", "binary")),
                Ok(Message::Close(_)) => return,
                Ok(Message::Ping(_) | Message::Pong(_)) => Ok(()),
                Err(error) => {
                    tracing::debug!(%error, "attached client is gone");
                    return;
                }
            };
            if let Err(error) = result {
                // Fails only when the loop that sends has ended, and with it the connection.
                let _ = frames.send(frame::error(&Problem::from(error).body())).await;
            }
        }
    }

    async fn obey(
        &self,
        said: FromClient,
        frames: &mpsc::Sender<Bytes>,
        inputs: &mpsc::Sender<Input>,
        room: &Arc<Semaphore>,
    ) -> Result<()> {
        match said {
            FromClient::Ack(offset) => self.flow.ack(offset),
            FromClient::Ping(payload) => {
                let _ = frames.send(frame::pong(&payload)).await;
            }
            _ if !self.input => return Err(frame::not_allowed()),
            FromClient::Input(data) if data.is_empty() => {}
            FromClient::Input(data) => {
                let want = data.len().min(self.app.config().limits.input_queue_bytes).max(1);
                let want = u32::try_from(want).unwrap_or(u32::MAX);
                let permit = match room.clone().try_acquire_many_owned(want) {
                    Ok(permit) => Some(permit),
                    Err(_) => {
                        self.flow.set_reader_waits(true);
                        let permit = room.clone().acquire_many_owned(want).await.ok();
                        self.flow.set_reader_waits(false);
                        permit
                    }
                };
                if let Some(permit) = permit {
                    self.queue(inputs, Input::Data(data, permit)).await;
                }
            }
            FromClient::CloseInput => self.queue(inputs, Input::Close).await,
            FromClient::Resize(size) => {
                self.party.resize(size).await?;
                if let Party::Session { session, .. } = &self.party {
                    self.app.session_changed(session.id());
                }
            }
            FromClient::Signal(signal) => self.party.signal(signal).await?,
        }
        Ok(())
    }

    async fn queue(&self, inputs: &mpsc::Sender<Input>, input: Input) {
        if let Err(mpsc::error::TrySendError::Full(input)) = inputs.try_send(input) {
            self.flow.set_reader_waits(true);
            let _ = inputs.send(input).await;
            self.flow.set_reader_waits(false);
        }
    }

    /// Types what was queued; a slow program holds up nothing but its own input.
    async fn type_inputs(&self, typed: &mut mpsc::Receiver<Input>, frames: &mpsc::Sender<Bytes>) {
        while let Some(input) = typed.recv().await {
            let result = match input {
                Input::Data(data, _permit) => self.party.input(data).await,
                Input::Close => self.party.close_input().await,
            };
            if let Err(error) = result {
                let _ = frames.try_send(frame::error(&Problem::from(error).body()));
            }
        }
    }
}

async fn close(sink: &mut Sink, code: u16, reason: &'static str) -> Result<(), axum::Error> {
    sink.send(Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await
}

/// One frame of what is ready: at most `allowance` bytes. What does not fit stays in `pending`.
fn collect(
    mut chunk: OutputChunk,
    allowance: u64,
    stream: &mut Box<dyn CommandStream>,
    pending: &mut Option<CommandEvent>,
) -> OutputFrame {
    let most = usize::try_from(allowance).unwrap_or(usize::MAX).min(FRAME_BYTES);
    if chunk.data.len() >= most {
        let rest = chunk.data.split_off(most);
        let frame = OutputFrame::new(chunk.offset, chunk.channel, &chunk.data, 0);
        if !rest.is_empty() {
            let offset = chunk.end();
            *pending = Some(CommandEvent::Output(OutputChunk { offset, data: rest, ..chunk }));
        }
        return frame;
    }
    let mut end = chunk.end();
    let mut frame = None;
    let most = most.min(COALESCE_BYTES.max(chunk.data.len()));
    let mut len = chunk.data.len();
    while len < most {
        match stream.next().now_or_never() {
            Some(Some(Ok(CommandEvent::Output(mut next))))
                if next.channel == chunk.channel && next.offset == end =>
            {
                let rest = next.data.split_off(next.data.len().min(most - len));
                let frame = frame.get_or_insert_with(|| {
                    OutputFrame::new(chunk.offset, chunk.channel, &chunk.data, COALESCE_BYTES)
                });
                frame.push(&next.data);
                len += next.data.len();
                end = next.end();
                if !rest.is_empty() {
                    *pending = Some(CommandEvent::Output(OutputChunk { offset: end, data: rest, ..next }));
                    break;
                }
            }
            Some(Some(Ok(other))) => {
                *pending = Some(other);
                break;
            }
            // Ended or failed: the stream says so again. Or nothing more is ready.
            _ => break,
        }
    }
    frame.unwrap_or_else(|| OutputFrame::new(chunk.offset, chunk.channel, &chunk.data, 0))
}

/// What a session's clients are told about it.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
struct SessionState {
    cwd: Option<String>,
    busy: bool,
    size: Size,
}

impl From<SessionInfo> for SessionState {
    fn from(i: SessionInfo) -> Self {
        Self { cwd: i.cwd, busy: i.busy, size: i.size.into() }
    }
}

/// Notices when a session's directory, business or size has changed.
struct States {
    last: Option<SessionState>,
    changes: Option<(broadcast::Receiver<fleetcore::SessionId>, fleetcore::SessionId)>,
}

impl States {
    fn new(link: &Link) -> Self {
        let changes = match &link.party {
            Party::Session { session, .. } => Some((link.app.session_changes(), session.id().clone())),
            Party::Command { .. } => None,
        };
        Self { last: None, changes }
    }

    fn first(&mut self, link: &Link) -> Option<Bytes> {
        match &link.party {
            Party::Command { state, .. } => Some(frame::state(&StateEvent { state: *state })),
            Party::Session { .. } => self.update(link),
        }
    }

    fn update(&mut self, link: &Link) -> Option<Bytes> {
        let Party::Session { session, .. } = &link.party else { return None };
        let now = SessionState::from(session.info());
        if self.last.as_ref() == Some(&now) {
            return None;
        }
        let frame = frame::state(&now);
        self.last = Some(now);
        Some(frame)
    }

    /// Resolves when somebody has changed the session through this server.
    async fn changed(&mut self) {
        let Some((changes, id)) = &mut self.changes else { return pending().await };
        loop {
            match changes.recv().await {
                Ok(changed) if changed != *id => {}
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
                Err(broadcast::error::RecvError::Closed) => return pending().await,
            }
        }
    }
}
