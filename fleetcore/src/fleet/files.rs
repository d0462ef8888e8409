//! Files of one machine.

use std::{fmt, sync::Arc};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};

use crate::{ByteStream, Error, ErrorKind, FileInfo, FileSystem, OpContext, Owner, Result, WriteOptions};

/// Largest file `Files::read` takes into memory. Larger ones are for `Files::read_stream`.
const READ_MAX_BYTES: usize = 64 << 20;

/// Files of one machine. Paths are absolute or relative to the home directory there.
#[derive(Clone)]
pub struct Files {
    files: Arc<dyn FileSystem>,
    cx: OpContext,
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Files").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Files {
    pub(super) fn new(files: Arc<dyn FileSystem>) -> Self {
        Self { files, cx: OpContext::default() }
    }

    /// The same files with deadline, cancellation and actor of `cx` for every call.
    #[must_use]
    pub fn with_context(mut self, cx: OpContext) -> Self {
        self.cx = cx;
        self
    }

    /// What a path is; links are followed.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`.
    pub async fn stat(&self, path: &str) -> Result<FileInfo> {
        self.cx.guard("stat", self.files.stat(&self.cx, path)).await
    }

    /// A whole file of at most 64 MiB.
    ///
    /// # Errors
    /// `InvalidInput` when it is larger; `NotFound`, `PermissionDenied`, `InvalidState` for a directory.
    pub async fn read(&self, path: &str) -> Result<Bytes> {
        let mut stream = self.read_stream(path, 0, None).await?;
        let mut all = BytesMut::new();
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            if all.len() + piece.len() > READ_MAX_BYTES {
                return Err(Error::new(
                    ErrorKind::InvalidInput,
                    "the file is too large to read at once; stream it",
                )
                .with_operation("read")
                .with_context("path", path)
                .with_context("limit_bytes", READ_MAX_BYTES));
            }
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }

    /// Bytes from `offset` on, at most `len`.
    ///
    /// # Errors
    /// As for [`stat`](Self::stat); errors while reading come as the last item.
    pub async fn read_stream(&self, path: &str, offset: u64, len: Option<u64>) -> Result<ByteStream> {
        self.cx.guard("read", self.files.read(&self.cx, path, offset, len)).await
    }

    /// Writes a file from memory.
    ///
    /// # Errors
    /// `NotFound` when the directory is missing, `PermissionDenied`, `Unavailable` when the disk is full.
    pub async fn write(&self, path: &str, data: impl Into<Bytes>, opts: WriteOptions) -> Result<FileInfo> {
        let data = data.into();
        self.write_stream(path, opts, stream::once(async { Ok(data) }).boxed()).await
    }

    /// Writes a file from a stream. See [`WriteOptions::atomic`] for what happens when it breaks off.
    ///
    /// # Errors
    /// As for [`write`](Self::write), and those of the stream.
    pub async fn write_stream(&self, path: &str, opts: WriteOptions, data: ByteStream) -> Result<FileInfo> {
        if opts.append && opts.atomic {
            return Err(Error::invalid("append", "off when atomic is on"));
        }
        self.cx.guard("write", self.files.write(&self.cx, path, opts, data)).await
    }

    /// Entries of a directory, by name.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`, `InvalidState` when it is not a directory.
    pub async fn list(&self, path: &str) -> Result<Vec<FileInfo>> {
        self.cx.guard("list", self.files.list(&self.cx, path)).await
    }

    /// Makes a directory and those above it.
    ///
    /// # Errors
    /// `PermissionDenied`, `AlreadyExists` when a file is in the way.
    pub async fn create_dir(&self, path: &str) -> Result<()> {
        self.cx.guard("create dir", self.files.create_dir(&self.cx, path)).await
    }

    /// Gives a file or directory to somebody else; links are followed.
    ///
    /// # Errors
    /// `PermissionDenied`: mostly only root may; `NotFound`; `Unsupported` where the backend has no owners.
    pub async fn set_owner(&self, path: &str, owner: Owner) -> Result<()> {
        self.cx.guard("set owner", self.files.set_owner(&self.cx, path, owner)).await
    }

    /// Renames; replaces an existing file.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`.
    pub async fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.cx.guard("rename", self.files.rename(&self.cx, from, to)).await
    }

    /// Removes a file or directory.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`, `InvalidState` for a directory with contents unless `recursive`.
    pub async fn remove(&self, path: &str, recursive: bool) -> Result<()> {
        self.cx.guard("remove", self.files.remove(&self.cx, path, recursive)).await
    }

    /// A file or tree as an uncompressed tar stream.
    ///
    /// # Errors
    /// As for [`stat`](Self::stat), and `RateLimited`, temporary, when too many tar streams are open; errors on the
    /// way come as the last item.
    pub async fn read_tar(&self, path: &str) -> Result<ByteStream> {
        self.cx.guard("read tar", self.files.read_tar(&self.cx, path)).await
    }

    /// Unpacks an uncompressed tar stream into a directory; returns the number of entries.
    ///
    /// # Errors
    /// `InvalidInput` for entries that would leave the directory, and devices; for symbolic links that lead out or
    /// have `..` behind a name in their target; for entries whose path goes through a symbolic link of the same
    /// stream, and hard links to or through one. The error names the entry (`entry`) and the rule (`rule`).
    /// `RateLimited`, temporary, when too many tar streams are open.
    pub async fn write_tar(&self, path: &str, data: ByteStream) -> Result<u64> {
        self.cx.guard("write tar", self.files.write_tar(&self.cx, path, data)).await
    }
}
