//! A tree as a tar stream.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, BufWriter, Read, Write},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, openat, readlinkat};
use tar::{Builder, EntryType, Header};
use tokio::sync::mpsc;

use super::{MAX_DEPTH, base::Base, entries_of, failed, mode_bits, not_a_file, too_deep, transfer::Place};
use crate::{Error, Result, raw::ByteStream};

/// Pieces of the stream, and how many may wait for a slow reader: together the memory one download takes.
const PIECE: usize = 128 << 10;
const WAITING: usize = 4;

struct ChannelWriter(mpsc::Sender<Result<Bytes>>);

impl Write for ChannelWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(data)));
        sent.map(|()| data.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens what is to be packed and starts a thread that packs it, until done or nobody listens.
pub(super) fn start(place: Place, base: &Base, at: &Path, shown: String) -> Result<ByteStream> {
    let fd = base.open(at, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).map_err(failed)?;
    let stat = fstat(&fd).map_err(failed)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if !matches!(kind, FileType::RegularFile | FileType::Directory) {
        return Err(not_a_file());
    }
    let name = at.file_name().unwrap_or(OsStr::new("file")).to_owned();
    let (sender, receiver) = mpsc::channel(WAITING);
    place.run("fleetcore-pack", move || {
        let mut tar = Builder::new(BufWriter::with_capacity(PIECE, ChannelWriter(sender.clone())));
        let packed = if kind == FileType::Directory {
            add_dir(&mut tar, &fd, Path::new(""), 0)
        } else {
            add_file(&mut tar, fd, Path::new(&name), &stat)
        };
        let packed = packed.and_then(|()| tar.into_inner().and_then(|mut out| out.flush()).map_err(failed));
        if let Err(e) = packed {
            // Fails when nobody listens any more, which is then the reason of the error, too.
            let _ = sender.blocking_send(Err(super::about(e, "read_tar", &shown)));
        }
    })?;
    Ok(stream::unfold(receiver, |mut r| async move { r.recv().await.map(|item| (item, r)) }).boxed())
}

type Out = Builder<BufWriter<ChannelWriter>>;

fn header(stat: &Stat, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode_bits(stat));
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header
}

fn add_file(tar: &mut Out, fd: OwnedFd, path: &Path, stat: &Stat) -> Result<()> {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    // The header has promised this size: what a file lost meanwhile is filled with zeros, as tar(1) does.
    let data = File::from(fd).take(size).chain(io::repeat(0)).take(size);
    tar.append_data(&mut header(stat, EntryType::Regular, size), path, data).map_err(failed)
}

fn add_dir(tar: &mut Out, dir: &OwnedFd, path: &Path, depth: usize) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    for (name, stat) in entries_of(dir.as_fd()).map_err(failed)? {
        let inside: PathBuf = path.join(&name);
        let entry = |e: Error| e.with_context("entry", inside.display());
        let open = || openat(dir, &name, flags, Mode::empty());
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let fd = match open() {
                    Ok(fd) => fd,
                    Err(rustix::io::Errno::NOENT) => continue,
                    Err(e) => return Err(entry(failed(e))),
                };
                let mut header = header(&stat, EntryType::Directory, 0);
                tar.append_data(&mut header, inside.join(""), io::empty()).map_err(|e| entry(failed(e)))?;
                add_dir(tar, &fd, &inside, depth + 1)?;
            }
            FileType::RegularFile => {
                let fd = match open() {
                    Ok(fd) => fd,
                    Err(rustix::io::Errno::NOENT) => continue,
                    Err(e) => return Err(entry(failed(e))),
                };
                let stat = fstat(&fd).map_err(failed)?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
                    add_file(tar, fd, &inside, &stat).map_err(entry)?;
                }
            }
            FileType::Symlink => {
                use std::os::unix::ffi::OsStrExt;
                let Ok(target) = readlinkat(dir, &name, Vec::new()) else { continue };
                let mut header = header(&stat, EntryType::Symlink, 0);
                let target = Path::new(OsStr::from_bytes(target.as_bytes()));
                tar.append_link(&mut header, &inside, target).map_err(|e| entry(failed(e)))?;
            }
            // Sockets, FIFOs and devices mean nothing elsewhere.
            _ => {}
        }
    }
    Ok(())
}
