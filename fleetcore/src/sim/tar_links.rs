//! Where the symbolic links of a tar stream are, so that nothing in the stream goes through one.
//!
//! Links are judged by their names. That is only right while a name is where it seems to be: after `l -> .` the
//! link `l/up -> ../x` is one level higher than it looks, and leads out.

use std::{
    collections::HashSet,
    hash::{BuildHasher, Hasher, RandomState},
};

/// The rule that [`LinkPaths::on_the_way`] enforces.
pub(crate) const NOT_THROUGH: &str = "a path that does not go through a symbolic link of the same stream";
/// The rule that [`LinkPaths::on_the_way_or_at`] enforces.
pub(crate) const NOT_LINKED: &str =
    "a hard link to a file, not to or through a symbolic link of the same stream";

/// Paths of the symbolic links taken in so far, as sequences of names without `.` and empty ones.
///
/// Kept as keyed hashes of eight bytes: the readers' limits on entries bound the memory, however long the paths
/// are. A collision could only refuse a good entry, never accept a bad one.
#[derive(Debug, Default)]
pub(crate) struct LinkPaths {
    keys: RandomState,
    taken: HashSet<u64>,
}

impl LinkPaths {
    /// One hash for each prefix, the whole path last.
    fn prefixes<'a>(&self, names: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = u64> {
        let mut hasher = self.keys.build_hasher();
        names.map(move |name| {
            hasher.write(name);
            hasher.write_u8(b'/'); // in no name
            hasher.finish()
        })
    }

    /// Takes in the link at this path.
    pub(crate) fn add<'a>(&mut self, names: impl Iterator<Item = &'a [u8]>) {
        let whole = self.prefixes(names).last();
        self.taken.extend(whole);
    }

    /// Whether a link is above this path: a proper prefix of it.
    pub(crate) fn on_the_way<'a>(&self, names: impl Iterator<Item = &'a [u8]>) -> bool {
        let mut prefixes = self.prefixes(names).peekable();
        while let Some(prefix) = prefixes.next() {
            if prefixes.peek().is_some() && self.taken.contains(&prefix) {
                return true;
            }
        }
        false
    }

    /// As [`on_the_way`](Self::on_the_way), or a link is this path itself.
    pub(crate) fn on_the_way_or_at<'a>(&self, names: impl Iterator<Item = &'a [u8]>) -> bool {
        self.prefixes(names).any(|prefix| self.taken.contains(&prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &str) -> impl Iterator<Item = &[u8]> {
        path.split('/').map(str::as_bytes)
    }

    #[test]
    fn only_whole_names_of_proper_prefixes_count() {
        let mut links = LinkPaths::default();
        links.add(names("a/bc"));
        for (path, way, at) in [
            ("a/bc/d", true, true),
            ("a/bc/d/e", true, true),
            ("a/bc", false, true),
            ("a", false, false),
            ("a/b/c", false, false),
            ("a/bcd/e", false, false),
            ("bc/d", false, false),
        ] {
            assert_eq!(
                (links.on_the_way(names(path)), links.on_the_way_or_at(names(path))),
                (way, at),
                "{path}"
            );
        }
    }
}
