//! Calls of the program.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use tokio::{io::AsyncWriteExt as _, time::timeout};

use super::{
    MultipassConfig,
    error::{Class, Failure},
    parse::{self, Version},
    shared::Shared,
};
use crate::{
    Channel, CommandId, CommandSpec, ErrorKind, ExitKind, Io, Result,
    backends::local::{Local, LocalConfig},
    raw::{Executor as _, OpContext, RawProcess},
};

/// Longest answer that is taken into memory: five thousand machines take two megabytes.
const ANSWER_MAX_BYTES: usize = 32 << 20;
/// How much of a complaint is kept.
const COMPLAINT_MAX_BYTES: usize = 16 << 10;
/// How long pipes may stay open behind a client that has ended.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);
/// How long a known version counts. The client changes when the package is refreshed.
const VERSION_FRESH: Duration = Duration::from_secs(600);

/// One call: `args` begin with the command.
#[derive(Debug)]
pub(super) struct Call {
    command: &'static str,
    args: Vec<String>,
    stdin: Option<Bytes>,
    limit: Duration,
}

impl Call {
    pub(super) fn new(command: &'static str, limit: Duration) -> Self {
        Self { command, args: vec![command.to_owned()], stdin: None, limit }
    }

    pub(super) fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub(super) fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub(super) fn stdin(mut self, data: Bytes) -> Self {
        self.stdin = Some(data);
        self
    }
}

/// The program. It does what it is told; who may do what at the same time is decided elsewhere.
#[derive(Debug)]
pub(super) struct Client {
    local: Local,
    config: Arc<MultipassConfig>,
    version: Shared<Version>,
}

impl Client {
    pub(super) fn new(config: Arc<MultipassConfig>) -> Self {
        Self { local: Local::new(LocalConfig::default()), config, version: Shared::default() }
    }

    fn spec(&self, args: &[String], io: Io) -> CommandSpec {
        let program = self.config.program.to_string_lossy().into_owned();
        let argv = std::iter::once(program).chain(args.iter().cloned());
        let mut spec = CommandSpec::argv(argv).with_io(io);
        // A locale that is not installed makes `info` fail; times come in the zone of the client.
        spec = spec.with_env("LC_ALL", "C.UTF-8").with_env("TZ", "UTC");
        for (name, value) in &self.config.env {
            spec = spec.with_env(name, value);
        }
        spec
    }

    /// Starts the program. Dropping what comes back kills it.
    ///
    /// # Errors
    /// When it is not there.
    pub(super) async fn spawn(
        &self,
        command: &'static str,
        args: &[String],
        stdin: bool,
    ) -> Result<RawProcess, Failure> {
        self.spawn_on(command, args, Io::Pipes { stdin, merge: false }).await
    }

    /// The same, on a terminal or on pipes.
    pub(super) async fn spawn_on(
        &self,
        command: &'static str,
        args: &[String],
        io: Io,
    ) -> Result<RawProcess, Failure> {
        let spec = self.spec(args, io);
        // The id is the client's own: what runs on the machine has another.
        let started = self.local.spawn(&OpContext::default(), CommandId::generate(), &spec).await;
        started.map_err(|e| match e.kind() {
            ErrorKind::NotFound | ErrorKind::PermissionDenied => {
                Failure::new(Class::NoProgram, command, e.to_string())
            }
            ErrorKind::InvalidInput => Failure::new(Class::Usage, command, e.to_string()),
            _ => Failure::new(Class::Killed, command, e.to_string()),
        })
    }

    /// Makes a call; gives what it printed.
    ///
    /// # Cancellation
    /// Dropping the future kills the client. What the daemon does then depends on the command.
    pub(super) async fn call(&self, call: Call) -> Result<Bytes, Failure> {
        self.call_watched(call, |_| {}).await
    }

    /// The same; `seen` gets each piece as it is printed.
    pub(super) async fn call_watched(
        &self,
        call: Call,
        seen: impl FnMut(&[u8]) + Send,
    ) -> Result<Bytes, Failure> {
        let raw = self.spawn(call.command, &call.args, call.stdin.is_some()).await?;
        let work = collect(raw, call.command, call.stdin, seen);
        timeout(call.limit, work).await.unwrap_or_else(|_| {
            let what = format!("no answer within {} s", call.limit.as_secs_f32());
            Err(Failure::new(Class::TooSlow, call.command, what))
        })
    }

    /// Asks for JSON.
    pub(super) async fn ask(&self, call: Call) -> Result<serde_json::Value, Failure> {
        let command = call.command;
        let answer = self.call(call.args(["--format", "json"])).await?;
        parse::document(command, &answer)
    }

    /// The release. Asked for before anything else, which also makes the client's certificates: two clients that do so at
    /// once may make different ones.
    pub(super) async fn version(self: &Arc<Self>) -> Result<Arc<Version>, Failure> {
        let client = Arc::clone(self);
        self.version.get(VERSION_FRESH, || async move { client.ask_version().await }).await.inspect_err(
            |_| {
                // It may be installed the next moment.
                self.version.forget();
            },
        )
    }

    /// The release as it is now.
    pub(super) async fn ask_version(&self) -> Result<Version, Failure> {
        Version::parse(&self.ask(Call::new("version", self.config.read_limit)).await?)
    }
}

/// Takes in all a client prints, until it has ended.
async fn collect(
    raw: RawProcess,
    command: &'static str,
    stdin: Option<Bytes>,
    mut seen: impl FnMut(&[u8]) + Send,
) -> Result<Bytes, Failure> {
    let RawProcess { mut output, stdin: input, exit, mut control, .. } = raw;
    let feed = async {
        if let (Some(mut input), Some(data)) = (input, stdin) {
            // A client that does not want it says so itself.
            if input.write_all(&data).await.is_ok() {
                let _ = input.shutdown().await;
            }
        }
    };
    let (mut answer, mut complaint) = (BytesMut::new(), Vec::new());
    let end = {
        let mut feed = std::pin::pin!(futures::FutureExt::fuse(feed));
        let mut exit = std::pin::pin!(futures::FutureExt::fuse(exit));
        let mut drained = std::pin::pin!(futures::future::Fuse::terminated());
        let (mut ended, mut open) = (None, true);
        while open || ended.is_none() {
            tokio::select! {
                biased;
                piece = output.next(), if open => match piece {
                    Some(Ok((Channel::Stderr, data))) => {
                        let room = COMPLAINT_MAX_BYTES.saturating_sub(complaint.len());
                        complaint.extend(data.iter().take(room));
                    }
                    Some(Ok((_, data))) => {
                        seen(&data);
                        answer.extend_from_slice(&data);
                        if answer.len() > ANSWER_MAX_BYTES {
                            return Err(Failure::new(Class::Malformed, command, "the answer does not end"));
                        }
                    }
                    Some(Err(_)) | None => open = false,
                },
                () = &mut feed => {}
                kind = &mut exit => {
                    ended = Some(kind);
                    drained.set(futures::FutureExt::fuse(tokio::time::sleep(DRAIN_LIMIT)));
                }
                () = &mut drained => open = false,
            }
        }
        ended
    };
    control.disarm();
    let complaint = String::from_utf8_lossy(&complaint);
    match end {
        Some(Ok(ExitKind::Code(0))) => Ok(answer.freeze()),
        Some(Ok(ExitKind::Code(code))) => {
            // The line about unknown commands goes to standard output.
            let said = if complaint.trim().is_empty() && code == 1 {
                String::from_utf8_lossy(answer.get(..answer.len().min(500)).unwrap_or_default())
            } else {
                complaint
            };
            Err(Failure::classify(command, code, &said))
        }
        Some(Ok(kind)) => {
            Err(Failure::new(Class::Killed, command, format!("the program was ended: {kind:?} {complaint}")))
        }
        Some(Err(e)) => Err(Failure::new(Class::Killed, command, e.to_string())),
        None => Err(Failure::new(Class::Killed, command, "the program cannot be waited for")),
    }
}
