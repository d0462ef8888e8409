//! Early refusals.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    ActionInfo, CommandId, CommandSpec, Error, ErrorKind, ExecCapabilities, ExitStatus, HostPort, Io, Json,
    MachineCapabilities, MachineFilter, MachineId, MachineInfo, MachineSpec, Offset, Program, PtySize,
    Result, SessionSpec, Signal, StopMode,
    raw::{
        BoxConnection, Executor, FileSystem, Layer, OpContext, ProcessControl, Provider, RawProcess, Session,
    },
};

/// Refuses what the backend cannot do, before the backend is asked: `Unsupported`, with the missing `capability` in the
/// context, so that the same request gets the same answer everywhere. A request that is malformed whatever the backend
/// is `InvalidInput`, naming the field and the rule.
///
/// | capability off | refused |
/// |---|---|
/// | `pty` | `Io::Pty` |
/// | `stdin` | `Io::Pipes { stdin: true, .. }` |
/// | `split_output` | `Io::Pipes { merge: false, .. }` |
/// | `signals` | signals but HUP, TERM and KILL, which the supervisor needs to end a command |
/// | `run_as_user` | `CommandSpec::user`, `SessionSpec::user` |
/// | `native_files`, `native_sessions`, `reattach`, `connect` | the method |
/// | not in `actions` | `Program::Action` |
/// | `create`, `start`, `stop`, `delete` | the method |
/// | `stop_with_suspend` | `StopMode::Suspend` |
/// | not in `Provider::actions` | `Provider::act`; arguments are checked too |
///
/// `delete_is_soft` refuses nothing: it says what `delete` without `purge` means.
#[derive(Clone, Copy, Debug, Default)]
pub struct CapabilityCheckLayer;

impl CapabilityCheckLayer {
    /// The layer.
    pub fn new() -> Self {
        Self
    }
}

impl Layer for CapabilityCheckLayer {
    fn layer_provider(&self, inner: Arc<dyn Provider>) -> Arc<dyn Provider> {
        Arc::new(CheckedProvider(inner))
    }

    fn layer_executor(&self, inner: Arc<dyn Executor>) -> Arc<dyn Executor> {
        Arc::new(CheckedExecutor(inner))
    }
}

fn need(has: bool, operation: &'static str, capability: &'static str) -> Result<()> {
    if has { Ok(()) } else { Err(Error::unsupported(operation).with_context("capability", capability)) }
}

/// What a spec asks for that `can` does not have.
fn check_powers(spec: &CommandSpec, can: &ExecCapabilities) -> Result<()> {
    const OPERATION: &str = "command.spawn";
    match spec.io {
        Io::Pty(_) => need(can.pty, OPERATION, "pty")?,
        Io::Pipes { stdin, merge } => {
            need(can.stdin || !stdin, OPERATION, "stdin")?;
            need(can.split_output || merge, OPERATION, "split_output")?;
        }
    }
    need(can.run_as_user || spec.user.is_none(), OPERATION, "run_as_user")?;
    if let Program::Action { name, .. } = &spec.program {
        need(can.actions.iter().any(|a| a == name), OPERATION, "actions").map_err(|e| {
            e.with_context("action", name.escape_debug()).with_context("known", can.actions.join(" "))
        })?;
    }
    Ok(())
}

#[derive(Debug)]
struct CheckedExecutor(Arc<dyn Executor>);

impl CheckedExecutor {
    fn checked(&self, mut process: RawProcess, pty: bool) -> RawProcess {
        let signals = self.0.capabilities().signals;
        process.control = Box::new(CheckedControl { control: process.control, signals, pty });
        process
    }
}

#[async_trait]
impl Executor for CheckedExecutor {
    fn capabilities(&self) -> ExecCapabilities {
        self.0.capabilities()
    }

    async fn ping(&self, cx: &OpContext) -> Result<()> {
        self.0.ping(cx).await
    }

    async fn spawn(&self, cx: &OpContext, id: CommandId, spec: &CommandSpec) -> Result<RawProcess> {
        spec.check().map_err(|e| e.with_operation("command.spawn"))?;
        check_powers(spec, &self.0.capabilities())?;
        let process = self.0.spawn(cx, id, spec).await?;
        Ok(self.checked(process, matches!(spec.io, Io::Pty(_))))
    }

    async fn reattach(&self, cx: &OpContext, id: CommandId, from: Offset) -> Result<RawProcess> {
        let can = self.0.capabilities();
        need(can.reattach, "command.reattach", "reattach")?;
        let process = self.0.reattach(cx, id, from).await?;
        // What it was started on is not known here: the backend answers a resize itself.
        Ok(self.checked(process, can.pty))
    }

    async fn open_session(&self, cx: &OpContext, spec: SessionSpec) -> Result<Arc<dyn Session>> {
        const OPERATION: &str = "session.open";
        let can = self.0.capabilities();
        need(can.native_sessions, OPERATION, "native_sessions")?;
        need(can.run_as_user || spec.user.is_none(), OPERATION, "run_as_user")?;
        spec.check().map_err(|e| e.with_operation(OPERATION))?;
        self.0.open_session(cx, spec).await
    }

    fn files(&self) -> Result<Arc<dyn FileSystem>> {
        need(self.0.capabilities().native_files, "files", "native_files")?;
        self.0.files()
    }

    async fn connect(&self, cx: &OpContext, to: &HostPort) -> Result<BoxConnection> {
        need(self.0.capabilities().connect, "tunnel.open", "connect")?;
        self.0.connect(cx, to).await
    }
}

struct CheckedControl {
    control: Box<dyn ProcessControl>,
    signals: bool,
    pty: bool,
}

impl fmt::Debug for CheckedControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.control.fmt(f)
    }
}

#[async_trait]
impl ProcessControl for CheckedControl {
    async fn signal(&self, signal: Signal) -> Result<()> {
        let ends = matches!(signal, Signal::Hangup | Signal::Terminate | Signal::Kill);
        need(self.signals || ends, "command.signal", "signals")?;
        self.control.signal(signal).await
    }

    async fn resize(&self, size: PtySize) -> Result<()> {
        if !self.pty {
            return Err(Error::new(ErrorKind::InvalidState, "the command does not run on a terminal")
                .with_operation("command.resize"));
        }
        size.check().map_err(|e| e.with_operation("command.resize"))?;
        self.control.resize(size).await
    }

    fn disarm(&mut self) {
        self.control.disarm();
    }

    async fn end(&self, polite: Signal, grace: Duration) -> Result<bool> {
        self.control.end(polite, grace).await
    }

    fn verdict(&self) -> Option<ExitStatus> {
        self.control.verdict()
    }
}

#[derive(Debug)]
struct CheckedProvider(Arc<dyn Provider>);

#[async_trait]
impl Provider for CheckedProvider {
    fn scheme(&self) -> &'static str {
        self.0.scheme()
    }

    fn capabilities(&self) -> MachineCapabilities {
        self.0.capabilities()
    }

    async fn create(&self, cx: &OpContext, spec: MachineSpec) -> Result<MachineInfo> {
        need(self.0.capabilities().create, "machine.create", "create")?;
        MachineId::new(&spec.name).map_err(|e| e.with_operation("machine.create"))?;
        self.0.create(cx, spec).await
    }

    async fn start(&self, cx: &OpContext, id: &MachineId) -> Result<MachineInfo> {
        need(self.0.capabilities().start, "machine.start", "start")?;
        self.0.start(cx, id).await
    }

    async fn stop(&self, cx: &OpContext, id: &MachineId, mode: StopMode) -> Result<MachineInfo> {
        let can = self.0.capabilities();
        need(can.stop, "machine.stop", "stop")?;
        need(can.stop_with_suspend || mode != StopMode::Suspend, "machine.stop", "stop_with_suspend")?;
        self.0.stop(cx, id, mode).await
    }

    async fn delete(&self, cx: &OpContext, id: &MachineId, purge: bool) -> Result<()> {
        need(self.0.capabilities().delete, "machine.delete", "delete")?;
        self.0.delete(cx, id, purge).await
    }

    async fn list(&self, cx: &OpContext, filter: MachineFilter) -> Result<Vec<MachineInfo>> {
        self.0.list(cx, filter).await
    }

    async fn info(&self, cx: &OpContext, id: &MachineId) -> Result<MachineInfo> {
        self.0.info(cx, id).await
    }

    async fn connect(&self, cx: &OpContext, id: &MachineId) -> Result<Arc<dyn Executor>> {
        self.0.connect(cx, id).await
    }

    fn actions(&self) -> Vec<ActionInfo> {
        self.0.actions()
    }

    async fn act(
        &self,
        cx: &OpContext,
        machine: Option<&MachineId>,
        action: &str,
        args: Json,
    ) -> Result<serde_json::Value> {
        let actions = self.0.actions();
        ActionInfo::find(&actions, action)?
            .check(machine, &args)
            .map_err(|e| e.with_operation("machine.act"))?;
        self.0.act(cx, machine, action, args).await
    }
}

#[cfg(test)]
mod tests {
    use super::{super::fake, *};

    async fn spawn(fake: fake::Fake, spec: CommandSpec) -> (Result<RawProcess>, usize) {
        let (executor, seen) = fake::executor(&CapabilityCheckLayer, fake);
        let answer = executor.spawn(&OpContext::default(), CommandId::generate(), &spec).await;
        (answer, seen.calls().len())
    }

    fn without(change: impl FnOnce(&mut ExecCapabilities)) -> fake::Fake {
        let mut fake = fake::Fake::new();
        change(&mut fake.can);
        fake
    }

    fn capability<T>(answer: Result<T>) -> Option<String> {
        let error = answer.err()?;
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        error.context_value("capability").map(str::to_owned)
    }

    #[tokio::test]
    async fn what_is_asked_for_and_missing_is_unsupported_before_the_backend_is_asked() {
        let argv = || CommandSpec::argv(["true"]);
        let action = |name: &str| {
            CommandSpec::new(Program::Action { name: name.to_owned(), args: Default::default() })
        };
        let cases = [
            ("pty", without(|c| c.pty = false), argv().with_pty(PtySize::default())),
            ("stdin", without(|c| c.stdin = false), argv().with_stdin()),
            ("split_output", without(|c| c.split_output = false), argv()),
            ("run_as_user", without(|c| c.run_as_user = false), argv().with_user("nobody")),
            ("actions", without(|_| {}), action("explode")),
        ];
        for (name, fake, spec) in cases {
            let (answer, calls) = spawn(fake, spec.clone()).await;
            assert_eq!((capability(answer).as_deref(), calls), (Some(name), 0));
            if name != "actions" {
                let (answer, calls) = spawn(fake::Fake::new(), spec).await;
                assert!(answer.is_ok() && calls == 1, "{name} is there");
            }
        }
        assert!(spawn(fake::Fake::new(), action("switch")).await.0.is_ok());
    }

    #[tokio::test]
    async fn methods_that_are_off_are_unsupported() {
        let off = without(|c| *c = ExecCapabilities { split_output: true, ..ExecCapabilities::default() });
        let (executor, seen) = fake::executor(&CapabilityCheckLayer, off);
        let (cx, id) = (OpContext::default(), CommandId::generate());
        let session = SessionSpec::new(crate::SessionId::new("s").unwrap());
        assert_eq!(capability(executor.files()).as_deref(), Some("native_files"));
        assert_eq!(capability(executor.reattach(&cx, id, Offset(0)).await).as_deref(), Some("reattach"));
        assert_eq!(capability(executor.open_session(&cx, session).await).as_deref(), Some("native_sessions"));
        let to = HostPort::new("localhost", 1).unwrap();
        assert_eq!(capability(executor.connect(&cx, &to).await).as_deref(), Some("connect"));
        assert!(seen.calls().is_empty());

        let process = executor.spawn(&cx, id, &CommandSpec::argv(["true"])).await.unwrap();
        assert_eq!(capability(process.control.signal(Signal::Interrupt).await).as_deref(), Some("signals"));
        process.control.signal(Signal::Kill).await.unwrap();
        let resize = process.control.resize(PtySize::default()).await.unwrap_err();
        assert_eq!(resize.kind(), ErrorKind::InvalidState);
    }

    #[tokio::test]
    async fn every_capability_of_a_provider_is_checked() {
        let (provider, seen) = fake::provider(
            &CapabilityCheckLayer,
            fake::Fake { machines: MachineCapabilities::default(), ..fake::Fake::new() },
        );
        let (cx, id) = (OpContext::default(), MachineId::new("m").unwrap());
        let spec = MachineSpec { name: "m".into(), ..MachineSpec::default() };
        assert_eq!(capability(provider.create(&cx, spec).await).as_deref(), Some("create"));
        assert_eq!(capability(provider.start(&cx, &id).await).as_deref(), Some("start"));
        assert_eq!(capability(provider.stop(&cx, &id, StopMode::Force).await).as_deref(), Some("stop"));
        assert_eq!(capability(provider.delete(&cx, &id, false).await).as_deref(), Some("delete"));
        assert!(seen.calls().is_empty());

        let explode = provider.act(&cx, Some(&id), "explode", Json::new()).await;
        assert_eq!(capability(explode).as_deref(), Some("actions"));
        let whole = provider.act(&cx, None, "snapshot", Json::new()).await.unwrap_err();
        assert_eq!(whole.context_value("field"), Some("machine"));
        assert!(seen.calls().is_empty());
        provider.act(&cx, Some(&id), "snapshot", Json::new()).await.unwrap();
        assert_eq!(seen.calls(), ["act"]);

        let mut fake = fake::Fake::new();
        fake.machines.stop_with_suspend = false;
        let (provider, _) = fake::provider(&CapabilityCheckLayer, fake);
        let suspended = provider.stop(&cx, &id, StopMode::Suspend).await;
        assert_eq!(capability(suspended).as_deref(), Some("stop_with_suspend"));
        provider.stop(&cx, &id, StopMode::Graceful).await.unwrap();
    }

    #[tokio::test]
    async fn malformed_input_does_not_reach_the_backend() {
        let (answer, calls) = spawn(fake::Fake::new(), CommandSpec::argv(["a", "b\0c"])).await;
        let error = answer.unwrap_err();
        assert_eq!((error.kind(), calls), (ErrorKind::InvalidInput, 0));
        assert_eq!((error.context_value("field"), error.operation()), (Some("argv"), "command.spawn"));
    }
}
