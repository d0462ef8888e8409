//! An uploaded zip file, unpacked onto a machine.
//!
//! Its entries go to the machine as one tar stream: the machine's own unpacking stays inside of the directory whatever
//! links are in it, and it is one transfer instead of one per file.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, Read, Write},
};

use bytes::Bytes;
use fleetcore::{Error, ErrorKind, Files};
use futures::{StreamExt, stream};
use tokio::sync::mpsc;
use zip::{ZipArchive, result::ZipError};

/// Most entries of an archive.
const ENTRIES_MAX: usize = 1_000_000;
/// Most bytes an archive may unpack to, whatever its own size.
const BYTES_MAX: u64 = 64 << 30;
/// Up to here an archive may be as dense as it likes; above, it is taken for a bomb if it unpacks to more than a
/// hundred times its size. Source code packs to a fifth, logs to a thirtieth.
const DENSE_BYTES: u64 = 1 << 30;
const DENSEST: u64 = 100;

/// Pieces that may wait for a slow machine.
const WAITING: usize = 4;
const PIECE: usize = 256 << 10;

/// Why an archive was not unpacked, or not all of it.
#[derive(Debug)]
pub(super) enum Failure {
    NotAZip,
    Refused(String),
    Files(Error),
}

/// What is done after the files are there.
type Directories = Vec<String>;

/// Unpacks `archive` into the directory `to`. Entries with absolute names or `..` are left out; links and devices become
/// plain files, as they do in the original. Modes are not restored.
pub(super) async fn unpack(files: &Files, archive: File, to: &str) -> Result<(), Failure> {
    let (sender, pieces) = mpsc::channel(WAITING);
    let work = tokio::task::spawn_blocking(move || repack(archive, sender));
    let data =
        stream::unfold(pieces, |mut pieces| async { pieces.recv().await.map(|piece| (piece, pieces)) });
    let written = files.write_tar(to, data.boxed()).await;
    let repacked = match work.await {
        Ok(repacked) => repacked,
        Err(e) => Err(Failure::Refused(e.to_string())),
    };
    // If the machine refused, repacking ended for want of a reader.
    let directories = match (written, repacked) {
        (Ok(_), Ok(directories)) => directories,
        (_, Err(failure @ (Failure::NotAZip | Failure::Refused(_)))) => return Err(failure),
        (Err(e), _) | (_, Err(Failure::Files(e))) => return Err(Failure::Files(e)),
    };
    for dir in directories {
        files.create_dir(&format!("{to}/{dir}")).await.map_err(Failure::Files)?;
    }
    Ok(())
}

/// Where the tar stream goes, in large pieces.
struct Sink {
    sender: mpsc::Sender<fleetcore::Result<Bytes>>,
    piece: Vec<u8>,
}

impl Sink {
    fn send(&mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.piece);
        let sent = piece.is_empty() || self.sender.blocking_send(Ok(piece.into())).is_ok();
        if sent { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }
}

impl Write for Sink {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(data);
        if self.piece.len() >= PIECE {
            self.send()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

/// Exactly as many bytes as were promised: a tar stream says them first.
struct Exactly<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, "Bad size of an entry");
        self.left = self.left.checked_sub(n as u64).ok_or_else(wrong)?;
        if n == 0 && !buf.is_empty() && self.left > 0 { Err(wrong()) } else { Ok(n) }
    }
}

fn repack(archive: File, sender: mpsc::Sender<fleetcore::Result<Bytes>>) -> Result<Directories, Failure> {
    let outcome = write_all(archive, &sender);
    if let Err(failure) = &outcome {
        // The machine must not take what it got for everything.
        let _ = sender.blocking_send(Err(Error::new(ErrorKind::InvalidInput, format!("{failure:?}"))));
    }
    outcome
}

fn write_all(archive: File, sender: &mpsc::Sender<fleetcore::Result<Bytes>>) -> Result<Directories, Failure> {
    let packed = archive.metadata().map_err(|e| Failure::Refused(e.to_string()))?.len();
    let allowed = packed.saturating_mul(DENSEST).clamp(DENSE_BYTES, BYTES_MAX);
    let mut zip = ZipArchive::new(archive).map_err(|_| Failure::NotAZip)?;
    if zip.len() > ENTRIES_MAX {
        return Err(Failure::Refused(format!("archive has more than {ENTRIES_MAX} entries")));
    }
    let mut tar = tar::Builder::new(Sink { sender: sender.clone(), piece: Vec::new() });
    let (mut directories, mut parents) = (Directories::new(), HashSet::new());
    let mut left = allowed;
    let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0);
    for index in 0..zip.len() {
        let entry = zip.by_index(index).map_err(unreadable)?;
        let Some((name, is_dir)) = entry.name().ok().and_then(|name| safe(&name)) else { continue };
        if is_dir {
            directories.push(name);
            continue;
        }
        let size = entry.size();
        left = left.checked_sub(size).ok_or_else(|| {
            Failure::Refused(format!("archive unpacks to more than {allowed} bytes, which is too much"))
        })?;
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_mtime(now);
        let packed = tar.append_data(&mut header, &name, Exactly { inner: entry, left: size });
        packed.map_err(|e| broken(e, &name))?;
        let mut parent = name.as_str();
        while let Some((above, _)) = parent.rsplit_once('/') {
            if !parents.insert(above.to_owned()) {
                break;
            }
            parent = above;
        }
    }
    let end = tar.into_inner().and_then(|mut sink| sink.flush());
    end.map_err(|e| broken(e, ""))?;
    directories.retain(|dir| !parents.contains(dir));
    Ok(directories)
}

fn broken(err: io::Error, name: &str) -> Failure {
    if err.kind() == io::ErrorKind::BrokenPipe {
        return Failure::Files(Error::new(ErrorKind::Unexpected, "unpacking ended early"));
    }
    Failure::Refused(format!("{err} ({name})"))
}

fn unreadable(err: ZipError) -> Failure {
    Failure::Refused(match err {
        ZipError::Io(e) => e.to_string(),
        other => other.to_string(),
    })
}

/// The name of an entry within the directory, and whether it is a directory. `None` if it would lead elsewhere.
fn safe(name: &str) -> Option<(String, bool)> {
    if name.starts_with('/') || name.contains('\0') || name.split('/').any(|part| part == "..") {
        return None;
    }
    let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    (!parts.is_empty()).then(|| (parts.join("/"), name.ends_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_left_out() {
        for bad in ["/etc/passwd", "../x", "a/../../x", "a/..", "", "./", "a\0b", "/"] {
            assert_eq!(safe(bad), None, "{bad}");
        }
        assert_eq!(safe("a/./b//c"), Some(("a/b/c".into(), false)));
        assert_eq!(safe("a/b/"), Some(("a/b".into(), true)));
        assert_eq!(safe("..a/b.."), Some(("..a/b..".into(), false)));
    }

    #[test]
    fn what_is_not_as_long_as_promised_is_an_error() {
        let read = |data: &'static [u8], left| io::read_to_string(Exactly { inner: data, left }).is_ok();
        assert!(read(b"abc", 3) && read(b"", 0));
        assert!(!read(b"abc", 2) && !read(b"abc", 4));
    }
}
