//! Differences between two texts.

use std::{collections::HashMap, fmt::Write as _};

/// Texts with more lines than this are compared without what they share at both ends. Without that, the search for
/// the longest match looks at every pair of equal lines.
const TRIM_LINES: usize = 4096;

/// Lines that are found again in more than a hundredth of so long a text are not searched for, as in Python's
/// `difflib`: blank lines and braces say little about what belongs together.
const POPULAR_FROM: usize = 200;

/// A unified diff without context: `label` is the name in both headers. Empty if the texts are equal.
///
/// Texts are split at `\n`, so a text that ends in one has an empty last line, and the empty text is one empty line.
/// Which lines belong together is decided as Python's `difflib` does, which the tools of coding agents use: the longest
/// equal run first, then left and right of it.
pub fn unified_diff(before: &str, after: &str, label: &str) -> String {
    if before == after {
        return String::new();
    }
    let (old, new): (Vec<&str>, Vec<&str>) = (before.split('\n').collect(), after.split('\n').collect());
    let mut text = format!("--- {label}\n+++ {label}");
    let (mut i, mut j) = (0, 0);
    for block in blocks(&old, &new) {
        let (removed, added) = (old.get(i..block.old), new.get(j..block.new));
        if let (Some(removed), Some(added)) = (removed, added)
            && !(removed.is_empty() && added.is_empty())
        {
            let (from, to) = (range(i, removed.len()), range(j, added.len()));
            let _ = write!(text, "\n@@ -{from} +{to} @@");
            for (sign, lines) in [('-', removed), ('+', added)] {
                lines.iter().for_each(|line| text.extend(["\n", sign.encode_utf8(&mut [0; 4]), line]));
            }
        }
        (i, j) = (block.old + block.len, block.new + block.len);
    }
    text
}

/// As `diff -u` counts: from 1, the length unless it is 1, and an empty range by the line before it.
fn range(start: usize, len: usize) -> String {
    match len {
        1 => (start + 1).to_string(),
        0 => format!("{start},0"),
        _ => format!("{},{len}", start + 1),
    }
}

/// Equal lines in both texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Block {
    old: usize,
    new: usize,
    len: usize,
}

/// All equal blocks in order, and an empty one at the end.
fn blocks(old: &[&str], new: &[&str]) -> Vec<Block> {
    let (mut head, mut tail) = (0, 0);
    let shorter = old.len().min(new.len());
    if old.len().max(new.len()) > TRIM_LINES {
        head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
        tail =
            old.iter().rev().zip(new.iter().rev()).take(shorter - head).take_while(|(a, b)| a == b).count();
    }
    let middle = |lines: &'_ [&str]| head..lines.len() - tail;
    let (old_part, new_part) = (middle(old), middle(new));
    let mut found = vec![Block { old: 0, new: 0, len: head }];
    found.extend(
        Matcher::new(
            old.get(old_part.clone()).unwrap_or_default(),
            new.get(new_part.clone()).unwrap_or_default(),
        )
        .blocks()
        .into_iter()
        .map(|b| Block { old: b.old + head, new: b.new + head, len: b.len }),
    );
    found.push(Block { old: old_part.end, new: new_part.end, len: tail });
    found.push(Block { old: old.len(), new: new.len(), len: 0 });
    // Neighbours are one block, or an empty hunk would come between them; it is skipped above.
    found.retain(|b| b.len > 0 || b.old == old.len());
    found
}

struct Matcher<'a> {
    old: &'a [&'a str],
    new: &'a [&'a str],
    /// Where a line is in `new`, ascending. Without the popular ones.
    places: HashMap<&'a str, Vec<usize>>,
}

impl<'a> Matcher<'a> {
    fn new(old: &'a [&'a str], new: &'a [&'a str]) -> Self {
        let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
        for (at, line) in new.iter().enumerate() {
            places.entry(line).or_default().push(at);
        }
        if new.len() >= POPULAR_FROM {
            let limit = new.len() / 100 + 1;
            places.retain(|_, places| places.len() <= limit);
        }
        Self { old, new, places }
    }

    fn equal(&self, old: usize, new: usize) -> bool {
        self.old.get(old).is_some_and(|line| self.new.get(new) == Some(line))
    }

    /// The longest equal run within both ranges: of several, the first in `old`, then the first in `new`.
    fn longest(&self, old: (usize, usize), new: (usize, usize)) -> Block {
        let mut best = Block { old: old.0, new: new.0, len: 0 };
        // Lengths of the runs that end before each place of `new`.
        let mut lengths: HashMap<usize, usize> = HashMap::new();
        for (i, line) in self.old.iter().enumerate().take(old.1).skip(old.0) {
            let mut longer = HashMap::new();
            for &j in self.places.get(line).into_iter().flatten() {
                if j < new.0 {
                    continue;
                }
                if j >= new.1 {
                    break;
                }
                let len = j.checked_sub(1).and_then(|before| lengths.get(&before)).copied().unwrap_or(0) + 1;
                longer.insert(j, len);
                if len > best.len {
                    best = Block { old: i + 1 - len, new: j + 1 - len, len };
                }
            }
            lengths = longer;
        }
        // Over popular lines around it.
        while best.old > old.0 && best.new > new.0 && self.equal(best.old - 1, best.new - 1) {
            best = Block { old: best.old - 1, new: best.new - 1, len: best.len + 1 };
        }
        while best.old + best.len < old.1
            && best.new + best.len < new.1
            && self.equal(best.old + best.len, best.new + best.len)
        {
            best.len += 1;
        }
        best
    }

    fn blocks(&self) -> Vec<Block> {
        let mut todo = vec![((0, self.old.len()), (0, self.new.len()))];
        let mut found = Vec::new();
        while let Some((old, new)) = todo.pop() {
            let block = self.longest(old, new);
            if block.len == 0 {
                continue;
            }
            found.push(block);
            if old.0 < block.old && new.0 < block.new {
                todo.push(((old.0, block.old), (new.0, block.new)));
            }
            let (old_end, new_end) = (block.old + block.len, block.new + block.len);
            if old_end < old.1 && new_end < new.1 {
                todo.push(((old_end, old.1), (new_end, new.1)));
            }
        }
        found.sort_unstable();
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hunks_look_like_pythons() {
        let diff = |a, b| unified_diff(a, b, "f").replacen("--- f\n+++ f\n", "", 1);
        assert_eq!(unified_diff("", "x", "/a b"), "--- /a b\n+++ /a b\n@@ -1 +1 @@\n-\n+x");
        assert_eq!(diff("", "a\n"), "@@ -0,0 +1 @@\n+a");
        assert_eq!(diff("a\nb\nc\n", "a\nc\n"), "@@ -2 +1,0 @@\n-b");
        assert_eq!(diff("a\nb\nc\nd\n", "A\nb\nc\nD\ne\n"), "@@ -1 +1 @@\n-a\n+A\n@@ -4 +4,2 @@\n-d\n+D\n+e");
        // The longest run wins over the first: difflib gives this, a shortest edit script may not.
        assert_eq!(diff("x\na\nb", "a\nb\nx\na\nb\nc"), "@@ -0,0 +1,2 @@\n+a\n+b\n@@ -3,0 +6 @@\n+c");
        assert_eq!(unified_diff("same", "same", "f"), "");
    }

    /// Applies a diff without context.
    fn patched(before: &str, diff: &str) -> String {
        let mut old: Vec<&str> = before.split('\n').collect();
        let mut moved = 0_isize;
        let mut at = 0_usize;
        for line in diff.lines().skip(2) {
            if let Some(header) = line.strip_prefix("@@ -") {
                let (start, len) = header
                    .split(' ')
                    .next()
                    .unwrap()
                    .split_once(',')
                    .unwrap_or((header.split(' ').next().unwrap(), "1"));
                let start: isize = start.parse().unwrap();
                at = (start - isize::from(len != "0") + moved).try_into().unwrap();
            } else if let Some(gone) = line.strip_prefix('-') {
                assert_eq!(old.remove(at), gone);
                moved -= 1;
            } else if let Some(new) = line.strip_prefix('+') {
                old.insert(at, new);
                at += 1;
                moved += 1;
            }
        }
        old.join("\n")
    }

    proptest! {
        #[test]
        fn a_diff_makes_one_text_of_the_other(a in "[abc\n]{0,60}", b in "[abc\n]{0,60}") {
            prop_assert_eq!(patched(&a, &unified_diff(&a, &b, "f")), b);
        }
    }

    #[test]
    fn long_texts_differ_where_they_do() {
        let lines = |n: usize| (0..n).map(|i| format!("{}\n", i % 7)).collect::<String>();
        let before = lines(TRIM_LINES * 4);
        let after = before.replacen("3\n", "three\n", 1);
        assert_eq!(unified_diff(&before, &after, "f"), "--- f\n+++ f\n@@ -4 +4 @@\n-3\n+three");
    }
}
