//! Input: a pipe, or typing into a terminal.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustix::termios::{LocalModes, SpecialCodeIndex, tcgetattr};
use tokio::{io::AsyncWrite, net::unix::pipe};

use crate::sys::PtyControl;

/// Input through a pipe. Shutting it down closes it.
#[derive(Debug)]
pub(super) struct PipeInput(Option<pipe::Sender>);

impl PipeInput {
    pub(super) fn new(pipe: pipe::Sender) -> Self {
        Self(Some(pipe))
    }
}

impl AsyncWrite for PipeInput {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Some(pipe) => Pin::new(pipe).poll_write(cx, data),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0 = None;
        Poll::Ready(Ok(()))
    }
}

/// Input of a program on a terminal.
#[derive(Debug)]
pub(super) struct TerminalInput {
    terminal: Arc<PtyControl>,
    /// Nothing typed since the last line ended.
    at_line_start: bool,
    /// How many end-of-file characters are still to be typed.
    ending: Option<u8>,
}

impl TerminalInput {
    pub(super) fn new(terminal: Arc<PtyControl>) -> Self {
        Self { terminal, at_line_start: true, ending: None }
    }
}

impl AsyncWrite for TerminalInput {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.ending.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let n = ready!(self.terminal.poll_write(cx, data))?;
        if let Some(last) = data.get(..n).and_then(<[u8]>::last) {
            self.at_line_start = matches!(last, b'\n' | b'\r');
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Types end-of-file. In the middle of a line the first one only hands over what was typed, so it takes two
    /// there. A terminal that is gone has ended already.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (canonical, eof) = match tcgetattr(&*self.terminal) {
            Ok(t) => (t.local_modes.contains(LocalModes::ICANON), t.special_codes[SpecialCodeIndex::VEOF]),
            Err(_) => return Poll::Ready(Ok(())),
        };
        let mut left = self.ending.unwrap_or(if canonical && !self.at_line_start { 2 } else { 1 });
        while left > 0 {
            self.ending = Some(left);
            if ready!(self.terminal.poll_write(cx, &[eof])).is_err() {
                left = 1;
            }
            left -= 1;
        }
        self.ending = Some(0);
        Poll::Ready(Ok(()))
    }
}
