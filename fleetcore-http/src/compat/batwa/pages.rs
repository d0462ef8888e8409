//! The front end: Batwa's own `templates/` and `static/`, as they are.

use std::{
    collections::HashMap,
    io::Read as _,
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::RwLock;
use percent_encoding::percent_decode_str;
use sha2::{Digest as _, Sha256};

use super::{map, reply};

/// A file is looked at again after this time.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Largest file that is served.
const FILE_MAX: u64 = 64 << 20;
/// Files kept in memory, in bytes.
const KEPT_MAX: usize = 64 << 20;

/// Shown when there is no front end.
const NO_PAGES: &str = "<!doctype html><meta charset=utf-8><title>Batwa</title>\
<body style='font:16px/1.5 system-ui;max-width:40rem;margin:4rem auto;padding:0 1rem'>\
<h1>Batwa</h1><p>The API is served here, but no pages: start with <code>--ui-dir DIR</code>, where \
<code>DIR</code> holds Batwa's <code>templates/</code> and <code>static/</code>.</p>";

/// One file, ready to be sent.
#[derive(Debug)]
struct File {
    data: Bytes,
    etag: HeaderValue,
    modified: Option<(Timestamp, HeaderValue)>,
    kind: HeaderValue,
}

#[derive(Debug)]
struct Kept {
    file: Arc<File>,
    changed_at: Option<SystemTime>,
    size: u64,
    looked_at: Instant,
}

/// The pages of one directory.
#[derive(Debug)]
pub(super) struct Pages {
    dir: Option<PathBuf>,
    kept: RwLock<HashMap<String, Kept>>,
}

impl Pages {
    pub(super) fn new(dir: Option<PathBuf>) -> Self {
        Self { dir, kept: RwLock::default() }
    }

    /// A page of `templates/`.
    pub(super) async fn page(&self, name: &'static str, tls: bool) -> Response {
        let mut response = match &self.dir {
            None => html(Bytes::from_static(NO_PAGES.as_bytes())),
            Some(dir) => match self.file(name, &dir.join("templates").join(name)).await {
                Some(file) => html(file.data.clone()),
                None => reply::detail(StatusCode::INTERNAL_SERVER_ERROR, "the page cannot be read"),
            },
        };
        let headers = response.headers_mut();
        // The original pages have inline handlers and load a terminal from elsewhere; what can be forbidden is to put
        // them into a frame. They say ws://, which browsers block on pages that came over TLS.
        let policy =
            if tls { "frame-ancestors 'none'; upgrade-insecure-requests" } else { "frame-ancestors 'none'" };
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        harden(headers);
        response
    }

    /// A file of `static/`; `path` as it was sent.
    pub(super) async fn asset(&self, path: &str, headers: &HeaderMap) -> Response {
        let decoded = percent_decode_str(path).decode_utf8().ok();
        let inside = decoded.as_deref().and_then(inside);
        let (Some(dir), Some(name)) = (&self.dir, inside) else { return reply::not_found().await };
        match self.file(path, &dir.join("static").join(name)).await {
            Some(file) => file.respond(headers),
            None => reply::not_found().await,
        }
    }

    async fn file(&self, key: &str, path: &Path) -> Option<Arc<File>> {
        if let Some(kept) = self.kept.read().get(key)
            && kept.looked_at.elapsed() < LOOK_AGAIN
        {
            return Some(kept.file.clone());
        }
        let known = self.kept.read().get(key).map(|k| (k.file.clone(), k.changed_at, k.size));
        let owned = path.to_owned();
        let read = tokio::task::spawn_blocking(move || look(&owned, known)).await.ok().flatten();
        let mut kept = self.kept.write();
        let Some((file, changed_at, size)) = read else {
            kept.remove(key);
            return None;
        };
        let held: usize = kept.iter().filter(|(k, _)| *k != key).map(|(_, k)| k.file.data.len()).sum();
        if held + file.data.len() <= KEPT_MAX {
            let looked_at = Instant::now();
            kept.insert(key.to_owned(), Kept { file: file.clone(), changed_at, size, looked_at });
        }
        Some(file)
    }
}

type Look = (Arc<File>, Option<SystemTime>, u64);

fn look(path: &Path, known: Option<Look>) -> Option<Look> {
    let mut open = std::fs::File::open(path).ok()?;
    let meta = open.metadata().ok()?;
    if !meta.is_file() || meta.len() > FILE_MAX {
        return None;
    }
    let changed_at = meta.modified().ok();
    if let Some((file, before, size)) = known
        && before == changed_at
        && size == meta.len()
    {
        return Some((file, changed_at, size));
    }
    let mut data = Vec::with_capacity(usize::try_from(meta.len()).ok()?);
    open.read_to_end(&mut data).ok()?;
    let hash: String = Sha256::digest(&data).iter().take(16).map(|b| format!("{b:02x}")).collect();
    let modified = changed_at.and_then(|at| Timestamp::try_from(at).ok()).and_then(|at| {
        let at = Timestamp::from_second(at.as_second()).ok()?;
        Some((at, HeaderValue::from_str(&map::http_date(at)).ok()?))
    });
    let file = File {
        data: data.into(),
        etag: HeaderValue::from_str(&format!("\"{hash}\"")).ok()?,
        modified,
        kind: HeaderValue::from_static(content_type(path)),
    };
    Some((Arc::new(file), changed_at, meta.len()))
}

impl File {
    fn respond(&self, asked: &HeaderMap) -> Response {
        let text = |name: header::HeaderName| asked.get(name).and_then(|v| v.to_str().ok());
        let (status, body, range) = if self.unchanged(&text) {
            (StatusCode::NOT_MODIFIED, Bytes::new(), None)
        } else {
            match text(header::RANGE).map(|r| wanted(r, self.data.len())) {
                Some(Wanted::Part(from, to)) => {
                    let range = format!("bytes {from}-{to}/{}", self.data.len());
                    (StatusCode::PARTIAL_CONTENT, self.data.slice(from..=to), Some(range))
                }
                Some(Wanted::Nothing) => {
                    let range = format!("bytes */{}", self.data.len());
                    (StatusCode::RANGE_NOT_SATISFIABLE, Bytes::new(), Some(range))
                }
                Some(Wanted::All) | None => (StatusCode::OK, self.data.clone(), None),
            }
        };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, self.kind.clone());
        headers.insert(header::ETAG, self.etag.clone());
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if let Some((_, date)) = &self.modified {
            headers.insert(header::LAST_MODIFIED, date.clone());
        }
        if let Some(range) = range.and_then(|r| HeaderValue::from_str(&r).ok()) {
            headers.insert(header::CONTENT_RANGE, range);
        }
        harden(headers);
        response
    }

    fn unchanged<'a>(&self, asked: &impl Fn(header::HeaderName) -> Option<&'a str>) -> bool {
        if let Some(known) = asked(header::IF_NONE_MATCH) {
            let tags = known.split(',').map(|t| t.trim().trim_start_matches("W/").as_bytes());
            return tags.into_iter().any(|t| t == self.etag.as_bytes() || t == b"*");
        }
        match (asked(header::IF_MODIFIED_SINCE).and_then(map::parse_http_date), &self.modified) {
            (Some(since), Some((modified, _))) => *modified <= since,
            _ => false,
        }
    }
}

#[derive(Debug, PartialEq)]
enum Wanted {
    All,
    Part(usize, usize),
    Nothing,
}

/// One range of bytes; anything else gets the whole file, which is always allowed.
fn wanted(range: &str, len: usize) -> Wanted {
    let Some((from, to)) = range.strip_prefix("bytes=").and_then(|r| r.split_once('-')) else {
        return Wanted::All;
    };
    let end = len.saturating_sub(1);
    match (from.trim().parse::<usize>(), to.trim().parse::<usize>()) {
        (Ok(from), _) if from >= len => Wanted::Nothing,
        (Ok(from), Ok(to)) if from <= to => Wanted::Part(from, to.min(end)),
        (Ok(from), Err(_)) if to.trim().is_empty() => Wanted::Part(from, end),
        (Err(_), Ok(last)) if from.trim().is_empty() => match (last, len) {
            (0, _) | (_, 0) => Wanted::Nothing,
            _ => Wanted::Part(len.saturating_sub(last), end),
        },
        _ => Wanted::All,
    }
}

fn html(data: Bytes) -> Response {
    let mut response = Response::new(Body::from(data));
    let kind = HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn harden(headers: &mut HeaderMap) {
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
}

fn inside(path: &str) -> Option<PathBuf> {
    let path = Path::new(path);
    let names = path.components().all(|c| matches!(c, Component::Normal(_)));
    (names && !path.as_os_str().is_empty()).then(|| path.to_owned())
}

fn content_type(path: &Path) -> &'static str {
    match path.extension().and_then(|e| e.to_str()).unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" | "map" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "woff" => "font/woff",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_files() {
        for (range, want) in [
            ("bytes=0-9", Wanted::Part(0, 9)),
            ("bytes=5-", Wanted::Part(5, 19)),
            ("bytes=-3", Wanted::Part(17, 19)),
            ("bytes=-99", Wanted::Part(0, 19)),
            ("bytes=0-99", Wanted::Part(0, 19)),
            ("bytes=20-", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=9-5", Wanted::All),
            ("bytes=0-1,3-4", Wanted::All),
            ("items=0-1", Wanted::All),
        ] {
            assert_eq!(wanted(range, 20), want, "{range}");
        }
        assert_eq!(wanted("bytes=0-", 0), Wanted::Nothing);
    }

    #[test]
    fn callers_stay_inside_the_directory() {
        assert!(inside("js/app.js").is_some());
        for bad in ["../main.py", "", "/etc/passwd", "js/../../x", ".."] {
            assert!(inside(bad).is_none(), "{bad}");
        }
    }
}
