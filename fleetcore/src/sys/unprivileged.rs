//! Starting a program as nobody in particular, by root.
//!
//! To the kernel, root in a sandbox is root: it owns `/proc/sys` and what else is not namespaced. So what root starts
//! there is started in a user namespace in which an id that owns nothing on this host is all there is. An ordinary user
//! needs none of this.

use std::{
    ffi::CString,
    io,
    os::unix::{ffi::OsStrExt as _, process::CommandExt as _},
    path::PathBuf,
    process::Command,
};

use nix::libc;

/// Where directories that are passed on appear, below names that count from 0. All hosts have it, and a sandbox does not
/// see the host's.
pub(crate) const PASSED: &str = "/tmp";

/// Most directories that can be passed on.
pub(crate) const PASSED_MOST: usize = 4;

/// As whom, and with what.
#[derive(Debug)]
pub(crate) struct Unprivileged {
    /// User and group id out here.
    pub(crate) owner: u32,
    /// Directories to pass on, [`PASSED_MOST`] of them, though the way to them may be closed to the owner.
    pub(crate) dirs: Vec<PathBuf>,
}

/// What `Unprivileged` comes to, made before the fork: the child must not allocate.
struct Plan {
    /// `0 OWNER 1`: it is root in there, and that is nothing out here.
    map: Vec<u8>,
    /// What to show, and where.
    binds: Vec<(CString, CString)>,
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Passes nothing on to the child but standard streams.
pub(crate) fn without_descriptors(command: &mut Command) {
    let work = || {
        super::enter::close_on_exec();
        Ok(())
    };
    // SAFETY: one system call.
    unsafe { command.pre_exec(work) };
}

/// Starts `command` so. Its other preparations still happen as this process.
pub(crate) fn unprivileged(command: &mut Command, how: Unprivileged) -> io::Result<()> {
    let mut binds = Vec::new();
    for (number, dir) in how.dirs.iter().take(PASSED_MOST).enumerate() {
        binds.push((CString::new(dir.as_os_str().as_bytes())?, CString::new(format!("{PASSED}/{number}"))?));
    }
    let plan = Plan { map: format!("0 {} 1\n", how.owner).into_bytes(), binds };
    // SAFETY: between fork and exec only system calls are made; see `Plan`.
    unsafe { command.pre_exec(move || plan.run()) };
    Ok(())
}

impl Plan {
    fn run(&self) -> io::Result<()> {
        let none = std::ptr::null::<libc::c_void>();
        // SAFETY: plain system calls; all strings end in NUL and outlive the calls.
        unsafe {
            check(libc::setgroups(0, std::ptr::null()))?;
            check(libc::unshare(libc::CLONE_NEWNS))?;
            let private = libc::MS_REC | libc::MS_PRIVATE;
            check(libc::mount(c"none".as_ptr(), c"/".as_ptr(), std::ptr::null(), private, none))?;
            // Opened before they are hidden, which they are if they lie below the same place.
            let mut opened = [-1; PASSED_MOST];
            for (fd, (dir, _)) in opened.iter_mut().zip(&self.binds) {
                *fd = check(libc::open(dir.as_ptr(), libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC))?;
            }
            let (top, kind, mode) = (c"/tmp".as_ptr(), c"tmpfs".as_ptr(), c"mode=0755,size=64k".as_ptr());
            check(libc::mount(c"tmpfs".as_ptr(), top, kind, libc::MS_NOSUID | libc::MS_NODEV, mode.cast()))?;
            for (fd, (_, at)) in opened.into_iter().zip(&self.binds) {
                check(libc::mkdir(at.as_ptr(), 0o755))?;
                check(libc::fchdir(fd))?;
                check(libc::mount(c".".as_ptr(), at.as_ptr(), std::ptr::null(), libc::MS_BIND, none))?;
            }
            check(libc::chdir(c"/".as_ptr()))?;
        }
        self.change_user()
    }

    /// A map with an id other than one's own can only be written from outside of the namespace: by a helper that stays
    /// behind.
    fn change_user(&self) -> io::Result<()> {
        let none = std::ptr::null_mut::<libc::c_void>();
        let mut pipe = [0; 2];
        // SAFETY: plain system calls. Without CLONE_VM the helper has a copy of our memory; it only makes system calls
        // and exits.
        unsafe {
            let me = check(libc::open(c"/proc/self".as_ptr(), libc::O_PATH | libc::O_DIRECTORY))?;
            check(libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC))?;
            let [ready, tell] = pipe;
            let flags = libc::c_long::from(libc::SIGCHLD);
            let helper = libc::syscall(libc::SYS_clone, flags, none, none, none, none);
            if helper == -1 {
                return Err(io::Error::last_os_error());
            }
            if helper == 0 {
                libc::close(tell);
                let mut byte = 0_u8;
                let there = libc::read(ready, (&raw mut byte).cast(), 1) == 1;
                let done = there && self.write(me, c"gid_map") && self.write(me, c"uid_map");
                libc::_exit(i32::from(!done));
            }
            let unshared = check(libc::unshare(libc::CLONE_NEWUSER));
            if unshared.is_ok() {
                libc::write(tell, [1_u8].as_ptr().cast(), 1);
            }
            for fd in [ready, tell, me] {
                libc::close(fd);
            }
            let helper = libc::pid_t::try_from(helper).unwrap_or(-1);
            while libc::waitpid(helper, std::ptr::null_mut(), 0) == -1
                && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
            {}
            unshared?;
            // Without the map there is no such id, which is an error here.
            check(libc::setresgid(0, 0, 0))?;
            check(libc::setresuid(0, 0, 0))?;
        }
        Ok(())
    }

    /// In the helper. `me` is the directory of the process below `/proc`.
    fn write(&self, me: libc::c_int, file: &std::ffi::CStr) -> bool {
        // SAFETY: plain system calls; the map is as long as is said.
        unsafe {
            let fd = libc::openat(me, file.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            let len = self.map.len();
            fd != -1 && usize::try_from(libc::write(fd, self.map.as_ptr().cast(), len)) == Ok(len)
        }
    }
}
