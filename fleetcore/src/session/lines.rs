//! Output as lines, the way a terminal shows it, without a terminal.
//!
//! Nearly all output only moves within its last line: text, returns, tabs, colours, a progress bar. A screen full of
//! cells is not needed for that. Whatever goes elsewhere is left to the emulator.

use std::collections::VecDeque;

use unicode_width::UnicodeWidthChar as _;

use crate::PtySize;

/// Terminals have a tab stop at every eighth column.
const TAB: usize = 8;
/// What clears the screen once the cursor is in its top left corner.
const CLEARS: [&str; 4] = ["\x1b[J", "\x1b[0J", "\x1b[2J", "\x1b[3J"];

/// Lines that have been finished, up to a number of them.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) lines: VecDeque<String>,
    max: usize,
    /// Lines that were pushed out.
    pub(super) dropped: u64,
    /// Something was cleared away.
    pub(super) cleared: bool,
    /// How often.
    pub(super) clears: u32,
}

impl Kept {
    pub(super) fn new(max: usize) -> Self {
        Self { lines: VecDeque::new(), max: max.max(1), dropped: 0, cleared: false, clears: 0 }
    }

    /// Adds a line.
    pub(super) fn push(&mut self, mut line: String) {
        line.truncate(line.trim_end().len());
        if self.lines.len() == self.max {
            self.lines.pop_front();
            self.dropped += 1;
        }
        self.lines.push_back(line);
    }

    /// Everything is cleared away; `more` says that there was something besides these lines.
    pub(super) fn clear(&mut self, more: bool) {
        let shown = more || self.dropped > 0 || self.lines.iter().any(|l| !l.is_empty());
        if shown {
            self.cleared = true;
            self.clears = self.clears.saturating_add(1);
        }
        self.lines.clear();
        self.dropped = 0;
    }
}

/// Reads output line by line.
#[derive(Debug)]
pub(super) struct LineReader {
    pub(super) kept: Kept,
    cols: usize,
    /// The last line.
    cells: Vec<char>,
    /// Columns it takes, and where the cursor is.
    width: usize,
    col: usize,
    /// It has characters that do not take exactly one column.
    uneven: bool,
}

impl LineReader {
    pub(super) fn new(size: PtySize, max_lines: usize) -> Self {
        let cols = usize::from(size.cols.max(1));
        Self { kept: Kept::new(max_lines), cols, cells: Vec::new(), width: 0, col: 0, uneven: false }
    }

    /// Reads all of `text`. False when it takes a screen to tell what is shown.
    pub(super) fn read(&mut self, text: &str) -> bool {
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            if !first.is_control() {
                let len = rest.find(char::is_control).unwrap_or(rest.len());
                let (run, tail) = rest.split_at(len);
                if !self.print(run) {
                    return false;
                }
                rest = tail;
                continue;
            }
            rest = rest.get(first.len_utf8()..).unwrap_or_default();
            let done = match first {
                '\n' => self.line_end(),
                '\r' => {
                    self.col = 0;
                    true
                }
                // At the end of a row the cursor waits there; the emulator knows how.
                '\t' if self.col >= self.cols && self.col.is_multiple_of(self.cols) => false,
                '\t' => {
                    let row = self.col / self.cols * self.cols;
                    let next = ((self.col - row) / TAB + 1) * TAB;
                    self.col = row + next.min(self.cols - 1);
                    true
                }
                '\x08' if self.in_row() => {
                    self.col = self.col.saturating_sub(1);
                    true
                }
                '\0' | '\x07' | '\x7f' => true,
                '\x1b' => match self.escape(rest) {
                    Some(tail) => {
                        rest = tail;
                        true
                    }
                    None => false,
                },
                _ => false,
            };
            if !done {
                return false;
            }
        }
        true
    }

    /// All lines, with the last one.
    pub(super) fn finish(mut self) -> Kept {
        if !self.cells.is_empty() {
            self.kept.push(self.cells.iter().collect());
        }
        self.kept
    }

    /// Whether the last line is in one row of the terminal, so that columns are what they seem.
    fn one_row(&self) -> bool {
        self.width <= self.cols
    }

    /// The same for the cursor, which waits at the end of a row once that is full.
    fn in_row(&self) -> bool {
        self.one_row() && self.col < self.cols
    }

    fn line_end(&mut self) -> bool {
        if self.col != 0 {
            return false; // a program in raw mode: the next line begins below this column
        }
        self.kept.push(self.cells.iter().collect());
        self.reset();
        true
    }

    fn reset(&mut self) {
        self.cells.clear();
        self.width = 0;
        self.uneven = false;
    }

    fn print(&mut self, run: &str) -> bool {
        if self.col > self.width {
            self.cells.resize(self.cells.len() + self.col - self.width, ' ');
            self.width = self.col;
        }
        let mut run = run.chars();
        if self.col < self.width {
            if self.uneven || !self.one_row() {
                return false;
            }
            while self.col < self.width {
                let Some(c) = run.next() else { return true };
                let Some(cell) = self.cells.get_mut(self.col).filter(|_| c.width() == Some(1)) else {
                    return false;
                };
                *cell = c;
                self.col += 1;
            }
        }
        for c in run {
            let width = if c.is_ascii() { 1 } else { c.width().unwrap_or(0) };
            self.uneven |= width != 1;
            self.cells.push(c);
            self.width += width;
        }
        self.col = self.width;
        true
    }

    /// Reads the rest of an escape sequence and returns what comes after it; `None` when it takes a screen. A sequence
    /// that is cut off is dropped.
    fn escape<'a>(&mut self, rest: &'a str) -> Option<&'a str> {
        let mut chars = rest.chars();
        let Some(kind) = chars.next() else { return Some("") };
        let tail = chars.as_str();
        match kind {
            '[' => self.control(tail),
            ']' | 'P' | 'X' | '^' | '_' => {
                let end = tail.find(['\x07', '\x1b']);
                match end.map(|at| tail.split_at(at).1) {
                    None => Some(""),
                    Some(end) => Some(end.strip_prefix("\x1b\\").or(end.strip_prefix('\x07')).unwrap_or(end)),
                }
            }
            '(' | ')' => match chars.next() {
                Some('B') => Some(chars.as_str()),
                Some(_) => None,
                None => Some(""),
            },
            '=' | '>' | '\\' => Some(tail),
            'c' => {
                self.clear();
                self.col = 0;
                Some(tail)
            }
            _ => None,
        }
    }

    fn control<'a>(&mut self, rest: &'a str) -> Option<&'a str> {
        let Some(end) = rest.find(|c: char| !(' '..='?').contains(&c)) else { return Some("") };
        let (params, tail) = rest.split_at(end);
        let mut tail = tail.chars();
        let last = tail.next()?;
        let tail = tail.as_str();
        let private = params.starts_with(['?', '<', '=', '>']);
        let count = || params.parse::<usize>().unwrap_or(1).max(1);
        match last {
            'm' | 'n' | 'c' | 'q' | 't' => {}
            'u' if private => {}
            'h' | 'l' if private => {
                // Alternate screens, wrapping, origin and margins change where text goes.
                let matters = |mode: &str| matches!(mode, "47" | "1047" | "1049" | "6" | "7" | "69");
                if params.trim_start_matches('?').split(';').any(matters) {
                    return None;
                }
            }
            'H' | 'f' if matches!(params, "" | "1" | ";" | "1;1") => {
                // Anything but clearing the whole screen takes one.
                let clear = CLEARS.iter().find_map(|clear| tail.strip_prefix(clear))?;
                self.clear();
                self.col = 0;
                return Some(clear);
            }
            'J' if matches!(params, "" | "0") => return self.erase(self.col, usize::MAX).then_some(tail),
            'J' if params == "2" => self.clear(),
            'J' if params == "3" => self.clear_above(),
            'K' => {
                let done = match params {
                    "" | "0" => self.erase(self.col, usize::MAX),
                    "1" => self.erase(0, self.col.saturating_add(1)),
                    "2" => self.erase(0, usize::MAX),
                    _ => true,
                };
                return done.then_some(tail);
            }
            'C' | 'D' | 'G' if self.in_row() => {
                let most = self.cols - 1;
                self.col = match last {
                    'C' => self.col.saturating_add(count()).min(most),
                    'D' => self.col.saturating_sub(count()),
                    _ => (count() - 1).min(most),
                };
            }
            'P' if self.plain() => {
                let to = self.col.saturating_add(count()).min(self.width);
                if self.col < to {
                    self.cells.drain(self.col..to);
                    self.width = self.cells.len();
                }
            }
            '@' if self.plain() => {
                if self.col < self.width {
                    let many = count().min(self.cols - self.col);
                    self.cells.splice(self.col..self.col, std::iter::repeat_n(' ', many));
                    self.cells.truncate(self.cols);
                    self.width = self.cells.len();
                }
            }
            'X' => return self.erase(self.col, self.col.saturating_add(count())).then_some(tail),
            _ => return None,
        }
        Some(tail)
    }

    /// Whether columns and cells of the last line are the same.
    fn plain(&self) -> bool {
        !self.uneven && self.in_row()
    }

    /// Blanks columns of the last line.
    fn erase(&mut self, from: usize, to: usize) -> bool {
        if !self.in_row() {
            return false;
        }
        if from >= self.width {
            return true;
        }
        if from == 0 && to >= self.width {
            self.reset();
            return true;
        }
        if !self.plain() {
            return false;
        }
        if to >= self.width {
            self.cells.truncate(from);
            self.width = from;
        } else if let Some(cells) = self.cells.get_mut(from..to) {
            cells.fill(' ');
        }
        true
    }

    /// Everything goes; the cursor stays.
    fn clear(&mut self) {
        self.kept.clear(self.cells.iter().any(|c| *c != ' '));
        self.reset();
    }

    /// Lines that have scrolled away go; these here would still be visible, unless there are more than a screen's.
    fn clear_above(&mut self) {
        if self.kept.dropped > 0 {
            self.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Vec<String>> {
        let mut reader = LineReader::new(PtySize { cols: 20, rows: 5 }, 4);
        reader.read(text).then(|| reader.finish().lines.into_iter().collect())
    }

    #[test]
    fn what_stays_in_its_line_is_read() {
        for (text, expect) in [
            ("a\r\nb", vec!["a", "b"]),
            ("12345\rab\r\n", vec!["ab345"]),
            ("abc\x1b[2Dz\r\n", vec!["azc"]),
            ("abc\x08\x08X", vec!["aXc"]),
            ("a\tb\tc", vec!["a       b       c"]),
            ("\x1b[1;31mred\x1b[0m plain", vec!["red plain"]),
            ("10%\r\x1b[K20%\r\x1b[2Kdone", vec!["done"]),
            ("long text\rab\x1b[K\r\n", vec!["ab"]),
            ("\x1b]0;title\x07x\x1b]133;C;k=n\x1b\\y\x1bPq\x1b\\z", vec!["xyz"]),
            ("é 日本 🎉 ñ e\u{301}\r\n", vec!["é 日本 🎉 ñ e\u{301}"]),
            ("日\tx", vec!["日      x"]),
            ("\x1b[?2004h$ \x1b[?2004l\r\n", vec!["$"]),
            ("abcdef\r\x1b[2P\x1b[@-", vec!["-cdef"]),
            ("abcdef\x1b[3G\x1b[2X", vec!["ab  ef"]),
            ("  trailing   \r\n\r\n", vec!["  trailing", ""]),
            ("x\x1b[3", vec!["x"]),
        ] {
            assert_eq!(read(text).unwrap(), expect, "{text:?}");
        }
        let long = "x".repeat(50);
        assert_eq!(read(&format!("{long}\r\nb")).unwrap(), [long.as_str(), "b"]);
    }

    #[test]
    fn what_goes_elsewhere_is_not() {
        for text in [
            "a\r\nb\x1b[Ac",
            "\x1b[5;5Hx",
            "\x1b[?1049h",
            "a\nb",
            "日本\rx",
            "\x1b(0q",
            "\x1b7a\x1b8",
            "\x1b[2;5r",
            "\x1b[H",
        ] {
            assert_eq!(read(text), None, "{text:?}");
        }
        assert_eq!(read(&format!("{}\rb", "x".repeat(21))), None, "the cursor is in the second row");
    }

    #[test]
    fn clearing_and_too_many_lines_are_told() {
        let kept = |text: &str| {
            let mut reader = LineReader::new(PtySize { cols: 20, rows: 5 }, 4);
            assert!(reader.read(text), "{text:?}");
            let kept = reader.finish();
            (kept.lines.into_iter().collect::<Vec<_>>(), kept.dropped, kept.cleared)
        };
        assert_eq!(kept("gone\r\n\x1b[H\x1b[2J\x1b[3Jkept\r\n"), (vec!["kept".into()], 0, true));
        assert_eq!(kept("gone\r\n\x1b[H\x1b[Jkept"), (vec!["kept".into()], 0, true));
        assert_eq!(kept("\x1b[H\x1b[J\x1b[3J"), (vec![], 0, false), "there was nothing to clear");
        assert_eq!(kept("gone\x1bcx"), (vec!["x".into()], 0, true));
        let (lines, dropped, cleared) = kept("1\r\n2\r\n3\r\n4\r\n5\r\n6");
        assert_eq!((lines.join(" ").as_str(), dropped, cleared), ("3 4 5 6", 2, false));
    }
}
