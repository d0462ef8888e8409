//! Executors with a power taken away.

use std::sync::Arc;

use async_trait::async_trait;
use fleetcore::{
    BoxConnection, CommandId, CommandSpec, Error, ExecCapabilities, Executor, FileSystem, HostPort, Offset,
    OpContext, Result, Session, SessionSpec, raw::RawProcess,
};

/// The same machine without files of its own: they go over `spawn`.
#[derive(Debug)]
pub struct WithoutNativeFiles(pub Arc<dyn Executor>);

#[async_trait]
impl Executor for WithoutNativeFiles {
    fn capabilities(&self) -> ExecCapabilities {
        let mut can = self.0.capabilities();
        can.native_files = false;
        can
    }

    async fn ping(&self, cx: &OpContext) -> Result<()> {
        self.0.ping(cx).await
    }

    async fn spawn(&self, cx: &OpContext, id: CommandId, spec: &CommandSpec) -> Result<RawProcess> {
        self.0.spawn(cx, id, spec).await
    }

    async fn reattach(&self, cx: &OpContext, id: CommandId, from: Offset) -> Result<RawProcess> {
        self.0.reattach(cx, id, from).await
    }

    async fn open_session(&self, cx: &OpContext, spec: SessionSpec) -> Result<Arc<dyn Session>> {
        self.0.open_session(cx, spec).await
    }

    fn files(&self) -> Result<Arc<dyn FileSystem>> {
        Err(Error::unsupported("files"))
    }

    async fn connect(&self, cx: &OpContext, to: &HostPort) -> Result<BoxConnection> {
        self.0.connect(cx, to).await
    }
}
