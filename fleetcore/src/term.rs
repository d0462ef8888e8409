//! The terminal behind a session: what a person would see, as text.
//!
//! Bytes are only queued as they arrive (the queue shares them with the replay ring) and go through the emulator
//! when somebody asks for the screen, because a program can print several times faster than any emulator
//! interprets. When more than a scrollback's worth is queued, the oldest bytes are **skimmed**: their text is
//! dropped, terminal modes they set (alternate screen, cursor, scroll region, character set) are kept. So the
//! picture may lack scrollback lines that were printed long before anybody looked, never the current screen of a
//! program that repaints.

use std::collections::{BTreeMap, VecDeque};

mod work;

use avt::Terminal;
use bytes::{Bytes, BytesMut};
use memchr::{memchr, memchr_iter};

use work::Meter;
pub(crate) use work::{WORK_MAX, affordable_end, affordable_start};

use crate::{Offset, PtySize, Screen};

/// Bounds of the queue, whatever the scrollback asks for.
const QUEUE_MIN_BYTES: usize = 256 << 10;
const QUEUE_MAX_BYTES: usize = 4 << 20;
/// More pieces than this are joined to larger ones: tiny pieces cost more to keep than to copy.
const QUEUE_MAX_PIECES: usize = 1024;
/// Size of the pieces that tiny ones are joined to, and what counts as tiny.
const JOINED_BYTES: usize = 64 << 10;
const TINY_BYTES: usize = 16 << 10;
/// Longest control sequence the skimmer looks at.
const SEQUENCE_MAX_BYTES: usize = 64;
/// Modes remembered while skimming; xterm has about forty.
const MODES_MAX: usize = 64;

/// Output that waits for the emulator. Cheap to fill.
#[derive(Debug)]
pub(crate) struct Backlog {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    limit: usize,
    skimmer: Skimmer,
    end: u64,
    lines_skimmed: u64,
}

impl Backlog {
    /// A queue fit for a screen of `size` with `scrollback` lines.
    pub(crate) fn new(size: PtySize, scrollback: usize) -> Self {
        let lines = scrollback.saturating_add(usize::from(size.rows));
        let limit = lines.saturating_mul(usize::from(size.cols)).clamp(QUEUE_MIN_BYTES, QUEUE_MAX_BYTES);
        Self::with_limit(limit)
    }

    /// A queue that keeps the last `limit` bytes.
    pub(crate) fn with_limit(limit: usize) -> Self {
        let pieces = VecDeque::new();
        Self { pieces, bytes: 0, limit, skimmer: Skimmer::default(), end: 0, lines_skimmed: 0 }
    }

    /// Queues the next piece of output.
    pub(crate) fn push(&mut self, piece: Bytes) {
        self.end += piece.len() as u64;
        self.bytes += piece.len();
        self.pieces.push_back(piece);
        while self.bytes > self.limit {
            let Some(old) = self.pieces.pop_front() else { break };
            self.bytes -= old.len();
            self.skimmer.skim(&old);
            self.lines_skimmed += memchr_iter(b'\n', &old).count() as u64;
        }
        if self.pieces.len() > QUEUE_MAX_PIECES {
            self.join();
        }
    }

    /// Joins tiny pieces. What has been joined once is not copied again.
    fn join(&mut self) {
        let mut joined = BytesMut::new();
        for piece in std::mem::take(&mut self.pieces) {
            if piece.len() < TINY_BYTES {
                joined.extend_from_slice(&piece);
                if joined.len() >= JOINED_BYTES {
                    self.pieces.push_back(joined.split().freeze());
                }
                continue;
            }
            if !joined.is_empty() {
                self.pieces.push_back(joined.split().freeze());
            }
            self.pieces.push_back(piece);
        }
        if !joined.is_empty() {
            self.pieces.push_back(joined.split().freeze());
        }
    }

    /// What is kept.
    pub(crate) fn pieces(&self) -> impl ExactSizeIterator<Item = &Bytes> {
        self.pieces.iter()
    }

    /// Bytes that have passed.
    pub(crate) fn total(&self) -> u64 {
        self.end
    }

    /// Bytes kept.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    /// Line ends in what is not kept any more; `None` while everything is.
    pub(crate) fn lines_skimmed(&self) -> Option<u64> {
        self.skimmer.used.then_some(self.lines_skimmed)
    }

    /// What puts an emulator into the modes that were set in what is not kept; `None` while everything is.
    pub(crate) fn modes(&self) -> Option<Vec<u8>> {
        self.skimmer.replay()
    }

    /// Skims what a screen of `size` could not show with less work than `most`.
    fn cut(&mut self, size: PtySize, most: u64) {
        let mut meter = Meter::new(size);
        // What was spent up to the end of each piece.
        let mut spent = Vec::with_capacity(self.pieces.len());
        for piece in &self.pieces {
            for chunk in piece.utf8_chunks() {
                chunk.valid().chars().for_each(|c| {
                    meter.take(c);
                });
            }
            spent.push(meter.total());
        }
        let from = meter.total().saturating_sub(most);
        if from == 0 {
            return;
        }
        for spent in spent {
            let Some(old) = self.pieces.pop_front() else { return };
            self.bytes -= old.len();
            let mut rest = None;
            if spent > from {
                // It is in here: a piece may be dear all by itself.
                let text = String::from_utf8_lossy(&old);
                let over = spent - from;
                let at = affordable_end(&text, size, over.min(most));
                rest = text.get(at..).map(|rest| Bytes::copy_from_slice(rest.as_bytes()));
            }
            let gone = old.len() - rest.as_ref().map_or(0, |rest| rest.len().min(old.len()));
            let gone = old.slice(..gone);
            self.skimmer.skim(&gone);
            self.lines_skimmed += memchr_iter(b'\n', &gone).count() as u64;
            if let Some(rest) = rest {
                self.bytes += rest.len();
                self.pieces.push_front(rest);
                return;
            }
        }
    }

    /// Everything queued, for [`Emulator::catch_up`].
    pub(crate) fn take(&mut self) -> Self {
        let limit = self.limit;
        let end = self.end;
        std::mem::replace(self, Self { end, ..Self::with_limit(limit) })
    }
}

/// The emulator and the picture so far. Costs next to nothing until it is first asked: a large screen takes tens of
/// megabytes.
pub(crate) struct Emulator {
    terminal: Option<Terminal>,
    size: PtySize,
    scrollback: usize,
    /// First bytes of a character whose rest has not arrived.
    partial: Vec<u8>,
    at: u64,
}

impl std::fmt::Debug for Emulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Emulator").field("size", &self.size).field("at", &self.at).finish_non_exhaustive()
    }
}

impl Emulator {
    /// An empty screen. A size of zero counts as one.
    pub(crate) fn new(size: PtySize, scrollback: usize) -> Self {
        let size = PtySize { cols: size.cols.max(1), rows: size.rows.max(1) };
        Self { terminal: None, size, scrollback, partial: Vec::new(), at: 0 }
    }

    fn apply(&mut self, work: impl FnOnce(&mut Terminal)) {
        if self.terminal.is_none() {
            let (cols, rows) = (usize::from(self.size.cols), usize::from(self.size.rows));
            // Only fails for a size of zero.
            self.terminal = Terminal::with_scrollback(cols, rows, Some(self.scrollback)).ok();
        }
        if let Some(terminal) = &mut self.terminal {
            work(terminal);
        }
    }

    /// Interprets what was queued: its end, when all of it would keep a processor busy for more than seconds. Belongs on
    /// a thread that may be busy.
    pub(crate) fn catch_up(&mut self, mut backlog: Backlog) {
        backlog.cut(self.size, WORK_MAX);
        if let Some(modes) = backlog.skimmer.replay() {
            self.partial.clear();
            self.feed(&modes);
        }
        for piece in &backlog.pieces {
            self.feed(piece);
        }
        self.at = backlog.end;
    }

    fn feed(&mut self, bytes: &[u8]) {
        let joined;
        let mut bytes = bytes;
        if !self.partial.is_empty() {
            let mut all = std::mem::take(&mut self.partial);
            all.extend_from_slice(bytes);
            joined = all;
            bytes = &joined;
        }
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.apply(|t| t.feed(chunk.valid()));
            let bad = chunk.invalid();
            if bad.is_empty() {
                continue;
            }
            if chunks.peek().is_none() && may_continue(bad) {
                self.partial.extend_from_slice(bad);
            } else {
                self.apply(|t| t.feed(char::REPLACEMENT_CHARACTER));
            }
        }
    }

    /// Changes the size; text is wrapped anew.
    pub(crate) fn resize(&mut self, size: PtySize) {
        self.size = PtySize { cols: size.cols.max(1), rows: size.rows.max(1) };
        let (cols, rows) = (usize::from(self.size.cols), usize::from(self.size.rows));
        if let Some(terminal) = &mut self.terminal {
            terminal.resize(cols, rows);
        }
    }

    /// Whether the program wants arrows in their application form.
    pub(crate) fn application_cursor_keys(&self) -> bool {
        self.terminal.as_ref().is_some_and(Terminal::cursor_key_app_mode)
    }

    /// The picture.
    pub(crate) fn screen(&self) -> Screen {
        let text = |line: &avt::Line| {
            let mut text = line.text();
            text.truncate(text.trim_end().len());
            text
        };
        let Some(terminal) = &self.terminal else {
            let lines = vec![String::new(); usize::from(self.size.rows)];
            return Screen { lines, cursor_visible: true, at: Offset(self.at), ..Screen::default() };
        };
        let primary = terminal.primary_screen();
        let above = primary.all_lines().count().saturating_sub(primary.visible_lines().len());
        let cursor = terminal.cursor();
        let cols = terminal.size().0;
        Screen {
            lines: terminal.screen().visible_lines().map(text).collect(),
            scrollback: primary.all_lines().take(above).map(text).collect(),
            cursor_row: cursor.row,
            cursor_col: cursor.col.min(cols.saturating_sub(1)),
            cursor_visible: cursor.visible,
            at: Offset(self.at),
        }
    }
}

/// Whether `bytes`, an invalid end of a piece, may be the start of a character.
fn may_continue(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|e| e.error_len().is_none())
}

/// Reads control sequences out of bytes that nobody will see.
#[derive(Debug, Default)]
struct Skimmer {
    used: bool,
    /// A sequence whose rest is in the next piece.
    sequence: Vec<u8>,
    modes: BTreeMap<String, bool>,
    region: Vec<u8>,
    charset: Vec<u8>,
}

impl Skimmer {
    fn skim(&mut self, mut bytes: &[u8]) {
        self.used = true;
        while !bytes.is_empty() {
            if self.sequence.is_empty() {
                let Some(esc) = memchr(0x1b, bytes) else { return };
                self.sequence.push(0x1b);
                bytes = bytes.get(esc + 1..).unwrap_or_default();
                continue;
            }
            let Some((&byte, rest)) = bytes.split_first() else { return };
            if byte == 0x1b || self.sequence.len() >= SEQUENCE_MAX_BYTES {
                self.sequence.clear(); // cut off or too long: a new one may start at this byte
                continue;
            }
            self.sequence.push(byte);
            bytes = rest;
            if self.complete() {
                let sequence = std::mem::take(&mut self.sequence);
                self.keep(&sequence);
            }
        }
    }

    fn complete(&self) -> bool {
        match self.sequence.as_slice() {
            [_, b'[', .., last] if self.sequence.len() > 2 => (0x40..=0x7e).contains(last),
            [_, b'[' | b'(' | b')'] => false,
            [_, b']' | b'P' | b'^' | b'_' | b'X', ..] => self.sequence.last() == Some(&0x07),
            _ => true,
        }
    }

    fn keep(&mut self, sequence: &[u8]) {
        match sequence {
            [_, b'[', b'?', modes @ .., last @ (b'h' | b'l')] => {
                for mode in String::from_utf8_lossy(modes).split(';') {
                    if self.modes.len() < MODES_MAX || self.modes.contains_key(mode) {
                        self.modes.insert(mode.to_owned(), *last == b'h');
                    }
                }
            }
            [_, b'[', .., b'r'] => self.region = sequence.to_vec(),
            [_, b'(', _] => self.charset = sequence.to_vec(),
            [_, b'c'] => {
                self.modes.clear();
                self.region = sequence.to_vec(); // the reset itself, in place of the region it removes
                self.charset.clear();
            }
            _ => {}
        }
    }

    /// What to feed in place of the skimmed bytes.
    fn replay(&self) -> Option<Vec<u8>> {
        if !self.used {
            return None;
        }
        // CAN ends whatever sequence the emulator had begun before.
        let mut out = vec![0x18];
        out.extend_from_slice(&self.region);
        out.extend_from_slice(&self.charset);
        for (mode, on) in &self.modes {
            out.extend_from_slice(format!("\x1b[?{mode}{}", if *on { 'h' } else { 'l' }).as_bytes());
        }
        // Start on a fresh line of the screen, then go on with the sequence that was cut.
        out.extend_from_slice(b"\x1b[0m\r");
        out.extend_from_slice(&self.sequence);
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(cols: u16, rows: u16) -> PtySize {
        PtySize { cols, rows }
    }

    fn show(size: PtySize, scrollback: usize, pieces: &[&[u8]]) -> Screen {
        let mut backlog = Backlog::new(size, scrollback);
        let mut emulator = Emulator::new(size, scrollback);
        for piece in pieces {
            backlog.push(Bytes::copy_from_slice(piece));
        }
        emulator.catch_up(backlog.take());
        emulator.screen()
    }

    #[test]
    fn lines_cursor_and_scrollback() {
        let s = show(size(10, 2), 5, &[b"one\r\ntwo\r\nthree\r\nab", b"\x1b[?25l"]);
        assert_eq!(
            (s.lines, s.scrollback),
            (vec!["three".to_owned(), "ab".into()], vec!["one".into(), "two".into()])
        );
        assert_eq!((s.cursor_row, s.cursor_col, s.cursor_visible, s.at), (1, 2, false, Offset(25)));
    }

    #[test]
    fn scrollback_is_bounded_and_marks_are_invisible() {
        let many: String = (0..100).map(|n| format!("{n}\r\n")).collect();
        let s = show(size(10, 2), 3, &[many.as_bytes(), b"\x1b]133;D;0;k=n;/\x07$ "]);
        assert_eq!(s.scrollback, ["96", "97", "98"]);
        assert_eq!(s.lines, ["99", "$"]);
    }

    #[test]
    fn characters_may_be_split_over_pieces() {
        let text = "aä€🦀\r\n".as_bytes();
        let single: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(show(size(20, 2), 0, &single).lines[0], "aä€🦀");
        assert_eq!(show(size(20, 2), 0, &[b"a\xffb\xe2\x82", b"c"]).lines[0], "a\u{fffd}b\u{fffd}c");
    }

    #[test]
    fn alternate_screen_shows_itself_and_gives_way() {
        let s = show(size(10, 2), 5, &[b"1\r\n2\r\n3", b"\x1b[?1049h\x1b[Hvim"]);
        assert_eq!((s.lines[0].as_str(), s.scrollback.as_slice()), ("vim", &["1".to_owned()][..]));
        let s = show(size(10, 2), 5, &[b"shell", b"\x1b[?1049h\x1b[Hvim", b"\x1b[?1049l"]);
        assert_eq!(s.lines[0], "shell");
    }

    #[test]
    fn a_flood_keeps_modes_and_the_last_lines() {
        let mut backlog = Backlog::new(size(20, 3), 2);
        backlog.push(Bytes::from_static(b"\x1b[?1049h\x1b[?25l"));
        let line = Bytes::from(vec![b'x'; 4096]);
        for _ in 0..1000 {
            backlog.push(line.clone());
        }
        assert!(backlog.bytes <= QUEUE_MIN_BYTES && backlog.pieces.len() <= 64);
        backlog.push(Bytes::from_static(b"\r\n\x1b[2J\x1b[Hlast"));
        let end = backlog.end;
        let mut emulator = Emulator::new(size(20, 3), 2);
        emulator.catch_up(backlog.take());
        let s = emulator.screen();
        assert_eq!((s.lines[0].as_str(), s.cursor_visible, s.at), ("last", false, Offset(end)));
        assert!(s.scrollback.is_empty(), "the flood went to the alternate screen");
    }

    #[test]
    fn tiny_pieces_are_joined_and_nothing_is_lost() {
        let mut backlog = Backlog::new(size(20, 3), 2);
        let all: Vec<u8> = (0..200_000u32).map(|n| b'a' + (n % 26) as u8).collect();
        for tiny in all.chunks(3) {
            backlog.push(Bytes::copy_from_slice(tiny));
            assert!(backlog.pieces.len() <= QUEUE_MAX_PIECES + 1);
        }
        let kept: Vec<u8> = backlog.pieces().flatten().copied().collect();
        assert!(kept == all && backlog.len() == all.len());
    }

    #[test]
    fn a_sequence_cut_by_skimming_is_not_printed() {
        let mut skimmer = Skimmer::default();
        skimmer.skim(b"text\x1b[38;5;1");
        let mut emulator = Emulator::new(size(20, 2), 0);
        emulator.feed(&skimmer.replay().unwrap());
        emulator.feed(b"96mred");
        assert_eq!(emulator.screen().lines[0], "red");
    }

    #[test]
    fn what_costs_too_much_to_draw_is_skimmed() {
        let size = size(100, 100);
        let mut backlog = Backlog::with_limit(4 << 20);
        backlog.push(Bytes::from_static(b"\x1b[?1049h"));
        for _ in 0..3 {
            backlog.push(Bytes::from("\n\x1b[100S".repeat(1000)));
        }
        backlog.push(Bytes::from_static(b"\x1b[2J\x1b[Hlast"));
        let whole = backlog.bytes;
        backlog.cut(size, u64::MAX);
        assert_eq!((backlog.bytes, backlog.lines_skimmed()), (whole, None));
        backlog.cut(size, 20_000_000);
        let skimmed = backlog.lines_skimmed().unwrap();
        assert!((1000..1200).contains(&skimmed), "{skimmed}");
        assert_eq!(backlog.bytes + 8 + 7 * skimmed as usize, whole);
        let end = backlog.end;
        let mut emulator = Emulator::new(size, 0);
        emulator.catch_up(backlog.take());
        let shown = emulator.screen();
        assert_eq!((shown.lines[0].as_str(), shown.at), ("last", Offset(end)));
        assert!(emulator.terminal.unwrap().active_screen_kind() == avt::ScreenKind::Alternate);
    }

    #[test]
    fn resize_wraps_anew() {
        let mut emulator = Emulator::new(size(10, 3), 10);
        emulator.feed(b"abcdefgh");
        emulator.resize(size(4, 3));
        assert_eq!(emulator.screen().text(), "abcd\nefgh");
        emulator.resize(size(0, 0));
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics(pieces in proptest::collection::vec(proptest::collection::vec(proptest::num::u8::ANY, 0..40), 0..20), cols in 1u16..30, rows in 1u16..10) {
            let mut emulator = Emulator::new(size(cols, rows), 5);
            let mut skimmer = Skimmer::default();
            for p in &pieces {
                skimmer.skim(p);
                emulator.feed(p);
            }
            emulator.feed(&skimmer.replay().unwrap_or_default());
            emulator.resize(size(rows, cols));
            let s = emulator.screen();
            proptest::prop_assert!(s.cursor_col < usize::from(rows) && s.lines.len() == usize::from(cols));
        }
    }
}
