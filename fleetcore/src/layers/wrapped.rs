//! The one place where layers forward calls.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    around::{Around, Call},
    operation::{Operation, Subject},
};
use crate::{
    ActionInfo, CommandId, CommandSpec, Error, ErrorKind, ExecCapabilities, ExitStatus, FileInfo, HostPort,
    Json, Key, MachineCapabilities, MachineFilter, MachineId, MachineInfo, MachineSpec, Offset, Owner,
    PtySize, Rendered, Result, Screen, SessionId, SessionInfo, SessionSpec, StopMode, Turn, WaitPolicy,
    WriteOptions,
    raw::{
        BoxConnection, ByteStream, CommandStream, Executor, FileSystem, OpContext, Provider, RawProcess,
        Session,
    },
};

/// `inner` with a layer around it.
#[derive(Debug)]
pub(super) struct Wrapped<I: ?Sized, A> {
    inner: Arc<I>,
    around: Arc<A>,
}

impl<I: ?Sized, A> Wrapped<I, A> {
    pub(super) fn new(inner: Arc<I>, around: Arc<A>) -> Self {
        Self { inner, around }
    }
}

/// The answer, where no ticket is needed afterwards.
fn first<T, U>((done, _ticket): (T, U)) -> T {
    done
}

/// A stream of input can be sent once; the layers know ([`Operation::is_repeatable`]), this is the backstop.
fn used_up(operation: &'static str) -> Error {
    Error::new(ErrorKind::InvalidState, "the data was sent already").with_operation(operation)
}

#[async_trait]
impl<A: Around> Provider for Wrapped<dyn Provider, A> {
    fn scheme(&self) -> &'static str {
        self.inner.scheme()
    }

    fn capabilities(&self) -> MachineCapabilities {
        self.inner.capabilities()
    }

    async fn create(&self, cx: &OpContext, spec: MachineSpec) -> Result<MachineInfo> {
        let (inner, spec) = (&self.inner, &spec);
        let call = Call::new(Operation::MachineCreate, Subject::NewMachine(inner.scheme(), &spec.name));
        let run = |cx: OpContext| async move { inner.create(&cx, spec.clone()).await };
        self.around.call(&call, cx, run).await.map(first)
    }

    async fn start(&self, cx: &OpContext, id: &MachineId) -> Result<MachineInfo> {
        let inner = &self.inner;
        let call = Call::new(Operation::MachineStart, Subject::Machine(inner.scheme(), id));
        self.around.call(&call, cx, |cx| async move { inner.start(&cx, id).await }).await.map(first)
    }

    async fn stop(&self, cx: &OpContext, id: &MachineId, mode: StopMode) -> Result<MachineInfo> {
        let inner = &self.inner;
        let call = Call::new(Operation::MachineStop, Subject::Machine(inner.scheme(), id));
        self.around.call(&call, cx, |cx| async move { inner.stop(&cx, id, mode).await }).await.map(first)
    }

    async fn delete(&self, cx: &OpContext, id: &MachineId, purge: bool) -> Result<()> {
        let inner = &self.inner;
        let call = Call::new(Operation::MachineDelete, Subject::Machine(inner.scheme(), id));
        self.around.call(&call, cx, |cx| async move { inner.delete(&cx, id, purge).await }).await.map(first)
    }

    async fn list(&self, cx: &OpContext, filter: MachineFilter) -> Result<Vec<MachineInfo>> {
        let (inner, filter) = (&self.inner, &filter);
        let call = Call::new(Operation::MachineList, Subject::Provider(inner.scheme()));
        let run = |cx: OpContext| async move { inner.list(&cx, filter.clone()).await };
        self.around.call(&call, cx, run).await.map(first)
    }

    async fn info(&self, cx: &OpContext, id: &MachineId) -> Result<MachineInfo> {
        let inner = &self.inner;
        let call = Call::new(Operation::MachineInfo, Subject::Machine(inner.scheme(), id));
        self.around.call(&call, cx, |cx| async move { inner.info(&cx, id).await }).await.map(first)
    }

    /// The executor is not wrapped here: the fleet hands it to `layer_executor`, and twice would be once too often.
    async fn connect(&self, cx: &OpContext, id: &MachineId) -> Result<Arc<dyn Executor>> {
        let inner = &self.inner;
        let call = Call::new(Operation::MachineConnect, Subject::Machine(inner.scheme(), id));
        self.around.call(&call, cx, |cx| async move { inner.connect(&cx, id).await }).await.map(first)
    }

    fn actions(&self) -> Vec<ActionInfo> {
        self.inner.actions()
    }

    /// An action the provider does not have counts as a change: nobody knows what it would have done.
    async fn act(
        &self,
        cx: &OpContext,
        machine: Option<&MachineId>,
        action: &str,
        args: Json,
    ) -> Result<serde_json::Value> {
        let (inner, args) = (&self.inner, &args);
        let known = inner.actions().into_iter().find(|a| a.name == action);
        let operation = match &known {
            Some(info) if !info.changes => Operation::MachineAsk,
            _ => Operation::MachineAct,
        };
        let subject = match machine {
            Some(id) => Subject::Machine(inner.scheme(), id),
            None => Subject::Provider(inner.scheme()),
        };
        let program = known.as_ref().map(|info| info.name.as_str());
        let call = Call { program, ..Call::new(operation, subject) };
        let run = |cx: OpContext| async move { inner.act(&cx, machine, action, args.clone()).await };
        self.around.call(&call, cx, run).await.map(first)
    }
}

#[async_trait]
impl<A: Around> Executor for Wrapped<dyn Executor, A> {
    fn capabilities(&self) -> ExecCapabilities {
        self.inner.capabilities()
    }

    async fn ping(&self, cx: &OpContext) -> Result<()> {
        let inner = &self.inner;
        let call = Call::new(Operation::Ping, Subject::Host);
        self.around.call(&call, cx, |cx| async move { inner.ping(&cx).await }).await.map(first)
    }

    async fn spawn(&self, cx: &OpContext, id: CommandId, spec: &CommandSpec) -> Result<RawProcess> {
        let inner = &self.inner;
        let call = Call::spawn(Subject::Command(id), spec);
        let run = |cx: OpContext| async move { inner.spawn(&cx, id, spec).await };
        let (process, ticket) = self.around.call(&call, cx, run).await?;
        Ok(self.around.process(&call, ticket, process))
    }

    async fn reattach(&self, cx: &OpContext, id: CommandId, from: Offset) -> Result<RawProcess> {
        let inner = &self.inner;
        let call = Call::new(Operation::Reattach, Subject::Command(id));
        let run = |cx: OpContext| async move { inner.reattach(&cx, id, from).await };
        let (process, ticket) = self.around.call(&call, cx, run).await?;
        Ok(self.around.process(&call, ticket, process))
    }

    async fn open_session(&self, cx: &OpContext, spec: SessionSpec) -> Result<Arc<dyn Session>> {
        let (inner, spec) = (&self.inner, &spec);
        let call = Call::new(Operation::SessionOpen, Subject::Session(&spec.id));
        let run = |cx: OpContext| async move { inner.open_session(&cx, spec.clone()).await };
        let (session, ticket) = self.around.call(&call, cx, run).await?;
        Ok(Arc::new(WrappedSession { inner: session, around: Arc::clone(&self.around), _ticket: ticket }))
    }

    fn files(&self) -> Result<Arc<dyn FileSystem>> {
        Ok(Arc::new(Wrapped::new(self.inner.files()?, Arc::clone(&self.around))))
    }

    async fn connect(&self, cx: &OpContext, to: &HostPort) -> Result<BoxConnection> {
        let inner = &self.inner;
        let call = Call::new(Operation::TunnelOpen, Subject::Address(to));
        let run = |cx: OpContext| async move { inner.connect(&cx, to).await };
        let (connection, ticket) = self.around.call(&call, cx, run).await?;
        Ok(self.around.connection(&call, ticket, connection))
    }
}

#[async_trait]
impl<A: Around> FileSystem for Wrapped<dyn FileSystem, A> {
    async fn stat(&self, cx: &OpContext, path: &str) -> Result<FileInfo> {
        let inner = &self.inner;
        let call = Call::new(Operation::FileStat, Subject::Path(path));
        self.around.call(&call, cx, |cx| async move { inner.stat(&cx, path).await }).await.map(first)
    }

    async fn read(&self, cx: &OpContext, path: &str, offset: u64, len: Option<u64>) -> Result<ByteStream> {
        let inner = &self.inner;
        let call = Call::new(Operation::FileRead, Subject::Path(path));
        let run = |cx: OpContext| async move { inner.read(&cx, path, offset, len).await };
        let (bytes, ticket) = self.around.call(&call, cx, run).await?;
        Ok(self.around.bytes(&call, ticket, bytes))
    }

    async fn write(
        &self,
        cx: &OpContext,
        path: &str,
        opts: WriteOptions,
        data: ByteStream,
    ) -> Result<FileInfo> {
        let (inner, mut data) = (&self.inner, Some(data));
        let call = Call::new(Operation::FileWrite, Subject::Path(path));
        let run = |cx: OpContext| {
            let data = data.take().ok_or_else(|| used_up("file.write"));
            async move { inner.write(&cx, path, opts, data?).await }
        };
        self.around.call(&call, cx, run).await.map(first)
    }

    async fn list(&self, cx: &OpContext, path: &str) -> Result<Vec<FileInfo>> {
        let inner = &self.inner;
        let call = Call::new(Operation::DirList, Subject::Path(path));
        self.around.call(&call, cx, |cx| async move { inner.list(&cx, path).await }).await.map(first)
    }

    async fn create_dir(&self, cx: &OpContext, path: &str) -> Result<()> {
        let inner = &self.inner;
        let call = Call::new(Operation::DirCreate, Subject::Path(path));
        self.around.call(&call, cx, |cx| async move { inner.create_dir(&cx, path).await }).await.map(first)
    }

    async fn set_owner(&self, cx: &OpContext, path: &str, owner: Owner) -> Result<()> {
        let inner = &self.inner;
        let call = Call::new(Operation::FileOwner, Subject::Path(path));
        self.around
            .call(&call, cx, |cx| async move { inner.set_owner(&cx, path, owner).await })
            .await
            .map(first)
    }

    async fn rename(&self, cx: &OpContext, from: &str, to: &str) -> Result<()> {
        let inner = &self.inner;
        let call = Call::new(Operation::FileRename, Subject::Path(from));
        self.around.call(&call, cx, |cx| async move { inner.rename(&cx, from, to).await }).await.map(first)
    }

    async fn remove(&self, cx: &OpContext, path: &str, recursive: bool) -> Result<()> {
        let inner = &self.inner;
        let call = Call::new(Operation::FileRemove, Subject::Path(path));
        let run = |cx: OpContext| async move { inner.remove(&cx, path, recursive).await };
        self.around.call(&call, cx, run).await.map(first)
    }

    async fn read_tar(&self, cx: &OpContext, path: &str) -> Result<ByteStream> {
        let inner = &self.inner;
        let call = Call::new(Operation::TarRead, Subject::Path(path));
        let run = |cx: OpContext| async move { inner.read_tar(&cx, path).await };
        let (bytes, ticket) = self.around.call(&call, cx, run).await?;
        Ok(self.around.bytes(&call, ticket, bytes))
    }

    async fn write_tar(&self, cx: &OpContext, path: &str, data: ByteStream) -> Result<u64> {
        let (inner, mut data) = (&self.inner, Some(data));
        let call = Call::new(Operation::TarWrite, Subject::Path(path));
        let run = |cx: OpContext| {
            let data = data.take().ok_or_else(|| used_up("file.write_tar"));
            async move { inner.write_tar(&cx, path, data?).await }
        };
        self.around.call(&call, cx, run).await.map(first)
    }
}

/// A backend's own session. It keeps the ticket of its opening, e.g. the place it takes under a limit.
#[derive(Debug)]
struct WrappedSession<A: Around> {
    inner: Arc<dyn Session>,
    around: Arc<A>,
    _ticket: A::Ticket,
}

impl<A: Around> WrappedSession<A> {
    async fn around<T: Send, F: Future<Output = Result<T>> + Send>(
        &self,
        operation: Operation,
        mut run: impl FnMut() -> F + Send,
    ) -> Result<T> {
        let call = Call::new(operation, Subject::Session(self.inner.id()));
        self.around.call(&call, &OpContext::default(), |_| run()).await.map(first)
    }
}

#[async_trait]
impl<A: Around> Session for WrappedSession<A> {
    fn id(&self) -> &SessionId {
        self.inner.id()
    }

    fn info(&self) -> SessionInfo {
        self.inner.info()
    }

    async fn run(&self, command: &str, wait: WaitPolicy) -> Result<Turn> {
        let wait = &wait;
        self.around(Operation::SessionRun, || self.inner.run(command, wait.clone())).await
    }

    async fn resume(&self, wait: WaitPolicy) -> Result<Turn> {
        let wait = &wait;
        self.around(Operation::SessionResume, || self.inner.resume(wait.clone())).await
    }

    async fn send_keys(&self, keys: &[Key]) -> Result<()> {
        self.around(Operation::SessionKeys, || self.inner.send_keys(keys)).await
    }

    async fn write(&self, data: Bytes) -> Result<()> {
        let data = &data;
        self.around(Operation::SessionWrite, || self.inner.write(data.clone())).await
    }

    async fn interrupt(&self, wait: WaitPolicy) -> Result<Turn> {
        let wait = &wait;
        self.around(Operation::SessionInterrupt, || self.inner.interrupt(wait.clone())).await
    }

    async fn resize(&self, size: PtySize) -> Result<()> {
        self.around(Operation::SessionResize, || self.inner.resize(size)).await
    }

    async fn stream(&self, from: Offset) -> Result<Box<dyn CommandStream>> {
        self.around(Operation::SessionStream, || self.inner.stream(from)).await
    }

    async fn text(&self, range: Range<Offset>) -> Result<String> {
        let range = &range;
        self.around(Operation::SessionText, || self.inner.text(range.clone())).await
    }

    async fn rendered(&self, turn: &Turn) -> Result<Rendered> {
        self.around(Operation::SessionText, || self.inner.rendered(turn)).await
    }

    async fn screen(&self) -> Result<Screen> {
        self.around(Operation::SessionScreen, || self.inner.screen()).await
    }

    async fn ended(&self) -> Result<ExitStatus> {
        self.around(Operation::SessionEnded, || self.inner.ended()).await
    }

    async fn close(&self) -> Result<ExitStatus> {
        self.around(Operation::SessionClose, || self.inner.close()).await
    }
}

/// The two hooks every layer has, over [`Wrapped`].
macro_rules! layer_hooks {
    ($layer:ty) => {
        impl $crate::raw::Layer for $layer {
            fn layer_provider(
                &self,
                inner: std::sync::Arc<dyn $crate::raw::Provider>,
            ) -> std::sync::Arc<dyn $crate::raw::Provider> {
                let around = std::sync::Arc::clone(&self.0);
                std::sync::Arc::new($crate::layers::wrapped::Wrapped::new(inner, around))
            }

            fn layer_executor(
                &self,
                inner: std::sync::Arc<dyn $crate::raw::Executor>,
            ) -> std::sync::Arc<dyn $crate::raw::Executor> {
                let around = std::sync::Arc::clone(&self.0);
                std::sync::Arc::new($crate::layers::wrapped::Wrapped::new(inner, around))
            }
        }
    };
}
pub(super) use layer_hooks;
