//! A directory as an editor shows it.

use futures::{StreamExt, TryStreamExt, stream};

use crate::{FileInfo, FileKind, Files, Result};

/// Directories and links that are looked at together, so that a far machine is not asked one by one.
const AT_ONCE: usize = 16;

/// A directory two levels deep, without hidden entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// The directory itself and what is in it, in byte order of the paths.
    pub entries: Vec<TreeEntry>,
    /// Entries of the directory itself whose names begin with a dot.
    pub hidden: usize,
}

/// Something in a [`Tree`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TreeEntry {
    /// The path of the directory, a slash and the rest.
    pub path: String,
    /// Whether it is a directory, or a link to one.
    pub is_dir: bool,
}

/// Reads a directory. Links to directories are followed; what cannot be read within it is shown without its contents.
pub(super) async fn read(files: &Files, path: &str) -> Result<Tree> {
    let top = children(files, path, files.list(path).await?).await?;
    let mut tree = Tree { entries: top.entries, hidden: top.hidden };
    let dirs: Vec<String> = tree.entries.iter().filter(|e| e.is_dir).map(|e| e.path.clone()).collect();
    let mut below = stream::iter(dirs.into_iter().map(|dir| async move {
        let Ok(list) = files.list(&dir).await else { return Ok(Vec::new()) };
        children(files, &dir, list).await.map(|tree| tree.entries)
    }))
    .buffer_unordered(AT_ONCE);
    while let Some(entries) = below.try_next().await? {
        tree.entries.extend(entries);
    }
    drop(below);
    tree.entries.push(TreeEntry { path: path.to_owned(), is_dir: true });
    tree.entries.sort_unstable();
    Ok(tree)
}

/// The entries of one directory.
async fn children(files: &Files, dir: &str, list: Vec<FileInfo>) -> Result<Tree> {
    let (hidden, visible): (Vec<_>, Vec<_>) = list.into_iter().partition(|entry| entry.path.starts_with('.'));
    let dir = if dir == "/" { "" } else { dir };
    let entries = stream::iter(visible.into_iter().map(|entry| async move {
        let path = format!("{dir}/{}", entry.path);
        let is_dir = match entry.kind {
            FileKind::Symlink => files.stat(&path).await.is_ok_and(|target| target.kind == FileKind::Dir),
            kind => kind == FileKind::Dir,
        };
        TreeEntry { path, is_dir }
    }))
    .buffer_unordered(AT_ONCE)
    .collect()
    .await;
    Ok(Tree { entries, hidden: hidden.len() })
}
