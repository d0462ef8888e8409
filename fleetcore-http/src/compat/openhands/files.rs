//! The `read` and `write` actions, and what all of files shares: paths, errors and ranges as Python has them.

use std::{io, path::Path, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use fleetcore::{
    Error, ErrorKind, FileKind, Files, Owner, WriteOptions,
    editor::{Document, Editor, is_binary},
};
use futures::StreamExt;
use serde_json::Value;

use super::observation::{Observation, Source};

/// Largest file that is read or changed as a whole. The answer is JSON, which both sides hold in memory.
const READ_MAX_BYTES: usize = 256 << 20;

/// From this size on, text is worked on by threads that may be busy for a while.
const LARGE: usize = 128 << 10;

/// What a client that wants text gets for anything else.
pub(super) const BINARY: &str = "ERROR_BINARY_FILE";

/// Where file actions work.
#[derive(Clone, Debug)]
pub(super) struct Workspace {
    pub(super) files: Files,
    pub(super) editor: Editor,
    /// Where the shell began: what the editor suggests, and what listings are relative to.
    pub(super) working_dir: Arc<str>,
    /// Whose new files are.
    owner: Option<Owner>,
    /// Its paths are paths of the host this program runs on.
    pub(super) here: bool,
}

/// Arguments of `read`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ReadArgs {
    pub(super) path: String,
    pub(super) start: i64,
    /// -1 is the end.
    pub(super) end: i64,
    /// With the editor's eyes.
    pub(super) editor: bool,
    /// What lines the editor shows. Of any type: what is wrong with it is part of what it shows.
    pub(super) view_range: Value,
}

/// Arguments of `write`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct WriteArgs {
    pub(super) path: String,
    pub(super) content: String,
    pub(super) start: Bound,
    pub(super) end: Bound,
}

/// Where a slice of Python's begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    At(i64),
    /// `None`: where the lines begin or end.
    Open,
    /// Nothing that can be one; noticed when a file is cut.
    Odd,
}

impl Default for Bound {
    fn default() -> Self {
        Self::At(0)
    }
}

impl Bound {
    pub(super) fn end() -> Self {
        Self::At(-1)
    }
}

impl From<Value> for Bound {
    fn from(value: Value) -> Self {
        match &value {
            Value::Null => Self::Open,
            Value::Bool(on) => Self::At(i64::from(*on)),
            Value::Number(n) => match (n.as_i64(), n.as_f64()) {
                (Some(n), _) => Self::At(n),
                // The two that mean something else, before they are an index.
                (None, Some(0.0)) => Self::At(0),
                (None, Some(-1.0)) => Self::At(-1),
                (None, Some(x)) if x.fract() == 0.0 && x.abs() >= 1e18 => {
                    Self::At(if x < 0.0 { i64::MIN } else { i64::MAX })
                }
                _ => Self::Odd,
            },
            _ => Self::Odd,
        }
    }
}

/// A file that was read.
enum Loaded {
    Binary,
    Bytes(Bytes),
}

impl Workspace {
    /// File actions on `files`. New files are given to `owner`, which usually only root can do: without one they are
    /// whose the machine's files are.
    pub(super) fn new(files: Files, working_dir: &str, owner: Option<Owner>) -> Self {
        let editor = Editor::new(files.clone());
        Self { files, editor, working_dir: working_dir.into(), owner, here: false }
    }

    /// Says whether the machine is the host this program runs on.
    pub(super) fn on_this_host(mut self, here: bool) -> Self {
        self.here = here;
        self
    }

    /// The `read` action. `cwd` is where the shell is now.
    ///
    /// # Errors
    /// The text of an HTTP 500.
    pub(super) async fn read(&self, cwd: &str, args: &ReadArgs) -> Result<Observation, String> {
        let sent = &args.path;
        if args.editor {
            return self.view(sent, &args.view_range).await;
        }
        let path = resolve(cwd, sent);
        let mime = media_type(&path);
        if mime.is_none() && path.ends_with(".pyc") {
            return Ok(Observation::error(BINARY));
        }
        let bytes = match self.load(&path, mime.is_none()).await {
            Ok(Loaded::Bytes(bytes)) => bytes,
            Ok(Loaded::Binary) => return Ok(Observation::error(BINARY)),
            Err(e) => return self.unreadable(cwd, &path, e).await,
        };
        if let Some(mime) = mime {
            let url =
                busy(bytes.len(), move || format!("data:{mime};base64,{}", STANDARD.encode(&bytes))).await?;
            return Ok(Observation::read(&path, url, Source::Default));
        }
        let (start, end) = (args.start, args.end);
        let text = busy(bytes.len(), move || {
            let text = universal(std::str::from_utf8(&bytes).ok()?);
            Some(selected(&text, start, end).to_owned())
        });
        Ok(match text.await? {
            Some(text) => Observation::read(&path, text, Source::Default),
            None => Observation::error(format!("File could not be decoded as utf-8: {path}.")),
        })
    }

    /// The `write` action. `cwd` is where the shell is now.
    ///
    /// # Errors
    /// The text of an HTTP 500.
    pub(super) async fn write(&self, cwd: &str, args: &WriteArgs) -> Result<Observation, String> {
        let content = args.content.clone();
        let path = resolve(cwd, &args.path);
        let options = WriteOptions::atomic().with_keep_links(true);
        match self.files.stat(&path).await {
            Ok(info) if info.kind == FileKind::Dir => {
                let text = format!("Path is a directory: {path}. You can only write to files");
                return Ok(Observation::error(text));
            }
            Ok(_) => {
                let (start, end) = (args.start, args.end);
                if start == Bound::Odd || end == Bound::Odd {
                    let text = "slice indices must be integers or None or have an __index__ method";
                    return Err(text.to_owned());
                }
                let Loaded::Bytes(bytes) =
                    self.load(&path, false).await.map_err(|e| python_error(&e, &path))?
                else {
                    return Ok(Observation::error(BINARY));
                };
                let merged = busy(bytes.len(), move || merged(&bytes, &content, start, end)).await?;
                let Some(merged) = merged else {
                    return Ok(Observation::error(format!("File could not be decoded as utf-8: {path}")));
                };
                let written = self.files.write(&path, merged, options).await;
                written.map_err(|e| python_error(&e, &path))?;
            }
            Err(e) if is_missing(&e) => {
                let new = options.with_create_parents(true).with_mode(Some(0o664));
                match self.files.write(&path, content + "\n", new).await {
                    Ok(_) => {}
                    Err(e) if e.kind() == ErrorKind::NotFound => {
                        return Ok(Observation::error(format!("File not found: {path}")));
                    }
                    Err(e) => return Err(python_error(&e, &path)),
                }
                if let Some(owner) = self.owner
                    && let Err(e) = self.files.set_owner(&path, owner).await
                {
                    let why = python_error(&e, &path);
                    return Ok(Observation::error(format!(
                        "File {path} written, but failed to change ownership and permissions: {why}"
                    )));
                }
            }
            Err(e) => return Err(python_error(&e, &path)),
        }
        Ok(Observation::written(&path))
    }

    /// A whole file, unless it is found binary early.
    async fn load(&self, path: &str, text: bool) -> fleetcore::Result<Loaded> {
        let mut stream = self.files.read_stream(path, 0, None).await?;
        let mut pieces: Vec<Bytes> = Vec::new();
        let mut size = 0;
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            // Backends read in larger pieces than the test needs.
            if text && pieces.is_empty() && is_binary(path, &piece) {
                return Ok(Loaded::Binary);
            }
            size += piece.len();
            // A file of one piece is as large as it is.
            if size > READ_MAX_BYTES && !pieces.is_empty() {
                return Err(Error::new(ErrorKind::InvalidInput, "File is too large to read at once"));
            }
            pieces.push(piece);
        }
        if pieces.len() < 2 {
            return Ok(Loaded::Bytes(pieces.pop().unwrap_or_default()));
        }
        let all = busy(size, move || Bytes::from(pieces.concat())).await;
        all.map(Loaded::Bytes).map_err(|e| Error::new(ErrorKind::Unavailable, e))
    }

    async fn unreadable(&self, cwd: &str, path: &str, err: Error) -> Result<Observation, String> {
        if err.kind() == ErrorKind::NotFound {
            let text = format!("File not found: {path}. Your current working directory is {cwd}.");
            return Ok(Observation::error(text));
        }
        if self.files.stat(path).await.is_ok_and(|info| info.kind == FileKind::Dir) {
            let text = format!("Path is a directory: {path}. You can only read files");
            return Ok(Observation::error(text));
        }
        Err(python_error(&err, path))
    }
}

/// Keeps long work off the threads that serve everybody.
async fn busy<T: Send + 'static>(
    size: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    if size < LARGE {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|e| e.to_string())
}

/// A path as Python's `pathlib` writes it: without empty and `.` components and slashes at the end; `..` stays.
pub(super) fn posix(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let root = match path {
        _ if path.starts_with("//") && !path.starts_with("///") => "//",
        _ if path.starts_with('/') => "/",
        _ => "",
    };
    match format!("{root}{}", parts.join("/")) {
        empty if empty.is_empty() => ".".to_owned(),
        path => path,
    }
}

/// A path that may be relative to `base`.
pub(super) fn resolve(base: &str, path: &str) -> String {
    if path.starts_with('/') { posix(path) } else { posix(&format!("{base}/{path}")) }
}

/// The extension of the last name, with its dot; of `.profile` there is none.
pub(super) fn suffix(path: &str) -> &str {
    let name = Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match name.rfind('.') {
        Some(dot) if dot > 0 && dot + 1 < name.len() => name.get(dot..).unwrap_or_default(),
        _ => "",
    }
}

/// What is handed out as a data URL instead of as text.
fn media_type(path: &str) -> Option<&'static str> {
    Some(match suffix(path).to_lowercase().as_str() {
        ".png" => "image/png",
        ".jpg" | ".jpeg" => "image/jpeg",
        ".bmp" => "image/bmp",
        ".gif" => "image/gif",
        ".pdf" => "application/pdf",
        ".mp4" => "video/mp4",
        ".webm" => "video/webm",
        ".ogg" => "audio/ogg",
        _ => return None,
    })
}

/// Python's name for the type of a JSON value.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "NoneType",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float",
        Value::Number(_) => "int",
        Value::String(_) => "str",
        Value::Array(_) => "list",
        Value::Object(_) => "dict",
    }
}

/// Whether there is nothing of that name, also because what should be a directory on the way is none.
pub(super) fn is_missing(err: &Error) -> bool {
    err.kind() == ErrorKind::NotFound || cause(err).is_some_and(|e| e.kind() == io::ErrorKind::NotADirectory)
}

/// Whether a link leads to itself.
pub(super) fn is_circle(err: &Error) -> bool {
    cause(err).and_then(io::Error::raw_os_error) == Some(rustix::io::Errno::LOOP.raw_os_error())
}

fn cause(err: &Error) -> Option<&io::Error> {
    let mut at = std::error::Error::source(err);
    while let Some(err) = at {
        if let Some(found) = err.downcast_ref::<io::Error>() {
            return Some(found);
        }
        at = err.source();
    }
    None
}

/// An error as Python's `OSError` shows itself.
pub(super) fn python_error(err: &Error, path: &str) -> String {
    if path.contains('\0') {
        return "embedded null byte".to_owned();
    }
    // Numbers of Linux, for backends that tell only the kind.
    let number = cause(err).and_then(io::Error::raw_os_error).or(match err.kind() {
        ErrorKind::NotFound => Some(2),
        ErrorKind::PermissionDenied => Some(13),
        ErrorKind::AlreadyExists => Some(17),
        ErrorKind::InvalidState if err.message() == "is a directory" => Some(21),
        _ => None,
    });
    let Some(number) = number else {
        return format!("{}: {}", err.message(), quoted(path));
    };
    let text = io::Error::from_raw_os_error(number).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    format!("[Errno {number}] {text}: {}", quoted(path))
}

/// A string as Python's `repr` shows it.
pub(super) fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if u32::from(c) < 0x20 || u32::from(c) == 0x7f => {
                out.push_str(&format!("\\x{:02x}", u32::from(c)))
            }
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// `\n` for every line end.
fn universal(text: &str) -> String {
    if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n") } else { text.to_owned() }
}

/// Lines of `text` as the original counts them, oddities included: `end` -1 is the end, other negative ones are 0;
/// with an end there is always one line, and a range that starts at the last line begins one before it.
fn selected(text: &str, start: i64, end: i64) -> &str {
    let mut starts: Vec<usize> = vec![0];
    starts.extend(memchr(text).map(|at| at + 1).filter(|at| *at < text.len()));
    let count = if text.is_empty() { 0 } else { starts.len() };
    let at = |line: usize| starts.get(line).copied().unwrap_or(text.len());
    let bounded = |line: i64| usize::try_from(line).unwrap_or(0).min(count);
    let start = bounded(start);
    let (from, to) = if end == -1 {
        (start, count)
    } else {
        let from = start.min(count.saturating_sub(2));
        (from, bounded(end).max(from + 1))
    };
    text.get(at(from)..at(to).max(at(from))).unwrap_or_default()
}

fn memchr(text: &str) -> impl Iterator<Item = usize> {
    text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at)
}

/// Lines with their ends, whichever they are.
fn lines(text: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['\n', '\r']) {
        let end = at + if rest.get(at..).is_some_and(|end| end.starts_with("\r\n")) { 2 } else { 1 };
        let (line, more) = rest.split_at(end);
        lines.push(line);
        rest = more;
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// What a file becomes when `content` is written to lines `start` to `end` of it. `None` if it is not UTF-8.
///
/// Unlike in the original, lines that stay keep their ends, and among lines that end in `\r\n` new ones do, too.
fn merged(old: &[u8], content: &str, start: Bound, end: Bound) -> Option<String> {
    let old = std::str::from_utf8(old).ok()?;
    let lines = lines(old);
    let slice = |index: Bound| {
        let Bound::At(index) = index else { return None };
        let place = if index < 0 { lines.len() as i64 + index } else { index };
        Some(usize::try_from(place).unwrap_or(0).min(lines.len()))
    };
    let head = lines.get(..slice(start).unwrap_or(lines.len()));
    let head = head.filter(|_| start != Bound::default()).unwrap_or_default();
    let tail = lines.get(slice(end).unwrap_or(0)..);
    let tail = tail.filter(|_| end != Bound::end()).unwrap_or_default();
    let kept = !(head.is_empty() && tail.is_empty());
    let line_end = if kept && Document::new(old).line_end() == "\r\n" { "\r\n" } else { "\n" };
    let mut new = head.concat();
    for piece in content.split('\n') {
        new.push_str(if line_end == "\r\n" { piece.trim_end_matches('\r') } else { piece });
        new.push_str(line_end);
    }
    new.extend(tail.iter().copied());
    Some(new)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_written_as_pathlib_does() {
        let cases = [
            ("/a//b/./c/", "/a/b/c"),
            ("", "."),
            ("/", "/"),
            ("//a", "//a"),
            ("///a", "/a"),
            ("a/../b", "a/../b"),
            ("./", "."),
        ];
        for (path, written) in cases {
            assert_eq!(posix(path), written, "{path}");
        }
        assert_eq!(resolve("/w/d1", "../x"), "/w/d1/../x");
        assert_eq!((resolve("/w", ""), resolve("/w", "/e/")), ("/w".into(), "/e".into()));
        for (path, expected) in
            [("/a/b.tar.gz", ".gz"), ("/a.b/c", ""), (".profile", ""), ("a.", ""), ("A.PNG", ".PNG")]
        {
            assert_eq!(suffix(path), expected, "{path}");
        }
        assert_eq!(quoted("it's"), "\"it's\"");
        assert_eq!(quoted("a\n'\""), "'a\\n\\'\"'");
    }

    #[test]
    fn lines_are_selected_with_the_oddities_of_the_original() {
        let ten: String = (1..=10).map(|n| format!("{n}\n")).collect();
        let cases = [
            ((9, 10), "9\n10\n"),
            ((20, 25), "9\n10\n"),
            ((5, 3), "6\n"),
            ((0, 0), "1\n"),
            ((20, -1), ""),
            ((8, -1), "9\n10\n"),
            ((2, -5), "3\n"),
            ((i64::MIN, i64::MAX), ten.as_str()),
        ];
        for ((start, end), expected) in cases {
            assert_eq!(selected(&ten, start, end), expected, "{start}..{end}");
        }
        assert_eq!((selected("", 0, 2), selected("", 0, -1), selected("a", 5, 9)), ("", "", "a"));
    }

    fn bound(json: &str) -> Bound {
        serde_json::from_str::<Value>(json).unwrap().into()
    }

    #[test]
    fn what_stays_keeps_its_line_ends() {
        let merge = |old: &str, content, start, end| {
            merged(old.as_bytes(), content, Bound::At(start), Bound::At(end)).unwrap()
        };
        assert_eq!(merge("a\r\nb\r\n", "N", 1, 1), "a\r\nN\r\nb\r\n");
        assert_eq!(merge("a\r\nb\r\n", "x\r\ny", 1, -1), "a\r\nx\r\ny\r\n");
        assert_eq!(merge("a\r\nb\r\n", "x\r\ny", 0, -1), "x\r\ny\n");
        assert_eq!(merge("a\nb", "P", 9, 9), "a\nbP\n");
        assert_eq!(merged(b"\xff", "x", Bound::default(), Bound::end()), None);
        assert_eq!(merged(b"a\nb\n", "x", Bound::Open, Bound::Open).unwrap(), "a\nb\nx\na\nb\n");
        assert_eq!(
            ["1", "0.0", "-1.0", "1.5", "null", "\"a\""].map(bound),
            [Bound::At(1), Bound::At(0), Bound::At(-1), Bound::Odd, Bound::Open, Bound::Odd]
        );
    }

    proptest! {
        /// Against Python's slices, written out.
        #[test]
        fn writing_is_as_slices_of_lines(old in "[ab\n]{0,16}", content in "[xy\n]{0,4}", s in -6_i64..8, e in -6_i64..8) {
            let lines: Vec<&str> = old.split_inclusive('\n').collect();
            let place = |i: i64| (if i < 0 { (lines.len() as i64 + i).max(0) } else { i } as usize).min(lines.len());
            let mut new = if s == 0 { String::new() } else { lines[..place(s)].concat() };
            new += &content.split('\n').map(|piece| format!("{piece}\n")).collect::<String>();
            if e != -1 {
                new += &lines[place(e)..].concat();
            }
            prop_assert_eq!(merged(old.as_bytes(), &content, Bound::At(s), Bound::At(e)).unwrap(), new);
        }

        #[test]
        fn any_range_of_lines_is_a_run_of_the_text(text in "[ab\n]{0,20}", s in any::<i64>(), e in -8_i64..12) {
            let run = selected(&text, s, e);
            prop_assert!(text.contains(run));
            prop_assert!(e == -1 || text.is_empty() || !run.is_empty());
        }
    }
}
