//! A terminal's view of a command or session: bytes out, bytes in, over one WebSocket that heals itself.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use fleetcore::{CommandEvent, CommandId, Error, ErrorKind, Offset, PtySize, Result, SessionId, Signal};
use futures::{SinkExt as _, Stream, StreamExt as _};
use reqwest::Upgraded;
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::WebSocketConfig},
};

use super::{
    Client,
    frames::{self, FromServer},
    problem,
    resume::{Backoff, Place, gave_up},
};

/// Most bytes of input in one frame.
const INPUT_FRAME_BYTES: usize = 32 << 10;
/// Input frames that may wait for the connection.
const INPUT_QUEUE: usize = 64;
/// Events that may wait for the reader; their bytes are bounded by the window.
const EVENT_QUEUE: usize = 64;
/// Longest frame accepted from a server.
const FRAME_BYTES_MAX: usize = 4 << 20;
/// How often the connection is probed.
const PROBE_EVERY: Duration = Duration::from_secs(20);
/// A connection that is silent for this long, probes included, is dead.
const SILENCE_MAX: Duration = Duration::from_secs(65);

/// How to attach.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct AttachOptions {
    /// First byte wanted; `None` means only what is new.
    pub from: Option<Offset>,
    /// Whether input will be sent; needs the `run` scope.
    pub input: bool,
    /// How many bytes the server may send beyond what the reader has taken. Default 256 KiB.
    pub window_bytes: u64,
}

impl Default for AttachOptions {
    fn default() -> Self {
        Self { from: Some(Offset(0)), input: true, window_bytes: 256 << 10 }
    }
}

impl AttachOptions {
    /// Watches only.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.input = false;
        self
    }

    /// Sets where to start; `None` means only what is new.
    #[must_use]
    pub fn with_from(mut self, from: Option<Offset>) -> Self {
        self.from = from;
        self
    }
}

/// What a session said about itself; `None` is "not said".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionState {
    /// The shell's directory.
    pub cwd: Option<String>,
    /// Whether a `run` is going on.
    pub busy: Option<bool>,
    /// Terminal size, which another viewer may have changed.
    pub size: Option<PtySize>,
}

/// What an attachment sees.
#[derive(Debug)]
#[non_exhaustive]
pub enum AttachEvent {
    /// Output, gap, state or exit. `Exited` is the last event.
    Command(CommandEvent),
    /// A session said something about itself.
    Session(SessionState),
    /// An input failed; the attachment goes on.
    Problem(Error),
    /// The connection broke for this reason and is being made again. Input typed meanwhile is sent later;
    /// input that was under way may be lost (it is never sent twice).
    Reconnecting(Error),
    /// The connection is back.
    Reconnected,
}

/// Both halves of an attachment. Dropping the output half ends it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Attachment {
    /// Towards the program.
    pub input: AttachInput,
    /// From the program.
    pub output: AttachOutput,
}

/// Sends input, resizes and signals. Clones feed the same connection, in order of sending.
#[derive(Clone, Debug)]
pub struct AttachInput {
    frames: mpsc::Sender<Bytes>,
}

impl AttachInput {
    async fn send(&self, frame: Bytes) -> Result<()> {
        self.frames.send(frame).await.map_err(|_| {
            Error::new(ErrorKind::InvalidState, "the attachment has ended")
                .with_operation("client.attach_input")
        })
    }

    /// Sends input. Waits while the queue is full, which is back-pressure.
    ///
    /// # Errors
    /// `InvalidState` once the attachment has ended.
    pub async fn write(&self, data: &[u8]) -> Result<()> {
        for part in data.chunks(INPUT_FRAME_BYTES) {
            self.send(frames::input(part)).await?;
        }
        Ok(())
    }

    /// Closes the program's input, or types end-of-file on a terminal.
    ///
    /// # Errors
    /// As [`AttachInput::write`].
    pub async fn close_stdin(&self) -> Result<()> {
        self.send(frames::close_stdin()).await
    }

    /// Changes the terminal size.
    ///
    /// # Errors
    /// As [`AttachInput::write`].
    pub async fn resize(&self, size: PtySize) -> Result<()> {
        self.send(frames::resize(size)).await
    }

    /// Signals the command.
    ///
    /// # Errors
    /// As [`AttachInput::write`].
    pub async fn signal(&self, signal: Signal) -> Result<()> {
        self.send(frames::signal(signal)).await
    }
}

/// What the program writes. Not reading it stops the server at the window's end, which costs no memory.
///
/// Cancel-safe: a dropped `next()` loses nothing. An `Err` is the last item.
#[derive(Debug)]
pub struct AttachOutput {
    events: mpsc::Receiver<Result<AttachEvent>>,
    taken: watch::Sender<u64>,
}

impl Stream for AttachOutput {
    type Item = Result<AttachEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let event = std::task::ready!(self.events.poll_recv(cx));
        if let Some(Ok(AttachEvent::Command(CommandEvent::Output(chunk)))) = &event {
            // Taken means acknowledged: the server may send as much again.
            self.taken.send_replace(chunk.end().0);
        }
        Poll::Ready(event)
    }
}

impl Client {
    /// Attaches to a command.
    ///
    /// # Errors
    /// Those of the first connection: `NotFound`, `PermissionDenied`, `Unavailable`. Later breaks heal.
    pub async fn attach_command(&self, id: CommandId, options: AttachOptions) -> Result<Attachment> {
        let id = id.to_string();
        self.attach(vec!["api".into(), "v1".into(), "commands".into(), id, "attach".into()], options).await
    }

    /// Attaches to a session.
    ///
    /// # Errors
    /// As [`Client::attach_command`].
    pub async fn attach_session(&self, id: &SessionId, options: AttachOptions) -> Result<Attachment> {
        let id = id.to_string();
        self.attach(vec!["api".into(), "v1".into(), "sessions".into(), id, "attach".into()], options).await
    }

    async fn attach(&self, path: Vec<String>, options: AttachOptions) -> Result<Attachment> {
        let place = Place::new(options.from);
        let socket = connect(self, &path, &options, place).await?;
        let (frames, queue) = mpsc::channel(INPUT_QUEUE);
        let (events_in, events) = mpsc::channel(EVENT_QUEUE);
        let (taken, taken_out) = watch::channel(place.offset().unwrap_or(0));
        let driver = Driver {
            client: self.clone(),
            path,
            options,
            place,
            input: Some(queue),
            taken: taken_out,
            events: events_in,
        };
        tokio::spawn(driver.run(socket));
        Ok(Attachment { input: AttachInput { frames }, output: AttachOutput { events, taken } })
    }
}

type Socket = WebSocketStream<Upgraded>;

async fn connect(client: &Client, path: &[String], options: &AttachOptions, place: Place) -> Result<Socket> {
    let segments: Vec<&str> = path.iter().map(String::as_str).collect();
    let from = place.offset().map_or_else(|| "end".to_owned(), |o| o.to_string());
    let query =
        [("from", from), ("input", options.input.to_string()), ("window", options.window_bytes.to_string())];
    let config = WebSocketConfig::default()
        .max_message_size(Some(FRAME_BYTES_MAX))
        .max_frame_size(Some(FRAME_BYTES_MAX))
        // Frames go out as they come: a keystroke must not wait for a buffer to fill.
        .write_buffer_size(0);
    client.websocket("client.attach", &segments, &query, frames::SUBPROTOCOL, config).await
}

/// How one connection ended.
enum End {
    /// The program ended and everything was handed over, or nobody listens any more.
    Done,
    /// Worth another try.
    Broken(Error),
    /// Not worth another try.
    Fatal(Error),
}

struct Driver {
    client: Client,
    path: Vec<String>,
    options: AttachOptions,
    place: Place,
    input: Option<mpsc::Receiver<Bytes>>,
    taken: watch::Receiver<u64>,
    events: mpsc::Sender<Result<AttachEvent>>,
}

impl Driver {
    async fn run(mut self, mut socket: Socket) {
        let mut backoff = Backoff::new(self.client.reconnect_policy().clone());
        loop {
            let start = tokio::time::Instant::now();
            let mut last = match self.one_connection(socket, &mut backoff).await {
                End::Done => return,
                End::Fatal(e) => {
                    let _ = self.events.send(Err(e)).await;
                    return;
                }
                End::Broken(e) => e,
            };
            backoff.broke(start);
            socket = loop {
                let Some(pause) = backoff.next_pause() else {
                    let _ = self.events.send(Err(gave_up(last, self.client.reconnect_policy()))).await;
                    return;
                };
                if self.events.send(Ok(AttachEvent::Reconnecting(last))).await.is_err() {
                    return;
                }
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = self.events.closed() => return,
                }
                match connect(&self.client, &self.path, &self.options, self.place).await {
                    Ok(socket) => break socket,
                    Err(e) if problem::worth_reconnecting(&e) => last = e,
                    Err(e) => {
                        let _ = self.events.send(Err(e)).await;
                        return;
                    }
                }
            };
            if self.events.send(Ok(AttachEvent::Reconnected)).await.is_err() {
                return;
            }
        }
    }

    async fn one_connection(&mut self, socket: Socket, backoff: &mut Backoff) -> End {
        let (mut to, mut from) = socket.split();
        let Self { place, input, taken, events, options, .. } = self;
        let window = options.window_bytes;
        let start = place.offset().unwrap_or(0);

        let write = async {
            let mut acked = start;
            let mut probe = tokio::time::interval_at(tokio::time::Instant::now() + PROBE_EVERY, PROBE_EVERY);
            loop {
                let next = async {
                    match input {
                        Some(queue) => queue.recv().await,
                        None => std::future::pending().await,
                    }
                };
                let message = tokio::select! {
                    frame = next => match frame {
                        Some(frame) => Message::Binary(frame),
                        None => {
                            *input = None;
                            continue;
                        }
                    },
                    changed = taken.changed() => {
                        if changed.is_err() {
                            return End::Done;
                        }
                        let at = *taken.borrow_and_update();
                        // A quarter of the window at a time keeps the server busy without an ack per chunk.
                        if at.saturating_sub(acked) < window / 4 {
                            continue;
                        }
                        acked = at;
                        Message::Binary(frames::ack(at))
                    },
                    _ = probe.tick() => Message::Ping(Bytes::new()),
                };
                if let Err(e) = to.send(message).await {
                    return End::Broken(broke(e));
                }
            }
        };

        let read = async {
            loop {
                let message = tokio::select! {
                    m = tokio::time::timeout(SILENCE_MAX, from.next()) => m,
                    () = events.closed() => return End::Done,
                };
                let data = match message {
                    Err(_) => return End::Broken(lost("the server fell silent")),
                    Ok(None | Some(Ok(Message::Close(_)))) => {
                        return End::Broken(lost("the server closed the connection before the end"));
                    }
                    Ok(Some(Err(e))) => return End::Broken(broke(e)),
                    Ok(Some(Ok(Message::Binary(data)))) => data,
                    Ok(Some(Ok(_))) => continue,
                };
                let frame = match frames::decode(data) {
                    Ok(frame) => frame,
                    Err(e) => return End::Fatal(e),
                };
                // Room first, then the place moves: a break in between loses nothing.
                let Ok(mut room) = events.reserve_many(2).await else { return End::Done };
                let mut pass = |event| {
                    if let Some(permit) = room.next() {
                        permit.send(Ok(event));
                    }
                };
                match frame {
                    FromServer::Command(event) => {
                        let end = matches!(event, CommandEvent::Exited(_));
                        let before = place.offset();
                        let (gap, event) = place.admit(event);
                        if place.offset() != before {
                            backoff.progressed();
                        }
                        gap.into_iter().chain(event).map(AttachEvent::Command).for_each(&mut pass);
                        if end {
                            return End::Done;
                        }
                    }
                    FromServer::Session(state) => pass(AttachEvent::Session(state)),
                    FromServer::Problem(e) => pass(AttachEvent::Problem(e)),
                    FromServer::Other => {}
                }
            }
        };

        tokio::select! {
            end = read => end,
            end = write => end,
        }
    }
}

fn lost(why: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, why).with_operation("client.attach")
}

fn broke(err: tokio_tungstenite::tungstenite::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "the connection to the server broke")
        .with_operation("client.attach")
        .with_context("cause", &err)
        .with_source(err)
}
