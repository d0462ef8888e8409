//! Running things on a machine.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _},
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    client::Client,
    error::{Class, Failure},
    input::Pump,
    plain,
    provider::Inner,
    wire::{Decoder, frame, header},
};
use crate::{
    Channel, CommandId, CommandSpec, Error, ErrorKind, ExecCapabilities, ExitKind, HostPort, Io, MachineId,
    MachineState, Offset, PtySize, Result, Retry, SessionSpec, Signal,
    raw::{BoxConnection, Executor, FileSystem, OpContext, ProcessControl, RawProcess, Session},
    sim::relay,
};

/// The program on the machine. Comments and empty lines stay here.
const RUNNER: &str = include_str!("runner.py");
/// Longest header: it goes through the client's standard input, which loses what is beyond two megabytes.
const HEADER_MAX_BYTES: usize = 900 << 10;
/// Frames that may wait for the client.
const FRAME_QUEUE: usize = 64;
/// Pieces of output that may wait here. The runner sends 256 KiB ahead, and a piece costs 256 bytes of that.
const OUTPUT_QUEUE: usize = 1088;
/// What a piece costs besides its length; the runner counts the same.
const PIECE_COST: u32 = 256;
/// Output that is consumed before the runner may send as much again.
const CREDIT_STEP: u32 = 64 << 10;
/// How often the runner is told what was consumed. That takes nine bytes of the two megabytes a client carries in; then
/// the runner sends as it can, and a slow reader is felt through the pipes alone.
const CREDITS_MAX: u32 = 50_000;
/// Credit without an end.
const ENDLESS: u32 = u32::MAX;
/// Room for input on this side.
const INPUT_BUFFER: usize = 256 << 10;
/// How long the runner may take to kill a tree and go, before its connection is cut, which makes it do the same.
const FAREWELL_LIMIT: Duration = Duration::from_secs(10);
/// How long it is remembered that a machine has no Python: somebody may install it.
const PLAIN_FRESH: Duration = Duration::from_secs(600);
/// How much of the client's complaint is kept.
const COMPLAINT_MAX_BYTES: usize = 8 << 10;

/// One machine.
#[derive(Clone)]
pub(super) struct MachineExecutor {
    inner: Arc<Inner>,
    id: MachineId,
}

impl fmt::Debug for MachineExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MachineExecutor").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The runner as one argument without line breaks, which releases before 1.13 do not carry.
fn runner() -> String {
    let code = RUNNER.lines().filter(|l| !l.trim_start().starts_with('#') && !l.trim().is_empty());
    let code = code.collect::<Vec<_>>().join("\n");
    // Rust's and Python's escapes are the same for ASCII.
    format!("exec({code:?})")
}

impl MachineExecutor {
    pub(super) fn new(inner: Arc<Inner>, id: MachineId) -> Self {
        Self { inner, id }
    }

    pub(super) fn client(&self) -> &Arc<Client> {
        &self.inner.client
    }

    pub(super) fn exec_limit(&self) -> Duration {
        self.inner.config.exec_limit
    }

    /// Up to the words of the command.
    pub(super) async fn exec_args(&self) -> Result<Vec<String>, Failure> {
        let mut args = vec!["exec".to_owned()];
        if self.client().version().await?.at_least(1, 10) {
            // No look-up of mounts, and no `cd` in front.
            args.push("-n".to_owned());
        }
        args.extend([self.id.as_str(), "--"].map(str::to_owned));
        Ok(args)
    }

    async fn args(&self, mark: &str, as_root: bool) -> Result<Vec<String>, Failure> {
        let mut args = self.exec_args().await?;
        if as_root {
            args.extend(["sudo", "-n"].map(str::to_owned));
        }
        args.extend(["python3", "-I", "-S", "-c"].map(str::to_owned));
        args.extend([runner(), mark.to_owned()]);
        Ok(args)
    }

    async fn start(&self, id: CommandId, spec: &CommandSpec) -> Result<RawProcess> {
        let header = header(id, spec)?;
        if header.len() > HEADER_MAX_BYTES {
            let rule = format!("together with env at most {HEADER_MAX_BYTES} bytes");
            return Err(Error::invalid("argv", rule).with_operation("spawn"));
        }
        let mark = format!("fleetcore-{:032x}", rand::random::<u128>());
        let args = self.args(&mark, spec.user.is_some()).await?;
        let mut raw = self.client().spawn("exec", &args, true).await?;
        let mut wire = Wire { decoder: Decoder::new(&mark), complaint: Vec::new() };
        // A client that does not take it ends, and says why.
        if let Some(stdin) = &mut raw.stdin {
            let _ = stdin.write_all(&header).await;
        }
        loop {
            match wire.next(&mut raw.output).await.map_err(|e| self.about(e))? {
                Some((b'S', answer)) => {
                    let spool = String::from_utf8_lossy(&answer);
                    let spool = spool.split_once(' ').map_or("", |(_, s)| s).to_owned();
                    return Ok(self.assemble(raw, wire, spec, spool, header.len() as u64));
                }
                Some((b'F', answer)) => {
                    raw.control.disarm();
                    return Err(self.about(refusal(&String::from_utf8_lossy(&answer), spec)));
                }
                Some(_) => {}
                None => {
                    let exit = raw.exit.await;
                    raw.control.disarm();
                    return Err(self.about(wire.lost(exit)));
                }
            }
        }
    }

    /// With Python on the machine; without, by its shell alone.
    async fn start_somehow(&self, id: CommandId, spec: &CommandSpec) -> Result<RawProcess> {
        let is_plain = |at: &Instant| at.elapsed() < PLAIN_FRESH;
        // Another user takes the runner: without it, that is told.
        let known = spec.user.is_none() && self.inner.plain.lock().get(&self.id).is_some_and(is_plain);
        if known {
            return self.start_plain(spec).await;
        }
        match self.start(id, spec).await {
            Err(error) if spec.user.is_none() && plain::lacks_python(&error) => {
                tracing::info!(machine = %self.id, "there is no python3: commands run with the shell alone");
                {
                    let mut known = self.inner.plain.lock();
                    known.retain(|_, at| is_plain(at));
                    known.insert(self.id.clone(), Instant::now());
                }
                self.start_plain(spec).await
            }
            other => other,
        }
    }

    pub(super) fn about(&self, error: Error) -> Error {
        error.with_context("machine", &self.id)
    }

    /// Puts the parts of a running program together.
    fn assemble(
        &self,
        raw: RawProcess,
        wire: Wire,
        spec: &CommandSpec,
        spool: String,
        used: u64,
    ) -> RawProcess {
        let RawProcess { output, stdin, exit, control, .. } = raw;
        let (to_machine, frames) = mpsc::channel::<Bytes>(FRAME_QUEUE);
        if let Some(stdin) = stdin {
            tokio::spawn(write_frames(stdin, frames));
        }
        let (pieces, from_machine) = mpsc::channel(OUTPUT_QUEUE);
        let (tell_exit, told_exit) = oneshot::channel();
        let (taken, seen_taken) = watch::channel(0);
        let ended = CancellationToken::new();
        let input_closed = CancellationToken::new();
        let reader = Reader {
            machine: self.id.clone(),
            wire,
            pieces: Some(pieces),
            exit: Some(tell_exit),
            taken,
            input_closed: input_closed.clone(),
            to_machine: to_machine.clone(),
        };
        let done = ended.clone();
        tokio::spawn(async move {
            reader.run(output, exit).await;
            done.cancel();
        });
        let wants_input = matches!(spec.io, Io::Pipes { stdin: true, .. } | Io::Pty(_));
        let stdin = wants_input.then(|| {
            let (ours, theirs) = tokio::io::duplex(INPUT_BUFFER);
            let pump = Pump {
                client: Arc::clone(self.client()),
                machine: self.id.clone(),
                spool,
                to_machine: to_machine.clone(),
                taken: seen_taken,
                closed: input_closed,
                used,
                limit: self.inner.config.change_limit,
            };
            tokio::spawn(pump.run(theirs));
            Box::pin(ours) as Pin<Box<dyn AsyncWrite + Send>>
        });
        let exit: BoxFuture<'static, Result<ExitKind>> = async move {
            told_exit
                .await
                .unwrap_or_else(|_| Err(Error::new(ErrorKind::Unavailable, "the connection was lost")))
        }
        .boxed();
        RawProcess {
            pid: None,
            output: paid(from_machine, to_machine.clone()).boxed(),
            stdin,
            exit,
            control: Box::new(Control {
                to_machine,
                client: Arc::new(Mutex::new(Some(control))),
                ended,
                terminal: matches!(spec.io, Io::Pty(_)),
                armed: true,
            }),
        }
    }
}

/// Output, with news to the runner about what was consumed.
fn paid(
    from_machine: mpsc::Receiver<(Channel, Bytes)>,
    to_machine: mpsc::Sender<Bytes>,
) -> impl futures::Stream<Item = Result<(Channel, Bytes)>> + Send + 'static {
    stream::unfold(
        (from_machine, to_machine, 0u32, 0u32),
        |(mut pieces, to_machine, mut owed, mut told)| async move {
            let (channel, data) = pieces.recv().await?;
            owed =
                owed.saturating_add(u32::try_from(data.len()).unwrap_or(u32::MAX)).saturating_add(PIECE_COST);
            // When the queue is full there is a next time: the runner has not used up what it may send.
            if owed >= CREDIT_STEP && told < CREDITS_MAX {
                let credit = if told + 1 == CREDITS_MAX { ENDLESS } else { owed };
                if to_machine.try_send(frame(b'R', &credit.to_be_bytes())).is_ok() {
                    (owed, told) = (0, told + 1);
                }
            }
            Some((Ok((channel, data)), (pieces, to_machine, owed, told)))
        },
    )
}

async fn write_frames(mut stdin: Pin<Box<dyn AsyncWrite + Send>>, mut frames: mpsc::Receiver<Bytes>) {
    while let Some(frame) = frames.recv().await {
        if stdin.write_all(&frame).await.is_err() {
            return; // it has ended
        }
    }
}

/// What the client prints.
struct Wire {
    decoder: Decoder,
    complaint: Vec<u8>,
}

impl Wire {
    /// The next frame; `None` when the client has closed its output.
    async fn next(
        &mut self,
        output: &mut (impl futures::Stream<Item = Result<(Channel, Bytes)>> + Unpin),
    ) -> Result<Option<(u8, Bytes)>> {
        loop {
            if let Some(frame) = self.decoder.next()? {
                return Ok(Some(frame));
            }
            match output.next().await {
                Some(Ok((Channel::Stderr, data))) => {
                    let room = COMPLAINT_MAX_BYTES.saturating_sub(self.complaint.len());
                    self.complaint.extend(data.iter().take(room));
                }
                Some(Ok((_, data))) => self.decoder.push(&data),
                Some(Err(e)) => return Err(e),
                None => return Ok(None),
            }
        }
    }

    /// Why the client ended too early.
    fn lost(&self, exit: Result<ExitKind>) -> Error {
        let complaint = String::from_utf8_lossy(&self.complaint);
        match exit {
            Ok(ExitKind::Code(126 | 127)) => {
                Error::new(ErrorKind::Unsupported, "the machine lacks a program that commands need")
                    .with_context("said", complaint.trim())
                    .with_context("hint", "install python3 on it; cloud-init needs it too")
            }
            Ok(ExitKind::Code(code)) if !complaint.trim().is_empty() => {
                Failure::classify("exec", code, &complaint).into_error()
            }
            exit => Error::new(ErrorKind::Unavailable, "the connection to the machine was lost")
                .with_context("client", format!("{exit:?}"))
                .with_context("said", complaint.trim()),
        }
        .with_operation("spawn")
    }
}

/// What the runner could not do: stage, number and text of the error.
pub(super) fn refusal(answer: &str, spec: &CommandSpec) -> Error {
    let mut words = answer.splitn(3, ' ');
    let (stage, number) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let text = words.next().unwrap_or("it cannot be started").to_owned();
    // Numbers of Linux, see errno(3): that is what runs there, whatever runs here.
    let kind = match (stage, number) {
        ("user", "1" | "13") => ErrorKind::PermissionDenied,
        (_, "2") => ErrorKind::NotFound,
        ("cwd", "20") => ErrorKind::InvalidState,
        (_, "20") => ErrorKind::NotFound,
        (_, "1" | "13") => ErrorKind::PermissionDenied,
        (_, "7" | "8") => ErrorKind::InvalidInput,
        (_, "11" | "12" | "23" | "24") => ErrorKind::Unavailable,
        _ => ErrorKind::Unexpected,
    };
    let error = Error::new(kind, text).with_operation("spawn");
    match stage {
        "cwd" => {
            error.with_context("field", "cwd").with_context("cwd", spec.cwd.as_deref().unwrap_or("home"))
        }
        "user" => {
            error.with_context("field", "user").with_context("user", spec.user.as_deref().unwrap_or_default())
        }
        _ => error.with_context("program", spec.program.display().split(' ').next().unwrap_or_default()),
    }
}

/// Reads what comes from the machine until the client has ended.
struct Reader {
    machine: MachineId,
    wire: Wire,
    pieces: Option<mpsc::Sender<(Channel, Bytes)>>,
    exit: Option<oneshot::Sender<Result<ExitKind>>>,
    taken: watch::Sender<u64>,
    input_closed: CancellationToken,
    to_machine: mpsc::Sender<Bytes>,
}

impl Reader {
    async fn run(
        mut self,
        mut output: stream::BoxStream<'static, Result<(Channel, Bytes)>>,
        exit: BoxFuture<'static, Result<ExitKind>>,
    ) {
        let broken = loop {
            match self.wire.next(&mut output).await {
                Ok(Some((kind, data))) => self.take(kind, data).await,
                Ok(None) => break None,
                Err(e) => break Some(e),
            }
        };
        self.input_closed.cancel();
        self.pieces = None;
        if let Some(tell) = self.exit.take() {
            let why = match broken {
                Some(e) => e,
                None => self.wire.lost(exit.await),
            };
            let _ = tell.send(Err(why.with_context("machine", &self.machine)));
        } else if broken.is_none() {
            let _ = exit.await;
        }
    }

    async fn take(&mut self, kind: u8, data: Bytes) {
        let channel = match kind {
            b'O' => Channel::Stdout,
            b'E' => Channel::Stderr,
            b'P' => Channel::Pty,
            b'Z' => {
                self.pieces = None;
                return;
            }
            b'A' => {
                let n = data.first_chunk::<4>().map_or(0, |n| u32::from_be_bytes(*n));
                self.taken.send_modify(|taken| *taken += u64::from(n));
                return;
            }
            b'C' => return self.input_closed.cancel(),
            b'X' => {
                self.input_closed.cancel();
                if let Some(tell) = self.exit.take() {
                    let _ = tell.send(Ok(ending(&String::from_utf8_lossy(&data))));
                }
                return;
            }
            _ => return,
        };
        let Some(pieces) = &self.pieces else { return };
        if pieces.send((channel, data)).await.is_err() {
            // Nobody reads it: the program goes on as if somebody did.
            self.pieces = None;
            let to_machine = self.to_machine.clone();
            // Waiting for room here could stop what makes room.
            tokio::spawn(async move {
                let _ = to_machine.send(frame(b'R', &ENDLESS.to_be_bytes())).await;
            });
        }
    }
}

fn ending(text: &str) -> ExitKind {
    match text.split_once(' ').map(|(how, n)| (how, n.parse::<i32>())) {
        Some(("c", Ok(code))) => ExitKind::Code(code),
        Some(("s", Ok(signal))) => ExitKind::Signal(signal),
        _ => ExitKind::Unknown,
    }
}

/// Signals and the end.
struct Control {
    to_machine: mpsc::Sender<Bytes>,
    /// The client's own control: dropping it kills the client, which cuts the connection.
    client: Arc<Mutex<Option<Box<dyn ProcessControl>>>>,
    /// The client has ended.
    ended: CancellationToken,
    terminal: bool,
    armed: bool,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("ended", &self.ended.is_cancelled()).finish_non_exhaustive()
    }
}

impl Control {
    async fn send(&self, frame: Bytes) -> Result<()> {
        match timeout(FAREWELL_LIMIT, self.to_machine.send(frame)).await {
            // A program that is gone needs no signal.
            Ok(_) => Ok(()),
            Err(_) => Err(Error::new(ErrorKind::Timeout, "the machine does not take signals")
                .with_operation("signal")
                .with_retry(Retry::Temporary { after: None })),
        }
    }

    /// Cuts the connection if the client has not ended in a while.
    async fn farewell(client: Arc<Mutex<Option<Box<dyn ProcessControl>>>>, ended: CancellationToken) {
        let in_time = timeout(FAREWELL_LIMIT, ended.cancelled()).await.is_ok();
        let control = client.lock().take();
        if let Some(mut control) = control {
            if in_time {
                control.disarm();
            }
            // Killing searches for processes, which is no work for the runtime.
            let _ = tokio::task::spawn_blocking(move || drop(control)).await;
        }
    }
}

#[async_trait]
impl ProcessControl for Control {
    async fn signal(&self, signal: Signal) -> Result<()> {
        let number = match signal {
            Signal::Hangup => 1,
            Signal::Interrupt => 2,
            Signal::Quit => 3,
            Signal::Kill => 9,
            Signal::User1 => 10,
            Signal::User2 => 12,
            Signal::Terminate => 15,
            Signal::Continue => 18,
            Signal::Stop => 19,
        };
        if self.ended.is_cancelled() {
            return Ok(());
        }
        let number: i32 = number;
        let sent = self.send(frame(b'K', number.to_string().as_bytes())).await;
        if signal == Signal::Kill && sent.is_err() {
            // The runner kills everything when it loses us.
            let control = self.client.lock().take();
            let _ = tokio::task::spawn_blocking(move || drop(control)).await;
            return Ok(());
        }
        sent
    }

    async fn resize(&self, size: PtySize) -> Result<()> {
        let size = size.check()?;
        if !self.terminal {
            return Err(Error::new(ErrorKind::InvalidState, "command does not run on a terminal")
                .with_operation("resize"));
        }
        self.send(frame(b'W', format!("{} {}", size.cols, size.rows).as_bytes())).await
    }

    fn disarm(&mut self) {
        self.armed = false;
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let last = frame(if self.armed { b'G' } else { b'L' }, b"");
        // Without a runtime the client goes at once, and the runner notices.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (client, ended) = (Arc::clone(&self.client), self.ended.clone());
        let to_machine = self.to_machine.clone();
        runtime.spawn(async move {
            let send = async {
                let _ = to_machine.send(last).await;
                ended.cancelled().await;
            };
            let _ = timeout(FAREWELL_LIMIT, send).await;
            Self::farewell(client, ended).await;
        });
    }
}

#[async_trait]
impl Executor for MachineExecutor {
    fn capabilities(&self) -> ExecCapabilities {
        ExecCapabilities {
            pty: true,
            stdin: true,
            split_output: true,
            signals: true,
            run_as_user: true,
            connect: true,
            ..ExecCapabilities::default()
        }
    }

    /// Asks the list, not the machine: that costs nothing, and the daemon calls running what it has reached.
    async fn ping(&self, cx: &OpContext) -> Result<()> {
        let item = cx.guard("ping", self.inner.item(&self.id)).await?;
        if item.state() == MachineState::Running {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unavailable, "the machine is not up")
            .with_operation("ping")
            .with_context("machine", &self.id)
            .with_context("state", item.native_state))
    }

    async fn spawn(&self, cx: &OpContext, id: CommandId, spec: &CommandSpec) -> Result<RawProcess> {
        let limit = self.inner.config.exec_limit;
        let start = async {
            timeout(limit, self.start_somehow(id, spec)).await.unwrap_or_else(|_| {
                let what = format!("the machine did not start the command within {} s", limit.as_secs());
                Err(self.about(Failure::new(Class::TooSlow, "exec", what).into_error()))
            })
        };
        cx.guard("spawn", start).await
    }

    async fn reattach(&self, _cx: &OpContext, _id: CommandId, _from: Offset) -> Result<RawProcess> {
        Err(Error::unsupported("reattach"))
    }

    async fn open_session(&self, _cx: &OpContext, _spec: SessionSpec) -> Result<Arc<dyn Session>> {
        Err(Error::unsupported("open_session"))
    }

    fn files(&self) -> Result<Arc<dyn FileSystem>> {
        Err(Error::unsupported("files"))
    }

    /// By a small program on the machine: ports that listen on its loopback interface cannot be reached from here.
    async fn connect(&self, cx: &OpContext, to: &HostPort) -> Result<BoxConnection> {
        relay::connect(self, cx, to).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runner_is_one_line_of_ascii_that_fits() {
        let runner = runner();
        assert!(runner.is_ascii() && !runner.contains('\n'));
        // Every character that is no letter or digit is escaped on the way; the guest takes 128 kB.
        assert!(runner.len() * 2 < 100_000, "{}", runner.len());
    }

    #[test]
    fn endings_and_refusals_are_understood() {
        assert_eq!(ending("c 3"), ExitKind::Code(3));
        assert_eq!(ending("s 9"), ExitKind::Signal(9));
        assert_eq!(ending(""), ExitKind::Unknown);
        let spec = CommandSpec::argv(["nope"]).with_cwd("/x");
        for (answer, kind, key) in [
            ("program 2 No such file", ErrorKind::NotFound, "program"),
            ("cwd 2 No such file", ErrorKind::NotFound, "cwd"),
            ("program 13 Permission denied", ErrorKind::PermissionDenied, "program"),
            ("user 1 no", ErrorKind::PermissionDenied, "user"),
        ] {
            let error = refusal(answer, &spec);
            assert_eq!(error.kind(), kind, "{answer}");
            assert!(error.context_value(key).is_some());
        }
    }
}
