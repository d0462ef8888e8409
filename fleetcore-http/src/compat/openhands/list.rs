//! `POST /list_files`.

use axum::{
    Json,
    body::to_bytes,
    extract::Request,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use fleetcore::{FileInfo, FileKind, Files};
use futures::{StreamExt, stream};
use serde_json::{Value, json};

use super::files::{Workspace, resolve};

/// Links that are looked at together, so that a far machine is not asked one by one.
const AT_ONCE: usize = 16;

/// Longest body: one path.
const BODY_MAX: usize = 1 << 20;

/// `POST /list_files`.
pub(super) async fn list(workspace: &Workspace, request: Request) -> Response {
    let body = to_bytes(request.into_body(), BODY_MAX).await.unwrap_or_default();
    let path = match serde_json::from_slice::<Value>(&body) {
        Ok(Value::Object(body)) => match body.get("path") {
            None | Some(Value::Null) => Some(String::new()),
            Some(Value::String(path)) => Some(path.clone()),
            Some(_) => None,
        },
        _ => None,
    };
    match path {
        Some(path) => Json(names(workspace, &path).await).into_response(),
        None => {
            let body = json!({ "detail": "An unexpected error occurred. Please try again later." });
            (StatusCode::INTERNAL_SERVER_ERROR, Json(body)).into_response()
        }
    }
}

/// Names in a directory: directories first, with a slash, then files, each by name without regard to case. Nothing if
/// it cannot be listed.
pub(super) async fn names(workspace: &Workspace, path: &str) -> Vec<String> {
    let path = resolve(&workspace.working_dir, path);
    let Ok(list) = workspace.files.list(&path).await else { return Vec::new() };
    let mut names: Vec<(bool, String)> =
        stream::iter(list.into_iter().map(|e| named(&workspace.files, &path, e)))
            .buffered(AT_ONCE)
            .filter_map(std::future::ready)
            .collect()
            .await;
    names.sort_by_cached_key(|(is_dir, name)| (!is_dir, name.to_lowercase()));
    names.into_iter().map(|(_, name)| name).collect()
}

/// Whether an entry is a directory, and how it is shown. `None` for a link to nothing.
async fn named(files: &Files, dir: &str, entry: FileInfo) -> Option<(bool, String)> {
    let kind = match entry.kind {
        FileKind::Symlink => files.stat(&format!("{dir}/{}", entry.path)).await.ok()?.kind,
        kind => kind,
    };
    Some(match kind {
        FileKind::Dir => (true, format!("{}/", entry.path)),
        _ => (false, entry.path),
    })
}
