//! Work in this process.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use bytes::Bytes;
use fleetcore::{
    BoxConnection, ByteStream, CommandEvent, CommandFilter, CommandHandle, CommandId, CommandSpec,
    CommandStore, Error, ErrorKind, Executor, Fleet, FleetBuilder, HostPort, Offset, OnDrop, OpContext,
    PtySize, Result, SessionId, Signal, Target,
    backends::local::{Local, LocalConfig},
    store::sqlite::{SqliteConfig, SqliteStore},
};
use fleetcore_http::client::{
    AttachEvent,
    wire::{self, Command, CommandQuery, Page, Session},
};
use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};

use super::{Control, FileEnd, Input, Ownership, Running, SessionRequest, needs_server};
use crate::{config::Settings, error::note, providers};

pub(super) struct LocalControl {
    pub(super) fleet: Fleet,
    /// Commands of a fan-out that nobody has looked at yet.
    pub(super) children: Children,
    stored: bool,
}

/// Commands by id.
pub(super) type Children = Arc<Mutex<HashMap<CommandId, CommandHandle>>>;

impl LocalControl {
    fn builder(settings: &Settings) -> Result<FleetBuilder> {
        let host: Arc<dyn Executor> = Arc::new(Local::new(LocalConfig::default()));
        let fleet = Fleet::builder().with_host(host);
        providers::add(fleet, settings, &settings.data_dir, |said| {
            if settings.verbose > 0 {
                note(settings.quiet, said);
            }
        })
    }

    /// A fleet of this host that keeps no records.
    pub(super) fn unrecorded(settings: &Settings) -> Result<Self> {
        let fleet = Self::builder(settings)?.build();
        Ok(Self { fleet, children: Children::default(), stored: false })
    }

    /// A fleet of this host. Records go to the data directory when nobody else has it.
    pub(super) async fn open(settings: &Settings) -> Result<Self> {
        let builder = Self::builder(settings)?;
        let store = match SqliteStore::open(SqliteConfig::new(&settings.data_dir)) {
            Ok(store) => {
                // We alone have the directory, so whatever is said to run has lost its process.
                store.mark_lost("the program that ran it ended before it did").await?;
                Some(Arc::new(store))
            }
            Err(e) if e.kind() == ErrorKind::Busy => {
                if settings.verbose > 0 {
                    note(settings.quiet, "the data directory is in use: this command is not recorded");
                }
                None
            }
            // Running a command must not depend on a place to write it down, but the reader should know.
            Err(e) => {
                note(settings.quiet, &format!("commands are not recorded: {}", e.message()));
                None
            }
        };
        let stored = store.is_some();
        let builder = match store {
            Some(store) => builder.with_store(store as Arc<dyn CommandStore>),
            None => builder,
        };
        Ok(Self { fleet: builder.build(), children: Children::default(), stored })
    }

    pub(super) fn running(&self, handle: CommandHandle, from: Offset) -> Running {
        let events = handle.stream(from).map_ok(AttachEvent::Command).boxed();
        Running { events, input: Arc::new(HandleInput(handle)) }
    }

    /// Records live in the data directory; when another process has it, an empty answer would be a lie.
    fn need_store(&self, what: &'static str) -> Result<()> {
        if self.stored {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Busy,
            format!("{what} cannot be read: a server or another command has the data directory"),
        )
        .with_context("hint", "name the server with --server, or try again"))
    }

    fn handle(&self, id: CommandId) -> Result<CommandHandle> {
        self.fleet.commands().handle(id).ok_or_else(|| needs_server("a command of another process"))
    }
}

#[async_trait]
impl Control for LocalControl {
    async fn targets(&self) -> Result<Vec<wire::Target>> {
        let all = self.fleet.targets(&OpContext::default()).await?;
        Ok(all
            .iter()
            .map(|t| wire::Target::from_machine(&t.target, &t.provider, &t.info, t.capabilities.clone()))
            .collect())
    }

    async fn spawn(
        &self,
        _id: CommandId,
        target: &Target,
        spec: CommandSpec,
        ownership: Ownership,
    ) -> Result<(CommandId, Running)> {
        if ownership == Ownership::Detached {
            return Err(needs_server("--detach"));
        }
        // Closing the fleet ends it; the handle alone must not.
        let spec = spec.with_on_drop(OnDrop::Detach);
        let handle = self.fleet.target(target)?.spawn(spec).await?.detach();
        Ok((handle.id(), self.running(handle, Offset(0))))
    }

    async fn attach(&self, id: CommandId, from: Offset, _input: bool) -> Result<Running> {
        let handle = self.handle(id)?;
        Ok(self.running(handle, from))
    }

    async fn commands(&self, query: &CommandQuery) -> Result<Page<Command>> {
        self.need_store("the list of commands")?;
        let mut filter = CommandFilter::default();
        filter.target = query.target.as_deref().map(str::parse).transpose()?;
        filter.states = query.states.clone();
        filter.labels = query.labels.clone();
        filter.search = query.search.clone();
        filter.since = query.since;
        filter.before = query.before.as_deref().map(str::parse).transpose()?;
        filter.limit = query.limit;
        let records = self.fleet.commands().list(filter).await?;
        Ok(Page { items: records.iter().map(Command::from).collect(), next: None })
    }

    async fn command(&self, id: CommandId) -> Result<Command> {
        self.need_store("the command")?;
        self.fleet.commands().get(id).await.map(|r| Command::from(&r))
    }

    async fn output(
        &self,
        id: CommandId,
        from: Offset,
        _times: bool,
    ) -> Result<BoxStream<'static, Result<CommandEvent>>> {
        self.need_store("the output")?;
        Ok(self.fleet.commands().stream(id, from).await?.boxed())
    }

    async fn signal(&self, id: CommandId, signal: Signal) -> Result<()> {
        self.handle(id)?.signal(signal).await
    }

    async fn cancel(&self, id: CommandId) -> Result<()> {
        self.handle(id)?.cancel();
        Ok(())
    }

    async fn sessions(&self, _target: Option<&Target>) -> Result<Vec<Session>> {
        Err(needs_server("a session"))
    }

    async fn ensure_session(&self, _request: &SessionRequest) -> Result<Session> {
        Err(needs_server("a session"))
    }

    async fn attach_session(&self, _id: &SessionId, _from: Offset, _input: bool) -> Result<Running> {
        Err(needs_server("a session"))
    }

    async fn close_session(&self, _id: &SessionId) -> Result<()> {
        Err(needs_server("a session"))
    }

    async fn files(&self, target: &Target) -> Result<FileEnd> {
        self.fleet.target(target)?.files().await.map(FileEnd::Here)
    }

    async fn can_connect(&self, target: &Target) -> Result<()> {
        let executor = self.fleet.target(target)?.executor(&OpContext::default()).await?;
        if executor.capabilities().connect {
            return Ok(());
        }
        Err(Error::unsupported("tunnel").with_context("target", target))
    }

    async fn connect(&self, target: &Target, to: &HostPort) -> Result<BoxConnection> {
        self.fleet.target(target)?.connect(to).await
    }

    fn is_server(&self) -> bool {
        false
    }

    async fn close(&self) {
        self.fleet.shutdown().await;
    }
}

struct HandleInput(CommandHandle);

#[async_trait]
impl Input for HandleInput {
    async fn write(&self, data: Bytes) -> Result<()> {
        self.0.write_stdin(data).await
    }

    async fn pipe(&self, mut data: ByteStream) -> Result<()> {
        while let Some(part) = data.next().await {
            self.0.write_stdin(part?).await?;
        }
        self.0.close_stdin().await;
        Ok(())
    }

    async fn resize(&self, size: PtySize) -> Result<()> {
        self.0.resize(size).await
    }

    async fn signal(&self, signal: Signal) -> Result<()> {
        self.0.signal(signal).await
    }

    async fn cancel(&self) -> Result<()> {
        self.0.cancel();
        Ok(())
    }
}
