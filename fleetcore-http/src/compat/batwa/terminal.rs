//! Terminals: a browser on one side, a shell here or an agent's terminal on the other.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use bytes::Bytes;
use fleetcore::{CommandEvent, CommandHandle, ErrorKind, Offset, PtySize};
use futures::{
    SinkExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{SplitSink, SplitStream},
};
use percent_encoding::utf8_percent_encode;
use secrecy::ExposeSecret as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_tungstenite::tungstenite::{self, client::IntoClientRequest as _};
use tokio_util::sync::CancellationToken;

use super::{agents::Agent, checks, map, map::Typed, remote::SEGMENT, state::Master, vms::Vms};
use crate::auth::Identity;

/// Largest frame of output, as in the originals.
const FRAME_MAX: usize = 4096;
/// How long a shell waits to be told how large its window is.
const FIRST_SIZE: Duration = Duration::from_millis(250);
/// Pings of idle terminals.
const PING_EVERY: Duration = Duration::from_secs(25);
/// A browser that says nothing for longer is gone: two pings and a little.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Input the program has not taken yet; beyond that the browser waits.
const INPUT_MAX: usize = 1 << 20;
/// What one piece of input costs besides its bytes.
const INPUT_COST: usize = 64;
/// Pieces of input that wait.
const INPUT_PIECES: usize = 1024;
/// How long a browser may take to answer a close.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// Longest wait for an agent.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Close codes of RFC 6455.
const NORMAL: u16 = 1000;
const AWAY: u16 = 1001;
const POLICY: u16 = 1008;
const FAILED: u16 = 1011;

type Out = SplitSink<WebSocket, Message>;
type In = SplitStream<WebSocket>;

/// A terminal of the master's page.
pub(super) async fn of_master(
    master: Arc<Master>,
    socket: WebSocket,
    who: Option<Arc<Identity>>,
    mut asked: HashMap<String, String>,
) {
    let Some(who) = who else { return refuse(socket, "Error: Not authenticated\r\n", POLICY).await };
    if !who.scopes.contains(&fleetcore::Scope::Run) {
        return refuse(socket, "Error: Not allowed\r\n", POLICY).await;
    }
    let Some(name) = asked.remove("vm_name").filter(|n| !n.is_empty()) else {
        return refuse(socket, "Error: VM name is required\r\n", NORMAL).await;
    };
    if checks::vm_name(&name).is_err() {
        return refuse(socket, "Error: Invalid VM name\r\n", POLICY).await;
    }
    let too_many = "Error: Too many terminals\r\n";
    let Ok(_of_user) = master.terminals_of.take(&who.name) else {
        return refuse(socket, too_many, POLICY).await;
    };
    let Ok(_of_all) = master.terminals.clone().try_acquire_owned() else {
        return refuse(socket, too_many, POLICY).await;
    };
    let over = Over { stop: master.app.stopping().clone(), login: Some(who.lease.ended()) };
    let Some(id) = asked.remove("agent_id").filter(|id| !id.is_empty()) else {
        master.note(&who.name, "batwa.terminal", &name, "ok");
        return local(&master.vms, socket, &who.name, &name, over).await;
    };
    let shown: String = id.chars().take(64).filter(|c| !c.is_control()).collect();
    let Some(agent) = master.agents.get(&id) else {
        return refuse(socket, &format!("Error: Agent '{shown}' not found\r\n"), NORMAL).await;
    };
    if agent.info.status != "online" {
        return refuse(socket, &format!("Error: Agent '{shown}' is offline\r\n"), NORMAL).await;
    }
    master.note(&who.name, "batwa.terminal", &format!("{id}/{name}"), "ok");
    remote(&agent, socket, &name, over).await;
}

/// What ends a terminal besides its two sides.
pub(super) struct Over {
    pub(super) stop: CancellationToken,
    pub(super) login: Option<BoxFuture<'static, ()>>,
}

impl Over {
    async fn over(self) -> u16 {
        let login = async {
            match self.login {
                Some(login) => login.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.stop.cancelled() => AWAY,
            () = login => POLICY,
        }
    }
}

/// Says why, and closes.
pub(super) async fn refuse(socket: WebSocket, text: &str, code: u16) {
    let (mut out, input) = socket.split();
    // The browser may be gone, and then there is nobody to tell.
    let _ = out.send(Message::Text(text.to_owned().into())).await;
    close(&mut out, input, code).await;
}

/// A real close: ours, then theirs, so that what was sent before is not lost to a reset.
async fn close(out: &mut Out, mut input: In, code: u16) {
    let frame = CloseFrame { code, reason: "".into() };
    let closing = async {
        if out.send(Message::Close(Some(frame))).await.is_ok() {
            while let Some(Ok(_)) = input.next().await {}
        }
    };
    // A browser that does not answer is cut off.
    let _ = tokio::time::timeout(CLOSE_LIMIT, closing).await;
}

/// When the browser was last heard.
struct Heard {
    since: Instant,
    at_ms: AtomicU64,
}

impl Heard {
    fn new() -> Self {
        Self { since: Instant::now(), at_ms: AtomicU64::new(0) }
    }
    fn now(&self) {
        self.at_ms
            .store(u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
    /// Resolves when the browser has been silent for too long: it does not even answer pings. Also while output for it
    /// is stuck.
    async fn gone(&self) -> u16 {
        loop {
            let at = Duration::from_millis(self.at_ms.load(Ordering::Relaxed));
            let left = SILENCE_MAX.saturating_sub(self.since.elapsed().saturating_sub(at));
            if left.is_zero() {
                return AWAY;
            }
            tokio::time::sleep(left).await;
        }
    }
}

fn pings() -> tokio::time::Interval {
    let mut every = tokio::time::interval_at(tokio::time::Instant::now() + PING_EVERY, PING_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    every
}

/// A shell in a machine of this host. `name` has been checked.
pub(super) async fn local(vms: &Vms, socket: WebSocket, actor: &str, name: &str, over: Over) {
    let (mut out, mut input) = socket.split();
    let heard = Heard::new();
    let first = match tokio::time::timeout(FIRST_SIZE, first_message(&mut input)).await {
        Ok(Some(first)) => first,
        Ok(None) => return,
        Err(_) => First { size: PtySize::default(), typed: None },
    };
    let running = match vms.terminal(actor, name, first.size).await {
        Ok(running) => running,
        Err(error) => {
            tracing::debug!(%error, "no terminal");
            let why = if error.kind() == ErrorKind::NotFound { map::NOT_INSTALLED } else { error.message() };
            let text = format!("\r\n[Connection Error] {why}\r\nMake sure the VM '{name}' is running.\r\n");
            // As in `refuse`.
            let _ = out.send(Message::Text(text.into())).await;
            return close(&mut out, input, FAILED).await;
        }
    };
    let command = running.handle();
    let code = tokio::select! {
        code = show(&command, &mut out) => code,
        () = take(&command, &mut input, &heard, first.typed) => None,
        code = heard.gone() => Some(code),
        code = over.over() => Some(code),
    };
    // The shell goes first: whoever hears of the close may look for it.
    drop(running);
    end(&mut out, input, code).await;
}

/// Closes, or answers the browser's own close.
async fn end(out: &mut Out, input: In, code: Option<u16>) {
    match code {
        Some(code) => close(out, input, code).await,
        // Fails when it did not say good-bye.
        None => drop(tokio::time::timeout(CLOSE_LIMIT, out.close()).await),
    }
}

struct First {
    size: PtySize,
    typed: Option<Bytes>,
}

/// The size of the window, or what was typed before there was one; `None` when the browser left.
async fn first_message(input: &mut In) -> Option<First> {
    loop {
        match meaning(input.next().await?.ok()?) {
            Meaning::Size(size) => return Some(First { size, typed: None }),
            Meaning::Keys(keys) => return Some(First { size: PtySize::default(), typed: Some(keys) }),
            Meaning::Nothing => {}
            Meaning::Bye => return None,
        }
    }
}

enum Meaning {
    Size(PtySize),
    Keys(Bytes),
    Nothing,
    Bye,
}

fn meaning(message: Message) -> Meaning {
    match message {
        Message::Text(text) => match map::typed(&text) {
            Typed::Resize(size) => Meaning::Size(size),
            Typed::Nothing => Meaning::Nothing,
            Typed::Keys => Meaning::Keys(text.into()),
        },
        Message::Binary(data) => Meaning::Keys(data),
        Message::Ping(_) | Message::Pong(_) => Meaning::Nothing,
        Message::Close(_) => Meaning::Bye,
    }
}

/// Output to the browser, until the shell ends or the browser is gone (`None`).
async fn show(command: &CommandHandle, out: &mut Out) -> Option<u16> {
    let mut events = command.stream(Offset(0));
    let mut ping = pings();
    loop {
        // In no fixed order: pings go out in a flood of output too.
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(CommandEvent::Output(chunk))) => send_output(out, chunk.data).await?,
                Some(Ok(CommandEvent::Exited(_))) => return Some(NORMAL),
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    tracing::warn!(%error, "a terminal broke off");
                    return Some(FAILED);
                }
                None => return Some(NORMAL),
            },
            _ = ping.tick() => out.send(Message::Ping(Bytes::new())).await.ok()?,
        }
    }
}

/// Sends a piece of output in frames, all of them in as few writes as possible.
async fn send_output(out: &mut Out, mut data: Bytes) -> Option<()> {
    while data.len() > FRAME_MAX {
        out.feed(Message::Binary(data.split_to(FRAME_MAX))).await.ok()?;
    }
    out.send(Message::Binary(data)).await.ok()
}

/// Input to the shell, until the browser is gone.
async fn take(command: &CommandHandle, input: &mut In, heard: &Heard, typed: Option<Bytes>) {
    let room = Arc::new(Semaphore::new(INPUT_MAX));
    let (queue, waiting) = mpsc::channel::<(Bytes, Option<OwnedSemaphorePermit>)>(INPUT_PIECES);
    let read = async {
        if let Some(typed) = typed {
            // Fails when the writer has ended, which ends this too.
            let _ = queue.send((typed, None)).await;
        }
        while let Some(Ok(message)) = input.next().await {
            heard.now();
            match meaning(message) {
                Meaning::Size(size) => {
                    // A shell that has just ended has no window.
                    let _ = command.resize(size).await;
                }
                Meaning::Keys(keys) => {
                    // One message may be larger than the queue; it then has it for itself.
                    let cost = u32::try_from((keys.len() + INPUT_COST).min(INPUT_MAX)).unwrap_or(u32::MAX);
                    let Ok(permit) = room.clone().acquire_many_owned(cost).await else { return };
                    if queue.send((keys, Some(permit))).await.is_err() {
                        return std::future::pending().await;
                    }
                }
                Meaning::Nothing => {}
                Meaning::Bye => return,
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = write(command, waiting) => {}
    }
}

/// Never ends: when the shell takes no more, its output tells that it has ended.
async fn write(command: &CommandHandle, mut waiting: mpsc::Receiver<(Bytes, Option<OwnedSemaphorePermit>)>) {
    while let Some((keys, _room)) = waiting.recv().await {
        if let Err(error) = command.write_stdin(keys).await {
            tracing::debug!(%error, "input is not taken any more");
        }
    }
    std::future::pending().await
}

type Agents = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

/// A terminal of an agent. `name` has been checked.
async fn remote(agent: &Agent, socket: WebSocket, name: &str, over: Over) {
    let theirs = match connect(agent, name).await {
        Ok(theirs) => theirs,
        Err(why) => {
            return refuse(socket, &format!("\r\n[Connection Error] {why}\r\n"), NORMAL).await;
        }
    };
    let (mut out, mut input) = socket.split();
    let (mut to_agent, mut from_agent) = theirs.split();
    let heard = Heard::new();
    let down = async {
        let mut ping = pings();
        loop {
            tokio::select! {
                message = from_agent.next() => match message {
                    Some(Ok(tungstenite::Message::Text(text))) => {
                        out.send(Message::Text(text.as_str().into())).await.ok()?;
                    }
                    Some(Ok(tungstenite::Message::Binary(data))) => out.send(Message::Binary(data)).await.ok()?,
                    Some(Ok(tungstenite::Message::Close(frame))) => {
                        return Some(frame.map_or(NORMAL, |f| sendable(f.code.into())));
                    }
                    Some(Ok(_)) => {}
                    // The Go agent drops the connection when the shell has ended.
                    None | Some(Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::Protocol(_))) => {
                        return Some(NORMAL);
                    }
                    Some(Err(error)) => {
                        tracing::debug!(%error, "an agent's terminal broke off");
                        return Some(FAILED);
                    }
                },
                _ = ping.tick() => out.send(Message::Ping(Bytes::new())).await.ok()?,
            }
        }
    };
    let up = async {
        while let Some(Ok(message)) = input.next().await {
            heard.now();
            let message = match message {
                Message::Text(text) => tungstenite::Message::Text(text.as_str().into()),
                // The Python agent does not survive binary input, so it is sent as text where it is text.
                Message::Binary(data) => match std::str::from_utf8(&data) {
                    Ok(text) => tungstenite::Message::Text(text.into()),
                    Err(_) => tungstenite::Message::Binary(data),
                },
                Message::Ping(_) | Message::Pong(_) => continue,
                Message::Close(_) => break,
            };
            if to_agent.send(message).await.is_err() {
                // The other direction knows why.
                return std::future::pending().await;
            }
        }
    };
    let code = tokio::select! {
        code = down => code,
        () = up => None,
        code = heard.gone() => Some(code),
        code = over.over() => Some(code),
    };
    // The agent ends its shell when it hears of this.
    let bye = async {
        let _ = to_agent.close().await;
    };
    let _ = tokio::time::timeout(CLOSE_LIMIT, async { tokio::join!(bye, end(&mut out, input, code)) }).await;
}

/// Codes that only stand for "no code" must not be sent.
fn sendable(code: u16) -> u16 {
    match code {
        1000..=1003 | 1007..=1014 | 3000..=4999 => code,
        _ => NORMAL,
    }
}

async fn connect(agent: &Agent, name: &str) -> Result<Agents, String> {
    let id = &agent.info.agent_id;
    let unreachable = || format!("Agent '{id}' is unreachable");
    // `http` becomes `ws`, `https` becomes `wss`.
    let rest = agent.info.api_url.strip_prefix("http").ok_or_else(unreachable)?;
    let url = format!("ws{rest}/ws?vm_name={}", utf8_percent_encode(name, SEGMENT));
    let mut request = url.into_client_request().map_err(|_| unreachable())?;
    if let Some(key) = &agent.key {
        let mut value = key.expose_secret().parse::<axum::http::HeaderValue>().map_err(|_| unreachable())?;
        value.set_sensitive(true);
        request.headers_mut().insert("x-api-key", value);
    }
    let config = tungstenite::protocol::WebSocketConfig::default()
        .max_message_size(Some(16 << 20))
        .max_frame_size(Some(16 << 20));
    let connecting = tokio_tungstenite::connect_async_with_config(request, Some(config), true);
    match tokio::time::timeout(CONNECT_LIMIT, connecting).await {
        Ok(Ok((theirs, _))) => Ok(theirs),
        Ok(Err(tungstenite::Error::Http(reply))) if reply.status().as_u16() == 403 => {
            Err(format!("Agent '{id}' refused the API key"))
        }
        Ok(Err(tungstenite::Error::Http(reply))) => {
            Err(format!("server rejected WebSocket connection: HTTP {}", reply.status().as_u16()))
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, agent = id, "no terminal");
            Err(unreachable())
        }
        Err(_) => Err(format!("Agent '{id}' did not answer in time")),
    }
}
