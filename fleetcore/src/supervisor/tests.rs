//! The order of process, log and readers while the log is slow.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream::BoxStream};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{Recording, RunningCommand, actor::supervise};
use crate::{
    Channel, CommandEvent, CommandFilter, CommandId, CommandRecord, CommandSpec, CommandState, CommandStore,
    EndReason, Error, ErrorKind, ExitKind, ExitStatus, Offset, OutputChunk, Overflow, PtySize, Result,
    Signal, StateChange, Target,
    raw::{ProcessControl, RawProcess},
};

/// Takes a chunk for every permit. Knows one record.
#[derive(Debug)]
struct SlowStore {
    permits: Semaphore,
    kept: Mutex<Vec<Bytes>>,
    record: Mutex<CommandRecord>,
}

#[async_trait]
impl CommandStore for SlowStore {
    async fn insert(&self, _record: CommandRecord) -> Result<()> {
        Ok(())
    }
    async fn get(&self, _id: CommandId) -> Result<CommandRecord> {
        Ok(self.record.lock().clone())
    }
    async fn list(&self, _filter: CommandFilter) -> Result<Vec<CommandRecord>> {
        Ok(Vec::new())
    }
    async fn transition(&self, _id: CommandId, _revision: u64, change: StateChange) -> Result<CommandRecord> {
        let mut record = self.record.lock();
        *record = record.apply(&change)?;
        Ok(record.clone())
    }
    async fn append_output(&self, _id: CommandId, chunk: &OutputChunk) -> Result<()> {
        self.permits.acquire().await.unwrap().forget();
        self.kept.lock().push(chunk.data.clone());
        Ok(())
    }
    async fn read_output(
        &self,
        _id: CommandId,
        _from: Offset,
    ) -> Result<BoxStream<'static, Result<OutputChunk>>> {
        Err(Error::unsupported("read_output"))
    }
    async fn prune(&self, _ended_before: Timestamp) -> Result<u64> {
        Ok(0)
    }
    async fn mark_lost(&self, _why: &str) -> Result<Vec<CommandId>> {
        Ok(Vec::new())
    }
}

#[derive(Debug)]
struct NoControl;

#[async_trait]
impl ProcessControl for NoControl {
    async fn signal(&self, _signal: Signal) -> Result<()> {
        Ok(())
    }
    async fn resize(&self, _size: PtySize) -> Result<()> {
        Ok(())
    }
    fn disarm(&mut self) {}
}

/// A process that has printed five chunks of 100 bytes and waits for `exit`; how many were taken from it is counted.
fn start(replay: usize, exit: &Arc<Semaphore>) -> (RunningCommand, Arc<SlowStore>, Arc<AtomicUsize>) {
    let spec = CommandSpec::argv(["it"]).with_replay(replay, Overflow::Block);
    let id = CommandId::generate();
    let record = CommandRecord::new(id, Target::local(), &spec, None);
    let store = Arc::new(SlowStore {
        permits: Semaphore::new(0),
        kept: Mutex::default(),
        record: Mutex::new(record.clone()),
    });
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    let output = futures::stream::iter(0..5u8).map(move |n| {
        count.fetch_add(1, Ordering::Relaxed);
        Ok((Channel::Stdout, Bytes::from(vec![n; 100])))
    });
    let exit = Arc::clone(exit);
    let raw = RawProcess {
        pid: None,
        output: output.boxed(),
        stdin: None,
        exit: async move {
            exit.acquire().await.unwrap().forget();
            Ok(ExitKind::Code(0))
        }
        .boxed(),
        control: Box::new(NoControl),
    };
    let recording = Recording { store: Some(store.clone()), ..Recording::default() };
    (supervise(raw, spec, Arc::new(record), recording, false), store, taken)
}

/// Lets the supervisor do all it can.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn one_chunk_is_read_while_the_log_is_busy_and_readers_see_only_what_it_has() {
    let exit = Arc::new(Semaphore::new(0));
    let (command, store, taken) = start(1 << 20, &exit);
    let mut events = command.stream(Offset(0));
    for n in 0..5u8 {
        settle().await;
        assert_eq!(
            taken.load(Ordering::Relaxed),
            (usize::from(n) + 2).min(5),
            "one in the log's hands, one ahead"
        );
        assert!(events.next().now_or_never().is_none(), "nothing is told before it is kept");
        if n == 3 {
            // It ends while the log has one chunk and the next one waits.
            exit.add_permits(1);
            settle().await;
            assert!(events.next().now_or_never().is_none());
        }
        store.permits.add_permits(1);
        let Some(Ok(CommandEvent::Output(chunk))) = events.next().await else { panic!("chunk {n}") };
        assert_eq!((chunk.offset.0, &chunk.data[..]), (u64::from(n) * 100, &[n; 100][..]));
        assert_eq!(store.kept.lock().len(), usize::from(n) + 1);
    }
    let Some(Ok(CommandEvent::Exited(status))) = events.next().await else { panic!("the end") };
    assert!(status.success() && !status.leaked);
    assert_eq!(store.record.lock().output_end, Offset(500));
}

#[tokio::test]
async fn nothing_is_read_ahead_of_a_window_that_the_chunk_before_will_fill() {
    let exit = Arc::new(Semaphore::new(0));
    let (command, store, taken) = start(150, &exit);
    let mut events = command.stream(Offset(0));
    store.permits.add_permits(1);
    settle().await;
    // The first is in the window and the second on its way: that is 200 bytes.
    assert_eq!(taken.load(Ordering::Relaxed), 2);
    store.permits.add_permits(1);
    settle().await;
    assert_eq!(taken.load(Ordering::Relaxed), 2, "the window is full");
    let first = events.next().await;
    assert!(matches!(first, Some(Ok(CommandEvent::Output(c))) if c.offset.0 == 0));
    settle().await;
    assert_eq!(taken.load(Ordering::Relaxed), 3, "the reader has made room for one");
    store.permits.add_permits(5);
    exit.add_permits(1);
    let mut bytes = 100;
    while let Some(Ok(event)) = events.next().await {
        if let CommandEvent::Output(chunk) = event {
            assert_eq!(chunk.offset.0, bytes);
            bytes += chunk.data.len() as u64;
        }
    }
    assert_eq!(bytes, 500);
}

/// What runs elsewhere under a supervisor of its own.
#[derive(Debug)]
struct Elsewhere {
    verdict: ExitStatus,
    asked_to_end: Arc<AtomicUsize>,
    armed: bool,
    killed: Arc<AtomicUsize>,
}

#[async_trait]
impl ProcessControl for Elsewhere {
    async fn signal(&self, signal: Signal) -> Result<()> {
        Err(Error::unsupported("signal").with_context("signal", format!("{signal:?}")))
    }
    async fn resize(&self, _size: PtySize) -> Result<()> {
        Ok(())
    }
    fn disarm(&mut self) {
        self.armed = false;
    }
    async fn end(&self, _polite: Signal, _grace: Duration) -> Result<bool> {
        self.asked_to_end.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }
    fn verdict(&self) -> Option<ExitStatus> {
        Some(self.verdict)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        if self.armed {
            self.killed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

struct Adopted {
    command: RunningCommand,
    exit: Arc<Semaphore>,
    asked_to_end: Arc<AtomicUsize>,
    killed: Arc<AtomicUsize>,
}

/// A command that was lost after 300 bytes and is taken up again; its output goes on with `output`.
fn adopt(verdict: ExitStatus, output: Vec<Result<(Channel, Bytes)>>) -> Adopted {
    let spec = CommandSpec::argv(["it"]);
    let record = CommandRecord::new(CommandId::generate(), Target::local(), &spec, None);
    let mut lost = StateChange::to(CommandState::Lost).with_error("gone");
    lost.output_end = Offset(300);
    let record = record.apply(&lost).unwrap();
    let (exit, asked_to_end, killed) = (Arc::new(Semaphore::new(0)), Arc::default(), Arc::default());
    let wait = Arc::clone(&exit);
    let control = Elsewhere {
        verdict,
        armed: true,
        asked_to_end: Arc::clone(&asked_to_end),
        killed: Arc::clone(&killed),
    };
    let raw = RawProcess {
        pid: None,
        output: futures::stream::iter(output).boxed(),
        stdin: None,
        exit: async move {
            wait.acquire().await.unwrap().forget();
            Ok(verdict.kind)
        }
        .boxed(),
        control: Box::new(control),
    };
    let command = supervise(raw, spec, Arc::new(record), Recording::default(), true);
    Adopted { command, exit, asked_to_end, killed }
}

fn bytes(text: &'static str) -> Result<(Channel, Bytes)> {
    Ok((Channel::Stdout, Bytes::from(text)))
}

#[tokio::test]
async fn what_is_taken_up_again_goes_on_where_its_log_ends() {
    let gap = Error::new(ErrorKind::DataLoss, "forgotten").with_context("to", 310);
    let status = ExitStatus::new(ExitKind::Code(4)).with_leaked(true);
    let adopted = adopt(status, vec![bytes("abc"), Err(gap), bytes("xyz")]);
    let record = adopted.command.record();
    assert_eq!((record.state, &record.error, record.ended_at), (CommandState::Running, &None, None));
    let mut events = adopted.command.stream(Offset(300));
    adopted.exit.add_permits(1);
    let mut seen = vec![];
    while let Some(event) = events.next().await {
        seen.push(match event.unwrap() {
            CommandEvent::Output(c) => format!("{} {}", c.offset, String::from_utf8_lossy(&c.data)),
            CommandEvent::Gap { from, to } => format!("gap {from} {to}"),
            CommandEvent::Exited(s) => format!("{:?} {}", s.kind, s.leaked),
            other => format!("{other:?}"),
        });
    }
    assert_eq!(seen, ["300 abc", "gap 303 310", "310 xyz", "Code(4) true"]);
    assert_eq!(adopted.command.record().state, CommandState::Failed);
    assert_eq!(adopted.killed.load(Ordering::Relaxed), 0, "it ended by itself");
}

#[tokio::test]
async fn the_supervisor_beside_the_process_ends_it_and_knows_whether_it_did() {
    let requested = Some(EndReason::Requested);
    let by_us = ExitStatus::new(ExitKind::Signal(15)).with_reason(requested);
    let by_itself = ExitStatus::new(ExitKind::Code(0));
    for (verdict, state) in [(by_us, CommandState::Cancelled), (by_itself, CommandState::Succeeded)] {
        let adopted = adopt(verdict, vec![]);
        adopted.command.cancel();
        settle().await;
        assert_eq!(adopted.asked_to_end.load(Ordering::Relaxed), 1);
        adopted.exit.add_permits(1);
        assert_eq!(adopted.command.wait().await.unwrap(), verdict);
        assert_eq!(adopted.command.record().state, state);
    }
}

#[tokio::test]
async fn what_runs_elsewhere_is_left_alone_when_this_process_ends_unless_somebody_owns_it() {
    let adopted = adopt(ExitStatus::new(ExitKind::Code(0)), vec![]);
    let owned = adopted.command.handle();
    owned.leave();
    settle().await;
    assert_eq!(adopted.asked_to_end.load(Ordering::Relaxed), 1, "an owned command ends with its owner");

    let adopted = adopt(ExitStatus::new(ExitKind::Code(0)), vec![]);
    let handle = adopted.command.detach();
    handle.leave();
    assert_eq!(handle.wait().await.unwrap().kind, ExitKind::Unknown);
    settle().await;
    assert_eq!(
        (adopted.asked_to_end.load(Ordering::Relaxed), adopted.killed.load(Ordering::Relaxed)),
        (0, 0)
    );
    assert_eq!(handle.record().state, CommandState::Running, "the record waits for whoever takes it up");
}
