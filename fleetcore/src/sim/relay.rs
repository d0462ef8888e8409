//! Connections over `spawn`, for backends whose machines have Python and that cannot connect by themselves.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes, BytesMut};
use futures::{StreamExt as _, future::BoxFuture, stream::BoxStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    Channel, CommandId, CommandSpec, Error, ErrorKind, ExitKind, HostPort, Result,
    raw::{BoxConnection, Executor, OpContext, ProcessControl, RawProcess},
};

/// The program on the machine.
const RELAY: &str = include_str!("relay.py");
/// How long the address may take to answer.
const LIMIT: Duration = Duration::from_secs(15);
/// Longest first line.
const LINE_MAX: usize = 4096;
/// How much of the error output is kept.
const SAID_MAX: usize = 4096;
/// What the program writes there when the address has sent all.
const CLEAN_END: &[u8] = b"end\n";

/// The program as one argument without line breaks, which some ways to a machine do not carry.
fn program() -> String {
    let code = RELAY.lines().filter(|l| !l.trim_start().starts_with('#') && !l.trim().is_empty());
    let code = code.collect::<Vec<_>>().join("\n");
    // Rust's and Python's escapes are the same for ASCII.
    format!("exec({code:?})")
}

/// Connects from the machine of `executor` by a program there, which ends with the connection.
pub(crate) async fn connect(executor: &dyn Executor, cx: &OpContext, to: &HostPort) -> Result<BoxConnection> {
    let (code, port, limit) = (program(), to.port().to_string(), LIMIT.as_secs().to_string());
    let argv = ["python3", "-I", "-S", "-c", &code, to.host(), &port, &limit];
    let spec = CommandSpec::argv(argv).with_stdin();
    let process = executor.spawn(cx, CommandId::generate(), &spec).await?;
    let RawProcess { output, stdin, exit, control, .. } = process;
    let stdin = stdin.ok_or_else(|| Error::new(ErrorKind::Unexpected, "the machine takes no input"))?;
    let mut relay = Relay { output, stdin, exit, rest: Bytes::new(), said: Vec::new(), _control: control };
    let opened = async {
        let line = relay.first_line().await?;
        let (word, said) = line.split_once(' ').unwrap_or((&line, ""));
        let kind = match word {
            "ok" => return Ok(()),
            "denied" => ErrorKind::PermissionDenied,
            "refused" => ErrorKind::Unavailable,
            _ => ErrorKind::Unexpected,
        };
        let said = if said.is_empty() { "the machine did not say whether it is connected" } else { said };
        Err(Error::new(kind, said.to_owned()))
    };
    let named = |e: Error| e.with_operation("connect").with_context("address", to);
    cx.guard("connect", opened).await.map_err(named)?;
    Ok(Box::new(relay))
}

struct Relay {
    output: BoxStream<'static, Result<(Channel, Bytes)>>,
    stdin: Pin<Box<dyn AsyncWrite + Send>>,
    exit: BoxFuture<'static, Result<ExitKind>>,
    rest: Bytes,
    /// The end of what it wrote to its error output.
    said: Vec<u8>,
    /// Dropping it ends the program.
    _control: Box<dyn ProcessControl>,
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").finish_non_exhaustive()
    }
}

impl Relay {
    async fn first_line(&mut self) -> Result<String> {
        let mut line = BytesMut::new();
        while line.len() < LINE_MAX {
            match self.output.next().await {
                Some(Ok((Channel::Stderr, data))) => {
                    self.hear(&data);
                    continue;
                }
                Some(Ok((_, data))) => line.extend_from_slice(&data),
                Some(Err(e)) => return Err(e),
                None => break,
            }
            if let Some(end) = line.iter().position(|b| *b == b'\n') {
                let first = line.split_to(end);
                line.advance(1);
                self.rest = line.freeze();
                return Ok(String::from_utf8_lossy(&first).into_owned());
            }
        }
        // Why there is no line: the way broke, or the program did.
        (&mut self.exit).await?;
        Ok(format!("- {}", String::from_utf8_lossy(&self.said).trim().escape_debug()))
    }

    /// Keeps the end of the error output.
    fn hear(&mut self, data: &[u8]) {
        self.said.extend_from_slice(data);
        let surplus = self.said.len().saturating_sub(SAID_MAX);
        self.said.drain(..surplus);
    }
}

impl AsyncRead for Relay {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let broken = |e| io::Error::new(io::ErrorKind::ConnectionReset, e);
        while this.rest.is_empty() {
            match ready!(this.output.as_mut().poll_next(cx)) {
                Some(Ok((Channel::Stderr, data))) => this.hear(&data),
                Some(Ok((_, data))) => this.rest = data,
                Some(Err(e)) => return Poll::Ready(Err(broken(e))),
                None if this.said.ends_with(CLEAN_END) => return Poll::Ready(Ok(())),
                None => {
                    let reset = Error::new(ErrorKind::Unavailable, "the connection was reset");
                    return Poll::Ready(Err(broken(reset)));
                }
            }
        }
        let n = this.rest.len().min(buf.remaining());
        buf.put_slice(this.rest.get(..n).unwrap_or_default());
        this.rest.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Relay {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.stdin.as_mut().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stdin.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stdin.as_mut().poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_one_line_of_ascii() {
        let program = program();
        assert!(program.is_ascii() && !program.contains('\n'));
    }
}
