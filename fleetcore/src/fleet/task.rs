//! Work of our own under the supervisor: it has a record, output, waiters and a cancel like any command.

use std::{collections::VecDeque, fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    Channel, CommandId, CommandSpec, Error, ErrorKind, ExecCapabilities, Executor, ExitKind, FileSystem,
    HostPort, Offset, OpContext, PtySize, Result, Session, SessionSpec, Signal,
    raw::{BoxConnection, ProcessControl, RawProcess},
};

/// Lines that may wait for the log.
const LINES: usize = 1024;
/// What SIGKILL is called in a status.
const KILLED: i32 = 9;

/// What is to be done: with a context whose cancellation asks it to stop, and a place for lines of output. Gives the last
/// lines.
pub(super) type Work =
    Box<dyn FnOnce(OpContext, mpsc::Sender<String>) -> BoxFuture<'static, Result<Vec<String>>> + Send>;

/// Runs one piece of work as if it were a process: lines are output of the channel `Log`, success is exit code 0, an error
/// is exit code 1 with its text in the record. A polite signal cancels the work; KILL stops waiting for it, while it goes
/// on to leave things tidy.
pub(super) struct Task {
    work: Mutex<Option<Work>>,
    /// All lines are JSON, also those about failure.
    json: bool,
}

impl Task {
    pub(super) fn executor(json: bool, work: Work) -> Arc<dyn Executor> {
        Arc::new(Self { work: Mutex::new(Some(work)), json })
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").finish_non_exhaustive()
    }
}

/// An error as programs read it, with the names of the HTTP API.
pub(super) fn problem(error: &Error) -> serde_json::Value {
    let context: serde_json::Map<_, _> = error.context().map(|(k, v)| (k.to_owned(), v.into())).collect();
    json!({
        "code": error.kind().code(),
        "detail": error.message(),
        "operation": error.operation(),
        "context": context,
    })
}

/// How the work ended.
struct End {
    lines: Vec<String>,
    error: Option<String>,
}

impl End {
    fn of(result: Result<Vec<String>>, json: bool) -> Self {
        match result {
            Ok(lines) => Self { lines, error: None },
            Err(error) => {
                let text = error.to_string();
                let mut lines = vec![json!({ "problem": problem(&error) }).to_string()];
                if !json {
                    lines.push(text.clone());
                }
                Self { lines, error: Some(text) }
            }
        }
    }
}

type Ended = watch::Receiver<Option<Arc<End>>>;

/// The end; work that panicked has one too.
async fn end(ended: &mut Ended) -> Arc<End> {
    match ended.wait_for(Option::is_some).await {
        Ok(end) => end.clone(),
        Err(_) => None,
    }
    .unwrap_or_else(|| {
        let error = Error::new(ErrorKind::Unexpected, "the work was aborted; the log says more");
        Arc::new(End::of(Err(error), false))
    })
}

struct Lines {
    queue: mpsc::Receiver<String>,
    open: bool,
    ended: Ended,
    killed: CancellationToken,
    last: Option<VecDeque<String>>,
}

impl Lines {
    async fn next(mut self) -> Option<(Result<(Channel, Bytes)>, Self)> {
        loop {
            if let Some(last) = &mut self.last {
                return last.pop_front().map(|line| (Ok(chunk(line)), self));
            }
            tokio::select! {
                biased;
                line = self.queue.recv(), if self.open => match line {
                    Some(line) => return Some((Ok(chunk(line)), self)),
                    None => self.open = false,
                },
                end = end(&mut self.ended) => {
                    // Somebody may still hold the queue's other end, so it need not be closed.
                    let mut last = VecDeque::new();
                    while let Ok(line) = self.queue.try_recv() {
                        last.push_back(line);
                    }
                    last.extend(end.lines.iter().cloned());
                    self.last = Some(last);
                }
                () = self.killed.cancelled() => return None,
            }
        }
    }
}

fn chunk(mut line: String) -> (Channel, Bytes) {
    if !line.ends_with('\n') {
        line.push('\n');
    }
    (Channel::Log, line.into())
}

#[async_trait]
impl Executor for Task {
    fn capabilities(&self) -> ExecCapabilities {
        ExecCapabilities::default()
    }

    async fn ping(&self, _: &OpContext) -> Result<()> {
        Ok(())
    }

    async fn spawn(&self, cx: &OpContext, _: CommandId, _: &CommandSpec) -> Result<RawProcess> {
        let work = self.work.lock().take().ok_or_else(|| Error::unsupported("spawn"))?;
        let (stop, killed) = (CancellationToken::new(), CancellationToken::new());
        let (lines, queue) = mpsc::channel(LINES);
        let (done, ended) = watch::channel(None);
        // Neither the deadline nor the cancellation of the request that started it.
        let inner = OpContext {
            deadline: None,
            cancel: stop.clone(),
            actor: cx.actor.clone(),
            progress: Some(lines.clone()),
        };
        let json = self.json;
        tokio::spawn(async move {
            let end = End::of(work(inner, lines).await, json);
            done.send_replace(Some(Arc::new(end)));
        });
        let output = Lines { queue, open: true, ended: ended.clone(), killed: killed.clone(), last: None };
        let (mut exit, exit_killed) = (ended.clone(), killed.clone());
        let exit = async move {
            tokio::select! {
                biased;
                end = end(&mut exit) => Ok(ExitKind::Code(i32::from(end.error.is_some()))),
                () = exit_killed.cancelled() => Ok(ExitKind::Signal(KILLED)),
            }
        };
        Ok(RawProcess {
            pid: None,
            output: stream::unfold(output, Lines::next).boxed(),
            stdin: None,
            exit: exit.boxed(),
            control: Box::new(Control { stop: Some(stop), killed, ended }),
        })
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

    async fn connect(&self, _cx: &OpContext, _to: &HostPort) -> Result<BoxConnection> {
        Err(Error::unsupported("connect"))
    }
}

struct Control {
    /// `None` once it is disarmed.
    stop: Option<CancellationToken>,
    killed: CancellationToken,
    ended: Ended,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

#[async_trait]
impl ProcessControl for Control {
    async fn signal(&self, signal: Signal) -> Result<()> {
        match signal {
            Signal::Terminate | Signal::Interrupt | Signal::Hangup | Signal::Quit => {
                if let Some(stop) = &self.stop {
                    stop.cancel();
                }
            }
            Signal::Kill => {
                if let Some(stop) = &self.stop {
                    stop.cancel();
                }
                self.killed.cancel();
            }
            Signal::Continue => {}
            _ => return Err(Error::unsupported("signal").with_context("signal", format!("{signal:?}"))),
        }
        Ok(())
    }

    async fn resize(&self, _: PtySize) -> Result<()> {
        Err(Error::new(ErrorKind::InvalidState, "there is no terminal").with_operation("resize"))
    }

    fn disarm(&mut self) {
        self.stop = None;
    }

    fn reason(&self) -> Option<String> {
        self.ended.borrow().as_ref().and_then(|end| end.error.clone())
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Some(stop) = &self.stop {
            stop.cancel();
        }
    }
}
