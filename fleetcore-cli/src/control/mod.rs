//! One face for both ways to work: in this process, or on a server.

mod files;
mod local;
mod machines;
mod remote;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use fleetcore::{
    BoxConnection, ByteStream, CommandEvent, CommandId, CommandSpec, Error, ErrorKind, HostPort, Offset,
    PtySize, Result, SessionId, Signal, Target,
};
use fleetcore_http::client::{
    AttachEvent,
    wire::{self, Command, CommandQuery, Page, Session},
};
use futures::stream::BoxStream;

pub(crate) use files::FileEnd;
pub(crate) use machines::{Done, MachineControl};

use crate::config::{Place, Settings};

/// Who ends a command when we leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ownership {
    /// We wait for it.
    Wait,
    /// Nobody waits: the server keeps it.
    Detached,
}

/// A command or session we watch and feed.
pub(crate) struct Running {
    /// Its events; `Exited` is the last one.
    pub(crate) events: BoxStream<'static, Result<AttachEvent>>,
    pub(crate) input: Arc<dyn Input>,
}

/// What can be done to a running command or session.
#[async_trait]
pub(crate) trait Input: Send + Sync {
    /// Keys, as typed.
    async fn write(&self, data: Bytes) -> Result<()>;
    /// Everything from `data`, then the end of input.
    async fn pipe(&self, data: ByteStream) -> Result<()>;
    /// Our terminal has a new size.
    async fn resize(&self, size: PtySize) -> Result<()>;
    /// Sends a signal.
    async fn signal(&self, signal: Signal) -> Result<()>;
    /// Ends it: polite signal, grace, KILL.
    async fn cancel(&self) -> Result<()>;
}

/// How to open or join a session.
#[derive(Clone, Debug)]
pub(crate) struct SessionRequest {
    pub(crate) id: SessionId,
    pub(crate) target: Target,
    pub(crate) size: PtySize,
    pub(crate) cwd: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) env: Vec<(String, String)>,
}

/// Both ways to work. Every method fails with the same kinds of errors whichever it is.
#[async_trait]
pub(crate) trait Control: MachineControl {
    /// All targets.
    async fn targets(&self) -> Result<Vec<wire::Target>>;
    /// Starts a command. A server knows it as `id`; the result tells its id in any case.
    async fn spawn(
        &self,
        id: CommandId,
        target: &Target,
        spec: CommandSpec,
        ownership: Ownership,
    ) -> Result<(CommandId, Running)>;
    /// Watches and feeds a command that runs.
    async fn attach(&self, id: CommandId, from: Offset, input: bool) -> Result<Running>;
    /// One page of commands, newest first.
    async fn commands(&self, query: &CommandQuery) -> Result<Page<Command>>;
    /// One command.
    async fn command(&self, id: CommandId) -> Result<Command>;
    /// Output, live until the end; with `times`, chunks carry the time they were read.
    async fn output(
        &self,
        id: CommandId,
        from: Offset,
        times: bool,
    ) -> Result<BoxStream<'static, Result<CommandEvent>>>;
    /// Signals a command.
    async fn signal(&self, id: CommandId, signal: Signal) -> Result<()>;
    /// Ends a command.
    async fn cancel(&self, id: CommandId) -> Result<()>;
    /// Sessions, all or on one target.
    async fn sessions(&self, target: Option<&Target>) -> Result<Vec<Session>>;
    /// Opens a session, unless there is one of that name.
    async fn ensure_session(&self, request: &SessionRequest) -> Result<Session>;
    /// Watches and feeds a session.
    async fn attach_session(&self, id: &SessionId, from: Offset, input: bool) -> Result<Running>;
    /// Ends a session.
    async fn close_session(&self, id: &SessionId) -> Result<()>;
    /// Files of a target.
    async fn files(&self, target: &Target) -> Result<FileEnd>;
    /// Whether connections can be made through a target, as far as can be told without making one.
    async fn can_connect(&self, target: &Target) -> Result<()>;
    /// Connects to an address as seen from a target.
    async fn connect(&self, target: &Target, to: &HostPort) -> Result<BoxConnection>;
    /// Whether this is a server, which keeps what is left to it.
    fn is_server(&self) -> bool;
    /// Ends what this process still owns.
    async fn close(&self);
}

/// The way to work that the settings ask for.
///
/// # Errors
/// Those of the settings.
pub(crate) async fn open(settings: &Settings) -> Result<Box<dyn Control>> {
    Ok(match settings.place()? {
        Place::Here => Box::new(local::LocalControl::open(settings).await?),
        Place::Server(client) => Box::new(remote::RemoteControl::new(client)),
    })
}

/// As [`open`], but leaves the data directory to others: for what runs long and is not recorded.
///
/// # Errors
/// Those of the settings.
pub(crate) async fn open_unrecorded(settings: &Settings) -> Result<Box<dyn Control>> {
    Ok(match settings.place()? {
        Place::Here => Box::new(local::LocalControl::unrecorded(settings)?),
        Place::Server(client) => Box::new(remote::RemoteControl::new(client)),
    })
}

/// Says that only a server can do this.
fn needs_server(what: &'static str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{what} needs a server"))
        .with_context("hint", "start one with `fleetcore serve`, or name one with --server")
}

/// What a short id can mean: a command, or a session by its name.
#[derive(Clone, Debug)]
pub(crate) enum Named {
    Command(CommandId),
    Session(SessionId),
}

/// Shortest end of an id that is looked up.
const SHORT_ID_MIN: usize = 4;

/// Finds a command by its id or a unique end of it.
///
/// # Errors
/// `NotFound`; `InvalidInput` when several commands end so.
pub(crate) async fn find_command(control: &dyn Control, text: &str) -> Result<CommandId> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let hex = text.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    if !hex || text.len() < SHORT_ID_MIN {
        return Err(Error::new(ErrorKind::InvalidInput, "command id is not valid")
            .with_context("field", "id")
            .with_context("rule", "a UUID, or at least the last 4 characters of one")
            .with_context("value", text.escape_debug()));
    }
    let lower = text.to_ascii_lowercase();
    let query = CommandQuery { limit: Some(1000), ..CommandQuery::default() };
    let page = control.commands(&query).await?;
    let mut found = page.items.iter().filter(|c| c.id.ends_with(&lower));
    match (found.next(), found.next()) {
        (Some(one), None) => one.id.parse(),
        (None, _) => Err(Error::new(ErrorKind::NotFound, "no such command").with_context("command", text)),
        (Some(_), Some(_)) => {
            Err(Error::new(ErrorKind::InvalidInput, "several commands have an id that ends so")
                .with_context("field", "id")
                .with_context("rule", "more characters of the id"))
        }
    }
}

/// Finds a command or session.
///
/// # Errors
/// `NotFound`; `InvalidInput` when several commands end so.
pub(crate) async fn find_any(control: &dyn Control, text: &str) -> Result<Named> {
    let by_id = text.parse::<CommandId>();
    if let Ok(id) = by_id {
        return Ok(Named::Command(id));
    }
    let id: SessionId = text.parse()?;
    if control.is_server() && control.sessions(None).await?.iter().any(|s| s.id == id.as_str()) {
        return Ok(Named::Session(id));
    }
    match find_command(control, text).await {
        Ok(id) => Ok(Named::Command(id)),
        Err(e) if e.context_value("value").is_some() => {
            Err(Error::new(ErrorKind::NotFound, "no such session or command").with_context("id", text))
        }
        Err(e) => Err(e),
    }
}
