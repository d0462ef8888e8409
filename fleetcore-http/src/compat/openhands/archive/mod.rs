//! Directories as zip files: `GET /download_files` and `POST /upload_file`.
//!
//! Neither way keeps a tree in memory or on disk twice. Downloads are written while they are sent; uploaded archives wait
//! in an unnamed temporary file of the server, since the table of contents of a zip file is at its end.

mod download;
mod format;
mod refuse;
mod unpack;
mod upload;

pub(super) use download::download;
pub(super) use upload::upload;
