//! Sessions that live at an agent: its own, driven through its HTTP API, so they outlive the link and this server.

use std::{fmt, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use fleetcore::{
    CommandEvent, CommandStream, Error, ErrorKind, ExitKind, ExitStatus, Fleet, Key, Offset, OnDrop,
    OpContext, PtySize, Rendered, Result, Screen, Session, SessionId, SessionInfo, SessionSpec, Target, Turn,
    WaitPolicy, session::render_text,
};
use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::remote::AgentState;
use crate::client::{
    AttachEvent, AttachInput, AttachOptions, AttachOutput, Client,
    wire::{self, NewSession, SessionWait},
};

/// Text of a turn that is asked for at most; the API's own limit.
const TURN_TEXT_MAX: usize = 16 << 20;

/// One session of an agent.
pub(super) struct LinkSession {
    id: SessionId,
    client: Client,
    shared: Arc<Shared>,
    input: AttachInput,
    on_drop: OnDrop,
    /// Ends the task that watches.
    _watching: DropGuard,
}

struct Shared {
    info: Mutex<SessionInfo>,
    ended: watch::Sender<Option<ExitStatus>>,
    /// Text of the last turn, which is asked for right after it as a rule.
    text: Mutex<Option<(Range<Offset>, String)>>,
}

impl fmt::Debug for LinkSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkSession").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Opens a session on `target`, as the agent sees it.
pub(super) async fn open(
    agent: &Arc<AgentState>,
    target: &Target,
    cx: &OpContext,
    spec: SessionSpec,
) -> Result<Arc<dyn Session>> {
    agent.connected()?;
    let client = agent.client()?.clone();
    let new = NewSession::from_spec(target, &spec)?;
    let mut info = SessionInfo::new(&spec, vec![]);
    let opened = cx.guard("agent.open_session", client.open_session(&new)).await?;
    // Opened now by our clock, whatever theirs says.
    update(&mut info, &opened);
    let session = cx.guard("agent.open_session", LinkSession::watch(client, info, spec.on_drop)).await?;
    for line in &spec.startup {
        cx.guard("agent.open_session", session.run(line, WaitPolicy::forever())).await?;
    }
    Ok(Arc::new(session))
}

/// Lists the sessions of an agent that has come back in the fleet.
pub(super) async fn adopt_all(fleet: &Fleet, agent: &Arc<AgentState>) -> Result<()> {
    let client = agent.client()?;
    for there in client.sessions(None).await? {
        if there.ended.is_some() {
            continue;
        }
        let adopted = adopt(fleet, agent, client, &there);
        if let Err(error) = adopted.await {
            tracing::warn!(agent = %agent.id, session = there.id, %error, "a session of the agent is left alone");
        }
    }
    Ok(())
}

async fn adopt(fleet: &Fleet, agent: &AgentState, client: &Client, there: &wire::Session) -> Result<()> {
    let target: Target = there.target.parse()?;
    let target = target.via(agent.id.clone());
    let id = SessionId::new(&there.id)?;
    if fleet.sessions().target(&id).is_ok_and(|known| known == target) {
        return Ok(());
    }
    let mut info = SessionInfo::new(&SessionSpec::new(id), vec![]);
    update(&mut info, there);
    let (ahead, now) = (agent.facts.lock().ahead, Timestamp::now());
    info.created_at = by_our_clock(there.created_at, ahead, now);
    info.active_at = by_our_clock(there.active_at, ahead, now);
    let session = LinkSession::watch(client.clone(), info, OnDrop::Detach).await?;
    fleet.sessions().adopt(&target, Arc::new(session))
}

/// Clocks that differ by less are taken to be right: a message is under way for a moment, too.
const CLOCKS_AGREE: SignedDuration = SignedDuration::from_secs(5);

/// A time of an agent whose clock is `ahead` of ours, by ours. Nothing has happened later than now.
fn by_our_clock(theirs: Timestamp, ahead: SignedDuration, now: Timestamp) -> Timestamp {
    let ahead = if ahead.abs() < CLOCKS_AGREE { SignedDuration::ZERO } else { ahead };
    theirs.checked_sub(ahead).unwrap_or(now).min(now)
}

/// Takes over what the agent says about a session, but for times.
fn update(info: &mut SessionInfo, there: &wire::Session) {
    info.shell = there.shell.clone();
    info.cwd = there.cwd.clone();
    info.size = PtySize { cols: there.cols, rows: there.rows };
    info.busy = there.busy;
    info.turns = there.turns;
    info.output_end = info.output_end.max(Offset(there.output_bytes));
    info.labels = there.labels.clone();
}

impl LinkSession {
    async fn watch(client: Client, info: SessionInfo, on_drop: OnDrop) -> Result<Self> {
        let id = info.id.clone();
        // One connection for input and for what there is to know; terminals have connections of their own.
        let options = AttachOptions::default().with_from(Some(info.output_end));
        let attached = client.attach_session(&id, options).await?;
        let shared = Arc::new(Shared {
            info: Mutex::new(info),
            ended: watch::channel(None).0,
            text: Mutex::default(),
        });
        let watching = CancellationToken::new();
        let task = follow(Arc::clone(&shared), attached.output);
        let stopped = watching.clone();
        tokio::spawn(async move { stopped.run_until_cancelled(task).await });
        Ok(Self { id, client, shared, input: attached.input, on_drop, _watching: watching.drop_guard() })
    }

    fn turn(&self, turn: wire::Turn) -> Result<Turn> {
        let output = Offset(turn.from)..Offset(turn.to);
        let status = fleetcore::TurnStatus::from(&turn);
        {
            let mut info = self.shared.info.lock();
            info.turns = info.turns.max(turn.seq);
            info.busy = matches!(status, fleetcore::TurnStatus::Running(_));
            info.cwd = turn.cwd.clone().or(info.cwd.take());
            info.output_end = info.output_end.max(output.end);
            info.active_at = Timestamp::now();
        }
        let (seq, cwd) = (turn.seq, turn.cwd);
        *self.shared.text.lock() = (!turn.truncated).then(|| (output.clone(), turn.output));
        Ok(Turn::new(seq, output, status, cwd))
    }

    fn wait(policy: &WaitPolicy) -> SessionWait {
        let mut wait = SessionWait::from(policy);
        wait.output_bytes = Some(TURN_TEXT_MAX);
        wait
    }
}

/// Keeps what is known of a session up to date, until it ends.
async fn follow(shared: Arc<Shared>, mut output: AttachOutput) {
    while let Some(event) = output.next().await {
        let mut info = shared.info.lock();
        match event {
            Ok(AttachEvent::Command(CommandEvent::Output(chunk))) => {
                info.output_end = info.output_end.max(chunk.end());
                info.active_at = Timestamp::now();
            }
            Ok(AttachEvent::Command(CommandEvent::Exited(status))) => {
                info.ended = Some(status);
                info.busy = false;
                shared.ended.send_replace(Some(status));
                return;
            }
            Ok(AttachEvent::Session(state)) => {
                info.cwd = state.cwd.or(info.cwd.take());
                info.busy = state.busy.unwrap_or(info.busy);
                info.size = state.size.unwrap_or(info.size);
            }
            Ok(_) => {}
            Err(error) => {
                tracing::info!(session = %info.id, %error, "a session at an agent is gone");
                break;
            }
        }
    }
    let gone = ExitStatus::new(ExitKind::Unknown);
    shared.info.lock().ended.get_or_insert(gone);
    shared.ended.send_if_modified(|e| {
        e.get_or_insert(gone);
        true
    });
}

#[async_trait]
impl Session for LinkSession {
    fn id(&self) -> &SessionId {
        &self.id
    }

    fn info(&self) -> SessionInfo {
        self.shared.info.lock().clone()
    }

    async fn run(&self, command: &str, wait: WaitPolicy) -> Result<Turn> {
        self.turn(self.client.session_run(&self.id, command, &Self::wait(&wait)).await?)
    }

    async fn resume(&self, wait: WaitPolicy) -> Result<Turn> {
        self.turn(self.client.session_resume(&self.id, &Self::wait(&wait)).await?)
    }

    async fn send_keys(&self, keys: &[Key]) -> Result<()> {
        self.client.session_keys(&self.id, keys).await
    }

    async fn write(&self, data: Bytes) -> Result<()> {
        if self.shared.ended.borrow().is_some() {
            return Err(Error::new(ErrorKind::InvalidState, "the session has ended")
                .with_context("session", &self.id));
        }
        self.input.write(&data).await
    }

    async fn interrupt(&self, wait: WaitPolicy) -> Result<Turn> {
        self.turn(self.client.session_interrupt(&self.id, &Self::wait(&wait)).await?)
    }

    async fn resize(&self, size: PtySize) -> Result<()> {
        self.client.session_resize(&self.id, size).await?;
        self.shared.info.lock().size = size;
        Ok(())
    }

    async fn stream(&self, from: Offset) -> Result<Box<dyn CommandStream>> {
        Ok(Box::new(self.client.session_output(&self.id, from).await?))
    }

    async fn text(&self, range: Range<Offset>) -> Result<String> {
        if let Some((known, text)) = &*self.shared.text.lock()
            && *known == range
        {
            return Ok(text.clone());
        }
        self.client.session_text(&self.id, range).await
    }

    async fn rendered(&self, turn: &Turn) -> Result<Rendered> {
        let text = self.text(turn.output.clone()).await?;
        let (size, at) = (self.info().size, turn.output.end);
        // It may take a screen, and that its time.
        let shown = tokio::task::spawn_blocking(move || render_text(&text, size, at)).await;
        shown.map_err(|e| Error::new(ErrorKind::Unavailable, "the server is shutting down").with_source(e))
    }

    async fn screen(&self) -> Result<Screen> {
        self.client.session_screen(&self.id, true).await.map(Screen::from)
    }

    async fn ended(&self) -> Result<ExitStatus> {
        let mut ended = self.shared.ended.subscribe();
        let seen = ended.wait_for(Option::is_some).await.ok().and_then(|status| *status);
        seen.ok_or_else(|| Error::new(ErrorKind::Unavailable, "the session is not watched any more"))
    }

    async fn close(&self) -> Result<ExitStatus> {
        match self.client.close_session(&self.id).await {
            Ok(last) => {
                let status = last.ended.as_ref().map_or(ExitStatus::new(ExitKind::Unknown), ExitStatus::from);
                self.shared.info.lock().ended.get_or_insert(status);
                Ok(status)
            }
            // Gone already.
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let ended = *self.shared.ended.borrow();
                ended.ok_or(e)
            }
            Err(e) => Err(e),
        }
    }
}

impl Drop for LinkSession {
    fn drop(&mut self) {
        if self.on_drop == OnDrop::Detach || self.shared.ended.borrow().is_some() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (client, id) = (self.client.clone(), self.id.clone());
            runtime.spawn(async move { client.close_session(&id).await });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_a_wrong_clock_are_put_right() {
        let now = Timestamp::now();
        let seconds = SignedDuration::from_secs;
        let ago = |s| now.checked_sub(seconds(s)).unwrap();
        for days in [-10, 10] {
            let ahead = seconds(days * 86_400);
            let theirs = ago(60).checked_add(ahead).unwrap();
            assert_eq!(by_our_clock(theirs, ahead, now), ago(60), "{days} days");
        }
        // A little is the way of the message; a clock that was put right meanwhile may say anything.
        assert_eq!(by_our_clock(ago(60), seconds(-1), now), ago(60));
        assert_eq!(by_our_clock(ago(-3600), seconds(0), now), now);
        assert_eq!(by_our_clock(Timestamp::MIN, seconds(i64::MAX), now), now);
    }
}
