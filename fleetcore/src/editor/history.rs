//! What can be taken back.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;

use super::Limits;

/// Earlier contents of files, newest last. Bounded per file and altogether; what is oldest goes first.
#[derive(Debug, Default)]
pub(super) struct History {
    files: HashMap<String, VecDeque<(u64, Bytes)>>,
    /// Whose turn it is to be dropped.
    order: BTreeMap<u64, String>,
    next: u64,
    bytes: usize,
}

/// What an entry costs beside its contents.
const OVERHEAD: usize = 256;

impl History {
    pub(super) fn push(&mut self, path: &str, contents: Bytes, limits: &Limits) {
        if self.files.get(path).is_some_and(|entries| entries.len() >= limits.undo_steps) {
            self.drop_oldest_of(path);
        }
        self.bytes += contents.len() + OVERHEAD;
        self.order.insert(self.next, path.to_owned());
        self.files.entry(path.to_owned()).or_default().push_back((self.next, contents));
        self.next += 1;
        while self.bytes > limits.undo_bytes {
            let Some((_, oldest)) = self.order.first_key_value() else { break };
            let oldest = oldest.clone();
            self.drop_oldest_of(&oldest);
        }
    }

    fn drop_oldest_of(&mut self, path: &str) {
        let entry = self.files.get_mut(path).and_then(VecDeque::pop_front);
        self.dropped(path, entry.as_ref());
    }

    fn dropped(&mut self, path: &str, entry: Option<&(u64, Bytes)>) {
        if let Some((number, contents)) = entry {
            self.order.remove(number);
            self.bytes -= contents.len() + OVERHEAD;
        }
        if self.files.get(path).is_some_and(VecDeque::is_empty) {
            self.files.remove(path);
        }
    }

    pub(super) fn last(&self, path: &str) -> Option<Bytes> {
        self.files.get(path)?.back().map(|(_, contents)| contents.clone())
    }

    pub(super) fn pop(&mut self, path: &str) {
        let entry = self.files.get_mut(path).and_then(VecDeque::pop_back);
        self.dropped(path, entry.as_ref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_first() {
        let limits = Limits { undo_steps: 2, undo_bytes: 3 * (OVERHEAD + 1), ..Limits::default() };
        let mut history = History::default();
        for n in ["1", "2", "3"] {
            history.push("a", Bytes::from(n), &limits);
        }
        assert_eq!(history.last("a").unwrap(), "3");
        history.push("b", Bytes::from("x"), &limits);
        history.push("b", Bytes::from("y"), &limits); // and the "2" of a has to go
        history.pop("a");
        assert_eq!((history.last("a"), history.files.len(), history.order.len()), (None, 1, 2));
        history.pop("b");
        history.pop("b");
        assert_eq!((history.bytes, history.files.len(), history.order.len()), (0, 0, 0));
    }

    #[test]
    fn what_is_larger_than_everything_is_not_kept() {
        let limits = Limits { undo_bytes: 10, ..Limits::default() };
        let mut history = History::default();
        history.push("a", Bytes::from("x"), &limits);
        assert_eq!((history.last("a"), history.bytes), (None, 0));
    }
}
