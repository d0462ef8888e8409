//! Small POSIX shell scripts on a machine. Data reaches them as arguments, never as part of the script.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, future};
use tokio::io::AsyncWriteExt;

use crate::{
    Channel, CommandId, CommandSpec, Error, ErrorKind, ExitKind, Io, Result,
    raw::{ByteStream, Executor, OpContext, RawProcess},
};

/// Before every script: messages as [`kind_of`] knows them, `need` for a path that must exist, and `facts` in the
/// dialects of stat(1): GNU and busybox, then BSD.
const PREAMBLE: &str = r#"LC_ALL=C; export LC_ALL
need() { [ -e "$1" ] || { ls -dL -- "$1" >/dev/null; exit 41; }; }
facts() { stat -L -c '%f %s %Y' -- "$1" 2>/dev/null || stat -L -f '%Xp %z %m' -- "$1"; }
"#;

/// How much of what a script complains about is kept.
const COMPLAINT_MAX: usize = 4 << 10;

/// A script that is running.
#[derive(Debug)]
pub(super) struct Script {
    process: RawProcess,
    complaint: Vec<u8>,
    operation: &'static str,
    path: Arc<str>,
}

impl Script {
    /// Starts `text` with `args` as `$1` and so on. `path` is what errors are about.
    pub(super) async fn start(
        executor: &dyn Executor,
        cx: &OpContext,
        operation: &'static str,
        text: &str,
        args: &[&str],
        stdin: bool,
    ) -> Result<Self> {
        let script = format!("{PREAMBLE}{text}");
        let argv = ["sh", "-c", script.as_str(), "fleetcore"].into_iter().chain(args.iter().copied());
        let spec = CommandSpec::argv(argv).with_io(Io::Pipes { stdin, merge: false });
        let path: Arc<str> = args.first().copied().unwrap_or_default().into();
        let process = executor.spawn(cx, CommandId::generate(), &spec).await;
        let process = process.map_err(|e| e.with_operation(operation).with_context("path", &path))?;
        Ok(Self { process, complaint: Vec::new(), operation, path })
    }

    /// The next piece of output. `None` once the script has ended well.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        while let Some(piece) = self.process.output.next().await {
            match piece? {
                (Channel::Stderr, data) => {
                    let room = COMPLAINT_MAX.saturating_sub(self.complaint.len());
                    self.complaint.extend(data.iter().take(room));
                }
                (_, data) => return Ok(Some(data)),
            }
        }
        match (&mut self.process.exit).await? {
            ExitKind::Code(0) => Ok(None),
            exit => Err(self.failure(exit)),
        }
    }

    /// All output, at most `limit` bytes.
    pub(super) async fn collect(&mut self, limit: usize) -> Result<Bytes> {
        let mut all = BytesMut::new();
        while let Some(piece) = self.next().await? {
            all.extend_from_slice(&piece);
            if all.len() > limit {
                return Err(Error::new(ErrorKind::InvalidState, "the answer is too large")
                    .with_operation(self.operation)
                    .with_context("path", &self.path)
                    .with_context("limit_bytes", limit));
            }
        }
        Ok(all.freeze())
    }

    /// Feeds `data` to the script until it ends; returns its output.
    ///
    /// An error of `data` ends the script at once. A script that stops reading is asked why.
    pub(super) async fn feed(&mut self, mut data: ByteStream, limit: usize) -> Result<Bytes> {
        let stdin = self.process.stdin.take();
        let feed = async {
            let Some(mut stdin) = stdin else { return Ok::<(), Error>(()) };
            while let Some(piece) = data.next().await {
                if stdin.write_all(&piece?).await.is_err() {
                    return Ok(()); // it will have said why
                }
            }
            let _ = stdin.shutdown().await;
            Ok(())
        };
        let answer = self.collect(limit);
        futures::pin_mut!(feed, answer);
        match future::select(feed, answer).await {
            future::Either::Left((fed, answer)) => {
                fed?;
                answer.await
            }
            // It ended before its input did: right for nobody but `write_tar`, whose padding may be ignored.
            future::Either::Right((answer, _)) => answer,
        }
    }

    /// What the end of the script means.
    fn failure(&self, exit: ExitKind) -> Error {
        let said = String::from_utf8_lossy(&self.complaint);
        let said = said.trim();
        let (kind, message) = match (kind_of(said), exit) {
            (Some(kind), _) => (kind, said.to_owned()),
            (None, ExitKind::Code(41)) => (ErrorKind::NotFound, "no such file or directory".into()),
            (None, ExitKind::Code(42)) => (ErrorKind::InvalidState, "not a regular file".into()),
            (None, ExitKind::Code(43)) => (ErrorKind::InvalidState, "is a directory".into()),
            (None, ExitKind::Code(45)) => (ErrorKind::InvalidState, "not a directory".into()),
            (None, ExitKind::Code(126 | 127)) => {
                (ErrorKind::Unsupported, format!("the machine lacks a program for this: {said}"))
            }
            (None, _) => (ErrorKind::Unexpected, format!("the script for it failed: {said}")),
        };
        let error = Error::new(kind, message).with_operation(self.operation).with_context("path", &self.path);
        match exit {
            ExitKind::Code(41..=45) => error,
            other => error.with_context("exit", format!("{other:?}")),
        }
    }
}

/// Kind of a complaint, by the text after the last colon, as strerror(3) and the shells put it.
fn kind_of(said: &str) -> Option<ErrorKind> {
    let reason = said.lines().next_back()?.rsplit(": ").next()?.trim();
    Some(match reason {
        "No such file or directory" | "No such file" | "Directory nonexistent" | "nonexistent directory" => {
            ErrorKind::NotFound
        }
        "Permission denied" | "Operation not permitted" | "Read-only file system" => {
            ErrorKind::PermissionDenied
        }
        "Is a directory"
        | "Not a directory"
        | "Directory not empty"
        | "Too many levels of symbolic links" => ErrorKind::InvalidState,
        "File exists" => ErrorKind::AlreadyExists,
        "File name too long" => ErrorKind::InvalidInput,
        "Device or resource busy" | "Text file busy" => ErrorKind::Busy,
        "No space left on device" | "Disk quota exceeded" => ErrorKind::Unavailable,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_of_several_shells_and_tools_are_understood() {
        for (said, kind) in [
            ("sh: 1: cannot create /x/y: Directory nonexistent", ErrorKind::NotFound),
            ("sh: line 1: /x/y: No such file or directory", ErrorKind::NotFound),
            ("sh: can't create /x/y: nonexistent directory", ErrorKind::NotFound),
            ("cat: /etc/shadow: Permission denied", ErrorKind::PermissionDenied),
            ("rmdir: failed to remove 'd': Directory not empty", ErrorKind::InvalidState),
        ] {
            assert_eq!(kind_of(said), Some(kind), "{said}");
        }
        assert_eq!(kind_of("x: Permission denied: not really"), None);
        assert_eq!(kind_of(""), None);
    }
}
