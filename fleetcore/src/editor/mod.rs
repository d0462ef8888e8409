//! The text editor of coding agents: view, create, replace a piece, insert lines, take it back.
//!
//! Works on any machine, through its [`Files`](crate::Files). Bytes that were not edited are never changed: encoding,
//! byte order mark and line ends stay, and so do mode, owner and links of the file. What is shown has `\n` at the end
//! of every line, whatever the file has.
//!
//! ```
//! # #[cfg(feature = "local")] {
//! # tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
//! use fleetcore::{Fleet, editor::{Editor, EditError}};
//!
//! let dir = tempfile::tempdir()?;
//! let path = dir.path().join("hello.txt").display().to_string();
//! let editor = Editor::new(Fleet::local().machine("local")?.files().await?);
//! editor.create(&path, "one\ntwo\n").await?;
//! let change = editor.replace(&path, "two", "2").await?;
//! assert_eq!((change.after.as_str(), change.first_line), ("one\n2\n", 1));
//! assert!(matches!(editor.replace(&path, "three", "3").await, Err(EditError::NoMatch { .. })));
//! editor.undo(&path).await?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! # }
//! ```

mod binary;
mod change;
mod diff;
mod document;
mod error;
mod history;
mod ops;
#[cfg(test)]
#[cfg(feature = "local")]
mod tests;
mod tree;

pub use binary::{HEAD_BYTES, is_binary};
pub use change::{Change, Shown};
pub use diff::unified_diff;
pub use document::{Charset, Document};
pub use error::EditError;
pub use ops::{Editor, Limits};
pub use tree::{Tree, TreeEntry};
