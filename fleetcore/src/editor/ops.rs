//! The editor.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tokio::sync::Mutex;

use super::{
    Change, Document, EditError, HEAD_BYTES, Shown, document::line_start, history::History, is_binary, tree,
};
use crate::{Error, ErrorKind, FileInfo, FileKind, Files, WriteOptions};

/// Lines shown on either side of a change.
const AROUND: usize = 4;

/// Texts from this size on are worked on by threads that may be busy for a while.
const LARGE: usize = 128 << 10;

/// What an [`Editor`] takes upon itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Largest file, in bytes. 10 MiB: what agents' editors allow.
    pub file_bytes: u64,
    /// Earlier contents kept per file. 10: what agents' editors keep.
    pub undo_steps: usize,
    /// Earlier contents kept altogether, in bytes; the oldest go first. 64 MiB.
    pub undo_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { file_bytes: 10 << 20, undo_steps: 10, undo_bytes: 64 << 20 }
    }
}

/// Edits text files on one machine, and remembers what they were before. Clones share their memory.
///
/// Changes of one editor are made one after another, so that none is lost; dropping a call before it is done leaves the
/// file as it was or changed, never half. What others do to a file in between is seen, but not remembered.
#[derive(Clone, Debug)]
pub struct Editor {
    files: Files,
    limits: Limits,
    history: Arc<Mutex<History>>,
}

/// A file as it is.
struct Opened {
    bytes: Bytes,
    document: Document,
}

impl Editor {
    /// An editor for the files of one machine, with the usual [`Limits`].
    pub fn new(files: Files) -> Self {
        Self { files, limits: Limits::default(), history: Arc::default() }
    }

    /// Sets other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Shows a file, or a directory two levels deep. `lines` are the first and the last line to show, from 1; a last
    /// line of -1 is the end.
    ///
    /// # Errors
    /// `NotFound`, `NotAFile`, `TooLarge`, `Binary`, `Undecodable`, `Read`; `OutOfRange` if the first line is not one of
    /// the file, `Reversed` if the last is before it; `NoLines` for lines of a directory.
    pub async fn view(&self, path: &str, lines: Option<(i64, i64)>) -> Result<Shown, EditError> {
        let info = self.stat(path).await?;
        if info.kind == FileKind::Dir {
            if lines.is_some() {
                return Err(EditError::NoLines);
            }
            return tree::read(&self.files, path).await.map(Shown::Directory).map_err(EditError::Read);
        }
        let Opened { document, .. } = self.open_known(path, &info).await?;
        let count = document.line_count();
        let Some((first, last)) = lines else {
            let text = document.text().to_owned();
            return Ok(Shown::File { text, first_line: 1, lines: count, past_end: false });
        };
        let first = usize::try_from(first).ok().filter(|n| (1..=count).contains(n));
        let first_line = first.ok_or(EditError::OutOfRange { lines: count })?;
        let wanted = if last == -1 { count } else { usize::try_from(last).unwrap_or(0) };
        if wanted < first_line {
            return Err(EditError::Reversed);
        }
        let text = document.lines(first_line, wanted.min(count)).to_owned();
        Ok(Shown::File { text, first_line, lines: count, past_end: wanted > count })
    }

    /// Creates a file of mode 0644 with exactly this text. Taking it back gives the same text again, not no file.
    ///
    /// # Errors
    /// `Exists`, `Write`: also where the directory is missing.
    pub async fn create(&self, path: &str, text: &str) -> Result<Change, EditError> {
        let mut history = self.history.lock().await;
        match self.files.stat(path).await {
            Ok(_) => return Err(EditError::Exists),
            Err(e) if is_missing(&e) => {} // and where a directory is missing, writing says so
            Err(e) => return Err(EditError::Write(e)),
        }
        let contents = Bytes::copy_from_slice(text.as_bytes());
        self.write(path, contents.clone()).await?;
        history.push(path, contents, &self.limits);
        let after = Document::new(text).text().to_owned();
        Ok(Change { before: None, snippet: after.clone(), after, first_line: 1 })
    }

    /// Replaces the only occurrence of `old` by `new`. If there is none, both are tried without the white space around
    /// them. Line ends are `\n` in `old`, whatever the file has: a `\r\n` is nowhere.
    ///
    /// # Errors
    /// `NotFound`, `IsDirectory`, `NotAFile`, `TooLarge`, `Binary`, `Undecodable`, `Read`, `Write`; `NoMatch`,
    /// `Ambiguous`, `Unencodable`.
    pub async fn replace(&self, path: &str, old: &str, new: &str) -> Result<Change, EditError> {
        let mut history = self.history.lock().await;
        let Opened { bytes, document } = self.open(path).await?;
        let (old, new) = (old.to_owned(), new.to_owned());
        let edited = work(document.text().len(), move || replaced(&document, &old, &new)).await?;
        self.commit(&mut history, path, bytes, edited).await
    }

    /// Inserts `text`, and a line end, behind line `line`; 0 is the start of the file.
    ///
    /// # Errors
    /// As for [`replace`](Self::replace), but `OutOfRange` instead of `NoMatch` and `Ambiguous`.
    pub async fn insert(&self, path: &str, line: i64, text: &str) -> Result<Change, EditError> {
        let mut history = self.history.lock().await;
        let Opened { bytes, document } = self.open(path).await?;
        let text = text.to_owned();
        let edited = work(document.text().len(), move || inserted(&document, line, &text)).await?;
        self.commit(&mut history, path, bytes, edited).await
    }

    /// Gives a file the contents it had before the last change of this editor, byte for byte.
    ///
    /// # Errors
    /// As for [`replace`](Self::replace), but `NoHistory` instead of `NoMatch` and `Ambiguous`.
    pub async fn undo(&self, path: &str) -> Result<Change, EditError> {
        let mut history = self.history.lock().await;
        let current = self.open(path).await?.document;
        let contents = history.last(path).ok_or(EditError::NoHistory)?;
        let restored = Document::decode(&contents)?;
        self.write(path, contents).await?;
        history.pop(path);
        let after = restored.text().to_owned();
        Ok(Change { before: Some(current.text().to_owned()), snippet: after.clone(), after, first_line: 1 })
    }

    async fn stat(&self, path: &str) -> Result<FileInfo, EditError> {
        self.files
            .stat(path)
            .await
            .map_err(|e| if is_missing(&e) { EditError::NotFound } else { EditError::Read(e) })
    }

    async fn open(&self, path: &str) -> Result<Opened, EditError> {
        let info = self.stat(path).await?;
        self.open_known(path, &info).await
    }

    async fn open_known(&self, path: &str, info: &FileInfo) -> Result<Opened, EditError> {
        match info.kind {
            FileKind::Dir => return Err(EditError::IsDirectory),
            FileKind::Other => return Err(EditError::NotAFile),
            FileKind::File | FileKind::Symlink => {}
        }
        let limit = self.limits.file_bytes;
        let too_large = |bytes| EditError::TooLarge { bytes, limit };
        if info.size > limit {
            return Err(too_large(info.size));
        }
        // It may have grown since.
        let mut stream = self.files.read_stream(path, 0, Some(limit + 1)).await.map_err(EditError::Read)?;
        let mut first = Bytes::new();
        let mut all = BytesMut::new();
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(EditError::Read)?;
            if first.is_empty() {
                first = piece;
                continue;
            }
            if all.is_empty() {
                all.reserve(usize::try_from(info.size).unwrap_or(0).max(first.len() + piece.len()));
                all.extend_from_slice(&first);
            }
            all.extend_from_slice(&piece);
        }
        let bytes = if all.is_empty() { first } else { all.freeze() };
        if bytes.len() as u64 > limit {
            return Err(too_large(bytes.len() as u64));
        }
        if is_binary(path, bytes.get(..HEAD_BYTES).unwrap_or(&bytes)) {
            return Err(EditError::Binary);
        }
        let decoding = bytes.clone();
        let document = work(bytes.len(), move || Document::decode(&decoding)).await?;
        Ok(Opened { bytes, document })
    }

    async fn write(&self, path: &str, contents: Bytes) -> Result<(), EditError> {
        let how = WriteOptions::atomic().with_keep_links(true).with_mode(Some(0o644));
        self.files.write(path, contents, how).await.map(drop).map_err(EditError::Write)
    }

    async fn commit(
        &self,
        history: &mut History,
        path: &str,
        before: Bytes,
        (contents, change): (Vec<u8>, Change),
    ) -> Result<Change, EditError> {
        self.write(path, contents.into()).await?;
        history.push(path, before, &self.limits);
        Ok(change)
    }
}

/// Whether there is nothing of that name, also because what should be a directory on the way is none.
fn is_missing(err: &Error) -> bool {
    let cause = std::error::Error::source(err).and_then(|e| e.downcast_ref::<std::io::Error>());
    err.kind() == ErrorKind::NotFound || cause.is_some_and(|e| e.kind() == std::io::ErrorKind::NotADirectory)
}

/// Keeps long work off the threads that serve everybody.
async fn work<T: Send + 'static>(
    size: usize,
    work: impl FnOnce() -> Result<T, EditError> + Send + 'static,
) -> Result<T, EditError> {
    if size < LARGE {
        return work();
    }
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| {
        let error = Error::new(ErrorKind::Unexpected, "editing was aborted").with_source(e);
        Err(EditError::Read(error))
    })
}

/// The one place where a text occurs.
enum Place {
    Nowhere,
    At(usize),
    /// In these lines.
    Many(Vec<usize>),
}

fn find(text: &str, wanted: &str) -> Place {
    let mut places = text.match_indices(wanted).map(|(at, _)| at);
    let Some(first) = places.next() else { return Place::Nowhere };
    let Some(second) = places.next() else { return Place::At(first) };
    let (mut lines, mut line, mut counted) = (Vec::new(), 1, 0);
    for at in [first, second].into_iter().chain(places) {
        line += text.get(counted..at).unwrap_or_default().matches('\n').count();
        counted = at;
        if lines.last() != Some(&line) {
            lines.push(line);
        }
    }
    Place::Many(lines)
}

/// As Python's `str.strip`, which also takes the four separators of ASCII.
fn stripped(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c))
}

fn replaced(document: &Document, old: &str, new: &str) -> Result<(Vec<u8>, Change), EditError> {
    let text = document.text();
    let (mut old, mut new) = (old, new);
    let mut place = find(text, old);
    if let Place::Nowhere = place {
        (old, new) = (stripped(old), stripped(new));
        place = find(text, old);
    }
    let at = match place {
        Place::At(at) => at,
        Place::Nowhere => return Err(EditError::NoMatch { searched: old.to_owned() }),
        Place::Many(lines) => return Err(EditError::Ambiguous { searched: old.to_owned(), lines }),
    };
    let edited = document.splice(at..at + old.len(), new)?;
    let line = text.get(..at).unwrap_or_default().matches('\n').count() + 1;
    let last = line + AROUND + new.matches('\n').count();
    finished(document, &edited, line.saturating_sub(AROUND - 1).max(1), last)
}

fn inserted(document: &Document, line: i64, new: &str) -> Result<(Vec<u8>, Change), EditError> {
    let (text, count) = (document.text(), document.line_count());
    let after = usize::try_from(line).ok().filter(|n| *n <= count);
    let after = after.ok_or(EditError::OutOfRange { lines: count })?;
    let at = line_start(text, after);
    let unterminated = after == count && !text.is_empty() && !text.ends_with('\n');
    let piece = format!("{}{new}\n", if unterminated { "\n" } else { "" });
    let edited = document.splice(at..at, &piece)?;
    let last = after + AROUND + new.matches('\n').count() + 1;
    finished(document, &edited, after.saturating_sub(AROUND - 1).max(1), last)
}

fn finished(
    before: &Document,
    after: &Document,
    first_line: usize,
    last: usize,
) -> Result<(Vec<u8>, Change), EditError> {
    let change = Change {
        before: Some(before.text().to_owned()),
        after: after.text().to_owned(),
        snippet: after.lines(first_line, last).to_owned(),
        first_line,
    };
    Ok((after.encode()?, change))
}
