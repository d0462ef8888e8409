//! The server's view of what runs at an agent.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::{Arc, OnceLock, atomic::AtomicBool},
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use bytes::{BufMut as _, Bytes};
use fleetcore::{
    AgentId, Channel, CommandId, CommandSpec, EndReason, Error, ErrorKind, ExecCapabilities, Executor,
    ExitKind, ExitStatus, FileSystem, HostPort, Io, Offset, OpContext, PtySize, Result, Retry, Session,
    SessionSpec, Signal, Target,
    raw::{BoxConnection, ProcessControl, RawProcess},
};
use futures::{FutureExt as _, StreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWrite, DuplexStream},
    sync::{oneshot, watch},
    time::Instant,
};

use super::{
    exec::{Exec, FromAgent, Purpose, Request, SpecWire, malformed},
    mux::{Mux, MuxStream},
    protocol::ProviderInfo,
    session, tunnel,
};
use crate::client::{Client, LinkConnector, LinkIo};

/// How long starting a command waits for a link that broke meanwhile.
const SPAWN_PATIENCE: Duration = Duration::from_secs(30);
/// How long a signal or a new size may take to be answered.
const CONTROL_LIMIT: Duration = Duration::from_secs(10);
/// Bytes of input that may wait between the writer and the link, and again until the agent has taken them.
const STDIN_BUFFER: usize = 64 << 10;

/// How long taking up what an agent runs is waited for.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(10);

/// A link that is up.
#[derive(Clone, Debug)]
pub(super) struct Connected {
    pub(super) mux: Mux,
    pub(super) epoch: u64,
    pub(super) instance: Arc<str>,
}

/// What an agent said about itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) exec: ExecCapabilities,
    pub(super) providers: Vec<ProviderInfo>,
    pub(super) last_seen: Option<Timestamp>,
    pub(super) labels: fleetcore::Labels,
    pub(super) version: String,
    /// How far its clock was ahead of ours when it connected; what the message took on its way included.
    pub(super) ahead: SignedDuration,
}

/// One agent, here or away.
#[derive(Debug)]
pub(super) struct AgentState {
    pub(super) id: AgentId,
    /// The link while there is one.
    pub(super) link: watch::Sender<Option<Connected>>,
    pub(super) facts: Mutex<Facts>,
    /// One registration at a time. Holds the processes that have had this name, with the epoch each was given: one
    /// that never got to hear its epoch is told from a new one by this.
    pub(super) registering: tokio::sync::Mutex<VecDeque<(Arc<str>, u64)>>,
    /// Machines of its providers, as last heard.
    pub(super) machines: Mutex<Vec<fleetcore::TargetInfo>>,
    /// How long what runs there is waited for.
    pub(super) lost_after: Duration,
    pub(super) removed: AtomicBool,
    /// Epoch of the link on which all that was lost has been taken up.
    pub(super) caught_up: watch::Sender<u64>,
    /// Until when it may come back after this server was started.
    pub(super) expected_until: Mutex<Option<Instant>>,
    client: OnceLock<Client>,
}

impl AgentState {
    pub(super) fn new(id: AgentId, lost_after: Duration) -> Arc<Self> {
        Arc::new(Self {
            id,
            link: watch::channel(None).0,
            facts: Mutex::default(),
            registering: tokio::sync::Mutex::default(),
            machines: Mutex::default(),
            lost_after,
            removed: AtomicBool::new(false),
            caught_up: watch::channel(0).0,
            expected_until: Mutex::default(),
            client: OnceLock::new(),
        })
    }

    fn away(&self) -> Error {
        let seen = self.facts.lock().last_seen;
        Error::new(ErrorKind::Unavailable, "the agent is not connected")
            .with_operation("agent")
            .with_context("agent", &self.id)
            .with_context("last_seen", seen.map_or_else(|| "never".to_owned(), |t| t.to_string()))
            .with_retry(Retry::Temporary { after: None })
    }

    /// The link as of now.
    ///
    /// # Errors
    /// `Unavailable`, saying when the agent was last seen.
    pub(super) fn connected(&self) -> Result<Connected> {
        self.link.borrow().clone().ok_or_else(|| self.away())
    }

    /// Waits for the link, at most `limit`.
    pub(super) async fn connection(&self, limit: Duration) -> Result<Connected> {
        let mut link = self.link.subscribe();
        // One that has just broken may still be listed.
        let good = |link: &Option<Connected>| link.as_ref().is_some_and(|l| !l.mux.is_closed());
        let up = tokio::time::timeout(limit, link.wait_for(good)).await;
        match up {
            Ok(Ok(link)) => link.clone().ok_or_else(|| self.away()),
            _ => Err(self.away()),
        }
    }

    /// Waits for an agent that is expected, and for what it runs to be taken up.
    pub(super) async fn caught_up(&self) {
        let until = *self.expected_until.lock();
        let left = until.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
        let Ok(link) = self.connection(left).await else { return };
        let mut caught_up = self.caught_up.subscribe();
        // Fails when it takes too long; a link that breaks meanwhile is the reason as a rule.
        let _ = tokio::time::timeout(CATCH_UP_LIMIT, caught_up.wait_for(|epoch| *epoch >= link.epoch)).await;
    }

    /// Opens a stream on the link there is.
    pub(super) fn open(&self, purpose: &Purpose) -> Result<MuxStream> {
        self.connected()?.mux.open(purpose.encode()).map_err(|e| e.with_context("agent", &self.id))
    }

    /// A client of the agent's own HTTP API, on streams of the link.
    pub(super) fn client(self: &Arc<Self>) -> Result<&Client> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        // Weak: the agent holds the client.
        let agent = Arc::downgrade(self);
        let connector: LinkConnector = Arc::new(move || {
            let agent = agent.clone();
            async move {
                let agent = agent
                    .upgrade()
                    .ok_or_else(|| Error::new(ErrorKind::NotFound, "the agent was removed"))?;
                let stream = agent.open(&Purpose::Http { actor: None })?;
                let io: Box<dyn LinkIo> = Box::new(super::StreamIo::new(stream));
                Ok(io)
            }
            .boxed()
        });
        let client = Client::over_link(connector)?;
        Ok(self.client.get_or_init(|| client))
    }
}

/// Where the link ends and the agent's own grammar begins.
fn seen_from_there(target: &Target) -> Result<Target> {
    match (target.provider(), target.machine_id()) {
        (Some(scheme), Some(id)) => Target::machine(scheme, id.as_str()),
        _ => Ok(Target::local()),
    }
}

/// Runs commands on the host of an agent, or on a machine of one of its providers.
#[derive(Clone)]
pub(super) struct LinkExecutor {
    agent: Arc<AgentState>,
    target: Target,
}

impl fmt::Debug for LinkExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkExecutor").field("agent", &self.agent.id).field("target", &self.target).finish()
    }
}

impl LinkExecutor {
    pub(super) fn new(agent: Arc<AgentState>, target: &Target) -> Result<Self> {
        Ok(Self { agent, target: seen_from_there(target)? })
    }

    fn exec(&self, cx: &OpContext, id: CommandId, spec: Option<&CommandSpec>, from: u64) -> Exec {
        Exec {
            id,
            target: self.target.to_string(),
            actor: cx.actor.as_deref().map(str::to_owned),
            spec: spec.map(SpecWire::from),
            first: spec.is_some(),
            from,
        }
    }

    fn parts(&self, id: CommandId, stream: MuxStream, from: u64, stdin: Option<Option<u64>>) -> RawProcess {
        let verdict = Arc::new(OnceLock::new());
        let (exit_tx, exit) = oneshot::channel();
        let feed = Feed {
            agent: Arc::clone(&self.agent),
            exec: Exec { id, target: self.target.to_string(), actor: None, spec: None, first: false, from },
            stream: Some(stream),
            exit: Some(exit_tx),
            verdict: Arc::clone(&verdict),
        };
        let output =
            stream::unfold(feed, |mut feed| async move { feed.next().await.map(|item| (item, feed)) });
        let stdin = stdin.map(|from| {
            let (ours, theirs) = tokio::io::duplex(STDIN_BUFFER);
            tokio::spawn(pump_input(Arc::clone(&self.agent), id, theirs, from));
            Box::pin(LinkInput { pipe: ours, verdict: Arc::clone(&verdict) }) as _
        });
        let control = LinkControl { agent: Arc::clone(&self.agent), id, verdict, armed: true };
        let unseen = || Error::new(ErrorKind::Unavailable, "the end of the command was not waited for");
        let exit = exit.map(move |r| r.unwrap_or_else(|_| Err(unseen())));
        RawProcess {
            pid: None,
            output: output.boxed(),
            stdin,
            exit: exit.boxed(),
            control: Box::new(control),
        }
    }
}

/// First pause between two tries while the link is up.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
/// Longest pause.
const PAUSE_MOST: Duration = Duration::from_secs(2);

/// Tries one thing again and again: at once when the link comes back, with growing pauses while it is up.
struct Tries {
    give_up: Instant,
    tried: Option<u64>,
    pause: Duration,
}

impl Tries {
    fn until(give_up: Instant) -> Self {
        Self { give_up, tried: None, pause: PAUSE_FIRST }
    }

    /// Waits for the next try.
    async fn again(&mut self, agent: &AgentState) -> Result<()> {
        let left = || self.give_up.saturating_duration_since(Instant::now());
        let mut link = agent.connection(left()).await?;
        if self.tried == Some(link.epoch) {
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(PAUSE_MOST);
            link = agent.connection(self.give_up.saturating_duration_since(Instant::now())).await?;
        } else {
            self.pause = PAUSE_FIRST;
        }
        self.tried = Some(link.epoch);
        Ok(())
    }
}

/// Opens a stream about a command and hears whether there is one.
async fn converse(agent: &AgentState, exec: Exec) -> Result<MuxStream> {
    let stream = agent.open(&Purpose::Exec(Box::new(exec)))?;
    match stream.recv().await?.map(FromAgent::decode).transpose()? {
        Some(FromAgent::Started) => Ok(stream),
        Some(FromAgent::Refused(error)) => Err(Refused(error).into()),
        Some(_) => Err(malformed("an answer")),
        None => {
            Err(Error::new(ErrorKind::Unavailable, "the agent said nothing").with_context("agent", &agent.id))
        }
    }
}

/// An error of the agent itself, not of the way to it.
struct Refused(Error);

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        // Told apart by this key: the way may be mended, the refusal stands.
        refused.0.with_context("refused_by", "agent")
    }
}

/// Whether the other side never got it, or its answer never got here.
fn broke_on_the_way(error: &Error) -> bool {
    error.kind() == ErrorKind::Unavailable && error.context_value("refused_by").is_none()
}

/// Ends a command whose start was given up.
struct Abandon(Option<(Arc<AgentState>, CommandId)>);

impl Drop for Abandon {
    fn drop(&mut self) {
        if let Some((agent, id)) = self.0.take() {
            deliver_later(agent, id, Request::Kill);
        }
    }
}

#[async_trait]
impl Executor for LinkExecutor {
    fn capabilities(&self) -> ExecCapabilities {
        let known = self.agent.machines.lock().iter().find_map(|m| {
            let same = m.target.provider() == self.target.provider()
                && m.target.machine_id() == self.target.machine_id();
            if same { m.capabilities.clone() } else { None }
        });
        let mut can = known.unwrap_or_else(|| self.agent.facts.lock().exec.clone());
        // The agent sees to these, whatever is behind it.
        can.native_files = true;
        can.native_sessions = true;
        can.reattach = true;
        can
    }

    async fn ping(&self, cx: &OpContext) -> Result<()> {
        let client = self.agent.client()?;
        cx.guard("agent.ping", client.ping(&self.target)).await.map(drop)
    }

    async fn spawn(&self, cx: &OpContext, id: CommandId, spec: &CommandSpec) -> Result<RawProcess> {
        // Nothing new on an agent that is away; what breaks from here on is mended.
        self.agent.connected()?;
        let mut exec = self.exec(cx, id, Some(spec), 0);
        let mut abandon = Abandon(Some((Arc::clone(&self.agent), id)));
        let started = async {
            let mut tries = Tries::until(Instant::now() + SPAWN_PATIENCE);
            loop {
                // Sending it again is harmless: the agent knows the id.
                match converse(&self.agent, exec.clone()).await {
                    Err(e) if broke_on_the_way(&e) => {
                        exec.first = false;
                        tries.again(&self.agent).await.map_err(|_| e)?;
                    }
                    other => return other,
                }
            }
        };
        match cx.guard("agent.spawn", started).await {
            Ok(stream) => {
                abandon.0 = None;
                let stdin = !matches!(spec.io, Io::Pipes { stdin: false, .. });
                Ok(self.parts(id, stream, 0, stdin.then_some(Some(0))))
            }
            Err(e) => {
                if !broke_on_the_way(&e) && !matches!(e.kind(), ErrorKind::Timeout | ErrorKind::Cancelled) {
                    abandon.0 = None;
                }
                Err(e)
            }
        }
    }

    async fn reattach(&self, cx: &OpContext, id: CommandId, from: Offset) -> Result<RawProcess> {
        let exec = self.exec(cx, id, None, from.0);
        let stream = cx.guard("agent.reattach", converse(&self.agent, exec)).await?;
        // Where the agent is with the input, only the agent knows by now.
        Ok(self.parts(id, stream, from.0, Some(None)))
    }

    async fn open_session(&self, cx: &OpContext, spec: SessionSpec) -> Result<Arc<dyn Session>> {
        session::open(&self.agent, &self.target, cx, spec).await
    }

    fn files(&self) -> Result<Arc<dyn FileSystem>> {
        Ok(Arc::new(self.agent.client()?.files(&self.target)))
    }

    async fn connect(&self, cx: &OpContext, to: &HostPort) -> Result<BoxConnection> {
        tunnel::connect(&self.agent, &self.target, cx, to).await
    }
}

/// Output of one command, over as many connections as it takes.
struct Feed {
    agent: Arc<AgentState>,
    /// Without a spec: never starts anything. `from` is the next byte.
    exec: Exec,
    stream: Option<MuxStream>,
    exit: Option<oneshot::Sender<Result<ExitKind>>>,
    verdict: Arc<OnceLock<ExitStatus>>,
}

impl Feed {
    async fn next(&mut self) -> Option<Result<(Channel, Bytes)>> {
        loop {
            let Some(stream) = &self.stream else {
                match self.again().await {
                    Some(stream) => self.stream = Some(stream),
                    None => return None,
                }
                continue;
            };
            let message = match stream.recv().await {
                Ok(Some(message)) => message,
                // The link is down; an agent ends a stream only after the exit.
                Ok(None) | Err(_) => {
                    self.stream = None;
                    continue;
                }
            };
            match FromAgent::decode(message) {
                Ok(FromAgent::Output { offset, channel, mut data }) => {
                    let end = offset + data.len() as u64;
                    if end <= self.exec.from {
                        continue;
                    }
                    if offset > self.exec.from {
                        let gap = self.gap(offset);
                        // What was read here comes again after the gap.
                        self.stream = None;
                        return Some(Err(gap));
                    }
                    if let Ok(seen) = usize::try_from(self.exec.from - offset) {
                        data = data.split_off(seen);
                    }
                    self.exec.from = end;
                    return Some(Ok((channel, data)));
                }
                Ok(FromAgent::Gap { to, .. }) if to > self.exec.from => return Some(Err(self.gap(to))),
                Ok(FromAgent::Gap { .. }) => {}
                Ok(FromAgent::Exited(status)) => {
                    self.end(status);
                    return None;
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(command = %self.exec.id, %error, "an agent makes no sense");
                    self.stream = None;
                }
            }
        }
    }

    fn gap(&mut self, to: u64) -> Error {
        let from = std::mem::replace(&mut self.exec.from, to);
        Error::new(ErrorKind::DataLoss, "the agent no longer has part of the output")
            .with_context("from", from)
            .with_context("to", to)
    }

    fn end(&mut self, status: ExitStatus) {
        let _ = self.verdict.set(status);
        self.stream = None;
        if let Some(exit) = self.exit.take() {
            let _ = exit.send(Ok(status.kind));
        }
    }

    /// The stream on the next connection; `None` once the command is given up.
    async fn again(&mut self) -> Option<MuxStream> {
        self.exit.as_ref()?;
        let mut tries = Tries::until(Instant::now() + self.agent.lost_after);
        loop {
            if tries.again(&self.agent).await.is_err() {
                let lost = ExitStatus::new(ExitKind::Unknown).with_reason(Some(EndReason::LeaseExpired));
                self.end(lost);
                return None;
            }
            match converse(&self.agent, self.exec.clone()).await {
                Ok(stream) => return Some(stream),
                Err(e) if broke_on_the_way(&e) => {}
                Err(e) => {
                    tracing::warn!(command = %self.exec.id, agent = %self.agent.id, error = %e, "the agent has lost a command");
                    self.end(ExitStatus::new(ExitKind::Unknown));
                    return None;
                }
            }
        }
    }
}

struct LinkControl {
    agent: Arc<AgentState>,
    id: CommandId,
    verdict: Arc<OnceLock<ExitStatus>>,
    armed: bool,
}

impl fmt::Debug for LinkControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkControl")
            .field("agent", &self.agent.id)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Asks for something and hears how it went.
async fn request(agent: &AgentState, id: CommandId, request: Request) -> Result<()> {
    let asked = async {
        let stream = agent.open(&Purpose::Control { id, request })?;
        match stream.recv().await?.map(FromAgent::decode).transpose()? {
            Some(FromAgent::Answer(None)) => Ok(()),
            Some(FromAgent::Answer(Some(error))) => Err(Refused(error).into()),
            _ => Err(malformed("an answer")),
        }
    };
    let late =
        |_| Error::new(ErrorKind::Timeout, "the agent did not answer").with_context("agent", &agent.id);
    tokio::time::timeout(CONTROL_LIMIT, asked).await.map_err(late)?
}

/// Sees to it that the agent hears this, however long it is away.
fn deliver_later(agent: Arc<AgentState>, id: CommandId, what: Request) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    runtime.spawn(async move {
        let mut tries = Tries::until(Instant::now() + agent.lost_after);
        loop {
            if tries.again(&agent).await.is_err() {
                tracing::warn!(command = %id, agent = %agent.id, ?what, "the agent did not come back to be told");
                return;
            }
            match request(&agent, id, what).await {
                Err(e) if broke_on_the_way(&e) || e.kind() == ErrorKind::Timeout => {}
                // A tree that is gone is not an error.
                _ => return,
            }
        }
    });
}

#[async_trait]
impl ProcessControl for LinkControl {
    async fn signal(&self, signal: Signal) -> Result<()> {
        let what = Request::Signal(signal);
        match request(&self.agent, self.id, what).await {
            Err(e) if broke_on_the_way(&e) && what.keeps() => {
                deliver_later(Arc::clone(&self.agent), self.id, what);
                Ok(())
            }
            Err(e) if matches!(e.kind(), ErrorKind::InvalidState | ErrorKind::NotFound) => Ok(()),
            other => other,
        }
    }

    async fn resize(&self, size: PtySize) -> Result<()> {
        request(&self.agent, self.id, Request::Resize(size)).await
    }

    fn disarm(&mut self) {
        self.armed = false;
    }

    async fn end(&self, _polite: Signal, _grace: Duration) -> Result<bool> {
        // The agent knows both from the spec.
        if self.verdict.get().is_none() {
            deliver_later(Arc::clone(&self.agent), self.id, Request::End);
        }
        Ok(true)
    }

    fn verdict(&self) -> Option<ExitStatus> {
        self.verdict.get().copied()
    }
}

impl Drop for LinkControl {
    fn drop(&mut self) {
        if self.armed && self.verdict.get().is_none() {
            deliver_later(Arc::clone(&self.agent), self.id, Request::Kill);
        }
    }
}

/// Our end of a command's input: closed once the command has ended, as a pipe is.
struct LinkInput {
    pipe: DuplexStream,
    verdict: Arc<OnceLock<ExitStatus>>,
}

impl AsyncWrite for LinkInput {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        if self.verdict.get().is_some() {
            return Poll::Ready(Err(std::io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.pipe).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

/// Carries input to a command: each byte once, in order, over as many connections as it takes. `from` is what the agent
/// has taken already; `None` asks.
async fn pump_input(agent: Arc<AgentState>, id: CommandId, mut source: DuplexStream, from: Option<u64>) {
    let mut input = Input { pending: Vec::new(), taken: from, eof: false };
    // Nothing is opened for a command nobody types into.
    if input.fill(&mut source).await.is_err() {
        return;
    }
    let mut tries = Tries::until(Instant::now() + agent.lost_after);
    while tries.again(&agent).await.is_ok() {
        let Ok(stream) = agent.open(&Purpose::Stdin { id, from: input.taken }) else { continue };
        let before = input.taken;
        if let Carried::Done = input.carry(&stream, &mut source).await {
            return;
        }
        if input.taken != before {
            tries = Tries::until(Instant::now() + agent.lost_after);
        }
    }
}

struct Input {
    /// Sent or not, but not yet taken by the agent; the first byte has offset `taken`.
    pending: Vec<u8>,
    taken: Option<u64>,
    eof: bool,
}

enum Carried {
    /// All input was taken, or nobody wants it.
    Done,
    Broke,
}

impl Input {
    async fn fill(&mut self, source: &mut DuplexStream) -> std::io::Result<()> {
        let room = STDIN_BUFFER.saturating_sub(self.pending.len());
        self.pending.reserve(room);
        // Cancel-safe: what was read is in the buffer.
        let n = source.read_buf(&mut (&mut self.pending).limit(room)).await?;
        self.eof = n == 0;
        Ok(())
    }

    async fn carry(&mut self, stream: &MuxStream, source: &mut DuplexStream) -> Carried {
        // The agent says first where it is.
        let mut sent = match stream.recv().await.map(|m| m.map(FromAgent::decode)) {
            Ok(Some(Ok(FromAgent::StdinTaken(at)))) => {
                if !self.advance(at) {
                    return Carried::Done;
                }
                0
            }
            Ok(Some(Ok(_))) | Ok(Some(Err(_))) => return Carried::Done,
            Ok(None) | Err(_) => return Carried::Broke,
        };
        let mut ended = false;
        loop {
            if sent < self.pending.len() {
                let part = self.pending.get(sent..).unwrap_or_default();
                let n = part.len();
                if stream.send(part.into()).await.is_err() {
                    return Carried::Broke;
                }
                sent += n;
            }
            if self.eof && !ended {
                stream.end();
                ended = true;
            }
            let room = !self.eof && self.pending.len() < STDIN_BUFFER;
            tokio::select! {
                message = stream.recv() => match message.map(|m| m.map(FromAgent::decode)) {
                    Ok(Some(Ok(FromAgent::StdinTaken(at)))) => {
                        let before = self.pending.len();
                        if !self.advance(at) {
                            return Carried::Done;
                        }
                        sent = sent.saturating_sub(before - self.pending.len());
                    }
                    // Also the end: the agent has it all, or the command no longer reads.
                    Ok(_) => return Carried::Done,
                    Err(_) => return Carried::Broke,
                },
                filled = self.fill(source), if room => if filled.is_err() { return Carried::Done },
            }
        }
    }

    /// Forgets what the agent has; `false` when that cannot be.
    fn advance(&mut self, at: u64) -> bool {
        let known = *self.taken.get_or_insert(at);
        let Some(n) = at.checked_sub(known).and_then(|n| usize::try_from(n).ok()) else { return true };
        if n > self.pending.len() {
            return false;
        }
        self.pending.drain(..n);
        self.taken = Some(at);
        true
    }
}
