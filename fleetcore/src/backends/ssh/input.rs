//! A command's input.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::AsyncWrite;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Writes to a channel as far as its window allows. On a terminal, shutting down types end-of-file.
pub(super) struct Input {
    channel: Pin<Box<dyn AsyncWrite + Send>>,
    /// The command, or its channel, has ended: a window that will never open again is not waited for.
    over: Pin<Box<WaitForCancellationFutureOwned>>,
    terminal: bool,
    at_line_start: bool,
    /// End-of-file characters still to be typed.
    ending: Option<u8>,
}

/// ^D, which is what a fresh terminal takes for end-of-file.
const EOF: &[u8] = b"\x04";

impl Input {
    pub(super) fn new(
        channel: impl AsyncWrite + Send + 'static,
        over: CancellationToken,
        terminal: bool,
    ) -> Self {
        Self {
            channel: Box::pin(channel),
            over: Box::pin(over.cancelled_owned()),
            terminal,
            at_line_start: true,
            ending: None,
        }
    }

    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        self.over.as_mut().poll(cx).is_ready()
    }
}

impl AsyncWrite for Input {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.ending.is_some() || self.is_over(cx) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let n = ready!(self.channel.as_mut().poll_write(cx, data))?;
        if let Some(last) = data.get(..n).and_then(<[u8]>::last) {
            self.at_line_start = matches!(last, b'\n' | b'\r');
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_over(cx) {
            return Poll::Ready(Ok(()));
        }
        self.channel.as_mut().poll_flush(cx)
    }

    /// In the middle of a line the first end-of-file only hands over what was typed, so it takes two there.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_over(cx) || self.ending == Some(0) {
            return Poll::Ready(Ok(()));
        }
        if !self.terminal {
            ready!(self.channel.as_mut().poll_shutdown(cx))?;
            self.ending = Some(0);
            return Poll::Ready(Ok(()));
        }
        let mut left = self.ending.unwrap_or(if self.at_line_start { 1 } else { 2 });
        while left > 0 {
            self.ending = Some(left);
            if ready!(self.channel.as_mut().poll_write(cx, EOF)).is_err() {
                left = 1;
            }
            left -= 1;
        }
        self.ending = Some(0);
        Poll::Ready(Ok(()))
    }
}
