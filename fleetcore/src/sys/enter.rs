//! Starting a child inside the namespaces of another process.
//!
//! A process can join a pid namespace only by being born into it, so the child that the standard library forked forks
//! once more after joining. The grandchild is made with `CLONE_PARENT`: it is a child of this process like any other,
//! to be waited for with its true exit status, and nobody stands between. The first child reports the grandchild's
//! process id through a pipe and is gone at once.

use std::{ffi::CString, io, os::fd::OwnedFd, sync::Arc};

#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd as _;

#[cfg(target_os = "linux")]
use nix::libc;

/// Where to, and with what limits.
#[derive(Debug)]
pub(crate) struct Enter {
    /// A pidfd of a process in there.
    pub(crate) holder: Arc<OwnedFd>,
    /// Whether the network namespace is one of those to join; joining that of the host takes privileges.
    pub(crate) network: bool,
    /// Directory to start in, as seen from there.
    pub(crate) cwd: CString,
    /// Make a process group of its own. A terminal's program gets a session instead, from whoever opens the terminal.
    pub(crate) group: bool,
    /// Limit of the address space, in bytes.
    pub(crate) memory_bytes: Option<u64>,
    /// Limit of processes in the user namespace.
    pub(crate) processes: Option<u64>,
    /// Run on the first so many processors only.
    pub(crate) cpus: Option<u32>,
    /// The user to become, where this process is another one. Its ids are out here and in there.
    pub(crate) user: Option<(u32, u32)>,
    /// Where the process id goes, as four bytes.
    pub(crate) report: OwnedFd,
}

#[cfg(target_os = "linux")]
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(not(target_os = "linux"))]
impl Enter {
    /// There are no namespaces to enter, so nobody gets here.
    pub(super) fn run(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(target_os = "linux")]
impl Enter {
    /// Runs in the child between fork and exec; returns in the grandchild only.
    ///
    /// Only makes system calls: no allocation, no lock.
    pub(super) fn run(&self) -> io::Result<()> {
        let mut namespaces = libc::CLONE_NEWUSER
            | libc::CLONE_NEWNS
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWCGROUP;
        if self.network {
            namespaces |= libc::CLONE_NEWNET;
        }
        close_on_exec();
        // Until exec this is a copy of the server's memory, and in there are programs of the same user that would like to
        // read it.
        // SAFETY: a plain system call.
        check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }.into())?;
        if let Some((outside, _)) = self.user {
            hand_over_streams(outside);
            // SAFETY: a plain system call.
            check(unsafe { libc::setgroups(0, std::ptr::null()) }.into())?;
        }
        // All at once: the right to join each comes from owning the user namespace, which holds only until we are in it.
        // SAFETY: a plain system call on a descriptor we own.
        check(unsafe { libc::setns(self.holder.as_raw_fd(), namespaces) }.into())?;
        let none = std::ptr::null_mut::<libc::c_void>();
        let flags = libc::c_long::from(libc::CLONE_PARENT | libc::SIGCHLD);
        // SAFETY: without CLONE_VM the child has a copy of our memory and returns on its own copy of this stack, as
        // after fork. Only this thread exists in either.
        let pid = check(unsafe { libc::syscall(libc::SYS_clone, flags, none, none, none, none) })?;
        if pid != 0 {
            let id = i32::try_from(pid).unwrap_or(0).to_ne_bytes();
            // A lost report shows as a failed spawn on the other side.
            let _ = rustix::io::write(&self.report, &id);
            // SAFETY: leaves without running anything of this copied process.
            unsafe { libc::_exit(0) }
        }
        if self.group {
            // SAFETY: a plain system call.
            check(unsafe { libc::setpgid(0, 0) }.into())?;
        }
        // Before anything is looked up: this process may be the owner of what is closed to that user.
        if let Some((_, inside)) = self.user {
            // SAFETY: plain system calls.
            unsafe {
                check(libc::setresgid(inside, inside, inside).into())?;
                check(libc::setresuid(inside, inside, inside).into())?;
            }
        }
        // SAFETY: the string ends in NUL and outlives the call.
        check(unsafe { libc::chdir(self.cwd.as_ptr()) }.into())?;
        self.limit()?;
        own_keyring();
        give_up_privileges()
    }

    fn limit(&self) -> io::Result<()> {
        let set = |what, most: u64| {
            let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
            // SAFETY: the structure is initialised and outlives the call.
            check(unsafe { libc::setrlimit(what, &raw const limit) }.into()).map(drop)
        };
        if let Some(bytes) = self.memory_bytes {
            set(libc::RLIMIT_AS, bytes)?;
        }
        if let Some(most) = self.processes {
            set(libc::RLIMIT_NPROC, most)?;
        }
        if let Some(cpus) = self.cpus {
            // SAFETY: all zeroes is an empty set; CPU_SET checks its bounds.
            let set = unsafe {
                let mut set: libc::cpu_set_t = std::mem::zeroed();
                for cpu in 0..cpus as usize {
                    libc::CPU_SET(cpu, &mut set);
                }
                set
            };
            // SAFETY: the set is initialised and its size is given.
            check(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) }.into())?;
        }
        Ok(())
    }
}

/// Keeps what this process was given by its own parent from a child. Older than Linux 5.11 it cannot.
#[cfg(target_os = "linux")]
pub(super) fn close_on_exec() {
    // SAFETY: changes a flag of descriptors only.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Pipes and terminals belong to who made them, and only the owner can open them once more, as `echo >/dev/stderr`
/// does.
#[cfg(target_os = "linux")]
fn hand_over_streams(owner: u32) {
    for fd in 0..3 {
        // SAFETY: plain system calls; all zeroes is a valid `stat`.
        unsafe {
            let mut stat: libc::stat = std::mem::zeroed();
            let ours = libc::fstat(fd, &raw mut stat) == 0
                && (stat.st_mode & libc::S_IFMT == libc::S_IFIFO || libc::isatty(fd) == 1);
            if ours {
                libc::fchown(fd, owner, u32::MAX);
            }
        }
    }
}

/// Keys are not in a namespace: those of this process' session would be the sandbox's. The name makes all commands of a
/// sandbox share one keyring, of which a user can have few.
#[cfg(target_os = "linux")]
fn own_keyring() {
    const JOIN_SESSION_KEYRING: libc::c_long = 1; // KEYCTL_JOIN_SESSION_KEYRING of linux/keyctl.h
    // SAFETY: a plain system call; the string ends in NUL. Where it is forbidden, so are keys in there.
    unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, c"fleetcore".as_ptr()) };
}

/// Joining a user namespace gives all capabilities in it, with which read-only mounts could be undone. None is kept, nor
/// a way to get one again.
#[cfg(target_os = "linux")]
fn give_up_privileges() -> io::Result<()> {
    // The kernel says which is the first it does not know; there are 41 in Linux 6.
    for capability in 0..64 {
        // SAFETY: a plain system call.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } == -1 {
            break;
        }
    }
    // SAFETY: plain system calls.
    unsafe {
        check(libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0).into())?;
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
    }
    // Not root in there, so exec clears the rest; a user namespace that maps us to root would not.
    let header: [u32; 2] = [0x2008_0522, 0]; // _LINUX_CAPABILITY_VERSION_3, this process
    let none = [0u32; 6];
    // SAFETY: header and data have the layout of capset(2) and outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) }).map(drop)
}
