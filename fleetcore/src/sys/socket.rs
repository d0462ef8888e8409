//! A socket in the network of another process.
//!
//! A socket belongs for good to the network it was made in, wherever it is used. Joining that network takes joining the
//! user namespace that owns it first, which only a process of one thread can: so a child is forked that joins both, makes
//! the socket, hands it over and is gone. It runs no program and connects to nothing; that is done here, like for any
//! other socket.

use std::{
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::{net::UnixStream, process::CommandExt as _},
    },
    process::{Command, Stdio},
};

use nix::libc;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Makes a TCP socket in the network of the process behind the pidfd `holder`; it does not block, and closes on exec. Blocks
/// for as long as making a process takes.
///
/// # Errors
/// What the system says to joining the network or to the socket.
pub(crate) fn socket_of(holder: &OwnedFd, v6: bool) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    let holder = holder.as_raw_fd();
    let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
    let work = move || -> io::Result<()> {
        // SAFETY: a plain system call on a descriptor that the parent keeps open until this process is gone.
        if unsafe { libc::setns(holder, libc::CLONE_NEWUSER | libc::CLONE_NEWNET) } == -1 {
            return Err(io::Error::last_os_error());
        }
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: a plain system call.
        let socket = unsafe { libc::socket(family, kind, 0) };
        if socket == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it was just made and belongs to nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        let fds = [socket.as_fd()];
        // There is room for one: the space was made for it.
        rights.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(&theirs, &[io::IoSlice::new(b"s")], &mut rights, SendFlags::NOSIGNAL)?;
        // SAFETY: leaves without running anything of this copied process.
        unsafe { libc::_exit(0) }
    };
    // Never executed: the child is gone before.
    let mut command = Command::new("/proc/self/exe");
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: between fork and its end the closure only makes system calls that are async-signal-safe (setns, socket,
    // sendmsg, _exit); it does not allocate, lock or touch shared state.
    unsafe { command.pre_exec(work) };
    let spawned = command.spawn();
    // Holds the other end of the pair, which must be closed here for `recvmsg` to notice a child that died early.
    drop(command);
    spawned?.wait()?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut parts = [io::IoSliceMut::new(&mut byte)];
    rustix::io::retry_on_intr(|| recvmsg(&ours, &mut parts, &mut rights, RecvFlags::CMSG_CLOEXEC))?;
    let found = rights.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    found.ok_or_else(|| io::Error::other("the network of the sandbox is gone"))
}
