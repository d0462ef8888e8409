//! Files over SFTP; trees, and what SFTP cannot say, over commands.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use russh_sftp::{
    client::error::Error as SftpError,
    protocol::{FileAttributes, OpenFlags, StatusCode},
};

use super::{
    error,
    executor::SshExecutor,
    pool::{Lease, Pool},
    sftp::Sftp,
};
use crate::{
    Error, ErrorKind, FileInfo, FileKind, Result, WriteOptions,
    raw::{ByteStream, FileSystem, OpContext},
    sim::files::SpawnFiles,
};

/// Entries of a directory that are taken into memory.
const ENTRIES_MAX: usize = 1 << 20;
/// Time to remove a temporary file that nobody waits for any more.
const CLEANUP_LIMIT: Duration = Duration::from_secs(30);

/// Files of one host.
#[derive(Clone, Debug)]
pub(super) struct SshFiles {
    pool: Arc<Pool>,
    /// Removing trees: one command instead of a question per entry, and names that are not text are names there.
    commands: SpawnFiles,
    /// Archives, which may be read slowly.
    streams: SpawnFiles,
}

/// A session, and the right to use it.
struct Open {
    sftp: Arc<Sftp>,
    _lease: Lease,
}

impl SshFiles {
    pub(super) fn new(pool: Arc<Pool>, executor: &SshExecutor) -> Self {
        Self {
            pool,
            commands: SpawnFiles::new(Arc::new(executor.clone())),
            streams: SpawnFiles::new(Arc::new(executor.exclusive())),
        }
    }

    async fn open(&self) -> Result<Open> {
        let lease = self.pool.lease(false).await?;
        match lease.connection().sftp().await {
            Ok(sftp) => Ok(Open { sftp, _lease: lease }),
            Err(e) if e.kind() == ErrorKind::Unavailable => {
                // The connection may have broken unnoticed. Nothing has been done yet, so another one may do.
                lease.broken();
                let lease = self.pool.lease(false).await?;
                Ok(Open { sftp: lease.connection().sftp().await?, _lease: lease })
            }
            Err(e) => Err(e.with_context("target", format!("ssh/{}", self.pool.name()))),
        }
    }
}

fn checked<'a>(operation: &'static str, path: &'a str) -> Result<&'a str> {
    if path.is_empty() || path.contains('\0') {
        return Err(Error::invalid("path", "not empty and without NUL characters")
            .with_operation(operation)
            .with_context("path", path.escape_debug()));
    }
    Ok(path)
}

fn kind(attrs: &FileAttributes) -> FileKind {
    // The file type as in <sys/stat.h>; SFTP version 3 has it in the permissions.
    match attrs.permissions.unwrap_or(0) & 0o170_000 {
        0o100_000 => FileKind::File,
        0o040_000 => FileKind::Dir,
        0o120_000 => FileKind::Symlink,
        _ => FileKind::Other,
    }
}

fn info(path: &str, attrs: &FileAttributes) -> FileInfo {
    let mut info = FileInfo::new(path, kind(attrs), attrs.size.unwrap_or(0));
    info.mode = attrs.permissions.map(|p| p & 0o7777);
    info.modified_at = attrs.mtime.and_then(|t| Timestamp::from_second(t.into()).ok());
    info
}

fn state(operation: &'static str, path: &str, what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidState, what)
        .with_operation(operation)
        .with_context("path", path.escape_debug())
}

/// Directory of a path and the name in it; `None` for one without a name.
fn split(path: &str) -> Option<(&str, &str)> {
    let (dir, name) = match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((dir, name)) => (dir, name),
        None => (".", path),
    };
    (!matches!(name, "" | "." | "..")).then_some((dir, name))
}

fn is_missing(err: &SftpError) -> bool {
    matches!(err, SftpError::Status(s) if s.status_code == StatusCode::NoSuchFile)
}

impl Open {
    async fn stat(&self, operation: &'static str, path: &str) -> Result<FileAttributes> {
        self.sftp.raw().stat(path).await.map(|a| a.attrs).map_err(|e| self.sftp.failed(operation, path, e))
    }

    /// `None` if there is nothing at that path.
    async fn find(&self, operation: &'static str, path: &str) -> Result<Option<FileAttributes>> {
        match self.sftp.raw().stat(path).await {
            Ok(found) => Ok(Some(found.attrs)),
            Err(e) if is_missing(&e) => Ok(None),
            Err(e) => Err(self.sftp.failed(operation, path, e)),
        }
    }

    async fn make_dirs(&self, operation: &'static str, path: &str) -> Result<()> {
        let exists = |found: &FileAttributes| match kind(found) {
            FileKind::Dir => Ok(()),
            _ => Err(Error::new(ErrorKind::AlreadyExists, "there is something else of that name")
                .with_operation(operation)
                .with_context("path", path.escape_debug())),
        };
        // From the end: most of the way is there already.
        let mut missing = Vec::new();
        let mut at = path.trim_end_matches('/');
        while !at.is_empty() && at != "." {
            match self.find(operation, at).await? {
                Some(found) => {
                    exists(&found)?;
                    break;
                }
                None => missing.push(at),
            }
            at = at.rsplit_once('/').map_or("", |(dir, _)| dir.trim_end_matches('/'));
        }
        for dir in missing.into_iter().rev() {
            if let Err(e) = self.sftp.raw().mkdir(dir, FileAttributes::empty()).await {
                // Somebody else may have been quicker.
                match self.find(operation, dir).await? {
                    Some(found) => exists(&found)?,
                    None => return Err(self.sftp.failed(operation, dir, e)),
                }
            }
        }
        Ok(())
    }

    /// Where an atomic write has to put its file: what a symbolic link leads to, not the link.
    async fn real(&self, path: &str) -> String {
        let link = self.sftp.raw().lstat(path).await.is_ok_and(|a| kind(&a.attrs) == FileKind::Symlink);
        if link && let Ok(found) = self.sftp.raw().realpath(path).await {
            return found.files.into_iter().next().map_or_else(|| path.to_owned(), |f| f.filename);
        }
        path.to_owned()
    }

    async fn write(
        &self,
        path: &str,
        old: Option<FileAttributes>,
        opts: WriteOptions,
        data: ByteStream,
    ) -> Result<()> {
        let mut flags = OpenFlags::WRITE | OpenFlags::CREATE;
        flags |= if opts.append { OpenFlags::APPEND } else { OpenFlags::TRUNCATE };
        let failed = |e| self.sftp.failed("write", path, e);
        let at = if opts.append { old.as_ref().and_then(|a| a.size).unwrap_or(0) } else { 0 };
        let file = self.sftp.open(path, flags, opts.mode.filter(|_| old.is_none())).await.map_err(failed)?;
        if let Some(mode) = opts.mode.filter(|_| old.is_none()) {
            set_mode(&file, mode).await.map_err(failed)?;
        }
        file.write(path, at, opts.append, data).await?;
        file.close().await.map_err(failed)
    }

    async fn replace(
        &self,
        to: &str,
        temporary: &str,
        old: Option<FileAttributes>,
        opts: WriteOptions,
        data: ByteStream,
    ) -> Result<()> {
        let failed = |e| self.sftp.failed("write", to, e);
        let kept = old.as_ref().and_then(|a| a.permissions).map(|p| p & 0o7777);
        let mode = kept.or(opts.mode);
        let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUDE;
        // Without a mode asked for, the machine's own umask decides, as it does for any new file.
        let file = self.sftp.open(temporary, flags, mode.map(|m| m & 0o700)).await.map_err(failed)?;
        file.write(to, 0, false, data).await?;
        if let Some(old) = &old {
            let ours = file.stat().await.map_err(failed)?;
            if (old.uid, old.gid) != (ours.uid, ours.gid) {
                let mut owner = FileAttributes::empty();
                (owner.uid, owner.gid) = (old.uid, old.gid);
                let _ = file.set(owner).await; // takes privileges
            }
        }
        if let Some(mode) = mode {
            set_mode(&file, mode).await.map_err(failed)?;
        }
        file.close().await.map_err(failed)?;
        self.sftp.rename(temporary, to).await.map_err(failed)
    }
}

async fn set_mode(file: &super::sftp::Handle, mode: u32) -> std::result::Result<(), SftpError> {
    let mut attrs = FileAttributes::empty();
    attrs.permissions = Some(mode);
    file.set(attrs).await
}

/// Removes a temporary file when a write ends without having used it, even when nobody waits any more.
struct Temporary {
    files: SshFiles,
    path: Option<String>,
}

impl Temporary {
    async fn remove(files: SshFiles, path: String) {
        let removed = async {
            let open = files.open().await?;
            match open.sftp.raw().remove(path.as_str()).await {
                Err(e) if !is_missing(&e) => Err(error::sftp("remove temporary file", &path, e)),
                _ => Ok(()),
            }
        };
        if let Err(err) = OpContext::default().with_timeout(CLEANUP_LIMIT).guard("remove", removed).await {
            tracing::warn!(%err, "a temporary file may be left");
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = self.path.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(Self::remove(self.files.clone(), path));
        }
    }
}

impl SshFiles {
    async fn write_file(&self, path: &str, opts: WriteOptions, data: ByteStream) -> Result<FileInfo> {
        let open = self.open().await?;
        if opts.create_parents
            && let Some((dir, _)) = split(path)
        {
            open.make_dirs("write", dir).await?;
        }
        let old = open.find("write", path).await?;
        match old.as_ref().map(kind) {
            Some(FileKind::Dir) => return Err(state("write", path, "is a directory")),
            Some(FileKind::Other) => return Err(state("write", path, "not a regular file")),
            _ => {}
        }
        if opts.atomic {
            let to = open.real(path).await;
            let Some((dir, _)) = split(&to) else {
                return Err(Error::invalid("path", "a path that ends in a name").with_context("path", path));
            };
            let temporary =
                format!("{}/.fleetcore-{:016x}.tmp", dir.trim_end_matches('/'), rand::random::<u64>());
            let mut guard = Temporary { files: self.clone(), path: Some(temporary.clone()) };
            let written = open.replace(&to, &temporary, old, opts, data).await;
            let left = guard.path.take().filter(|_| written.is_err());
            if let Some(left) = left {
                Temporary::remove(self.clone(), left).await;
            }
            written?;
        } else {
            open.write(path, old, opts, data).await?;
        }
        Ok(info(path, &open.stat("write", path).await?))
    }

    async fn read_file(&self, path: &str, offset: u64, len: Option<u64>) -> Result<ByteStream> {
        let open = self.open().await?;
        let found = open.stat("read", path).await?;
        match kind(&found) {
            FileKind::File => {}
            FileKind::Dir => return Err(state("read", path, "is a directory")),
            // Opening a FIFO would hold up the server, and with it everybody's files.
            _ => return Err(state("read", path, "not a regular file")),
        }
        let size = found.size.unwrap_or(0);
        let file = open.sftp.open(path, OpenFlags::READ, None).await;
        let file = file.map_err(|e| open.sftp.failed("read", path, e))?;
        // Files such as those of /proc say that they are empty.
        if len == Some(0) || (size > 0 && offset >= size) || offset > i64::MAX.unsigned_abs() {
            return Ok(stream::empty().boxed());
        }
        let end = len.and_then(|len| offset.checked_add(len));
        // The stream keeps the connection from being closed as idle.
        let stream = file.read(path.to_owned(), offset, end, size);
        Ok(stream.map(move |item| (item, &open).0).boxed())
    }

    async fn list_dir(&self, path: &str) -> Result<Vec<FileInfo>> {
        let open = self.open().await?;
        if kind(&open.stat("list", path).await?) != FileKind::Dir {
            return Err(state("list", path, "not a directory"));
        }
        let failed = |e| open.sftp.failed("list", path, e);
        let handle = open.sftp.raw().opendir(path).await.map_err(failed)?.handle;
        let mut entries = Vec::new();
        let listed = loop {
            match open.sftp.raw().readdir(handle.as_str()).await {
                Ok(more) => {
                    let named = more.files.iter().filter(|f| !matches!(f.filename.as_str(), "." | ".."));
                    entries.extend(named.map(|f| info(&f.filename, &f.attrs)));
                    if entries.len() > ENTRIES_MAX {
                        break Err(state("list", path, "a directory with too many entries"));
                    }
                }
                Err(SftpError::Status(s)) if s.status_code == StatusCode::Eof => break Ok(()),
                Err(e) => break Err(failed(e)),
            }
        };
        let _ = open.sftp.raw().close(handle).await;
        listed?;
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(entries)
    }

    async fn rename_path(&self, from: &str, to: &str) -> Result<()> {
        let open = self.open().await?;
        let Err(e) = open.sftp.rename(from, to).await else { return Ok(()) };
        // Both "it is not there" and "one of them is no directory" are "no such file" here.
        let there = open.sftp.raw().lstat(from).await.is_ok();
        let parent = match split(to) {
            Some((dir, _)) => open.find("rename", dir).await?.is_some(),
            None => true,
        };
        if there && parent && (error::is_vague(&e) || is_missing(&e)) {
            return Err(state("rename", to, "cannot be replaced by that"));
        }
        Err(open.sftp.failed("rename", if there { to } else { from }, e))
    }

    async fn remove_path(&self, path: &str) -> Result<()> {
        let open = self.open().await?;
        let failed = |e| open.sftp.failed("remove", path, e);
        let found = open.sftp.raw().lstat(path).await.map_err(failed)?.attrs;
        let removed = if kind(&found) == FileKind::Dir {
            open.sftp.raw().rmdir(path).await
        } else {
            open.sftp.raw().remove(path).await
        };
        match removed {
            Err(e) if error::is_vague(&e) => {
                Err(state("remove", path, "a directory that is not empty, or in use"))
            }
            other => other.map(drop).map_err(failed),
        }
    }
}

#[async_trait]
impl FileSystem for SshFiles {
    async fn stat(&self, cx: &OpContext, path: &str) -> Result<FileInfo> {
        let path = checked("stat", path)?;
        let stat = async { Ok(info(path, &self.open().await?.stat("stat", path).await?)) };
        cx.guard("stat", stat).await
    }

    async fn read(&self, cx: &OpContext, path: &str, offset: u64, len: Option<u64>) -> Result<ByteStream> {
        cx.guard("read", self.read_file(checked("read", path)?, offset, len)).await
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
        cx.guard("write", self.write_file(checked("write", path)?, opts, data)).await
    }

    async fn list(&self, cx: &OpContext, path: &str) -> Result<Vec<FileInfo>> {
        cx.guard("list", self.list_dir(checked("list", path)?)).await
    }

    async fn create_dir(&self, cx: &OpContext, path: &str) -> Result<()> {
        let path = checked("create_dir", path)?;
        let make = async { self.open().await?.make_dirs("create_dir", path).await };
        cx.guard("create_dir", make).await
    }

    async fn rename(&self, cx: &OpContext, from: &str, to: &str) -> Result<()> {
        let (from, to) = (checked("rename", from)?, checked("rename", to)?);
        cx.guard("rename", self.rename_path(from, to)).await
    }

    async fn remove(&self, cx: &OpContext, path: &str, recursive: bool) -> Result<()> {
        if recursive {
            return self.commands.remove(cx, path, true).await;
        }
        cx.guard("remove", self.remove_path(checked("remove", path)?)).await
    }

    async fn read_tar(&self, cx: &OpContext, path: &str) -> Result<ByteStream> {
        self.streams.read_tar(cx, path).await
    }

    async fn write_tar(&self, cx: &OpContext, path: &str, data: ByteStream) -> Result<u64> {
        self.streams.write_tar(cx, path, data).await
    }
}
