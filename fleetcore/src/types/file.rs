//! Files on a machine.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Kind of a directory entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Symbolic link, not followed.
    Symlink,
    /// Device, socket or FIFO.
    Other,
}

/// One file or directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FileInfo {
    /// The path as it was asked for; in a listing, the name of the entry.
    pub path: String,
    /// What it is.
    pub kind: FileKind,
    /// Size in bytes.
    pub size: u64,
    /// Permission bits (the low 12 bits of `st_mode`).
    pub mode: Option<u32>,
    /// Last change of the contents.
    pub modified_at: Option<Timestamp>,
}

impl FileInfo {
    /// An entry with the facts every file system knows.
    pub fn new(path: impl Into<String>, kind: FileKind, size: u64) -> Self {
        Self { path: path.into(), kind, size, mode: None, modified_at: None }
    }
}

/// Whose a file is, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// How to write a file. The default truncates an existing file and needs the directory to exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct WriteOptions {
    /// Permission bits of a new file.
    pub mode: Option<u32>,
    /// Keep what is there and write after it. Excludes `atomic`.
    pub append: bool,
    /// Make missing directories.
    pub create_parents: bool,
    /// Write to a temporary name in the same directory, then rename: readers see the old file or the new one.
    pub atomic: bool,
    /// With `atomic`: change nothing but the contents. Where a rename would do more than that, the file is written in
    /// place instead: when it has other names (hard links), when its owner could not be kept, when the directory
    /// takes no new file, and when it is a symbolic link to nothing yet. Backends that cannot tell write atomically.
    pub keep_links: bool,
}

impl WriteOptions {
    /// Atomic replacement.
    pub fn atomic() -> Self {
        Self { atomic: true, ..Self::default() }
    }

    /// Sets the permission bits of a new file.
    #[must_use]
    pub fn with_mode(mut self, mode: Option<u32>) -> Self {
        self.mode = mode;
        self
    }

    /// Sets whether to write after what is there.
    #[must_use]
    pub fn with_append(mut self, append: bool) -> Self {
        self.append = append;
        self
    }

    /// Sets whether missing directories are made.
    #[must_use]
    pub fn with_create_parents(mut self, create: bool) -> Self {
        self.create_parents = create;
        self
    }

    /// Sets whether a file with other names is written in place, although `atomic`.
    #[must_use]
    pub fn with_keep_links(mut self, keep: bool) -> Self {
        self.keep_links = keep;
        self
    }

    /// Sets whether the file is replaced in one step.
    #[must_use]
    pub fn with_atomic(mut self, atomic: bool) -> Self {
        self.atomic = atomic;
        self
    }
}
