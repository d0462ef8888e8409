//! Running things in a sandbox, which comes up for it.

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use super::provider::Inner;
use crate::{
    BoxConnection, CommandId, CommandSpec, Error, ExecCapabilities, HostPort, MachineId, Offset, Result,
    SessionSpec,
    backends::local::Local,
    raw::{Executor, FileSystem, OpContext, RawProcess, Session},
};

/// One sandbox. Having it costs nothing: the namespaces are made when something is to run in them.
pub(super) struct SandboxExecutor {
    provider: Arc<Inner>,
    id: MachineId,
}

impl SandboxExecutor {
    pub(super) fn new(provider: Arc<Inner>, id: MachineId) -> Self {
        Self { provider, id }
    }
}

impl fmt::Debug for SandboxExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SandboxExecutor").field("id", &self.id).finish_non_exhaustive()
    }
}

#[async_trait]
impl Executor for SandboxExecutor {
    fn capabilities(&self) -> ExecCapabilities {
        Local::capabilities_inside()
    }

    async fn ping(&self, cx: &OpContext) -> Result<()> {
        cx.guard("ping", self.provider.executor(&self.id)).await.map(drop)
    }

    async fn spawn(&self, cx: &OpContext, id: CommandId, spec: &CommandSpec) -> Result<RawProcess> {
        let local = cx.guard("spawn", self.provider.executor(&self.id)).await?;
        local.spawn(cx, id, spec).await
    }

    async fn connect(&self, cx: &OpContext, to: &HostPort) -> Result<BoxConnection> {
        let local = cx.guard("connect", self.provider.executor(&self.id)).await?;
        local.connect(cx, to).await
    }

    async fn reattach(&self, _: &OpContext, _: CommandId, _: Offset) -> Result<RawProcess> {
        Err(Error::unsupported("reattach"))
    }

    async fn open_session(&self, _: &OpContext, _: SessionSpec) -> Result<Arc<dyn Session>> {
        Err(Error::unsupported("open_session"))
    }

    fn files(&self) -> Result<Arc<dyn FileSystem>> {
        Err(Error::unsupported("files"))
    }
}
