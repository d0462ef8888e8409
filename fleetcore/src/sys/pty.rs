//! Opening a pseudo-terminal without a moment in which another thread's child could inherit it.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    pin::Pin,
    task::{Context, Poll},
};

use parking_lot::Mutex;
use pty_process::{OwnedReadPty, OwnedWritePty, Pty, Size, blocking::Pts};
use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};
use tokio::io::AsyncWrite;

/// Writing end and knobs of a terminal; shared by the writer and the resizer.
#[derive(Debug)]
pub(crate) struct PtyControl {
    raw: RawFd,
    writer: Mutex<OwnedWritePty>,
}

impl PtyControl {
    /// Changes the size; the kernel tells the foreground processes with SIGWINCH.
    pub(crate) fn resize(&self, cols: u16, rows: u16) -> io::Result<()> {
        self.writer.lock().resize(Size::new(rows, cols)).map_err(to_io)
    }

    /// Writes what the terminal takes now.
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.writer.lock()).poll_write(cx, data)
    }
}

impl AsFd for PtyControl {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `raw` belongs to the `Pty` that `writer` keeps open, and `writer` lives as long as `self` and
        // is never handed out.
        unsafe { BorrowedFd::borrow_raw(self.raw) }
    }
}

/// Opens a pair: reader, control, and the side that becomes the child's terminal. Must be called inside a tokio
/// runtime.
///
/// `pty_process::open` sets close-on-exec a moment after opening; a child that another thread starts in between
/// would keep the terminal open for ever. Where the system can set it while opening, that is done here.
pub(crate) fn open_pty(cols: u16, rows: u16) -> io::Result<(OwnedReadPty, PtyControl, Pts, OwnedFd)> {
    #[cfg(target_os = "linux")]
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    #[cfg(not(target_os = "linux"))]
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
    let master = openpt(flags)?;
    rustix::io::fcntl_setfd(&master, rustix::io::FdFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let side = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = rustix::fs::open(name.as_c_str(), side, Mode::empty())?;
    let spare = slave.try_clone()?;
    rustix::io::ioctl_fionbio(&master, true)?;
    // SAFETY: `master` is an open, nonblocking pseudo-terminal that nobody else owns.
    let pty = unsafe { Pty::from_fd(master) }.map_err(to_io)?;
    // SAFETY: `slave` was just opened as the other side of that terminal.
    let pts = unsafe { Pts::from_fd(slave) };
    pty.resize(Size::new(rows, cols)).map_err(to_io)?;
    let raw = pty.as_raw_fd();
    let (reader, writer) = pty.into_split();
    Ok((reader, PtyControl { raw, writer: Mutex::new(writer) }, pts, spare))
}

/// The I/O error inside an error of pty-process.
pub(crate) fn to_io(err: pty_process::Error) -> io::Error {
    match err {
        pty_process::Error::Io(e) => e,
        pty_process::Error::Rustix(e) => e.into(),
        other => io::Error::other(other),
    }
}
