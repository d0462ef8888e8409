//! How much work a terminal makes.
//!
//! A program can ask an emulator for a million cells with seven bytes (`CSI 1000 S` on a screen of 1000 lines). What is
//! drawn is therefore bounded by what it costs to draw, not by its bytes alone: of output beyond the bound the end is
//! drawn, as with output that has too many bytes.

use avt::parser::{AnsiMode, Function, Parser, State};

use crate::PtySize;

/// Most cells that are written to make one picture: a thousand full screens of the largest usual terminal, or some
/// seconds of one processor.
pub(crate) const WORK_MAX: u64 = 2 << 30;

/// Adds up what text costs.
#[derive(Debug)]
pub(crate) struct Meter {
    parser: Parser,
    rows: u64,
    cols: u64,
    /// Every character moves the rest of its line.
    inserts: bool,
    total: u64,
}

impl Meter {
    /// On a screen of `size`.
    pub(crate) fn new(size: PtySize) -> Self {
        let (rows, cols) = (u64::from(size.rows.max(1)), u64::from(size.cols.max(1)));
        Self { parser: Parser::new(), rows, cols, inserts: false, total: 0 }
    }

    /// Cells that were written for everything so far, at most.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Takes a character. True when text may be cut behind it: it is not in the middle of a control sequence.
    pub(crate) fn take(&mut self, c: char) -> bool {
        if let Some(function) = self.parser.feed(c) {
            self.total = self.total.saturating_add(self.cost(&function));
        }
        self.parser.state == State::Ground
    }

    fn cost(&mut self, function: &Function) -> u64 {
        let lines = |n: &u16| u64::from(*n).clamp(1, self.rows) * self.cols + self.rows;
        match function {
            Function::Print(_) if !self.inserts => 1,
            Function::Rep(n) if !self.inserts => u64::from(*n).max(1),
            Function::Rep(n) => u64::from(*n).max(1) * self.cols,
            Function::Su(n) | Function::Sd(n) | Function::Il(n) | Function::Dl(n) => lines(n),
            Function::Lf | Function::Nel | Function::Ri => self.cols + self.rows,
            Function::Ed(_)
            | Function::Ris
            | Function::Decaln
            | Function::Decstr
            | Function::Decset(_)
            | Function::Decrst(_) => 2 * self.rows * self.cols,
            Function::Print(_) | Function::El(_) | Function::Ich(_) | Function::Dch(_) | Function::Ech(_) => {
                self.cols
            }
            Function::Cht(_) | Function::Cbt(_) => self.cols,
            Function::Sm(modes) | Function::Rm(modes) => {
                if modes.as_slice().contains(&AnsiMode::Insert) {
                    self.inserts = matches!(function, Function::Sm(_));
                }
                1
            }
            _ => 1,
        }
    }
}

/// Where to cut `text` so that what is left costs at most `most`; 0 when all of it does. Looks at every byte once.
pub(crate) fn affordable_end(text: &str, size: PtySize, most: u64) -> usize {
    let mut meter = Meter::new(size);
    // Places where it may be cut, and what was spent there.
    let mut places = vec![(0, 0)];
    let step = most / 64;
    let mut last = 0;
    for (at, c) in text.char_indices() {
        let whole = meter.take(c);
        if whole && meter.total() >= last + step {
            last = meter.total();
            places.push((at + c.len_utf8(), last));
        }
    }
    let from = meter.total().saturating_sub(most);
    places.iter().find(|(_, spent)| *spent >= from).map_or(text.len(), |(at, _)| *at)
}

/// How much of the start of `text` costs at most `most`.
pub(crate) fn affordable_start(text: &str, size: PtySize, most: u64) -> usize {
    let mut meter = Meter::new(size);
    let mut end = 0;
    for (at, c) in text.char_indices() {
        let whole = meter.take(c);
        if meter.total() > most {
            return end;
        }
        if whole {
            end = at + c.len_utf8();
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: PtySize = PtySize { cols: 1000, rows: 1000 };

    #[test]
    fn text_that_is_cheap_is_not_cut() {
        let text = "a line of text\r\n".repeat(10_000);
        assert_eq!(affordable_end(&text, SIZE, WORK_MAX), 0);
        assert_eq!(affordable_start(&text, SIZE, WORK_MAX), text.len());
        assert_eq!((affordable_end("", SIZE, 0), affordable_start("", SIZE, 0)), (0, 0));
    }

    #[test]
    fn what_costs_too_much_is_cut_between_sequences() {
        for dear in ["\x1b[1000S", "\x1b[2J", "\x1bc", "\x1b[1000L", "\x1b[?1049h", "\u{9b}1000T", "\x1b#8"] {
            let text = dear.repeat(20_000);
            let end = affordable_end(&text, SIZE, WORK_MAX);
            assert!(end > 0 && end < text.len() && end.is_multiple_of(dear.len()), "{dear:?} {end}");
            let left = (text.len() - end) / dear.len();
            assert!((500..=2200).contains(&left), "{dear:?}: {left} are left");
            let start = affordable_start(&text, SIZE, WORK_MAX);
            assert!(
                start.is_multiple_of(dear.len()) && (500..=2200).contains(&(start / dear.len())),
                "{dear:?}"
            );
        }
        let insert = format!("\x1b[4h{}", "x".repeat(8 << 20));
        assert!(affordable_end(&insert, SIZE, WORK_MAX) > 5 << 20);
    }
}
