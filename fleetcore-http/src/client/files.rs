//! Files of a target.

use async_trait::async_trait;
use fleetcore::{ByteStream, FileInfo, FileSystem, OpContext, Result, Target, WriteOptions};
use futures::{StreamExt as _, TryStreamExt as _};
use reqwest::{Body, Method, RequestBuilder, header};
use serde_json::json;

use super::{
    Client, problem,
    wire::{self, Entries, Page},
};

/// Which bytes of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// First byte.
    pub offset: u64,
    /// How many at most; `None` means to the end.
    pub len: Option<u64>,
}

/// Files of one target of a server.
#[derive(Clone, Debug)]
pub struct RemoteFiles {
    client: Client,
    target: String,
}

impl Client {
    /// Files of a target. Nothing is sent yet.
    pub fn files(&self, target: &Target) -> RemoteFiles {
        RemoteFiles { client: self.clone(), target: target.to_string() }
    }
}

impl RemoteFiles {
    fn request(&self, method: Method, more: &[&str]) -> RequestBuilder {
        let mut path = vec!["api", "v1", "targets", &self.target, "files"];
        path.extend(more);
        self.client.request(method, &path)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`; `InvalidState` for a directory.
    pub async fn read(&self, path: &str, part: Tail) -> Result<ByteStream> {
        const OP: &str = "client.files_read";
        let mut request = self.request(Method::GET, &[]).query(&[("path", path)]);
        if part.len == Some(0) {
            // HTTP has no empty range; still find out whether the file is there.
            self.stat(path).await?;
            return Ok(futures::stream::empty().boxed());
        }
        if part != Tail::default() {
            let last = part.len.map(|n| (part.offset.saturating_add(n) - 1).to_string()).unwrap_or_default();
            request = request.header(header::RANGE, format!("bytes={}-{last}", part.offset));
        }
        let answer = self.client.answer(OP, request).await?;
        let status = answer.status();
        if status.as_u16() == 416 {
            return Ok(futures::stream::empty().boxed());
        }
        if !status.is_success() {
            let body = answer.bytes().await.unwrap_or_default();
            return Err(problem::error(OP, Some(status), &body));
        }
        Ok(answer.bytes_stream().map_err(|e| problem::transport(OP, e)).boxed())
    }

    /// Writes a file. When `data` fails, an atomic write leaves the old file.
    ///
    /// # Errors
    /// `NotFound` for the directory, `PermissionDenied`; errors of `data`.
    pub async fn write(&self, path: &str, options: WriteOptions, data: ByteStream) -> Result<FileInfo> {
        let mut query = vec![("path", path.to_owned())];
        query.extend(options.mode.map(|m| ("mode", format!("{m:04o}"))));
        query.push(("append", options.append.to_string()));
        query.push(("create_parents", options.create_parents.to_string()));
        query.push(("atomic", options.atomic.to_string()));
        let request = self.request(Method::PUT, &[]).query(&query).body(Body::wrap_stream(data));
        let file: wire::File = self.client.json("client.files_write", request).await?;
        Ok(file.into())
    }

    /// What a path is.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`.
    pub async fn stat(&self, path: &str) -> Result<FileInfo> {
        let request = self.request(Method::GET, &["stat"]).query(&[("path", path)]);
        let file: wire::File = self.client.json("client.files_stat", request).await?;
        Ok(file.into())
    }

    /// Entries of a directory by name.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`; `InvalidState` for a file.
    pub async fn list(&self, path: &str) -> Result<Vec<FileInfo>> {
        let request = self.request(Method::GET, &["list"]).query(&[("path", path)]);
        let page: Page<wire::File> = self.client.json("client.files_list", request).await?;
        Ok(page.items.into_iter().map(FileInfo::from).collect())
    }

    /// Makes a directory and those above it.
    ///
    /// # Errors
    /// `PermissionDenied`.
    pub async fn create_dir(&self, path: &str) -> Result<()> {
        let request = self.request(Method::POST, &["mkdir"]).json(&json!({ "path": path }));
        self.client.no_answer("client.files_mkdir", request).await
    }

    /// Renames.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`.
    pub async fn rename(&self, from: &str, to: &str) -> Result<()> {
        let request = self.request(Method::POST, &["rename"]).json(&json!({ "from": from, "to": to }));
        self.client.no_answer("client.files_rename", request).await
    }

    /// Removes.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`; `InvalidState` for a directory that is not empty, unless `recursive`.
    pub async fn remove(&self, path: &str, recursive: bool) -> Result<()> {
        let request =
            self.request(Method::DELETE, &[]).query(&[("path", path)]).query(&[("recursive", recursive)]);
        self.client.no_answer("client.files_remove", request).await
    }

    /// A file or tree as an uncompressed tar stream.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`.
    pub async fn read_tar(&self, path: &str) -> Result<ByteStream> {
        const OP: &str = "client.files_read_tar";
        let answer =
            self.client.send(OP, self.request(Method::GET, &["tar"]).query(&[("path", path)])).await?;
        Ok(answer.bytes_stream().map_err(|e| problem::transport(OP, e)).boxed())
    }

    /// Unpacks a tar stream into a directory; returns the number of entries.
    ///
    /// # Errors
    /// `InvalidInput` for entries that lead out of the directory; errors of `data`.
    pub async fn write_tar(&self, path: &str, data: ByteStream) -> Result<u64> {
        let request =
            self.request(Method::PUT, &["tar"]).query(&[("path", path)]).body(Body::wrap_stream(data));
        let answer: Entries = self.client.json("client.files_write_tar", request).await?;
        Ok(answer.entries)
    }
}

#[async_trait]
impl FileSystem for RemoteFiles {
    async fn stat(&self, cx: &OpContext, path: &str) -> Result<FileInfo> {
        cx.guard("client.files_stat", Self::stat(self, path)).await
    }
    async fn read(&self, cx: &OpContext, path: &str, offset: u64, len: Option<u64>) -> Result<ByteStream> {
        cx.guard("client.files_read", Self::read(self, path, Tail { offset, len })).await
    }
    async fn write(
        &self,
        cx: &OpContext,
        path: &str,
        opts: WriteOptions,
        data: ByteStream,
    ) -> Result<FileInfo> {
        cx.guard("client.files_write", Self::write(self, path, opts, data)).await
    }
    async fn list(&self, cx: &OpContext, path: &str) -> Result<Vec<FileInfo>> {
        cx.guard("client.files_list", Self::list(self, path)).await
    }
    async fn create_dir(&self, cx: &OpContext, path: &str) -> Result<()> {
        cx.guard("client.files_mkdir", Self::create_dir(self, path)).await
    }
    async fn rename(&self, cx: &OpContext, from: &str, to: &str) -> Result<()> {
        cx.guard("client.files_rename", Self::rename(self, from, to)).await
    }
    async fn remove(&self, cx: &OpContext, path: &str, recursive: bool) -> Result<()> {
        cx.guard("client.files_remove", Self::remove(self, path, recursive)).await
    }
    async fn read_tar(&self, cx: &OpContext, path: &str) -> Result<ByteStream> {
        cx.guard("client.files_read_tar", Self::read_tar(self, path)).await
    }
    async fn write_tar(&self, cx: &OpContext, path: &str, data: ByteStream) -> Result<u64> {
        cx.guard("client.files_write_tar", Self::write_tar(self, path, data)).await
    }
}
