//! Tools for files.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use fleetcore::{Error, ErrorKind, FileInfo, FileKind, Result, WriteOptions};
use futures::StreamExt as _;
use serde_json::{Value, json};

use super::{
    answer::{json_of, readable},
    args,
    call::{Call, bytes, given_up},
};
use crate::client::{Tail, wire};

/// Bytes of a file unless the call says otherwise, and most of them.
const READ_BYTES: (usize, usize) = (64 << 10, 1 << 20);
/// Most entries of a directory in one answer.
const ENTRIES: usize = 2000;

fn describe(info: &FileInfo) -> Result<Value> {
    json_of(&wire::File::from(info))
}

/// `file_read`
pub(super) async fn read(call: &Call, args: args::ReadFile) -> Result<Value> {
    let target = call.target(&args.target)?;
    let most = bytes("max_bytes", args.max_bytes, READ_BYTES.0, READ_BYTES.1)?.max(1);
    let files = call.client.files(&target);
    let info = files.stat(&args.path).await?;
    if info.kind == FileKind::Dir {
        return Err(Error::new(ErrorKind::InvalidState, "this is a directory")
            .with_operation("mcp.file_read")
            .with_context("path", &args.path)
            .with_context("hint", "file_list lists it"));
    }
    let part = Tail { offset: args.offset, len: Some(most as u64) };
    let mut data = Vec::new();
    let reading = async {
        let mut parts = files.read(&args.path, part).await?;
        while let Some(part) = parts.next().await {
            data.extend_from_slice(&part?);
        }
        Ok::<(), Error>(())
    };
    match call.wait(reading).await {
        Some(read) => read?,
        None => return Err(given_up()),
    }
    data.truncate(most);
    // The size of a link is not that of the file, and some files have none, such as those of /proc.
    let size = Some(info.size).filter(|size| info.kind == FileKind::File && *size > 0);
    let end = args.offset + data.len() as u64;
    let more = data.len() == most && size.is_none_or(|size| end < size);
    let (content, encoding, used) = readable(&data, more);
    Ok(json!({
        "path": args.path,
        "size": size,
        "offset": args.offset,
        "next_offset": args.offset + used as u64,
        "eof": !more && used == data.len(),
        "encoding": encoding,
        "content": content,
    }))
}

/// `file_write`
pub(super) async fn write(call: &Call, args: args::WriteFile) -> Result<Value> {
    let target = call.target(&args.target)?;
    let data = match args.encoding {
        Some(args::Encoding::Base64) => BASE64_STANDARD
            .decode(args.content.trim())
            .map_err(|e| Error::invalid("content", "base64, as encoding says").with_source(e))?,
        _ => args.content.into_bytes(),
    };
    let mut options = if args.append { WriteOptions::default() } else { WriteOptions::atomic() };
    options.append = args.append;
    options.create_parents = args.create_parents;
    options.mode = args
        .mode
        .map(|m| u32::from_str_radix(&m, 8).ok().filter(|m| *m <= 0o7777))
        .map(|m| m.ok_or_else(|| Error::invalid("mode", "permission bits in octal, such as 0644")))
        .transpose()?;
    let data = futures::stream::once(async move { Ok(Bytes::from(data)) }).boxed();
    describe(&call.client.files(&target).write(&args.path, options, data).await?)
}

/// `file_list`
pub(super) async fn list(call: &Call, args: args::ThePath) -> Result<Value> {
    let target = call.target(&args.target)?;
    let all = call.client.files(&target).list(&args.path).await?;
    let entries = all.iter().take(ENTRIES).map(describe).collect::<Result<Vec<_>>>()?;
    Ok(json!({ "path": args.path, "entries": entries, "total": all.len(), "truncated": all.len() > ENTRIES }))
}

/// `file_stat`
pub(super) async fn stat(call: &Call, args: args::ThePath) -> Result<Value> {
    let target = call.target(&args.target)?;
    describe(&call.client.files(&target).stat(&args.path).await?)
}

/// `file_mkdir`
pub(super) async fn mkdir(call: &Call, args: args::ThePath) -> Result<Value> {
    let target = call.target(&args.target)?;
    call.client.files(&target).create_dir(&args.path).await?;
    Ok(json!({ "path": args.path, "made": true }))
}

/// `file_remove`
pub(super) async fn remove(call: &Call, args: args::RemovePath) -> Result<Value> {
    let target = call.target(&args.target)?;
    call.client.files(&target).remove(&args.path, args.recursive).await?;
    Ok(json!({ "path": args.path, "removed": true }))
}

/// `file_rename`
pub(super) async fn rename(call: &Call, args: args::RenamePath) -> Result<Value> {
    let target = call.target(&args.target)?;
    call.client.files(&target).rename(&args.from, &args.to).await?;
    Ok(json!({ "from": args.from, "to": args.to, "renamed": true }))
}
