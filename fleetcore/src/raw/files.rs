//! Files on one machine.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use super::OpContext;
use crate::{Error, FileInfo, Owner, Result, WriteOptions};

/// A stream of bytes. An `Err` is the last item.
pub type ByteStream = BoxStream<'static, Result<Bytes>>;

/// Files on one machine. Paths are absolute or relative to the executor's home; where a root is set, nothing
/// outside it can be reached, not even through a symbolic link.
#[async_trait]
pub trait FileSystem: Send + Sync + fmt::Debug + 'static {
    /// What a path is; symbolic links are followed.
    async fn stat(&self, cx: &OpContext, path: &str) -> Result<FileInfo>;
    /// Reads from byte `offset`, at most `len` bytes. Reading past the end gives an empty stream.
    async fn read(&self, cx: &OpContext, path: &str, offset: u64, len: Option<u64>) -> Result<ByteStream>;
    /// Writes a file. When `data` fails or the call is dropped, an atomic write leaves the old file untouched and
    /// no temporary file.
    async fn write(
        &self,
        cx: &OpContext,
        path: &str,
        opts: WriteOptions,
        data: ByteStream,
    ) -> Result<FileInfo>;
    /// Entries of a directory by name; `path` of each is its name.
    async fn list(&self, cx: &OpContext, path: &str) -> Result<Vec<FileInfo>>;
    /// Makes a directory and those above it; an existing one is fine.
    async fn create_dir(&self, cx: &OpContext, path: &str) -> Result<()>;
    /// Gives a file or directory to somebody else; symbolic links are followed. Where the backend has no such thing,
    /// `Unsupported`; mostly only root may, so `PermissionDenied` is common.
    async fn set_owner(&self, _cx: &OpContext, _path: &str, _owner: Owner) -> Result<()> {
        Err(Error::unsupported("set_owner"))
    }
    /// Renames; replaces an existing file.
    async fn rename(&self, cx: &OpContext, from: &str, to: &str) -> Result<()>;
    /// Removes a file, or a directory: an empty one, or with all in it when `recursive`. `NotFound` if absent.
    async fn remove(&self, cx: &OpContext, path: &str, recursive: bool) -> Result<()>;
    /// A file or directory tree as an uncompressed tar stream; entry names are relative to `path`.
    /// `RateLimited` and temporary when a backend has too many such streams open.
    async fn read_tar(&self, cx: &OpContext, path: &str) -> Result<ByteStream>;
    /// Unpacks an uncompressed tar stream into directory `path`, which is made if missing. Entries that are
    /// absolute, climb out with `..`, or are devices are `InvalidInput`; nothing after them is written. So are links
    /// that lead out, or whose target has `..` behind a name, and whatever relies on where another link of the same
    /// stream leads: entries with the path of a symbolic link as a proper prefix, and hard links to or through one.
    /// The error names the entry and the rule.
    /// Returns the number of entries.
    async fn write_tar(&self, cx: &OpContext, path: &str, data: ByteStream) -> Result<u64>;
}
