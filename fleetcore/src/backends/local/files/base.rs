//! Opening paths, where need be confined to a directory.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags, mkdirat, openat},
    io::Errno,
};

/// Opens only to name: neither what it leads to is read, nor the right to read it needed.
#[cfg(target_os = "linux")]
pub(super) const NAME_ONLY: OFlags = OFlags::PATH;
/// Opens only to name. Without `O_PATH` that takes the right to read, and must not wait for the other end of a FIFO.
#[cfg(not(target_os = "linux"))]
pub(super) const NAME_ONLY: OFlags = OFlags::NONBLOCK;

/// What paths are relative to, and cannot leave.
#[derive(Debug)]
pub(super) enum Base {
    /// Absolute paths, unconfined.
    Anywhere,
    /// Paths relative to a directory; the kernel refuses those that leave it, by `..` or through a link.
    Beneath(OwnedFd),
}

impl Base {
    /// Opens `path`, following links as far as the base allows. Leaving it is `EXDEV`.
    pub(super) fn open(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        // openat2 refuses NOCTTY together with PATH, where it means nothing.
        let naming = cfg!(target_os = "linux") && flags.contains(NAME_ONLY);
        let terminal = if naming { OFlags::empty() } else { OFlags::NOCTTY };
        let flags = flags | OFlags::CLOEXEC | terminal;
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        match self {
            Self::Anywhere => Ok(openat(CWD, path, flags, mode)?),
            Self::Beneath(dir) => Ok(open_beneath(dir, path, flags, mode)?),
        }
    }

    /// Opens a directory only to name things in it.
    pub(super) fn dir(&self, path: &Path) -> io::Result<OwnedFd> {
        self.open(path, NAME_ONLY | OFlags::DIRECTORY, Mode::empty())
    }

    /// The directory of `path` and the last name. `None` if the path does not end in a name: `/`, `.`, `a/..`.
    pub(super) fn parent(&self, path: &Path) -> Option<io::Result<(OwnedFd, OsString)>> {
        let (parent, name) = split(path)?;
        Some(self.dir(parent).map(|dir| (dir, name.to_owned())))
    }

    /// Makes a directory and those above it.
    pub(super) fn make_dirs(&self, path: &Path) -> io::Result<OwnedFd> {
        let mut missing = Vec::new();
        let mut at = path;
        let mut dir = loop {
            match self.dir(at) {
                Ok(dir) => break dir,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    let Some((parent, name)) = split(at) else { return Err(e) };
                    missing.push((at, name));
                    at = parent;
                }
                Err(e) => return Err(e),
            }
        };
        while let Some((at, name)) = missing.pop() {
            match mkdirat(&dir, name, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
            dir = self.dir(at)?;
        }
        Ok(dir)
    }
}

/// Permission bits as the system's calls take them.
pub(super) fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode(bits as rustix::fs::RawMode)
}

/// Where an open file is now.
#[cfg(target_os = "linux")]
pub(super) fn path_of(fd: &OwnedFd) -> io::Result<PathBuf> {
    use std::os::fd::AsRawFd;
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Where an open file is now.
#[cfg(target_vendor = "apple")]
pub(super) fn path_of(fd: &OwnedFd) -> io::Result<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    Ok(OsString::from_vec(rustix::fs::getpath(fd)?.into_bytes()).into())
}

/// Parent and last name of a path that ends in a name.
fn split(path: &Path) -> Option<(&Path, &OsStr)> {
    match path.components().next_back()? {
        // `components` drops a trailing `.`; what the kernel sees must be what was checked.
        Component::Normal(name) if !path.as_os_str().as_encoded_bytes().ends_with(b"/.") => {
            Some((path.parent()?, name))
        }
        _ => None,
    }
}

#[cfg(target_os = "linux")]
fn open_beneath(dir: &OwnedFd, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    use rustix::fs::{ResolveFlags, openat2};
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(dir, path, flags, mode, resolve) {
            // The kernel asks to try again when a directory was moved while it looked.
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Before Linux 5.6, or forbidden by a sandbox.
            Err(Errno::NOSYS) => return walk_beneath(dir, path, flags, mode),
            other => return other,
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn open_beneath(dir: &OwnedFd, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    walk_beneath(dir, path, flags, mode)
}

/// Without the kernel's help no link is followed and no `..` taken: stricter, and as safe.
fn walk_beneath(dir: &OwnedFd, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let step = NAME_ONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = openat(dir, ".", step, Mode::empty())?;
    let mut components = path.components().filter(|c| *c != Component::CurDir).peekable();
    if components.peek().is_none() {
        return openat(dir, ".", flags, mode);
    }
    while let Some(component) = components.next() {
        let Component::Normal(name) = component else { return Err(Errno::XDEV) };
        if components.peek().is_none() {
            return openat(&at, name, flags | OFlags::NOFOLLOW, mode);
        }
        at = openat(&at, name, step, Mode::empty())?;
    }
    Err(Errno::NOENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_do_not_end_in_a_name_have_no_parent() {
        for bad in ["/", "//", ".", "..", "a/..", "/a/.", ""] {
            assert!(split(Path::new(bad)).is_none(), "{bad}");
        }
        assert_eq!(split(Path::new("/a/b/")), Some((Path::new("/a"), OsStr::new("b"))));
        assert_eq!(split(Path::new("a")), Some((Path::new(""), OsStr::new("a"))));
    }

    #[test]
    fn neither_way_of_opening_leaves_the_base() {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("root");
        std::fs::create_dir_all(root.join("sub")).unwrap();
        std::fs::write(outer.path().join("secret"), "s").unwrap();
        std::fs::write(root.join("sub/file"), "f").unwrap();
        std::os::unix::fs::symlink("../secret", root.join("up")).unwrap();
        std::os::unix::fs::symlink(outer.path(), root.join("abs")).unwrap();
        let dir: OwnedFd = std::fs::File::open(&root).unwrap().into();
        for open in [open_beneath, walk_beneath] {
            for bad in ["up", "abs/secret", "../secret", "sub/../../secret", "/etc/passwd"] {
                assert!(open(&dir, Path::new(bad), OFlags::RDONLY, Mode::empty()).is_err(), "{bad}");
            }
            open(&dir, Path::new("sub/file"), OFlags::RDONLY, Mode::empty()).unwrap();
            open(&dir, Path::new("."), OFlags::RDONLY, Mode::empty()).unwrap();
        }
    }
}
