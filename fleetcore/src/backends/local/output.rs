//! Reading what a process writes: quick in bulk, small when idle.

use std::{
    io, mem,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use futures::Stream;
use tokio::net::unix::pipe;
use tokio_util::io::poll_read_buf;

use crate::{Channel, Error, Result};

/// First buffer of a channel; most commands print less.
const MIN_BUFFER: usize = 8 << 10;
/// Largest buffer of a channel, and the size of an enlarged pipe: the kernel's default limit for processes
/// without privileges (`/proc/sys/fs/pipe-max-size`).
const MAX_BUFFER: usize = 1 << 20;
/// A read of this much says that the process is printing in bulk: the pipe (64 KiB unless changed) is half full.
const BULK: usize = 32 << 10;

/// A buffer that follows the size of the reads: it doubles when one fills it and is given back when idle.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: BytesMut,
    size: usize,
    max: usize,
}

impl Buffer {
    pub(super) fn new(max: usize) -> Self {
        Self { bytes: BytesMut::new(), size: MIN_BUFFER.min(max), max }
    }

    /// Space to read into. It is not zeroed.
    pub(super) fn space(&mut self) -> &mut BytesMut {
        if self.bytes.capacity() < self.size {
            self.bytes = BytesMut::with_capacity(self.size);
        }
        &mut self.bytes
    }

    /// Free space left.
    pub(super) fn room(&self) -> usize {
        self.bytes.capacity() - self.bytes.len()
    }

    /// What was read, in memory of about its own size: whoever keeps a chunk must not keep a megabyte for it.
    pub(super) fn take(&mut self) -> Bytes {
        let (len, capacity) = (self.bytes.len(), self.bytes.capacity());
        if len == capacity {
            self.size = (self.size * 2).min(self.max);
        } else if len < self.size / 4 {
            self.size = (self.size / 2).max(MIN_BUFFER.min(self.max));
        }
        if len >= capacity / 2 {
            return mem::take(&mut self.bytes).freeze();
        }
        let chunk = Bytes::copy_from_slice(&self.bytes);
        self.bytes.clear();
        if capacity > self.size {
            self.bytes = BytesMut::new();
        }
        chunk
    }

    /// Nothing to read for now: an idle process costs no buffer.
    pub(super) fn idle(&mut self) {
        self.bytes = BytesMut::new();
    }
}

/// One pipe.
#[derive(Debug)]
struct Reader {
    pipe: pipe::Receiver,
    channel: Channel,
    buffer: Buffer,
    enlarged: bool,
}

impl Reader {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        match poll_read_buf(Pin::new(&mut self.pipe), cx, self.buffer.space()) {
            Poll::Pending => {
                self.buffer.idle();
                Poll::Pending
            }
            Poll::Ready(Ok(0)) => Poll::Ready(Ok(None)),
            Poll::Ready(Ok(n)) => {
                if n >= BULK && !self.enlarged {
                    self.enlarged = true;
                    self.enlarge();
                }
                Poll::Ready(Ok(Some(self.buffer.take())))
            }
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
        }
    }

    /// Reads past the runtime's idea of what is ready. That idea is only renewed when the task rests, which it
    /// does not while the other pipe always has something.
    fn try_now(&mut self) -> Option<Bytes> {
        let mut data = Vec::with_capacity(BULK);
        match rustix::io::read(&self.pipe, rustix::buffer::spare_capacity(&mut data)) {
            Ok(n) if n > 0 => Some(data.into()),
            // Nothing, the end, or an error: the regular way will find out.
            _ => None,
        }
    }

    /// Makes the pipe larger, which saves most of the switches between writer and reader. Only when output comes
    /// in bulk: a user has a limited number of pipe pages (`/proc/sys/fs/pipe-user-pages-soft`), and above it
    /// every new pipe is tiny. A refusal only costs speed.
    fn enlarge(&self) {
        #[cfg(target_os = "linux")]
        if let Err(err) = rustix::pipe::fcntl_setpipe_size(&self.pipe, MAX_BUFFER) {
            tracing::debug!(%err, "pipe keeps its size");
        }
    }
}

/// Output of one or two pipes in the order of arrival. Neither can starve the other: they take turns while both
/// have something.
#[derive(Debug)]
pub(super) struct PipeOutput {
    first: Option<Reader>,
    second: Option<Reader>,
    /// Chunks in a row from one pipe.
    streak: u32,
}

/// After this many chunks from one pipe the other one is asked even if the runtime does not call it ready.
const MAX_STREAK: u32 = 4;

impl PipeOutput {
    pub(super) fn new(pipes: impl IntoIterator<Item = (Channel, pipe::Receiver)>) -> Self {
        let mut readers = pipes.into_iter().map(|(channel, pipe)| Reader {
            pipe,
            channel,
            buffer: Buffer::new(MAX_BUFFER),
            enlarged: false,
        });
        Self { first: readers.next(), second: readers.next(), streak: 0 }
    }
}

impl Stream for PipeOutput {
    type Item = Result<(Channel, Bytes)>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        // `first` is the pipe that did not have the last word.
        for last in [false, true] {
            if let Some(reader) = &mut this.first {
                let channel = reader.channel;
                match reader.poll(cx) {
                    Poll::Ready(Ok(Some(data))) => {
                        this.streak = if last { this.streak + 1 } else { 0 };
                        mem::swap(&mut this.first, &mut this.second);
                        return Poll::Ready(Some(Ok((channel, data))));
                    }
                    Poll::Ready(Ok(None)) => this.first = None,
                    Poll::Ready(Err(e)) => {
                        this.first = None;
                        return Poll::Ready(Some(Err(
                            Error::io("read output", e).with_context("channel", format!("{channel:?}"))
                        )));
                    }
                    Poll::Pending if !last && this.streak >= MAX_STREAK => {
                        this.streak = 0;
                        if let Some(data) = reader.try_now() {
                            mem::swap(&mut this.first, &mut this.second);
                            return Poll::Ready(Some(Ok((channel, data))));
                        }
                    }
                    Poll::Pending => {}
                }
            }
            mem::swap(&mut this.first, &mut this.second);
        }
        if this.first.is_none() && this.second.is_none() { Poll::Ready(None) } else { Poll::Pending }
    }
}

/// Output of a terminal. Reads until nothing is left before it hands on a chunk, because the kernel gives out at
/// most one page at a time.
#[derive(Debug)]
pub(super) struct TerminalOutput {
    reader: Option<pty_process::OwnedReadPty>,
    buffer: Buffer,
}

/// Largest chunk of a terminal. More would delay the echo of a key behind bulk output.
const MAX_TERMINAL_BUFFER: usize = 64 << 10;

impl TerminalOutput {
    pub(super) fn new(reader: pty_process::OwnedReadPty) -> Self {
        Self { reader: Some(reader), buffer: Buffer::new(MAX_TERMINAL_BUFFER) }
    }
}

impl Stream for TerminalOutput {
    type Item = Result<(Channel, Bytes)>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let mut got = false;
        loop {
            let Some(reader) = &mut this.reader else { return Poll::Ready(None) };
            if got && this.buffer.room() == 0 {
                return Poll::Ready(Some(Ok((Channel::Pty, this.buffer.take()))));
            }
            let space = if got { &mut this.buffer.bytes } else { this.buffer.space() };
            match poll_read_buf(Pin::new(reader), cx, space) {
                Poll::Ready(Ok(n)) if n > 0 => got = true,
                Poll::Pending if got => return Poll::Ready(Some(Ok((Channel::Pty, this.buffer.take())))),
                Poll::Pending => {
                    this.buffer.idle();
                    return Poll::Pending;
                }
                // Linux reports EIO once the last process has closed the terminal and all output was read.
                end => {
                    this.reader = None;
                    if got {
                        return Poll::Ready(Some(Ok((Channel::Pty, this.buffer.take()))));
                    }
                    return match end {
                        Poll::Ready(Err(e))
                            if e.raw_os_error() != Some(rustix::io::Errno::IO.raw_os_error()) =>
                        {
                            Poll::Ready(Some(Err(Error::io("read terminal", e))))
                        }
                        _ => Poll::Ready(None),
                    };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_follows_the_size_of_reads_and_small_chunks_do_not_pin_it() {
        let mut b = Buffer::new(64 << 10);
        let mut size = 8 << 10;
        for _ in 0..5 {
            let space = b.space();
            assert_eq!(space.capacity(), size);
            space.resize(space.capacity(), 1);
            assert_eq!(b.take().len(), size);
            size = (size * 2).min(64 << 10);
        }
        b.space().extend_from_slice(b"x");
        let small = b.take();
        assert_eq!(&small[..], b"x");
        assert!(b.size < 64 << 10, "it shrinks again");
        b.idle();
        assert_eq!(b.bytes.capacity(), 0);
    }

    #[tokio::test]
    async fn pipes_that_are_always_full_take_turns() {
        use std::{io::Write, os::fd::OwnedFd};

        use futures::StreamExt;

        let mut writers = vec![];
        let mut pipes = vec![];
        for channel in [Channel::Stdout, Channel::Stderr] {
            let (read, write) = std::io::pipe().unwrap();
            let read = OwnedFd::from(read);
            for fd in [rustix::io::ioctl_fionbio(&read, true), rustix::io::ioctl_fionbio(&write, true)] {
                fd.unwrap();
            }
            pipes.push((channel, pipe::Receiver::from_owned_fd(read).unwrap()));
            writers.push(write);
        }
        let mut output = PipeOutput::new(pipes);
        let (mut last, mut row, mut longest) = (None, 0, 0);
        for _ in 0..300 {
            for writer in &mut writers {
                while writer.write(&[b'x'; 4096]).is_ok() {}
            }
            let (channel, _) = output.next().await.unwrap().unwrap();
            row = if last == Some(channel) { row + 1 } else { 1 };
            last = Some(channel);
            longest = longest.max(row);
        }
        assert!(longest <= MAX_STREAK + 2, "{longest} in a row");
    }
}
