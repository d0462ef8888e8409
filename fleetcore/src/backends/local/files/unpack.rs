//! A tar stream into a directory, trusting nothing in it.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use bytes::{Buf, Bytes};
use futures::StreamExt;
use rustix::{
    fs::{
        AtFlags, Mode, OFlags, Timespec, Timestamps, fchmod, futimens, linkat, openat, symlinkat, unlinkat,
    },
    io::Errno,
};
use tar::{Archive, Entry, EntryType};
use tokio::sync::{mpsc, oneshot};

use super::{
    Inner, aborted,
    base::{Base, mode},
    failed,
};
use crate::{
    Error, ErrorKind, Result,
    raw::ByteStream,
    sim::tar_links::{LinkPaths, NOT_LINKED, NOT_THROUGH},
};

/// What one stream may unpack to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) entries: u64,
    pub(super) bytes: u64,
}

/// Pieces that may wait for a slow disk.
const WAITING: usize = 4;

/// A piece of the stream; `None` is its proper end, without which it counts as broken off.
type Piece = Option<Bytes>;

struct ChannelReader {
    pieces: mpsc::Receiver<Piece>,
    current: Bytes,
    ended: bool,
}

impl Read for ChannelReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Some(piece)) => self.current = piece,
                Some(None) => self.ended = true,
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "stream broke off")),
            }
        }
        let n = buf.len().min(self.current.len());
        self.current.split_to(n).copy_to_slice(buf.get_mut(..n).unwrap_or_default());
        Ok(n)
    }
}

/// Unpacks `data` into the directory `at`; returns the number of entries.
pub(super) async fn unpack(
    inner: Arc<Inner>,
    at: PathBuf,
    limits: Limits,
    mut data: ByteStream,
) -> Result<u64> {
    let place = inner.transfers.enter()?;
    let (sender, pieces) = mpsc::channel(WAITING);
    let (tell, result) = oneshot::channel();
    place.run("fleetcore-unpack", move || {
        let unpacked = inner.base.make_dirs(&at).map_err(failed).and_then(|dest| {
            let reader = ChannelReader { pieces, current: Bytes::new(), ended: false };
            unpack_into(&Base::Beneath(dest), reader, limits)
        });
        // Fails when nobody waits for it any more.
        let _ = tell.send(unpacked);
    })?;
    let work = async move { result.await.unwrap_or_else(|e| Err(aborted(e))) };
    let feed = async move {
        while let Some(piece) = data.next().await {
            if sender.send(Some(piece?)).await.is_err() {
                return Ok(()); // it ended early, and says why
            }
        }
        let _ = sender.send(None).await;
        Ok(())
    };
    let (fed, unpacked) = futures::join!(feed, work);
    fed.and(unpacked)
}

fn bad(entry: &Path, rule: &'static str) -> Error {
    Error::invalid("entry", rule).with_context("entry", entry.display().to_string().escape_debug())
}

/// The path of an entry in pieces that can do no harm. Empty for the directory itself.
fn safe(path: &Path) -> Result<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) if name.as_bytes().contains(&0) => return Err(bad(path, "without NUL")),
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            _ => return Err(bad(path, "a relative path without `..`")),
        }
    }
    Ok(clean)
}

/// The names of a [`safe`] path.
fn names(path: &Path) -> impl Iterator<Item = &[u8]> {
    path.iter().map(OsStrExt::as_bytes)
}

/// Whether a link at `at` to `target` stays beneath the top, going by the names. `..` behind a name does not count
/// as going back: the name may be, or become, a link to somewhere else.
fn stays_inside(at: &Path, target: &Path) -> bool {
    let mut depth = at.components().count().saturating_sub(1);
    let mut named = false;
    for component in target.components() {
        match component {
            Component::Normal(_) => named = true,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 && !named => depth -= 1,
            _ => return false,
        }
    }
    true
}

fn unpack_into(dest: &Base, reader: ChannelReader, limits: Limits) -> Result<u64> {
    let mut archive = Archive::new(reader);
    let mut left = limits.bytes;
    let mut count = 0;
    let mut links = LinkPaths::default();
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        if entry.header().entry_type() == EntryType::XGlobalHeader {
            continue; // a comment, such as git writes
        }
        count += 1;
        if count > limits.entries {
            return Err(Error::invalid("data", "an archive within the limit of entries")
                .with_context("limit", limits.entries));
        }
        let path = entry.path().map_err(broken)?.into_owned();
        let at = safe(&path)?;
        if links.on_the_way(names(&at)) {
            return Err(bad(&path, NOT_THROUGH));
        }
        unpack_entry(dest, &mut entry, &at, &mut left, &mut links).map_err(|e| match e.kind() {
            // Through a link that leads outside.
            ErrorKind::PermissionDenied if e.message().contains("leads out") => {
                bad(&path, "a path that stays inside the directory").with_source(e)
            }
            _ if e.context_value("entry").is_none() => e.with_context("entry", path.display()),
            _ => e,
        })?;
    }
    Ok(count)
}

/// What is wrong with the stream itself.
fn broken(err: io::Error) -> Error {
    match err.kind() {
        io::ErrorKind::Other | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            Error::new(ErrorKind::InvalidInput, "data is not a complete tar stream")
                .with_context("field", "data")
                .with_source(err)
        }
        _ => failed(err),
    }
}

fn unpack_entry(
    dest: &Base,
    entry: &mut Entry<'_, ChannelReader>,
    at: &Path,
    left: &mut u64,
    links: &mut LinkPaths,
) -> Result<()> {
    let kind = entry.header().entry_type();
    let bits = mode(entry.header().mode().map_err(broken)? & 0o777);
    if kind == EntryType::Directory {
        let dir = dest.make_dirs(at).map_err(failed)?;
        if at.as_os_str().is_empty() {
            return Ok(());
        }
        // An O_PATH descriptor cannot be changed; whoever unpacks must be able to go on inside.
        let own = openat(&dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        return own.and_then(|d| fchmod(d, bits | Mode::RWXU)).map_err(failed);
    }
    if at.as_os_str().is_empty() {
        return Err(bad(at, "named"));
    }
    match kind {
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            let (dir, name) = make_place(dest, at)?;
            // Removed above, so this makes a new file: nothing is written through a link, hard or symbolic.
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = openat(&dir, &name, flags, Mode::from_raw_mode(0o600)).map_err(failed)?;
            let mut file = File::from(fd);
            let written = io::copy(&mut entry.take(left.saturating_add(1)), &mut file).map_err(broken)?;
            *left = left.checked_sub(written).ok_or_else(|| {
                let _ = unlinkat(&dir, &name, AtFlags::empty());
                Error::invalid("data", "an archive within the limit of bytes")
            })?;
            fchmod(&file, bits).map_err(failed)?;
            let mtime = entry.header().mtime().ok().and_then(|t| i64::try_from(t).ok()).unwrap_or(0);
            let stamp = Timespec { tv_sec: mtime, tv_nsec: 0 };
            let _ = futimens(&file, &Timestamps { last_access: stamp, last_modification: stamp });
            Ok(())
        }
        EntryType::Symlink => {
            let target = entry.link_name().map_err(broken)?.ok_or_else(|| bad(at, "a link with a target"))?;
            if !stays_inside(at, &target) {
                return Err(bad(at, "a link that stays inside the directory"));
            }
            let (dir, name) = make_place(dest, at)?;
            links.add(names(at));
            symlinkat(target.as_ref(), dir, name).map_err(failed)
        }
        EntryType::Link => {
            let target = entry.link_name().map_err(broken)?.ok_or_else(|| bad(at, "a link with a target"))?;
            let target = safe(&target)?;
            // It would move a symbolic link to where its target means something else.
            if links.on_the_way_or_at(names(&target)) {
                return Err(bad(at, NOT_LINKED));
            }
            let (from, old) =
                dest.parent(&target).ok_or_else(|| bad(at, "a link to a file"))?.map_err(failed)?;
            if target == at {
                return Ok(());
            }
            let (dir, name) = make_place(dest, at)?;
            linkat(from, old, dir, name, AtFlags::empty()).map_err(failed)
        }
        _ => Err(bad(at, "a file, directory or link, not a device or FIFO")),
    }
}

/// The directory an entry goes to, made if missing, with nothing of that name in it.
fn make_place(dest: &Base, at: &Path) -> Result<(OwnedFd, OsString)> {
    let parent = at.parent().unwrap_or(Path::new(""));
    let dir = dest.make_dirs(parent).map_err(failed)?;
    let name = at.file_name().ok_or_else(|| bad(at, "named"))?.to_owned();
    match unlinkat(&dir, &name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok((dir, name)),
        Err(e) => Err(failed(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_judged_from_where_they_are() {
        let inside = |at: &str, target: &str| stays_inside(Path::new(at), Path::new(target));
        assert!(inside("a", "b") && inside("a/b", "../c") && inside("a/b/c", "../../x"));
        assert!(
            !inside("a", "../b")
                && !inside("a/b", "../../c")
                && !inside("a", "/etc")
                && !inside("a", "b/../../c")
                && !inside("a/b", "c/../d")
        );
    }
}
