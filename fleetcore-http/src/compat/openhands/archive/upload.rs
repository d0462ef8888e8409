//! `POST /upload_file`: one file, or an archive that is unpacked.

use std::{collections::HashMap, fs::File, time::Duration};

use axum::{
    Json,
    extract::{
        DefaultBodyLimit, FromRequest, Query, Request,
        multipart::{Field, Multipart, MultipartError},
    },
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use fleetcore::{ByteStream, Error, ErrorKind, FileKind, WriteOptions};
use futures::{Stream, StreamExt, stream};
use serde_json::json;
use tokio::{io::AsyncWriteExt, sync::mpsc};

use super::{
    super::files::{Workspace, is_missing, python_error, quoted},
    refuse::{failed, unprocessable},
    unpack::{Failure, unpack},
};

/// Largest upload. The original has no limit but its disk.
const UPLOAD_MAX_BYTES: u64 = 64 << 30;
/// Largest archive for another machine: it is kept on a disk of this host on its way.
const PASSING_MAX_BYTES: u64 = 4 << 30;
/// What is left free of a disk an archive is kept on, or a tenth of a small one.
const RESERVE_BYTES: u64 = 1 << 30;
/// How often that is looked at.
const LOOK_EVERY_BYTES: u64 = 16 << 20;
/// How much more is read of an upload that is refused, and for how long: clients that send all before they listen get to
/// know why. Then the connection is closed.
const DRAIN_MAX_BYTES: usize = 64 << 20;
const DRAIN_LIMIT: Duration = Duration::from_secs(20);
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
        let read = outcome.is_ok() || drained(&mut field, DRAIN_MAX_BYTES, DRAIN_LIMIT).await;
        let mut response = match outcome {
            Ok(()) => {
                let sent =
                    json!({ "filename": filename, "destination": destination, "recursive": recursive });
                Json(sent).into_response()
            }
            Err(detail) => failed(detail),
        };
        if !read {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        return response;
    }
}

/// Reads what a client still sends, so that it sees the answer. Whether that has ended.
async fn drained<E>(
    pieces: &mut (impl Stream<Item = Result<Bytes, E>> + Unpin),
    most: usize,
    limit: Duration,
) -> bool {
    let all = async {
        let mut left = most;
        while let Some(Ok(piece)) = pieces.next().await {
            match left.checked_sub(piece.len()) {
                Some(rest) => left = rest,
                None => return false,
            }
        }
        true
    };
    tokio::time::timeout(limit, all).await.unwrap_or(false)
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
    let spool = spool(workspace.here.then(|| destination.to_owned())).await?;
    let archive = spooled(field, spool).await?;
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

/// A file without a name, which is gone with its descriptor.
struct Spool {
    file: File,
    most: u64,
}

/// On the disk the archive is unpacked to, when that is one of this host: there it has to fit anyway. Otherwise in this
/// host's own place for such files.
async fn spool(near: Option<String>) -> Result<Spool, String> {
    let make = move || {
        if let Some(Ok(file)) = near.map(tempfile::tempfile_in) {
            return Ok(Spool { file, most: UPLOAD_MAX_BYTES });
        }
        tempfile::tempfile().map(|file| Spool { file, most: PASSING_MAX_BYTES })
    };
    let made = tokio::task::spawn_blocking(make).await.map_err(|e| e.to_string())?;
    made.map_err(|e| e.to_string())
}

/// Whether a disk has room for more than what is left free.
fn has_room(file: &File) -> bool {
    let Ok(disk) = rustix::fs::fstatvfs(file) else { return true };
    let total = disk.f_blocks.saturating_mul(disk.f_frsize);
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    free > RESERVE_BYTES.min(total / 10)
}

/// The archive.
async fn spooled(
    pieces: &mut (impl Stream<Item = Result<Bytes, MultipartError>> + Unpin),
    spool: Spool,
) -> Result<File, String> {
    let text = |e: std::io::Error| e.to_string();
    let Spool { file, most } = spool;
    let mut spool = tokio::fs::File::from_std(file);
    let (mut total, mut looked) = (0, 0);
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|e| e.body_text())?;
        total += piece.len() as u64;
        if total > most {
            return Err("upload is too large".to_owned());
        }
        if total >= looked {
            looked = total + LOOK_EVERY_BYTES;
            let file = spool.try_clone().await.map_err(text)?.into_std().await;
            if !tokio::task::spawn_blocking(move || has_room(&file)).await.unwrap_or(true) {
                return Err("[Errno 28] No space left on device".to_owned());
            }
        }
        spool.write_all(&piece).await.map_err(text)?;
    }
    spool.flush().await.map_err(text)?;
    Ok(spool.into_std().await)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn pieces(count: usize) -> impl Stream<Item = Result<Bytes, MultipartError>> + Unpin {
        stream::iter((0..count).map(|_| Ok(Bytes::from_static(&[b'x'; 1000]))))
    }

    #[tokio::test]
    async fn a_spool_is_where_it_is_unpacked_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let near = spool(Some(dir.path().display().to_string())).await.unwrap();
        assert_eq!(near.most, UPLOAD_MAX_BYTES);
        assert_eq!(near.file.metadata().unwrap().dev(), dir.path().metadata().unwrap().dev());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "it has no name");
        for elsewhere in [None, Some("/nowhere/at/all".to_owned())] {
            assert_eq!(spool(elsewhere).await.unwrap().most, PASSING_MAX_BYTES);
        }
        let bounded = |most| Spool { file: tempfile::tempfile().unwrap(), most };
        assert_eq!(
            spooled(&mut pieces(10), bounded(10_000)).await.unwrap().metadata().unwrap().len(),
            10_000
        );
        assert_eq!(spooled(&mut pieces(11), bounded(10_000)).await.unwrap_err(), "upload is too large");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_is_not_read_for_ever() {
        let limit = Duration::from_secs(20);
        assert!(drained(&mut pieces(10), 10_000, limit).await);
        assert!(!drained(&mut pieces(1_000_000), 10_000, limit).await);
        assert!(!drained(&mut pieces(3).chain(stream::pending()), 10_000, limit).await);
    }
}
