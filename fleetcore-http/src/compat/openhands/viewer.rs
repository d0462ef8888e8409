//! The file viewer: pages that show an image or a PDF, for a browser on the same machine.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use axum::{
    Json, Router,
    extract::{ConnectInfo, Query, Request, State, rejection::QueryRejection},
    http::{Method, StatusCode, header},
    middleware::{self, Next},
    response::{Html, IntoResponse, Response},
    routing::any,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fleetcore::{FileKind, Files};
use serde_json::json;

use super::files::{is_missing, python_error, suffix};

/// The page; `@NAME@` is filled in.
const PAGE: &str = include_str!("viewer.html");

/// All of the viewer's server. It has no key, so only clients of this host are answered; the server must pass on their
/// addresses ([`Router::into_make_service_with_connect_info`]).
pub(super) fn routes(files: Files) -> Router {
    Router::new()
        .route("/", any(root))
        .route("/view", any(view))
        .route("/view/", any(async |request: Request| super::routes::without_slash(&request, "/view")))
        .fallback(async || detail(StatusCode::NOT_FOUND, "Not Found"))
        .with_state(files)
        .layer(middleware::from_fn(local_only))
}

async fn local_only(request: Request, next: Next) -> Response {
    let peer = request
        .extensions()
        .get::<ConnectInfo<SocketAddr>>()
        .map(|ConnectInfo(peer)| peer.ip().to_canonical());
    if peer.is_some_and(|peer: IpAddr| !peer.is_loopback()) {
        let text = "<h1>Access Denied</h1><p>This endpoint is only accessible from localhost</p>";
        return (StatusCode::FORBIDDEN, Html(text)).into_response();
    }
    if request.method() != Method::GET && ["/", "/view"].contains(&request.uri().path()) {
        let answer = detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        return ([(header::ALLOW, "GET")], answer).into_response();
    }
    next.run(request).await
}

fn detail(status: StatusCode, text: &str) -> Response {
    (status, Json(json!({ "detail": text }))).into_response()
}

async fn root() -> Response {
    Json(json!({ "status": "File viewer server is running" })).into_response()
}

async fn view(
    State(files): State<Files>,
    query: Result<Query<HashMap<String, String>>, QueryRejection>,
) -> Response {
    let Some(path) = query.ok().and_then(|Query(mut query)| query.remove("path")) else {
        let what =
            json!([{ "type": "missing", "loc": ["query", "path"], "msg": "Field required", "input": null }]);
        return (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({ "detail": what }))).into_response();
    };
    let shown = escaped(&path);
    let error = |status, title: &str| {
        (status, Html(format!("<h1>Error: {title}</h1><p>{shown}</p>"))).into_response()
    };
    let failed = |why: &str| {
        let text = format!("<h1>Error viewing file</h1><p>{shown}</p><p>{}</p>", escaped(why));
        (StatusCode::INTERNAL_SERVER_ERROR, Html(text)).into_response()
    };
    if !path.starts_with('/') {
        return error(StatusCode::BAD_REQUEST, "Path must be absolute");
    }
    match files.stat(&path).await {
        Ok(info) if info.kind == FileKind::Dir => {
            return error(StatusCode::BAD_REQUEST, "Path is a directory");
        }
        Ok(_) => {}
        Err(e) if is_missing(&e) || path.contains('\0') => {
            return error(StatusCode::NOT_FOUND, "File not found");
        }
        Err(e) => return failed(&python_error(&e, &path)),
    }
    let mut extension = suffix(&path).to_lowercase();
    // Of `a.` it is the dot, as `os.path.splitext` has it.
    if path.ends_with('.') && !path.trim_end_matches('.').ends_with('/') {
        extension = ".".to_owned();
    }
    let Some(mime) = media_type(&extension) else {
        return failed(&format!(
            "Unsupported file extension: {extension}. Supported extensions are: .pdf, .png, .jpg, .jpeg, .gif"
        ));
    };
    let contents = match files.read(&path).await {
        Ok(contents) => contents,
        Err(e) => return failed(&python_error(&e, &path)),
    };
    // Tens of megabytes would keep others waiting.
    let page =
        tokio::task::spawn_blocking(move || page(&path, &extension, mime, &STANDARD.encode(&contents)));
    match page.await {
        Ok(page) => Html(page).into_response(),
        Err(e) => failed(&e.to_string()),
    }
}

fn media_type(extension: &str) -> Option<&'static str> {
    Some(match extension {
        ".pdf" => "application/pdf",
        ".png" => "image/png",
        ".jpg" | ".jpeg" => "image/jpeg",
        ".gif" => "image/gif",
        _ => return None,
    })
}

fn page(path: &str, extension: &str, mime: &str, base64: &str) -> String {
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let mut page = String::with_capacity(PAGE.len() + base64.len() + 256);
    // In one pass, so that what is filled in is not searched for marks.
    for (at, part) in PAGE.split('@').enumerate() {
        match part {
            "TITLE" if at % 2 == 1 => page.push_str(&escaped(name)),
            "PATH" if at % 2 == 1 => page.push_str(&script_string(path)),
            "NAME" if at % 2 == 1 => page.push_str(&script_string(name)),
            "EXTENSION" if at % 2 == 1 => page.push_str(&script_string(extension)),
            "MIME" if at % 2 == 1 => page.push_str(&script_string(mime)),
            "BASE64" if at % 2 == 1 => page.extend(["\"", base64, "\""]),
            part => page.push_str(part),
        }
    }
    page
}

/// Text in HTML, also in attributes.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#x27;"),
            c => out.push(c),
        }
    }
    out
}

/// A string in a script within HTML: neither the string nor the script ends in it.
fn script_string(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' | '<' | '>' | '&' | '\'' | '\u{2028}' | '\u{2029}' | '\0'..='\x1f' => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_become_part_of_the_page() {
        let evil = "/w/\"</script><script>alert(1)</script>@BASE64@'\\.png";
        let page = page(evil, ".png", "image/png", "AAAA");
        assert_eq!(page.matches("<script>").count(), 1, "{page}");
        assert_eq!(page.matches("AAAA").count(), 1);
        assert!(!page.contains("alert(1)</script>"));
        assert!(page.contains("const mimeType = \"image/png\";"), "{page}");
        assert_eq!(script_string("a\"\n"), "\"a\\u0022\\u000a\"");
    }
}
