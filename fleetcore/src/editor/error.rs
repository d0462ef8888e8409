//! Why an edit was not made.

use super::Charset;
use crate::{Error, ErrorKind};

/// Why a file was not shown or changed. Nothing has been written then, unless it is a `Files` error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// There is no such file.
    #[error("the file does not exist")]
    NotFound,
    /// Something of that name is there already, so it cannot be created.
    #[error("the file exists already")]
    Exists,
    /// It is a directory, which can only be viewed.
    #[error("it is a directory")]
    IsDirectory,
    /// It is a device, socket or FIFO.
    #[error("it is not a regular file")]
    NotAFile,
    /// It is larger than [`Limits::file_bytes`](super::Limits::file_bytes).
    #[error("the file has {bytes} bytes, more than {limit}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The most that is edited.
        limit: u64,
    },
    /// It is not text, see [`is_binary`](super::is_binary).
    #[error("the file is binary")]
    Binary,
    /// It is text, but damaged: half characters in UTF-16.
    #[error("the text of the file is damaged")]
    Undecodable,
    /// A character was to be added that the encoding of the file does not have.
    #[error("{character:?} cannot be written in {}", charset.name())]
    Unencodable {
        /// The first such character.
        character: char,
        /// How the file is stored.
        charset: Charset,
    },
    /// The text to replace is not in the file.
    #[error("the text to replace is not in the file")]
    NoMatch {
        /// What was searched for last: without white space around it.
        searched: String,
    },
    /// The text to replace is in the file more than once.
    #[error("the text to replace is in the file {} times or more", lines.len())]
    Ambiguous {
        /// What was searched for.
        searched: String,
        /// Lines where it begins, ascending.
        lines: Vec<usize>,
    },
    /// A line was named that is not there.
    #[error("the file has {lines} lines")]
    OutOfRange {
        /// How many there are.
        lines: usize,
    },
    /// The last line to show is before the first.
    #[error("the last line is before the first")]
    Reversed,
    /// Lines of a directory were asked for.
    #[error("a directory has no lines")]
    NoLines,
    /// Nothing was done to the file, or it was taken back already.
    #[error("there is nothing to take back")]
    NoHistory,
    /// Reading failed.
    #[error("reading failed: {0}")]
    Read(#[source] Error),
    /// Writing failed.
    #[error("writing failed: {0}")]
    Write(#[source] Error),
}

impl From<EditError> for Error {
    fn from(err: EditError) -> Self {
        let kind = match &err {
            EditError::NotFound => ErrorKind::NotFound,
            EditError::Exists => ErrorKind::AlreadyExists,
            EditError::IsDirectory | EditError::NotAFile | EditError::NoHistory => ErrorKind::InvalidState,
            EditError::Undecodable => ErrorKind::DataLoss,
            EditError::Read(e) | EditError::Write(e) => e.kind(),
            _ => ErrorKind::InvalidInput,
        };
        Self::new(kind, err.to_string()).with_operation("edit").with_source(err)
    }
}
