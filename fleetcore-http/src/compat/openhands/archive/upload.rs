//! `POST /upload_file`: one file, or an archive that is unpacked.

use std::collections::HashMap;

use axum::{
    Json,
    extract::{
        DefaultBodyLimit, FromRequest, Query, Request,
        multipart::{Field, Multipart},
    },
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use fleetcore::{ByteStream, Error, ErrorKind, FileKind, WriteOptions};
use futures::{StreamExt, stream};
use serde_json::json;
use tokio::{io::AsyncWriteExt, sync::mpsc};

use super::{
    super::files::{Workspace, is_missing, python_error, quoted},
    refuse::{failed, unprocessable},
    unpack::{Failure, unpack},
};

/// Largest upload. The original has no limit but its disk.
const UPLOAD_MAX_BYTES: u64 = 64 << 30;
/// Pieces that may wait for a slow machine.
const WAITING: usize = 4;

/// `POST /upload_file`.
pub(in super::super) async fn upload(workspace: &Workspace, mut request: Request) -> Response {
    let query = Query::<HashMap<String, String>>::try_from_uri(request.uri());
    let mut query = query.map(|Query(query)| query).unwrap_or_default();
    let destination = query.remove("destination").unwrap_or_else(|| "/".to_owned());
    let recursive = match query.remove("recursive").map(|text| (boolean(&text), text)) {
        None => false,
        Some((Some(recursive), _)) => recursive,
        Some((None, sent)) => {
            let why = "Input should be a valid boolean, unable to interpret input";
            return unprocessable("bool_parsing", "query", "recursive", why, &quoted(&sent));
        }
    };
    let missing = || unprocessable("missing", "body", "file", "Field required", "None");
    // There is a limit of our own, and nothing is kept in memory.
    DefaultBodyLimit::disable().apply(&mut request);
    let kind =
        request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let unbounded = kind.starts_with("multipart/form-data") && !kind.contains("boundary=");
    let mut form = match Multipart::from_request(request, &()).await {
        Ok(form) => form,
        Err(_) if unbounded => return bad_request("Missing boundary in multipart."),
        Err(_) => return missing(),
    };
    loop {
        let mut field = match form.next_field().await {
            Ok(Some(field)) => field,
            Ok(None) => return missing(),
            Err(e) => {
                tracing::debug!(why = %e.body_text(), "a form that cannot be read");
                return bad_request("There was an error parsing the body");
            }
        };
        if field.name() != Some("file") {
            continue;
        }
        let Some(filename) = field.file_name().map(str::to_owned) else {
            let why = "Value error, Expected UploadFile, received: str";
            return unprocessable("value_error", "body", "file", why, "'...'");
        };
        if filename.is_empty() {
            return missing();
        }
        let outcome = store(workspace, &destination, recursive, &filename, &mut field).await;
        // A client that is still sending would not see the answer.
        while let Ok(Some(_)) = field.chunk().await {}
        return match outcome {
            Ok(()) => {
                let sent =
                    json!({ "filename": filename, "destination": destination, "recursive": recursive });
                Json(sent).into_response()
            }
            Err(detail) => failed(detail),
        };
    }
}

fn bad_request(detail: &str) -> Response {
    (StatusCode::BAD_REQUEST, Json(json!({ "detail": detail }))).into_response()
}

/// Booleans as pydantic reads them.
fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "t" | "yes" | "y" | "on" => Some(true),
        "0" | "false" | "f" | "no" | "n" | "off" => Some(false),
        _ => None,
    }
}

async fn store(
    workspace: &Workspace,
    destination: &str,
    recursive: bool,
    filename: &str,
    field: &mut Field<'_>,
) -> Result<(), String> {
    if !destination.starts_with('/') {
        return Err("400: Destination must be an absolute path".to_owned());
    }
    let is_zip = filename.ends_with(".zip");
    // What else is wrong with it, writing says.
    if workspace.files.stat(destination).await.is_err()
        && let Err(e) = workspace.files.create_dir(destination).await
    {
        return Err(python_error(&e, &first_missing(workspace, destination).await));
    }
    if recursive && !is_zip {
        return Err("400: Recursive uploads must be zip files".to_owned());
    }
    let to = destination.trim_end_matches('/');
    let name = base_name(workspace, to, filename).await?;
    let path = format!("{to}/{name}");
    if !is_zip {
        return file(workspace, &path, field).await.map_err(|e| match e.context_value("upload") {
            Some(_) => e.message().to_owned(),
            None => python_error(&e, &path),
        });
    }
    let archive = spooled(field).await?;
    let to = if to.is_empty() { "/" } else { to };
    unpack(&workspace.files, archive, to).await.map_err(|failure| match failure {
        Failure::NotAZip => format!("{path} is not a zip file"),
        Failure::Refused(why) => why,
        Failure::Files(e) => python_error(&e, to),
    })
}

/// The first directory on the way to a path that is not there, which is the one that cannot be created.
async fn first_missing(workspace: &Workspace, path: &str) -> String {
    let ends = path.match_indices('/').map(|(at, _)| at).filter(|at| *at > 0).chain([path.len()]);
    for end in ends {
        let part = path.get(..end).unwrap_or(path);
        if workspace.files.stat(part).await.is_err() {
            return part.to_owned();
        }
    }
    path.to_owned()
}

/// What a file is called in its destination: the last part of what was sent, so that nothing leads out. A name with
/// directories that are not there is refused with the words of the original.
async fn base_name<'a>(workspace: &Workspace, to: &str, filename: &'a str) -> Result<&'a str, String> {
    let Some((dir, name)) = filename.rsplit_once('/') else { return Ok(filename) };
    let joined = quoted(&format!("{to}/{filename}"));
    let plain = !filename.starts_with('/') && dir.split('/').all(|part| part != "..");
    if plain && workspace.files.stat(&format!("{to}/{dir}")).await.is_err_and(|e| is_missing(&e)) {
        return Err(format!("[Errno 2] No such file or directory: {joined}"));
    }
    match name {
        "" | "." | ".." => Err(format!("[Errno 21] Is a directory: {joined}")),
        name => Ok(name),
    }
}

/// Writes a file while it comes in. If it breaks off, an old file stays as it was.
async fn file(workspace: &Workspace, path: &str, field: &mut Field<'_>) -> fleetcore::Result<()> {
    if workspace.files.stat(path).await.is_ok_and(|info| info.kind == FileKind::Dir) {
        return Err(Error::new(ErrorKind::InvalidState, "is a directory"));
    }
    let (sender, pieces) = mpsc::channel(WAITING);
    let data: ByteStream =
        stream::unfold(pieces, |mut pieces| async { pieces.recv().await.map(|piece| (piece, pieces)) })
            .boxed();
    let how = WriteOptions::atomic().with_keep_links(true).with_create_parents(true).with_mode(Some(0o644));
    // The sender goes with this, which ends the data.
    let feed = async move {
        let mut total = 0;
        loop {
            let piece = match field.chunk().await {
                Ok(None) => return,
                Ok(Some(piece)) => piece,
                Err(e) => {
                    let error =
                        Error::new(ErrorKind::InvalidInput, e.body_text()).with_context("upload", path);
                    let _ = sender.send(Err(error)).await;
                    return;
                }
            };
            total += piece.len() as u64;
            if total > UPLOAD_MAX_BYTES {
                let error =
                    Error::new(ErrorKind::InvalidInput, "upload is too large").with_context("upload", path);
                let _ = sender.send(Err(error)).await;
                return;
            }
            if sender.send(Ok(piece)).await.is_err() {
                return; // and writing says why
            }
        }
    };
    let (written, ()) = futures::join!(workspace.files.write_stream(path, how, data), feed);
    written.map(drop)
}

/// An archive in a file without a name, which is gone with its descriptor.
async fn spooled(field: &mut Field<'_>) -> Result<std::fs::File, String> {
    let text = |e: std::io::Error| e.to_string();
    let spool =
        tokio::task::spawn_blocking(tempfile::tempfile).await.map_err(|e| e.to_string())?.map_err(text)?;
    let mut spool = tokio::fs::File::from_std(spool);
    let mut total = 0;
    while let Some(piece) = field.chunk().await.map_err(|e| e.body_text())? {
        total += piece.len() as u64;
        if total > UPLOAD_MAX_BYTES {
            return Err("upload is too large".to_owned());
        }
        spool.write_all(&piece).await.map_err(text)?;
    }
    spool.flush().await.map_err(text)?;
    Ok(spool.into_std().await)
}
