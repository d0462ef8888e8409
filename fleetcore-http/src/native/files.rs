//! Files of a target.

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use fleetcore::{ByteStream, Error, ErrorKind, FileInfo as CoreFileInfo, FileKind, Files, WriteOptions};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    range::{Wanted, wanted},
    wire::{FileInfo, Items, MakeDir, Rename, Unpacked},
};
use crate::{
    app::App,
    auth::{Actor, Audit, CanFiles},
    error::{Problem, Reply},
    extract::{Json, Path, Query, content_length},
};

/// Which file.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PathQuery {
    /// Absolute, or relative to the home directory.
    #[param(example = "/tmp", min_length = 1)]
    path: String,
}

async fn files(app: &App, actor: &Actor, target: &str) -> Result<Files, Problem> {
    let machine = app.fleet().machine(target)?;
    Ok(machine.files().await?.with_context(actor.context()))
}

fn checked<'a>(field: &'static str, path: &'a str) -> Result<&'a str, Problem> {
    if path.is_empty() || path.contains('\0') {
        return Err(Problem::invalid(field, "a path that is not empty and has no NUL character"));
    }
    Ok(path)
}

/// A stream that has begun well: an error that shows at once can still be told with a status of its own.
async fn begun(mut data: ByteStream) -> Result<Body, Problem> {
    Ok(match data.next().await.transpose()? {
        Some(first) => Body::from_stream(stream::once(async move { Ok(first) }).chain(data)),
        None => Body::empty(),
    })
}

/// Changes whenever the contents do: size and time of the last change, to the nanosecond.
fn etag(info: &CoreFileInfo) -> Option<String> {
    let at = info.modified_at?;
    Some(format!("\"{:x}-{:x}\"", info.size, at.as_nanosecond()))
}

/// As HTTP writes dates (RFC 9110, section 5.6.7).
fn http_date(at: Timestamp) -> String {
    at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// The bytes of a file.
#[utoipa::path(get, path = "/api/v1/targets/{target}/files", tag = "files",
    params(("target" = String, Path, description = "Its name, percent-encoded as one segment", example = "local", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,2}$"), PathQuery,
        ("Range" = Option<String>, Header, description = "`bytes=a-b`, `bytes=a-` or `bytes=-n`", nullable = false)),
    responses(
        (status = 200, description = "All of it", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 206, description = "A part", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 304, description = "It is what `If-None-Match` says")))]
pub(super) async fn read_file(
    CanFiles(actor): CanFiles,
    State(app): State<App>,
    Path(target): Path<String>,
    Query(query): Query<PathQuery>,
    headers: HeaderMap,
) -> Reply<Response> {
    let path = checked("path", &query.path)?;
    let files = files(&app, &actor, &target).await?;
    let info = files.stat(path).await?;
    if info.kind == FileKind::Dir {
        return Err(Error::new(ErrorKind::InvalidState, "it is a directory; list it, or read it as tar")
            .with_operation("read")
            .with_context("path", path)
            .into());
    }
    let etag = etag(&info);
    let text = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    let matches = |list: &str| etag.as_deref().is_some_and(|e| list.split(',').any(|t| t.trim() == e));
    let mut response = if text(header::IF_NONE_MATCH).is_some_and(matches) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        // A part of a file that has changed since is of no use to the client.
        let current = text(header::IF_RANGE).is_none_or(matches);
        let want = if current { wanted(&headers, info.size) } else { Wanted::All };
        // Devices and files of /proc have no size that can be told in advance.
        let sized = info.kind == FileKind::File && info.size > 0;
        match want {
            Wanted::Nothing => return Err(Problem::range_not_satisfiable(info.size)),
            Wanted::Part(part) if sized => {
                let len = part.end - part.start;
                let data = files.read_stream(path, part.start, Some(len)).await?;
                let mut response = begun(data).await?.into_response();
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                let range = format!("bytes {}-{}/{}", part.start, part.end - 1, info.size);
                set(&mut response, header::CONTENT_RANGE, &range);
                response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(len));
                response
            }
            _ => {
                let data = files.read_stream(path, 0, sized.then_some(info.size)).await?;
                let mut response = begun(data).await?.into_response();
                if sized {
                    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(info.size));
                }
                response
            }
        }
    };
    set(&mut response, header::CONTENT_TYPE, "application/octet-stream");
    set(&mut response, header::ACCEPT_RANGES, "bytes");
    if let Some(etag) = &etag {
        set(&mut response, header::ETAG, etag);
    }
    if let Some(at) = info.modified_at {
        set(&mut response, header::LAST_MODIFIED, &http_date(at));
    }
    Ok(response)
}

fn set(response: &mut Response, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// How to write a file.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WriteQuery {
    /// Absolute, or relative to the home directory.
    #[param(min_length = 1)]
    path: String,
    /// Permission bits of a new file, octal. Default: what the target's umask allows.
    #[serde(default)]
    #[param(nullable = false, example = "0644", pattern = "^0?[0-7]{1,4}$")]
    mode: Option<String>,
    /// Write after what is there. Excludes `atomic`.
    #[serde(default)]
    #[param(nullable = false)]
    append: Option<bool>,
    /// Make missing directories.
    #[serde(default)]
    #[param(nullable = false)]
    create_parents: Option<bool>,
    /// Replace the file in one step, or not at all. Default: true, unless `append`.
    #[serde(default)]
    #[param(nullable = false)]
    atomic: Option<bool>,
}

impl WriteQuery {
    fn options(&self) -> Result<WriteOptions, Problem> {
        let rule = "up to four octal digits, such as 0644";
        let mode = match self.mode.as_deref() {
            None => None,
            Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => {
                let mode = u32::from_str_radix(text, 8).ok().filter(|m| *m <= 0o7777);
                Some(mode.ok_or_else(|| Problem::invalid("mode", rule))?)
            }
            Some(_) => return Err(Problem::invalid("mode", rule)),
        };
        let append = self.append.unwrap_or(false);
        let atomic = self.atomic.unwrap_or(!append);
        if append && atomic {
            return Err(Problem::invalid("append", "off when atomic is on"));
        }
        Ok(WriteOptions::default()
            .with_mode(mode)
            .with_append(append)
            .with_create_parents(self.create_parents.unwrap_or(false))
            .with_atomic(atomic))
    }
}

/// A body as the core wants it; fails beyond the limit, and when the client breaks off.
fn upload(body: Body, limit: u64) -> ByteStream {
    let data = body.into_data_stream().map_err(|e| {
        Error::new(ErrorKind::Cancelled, "the client broke off").with_operation("upload").with_source(e)
    });
    let mut left = limit;
    data.map(move |piece: fleetcore::Result<Bytes>| {
        let piece = piece?;
        left = left.checked_sub(piece.len() as u64).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, TOO_LARGE)
                .with_operation("upload")
                .with_context("limit_bytes", limit)
        })?;
        Ok(piece)
    })
    .boxed()
}

/// Marks the one upload error that has a status of its own.
const TOO_LARGE: &str = "the upload is larger than allowed";

fn upload_failed(error: Error, limit: u64) -> Problem {
    if error.message() == TOO_LARGE { Problem::too_large(limit) } else { error.into() }
}

fn check_length(headers: &HeaderMap, limit: u64) -> Result<(), Problem> {
    match content_length(headers) {
        Some(len) if len > limit => Err(Problem::too_large(limit)),
        _ => Ok(()),
    }
}

/// Writes a file from the body.
#[utoipa::path(put, path = "/api/v1/targets/{target}/files", tag = "files",
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    params(("target" = String, Path, description = "Its name, percent-encoded as one segment", example = "local", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,2}$"), WriteQuery),
    responses((status = 200, description = "It was there before", body = FileInfo),
        (status = 201, description = "It is new", body = FileInfo)))]
pub(super) async fn write_file(
    CanFiles(actor): CanFiles,
    audit: Audit,
    State(app): State<App>,
    Path(target): Path<String>,
    Query(query): Query<WriteQuery>,
    headers: HeaderMap,
    body: Body,
) -> Reply<(StatusCode, Json<FileInfo>)> {
    let path = checked("path", &query.path)?;
    audit.about("file.write", format_args!("{target}:{path}"));
    let options = query.options()?;
    let limit = app.config().limits.upload_bytes;
    check_length(&headers, limit)?;
    let files = files(&app, &actor, &target).await?;
    let new = match files.stat(path).await {
        Ok(_) => false,
        Err(e) if e.kind() == ErrorKind::NotFound => true,
        Err(e) => return Err(e.into()),
    };
    // A small body is here already: one piece saves the writer from waiting.
    let data = match content_length(&headers) {
        Some(len) if len <= SMALL_BYTES => {
            let all = axum::body::to_bytes(body, SMALL_BYTES as usize).await;
            let all =
                all.map_err(|e| Problem::invalid("body", "sent completely").with_context("cause", e))?;
            stream::once(async move { Ok(all) }).boxed()
        }
        _ => upload(body, limit),
    };
    let info = files.write_stream(path, options, data).await.map_err(|e| upload_failed(e, limit))?;
    app.notices().files(&target, &[path]);
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(info.into())))
}

/// Bodies up to this size are collected before they are written.
const SMALL_BYTES: u64 = 256 << 10;

/// What to remove.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RemoveQuery {
    /// Absolute, or relative to the home directory.
    #[param(min_length = 1)]
    path: String,
    /// With everything in it.
    #[serde(default)]
    #[param(nullable = false)]
    recursive: Option<bool>,
}

/// Removes a file or directory.
#[utoipa::path(delete, path = "/api/v1/targets/{target}/files", tag = "files",
    params(("target" = String, Path, description = "Its name, percent-encoded as one segment", example = "local", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,2}$"), RemoveQuery),
    responses((status = 204, description = "It is gone")))]
pub(super) async fn remove_file(
    CanFiles(actor): CanFiles,
    audit: Audit,
    State(app): State<App>,
    Path(target): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> Reply<StatusCode> {
    let path = checked("path", &query.path)?;
    audit.about("file.remove", format_args!("{target}:{path}"));
    files(&app, &actor, &target).await?.remove(path, query.recursive.unwrap_or(false)).await?;
    app.notices().files(&target, &[path]);
    Ok(StatusCode::NO_CONTENT)
}

/// What a path is; links are followed.
#[utoipa::path(get, path = "/api/v1/targets/{target}/files/stat", tag = "files",
    params(("target" = String, Path, description = "Its name, percent-encoded as one segment", example = "local", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,2}$"), PathQuery),
    responses((status = 200, description = "This", body = FileInfo)))]
pub(super) async fn stat_file(
    CanFiles(actor): CanFiles,
    State(app): State<App>,
    Path(target): Path<String>,
    Query(query): Query<PathQuery>,
) -> Reply<Json<FileInfo>> {
    let path = checked("path", &query.path)?;
    Ok(Json(files(&app, &actor, &target).await?.stat(path).await?.into()))
}

/// Entries of a directory, by name.
#[utoipa::path(get, path = "/api/v1/targets/{target}/files/list", tag = "files",
    params(("target" = String, Path, description = "Its name, percent-encoded as one segment", example = "local", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,2}$"), PathQuery),
    responses((status = 200, description = "All of them", body = Items<FileInfo>)))]
pub(super) async fn list_files(
    CanFiles(actor): CanFiles,
    State(app): State<App>,
    Path(target): Path<String>,
    Query(query): Query<PathQuery>,
) -> Reply<Json<Items<FileInfo>>> {
    let path = checked("path", &query.path)?;
    let entries = files(&app, &actor, &target).await?.list(path).await?;
    Ok(Json(Items { items: entries.into_iter().map(FileInfo::from).collect() }))
}

/// Makes a directory and those above it.
#[utoipa::path(post, path = "/api/v1/targets/{target}/files/mkdir", tag = "files", request_body = MakeDir,
    params(("target" = String, Path, description = "Its name, percent-encoded as one segment", example = "local", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,2}$")),
    responses((status = 204, description = "It is there")))]
pub(super) async fn make_dir(
    CanFiles(actor): CanFiles,
    audit: Audit,
    State(app): State<App>,
    Path(target): Path<String>,
    Json(request): Json<MakeDir>,
) -> Reply<StatusCode> {
    let path = checked("path", &request.path)?;
    audit.about("file.mkdir", format_args!("{target}:{path}"));
    files(&app, &actor, &target).await?.create_dir(path).await?;
    app.notices().files(&target, &[path]);
    Ok(StatusCode::NO_CONTENT)
}

/// Renames a file or directory; an existing file is replaced.
#[utoipa::path(post, path = "/api/v1/targets/{target}/files/rename", tag = "files", request_body = Rename,
    params(("target" = String, Path, description = "Its name, percent-encoded as one segment", example = "local", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,2}$")),
    responses((status = 204, description = "Done")))]
pub(super) async fn rename_file(
    CanFiles(actor): CanFiles,
    audit: Audit,
    State(app): State<App>,
    Path(target): Path<String>,
    Json(request): Json<Rename>,
) -> Reply<StatusCode> {
    let (from, to) = (checked("from", &request.from)?, checked("to", &request.to)?);
    audit.about("file.rename", format_args!("{target}:{from} -> {to}"));
    files(&app, &actor, &target).await?.rename(from, to).await?;
    app.notices().files(&target, &[from, to]);
    Ok(StatusCode::NO_CONTENT)
}

/// A file or directory tree as tar.
#[utoipa::path(get, path = "/api/v1/targets/{target}/files/tar", tag = "files",
    params(("target" = String, Path, description = "Its name, percent-encoded as one segment", example = "local", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,2}$"), PathQuery),
    responses((status = 200, description = "The archive", body = Vec<u8>, content_type = "application/x-tar")))]
pub(super) async fn read_tar(
    CanFiles(actor): CanFiles,
    State(app): State<App>,
    Path(target): Path<String>,
    Query(query): Query<PathQuery>,
) -> Reply<Response> {
    let path = checked("path", &query.path)?;
    let files = files(&app, &actor, &target).await?;
    files.stat(path).await?;
    let data = files.read_tar(path).await?;
    let mut response = begun(data).await?.into_response();
    set(&mut response, header::CONTENT_TYPE, "application/x-tar");
    Ok(response)
}

/// Unpacks a tar stream into a directory.
#[utoipa::path(put, path = "/api/v1/targets/{target}/files/tar", tag = "files",
    request_body(content = Vec<u8>, content_type = "application/x-tar"),
    params(("target" = String, Path, description = "Its name, percent-encoded as one segment", example = "local", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,2}$"), PathQuery),
    responses((status = 200, description = "Unpacked", body = Unpacked)))]
pub(super) async fn write_tar(
    CanFiles(actor): CanFiles,
    audit: Audit,
    State(app): State<App>,
    Path(target): Path<String>,
    Query(query): Query<PathQuery>,
    headers: HeaderMap,
    body: Body,
) -> Reply<Json<Unpacked>> {
    let path = checked("path", &query.path)?;
    audit.about("file.unpack", format_args!("{target}:{path}"));
    let limit = app.config().limits.upload_bytes;
    check_length(&headers, limit)?;
    let files = files(&app, &actor, &target).await?;
    let entries = files.write_tar(path, upload(body, limit)).await.map_err(|e| upload_failed(e, limit))?;
    app.notices().files(&target, &[path]);
    Ok(Json(Unpacked { entries }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_what_http_wants() {
        assert_eq!(http_date(Timestamp::from_second(784_111_777).unwrap()), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
