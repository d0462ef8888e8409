//! The front end: embedded, or from a directory.

use std::path::{Component, Path, PathBuf};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use rust_embed::RustEmbed;

use crate::{app::App, error::Problem};

/// What `npm run build` wrote; empty when it has not run.
#[derive(RustEmbed)]
#[folder = "web/dist"]
#[allow_missing = true]
struct Dist;

/// Shown at `/` when there is no front end.
const HOW_TO_BUILD: &str = "<!doctype html><meta charset=utf-8><title>fleetcore</title>\
<body style='font:16px/1.5 system-ui;max-width:40rem;margin:4rem auto;padding:0 1rem'>\
<h1>fleetcore</h1><p>The server runs, but was built without its front end.</p>\
<p>Build it: <code>cd fleetcore-http/web &amp;&amp; npm ci &amp;&amp; npm run build</code>, then build the server again; \
or start the server with <code>--ui-dir fleetcore-http/web/dist</code>.</p>\
<p><a href='/api/docs'>API documentation</a></p>";

pub(crate) fn routes() -> Router<App> {
    Router::new().fallback(serve)
}

async fn serve(State(app): State<App>, request: Request) -> Response {
    let path = request.uri().path();
    if path == "/api" || path.starts_with("/api/") {
        return Problem::not_found("resource", path).into_response();
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Problem::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "Not a method of this resource",
            "pages can only be read",
        )
        .with_header(header::ALLOW, "GET, HEAD")
        .into_response();
    }
    let Ok(path) = percent_encoding::percent_decode_str(path.trim_start_matches('/')).decode_utf8() else {
        return Problem::not_found("page", request.uri().path()).into_response();
    };
    let known = request.headers().get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
    let wanted = if path.is_empty() { "index.html" } else { &path };
    if let Some(page) = page(&app, wanted).await {
        return page.respond(wanted, known);
    }
    // Paths without an extension are the front end's own (history routing); a missing file is missing.
    let is_file = wanted.rsplit('/').next().is_some_and(|name| name.contains('.'));
    if is_file && wanted != "index.html" {
        return Problem::not_found("file", format!("/{wanted}")).into_response();
    }
    match page(&app, "index.html").await {
        Some(page) => page.respond("index.html", known),
        None => ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], HOW_TO_BUILD).into_response(),
    }
}

struct Page {
    data: Bytes,
    etag: Option<String>,
}

impl Page {
    fn respond(self, path: &str, known: Option<&str>) -> Response {
        let mut response = match (&self.etag, known) {
            (Some(etag), Some(known)) if known.split(',').any(|k| k.trim() == etag) => {
                StatusCode::NOT_MODIFIED.into_response()
            }
            _ => Body::from(self.data).into_response(),
        };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type(path)));
        // Vite puts a hash of the contents into the names under assets/.
        let cache =
            if path.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
        if let Some(etag) = self.etag.and_then(|e| HeaderValue::from_str(&e).ok()) {
            headers.insert(header::ETAG, etag);
        }
        response
    }
}

async fn page(app: &App, path: &str) -> Option<Page> {
    if let Some(dir) = &app.config().ui_dir {
        let file = inside(dir, path)?;
        // Links that lead out of the directory are the operator's own doing; what callers ask for stays inside.
        let data = tokio::fs::read(file).await.ok()?;
        return Some(Page { data: data.into(), etag: None });
    }
    let file = Dist::get(path)?;
    let hash: String = file.metadata.sha256_hash().iter().take(16).map(|b| format!("{b:02x}")).collect();
    let data = match file.data {
        std::borrow::Cow::Borrowed(data) => Bytes::from_static(data),
        std::borrow::Cow::Owned(data) => Bytes::from(data),
    };
    Some(Page { data, etag: Some(format!("\"{hash}\"")) })
}

fn inside(dir: &Path, path: &str) -> Option<PathBuf> {
    let path = Path::new(path);
    path.components().all(|c| matches!(c, Component::Normal(_))).then(|| dir.join(path))
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit('.').next().unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" | "map" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "woff" => "font/woff",
        "ttf" => "font/ttf",
        "wasm" => "application/wasm",
        "txt" => "text/plain; charset=utf-8",
        "webmanifest" => "application/manifest+json",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_stay_inside_the_directory() {
        let dir = Path::new("/srv/ui");
        assert_eq!(inside(dir, "assets/a.js"), Some("/srv/ui/assets/a.js".into()));
        for bad in ["../x", "a/../../x", "/etc/passwd", "a/./../../b"] {
            assert_eq!(inside(dir, bad), None, "{bad}");
        }
    }
}
