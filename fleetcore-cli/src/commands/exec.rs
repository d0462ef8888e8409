//! What `run`, `shell` and `attach` share: bytes to our streams, keys and signals to the program.

use std::{
    io::{self, Write as _},
    sync::Arc,
    time::Duration,
};

use fleetcore::{
    Channel, CommandEvent, CommandId, CommandSpec, Error, ErrorKind, PtySize, Result, Signal, Target,
};
use fleetcore_http::client::AttachEvent;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use crate::{
    control::{Control, Input, Ownership, Running},
    error::{Failure, Outcome, note, stdout_failed},
    exit,
    signals::{Stop, StopSignals},
    tty,
};

/// How long each step of taking a command back may take: a server that answers needs milliseconds, and whoever pressed
/// Ctrl-C waits.
const TAKE_BACK_LIMIT: Duration = Duration::from_secs(1);

/// How a connection to a program ended.
pub(super) enum Left {
    /// It ended; this is our exit code.
    Ended(u8),
    /// The user detached; it runs on.
    Detached,
}

/// Prints an event; gives the exit code at the end.
fn show(event: AttachEvent, quiet: bool) -> std::result::Result<Option<u8>, Failure> {
    match event {
        AttachEvent::Command(CommandEvent::Output(chunk)) => write(chunk.channel, &chunk.data)?,
        AttachEvent::Command(CommandEvent::Gap { from, to }) => {
            note(quiet, &format!("bytes {from} to {to} of the output are gone"));
        }
        AttachEvent::Command(CommandEvent::Exited(status)) => return Ok(Some(exit::of_status(&status))),
        AttachEvent::Problem(e) => note(quiet, e.message()),
        AttachEvent::Reconnecting(_) => note(quiet, "connection lost, trying again"),
        AttachEvent::Reconnected => note(quiet, "connected again"),
        _ => {}
    }
    Ok(None)
}

/// Output goes where it came from.
pub(super) fn write(channel: Channel, data: &[u8]) -> std::result::Result<(), Failure> {
    match channel {
        Channel::Stderr | Channel::Log => {
            let mut err = io::stderr().lock();
            err.write_all(data).and_then(|()| err.flush()).map_err(stdout_failed)
        }
        _ => {
            let mut out = io::stdout().lock();
            out.write_all(data).and_then(|()| out.flush()).map_err(stdout_failed)
        }
    }
}

/// Starts a command. A signal meanwhile takes it back, a second one leaves at once.
pub(super) async fn start(
    control: &dyn Control,
    target: &Target,
    spec: CommandSpec,
    ownership: Ownership,
    stops: &mut StopSignals,
) -> std::result::Result<(CommandId, Running), Failure> {
    let id = CommandId::generate();
    let mut spawned = std::pin::pin!(control.spawn(id, target, spec, ownership));
    let stop = tokio::select! {
        biased;
        done = &mut spawned => return done.map_err(Failure::Error),
        stop = stops.next() => stop,
    };
    let take_back = async {
        // The request may be on its way, and what a server does not know yet it cannot cancel.
        let _ = tokio::time::timeout(TAKE_BACK_LIMIT, spawned).await;
        let _ = tokio::time::timeout(TAKE_BACK_LIMIT, control.cancel(id)).await;
    };
    tokio::select! {
        () = take_back => {}
        _ = stops.next() => {}
    }
    Err(Failure::Code(stop.exit_code()))
}

/// Shows a command of somebody else to its end. Whatever makes us leave before is no business of the command's.
pub(super) async fn watch(running: Running, stops: &mut StopSignals, quiet: bool) -> Outcome {
    let Running { mut events, input: _input } = running;
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(event) => if let Some(code) = show(event?, quiet)? {
                    return Ok(code);
                },
                None => return Err(Failure::Exec(ended_early())),
            },
            stop = stops.next() => return Ok(stop.exit_code()),
        }
    }
}

/// Runs our own command without a terminal to its end. The first Ctrl-C interrupts it, the second kills it; `kill` and
/// a closed terminal cancel it.
pub(super) async fn follow(running: Running, mut stops: StopSignals, quiet: bool) -> Outcome {
    let Running { mut events, input } = running;
    let mut interrupted = false;
    let mut writing = Writing::default();
    let mut given_up: Option<Instant> = None;
    loop {
        tokio::select! {
            // Nobody reads any more.
            () = sleep_until(given_up.unwrap_or_else(Instant::now)), if given_up.is_some() && writing.is_busy() => {
                return Ok(Stop::Interrupt.exit_code());
            }
            written = writing.done(), if writing.is_busy() => match written {
                Ok(None) => {}
                Ok(Some(code)) => return Ok(code),
                Err(failure) => {
                    // Nobody reads any more: the command would run for nothing.
                    let _ = input.cancel().await;
                    return Err(failure);
                }
            },
            event = events.next(), if !writing.is_busy() => match event {
                Some(event) => {
                    let event = event?;
                    writing.start(move || show(event, quiet));
                }
                None => return Err(Failure::Exec(ended_early())),
            },
            stop = stops.next() => match stop {
                Stop::Interrupt if interrupted => {
                    send(&input, Signal::Kill, quiet).await;
                    given_up.get_or_insert(Instant::now() + LAST_WORDS);
                }
                Stop::Interrupt => {
                    interrupted = true;
                    send(&input, Signal::Interrupt, quiet).await;
                }
                other => {
                    let _ = input.cancel().await;
                    return Ok(other.exit_code());
                }
            },
        }
    }
}

/// How long a killed command's last output may take to be written: longer means that nobody reads it.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Something that is written on a thread of its own: a reader that has stopped must not keep us from hearing signals.
#[derive(Default)]
pub(super) struct Writing<T = Option<u8>>(Option<JoinHandle<std::result::Result<T, Failure>>>);

impl<T: Send + 'static> Writing<T> {
    pub(super) fn is_busy(&self) -> bool {
        self.0.is_some()
    }

    /// Begins; the one before is done.
    pub(super) fn start(&mut self, work: impl FnOnce() -> std::result::Result<T, Failure> + Send + 'static) {
        self.0 = Some(tokio::task::spawn_blocking(work));
    }

    /// What came of it. Cancel-safe.
    pub(super) async fn done(&mut self) -> std::result::Result<T, Failure> {
        let Some(work) = &mut self.0 else { return std::future::pending().await };
        let done = work.await;
        self.0 = None;
        done.unwrap_or_else(|e| {
            Err(Failure::Error(Error::new(ErrorKind::Unexpected, "writing was aborted").with_source(e)))
        })
    }
}

async fn send(input: &Arc<dyn Input>, signal: Signal, quiet: bool) {
    match input.signal(signal).await {
        Ok(()) => {}
        // It ended by itself meanwhile.
        Err(e) if e.kind() == ErrorKind::InvalidState => {}
        Err(e) => note(quiet, e.message()),
    }
}

fn ended_early() -> Error {
    Error::new(ErrorKind::Unavailable, "the end of the command was not seen")
}

/// Feeds our stdin to a program's, in the background; it ends with the program or the process.
pub(super) fn pipe_stdin(input: Arc<dyn Input>, quiet: bool) {
    let data = futures::stream::unfold(tty::stdin(), |mut rx| async move {
        rx.recv().await.map(|item| (item.map_err(|e| Error::io("read stdin", e)), rx))
    });
    tokio::spawn(async move {
        match input.pipe(data.boxed()).await {
            Ok(()) => {}
            // Programs may leave their input unread, as `head` does.
            Err(e) if matches!(e.kind(), ErrorKind::InvalidState | ErrorKind::NotFound) => {}
            Err(e) => note(quiet, &format!("input: {}", e.message())),
        }
    });
}

/// Most bytes that are typed ahead of a program that takes none, or of a connection that is lost. Beyond it keys stay in
/// the terminal's own buffer.
const TYPE_AHEAD_MAX: usize = 64 << 10;

/// What waits to be sent while something else is on its way.
#[derive(Default)]
struct Outbox {
    bytes: Vec<u8>,
    /// Only the last one counts.
    size: Option<PtySize>,
}

impl Outbox {
    fn has_room(&self) -> bool {
        self.bytes.len() < TYPE_AHEAD_MAX
    }

    /// Sends the next of it; `None` when there is nothing.
    fn next(&mut self, input: &Arc<dyn Input>) -> Option<BoxFuture<'static, Result<()>>> {
        let input = Arc::clone(input);
        if let Some(size) = self.size.take() {
            return Some(async move { input.resize(size).await }.boxed());
        }
        if self.bytes.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.bytes).into();
        Some(async move { input.write(bytes).await }.boxed())
    }
}

/// Connects our terminal to a program's until one of them leaves. `own` says that nobody else keeps the program: when
/// our terminal closes, it ends; there is nothing to detach from.
pub(super) async fn interact(
    running: Running,
    stops: &mut StopSignals,
    own: bool,
    keys: bool,
) -> Result<Left, Failure> {
    let Running { mut events, input } = running;
    let mut raw = if keys { Some(tty::Raw::enter()?) } else { None };
    let mut resizes = tty::Resizes::listen()?;
    let mut typed = keys.then(tty::stdin);
    let mut detach = tty::DetachKeys::default();
    let mut outbox = Outbox::default();
    // One input at a time, beside everything else: it may have to wait for the connection to come back.
    let mut sending = None;
    loop {
        if sending.is_none() {
            sending = outbox.next(&input);
        }
        let sent = async {
            match &mut sending {
                Some(sending) => sending.await,
                None => std::future::pending().await,
            }
        };
        let next_key = async {
            match &mut typed {
                Some(rx) if outbox.has_room() => rx.recv().await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            event = events.next() => match event {
                // Remarks would tear the picture apart; a program on a terminal tells its own story.
                Some(event) => if let Some(code) = show(event?, true)? {
                    if let Some(raw) = &mut raw {
                        raw.program_ended();
                    }
                    return Ok(Left::Ended(code));
                },
                None => return Err(Failure::Exec(ended_early())),
            },
            key = next_key => match key {
                Some(Ok(bytes)) => {
                    let keys = detach.feed(&bytes);
                    outbox.bytes.extend_from_slice(&keys.bytes);
                    if keys.detach && own {
                        // Nothing to detach from: the keys are the program's.
                        outbox.bytes.extend_from_slice(&[0x1d, b'd']);
                    } else if keys.detach {
                        // What was typed before goes first, unless it would have to wait.
                        while let Some(next) = sending.take().or_else(|| outbox.next(&input)) {
                            match next.now_or_never() {
                                Some(result) => input_failed(result)?,
                                None => break,
                            }
                        }
                        return Ok(Left::Detached);
                    }
                }
                Some(Err(e)) => return Err(Failure::Exec(Error::io("read stdin", e))),
                None => typed = None,
            },
            result = sent => {
                sending = None;
                input_failed(result)?;
            }
            size = resizes.next(), if keys => outbox.size = Some(size),
            stop = stops.next() => {
                if own {
                    tokio::select! {
                        _ = input.cancel() => {}
                        // The server may be out of reach: whoever asks twice does not want to wait.
                        _ = stops.next() => {}
                    }
                }
                return Ok(Left::Ended(stop.exit_code()));
            },
        }
    }
}

/// The program may end between two keys; its exit event is on the way then.
fn input_failed(result: Result<()>) -> Result<()> {
    match result {
        Err(e) if e.kind() == ErrorKind::InvalidState => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use bytes::Bytes;
    use fleetcore::ByteStream;
    use tokio::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<String>>);

    #[async_trait]
    impl Input for Recorder {
        async fn write(&self, data: Bytes) -> Result<()> {
            self.0.lock().await.push(String::from_utf8_lossy(&data).into_owned());
            Ok(())
        }

        async fn pipe(&self, _data: ByteStream) -> Result<()> {
            Ok(())
        }

        async fn resize(&self, size: PtySize) -> Result<()> {
            self.0.lock().await.push(format!("{}x{}", size.cols, size.rows));
            Ok(())
        }

        async fn signal(&self, _signal: Signal) -> Result<()> {
            Ok(())
        }

        async fn cancel(&self) -> Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn what_waits_is_sent_in_order_and_bounded() {
        let recorder = Arc::new(Recorder::default());
        let input: Arc<dyn Input> = recorder.clone();
        let mut outbox = Outbox::default();
        assert!(outbox.next(&input).is_none());
        outbox.bytes.extend_from_slice(b"ab");
        let first = outbox.next(&input).unwrap();
        // Meanwhile there is more.
        outbox.bytes.extend_from_slice(b"c");
        outbox.size = Some(PtySize { cols: 1, rows: 2 });
        outbox.bytes.extend_from_slice(b"d");
        outbox.size = Some(PtySize { cols: 3, rows: 4 });
        first.await.unwrap();
        while let Some(next) = outbox.next(&input) {
            next.await.unwrap();
        }
        assert_eq!(*recorder.0.lock().await, ["ab", "3x4", "cd"]);
        outbox.bytes = vec![0; TYPE_AHEAD_MAX];
        assert!(!outbox.has_room());
    }
}
