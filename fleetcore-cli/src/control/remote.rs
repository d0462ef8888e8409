//! Work on a server.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use fleetcore::{
    BoxConnection, ByteStream, CommandEvent, CommandId, CommandSpec, Error, ErrorKind, HostPort, Offset,
    PtySize, Result, SessionId, Signal, Target,
};
use fleetcore_http::client::{
    AttachInput, AttachOptions, Attachment, Client, Transport,
    wire::{self, Command, CommandQuery, NewCommand, NewSession, Page, Session},
};
use futures::{StreamExt as _, stream::BoxStream};

use super::{Control, FileEnd, Input, Ownership, Running, SessionRequest};

pub(super) struct RemoteControl {
    pub(super) client: Client,
}

impl RemoteControl {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }
}

fn options(from: Offset, input: bool) -> AttachOptions {
    let options = AttachOptions::default().with_from(Some(from));
    if input { options } else { options.read_only() }
}

#[async_trait]
impl Control for RemoteControl {
    async fn targets(&self) -> Result<Vec<wire::Target>> {
        self.client.targets().await
    }

    async fn spawn(
        &self,
        id: CommandId,
        target: &Target,
        spec: CommandSpec,
        ownership: Ownership,
    ) -> Result<(CommandId, Running)> {
        let mut request = NewCommand::from_spec(target, &spec)?;
        request.id = Some(id.to_string());
        if ownership == Ownership::Wait && spec.overflow == fleetcore::Overflow::Block {
            request.overflow = fleetcore::Overflow::Block;
        }
        self.client.create_command(&request).await?;
        if ownership == Ownership::Detached {
            let input = Arc::new(CommandInput { client: self.client.clone(), id, keys: None });
            return Ok((id, Running { events: futures::stream::empty().boxed(), input }));
        }
        // Input and output go separate ways for pipes, so the attachment need not take input then.
        match self.attach(id, Offset(0), spec_has_terminal(&spec)).await {
            Ok(running) => Ok((id, running)),
            Err(e) => {
                // It runs, but the caller will never know: it must not stay behind.
                if let Err(error) = self.client.cancel(id).await {
                    tracing::warn!(%error, %id, "a command that cannot be watched was not cancelled");
                }
                Err(e)
            }
        }
    }

    async fn attach(&self, id: CommandId, from: Offset, input: bool) -> Result<Running> {
        let Attachment { input: keys, output, .. } =
            self.client.attach_command(id, options(from, input)).await?;
        let input = Arc::new(CommandInput { client: self.client.clone(), id, keys: input.then_some(keys) });
        Ok(Running { events: output.boxed(), input })
    }

    async fn commands(&self, query: &CommandQuery) -> Result<Page<Command>> {
        self.client.commands(query).await
    }

    async fn command(&self, id: CommandId) -> Result<Command> {
        self.client.command(id).await
    }

    async fn output(
        &self,
        id: CommandId,
        from: Offset,
        times: bool,
    ) -> Result<BoxStream<'static, Result<CommandEvent>>> {
        let transport = if times { Transport::EventStream } else { Transport::WebSocket };
        Ok(self.client.output(id, from, transport).await?.boxed())
    }

    async fn signal(&self, id: CommandId, signal: Signal) -> Result<()> {
        self.client.signal(id, signal).await
    }

    async fn cancel(&self, id: CommandId) -> Result<()> {
        self.client.cancel(id).await.map(drop)
    }

    async fn sessions(&self, target: Option<&Target>) -> Result<Vec<Session>> {
        self.client.sessions(target).await
    }

    async fn ensure_session(&self, request: &SessionRequest) -> Result<Session> {
        let mut new = NewSession::new(&request.target, request.size);
        new.id = Some(request.id.to_string());
        new.cwd = request.cwd.clone();
        new.user = request.user.clone();
        new.env = request.env.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
        match self.client.open_session(&new).await {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                let session = self.client.session(&request.id).await?;
                if session.target != request.target.to_string() {
                    return Err(e.with_context("target", session.target));
                }
                Ok(session)
            }
            other => other,
        }
    }

    async fn attach_session(&self, id: &SessionId, from: Offset, input: bool) -> Result<Running> {
        let Attachment { input: keys, output, .. } =
            self.client.attach_session(id, options(from, input)).await?;
        let input = Arc::new(SessionInput { client: self.client.clone(), id: id.clone(), keys });
        Ok(Running { events: output.boxed(), input })
    }

    async fn close_session(&self, id: &SessionId) -> Result<()> {
        self.client.close_session(id).await.map(drop)
    }

    async fn files(&self, target: &Target) -> Result<FileEnd> {
        Ok(FileEnd::Server(self.client.files(target)))
    }

    async fn can_connect(&self, target: &Target) -> Result<()> {
        // One that is away now may be back for the first connection.
        match self.client.target(target).await?.capabilities {
            Some(can) if !can.connect => Err(Error::unsupported("tunnel").with_context("target", target)),
            _ => Ok(()),
        }
    }

    async fn connect(&self, target: &Target, to: &HostPort) -> Result<BoxConnection> {
        Ok(Box::new(self.client.connect(target, to).await?))
    }

    fn is_server(&self) -> bool {
        true
    }

    async fn close(&self) {}
}

fn spec_has_terminal(spec: &CommandSpec) -> bool {
    matches!(spec.io, fleetcore::Io::Pty(_))
}

struct CommandInput {
    client: Client,
    id: CommandId,
    keys: Option<AttachInput>,
}

#[async_trait]
impl Input for CommandInput {
    async fn write(&self, data: Bytes) -> Result<()> {
        match &self.keys {
            Some(keys) => keys.write(&data).await,
            None => Err(Error::new(ErrorKind::InvalidState, "this attachment takes no input")),
        }
    }

    async fn pipe(&self, data: ByteStream) -> Result<()> {
        self.client.write_stdin(self.id, data, true).await
    }

    async fn resize(&self, size: PtySize) -> Result<()> {
        match &self.keys {
            Some(keys) => keys.resize(size).await,
            None => self.client.resize(self.id, size).await,
        }
    }

    async fn signal(&self, signal: Signal) -> Result<()> {
        self.client.signal(self.id, signal).await
    }

    async fn cancel(&self) -> Result<()> {
        self.client.cancel(self.id).await.map(drop)
    }
}

struct SessionInput {
    client: Client,
    id: SessionId,
    keys: AttachInput,
}

#[async_trait]
impl Input for SessionInput {
    async fn write(&self, data: Bytes) -> Result<()> {
        self.keys.write(&data).await
    }

    async fn pipe(&self, mut data: ByteStream) -> Result<()> {
        while let Some(part) = data.next().await {
            self.keys.write(&part?).await?;
        }
        self.keys.close_stdin().await
    }

    async fn resize(&self, size: PtySize) -> Result<()> {
        self.keys.resize(size).await
    }

    async fn signal(&self, signal: Signal) -> Result<()> {
        self.keys.signal(signal).await
    }

    async fn cancel(&self) -> Result<()> {
        self.client.close_session(&self.id).await.map(drop)
    }
}
