//! The segments of one command.

use std::{
    collections::VecDeque,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, IoSlice, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    SpoolLimits,
    frame::{self, HEADER, Header, MAX_DATA},
};
use crate::OutputChunk;

/// A segment as readers need it: `len` bytes of the file may be read.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) path: PathBuf,
    pub(super) start: u64,
    pub(super) len: u64,
}

#[derive(Debug)]
struct Segment {
    start: u64,
    len: u64,
}

/// Where one command's output stands. The caller's lock makes it the only writer.
pub(super) struct Log {
    dir: PathBuf,
    segments: VecDeque<Segment>,
    writer: Option<Writer>,
    /// The last segment takes no more frames: a write to it failed.
    sealed: bool,
    end: u64,
    bytes: u64,
    writers: Arc<AtomicUsize>,
    /// The last append failed.
    pub(super) failing: bool,
}

/// An open file, counted.
struct Writer {
    file: File,
    count: Arc<AtomicUsize>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Log {
    /// Looks at what is on disk and cuts off a torn frame at the end.
    pub(super) fn recover(dir: PathBuf, writers: Arc<AtomicUsize>) -> io::Result<Self> {
        let parts = parts_on_disk(&dir)?;
        let mut segments: VecDeque<_> =
            parts.iter().map(|p| Segment { start: p.start, len: p.len }).collect();
        let mut end = 0;
        while let Some(last) = segments.back_mut() {
            let path = segment_path(&dir, last.start);
            let file = OpenOptions::new().read(true).write(true).open(&path)?;
            let (sound, sound_end) = frame::scan(&file)?;
            if sound < last.len {
                tracing::warn!(path = %path.display(), bytes = last.len - sound, "cutting off a torn frame");
            }
            if let Some(sound_end) = sound_end {
                if sound < last.len {
                    file.set_len(sound)?;
                    last.len = sound;
                }
                end = sound_end;
                break;
            }
            fs::remove_file(&path)?;
            segments.pop_back();
        }
        let bytes = segments.iter().map(|s| s.len).sum();
        Ok(Self { dir, segments, writer: None, sealed: false, end, bytes, writers, failing: false })
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_open(&self) -> bool {
        self.writer.is_some()
    }

    pub(super) fn close(&mut self) {
        self.writer = None;
    }

    /// A snapshot for readers.
    pub(super) fn parts(&self) -> Vec<Part> {
        self.segments
            .iter()
            .map(|s| Part { path: segment_path(&self.dir, s.start), start: s.start, len: s.len })
            .collect()
    }

    /// Stores what of `chunk` is new. On an error whole frames before the failure stay, nothing else does.
    pub(super) fn append(&mut self, chunk: &OutputChunk, limits: &SpoolLimits) -> io::Result<()> {
        let known = usize::try_from(self.end.saturating_sub(chunk.offset.0)).unwrap_or(usize::MAX);
        let Some(data) = chunk.data.get(known..) else { return Ok(()) };
        let mut offset = chunk.offset.0 + known as u64;
        for piece in data.chunks(MAX_DATA) {
            let len = piece.len() as u32;
            let header = Header { len, offset, at: chunk.at, channel: chunk.channel };
            self.write(&header, piece, limits.segment_bytes)?;
            offset = header.end();
        }
        while self.bytes > limits.command_bytes && self.segments.len() > 1 {
            if let Err(e) = self.drop_oldest() {
                // The chunk is stored all the same.
                tracing::warn!(dir = %self.dir.display(), error = %e, "cannot remove old output");
                break;
            }
        }
        Ok(())
    }

    fn write(&mut self, header: &Header, data: &[u8], segment_bytes: u64) -> io::Result<()> {
        let size = (HEADER + data.len()) as u64;
        let fits = !self.sealed && self.segments.back().is_some_and(|s| s.len + size <= segment_bytes);
        if !fits {
            self.writer = None;
            let file = create(&self.dir, header.offset)?;
            self.open(file);
            self.segments.push_back(Segment { start: header.offset, len: 0 });
            self.sealed = false;
        } else if self.writer.is_none()
            && let Some(last) = self.segments.back()
        {
            let file = OpenOptions::new().append(true).open(segment_path(&self.dir, last.start))?;
            self.open(file);
        }
        let (Some(writer), Some(last)) = (&mut self.writer, self.segments.back_mut()) else {
            return Err(io::Error::other("no segment is open"));
        };
        match write_frame(&mut writer.file, &header.encode(), data) {
            Ok(()) => {
                last.len += size;
                self.bytes += size;
                self.end = header.end();
                Ok(())
            }
            Err(e) => {
                self.undo();
                Err(e)
            }
        }
    }

    /// Back to the last whole frame. Later chunks go to a segment of their own, so that even if the torn frame
    /// cannot be removed nothing follows it.
    fn undo(&mut self) {
        self.sealed = true;
        let writer = self.writer.take();
        let Some(last) = self.segments.back() else { return };
        if last.len == 0 {
            // A file that cannot be removed is overwritten when its offset comes again.
            let _ = fs::remove_file(segment_path(&self.dir, last.start));
            self.segments.pop_back();
        } else if let Some(Err(e)) = writer.map(|w| w.file.set_len(last.len)) {
            tracing::warn!(dir = %self.dir.display(), error = %e, "a torn frame stays in an output file");
        }
    }

    fn open(&mut self, file: File) {
        self.writers.fetch_add(1, Ordering::Relaxed);
        self.writer = Some(Writer { file, count: Arc::clone(&self.writers) });
    }

    fn drop_oldest(&mut self) -> io::Result<()> {
        let Some(first) = self.segments.front() else { return Ok(()) };
        remove(&segment_path(&self.dir, first.start))?;
        self.bytes -= first.len;
        self.segments.pop_front();
        Ok(())
    }

    /// Removes the segment that begins at `start` unless it is the last one; whether it did.
    pub(super) fn drop_segment(&mut self, start: u64) -> io::Result<bool> {
        let Some(at) = self.segments.iter().position(|s| s.start == start) else { return Ok(false) };
        if at + 1 == self.segments.len() {
            return Ok(false);
        }
        remove(&segment_path(&self.dir, start))?;
        if let Some(gone) = self.segments.remove(at) {
            self.bytes -= gone.len;
        }
        Ok(true)
    }
}

/// All or an error; an error leaves part of the frame behind.
fn write_frame(file: &mut File, header: &[u8; HEADER], data: &[u8]) -> io::Result<()> {
    let mut slices = [IoSlice::new(header), IoSlice::new(data)];
    let mut rest: &mut [IoSlice<'_>] = &mut slices;
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => IoSlice::advance_slices(&mut rest, n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// A new, empty segment; directories are made on the way.
fn create(dir: &Path, start: u64) -> io::Result<File> {
    let path = segment_path(dir, start);
    // A file of this name can only be what an earlier failure left: nothing in it was acknowledged.
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let file = match options.open(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            options.open(&path)?
        }
        other => other?,
    };
    Ok(file)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Twenty digits hold any 64-bit offset, so names sort like numbers.
fn segment_path(dir: &Path, start: u64) -> PathBuf {
    dir.join(format!("{start:020}.seg"))
}

/// The offset in the name of a segment file.
pub(super) fn segment_start(path: &Path) -> Option<u64> {
    (path.extension()? == "seg").then_some(())?;
    path.file_stem()?.to_str()?.parse().ok()
}

/// The segments in a directory, in order; none if there is no directory.
pub(super) fn parts_on_disk(dir: &Path) -> io::Result<Vec<Part>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut parts = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let Some(start) = segment_start(&path) else { continue };
        match fs::metadata(&path) {
            Ok(meta) => parts.push(Part { path, start, len: meta.len() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    parts.sort_unstable_by_key(|p| p.start);
    Ok(parts)
}

/// The offset after the last whole frame in a directory.
pub(super) fn end_on_disk(dir: &Path) -> io::Result<Option<u64>> {
    for part in parts_on_disk(dir)?.iter().rev() {
        let (_, end) = frame::scan(&File::open(&part.path)?)?;
        if end.is_some() {
            return Ok(end);
        }
    }
    Ok(None)
}
