//! A provider and an executor that record what reaches them.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, stream};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    ActionInfo, ActionScope, Channel, CommandId, CommandSpec, Error, ErrorKind, ExecCapabilities, ExitKind,
    FileInfo, FileKind, HostPort, Json, MachineCapabilities, MachineFilter, MachineId, MachineInfo,
    MachineSpec, MachineState, Offset, PtySize, Result, SessionSpec, Signal, StopMode, WriteOptions,
    raw::{
        BoxConnection, ByteStream, Executor, FileSystem, OpContext, ProcessControl, Provider, RawProcess,
        Session,
    },
};

/// Answers in a queue; `Ok` once it is empty.
#[derive(Debug)]
pub(super) struct Fake {
    pub(super) can: ExecCapabilities,
    pub(super) machines: MachineCapabilities,
    pub(super) calls: Mutex<Vec<&'static str>>,
    pub(super) answers: Mutex<VecDeque<Error>>,
    pub(super) delay: Duration,
    /// Set to end all processes.
    pub(super) end: watch::Sender<bool>,
}

impl Fake {
    pub(super) fn new() -> Self {
        Self {
            can: ExecCapabilities {
                pty: true,
                stdin: true,
                split_output: true,
                signals: true,
                run_as_user: true,
                native_files: true,
                connect: true,
                native_sessions: false,
                reattach: true,
                actions: vec!["switch".into()],
            },
            machines: MachineCapabilities {
                create: true,
                start: true,
                stop: true,
                stop_with_suspend: true,
                delete: true,
                delete_is_soft: true,
            },
            calls: Mutex::default(),
            answers: Mutex::default(),
            delay: Duration::ZERO,
            end: watch::Sender::new(false),
        }
    }

    pub(super) fn failing(errors: impl IntoIterator<Item = Error>) -> Self {
        let fake = Self::new();
        fake.answers.lock().extend(errors);
        fake
    }

    pub(super) fn calls(&self) -> Vec<&'static str> {
        self.calls.lock().clone()
    }

    async fn answer(&self, call: &'static str) -> Result<()> {
        self.calls.lock().push(call);
        // Even a sleep of no length waits for the next tick of the timer.
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        let answer = self.answers.lock().pop_front();
        answer.map_or(Ok(()), Err)
    }

    fn process(&self) -> RawProcess {
        let mut end = self.end.subscribe();
        let words = ["hello ", "big ", "world"];
        RawProcess {
            pid: None,
            output: stream::iter(words.map(|w| Ok((Channel::Stdout, Bytes::from(w))))).boxed(),
            stdin: None,
            exit: async move {
                let _ = end.wait_for(|e| *e).await;
                Ok(ExitKind::Code(0))
            }
            .boxed(),
            control: Box::new(FakeControl),
        }
    }
}

#[derive(Debug)]
struct FakeControl;

#[async_trait]
impl ProcessControl for FakeControl {
    async fn signal(&self, _: Signal) -> Result<()> {
        Ok(())
    }
    async fn resize(&self, _: PtySize) -> Result<()> {
        Ok(())
    }
    fn disarm(&mut self) {}
}

/// Shares one [`Fake`] as an executor, a provider and a file system.
#[derive(Clone, Debug)]
pub(super) struct FakeHandle(pub(super) Arc<Fake>);

#[async_trait]
impl Executor for FakeHandle {
    fn capabilities(&self) -> ExecCapabilities {
        self.0.can.clone()
    }
    async fn ping(&self, _: &OpContext) -> Result<()> {
        self.0.answer("ping").await
    }
    async fn spawn(&self, _: &OpContext, _: CommandId, _: &CommandSpec) -> Result<RawProcess> {
        self.0.answer("spawn").await?;
        Ok(self.0.process())
    }
    async fn reattach(&self, _: &OpContext, _: CommandId, _: Offset) -> Result<RawProcess> {
        self.0.answer("reattach").await?;
        Ok(self.0.process())
    }
    async fn open_session(&self, _: &OpContext, _: SessionSpec) -> Result<Arc<dyn Session>> {
        Err(Error::unsupported("open_session"))
    }
    fn files(&self) -> Result<Arc<dyn FileSystem>> {
        Ok(Arc::new(self.clone()))
    }
    async fn connect(&self, _: &OpContext, _: &HostPort) -> Result<BoxConnection> {
        self.0.answer("connect").await?;
        let (ours, mut theirs) = tokio::io::duplex(64);
        tokio::spawn(async move {
            let (mut from, mut to) = tokio::io::split(&mut theirs);
            let _ = tokio::io::copy(&mut from, &mut to).await;
        });
        Ok(Box::new(ours))
    }
}

#[async_trait]
impl FileSystem for FakeHandle {
    async fn stat(&self, _: &OpContext, path: &str) -> Result<FileInfo> {
        self.0.answer("stat").await?;
        Ok(FileInfo::new(path, FileKind::File, 0))
    }
    async fn read(&self, _: &OpContext, path: &str, _: u64, _: Option<u64>) -> Result<ByteStream> {
        self.0.answer("read").await?;
        Ok(match path {
            "stalled" => stream::pending().boxed(),
            _ => stream::iter([Ok(Bytes::from("abc")), Ok(Bytes::from("def"))]).boxed(),
        })
    }
    async fn write(&self, _: &OpContext, path: &str, _: WriteOptions, _: ByteStream) -> Result<FileInfo> {
        self.0.answer("write").await?;
        Ok(FileInfo::new(path, FileKind::File, 0))
    }
    async fn list(&self, _: &OpContext, _: &str) -> Result<Vec<FileInfo>> {
        self.0.answer("list").await.map(|()| vec![])
    }
    async fn create_dir(&self, _: &OpContext, _: &str) -> Result<()> {
        self.0.answer("create_dir").await
    }
    async fn rename(&self, _: &OpContext, _: &str, _: &str) -> Result<()> {
        self.0.answer("rename").await
    }
    async fn remove(&self, _: &OpContext, _: &str, _: bool) -> Result<()> {
        self.0.answer("remove").await
    }
    async fn read_tar(&self, _: &OpContext, _: &str) -> Result<ByteStream> {
        self.0.answer("read_tar").await?;
        Ok(stream::empty().boxed())
    }
    async fn write_tar(&self, _: &OpContext, _: &str, _: ByteStream) -> Result<u64> {
        self.0.answer("write_tar").await.map(|()| 0)
    }
}

fn machine(id: &MachineId) -> MachineInfo {
    MachineInfo::new(id.clone(), MachineState::Running)
}

#[async_trait]
impl Provider for FakeHandle {
    fn scheme(&self) -> &'static str {
        "fake"
    }
    fn capabilities(&self) -> MachineCapabilities {
        self.0.machines
    }
    async fn create(&self, _: &OpContext, spec: MachineSpec) -> Result<MachineInfo> {
        self.0.answer("create").await?;
        Ok(machine(&MachineId::new(spec.name)?))
    }
    async fn start(&self, _: &OpContext, id: &MachineId) -> Result<MachineInfo> {
        self.0.answer("start").await.map(|()| machine(id))
    }
    async fn stop(&self, _: &OpContext, id: &MachineId, _: StopMode) -> Result<MachineInfo> {
        self.0.answer("stop").await.map(|()| machine(id))
    }
    async fn delete(&self, _: &OpContext, _: &MachineId, _: bool) -> Result<()> {
        self.0.answer("delete").await
    }
    async fn list(&self, _: &OpContext, _: MachineFilter) -> Result<Vec<MachineInfo>> {
        self.0.answer("list").await.map(|()| vec![])
    }
    async fn info(&self, _: &OpContext, id: &MachineId) -> Result<MachineInfo> {
        self.0.answer("info").await.map(|()| machine(id))
    }
    async fn connect(&self, _: &OpContext, id: &MachineId) -> Result<Arc<dyn Executor>> {
        self.0.answer("connect").await?;
        let _ = id;
        Ok(Arc::new(self.clone()))
    }
    fn actions(&self) -> Vec<ActionInfo> {
        vec![
            ActionInfo::new("snapshot", ActionScope::Machine, "takes a snapshot"),
            ActionInfo::question("snapshots", ActionScope::Machine, "lists snapshots"),
        ]
    }
    async fn act(&self, _: &OpContext, _: Option<&MachineId>, _: &str, _: Json) -> Result<serde_json::Value> {
        self.0.answer("act").await.map(|()| serde_json::Value::Null)
    }
}

/// A fake behind `layer`, and the way to ask it what arrived.
pub(super) fn executor(layer: &dyn crate::raw::Layer, fake: Fake) -> (Arc<dyn Executor>, Arc<Fake>) {
    let fake = Arc::new(fake);
    (layer.layer_executor(Arc::new(FakeHandle(Arc::clone(&fake)))), fake)
}

pub(super) fn provider(layer: &dyn crate::raw::Layer, fake: Fake) -> (Arc<dyn Provider>, Arc<Fake>) {
    let fake = Arc::new(fake);
    (layer.layer_provider(Arc::new(FakeHandle(Arc::clone(&fake)))), fake)
}

pub(super) fn temporary(after: Option<Duration>) -> Error {
    Error::new(ErrorKind::Unavailable, "try later").with_retry(crate::Retry::Temporary { after })
}
