//! What viewing and editing give.

use super::Tree;

/// What [`Editor::view`](super::Editor::view) shows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Shown {
    /// A file, or some of its lines.
    File {
        /// With `\n` at the end of every line.
        text: String,
        /// Number of its first line, from 1.
        first_line: usize,
        /// Lines of the whole file.
        lines: usize,
        /// Whether lines behind the end were asked for.
        past_end: bool,
    },
    /// A directory.
    Directory(Tree),
}

/// A change that was made. Texts have `\n` at the end of every line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The text before; `None` if there was no file.
    pub before: Option<String>,
    /// The text now.
    pub after: String,
    /// The lines around the change, now. All of them after creating a file or taking something back.
    pub snippet: String,
    /// Number of the first line of `snippet`, from 1.
    pub first_line: usize,
}

impl Change {
    /// The change as a unified diff without context, see [`unified_diff`](super::unified_diff).
    pub fn diff(&self, label: &str) -> String {
        super::unified_diff(self.before.as_deref().unwrap_or_default(), &self.after, label)
    }
}
