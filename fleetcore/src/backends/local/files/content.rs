//! What is in a file.

use std::{
    ffi::OsString,
    fs::File,
    io::Write,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Stat, fchmod, fchown, fstat, openat, renameat, statat, unlinkat},
    io::Errno,
};

use super::{
    Inner,
    base::{Base, NAME_ONLY, mode, path_of},
    failed, hop, info, mode_bits, not_a_file,
};
use crate::{Error, ErrorKind, FileInfo, Result, WriteOptions, raw::ByteStream};

/// Most that is read or collected before it is handed on: a trip between threads costs about as much as copying
/// 64 KiB, so at this size it does not matter.
const BLOCK: usize = 256 << 10;

/// A file that is being read. Small files are in `first` whole.
#[derive(Debug)]
pub(super) struct Reader {
    file: Arc<OwnedFd>,
    first: Bytes,
    offset: u64,
    left: u64,
    shown: Arc<str>,
}

impl Reader {
    /// Opens a regular file and reads its first block.
    pub(super) fn open(base: &Base, at: &Path, offset: u64, len: u64, shown: String) -> Result<Self> {
        // A FIFO must not block us, nor a device do what opening it does.
        let file = base.open(at, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).map_err(failed)?;
        let stat = fstat(&file).map_err(failed)?;
        check_regular(&stat)?;
        // The size is a hint only: files of /proc say 0, and a log may grow.
        let rest = u64::try_from(stat.st_size).unwrap_or(0).saturating_sub(offset);
        let hint = usize::try_from(rest).unwrap_or(BLOCK).saturating_add(1).max(4096);
        let mut reader =
            Self { file: Arc::new(file), first: Bytes::new(), offset, left: len, shown: shown.into() };
        reader.first = reader.block(hint)?;
        Ok(reader)
    }

    /// Reads on, at most `hint` bytes and at least one, unless the end is reached.
    fn block(&mut self, hint: usize) -> Result<Bytes> {
        let want = hint.min(BLOCK).min(usize::try_from(self.left).unwrap_or(BLOCK));
        let mut data = Vec::with_capacity(want);
        while data.len() < want {
            match rustix::io::pread(&*self.file, rustix::buffer::spare_capacity(&mut data), self.offset) {
                Ok(0) => {
                    self.left = 0;
                    break;
                }
                Ok(n) => self.offset += n as u64,
                Err(Errno::INTR) => {}
                // Past the largest offset there is nothing to read.
                Err(Errno::INVAL | Errno::OVERFLOW) => {
                    self.left = 0;
                    break;
                }
                Err(e) => return Err(failed(e).with_operation("read").with_context("path", &self.shown)),
            }
        }
        // The allocator may have given more room than was asked for.
        self.offset -= data.len().saturating_sub(want) as u64;
        data.truncate(want);
        self.left = self.left.saturating_sub(data.len() as u64);
        Ok(data.into())
    }

    pub(super) fn into_stream(mut self) -> ByteStream {
        let first = std::mem::take(&mut self.first);
        let rest = stream::try_unfold(self, |mut reader| async move {
            if reader.left == 0 {
                return Ok(None);
            }
            let (data, reader) = hop(move || reader.block(BLOCK).map(|data| (data, reader))).await?;
            Ok(if data.is_empty() { None } else { Some((data, reader)) })
        });
        let first = (!first.is_empty()).then_some(Ok(first));
        stream::iter(first).chain(rest).boxed()
    }
}

fn check_regular(stat: &Stat) -> Result<()> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err(Error::new(ErrorKind::InvalidState, "is a directory")),
        _ => Err(not_a_file()),
    }
}

/// A file that is being written. Dropping it unfinished removes the temporary file.
#[derive(Debug)]
struct Writer {
    file: File,
    replacing: Option<Replacing>,
}

/// A temporary file beside the one it will replace.
#[derive(Debug)]
struct Replacing {
    dir: OwnedFd,
    temporary: OsString,
    name: OsString,
    done: bool,
}

impl Drop for Replacing {
    fn drop(&mut self) {
        if !self.done {
            let _ = unlinkat(&self.dir, &self.temporary, AtFlags::empty());
        }
    }
}

impl Writer {
    fn open(inner: &Inner, at: &Path, opts: WriteOptions) -> Result<Self> {
        if opts.create_parents
            && let Some(parent) = at.parent()
        {
            inner.base.make_dirs(parent).map_err(failed)?;
        }
        let beside = if opts.atomic { Self::open_beside(inner, at, opts)? } else { None };
        beside.map_or_else(|| Self::open_itself(inner, at, opts), Ok)
    }

    fn open_itself(inner: &Inner, at: &Path, opts: WriteOptions) -> Result<Self> {
        let how = if opts.append { OFlags::APPEND } else { OFlags::empty() };
        // Truncated only once it is known to be a regular file.
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | how;
        let new = mode(opts.mode.unwrap_or(0o666));
        let file = match inner.base.open(at, flags | OFlags::CREATE | OFlags::EXCL, new) {
            Ok(file) => {
                if let Some(bits) = opts.mode {
                    fchmod(&file, mode(bits)).map_err(failed)?; // whatever the umask is
                }
                file
            }
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                // Again with CREATE: the name may be a link to nothing yet.
                let dangling = matches!(link_target(inner, at), Ok(None));
                let file = inner.base.open(at, flags | OFlags::CREATE, new).map_err(failed)?;
                if let Some(bits) = opts.mode.filter(|_| dangling) {
                    fchmod(&file, mode(bits)).map_err(failed)?;
                }
                file
            }
            Err(e) => return Err(failed(e)),
        };
        check_regular(&fstat(&file).map_err(failed)?)?;
        if !opts.append {
            rustix::fs::ftruncate(&file, 0).map_err(failed)?;
        }
        Ok(Self { file: file.into(), replacing: None })
    }

    /// `None` where a rename would change more than the contents, and that was asked not to happen.
    fn open_beside(inner: &Inner, at: &Path, opts: WriteOptions) -> Result<Option<Self>> {
        let (mut dir, mut name) = inner.parent(at)?;
        let mut old = match statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(stat),
            Err(Errno::NOENT) => None,
            Err(e) => return Err(failed(e)),
        };
        if old.is_some_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Symlink) {
            // The link stays, and what it points to is replaced; a link to nothing is replaced itself.
            old = None;
            match link_target(inner, at)? {
                Some(target) => {
                    (dir, name) = inner.parent(&target)?;
                    old = statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW).ok();
                }
                None if opts.keep_links => return Ok(None),
                None => {}
            }
        }
        if let Some(stat) = &old {
            check_regular(stat)?;
            if opts.keep_links && stat.st_nlink > 1 {
                return Ok(None);
            }
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Nobody who may not read the old file may read the new one while it is written.
        let new = mode(old.as_ref().map_or(opts.mode.unwrap_or(0o666), |_| 0o600));
        let temporary = OsString::from(format!(".fleetcore-{:016x}.tmp", rand::random::<u64>()));
        let file = match openat(&dir, &temporary, flags, new) {
            Ok(file) => file,
            Err(Errno::ACCESS | Errno::PERM) if opts.keep_links && old.is_some() => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        let replacing = Replacing { dir, temporary, name, done: false };
        if let Some(stat) = &old {
            let (uid, gid) = (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
            // Only root can give files away.
            if fchown(&file, Some(uid), Some(gid)).is_err() && opts.keep_links {
                return Ok(None); // and `replacing` removes the temporary file
            }
            fchmod(&file, mode(mode_bits(stat))).map_err(failed)?;
        } else if let Some(bits) = opts.mode {
            fchmod(&file, mode(bits)).map_err(failed)?;
        }
        Ok(Some(Self { file: file.into(), replacing: Some(replacing) }))
    }

    fn append(&mut self, batch: &[Bytes]) -> Result<()> {
        batch.iter().try_for_each(|data| self.file.write_all(data)).map_err(failed)
    }

    fn finish(mut self, shown: String) -> Result<FileInfo> {
        if let Some(r) = &mut self.replacing {
            renameat(&r.dir, &r.temporary, &r.dir, &r.name).map_err(failed)?;
            r.done = true;
        }
        Ok(info(shown, &fstat(&self.file).map_err(failed)?))
    }
}

/// Where a link leads in the end, as its base understands it. `None` if to nothing.
fn link_target(inner: &Inner, at: &Path) -> Result<Option<PathBuf>> {
    let fd = match inner.base.open(at, NAME_ONLY, Mode::empty()) {
        Ok(fd) => fd,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let real = path_of(&fd).map_err(failed)?;
    Ok(Some(match &inner.base {
        Base::Anywhere => real,
        Base::Beneath(root) => {
            let root = path_of(root).map_err(failed)?;
            real.strip_prefix(root).map_err(|_| failed(Errno::XDEV))?.to_owned()
        }
    }))
}

/// Collects up to a block, so that small pieces do not each cost a trip. `true` when the data has ended.
async fn collect(data: &mut ByteStream) -> Result<(Vec<Bytes>, bool)> {
    let (mut batch, mut size) = (Vec::new(), 0);
    while size < BLOCK {
        match data.next().await {
            Some(piece) => {
                let piece = piece?;
                size += piece.len();
                batch.push(piece);
            }
            None => return Ok((batch, true)),
        }
    }
    Ok((batch, false))
}

/// Writes `data`. One trip if there is only a little.
pub(super) async fn write(
    inner: Arc<Inner>,
    at: PathBuf,
    opts: WriteOptions,
    mut data: ByteStream,
    shown: String,
) -> Result<FileInfo> {
    let (batch, mut ended) = collect(&mut data).await?;
    if ended {
        return hop(move || {
            let mut writer = Writer::open(&inner, &at, opts)?;
            writer.append(&batch)?;
            writer.finish(shown)
        })
        .await;
    }
    let mut writer = hop(move || {
        let mut writer = Writer::open(&inner, &at, opts)?;
        writer.append(&batch)?;
        Ok(writer)
    })
    .await?;
    while !ended {
        let (batch, last) = match collect(&mut data).await {
            Ok(more) => more,
            Err(e) => {
                // Removing the temporary file may block, too.
                hop(move || {
                    drop(writer);
                    Ok(())
                })
                .await?;
                return Err(e);
            }
        };
        ended = last;
        writer = hop(move || {
            writer.append(&batch)?;
            Ok(writer)
        })
        .await?;
    }
    hop(move || writer.finish(shown)).await
}
