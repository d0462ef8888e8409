//! Files of ours in the workspace. It belongs to the agent, which may be somebody else than the server, and the server
//! may be root: below the directory that is opened first, no link is followed.

use std::{fs::File, io, path::Path};

use rustix::{
    fs::{AtFlags, CWD, Gid, Mode, OFlags, RawMode, Uid, chownat, mkdirat, openat},
    io::Errno,
};

/// Who gets what is new: user and group. Nobody else than this process without one.
pub(super) type Owner = Option<(u32, u32)>;

/// A directory, whatever its path leads to later.
#[derive(Debug)]
pub(super) struct Dir(File);

impl Dir {
    /// Opens one. On the way to it links are followed: where it is was not the agent's choice.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(openat(CWD, path, flags, Mode::empty())?.into()))
    }

    /// One in it, made with this mode when it is missing.
    pub(super) fn inside(&self, name: &str, mode: RawMode, owner: Owner) -> io::Result<Self> {
        match mkdirat(&self.0, name, Mode::from_raw_mode(mode)) {
            Ok(()) => {
                if let Some((uid, gid)) = owner {
                    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                    chownat(&self.0, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
                }
            }
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        self.file(name, OFlags::DIRECTORY, 0).map(Self)
    }

    /// A file that was not there.
    pub(super) fn create(&self, name: &str, mode: RawMode, owner: Owner) -> io::Result<File> {
        let file = self.file(name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, mode)?;
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
        }
        Ok(file)
    }

    /// A file to read.
    pub(super) fn read(&self, name: &str) -> io::Result<File> {
        regular(self.file(name, OFlags::RDONLY | OFlags::NONBLOCK, 0)?)
    }

    /// A file to write, made with this mode when it is missing, and else emptied.
    pub(super) fn write(&self, name: &str, mode: RawMode) -> io::Result<File> {
        let file = regular(self.file(name, OFlags::WRONLY | OFlags::CREATE | OFlags::NONBLOCK, mode)?)?;
        file.set_len(0)?;
        Ok(file)
    }

    fn file(&self, name: &str, flags: OFlags, mode: RawMode) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(&self.0, name, flags, Mode::from_raw_mode(mode))?.into())
    }
}

/// No pipe, at which one would wait, and no device.
fn regular(file: File) -> io::Result<File> {
    if !file.metadata()?.is_file() {
        return Err(Errno::INVAL.into());
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        os::unix::fs::symlink,
    };

    use super::*;

    fn read(dir: &Dir, name: &str) -> String {
        let mut text = String::new();
        dir.read(name).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn files_are_made_kept_and_emptied() {
        let top = tempfile::tempdir().unwrap();
        let dir = Dir::open(top.path()).unwrap().inside("ours", 0o775, None).unwrap();
        dir.create("new", 0o664, None).unwrap().write_all(b"long").unwrap();
        assert_eq!(dir.create("new", 0o664, None).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(read(&dir, "new"), "long");
        for text in ["first", "2"] {
            dir.write("again", 0o666).unwrap().write_all(text.as_bytes()).unwrap();
            assert_eq!(read(&dir, "again"), text);
        }
        // One that is there stays as it is.
        let same = Dir::open(top.path()).unwrap().inside("ours", 0o700, None).unwrap();
        assert_eq!(read(&same, "new"), "long");
    }

    #[test]
    fn neither_links_nor_pipes_are_opened() {
        let (top, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = other.path().join("file");
        std::fs::write(&file, "theirs").unwrap();
        symlink(&file, top.path().join("file")).unwrap();
        symlink(other.path().join("none"), top.path().join("dangling")).unwrap();
        symlink(other.path(), top.path().join("dir")).unwrap();
        mkfifo(&top.path().join("pipe"));
        let dir = Dir::open(top.path()).unwrap();
        assert!(dir.inside("dir", 0o775, None).is_err());
        for name in ["file", "dangling", "pipe"] {
            let opened = [dir.read(name), dir.write(name, 0o666), dir.create(name, 0o666, None)];
            assert!(opened.iter().all(Result::is_err), "{name}");
        }
        assert_eq!(std::fs::read(file).unwrap(), b"theirs");
        assert!(!other.path().join("none").exists());
        // The way to the workspace itself may be a link.
        assert!(Dir::open(&top.path().join("dir")).is_ok());
    }

    fn mkfifo(path: &Path) {
        rustix::fs::mknodat(CWD, path, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    }
}
