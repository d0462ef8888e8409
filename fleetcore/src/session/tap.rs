//! Lets a session see the output of its shell before anybody else does.
//!
//! A reader of the replay ring can fall behind and miss a mark, and would cost a task switch per chunk. The tap sits
//! between the backend and the supervisor instead: each chunk passes it once, in the supervisor's own poll.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;

use super::track::Tracker;
use crate::{
    CommandId, CommandSpec, ExecCapabilities, Executor, FileSystem, HostPort, Offset, OpContext, Result,
    Session, SessionSpec,
    raw::{BoxConnection, RawProcess},
};

/// An executor whose processes tell `tracker` their output.
#[derive(Debug)]
pub(super) struct Tap {
    pub(super) inner: Arc<dyn Executor>,
    pub(super) tracker: Arc<Tracker>,
}

#[async_trait]
impl Executor for Tap {
    fn capabilities(&self) -> ExecCapabilities {
        self.inner.capabilities()
    }

    async fn ping(&self, cx: &OpContext) -> Result<()> {
        self.inner.ping(cx).await
    }

    async fn spawn(&self, cx: &OpContext, id: CommandId, spec: &CommandSpec) -> Result<RawProcess> {
        let mut raw = self.inner.spawn(cx, id, spec).await?;
        let tracker = Arc::clone(&self.tracker);
        raw.output = raw
            .output
            .inspect(move |chunk| {
                if let Ok((_, data)) = chunk {
                    tracker.on_output(data);
                }
            })
            .boxed();
        Ok(raw)
    }

    async fn reattach(&self, cx: &OpContext, id: CommandId, from: Offset) -> Result<RawProcess> {
        self.inner.reattach(cx, id, from).await
    }

    async fn open_session(&self, cx: &OpContext, spec: SessionSpec) -> Result<Arc<dyn Session>> {
        self.inner.open_session(cx, spec).await
    }

    fn files(&self) -> Result<Arc<dyn FileSystem>> {
        self.inner.files()
    }

    async fn connect(&self, cx: &OpContext, to: &HostPort) -> Result<BoxConnection> {
        self.inner.connect(cx, to).await
    }
}
