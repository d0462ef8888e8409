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

    /// `(old, new, diff)`, a letter for a line, as Python 3.13 gave them.
    const RECORDED: [(&str, &str, &str); 12] = [
        ("abcaa", "cabcacaaa", "@@ -0,0 +1 @@\n+c\n@@ -4,0 +6 @@\n+c\n@@ -5,0 +8,2 @@\n+a\n+a"),
        ("ccaccbaa", "cab", "@@ -1 +0,0 @@\n-c\n@@ -4,2 +2,0 @@\n-c\n-c\n@@ -7,2 +3,0 @@\n-a\n-a"),
        (
            "acacbc",
            "caacccaba",
            "@@ -0,0 +1,2 @@\n+c\n+a\n@@ -2,0 +5,2 @@\n+c\n+c\n@@ -4 +7,0 @@\n-c\n@@ -6 +9 @@\n-c\n+a",
        ),
        (
            "cacacab",
            "cbbbcbbb",
            "@@ -2 +2,3 @@\n-a\n+b\n+b\n+b\n@@ -4,3 +5,0 @@\n-a\n-c\n-a\n@@ -7,0 +7,2 @@\n+b\n+b",
        ),
        ("aacbaba", "bacacc", "@@ -1 +1 @@\n-a\n+b\n@@ -4 +3,0 @@\n-b\n@@ -6,2 +5,2 @@\n-b\n-a\n+c\n+c"),
        (
            "bbcbcbcba",
            "abbccaacc",
            "@@ -0,0 +1 @@\n+a\n@@ -4 +4,0 @@\n-b\n@@ -6 +6,2 @@\n-b\n+a\n+a\n@@ -8,2 +9 @@\n-b\n-a\n+c",
        ),
        ("cccbb", "bcbabbac", "@@ -1,2 +1 @@\n-c\n-c\n+b\n@@ -4,0 +4 @@\n+a\n@@ -5,0 +6,3 @@\n+b\n+a\n+c"),
        (
            "cabbaabcb",
            "cbacccc",
            "@@ -2,2 +1,0 @@\n-a\n-b\n@@ -6,2 +3,0 @@\n-a\n-b\n@@ -9 +5,3 @@\n-b\n+c\n+c\n+c",
        ),
        ("cabccbbb", "abcbaa", "@@ -1 +0,0 @@\n-c\n@@ -5 +3,0 @@\n-c\n@@ -7,2 +5,2 @@\n-b\n-b\n+a\n+a"),
        ("acbbcb", "aabbbb", "@@ -2 +2 @@\n-c\n+a\n@@ -5 +4,0 @@\n-c\n@@ -6,0 +6 @@\n+b"),
        ("aaacb", "bbcacaac", "@@ -0,0 +1,3 @@\n+b\n+b\n+c\n@@ -1,0 +5 @@\n+c\n@@ -5 +8,0 @@\n-b"),
        (
            "abacc",
            "cbcacaabc",
            "@@ -0,0 +1,6 @@\n+c\n+b\n+c\n+a\n+c\n+a\n@@ -3 +8,0 @@\n-a\n@@ -5 +9,0 @@\n-c",
        ),
    ];

    #[test]
    fn lines_belong_together_as_in_python() {
        let letters = |text: &str| text.split("").filter(|c| !c.is_empty()).collect::<Vec<_>>().join("\n");
        for (old, new, diff) in RECORDED {
            assert_eq!(
                unified_diff(&letters(old), &letters(new), "f"),
                format!("--- f\n+++ f\n{diff}"),
                "{old} {new}"
            );
        }
        // Popular lines are not searched for, only run over.
        let lines = |parts: &[(&str, usize)]| {
            parts.iter().flat_map(|(line, n)| vec![*line; *n]).collect::<Vec<_>>().join("\n")
        };
        let diff = unified_diff(
            &lines(&[("x", 150), ("u1", 1), ("y", 100)]),
            &lines(&[("y", 60), ("u1", 1), ("x", 170)]),
            "f",
        );
        let hunks: Vec<_> = diff.lines().filter(|line| line.starts_with("@@")).collect();
        assert_eq!(hunks, ["@@ -1,150 +1,60 @@", "@@ -152,100 +62,170 @@"]);
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
