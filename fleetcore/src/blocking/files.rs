//! Files, blocking.

use std::sync::Arc;

use bytes::Bytes;

use super::fleet::Engine;
use crate::{FileInfo, Result, WriteOptions};

/// Files of one machine. Errors as for [`crate::Files`].
#[derive(Clone, Debug)]
pub struct Files {
    files: crate::Files,
    engine: Arc<Engine>,
}

impl Files {
    pub(super) fn new(files: crate::Files, engine: Arc<Engine>) -> Self {
        Self { files, engine }
    }

    /// What a path is.
    pub fn stat(&self, path: &str) -> Result<FileInfo> {
        self.engine.run(self.files.stat(path))
    }

    /// A whole file of at most 64 MiB.
    pub fn read(&self, path: &str) -> Result<Bytes> {
        self.engine.run(self.files.read(path))
    }

    /// Writes a file.
    pub fn write(&self, path: &str, data: impl Into<Bytes>, opts: WriteOptions) -> Result<FileInfo> {
        self.engine.run(self.files.write(path, data, opts))
    }

    /// Entries of a directory, by name.
    pub fn list(&self, path: &str) -> Result<Vec<FileInfo>> {
        self.engine.run(self.files.list(path))
    }

    /// Makes a directory and those above it.
    pub fn create_dir(&self, path: &str) -> Result<()> {
        self.engine.run(self.files.create_dir(path))
    }

    /// Renames.
    pub fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.engine.run(self.files.rename(from, to))
    }

    /// Removes a file or directory.
    pub fn remove(&self, path: &str, recursive: bool) -> Result<()> {
        self.engine.run(self.files.remove(path, recursive))
    }
}
