//! A directory as a zip file that is written while it is sent.

use std::{collections::HashMap, ops::Range, sync::Arc};

use axum::{
    body::Body,
    extract::{Query, Request},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use crc32fast::Hasher;
use fleetcore::{Error, ErrorKind, FileInfo, FileKind, Files, Result};
use futures::{SinkExt, StreamExt, channel::mpsc};
use jiff::{Timestamp, tz::TimeZone};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};

use super::{
    super::{
        fair::Fair,
        files::{Workspace, posix},
    },
    format::{Layout, Planned, Written},
    refuse::{failed, unprocessable},
};

/// Most files in one archive: about 200 MiB of names and places.
const FILES_MAX: usize = 1_000_000;
/// Deepest tree that is walked; links to directories are not entered, so only real ones count.
const DEPTH_MAX: usize = 256;
/// From as many files on, what is done for each of them takes long.
const MANY: usize = 1000;
/// Pieces that may wait for a slow client.
const WAITING: usize = 2;
/// What gaps are filled with at once.
const ZEROS: &[u8] = &[0; 64 << 10];

/// What Python leaves as it is in a file name.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'.').remove(b'-').remove(b'~').remove(b'/');

/// `GET /download_files`.
pub(in super::super) async fn download(workspace: &Workspace, request: Request) -> Response {
    let query = Query::<HashMap<String, String>>::try_from_uri(request.uri());
    let Some(path) = query.ok().and_then(|Query(mut query)| query.remove("path")) else {
        return unprocessable("missing", "query", "path", "Field required", "None");
    };
    if !path.starts_with('/') {
        return failed("400: Path must be an absolute path");
    }
    let files = workspace.files.clone();
    let Ok(info) = files.stat(&path).await else { return failed("404: File not found") };
    match walk(&files, &posix(&path), info).await {
        Ok(tree) => match planned(tree).await {
            Ok(plan) => answer(files, plan, &path, request.headers()),
            Err(e) => failed(e.to_string()),
        },
        Err(e) => failed(e.message()),
    }
}

/// Files to send, and where they are.
#[derive(Debug, Default)]
struct Found {
    plan: Vec<Planned>,
    paths: Vec<String>,
}

impl Found {
    fn add(&mut self, name: String, path: String, info: &FileInfo) -> Result<()> {
        if self.plan.len() >= FILES_MAX {
            let text = format!("Directory has more than {FILES_MAX} files");
            return Err(Error::new(ErrorKind::InvalidInput, text));
        }
        let (size, mode) = (info.size, info.mode);
        self.plan.push(Planned { name, size, mode, modified_at: info.modified_at });
        self.paths.push(path);
        Ok(())
    }

    /// What changes if anything in the archive does.
    fn tag(&self) -> String {
        let mut hash = Sha256::new();
        for file in &self.plan {
            hash.update(file.name.as_bytes());
            hash.update([0]);
            hash.update(file.size.to_le_bytes());
            hash.update(file.modified_at.unwrap_or_default().as_nanosecond().to_le_bytes());
        }
        let hash = hash.finalize();
        format!("\"{}\"", hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>())
    }
}

/// All files below a directory, or the file itself: those of a directory before those of its directories.
async fn walk(files: &Files, top: &str, info: FileInfo) -> Result<Found> {
    let mut found = Found::default();
    if info.kind != FileKind::Dir {
        if info.kind == FileKind::File {
            let name = top.rsplit('/').next().unwrap_or(top);
            found.add(name.to_owned(), top.to_owned(), &info)?;
        }
        return Ok(found);
    }
    let top = top.trim_end_matches('/');
    // Names relative to the top, with a slash at the end.
    let mut todo = vec![(String::new(), 0)];
    while let Some((dir, depth)) = todo.pop() {
        // What cannot be listed is empty, as in the original.
        let list = files.list(&format!("{top}/{dir}")).await.unwrap_or_default();
        let mut dirs = Vec::new();
        for entry in list {
            let name = format!("{dir}{}", entry.path);
            let path = format!("{top}/{name}");
            match entry.kind {
                FileKind::Dir if depth < DEPTH_MAX => dirs.push((format!("{name}/"), depth + 1)),
                FileKind::File => found.add(name, path, &entry)?,
                FileKind::Symlink => {
                    // A link to nothing is left out.
                    if let Ok(target) = files.stat(&path).await
                        && target.kind == FileKind::File
                    {
                        found.add(name, path, &target)?;
                    }
                }
                _ => {}
            }
        }
        todo.extend(dirs.into_iter().rev());
    }
    Ok(found)
}

/// What is known of an archive before it is written.
struct Plan {
    found: Found,
    layout: Layout,
    tag: String,
    newest: Option<Timestamp>,
}

/// Looks through all files that were found. Of many, on a thread that may be busy.
async fn planned(found: Found) -> Result<Plan, tokio::task::JoinError> {
    let many = found.plan.len() > MANY;
    let plan = move || {
        let newest = found.plan.iter().filter_map(|file| file.modified_at).max();
        Plan { layout: Layout::of(&found.plan), tag: found.tag(), newest, found }
    };
    if many { tokio::task::spawn_blocking(plan).await } else { Ok(plan()) }
}

fn answer(files: Files, plan: Plan, path: &str, headers: &HeaderMap) -> Response {
    let Plan { found, layout, tag, newest } = plan;
    let mut reply = HeaderMap::new();
    let mut set = |name, value: String| HeaderValue::try_from(value).map(|value| reply.insert(name, value));
    let _ = set(header::CONTENT_TYPE, "application/zip".to_owned());
    let _ = set(header::CONTENT_DISPOSITION, disposition(path));
    let _ = set(header::ACCEPT_RANGES, "bytes".to_owned());
    let _ = set(header::ETAG, tag.clone());
    if let Some(at) = newest {
        let _ = set(header::LAST_MODIFIED, http_date(at));
    }
    let (status, window) = match asked(headers, &tag, layout.total) {
        Asked::Whole => (StatusCode::OK, 0..layout.total),
        Asked::Part(range) => {
            let _ = set(
                header::CONTENT_RANGE,
                format!("bytes {}-{}/{}", range.start, range.end.saturating_sub(1), layout.total),
            );
            (StatusCode::PARTIAL_CONTENT, range)
        }
        Asked::Malformed(why) => return (StatusCode::BAD_REQUEST, why).into_response(),
        Asked::Beyond => {
            let range = (header::CONTENT_RANGE, format!("bytes */{}", layout.total));
            return (StatusCode::RANGE_NOT_SATISFIABLE, [range]).into_response();
        }
    };
    let _ = set(header::CONTENT_LENGTH, (window.end - window.start).to_string());
    let (sender, pieces) = mpsc::channel(WAITING);
    let writer = Writer { files, found: Arc::new(found), layout, window, at: 0, sender };
    // Ends with the client: a piece that nobody takes is the last.
    tokio::spawn(writer.run());
    (status, reply, Body::from_stream(Fair::new(pieces))).into_response()
}

fn disposition(path: &str) -> String {
    let name = format!("{}.zip", path.rsplit('/').next().unwrap_or_default());
    let encoded = utf8_percent_encode(&name, PLAIN).to_string();
    if encoded == name {
        format!("attachment; filename=\"{name}\"")
    } else {
        format!("attachment; filename*=utf-8''{encoded}")
    }
}

fn http_date(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Whole,
    Part(Range<u64>),
    /// Behind the end.
    Beyond,
    /// Nothing anybody could send.
    Malformed(&'static str),
}

/// What part of `total` bytes is asked for. Several ranges, and ranges of another version, are all of it.
fn asked(headers: &HeaderMap, tag: &str, total: u64) -> Asked {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if text(header::IF_RANGE).is_some_and(|wanted| wanted != tag) {
        return Asked::Whole;
    }
    let Some(range) = text(header::RANGE) else { return Asked::Whole };
    let range = match range.split_once('=') {
        None => return Asked::Malformed("Malformed range header."),
        Some((unit, range)) if unit.trim().eq_ignore_ascii_case("bytes") => range,
        Some(_) => return Asked::Malformed("Only support bytes range"),
    };
    let Some((first, last)) = range.split_once('-') else {
        return Asked::Malformed("Range header: range must be requested");
    };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let range = match (first.trim(), last.trim()) {
        ("", last) => number(last).map(|n| total.saturating_sub(n)..if n == 0 { 0 } else { total }),
        (first, "") => number(first).map(|first| first..total),
        (first, last) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => Some(first..last.saturating_add(1).min(total)),
            _ => None,
        },
    };
    match range {
        None => Asked::Whole,
        Some(range) if range.start >= range.end => Asked::Beyond,
        Some(range) => Asked::Part(range),
    }
}

/// Why no more is written.
enum Stop {
    /// Nobody wants more: the client left, or has its range.
    Enough,
    /// The archive cannot be completed.
    Broken(Error),
}

struct Writer {
    files: Files,
    found: Arc<Found>,
    layout: Layout,
    /// What of the archive is sent.
    window: Range<u64>,
    at: u64,
    sender: mpsc::Sender<Result<Bytes>>,
}

impl Writer {
    async fn run(mut self) {
        if let Err(Stop::Broken(e)) = self.write().await {
            tracing::warn!(error = %e, "download breaks off");
            let _ = self.sender.send(Err(e)).await;
        }
    }

    async fn write(&mut self) -> Result<(), Stop> {
        let found = Arc::clone(&self.found);
        let mut written = Vec::new();
        for (n, (plan, path)) in found.plan.iter().zip(&found.paths).enumerate() {
            let offset = self.at;
            if let Some((crc, size)) = self.file(plan, path).await? {
                written.push(Written { plan: n, size, crc, offset });
            }
        }
        let count = written.len();
        let list = {
            let found = Arc::clone(&found);
            move || {
                let mut table = BytesMut::new();
                for entry in &written {
                    if let Some(plan) = found.plan.get(entry.plan) {
                        table.extend_from_slice(&plan.listed(entry));
                    }
                }
                table
            }
        };
        let table = if count > MANY {
            let failed = |e: tokio::task::JoinError| Error::new(ErrorKind::Unavailable, e.to_string());
            tokio::task::spawn_blocking(list).await.map_err(|e| Stop::Broken(failed(e)))?
        } else {
            list()
        };
        let size = table.len() as u64;
        while self.at < self.layout.table_at(size) {
            let gap = usize::try_from(self.layout.table_at(size) - self.at).unwrap_or(usize::MAX);
            self.put(Bytes::from_static(ZEROS.get(..gap).unwrap_or(ZEROS))).await?;
        }
        self.put(table.freeze()).await?;
        self.put(self.layout.end(count, size).into()).await
    }

    /// Writes one file; checksum and size of what was written, `None` if it is gone or may not be read.
    async fn file(&mut self, plan: &Planned, path: &str) -> Result<Option<(u32, u64)>, Stop> {
        // Only as much as was promised: it may have grown.
        let mut pieces = match self.files.read_stream(path, 0, Some(plan.size)).await {
            Ok(pieces) => pieces,
            Err(e) => {
                tracing::debug!(error = %e, path, "left out of a download");
                return Ok(None);
            }
        };
        let (mut crc, mut size) = (Hasher::new(), 0);
        let mut held = Vec::new();
        if !plan.is_whole() {
            self.put(plan.header(None).into()).await?;
        }
        while let Some(piece) = pieces.next().await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(_) if plan.is_whole() => return Ok(None),
                Err(e) => return Err(Stop::Broken(e)),
            };
            crc.update(&piece);
            size += piece.len() as u64;
            if size > plan.size {
                return Err(Stop::Broken(Error::new(ErrorKind::Unexpected, "more was read than asked for")));
            }
            if plan.is_whole() { held.push(piece) } else { self.put(piece).await? }
        }
        let crc = crc.finalize();
        if plan.is_whole() {
            self.put(plan.header(Some((crc, size))).into()).await?;
            for piece in held {
                self.put(piece).await?;
            }
        } else {
            self.put(plan.descriptor(crc, size).into()).await?;
        }
        Ok(Some((crc, size)))
    }

    /// Sends what of `piece` lies in the window.
    async fn put(&mut self, piece: Bytes) -> Result<(), Stop> {
        let from = self.at;
        self.at += piece.len() as u64;
        let within = |at: u64| usize::try_from(at.clamp(from, self.at) - from).unwrap_or(0);
        let part =
            piece.slice(within(self.window.start)..within(self.window.end).max(within(self.window.start)));
        if !part.is_empty() && self.sender.send(Ok(part)).await.is_err() {
            return Err(Stop::Enough);
        }
        if self.at >= self.window.end { Err(Stop::Enough) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_understood() {
        let ask = |range: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, range.parse().unwrap());
            asked(&headers, "\"t\"", 100)
        };
        assert_eq!(ask("bytes=0-3"), Asked::Part(0..4));
        assert_eq!(ask("bytes=90-"), Asked::Part(90..100));
        assert_eq!(ask("bytes=-10"), Asked::Part(90..100));
        assert_eq!(ask("bytes=-1000"), Asked::Part(0..100));
        assert_eq!(ask("bytes=50-1000"), Asked::Part(50..100));
        for malformed in ["0-3", "lines=0-1", "bytes=7"] {
            assert!(matches!(ask(malformed), Asked::Malformed(_)), "{malformed}");
        }
        for beyond in ["bytes=100-", "bytes=100-200", "bytes=-0"] {
            assert_eq!(ask(beyond), Asked::Beyond, "{beyond}");
        }
        for whole in ["bytes=5-2", "bytes=a-b", "bytes=0-1,3-4", "bytes=-", "bytes=0--1"] {
            assert_eq!(ask(whole), Asked::Whole, "{whole}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, "bytes=0-3".parse().unwrap());
        headers.insert(header::IF_RANGE, "\"other\"".parse().unwrap());
        assert_eq!(asked(&headers, "\"t\"", 100), Asked::Whole);
    }

    #[test]
    fn names_are_sent_as_the_original_does() {
        assert_eq!(disposition("/workspace/z2"), "attachment; filename=\"z2.zip\"");
        assert_eq!(disposition("/workspace/z2/"), "attachment; filename=\".zip\"");
        assert_eq!(disposition("/w/a b\"é"), "attachment; filename*=utf-8''a%20b%22%C3%A9.zip");
    }
}
