//! What a case runs in: one machine, reached through a fleet, and a directory on it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use fleetcore::{
    Channel, CommandEvent, CommandHandle, CommandSpec, CommandStream, Error, ErrorKind, ExecCapabilities,
    ExitStatus, Files, Fleet, Machine, Offset, OpContext, Output, Overflow, Result, RunningCommand,
};
use futures::StreamExt as _;

/// One machine under test.
pub struct Env {
    /// The fleet it is reached through.
    pub fleet: Fleet,
    /// The machine.
    pub machine: Machine,
    /// What it says it can do, behind all layers.
    pub can: ExecCapabilities,
    /// An empty directory on it, for this case alone.
    pub dir: String,
    /// Whether a writer learns that the command has closed its input while it goes on running. Off for transports that
    /// have no word for it.
    pub tells_closed_input: bool,
    /// Whether a reader of a connection learns that it was reset rather than ended. Off for transports that have no word
    /// for it.
    pub tells_reset: bool,
    names: AtomicU64,
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Env").field("machine", &self.machine).field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// All a command told, in order.
#[derive(Debug, Default)]
pub struct Seen {
    /// All events.
    pub events: Vec<CommandEvent>,
    /// All bytes, all channels.
    pub bytes: Vec<u8>,
    /// Bytes by channel.
    pub by_channel: BTreeMap<String, Vec<u8>>,
    /// Ranges that were missing.
    pub gaps: Vec<(u64, u64)>,
    /// The end.
    pub exit: Option<ExitStatus>,
}

impl Env {
    /// The machine `target` of `fleet`.
    ///
    /// # Errors
    /// Those of the backend; `CommandFailed` when it has no POSIX shell.
    pub async fn new(fleet: Fleet, target: &str) -> Result<Self> {
        let machine = fleet.machine(target)?;
        let can = machine.executor(&OpContext::default()).await?.capabilities();
        let made =
            machine.spawn(CommandSpec::argv(["mktemp", "-d", "/tmp/fleetcore-suite.XXXXXXXX"])).await?;
        let dir = made.output().await?.check()?.text().trim_end().to_owned();
        Ok(Self {
            fleet,
            machine,
            can,
            dir,
            tells_closed_input: true,
            tells_reset: true,
            names: AtomicU64::new(0),
        })
    }

    /// Ends everything and removes the directory.
    ///
    /// # Errors
    /// Those of the backend.
    pub async fn close(&self) -> Result<()> {
        let removed = self.machine.spawn(CommandSpec::argv(["rm", "-rf", self.dir.as_str()])).await?;
        removed.output().await?.check()?;
        self.fleet.shutdown().await;
        Ok(())
    }

    /// A path in the directory that no other call was given.
    pub fn path(&self, name: &str) -> String {
        format!("{}/{}-{name}", self.dir, self.names.fetch_add(1, Ordering::Relaxed))
    }

    /// Starts a command.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn spawn(&self, spec: CommandSpec) -> RunningCommand {
        must(self.machine.spawn(spec).await)
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn run(&self, spec: CommandSpec) -> Output {
        must(self.spawn(spec).await.output().await)
    }

    /// Runs a command and reads its stream from the start.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn seen(&self, spec: CommandSpec) -> Seen {
        let command = self.spawn(spec).await;
        Seen::all(&command, 0).await
    }

    /// Runs a script with arguments; gives what it wrote to standard output.
    ///
    /// # Panics
    /// When it does not succeed.
    pub async fn sh(&self, script: &str, args: &[&str]) -> String {
        must(self.run(sh(script, args)).await.check()).text()
    }

    /// Starting this must be refused; gives the refusal, and checks that nothing was left running.
    ///
    /// # Panics
    /// When it starts.
    pub async fn refused(&self, spec: CommandSpec) -> Error {
        let shown = format!("{:?} {:?}", spec.program, spec.io);
        // What ran for the case before this may not be taken from the list yet.
        let before = self.fleet.commands().running();
        match self.machine.spawn(spec).await {
            Ok(_) => fail(format!("{shown} was not refused")),
            Err(error) => {
                assert!(self.fleet.commands().running() <= before, "a refused command runs");
                error
            }
        }
    }

    /// Starting this must be refused as `Unsupported`.
    ///
    /// # Panics
    /// When it is not.
    pub async fn unsupported(&self, spec: CommandSpec) {
        let error = self.refused(spec).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    }

    /// The machine's files.
    ///
    /// # Panics
    /// When there are none.
    pub async fn files(&self) -> Files {
        must(self.machine.files().await)
    }

    /// A watch on processes: hand [`TreeWatch::path`] to a script that opens it for writing and whose children inherit
    /// that. [`TreeWatch::gone`] resolves when none of them is left.
    pub async fn watch_tree(&self) -> TreeWatch {
        let path = self.path("fifo");
        self.sh("mkfifo \"$1\"", &[&path]).await;
        let cat = self.spawn(CommandSpec::argv(["cat", path.as_str()])).await;
        TreeWatch { path, cat }
    }
}

/// See [`Env::watch_tree`].
#[derive(Debug)]
pub struct TreeWatch {
    /// The FIFO.
    pub path: String,
    cat: RunningCommand,
}

impl TreeWatch {
    /// Resolves when no process holds the FIFO open any more; the time limit of a case ends a wait in vain.
    pub async fn gone(self) -> String {
        must(must(self.cat.output().await).check()).text()
    }

    /// Whether somebody still holds it, as far as is known now.
    pub fn held(&self) -> bool {
        self.cat.record().exit.is_none()
    }
}

/// A script with arguments, `$1` and so on.
pub fn sh(script: &str, args: &[&str]) -> CommandSpec {
    CommandSpec::argv(["sh", "-c", script, "sh"].into_iter().chain(args.iter().copied()))
}

/// The same, such that no byte of output is lost however slow the reader.
pub fn sh_block(script: &str, args: &[&str]) -> CommandSpec {
    sh(script, args).with_replay(64 << 10, Overflow::Block)
}

/// Ends the case.
pub fn fail(why: impl fmt::Display) -> ! {
    #[expect(clippy::panic, reason = "a case fails by panicking")]
    {
        panic!("{why}")
    }
}

/// The value, or the end of the case.
pub fn must<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|e| fail(format!("{e:?}")))
}

/// The error, which must be of `kind`.
pub fn refused<T>(result: Result<T>, kind: ErrorKind) -> Error {
    match result {
        Ok(_) => fail(format!("expected {kind:?}, but it worked")),
        Err(error) => {
            assert_eq!(error.kind(), kind, "{error:?}");
            error
        }
    }
}

/// Bad input names the field and the rule.
pub fn names_the_field(error: &Error, fields: &[&str]) {
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
    let field = error.context_value("field").unwrap_or_else(|| fail(format!("no field in {error:?}")));
    assert!(fields.contains(&field), "{field} is not one of {fields:?}: {error:?}");
    assert!(error.context_value("rule").is_some_and(|r| !r.is_empty()), "no rule in {error:?}");
}

impl Seen {
    /// Everything from byte `from` to the end, which must come last and once, with no byte twice and none missing
    /// except in a `Gap`.
    ///
    /// # Panics
    /// When the stream breaks one of these promises.
    pub async fn all(command: &CommandHandle, from: u64) -> Self {
        Self::rest(&mut command.stream(Offset(from))).await
    }

    /// As [`all`](Self::all), of a stream that may have been read before.
    ///
    /// # Panics
    /// When the stream breaks one of these promises.
    pub async fn rest(stream: &mut Box<dyn CommandStream>) -> Self {
        let mut seen = Self::default();
        let mut at = stream.position();
        while let Some(event) = stream.next().await {
            let event = must(event);
            assert!(seen.exit.is_none(), "{event:?} after the end");
            at = seen.take(&event, at);
            seen.events.push(event);
            assert_eq!(stream.position(), at, "the position is where the next byte will be");
        }
        assert!(seen.exit.is_some(), "the stream ended without Exited");
        assert!(stream.next().await.is_none(), "an event after the last");
        seen
    }

    fn take(&mut self, event: &CommandEvent, at: Offset) -> Offset {
        match event {
            CommandEvent::Output(chunk) => {
                assert_eq!(chunk.offset, at, "output is contiguous");
                assert!(!chunk.data.is_empty(), "no empty chunks");
                self.bytes.extend_from_slice(&chunk.data);
                self.by_channel
                    .entry(format!("{:?}", chunk.channel))
                    .or_default()
                    .extend_from_slice(&chunk.data);
                chunk.end()
            }
            CommandEvent::Gap { from, to } => {
                assert_eq!(*from, at, "a gap begins where the output broke off");
                assert!(to > from, "a gap is not empty");
                self.gaps.push((from.0, to.0));
                *to
            }
            CommandEvent::Exited(status) => {
                self.exit = Some(*status);
                at
            }
            _ => at,
        }
    }

    /// The bytes as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// Bytes of one channel.
    pub fn channel(&self, channel: Channel) -> &[u8] {
        self.by_channel.get(&format!("{channel:?}")).map_or(&[], Vec::as_slice)
    }

    /// The end.
    pub fn status(&self) -> ExitStatus {
        self.exit.unwrap_or_else(|| fail("no exit"))
    }
}

/// Reads until `text` has come by; gives everything up to the end of that chunk.
///
/// # Panics
/// When the command ends first.
pub async fn read_until(stream: &mut Box<dyn CommandStream>, text: &str) -> String {
    let mut seen = Vec::new();
    while let Some(event) = stream.next().await {
        if let CommandEvent::Output(chunk) = must(event) {
            seen.extend_from_slice(&chunk.data);
            if String::from_utf8_lossy(&seen).contains(text) {
                return String::from_utf8_lossy(&seen).into_owned();
            }
        }
    }
    fail(format!("{text:?} did not come, only {:?}", String::from_utf8_lossy(&seen)))
}

/// `len` bytes in which no two stretches are alike, so that a byte lost, doubled or moved shows.
pub fn pattern(len: usize) -> Bytes {
    let mut all = Vec::with_capacity(len + 16);
    let mut n = 0u64;
    while all.len() < len {
        all.extend_from_slice(format!("{n:07x}\n").as_bytes());
        n += 1;
    }
    all.truncate(len);
    all.into()
}

/// A script that writes `lines` lines of [`pattern`].
pub const PATTERN_SCRIPT: &str = "awk -v n=\"$1\" 'BEGIN { for (i = 0; i < n; i++) printf \"%07x\\n\", i }'";
