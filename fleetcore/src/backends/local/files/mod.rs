//! Files of this host.

mod base;
mod content;
mod pack;
#[cfg(test)]
pub(crate) mod tests;
mod transfer;
mod unpack;

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use jiff::Timestamp;
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, renameat, statat, unlinkat},
    io::Errno,
};

use self::{
    base::{Base, NAME_ONLY},
    transfer::Transfers,
};
use super::LocalConfig;
use crate::{
    Error, ErrorKind, FileInfo, FileKind, Owner, Result, WriteOptions,
    raw::{ByteStream, FileSystem, OpContext},
};

/// Files through the system calls of this host, off the runtime's threads.
#[derive(Clone, Debug)]
pub(super) struct LocalFiles(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    base: Base,
    /// The confining directory as configured and as it really is.
    roots: Vec<PathBuf>,
    home: PathBuf,
    config: Arc<LocalConfig>,
    transfers: Transfers,
}

impl LocalFiles {
    /// Opens the confining directory, if one is set.
    pub(super) fn open(config: &Arc<LocalConfig>) -> Result<Self> {
        let home = config.home.clone();
        let Some(root) = &config.file_root else {
            return Ok(Self::new(Base::Anywhere, vec![], home, config));
        };
        let fail = |e| Error::io("open file root", e).with_context("path", root.display());
        let dir = Base::Anywhere.dir(root).map_err(fail)?;
        let real = root.canonicalize().map_err(fail)?;
        let roots = vec![root.clone(), real];
        Ok(Self::new(Base::Beneath(dir), roots, home, config))
    }

    fn new(base: Base, roots: Vec<PathBuf>, home: PathBuf, config: &Arc<LocalConfig>) -> Self {
        let (config, transfers) = (Arc::clone(config), Transfers::of_process());
        Self(Arc::new(Inner { base, roots, home, config, transfers }))
    }

    /// Runs blocking work on `path`, and says in errors what it was about.
    async fn run<T: Send + 'static>(
        &self,
        cx: &OpContext,
        operation: &'static str,
        path: &str,
        work: impl FnOnce(&Inner, &Path) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.0);
        let located = inner.locate(path).map_err(|e| e.with_operation(operation))?;
        let result = cx.guard(operation, hop(move || work(&inner, &located))).await;
        result.map_err(|e| about(e, operation, path))
    }
}

/// Names the path, unless the error has.
fn about(err: Error, operation: &'static str, path: &str) -> Error {
    let err = if err.context_value("path").is_some() { err } else { err.with_context("path", path) };
    if err.operation().is_empty() { err.with_operation(operation) } else { err }
}

/// One trip to a thread that may block. Once begun it is carried out even if nobody waits for it any more.
async fn hop<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(aborted(e)),
    }
}

/// Its thread panicked.
fn aborted(why: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Unexpected, "file operation was aborted").with_source(why)
}

/// The public error of a failed system call.
fn failed(err: impl Into<io::Error>) -> Error {
    let err: io::Error = err.into();
    match Errno::from_io_error(&err) {
        Some(Errno::XDEV) => {
            Error::new(ErrorKind::PermissionDenied, "path leads out of what may be reached").with_source(err)
        }
        Some(Errno::LOOP) => Error::new(ErrorKind::InvalidState, "too many symbolic links").with_source(err),
        Some(Errno::NXIO) => not_a_file().with_source(err),
        Some(Errno::BUSY) => Error::new(ErrorKind::Busy, err.to_string()).with_source(err),
        _ => Error::io("", err),
    }
}

fn not_a_file() -> Error {
    Error::new(ErrorKind::InvalidState, "not a regular file")
}

fn check_path(path: &str) -> Result<()> {
    if path.is_empty() || path.contains('\0') {
        let err = Error::invalid("path", "not empty and without NUL characters");
        return Err(err.with_context("path", path.escape_debug()));
    }
    Ok(())
}

impl Inner {
    /// The path as its base understands it.
    fn locate(&self, path: &str) -> Result<PathBuf> {
        check_path(path)?;
        let given = Path::new(path);
        if let Base::Anywhere = self.base {
            return Ok(self.home.join(given));
        }
        let beneath = |p: &Path| self.roots.iter().find_map(|r| p.strip_prefix(r).map(Path::to_owned).ok());
        if given.is_relative() {
            // A home elsewhere is out of reach; the root stands in for it.
            return Ok(beneath(&self.home).unwrap_or_default().join(given));
        }
        beneath(given).ok_or_else(|| failed(Errno::XDEV).with_context("path", path))
    }

    fn parent(&self, path: &Path) -> Result<(OwnedFd, std::ffi::OsString)> {
        let rule = "a path that ends in a name, not in `.`, `..` or the top directory itself";
        self.base.parent(path).ok_or_else(|| Error::invalid("path", rule))?.map_err(failed)
    }
}

fn info(path: impl Into<String>, stat: &Stat) -> FileInfo {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Dir,
        FileType::Symlink => FileKind::Symlink,
        _ => FileKind::Other,
    };
    let mut info = FileInfo::new(path, kind, u64::try_from(stat.st_size).unwrap_or(0));
    info.mode = Some(mode_bits(stat));
    info.modified_at =
        i32::try_from(stat.st_mtime_nsec).ok().and_then(|n| Timestamp::new(stat.st_mtime, n).ok());
    info
}

/// Permission bits, setuid, setgid and sticky.
#[cfg_attr(target_os = "linux", expect(clippy::useless_conversion, reason = "narrower on macOS"))]
fn mode_bits(stat: &Stat) -> u32 {
    u32::from(stat.st_mode) & 0o7777
}

#[async_trait]
impl FileSystem for LocalFiles {
    async fn stat(&self, cx: &OpContext, path: &str) -> Result<FileInfo> {
        let shown = path.to_owned();
        self.run(cx, "stat", path, move |inner, at| {
            let fd = inner.base.open(at, NAME_ONLY, Mode::empty()).map_err(failed)?;
            Ok(info(shown, &rustix::fs::fstat(&fd).map_err(failed)?))
        })
        .await
    }

    async fn read(&self, cx: &OpContext, path: &str, offset: u64, len: Option<u64>) -> Result<ByteStream> {
        let len = len.unwrap_or(u64::MAX);
        let shown = path.to_owned();
        let reader = self
            .run(cx, "read", path, move |inner, at| {
                content::Reader::open(&inner.base, at, offset, len, shown)
            })
            .await?;
        Ok(reader.into_stream())
    }

    async fn write(
        &self,
        cx: &OpContext,
        path: &str,
        opts: WriteOptions,
        data: ByteStream,
    ) -> Result<FileInfo> {
        if opts.append && opts.atomic {
            return Err(Error::invalid("append", "off when atomic is on").with_operation("write"));
        }
        if opts.mode.is_some_and(|m| m > 0o7777) {
            return Err(Error::invalid("mode", "at most 7777 octal").with_operation("write"));
        }
        let inner = Arc::clone(&self.0);
        let at = inner.locate(path).map_err(|e| e.with_operation("write"))?;
        let shown = path.to_owned();
        let written = cx.guard("write", content::write(inner, at, opts, data, shown)).await;
        written.map_err(|e| about(e, "write", path))
    }

    async fn list(&self, cx: &OpContext, path: &str) -> Result<Vec<FileInfo>> {
        self.run(cx, "list", path, |inner, at| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let fd = inner.base.open(at, flags, Mode::empty()).map_err(failed)?;
            let mut entries = Vec::new();
            for (name, stat) in entries_of(fd.as_fd()).map_err(failed)? {
                entries.push(info(name.to_string_lossy(), &stat));
            }
            Ok(entries)
        })
        .await
    }

    async fn create_dir(&self, cx: &OpContext, path: &str) -> Result<()> {
        self.run(cx, "create_dir", path, |inner, at| {
            let Err(error) = inner.base.make_dirs(at) else { return Ok(()) };
            let taken = error.kind() == std::io::ErrorKind::NotADirectory
                && inner.base.open(at, NAME_ONLY, Mode::empty()).is_ok();
            if taken {
                return Err(Error::new(ErrorKind::AlreadyExists, "something else has that name"));
            }
            Err(failed(error))
        })
        .await
    }

    async fn set_owner(&self, cx: &OpContext, path: &str, owner: Owner) -> Result<()> {
        self.run(cx, "set_owner", path, move |inner, at| {
            let fd = inner.base.open(at, NAME_ONLY, Mode::empty()).map_err(failed)?;
            let (uid, gid) = (rustix::fs::Uid::from_raw(owner.uid), rustix::fs::Gid::from_raw(owner.gid));
            #[cfg(target_os = "linux")]
            return rustix::fs::chownat(fd, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).map_err(failed);
            #[cfg(not(target_os = "linux"))]
            return rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(failed);
        })
        .await
    }

    async fn rename(&self, cx: &OpContext, from: &str, to: &str) -> Result<()> {
        let located = self.0.locate(to).map_err(|e| e.with_operation("rename"))?;
        let shown = to.to_owned();
        self.run(cx, "rename", from, move |inner, at| {
            let (dir, name) = inner.parent(at)?;
            let (to_dir, to_name) = inner.parent(&located).map_err(|e| e.with_context("path", &shown))?;
            renameat(dir, name, to_dir, to_name)
                .map_err(|e| match e {
                    // Here it means what it says: another file system.
                    Errno::XDEV => {
                        Error::new(ErrorKind::Unsupported, "cannot rename from one file system to another")
                    }
                    e => failed(e),
                })
                .map_err(|e| e.with_context("to", &shown))
        })
        .await
    }

    async fn remove(&self, cx: &OpContext, path: &str, recursive: bool) -> Result<()> {
        self.run(cx, "remove", path, move |inner, at| {
            let (dir, name) = inner.parent(at)?;
            let stat = statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                return unlinkat(&dir, &name, AtFlags::empty()).map_err(failed);
            }
            if recursive {
                remove_tree(&dir, &name, 0)?;
            }
            match unlinkat(&dir, &name, AtFlags::REMOVEDIR) {
                Err(Errno::NOENT) if recursive => Ok(()),
                other => other.map_err(failed),
            }
        })
        .await
    }

    async fn read_tar(&self, cx: &OpContext, path: &str) -> Result<ByteStream> {
        let shown = path.to_owned();
        let place = self.0.transfers.enter().map_err(|e| about(e, "read_tar", path))?;
        self.run(cx, "read_tar", path, move |inner, at| pack::start(place, &inner.base, at, shown)).await
    }

    async fn write_tar(&self, cx: &OpContext, path: &str, data: ByteStream) -> Result<u64> {
        let limits =
            unpack::Limits { entries: self.0.config.tar_max_entries, bytes: self.0.config.tar_max_bytes };
        let inner = Arc::clone(&self.0);
        let at = inner.locate(path).map_err(|e| e.with_operation("write_tar"))?;
        let unpacked = cx.guard("write_tar", unpack::unpack(inner, at, limits, data)).await;
        unpacked.map_err(|e| about(e, "write_tar", path))
    }
}

/// Names and facts of a directory's entries, sorted by name; links are not followed.
fn entries_of(dir: impl AsFd) -> rustix::io::Result<Vec<(std::ffi::OsString, Stat)>> {
    use std::os::unix::ffi::OsStringExt;
    let mut entries = Vec::new();
    for entry in Dir::read_from(&dir)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name == b"." || name == b".." {
            continue;
        }
        let name = std::ffi::OsString::from_vec(name);
        match statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => entries.push((name, stat)),
            Err(Errno::NOENT) => {} // gone meanwhile
            Err(e) => return Err(e),
        }
    }
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(entries)
}

/// Deepest tree that is walked. Each level costs a descriptor and a piece of stack.
const MAX_DEPTH: usize = 256;

fn too_deep() -> Error {
    Error::new(ErrorKind::InvalidState, "directories are nested too deep").with_context("limit", MAX_DEPTH)
}

/// Empties a directory. Every level is opened by descriptor and without following links, so whoever swaps a
/// directory for a link meanwhile cannot lead us astray.
fn remove_tree(parent: &OwnedFd, name: &std::ffi::OsStr, depth: usize) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(failed)?;
    for (name, stat) in entries_of(&dir).map_err(failed)? {
        let how = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            remove_tree(&dir, &name, depth + 1)?;
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        match unlinkat(&dir, &name, how) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(failed(e).with_context("entry", name.display())),
        }
    }
    Ok(())
}
