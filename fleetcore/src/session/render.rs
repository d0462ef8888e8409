//! The output of a turn as a terminal shows it.
//!
//! Output is only kept as it arrives, its last megabytes at most, and made into lines when somebody looks. Where it
//! takes a screen to tell what is shown, the emulator is asked; its screen is no larger than the output needs.

use avt::{
    Line, Observation, Observer, Operation, ScreenKind, Terminal,
    parser::{EdScope, Function},
};
use bytes::Bytes;
use memchr::{memchr, memchr_iter, memmem};

use super::{
    lines::{Kept, LineReader},
    marks::ACCEPTED,
};
use crate::{
    Offset, PtySize, Rendered,
    term::{Backlog, WORK_MAX, affordable_end, affordable_start},
};

/// How much of the end of a turn's output is kept to be rendered: 10 000 lines of 800 bytes.
const TAIL_MAX_BYTES: usize = 8 << 20;
/// How much of its start.
const HEAD_MAX_BYTES: usize = 64 << 10;
/// Most cells that are drawn to show that start.
const HEAD_WORK_MAX: u64 = 64 << 20;
/// Smallest screen the emulator gets.
const MIN_ROWS: usize = 24;

/// Output of the running or last turn.
#[derive(Debug)]
pub(super) struct TurnBytes {
    /// Offset of its first byte.
    start: u64,
    /// Where it has ended.
    end: Option<u64>,
    head: Vec<u8>,
    tail: Backlog,
}

impl TurnBytes {
    /// Of a turn that begins at `start`.
    pub(super) fn new(start: u64) -> Self {
        Self { start, end: None, head: Vec::new(), tail: Backlog::with_limit(TAIL_MAX_BYTES) }
    }

    /// No more belongs to it from `end` on.
    pub(super) fn end(&mut self, end: u64) {
        self.end.get_or_insert(end);
    }

    /// Takes the next piece of the session's output, which begins at `at`.
    pub(super) fn push(&mut self, at: u64, piece: &Bytes) {
        let within = |offset: u64| usize::try_from(offset.saturating_sub(at)).unwrap_or(usize::MAX);
        let from = within(self.start).min(piece.len());
        let to = self.end.map_or(piece.len(), |end| within(end).min(piece.len()));
        if from >= to {
            return;
        }
        let piece = piece.slice(from..to);
        let room = HEAD_MAX_BYTES - self.head.len();
        self.head.extend_from_slice(piece.get(..room.min(piece.len())).unwrap_or_default());
        self.tail.push(piece);
    }

    /// What there is to render. `started` says whether the shell told where the command's own output begins,
    /// `only_echo` that it has not begun.
    pub(super) fn snapshot(&self, started: bool, only_echo: bool, size: PtySize) -> Snapshot {
        let at = Offset(self.end.unwrap_or(self.start + self.tail.total()));
        let mut shot =
            Snapshot { pieces: vec![], started, skimmed: None, modes: None, head: vec![], size, at };
        if !only_echo {
            shot.pieces = self.tail.pieces().cloned().collect();
            shot.skimmed = self.tail.lines_skimmed();
            shot.modes = self.tail.modes();
            if shot.skimmed.is_some() {
                shot.head.clone_from(&self.head);
            }
        }
        shot
    }
}

/// Output at one moment. Cheap: the bytes are shared.
#[derive(Debug)]
pub(super) struct Snapshot {
    pieces: Vec<Bytes>,
    started: bool,
    /// Lines that came before, when something did.
    skimmed: Option<u64>,
    /// Modes that were set in them.
    modes: Option<Vec<u8>>,
    head: Vec<u8>,
    size: PtySize,
    at: Offset,
}

impl Snapshot {
    /// Bytes to render.
    pub(super) fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    /// Renders it, with at most `lines` lines. The work is bounded, but may take seconds where a screen is needed: it
    /// belongs on a thread that may be busy.
    pub(super) fn render(&self, lines: usize) -> Rendered {
        self.render_by(lines, emulate).unwrap_or_default()
    }

    /// The same, if it can be told line by line: that takes as long as the bytes take to be looked at.
    pub(super) fn render_lines(&self, lines: usize) -> Option<Rendered> {
        self.render_by(lines, |_, _, _, _| None)
    }

    fn render_by(&self, lines: usize, screen: ByScreen) -> Option<Rendered> {
        let bytes = self.pieces.concat();
        let mut bytes = bytes.as_slice();
        let mut skimmed = 0;
        if let Some(before) = self.skimmed {
            skimmed = before;
            // The rest of a line whose start is not known, unless there is nothing else.
            if let Some(end) = memchr(b'\n', bytes).filter(|end| end + 1 < bytes.len()) {
                bytes = bytes.get(end + 1..).unwrap_or_default();
                skimmed += 1;
            }
            // A line without end counts too.
            skimmed = skimmed.max(1);
        } else if !self.started
            && let Some(echo) = memmem::find(bytes, ACCEPTED)
        {
            bytes = bytes.get(echo + ACCEPTED.len()..).unwrap_or_default();
        }
        let text = valid(bytes);
        let (kept, cut) = match &self.modes {
            Some(modes) if Screens::of(modes).alternate => screen(&valid(modes), &text, self.size, lines)?,
            _ => render(&text, self.size, lines, screen)?,
        };
        skimmed += cut;
        let mut rendered = rendered(kept, self.at);
        if rendered.clears == 0 {
            rendered.dropped += skimmed;
        } else if skimmed > 0 {
            rendered.cleared = true;
        }
        if rendered.dropped > 0 {
            let first = if self.head.is_empty() { bytes } else { self.head.as_slice() };
            rendered.head = head(first, self.size, screen)?;
        }
        Some(rendered)
    }
}

/// Draws text on a screen, in the modes that were set before. Also tells how many lines at its start were too much work.
/// `None` when nothing is to be drawn.
type ByScreen = fn(&str, &str, PtySize, usize) -> Option<(Kept, u64)>;

/// What a terminal of `size` shows of `text`, which ends at `at`: for sessions that keep no terminal state of their own
/// ([`Session::rendered`](crate::Session::rendered)). Line ends may be plain newlines. At most the last 10,000 lines are
/// kept. Works through all of the text: a large one belongs on a thread that may be busy.
pub fn render_text(text: &str, size: PtySize, at: Offset) -> Rendered {
    /// Lines kept of a session that keeps no terminal state.
    const LINES: usize = 10_000;
    let text = text.replace("\r\n", "\n").replace('\n', "\r\n");
    let Some((kept, cut)) = render(&text, size, LINES, emulate) else { return Rendered::default() };
    let mut shown = rendered(kept, at);
    shown.dropped += cut;
    shown
}

fn rendered(mut kept: Kept, at: Offset) -> Rendered {
    while kept.lines.back().is_some_and(String::is_empty) {
        kept.lines.pop_back();
    }
    let text = kept.lines.make_contiguous().join("\n");
    Rendered {
        text,
        lines: kept.lines.len(),
        dropped: kept.dropped,
        cleared: kept.cleared,
        head: String::new(),
        at,
        clears: kept.clears,
    }
}

fn render(text: &str, size: PtySize, lines: usize, screen: ByScreen) -> Option<(Kept, u64)> {
    let mut reader = LineReader::new(size, lines);
    if reader.read(text) { Some((reader.finish(), 0)) } else { screen("", text, size, lines) }
}

/// The whole lines at the start of output.
fn head(bytes: &[u8], size: PtySize, screen: ByScreen) -> Option<String> {
    let bytes = bytes.get(..bytes.len().min(HEAD_MAX_BYTES)).unwrap_or_default();
    let end = memchr::memrchr(b'\n', bytes).map_or(bytes.len(), |end| end + 1);
    let text = valid(bytes.get(..end).unwrap_or_default());
    let text = text.get(..affordable_start(&text, size, HEAD_WORK_MAX)).unwrap_or_default();
    Some(rendered(render(text, size, usize::MAX, screen)?.0, Offset(0)).text)
}

/// The text, without what is not UTF-8.
fn valid(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
    }
    text
}

/// What control sequences ask of the screen.
#[derive(Debug, Default)]
struct Screens {
    /// The alternate screen is on at the end.
    alternate: bool,
    /// The cursor is sent to places that depend on the number of rows.
    whole: bool,
}

impl Screens {
    fn of(bytes: &[u8]) -> Self {
        let mut seen = Self::default();
        for at in memchr_iter(0x1b, bytes) {
            let Some([b'[', rest @ ..]) = bytes.get(at + 1..) else { continue };
            let Some(end) = rest.iter().position(|b| !(b' '..=b'?').contains(b)) else { continue };
            let (params, last) = (rest.get(..end).unwrap_or_default(), rest.get(end));
            match last {
                Some(b'H' | b'f' | b'd' | b'r' | b'L' | b'M' | b'S' | b'T') => seen.whole = true,
                Some(on @ (b'h' | b'l')) if params.starts_with(b"?") => {
                    let modes = String::from_utf8_lossy(params);
                    let mut modes = modes.trim_start_matches('?').split(';');
                    if modes.any(|m| matches!(m, "47" | "1047" | "1049")) {
                        seen.alternate = *on == b'h';
                        seen.whole = true;
                    }
                }
                _ => {}
            }
        }
        seen
    }
}

/// Renders with the emulator.
fn emulate(modes: &str, text: &str, size: PtySize, lines: usize) -> Option<(Kept, u64)> {
    Some(emulate_within(modes, text, size, lines, WORK_MAX))
}

/// The end of the text that can be drawn with `most` work, and how many lines before that were not.
fn emulate_within(modes: &str, text: &str, size: PtySize, lines: usize, most: u64) -> (Kept, u64) {
    let (gone, shown) = text.split_at_checked(affordable_end(text, size, most)).unwrap_or(("", text));
    if gone.is_empty() {
        return (draw(&[modes, shown], size, lines), 0);
    }
    let mut before = Backlog::with_limit(0);
    before.push(Bytes::copy_from_slice(modes.as_bytes()));
    before.push(Bytes::copy_from_slice(gone.as_bytes()));
    let cut = before.lines_skimmed().unwrap_or_default().max(1);
    let modes = before.modes().filter(|modes| Screens::of(modes).alternate).map(|modes| valid(&modes));
    (draw(&[modes.as_deref().unwrap_or_default(), shown], size, lines), cut)
}

fn draw(texts: &[&str], size: PtySize, lines: usize) -> Kept {
    let cols = usize::from(size.cols.max(1));
    let rows = usize::from(size.rows.max(1));
    let bytes: usize = texts.iter().map(|t| t.len()).sum();
    let needed = if texts.iter().any(|t| Screens::of(t.as_bytes()).whole) {
        rows
    } else {
        // No more rows than there are line ends and lines that wrap.
        let ends: usize = texts.iter().map(|t| memchr_iter(b'\n', t.as_bytes()).count()).sum();
        (ends + bytes / cols + 2).clamp(MIN_ROWS.min(rows), rows)
    };
    let mut collector = Collector { kept: Kept::new(lines), partial: String::new(), dropping: false };
    // Fails for a size of zero only.
    let Ok(mut terminal) = Terminal::with_scrollback(cols, needed, Some(0)) else { return collector.kept };
    for text in texts {
        terminal.feed_with(*text, &mut collector);
    }
    if terminal.active_screen_kind() == ScreenKind::Alternate {
        // A full-screen program: what it shows is all there is to see.
        collector.kept.lines.clear();
        collector.partial.clear();
    }
    // Rows below the last text are not lines.
    let blank = |line: &&&Line| line.chars().all(|c| c == ' ');
    let shown: Vec<&Line> = terminal.screen().visible_lines().collect();
    let rows = shown.len() - shown.iter().rev().take_while(blank).count();
    for line in shown.into_iter().take(rows) {
        collector.take(line);
    }
    collector.finish()
}

/// Takes the lines that scroll off the emulator's screen.
struct Collector {
    kept: Kept,
    /// A line whose rest is in the next row.
    partial: String,
    /// What scrolls off now has been cleared away.
    dropping: bool,
}

impl Collector {
    fn take(&mut self, line: &Line) {
        // A wide character that did not fit left the last column of the row before it empty.
        let wide = line.cells().first().is_some_and(|cell| cell.width() == 2);
        if wide && self.partial.ends_with(' ') {
            self.partial.pop();
        }
        if line.is_wrapped() {
            self.partial.extend(line.chars());
        } else {
            let text = line.text();
            let text = text.trim_end();
            let mut whole = std::mem::take(&mut self.partial);
            whole.push_str(text);
            self.kept.push(whole);
        }
    }

    fn finish(mut self) -> Kept {
        if !self.partial.is_empty() {
            self.kept.push(std::mem::take(&mut self.partial));
        }
        self.kept
    }
}

impl Observer for Collector {
    type Output = ();

    fn before(&mut self, context: &mut Observation<'_>, operation: &Operation) {
        self.dropping = false;
        let terminal = context.terminal();
        let clears = match operation {
            Operation::Function(Function::Ris) => true,
            Operation::Function(Function::Ed(scope)) => {
                let cursor = terminal.cursor();
                terminal.active_screen_kind() == ScreenKind::Primary
                    && match scope {
                        EdScope::All => true,
                        EdScope::Below => (cursor.row, cursor.col) == (0, 0),
                        EdScope::SavedLines | EdScope::Above => false,
                    }
            }
            _ => false,
        };
        if clears {
            let shown = terminal.primary_screen().visible_lines().any(|l| l.chars().any(|c| c != ' '));
            self.kept.clear(shown || !self.partial.is_empty());
            self.partial.clear();
            self.dropping = true;
        }
    }

    fn evicted(&mut self, _context: &mut Observation<'_>, line: &Line) {
        if !self.dropping {
            self.take(line);
        }
    }

    fn end(&mut self, _context: &mut Observation<'_>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: PtySize = PtySize { cols: 20, rows: 5 };

    fn turn(pieces: &[&[u8]]) -> TurnBytes {
        let mut turn = TurnBytes::new(10);
        let mut at = 10;
        for piece in pieces {
            turn.push(at, &Bytes::copy_from_slice(piece));
            at += piece.len() as u64;
        }
        turn
    }

    fn show(text: &str, lines: usize) -> Rendered {
        turn(&[text.as_bytes()]).snapshot(true, false, SIZE).render(lines)
    }

    #[test]
    fn a_screen_is_used_where_it_takes_one() {
        assert_eq!(show("one\r\ntwo\r\n\x1b[2A\x1b[2K1\r\n\x1b[2K2\r\n", 9).text, "1\n2");
        assert_eq!(show("a\x1b[3;3Hb", 9).text, "a\n\n  b");
        assert_eq!(show("raw\nmode", 9).text, "raw\n   mode");
        let long = "x".repeat(45);
        assert_eq!(
            show(&format!("{long}\r\n\x1b[Ay\r\n"), 9).text,
            format!("{}y{}", "x".repeat(40), "x".repeat(4))
        );
        assert_eq!(show("shell\x1b[?1049h\x1b[Hvim", 9).text, "vim");
        assert_eq!(show("shell\r\n\x1b[?1049h\x1b[Hvim\x1b[?1049l", 9).text, "shell");
        let many: String = (0..40).map(|n| format!("{n}\r\n")).collect();
        let all: Vec<String> = (0..40).map(|n| n.to_string()).collect();
        assert_eq!(show(&format!("{many}\x1b7\x1b8"), 99).text, all.join("\n"));
        let last = show(&format!("{many}\x1b7\x1b8"), 3);
        assert_eq!((last.text.as_str(), last.dropped), ("37\n38\n39", 37));
        let cleared = show("gone\r\n\x1b[A\x1b[2Jx", 9);
        assert!(cleared.text.trim() == "x" && cleared.cleared && cleared.truncated());
    }

    /// Seven bytes that ask for a million cells.
    #[test]
    fn what_costs_too_much_to_draw_is_cut() {
        let text = format!("first\r\n{}\x1b[2J\x1b[Hlast", "\x1b[5Sx\r\n".repeat(3000));
        let all = draw(&[&text], SIZE, 99);
        let (kept, cut) = emulate_within("", &text, SIZE, 99, 10_000);
        assert!((2800..3000).contains(&cut), "{cut}");
        assert_eq!((&all.lines, kept.cleared), (&kept.lines, true));
        assert_eq!(emulate_within("", &text, SIZE, 99, u64::MAX).1, 0);
        // The alternate screen is still on.
        let on = format!("\x1b[?1049h{}", "\x1b[5Sx\r\n".repeat(3000));
        let (kept, cut) = emulate_within("", &on, SIZE, 99, 10_000);
        assert!(cut > 2000 && kept.lines.len() <= 5, "{cut} {:?}", kept.lines);
        // The start of it is bounded, too.
        let large = PtySize { cols: 1000, rows: 1000 };
        let start = format!("first\r\n{}", "\x1b[1000S".repeat(9000));
        assert!(affordable_start(&start, large, HEAD_WORK_MAX) < 1000);
        assert!(head(start.as_bytes(), large, emulate).unwrap().starts_with("first"));
    }

    #[test]
    fn only_lines_are_told_where_nobody_may_wait() {
        let quick = |text: &str| turn(&[text.as_bytes()]).snapshot(true, false, SIZE).render_lines(9);
        assert_eq!(quick("one\r\ntwo").unwrap().text, "one\ntwo");
        assert!(quick("\x1b[5S").is_none());
        assert!(quick(&format!("{}\x1b[3;3H", "x\r\n".repeat(20))).is_none());
    }

    #[test]
    fn bytes_outside_of_the_turn_are_not_shown() {
        let mut turn = TurnBytes::new(4);
        turn.push(0, &Bytes::from_static(b"echoab"));
        turn.end(8);
        turn.push(6, &Bytes::from_static(b"cdprompt"));
        turn.push(14, &Bytes::from_static(b"more"));
        let shown = turn.snapshot(true, false, SIZE).render(9);
        assert_eq!((shown.text.as_str(), shown.at), ("abcd", Offset(8)));
        assert_eq!(turn.snapshot(false, true, SIZE).render(9).text, "");
        let refused = self::turn(&[b"fi\r\n\x1b[?2004l\rbash: no\r\n"]);
        assert_eq!(refused.snapshot(false, false, SIZE).render(9).text, "bash: no");
        assert_eq!(
            self::turn(&[b"a\xff\xfeb\xc3", b"\xa9"]).snapshot(true, false, SIZE).render(9).text,
            "abé"
        );
    }

    #[test]
    fn what_is_new_is_told() {
        let (one, two) = (show("Name: ", 9), show("Name: Al\r\nHi Al\r\n", 9));
        assert_eq!(two.since(&one), Some(" Al\nHi Al"));
        assert_eq!(show("10%\r20%", 9).since(&show("10%", 9)), None);
        assert_eq!(show("a\x1b[2Ja", 9).since(&show("a", 9)), None);
        let lines = |n: u32| (0..n).map(|n| format!("{n}\r\n")).collect::<String>();
        let (early, late) = (show(&lines(12), 10), show(&lines(15), 10));
        assert_eq!((early.dropped, late.dropped, late.since(&early)), (2, 5, Some("\n12\n13\n14")));
        assert_eq!(show(&lines(100), 10).since(&early), Some("90\n91\n92\n93\n94\n95\n96\n97\n98\n99"));
    }

    #[test]
    fn a_flood_keeps_its_head_and_its_tail() {
        let mut turn = TurnBytes::new(0);
        let (mut at, mut n) = (0, 0u64);
        while at < 4 * TAIL_MAX_BYTES as u64 {
            let lines: String = (n..n + 1000).map(|n| format!("line {n}\r\n")).collect();
            n += 1000;
            turn.push(at, &Bytes::from(lines.clone()));
            at += lines.len() as u64;
        }
        assert!(turn.tail.len() <= TAIL_MAX_BYTES && turn.head.len() == HEAD_MAX_BYTES);
        let shown = turn.snapshot(true, false, SIZE).render(1000);
        assert_eq!(shown.lines as u64 + shown.dropped, n);
        assert!(shown.text.ends_with(&format!("\nline {}", n - 1)) && shown.lines == 1000);
        assert!(shown.text.starts_with(&format!("line {}\n", n - 1000)));
        assert!(shown.head.starts_with("line 0\nline 1\n") && shown.head.len() < HEAD_MAX_BYTES);
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics(pieces in proptest::collection::vec(proptest::collection::vec(proptest::num::u8::ANY, 0..60), 0..10)) {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            turn(&pieces).snapshot(true, false, SIZE).render(5);
        }

        /// The two ways of reading agree.
        #[test]
        fn lines_and_screens_agree(parts in proptest::collection::vec(proptest::sample::select(vec![
            "a", "bc", "日", "\r", "\r\n", "\x08", "\t", "\x1b[K", "\x1b[1K", "\x1b[2K", "\x1b[3D", "\x1b[2C", "\x1b[4G", "\x1b[P",
            "\x1b[2@", "\x1b[3X", "\x1b[m", "0123456789",
        ]), 0..25)) {
            let text = parts.concat();
            let mut reader = LineReader::new(SIZE, 99);
            if reader.read(&text) {
                let lines = rendered(reader.finish(), Offset(0)).text;
                let screen = rendered(draw(&[&text], SIZE, 99), Offset(0)).text;
                proptest::prop_assert_eq!(lines, screen, "{:?}", text);
            }
        }
    }
}
