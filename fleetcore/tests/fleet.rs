//! The fleet over the local backend and a SQLite store: what is recorded, what survives, what is refused.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{path::Path, sync::Arc, time::Duration};

use fleetcore::{
    CommandEvent, CommandFilter, CommandId, CommandSpec, CommandState, CommandStore, CommandStream,
    EndReason, ErrorKind, ExecCapabilities, Executor, ExitKind, ExitStatus, FileSystem, Fleet, FleetEvent,
    FleetLimits, HostPort, Offset, OnDrop, OpContext, Overflow, PtySize, Result, Session, SessionSpec,
    Signal,
    backends::local::{Local, LocalConfig},
    raw::{BoxConnection, RawProcess},
    store::{
        memory::MemoryStore,
        sqlite::{SqliteConfig, SqliteStore},
    },
};
use futures::StreamExt;
use tokio::sync::{Semaphore, watch};

fn fleet_in(dir: &Path) -> Fleet {
    let store = SqliteStore::open(SqliteConfig::new(dir)).unwrap();
    Fleet::builder()
        .with_host(Arc::new(Local::new(LocalConfig::default())))
        .with_store(Arc::new(store))
        .build()
}

async fn bytes_of(mut stream: Box<dyn CommandStream>) -> (Vec<u8>, u64, Option<ExitStatus>) {
    let (mut bytes, mut gaps, mut exit) = (vec![], 0, None);
    while let Some(event) = stream.next().await {
        match event.unwrap() {
            CommandEvent::Output(c) => bytes.extend_from_slice(&c.data),
            CommandEvent::Gap { from, to } => gaps += to.0 - from.0,
            CommandEvent::Exited(status) => exit = Some(status),
            _ => {}
        }
    }
    (bytes, gaps, exit)
}

#[tokio::test(flavor = "multi_thread")]
async fn output_beyond_the_window_comes_from_the_log_without_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = fleet_in(dir.path());
    let spec = CommandSpec::argv(["seq", "1", "400000"]).with_replay(64 * 1024, Overflow::DropOldest);
    let command = fleet.machine("local").unwrap().spawn(spec).await.unwrap();
    let id = command.id();
    let expected: Vec<u8> = (1..=400_000).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    let live = command.handle();
    assert!(live.wait().await.unwrap().success());
    // A handle from before the end, and the table after it, give the same.
    let (bytes, gaps, _) = bytes_of(live.stream(Offset(0))).await;
    assert!(bytes == expected && gaps == 0);
    for from in [0u64, 1, 1_000_000, expected.len() as u64] {
        let (bytes, gaps, exit) = bytes_of(fleet.commands().stream(id, Offset(from)).await.unwrap()).await;
        assert!(bytes == expected[from as usize..] && gaps == 0, "from {from}");
        assert!(exit.unwrap().success());
    }
    let record = fleet.commands().get(id).await.unwrap();
    assert_eq!(record.state, CommandState::Succeeded);
    assert_eq!(record.output_end.0, expected.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_cannot_start_is_recorded_as_failed() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = fleet_in(dir.path());
    let (cx, id) = (OpContext::for_actor("me"), CommandId::generate());
    let machine = fleet.machine("local").unwrap();
    let error = machine.spawn_with(&cx, id, CommandSpec::argv(["/no/such/program"])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let record = fleet.commands().get(id).await.unwrap();
    assert_eq!((record.state, record.actor.as_deref()), (CommandState::Failed, Some("me")));
    assert!(record.error.unwrap().contains("/no/such/program"));
    // The id is used up.
    let error = machine.spawn_with(&cx, id, CommandSpec::argv(["true"])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_refused_before_anything_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = fleet_in(dir.path());
    let machine = fleet.machine("local").unwrap();
    let huge = CommandSpec::argv(["true"]).with_replay(1 << 40, Overflow::Block);
    let zero = CommandSpec::argv(["true"]).with_timeout(Duration::ZERO);
    let no_program = CommandSpec::argv::<String>([]);
    for (spec, field) in [(huge, "replay_bytes"), (zero, "timeout"), (no_program, "argv")] {
        let error = machine.spawn(spec).await.unwrap_err();
        assert_eq!((error.kind(), error.context_value("field")), (ErrorKind::InvalidInput, Some(field)));
    }
    assert!(fleet.commands().list(CommandFilter::default()).await.unwrap().is_empty());
    assert_eq!(fleet.machine("nowhere/x").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(fleet.machine("a/b/c/d").unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_ends_detached_commands_and_refuses_new_ones() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = fleet_in(dir.path());
    let machine = fleet.machine("local").unwrap();
    let handle = machine.spawn(CommandSpec::argv(["sleep", "1000"])).await.unwrap().detach();
    fleet.shutdown().await;
    assert_eq!(handle.wait().await.unwrap().reason, Some(EndReason::Shutdown));
    assert_eq!(fleet.commands().get(handle.id()).await.unwrap().state, CommandState::Cancelled);
    assert_eq!(machine.spawn(CommandSpec::argv(["true"])).await.unwrap_err().kind(), ErrorKind::RateLimited);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_commands_at_once_are_refused_and_the_place_comes_back() {
    let mut limits = FleetLimits::default();
    limits.commands = 1;
    let host = Arc::new(Local::new(LocalConfig::default()));
    let fleet = Fleet::builder().with_host(host).with_limits(limits).build();
    let machine = fleet.machine("local").unwrap();
    let first = machine.spawn(CommandSpec::argv(["cat"]).with_stdin()).await.unwrap();
    let error = machine.spawn(CommandSpec::argv(["true"])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RateLimited);
    first.close_stdin().await;
    first.wait().await.unwrap();
    assert!(machine.spawn(CommandSpec::argv(["true"])).await.unwrap().wait().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn events_tell_every_state_in_order() {
    let fleet = Fleet::local();
    let mut events = fleet.events();
    let command = fleet.machine("local").unwrap().spawn(CommandSpec::argv(["false"])).await.unwrap();
    command.wait().await.unwrap();
    let mut states = vec![];
    while states.last() != Some(&CommandState::Failed) {
        if let FleetEvent::Command(record) = events.recv().await.unwrap() {
            assert_eq!(record.id, command.id());
            states.push(record.state);
        }
    }
    assert_eq!(states, [CommandState::Queued, CommandState::Running, CommandState::Failed]);
    assert_eq!(fleet.commands().running(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_left_running_become_lost_and_keep_their_output() {
    let dir = tempfile::tempdir().unwrap();
    let id = CommandId::generate();
    // A runtime that goes away without a word stands in for a crash of this process.
    let path = dir.path().to_owned();
    let crashed = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let fleet = fleet_in(&path);
            let machine = fleet.machine("local").unwrap();
            let spec = CommandSpec::shell("echo started; exec sleep 1000");
            let command = machine.spawn_with(&OpContext::default(), id, spec).await.unwrap();
            let mut stream = command.stream(Offset(0));
            assert!(matches!(stream.next().await, Some(Ok(CommandEvent::Output(_)))));
            let _ = command.detach();
        });
        runtime.shutdown_timeout(Duration::from_secs(5));
    });
    crashed.join().unwrap();
    let fleet = fleet_in(dir.path());
    let lost = fleet.commands().store().unwrap().mark_lost("the server was restarted").await.unwrap();
    assert_eq!(lost, [id]);
    let record = fleet.commands().get(id).await.unwrap();
    assert_eq!((record.state, record.output_end), (CommandState::Lost, Offset(8)));
    let (bytes, gaps, exit) = bytes_of(fleet.commands().stream(id, Offset(0)).await.unwrap()).await;
    assert_eq!((&bytes[..], gaps), (&b"started\n"[..], 0));
    assert!(exit.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_held_back_ends_when_it_must() {
    let fleet = Fleet::local();
    let machine = fleet.machine("local").unwrap();
    let held = || CommandSpec::argv(["yes"]).with_replay(64 * 1024, Overflow::Block);
    // Nobody ever reads.
    let spec = held().with_timeout(Duration::from_millis(50)).with_grace(Duration::from_millis(50));
    let command = machine.spawn(spec).await.unwrap();
    assert_eq!(command.wait().await.unwrap().reason, Some(EndReason::TimedOut));
    // The owner goes.
    let command = machine.spawn(held()).await.unwrap();
    let handle = command.handle();
    drop(command);
    assert_eq!(handle.wait().await.unwrap().reason, Some(EndReason::OwnerDropped));
    // It has ended by itself, with unread output, when the fleet shuts down.
    let spec =
        CommandSpec::argv(["head", "-c", "100000", "/dev/zero"]).with_replay(16 * 1024, Overflow::Block);
    let handle = machine.spawn(spec).await.unwrap().detach();
    fleet.shutdown().await;
    handle.wait().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn times_without_end_and_sizes_without_bound() {
    let fleet = Fleet::local();
    let machine = fleet.machine("local").unwrap();
    let mut spec = CommandSpec::argv(["echo", "x"]).with_timeout(Duration::MAX).with_grace(Duration::MAX);
    spec.drain = Duration::MAX;
    assert_eq!(machine.spawn(spec).await.unwrap().output().await.unwrap().stdout, b"x\n");
    for (cols, rows, field) in [(65535, 24, "cols"), (80, 65535, "rows"), (0, 24, "cols")] {
        let size = PtySize { cols, rows };
        let error = machine.spawn(CommandSpec::argv(["true"]).with_pty(size)).await.unwrap_err();
        assert_eq!(error.context_value("field"), Some(field));
        let spec = SessionSpec::new("s".parse().unwrap()).with_size(size);
        assert_eq!(machine.open_session(spec).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_starting_is_neither_missing_nor_lost() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = fleet_in(dir.path());
    let machine = fleet.machine("local").unwrap();
    for _ in 0..20 {
        let id = CommandId::generate();
        let cx = OpContext::default();
        let (mut events, commands) = (fleet.events(), fleet.commands().clone());
        let looking = tokio::spawn(async move {
            while !matches!(events.recv().await, Ok(FleetEvent::Command(r)) if r.id == id) {}
            bytes_of(commands.stream(id, Offset(0)).await.unwrap()).await
        });
        let command = machine.spawn_with(&cx, id, CommandSpec::argv(["echo", "here"])).await.unwrap();
        let (bytes, gaps, exit) = looking.await.unwrap();
        assert_eq!((&bytes[..], gaps, exit.unwrap().success()), (&b"here\n"[..], 0, true));
        drop(command);
    }
}

/// This host, where every start waits until the gate is opened.
#[derive(Debug)]
struct Gated {
    host: Local,
    gate: Semaphore,
    /// One more each time a start has come to the gate.
    waiting: watch::Sender<usize>,
}

impl Gated {
    fn new() -> Arc<Self> {
        let host = Local::new(LocalConfig::default());
        Arc::new(Self { host, gate: Semaphore::new(0), waiting: watch::channel(0).0 })
    }
}

#[async_trait::async_trait]
impl Executor for Gated {
    fn capabilities(&self) -> ExecCapabilities {
        self.host.capabilities()
    }
    async fn ping(&self, cx: &OpContext) -> Result<()> {
        self.host.ping(cx).await
    }
    async fn spawn(&self, cx: &OpContext, id: CommandId, spec: &CommandSpec) -> Result<RawProcess> {
        self.waiting.send_modify(|n| *n += 1);
        self.gate.acquire().await.unwrap().forget();
        self.host.spawn(cx, id, spec).await
    }
    async fn reattach(&self, cx: &OpContext, id: CommandId, from: Offset) -> Result<RawProcess> {
        self.host.reattach(cx, id, from).await
    }
    async fn open_session(&self, cx: &OpContext, spec: SessionSpec) -> Result<Arc<dyn Session>> {
        self.host.open_session(cx, spec).await
    }
    fn files(&self) -> Result<Arc<dyn FileSystem>> {
        self.host.files()
    }
    async fn connect(&self, cx: &OpContext, to: &HostPort) -> Result<BoxConnection> {
        self.host.connect(cx, to).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_starting_can_be_cancelled_and_steered() {
    let gated = Gated::new();
    let fleet = Fleet::builder().with_host(gated.clone()).with_store(Arc::new(MemoryStore::new())).build();
    let machine = fleet.machine("local").unwrap();
    let start = |id| {
        let machine = machine.clone();
        let spec = CommandSpec::argv(["sleep", "1000"]).with_on_drop(OnDrop::Detach);
        tokio::spawn(async move { machine.spawn_with(&OpContext::default(), id, spec).await })
    };
    let commands = fleet.commands();

    // The gate stays shut: the start itself is given up.
    let id = CommandId::generate();
    let starting = start(id);
    gated.waiting.subscribe().wait_for(|n| *n == 1).await.unwrap();
    let record = commands.cancel(id).await.unwrap();
    assert_eq!(record.state, CommandState::Cancelled, "{record:?}");
    assert_eq!(starting.await.unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(commands.running(), 0);
    assert_eq!(commands.cancel(id).await.unwrap().state, CommandState::Cancelled, "twice is fine");

    // Whoever wants to signal it waits for the gate.
    let id = CommandId::generate();
    let starting = start(id);
    gated.waiting.subscribe().wait_for(|n| *n == 2).await.unwrap();
    let steering = {
        let commands = commands.clone();
        tokio::spawn(async move { commands.steer(id).await?.signal(Signal::Kill).await })
    };
    gated.gate.add_permits(1);
    steering.await.unwrap().unwrap();
    let _owner = starting.await.unwrap().unwrap();
    let record = commands.wait(id).await.unwrap();
    assert_eq!(record.exit.unwrap().kind, ExitKind::Signal(9));
    assert_eq!(commands.steer(id).await.unwrap_err().kind(), ErrorKind::InvalidState);
    let nobody = CommandId::generate();
    assert_eq!(commands.steer(nobody).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(commands.cancel(nobody).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_is_recognised_by_all_of_the_request_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = fleet_in(dir.path());
    let id = CommandId::generate();
    let spec = |value: &str| CommandSpec::argv(["true"]).with_env("PASSWORD", value);
    let machine = fleet.machine("local").unwrap();
    machine.spawn_with(&OpContext::default(), id, spec("hunter2")).await.unwrap().output().await.unwrap();
    fleet.shutdown().await;
    drop((machine, fleet));

    let fleet = fleet_in(dir.path());
    let record = fleet.commands().get(id).await.unwrap();
    let is_repeat = |value| fleet.commands().is_repeat(&record, &record.target, &spec(value));
    assert!(is_repeat("hunter2") && !is_repeat("hunter3"));
    let elsewhere = "multipass/dev1".parse().unwrap();
    assert!(!fleet.commands().is_repeat(&record, &elsewhere, &spec("hunter2")));
    // Records of before there were digests: what they show has to do.
    let mut old = record.clone();
    old.request = None;
    assert!(fleet.commands().is_repeat(&old, &old.target, &spec("hunter3")));
    assert!(!fleet.commands().is_repeat(&old, &old.target, &spec("hunter2").with_cwd("/")));
    // Another store has another key: nobody can compare digests across stores, or try values on one.
    let other = MemoryStore::new().request_key().unwrap().digest(&record.target, &spec("hunter2"));
    assert_ne!(record.request, Some(other));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_waits_for_its_readers_does_not_wait_for_those_who_only_watch() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = fleet_in(dir.path());
    let spec = CommandSpec::argv(["seq", "1", "400000"]).with_replay(64 * 1024, Overflow::Block);
    let command = fleet.machine("local").unwrap().spawn(spec).await.unwrap();
    let expected: Vec<u8> = (1..=400_000).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    let idle = fleet.commands().watch(command.id(), Offset(0)).await.unwrap();
    let (bytes, gaps, exit) = bytes_of(command.handle().stream(Offset(0))).await;
    assert!(bytes == expected && gaps == 0 && exit.unwrap().success());
    // It has missed nothing: the rest comes from the log.
    let (bytes, gaps, exit) = bytes_of(idle).await;
    assert!(bytes == expected && gaps == 0 && exit.unwrap().success());
}
