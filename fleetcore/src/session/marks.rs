//! Shell marks in a byte stream: OSC 133 with a nonce per session.
//!
//! A mark is `ESC ] 133 ; <code> ; … BEL` (or `ESC \` instead of BEL), the sequence terminals already know as
//! "semantic prompt" and do not show:
//!
//! | mark | sent | fields |
//! |---|---|---|
//! | `I;k=<nonce>;<shell>` | once, when the set-up is in place | which set-up: `bash` or `sh` |
//! | `D;<exit>;k=<nonce>;<dir>` | first thing after a command | exit code, directory |
//! | `A;k=<nonce>;<exit>;<dir>` | start of a prompt | the same, for shells whose `D` was taken away |
//! | `B;k=<nonce>` | end of a prompt | the shell reads input now |
//! | `C;k=<nonce>` | a command was read and is about to run | |
//! | `P;k=<nonce>` | continuation prompt | the text so far is incomplete |
//! | `R;k=<nonce>` | the shell is about to read a long command | |
//! | `L;k=<nonce>` | a long command has been loaded | it is about to run: what came before is its text |
//! | `F;k=<nonce>;<job>;<user>;<host>` | before `D` | `$!`, user and host |
//! | `W;k=<nonce>;<name>;<path>` | before `D` | where a program is; empty when it is not there |
//!
//! Marks without the nonce are the program's own output and mean nothing here.

use memchr::{memchr, memchr2};

/// Longest mark that is looked at: a path may have 4096 bytes (`PATH_MAX`), the rest is small.
pub(crate) const MARK_MAX_BYTES: usize = 4096 + 256;
const PREFIX: &[u8] = b"\x1b]133;";
const ESC: u8 = 0x1b;
const BEL: u8 = 0x07;

/// Which set-up of marks a shell runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// bash: reads commands with readline, marks from `PS0` and `PROMPT_COMMAND`.
    Bash,
    /// Any POSIX shell: the terminal's own line editing, marks from `PS1`.
    Posix,
}

/// What a mark says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MarkKind {
    /// The set-up is in place.
    Init(Flavour),
    /// A command has ended.
    End(Told),
    /// A prompt begins.
    PromptStart(Told),
    /// A prompt ends: the shell reads.
    PromptEnd,
    /// A command starts.
    Start,
    /// The shell wants more of an incomplete command.
    Continuation,
    /// The shell has put its hooks back and is not in the middle of reading something else than a command.
    Back,
    /// The shell reads a command outside of its line editor.
    Reading,
    /// The shell has read a command that was handed to it outside of its line editor.
    Loaded,
    /// The shell tells about itself.
    Facts {
        /// `$!`.
        last_job: Option<u32>,
        /// Who it runs as.
        user: String,
        /// Where it runs.
        host: String,
    },
    /// Where a program is; empty when it is not there.
    Located {
        /// Its name.
        name: String,
        /// Its path.
        path: String,
    },
}

/// What the shell tells at a prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// Exit code of the last command.
    pub(crate) exit_code: Option<i32>,
    /// Directory, when it is an absolute path in UTF-8.
    pub(crate) cwd: Option<String>,
}

/// A mark of this session and where it stands in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// What it says.
    pub(crate) kind: MarkKind,
    /// Offset of its first byte.
    pub(crate) start: u64,
    /// Offset behind its last byte.
    pub(crate) end: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Ground,
    /// This many bytes of [`PREFIX`] have been seen.
    Prefix(usize),
    /// Inside a mark.
    Body,
    /// Inside a mark, after an ESC.
    BodyEsc,
}

/// Finds marks in a stream that arrives in pieces. Looks at every byte once and keeps at most
/// [`MARK_MAX_BYTES`].
#[derive(Debug)]
pub(crate) struct Parser {
    key: String,
    state: State,
    start: u64,
    at: u64,
    body: Vec<u8>,
}

impl Parser {
    /// A parser for the marks that carry `nonce`, at offset `at` of the stream.
    pub(crate) fn new(nonce: &str, at: u64) -> Self {
        Self { key: format!("k={nonce}"), state: State::Ground, start: at, at, body: Vec::new() }
    }

    /// Offset of the next byte to be fed.
    pub(crate) fn position(&self) -> u64 {
        self.at
    }

    /// Takes the next piece and calls `found` for each mark that is complete.
    pub(crate) fn feed(&mut self, mut piece: &[u8], mut found: impl FnMut(Mark)) {
        while let Some((&byte, rest)) = piece.split_first() {
            match self.state {
                State::Ground => {
                    let Some(skip) = memchr(ESC, piece) else {
                        self.at += piece.len() as u64;
                        return;
                    };
                    self.at += skip as u64;
                    self.start = self.at;
                    self.state = State::Prefix(1);
                    self.at += 1;
                    piece = piece.get(skip + 1..).unwrap_or_default();
                }
                State::Prefix(n) => {
                    if PREFIX.get(n) == Some(&byte) {
                        self.state = if n + 1 == PREFIX.len() { State::Body } else { State::Prefix(n + 1) };
                        self.body.clear();
                        self.at += 1;
                        piece = rest;
                    } else {
                        // Not ours; the byte is looked at again, it may start a mark.
                        self.state = State::Ground;
                    }
                }
                State::Body => {
                    let len = memchr2(BEL, ESC, piece).unwrap_or(piece.len());
                    let (body, rest) = piece.split_at(len);
                    self.at += len as u64;
                    piece = rest;
                    if self.body.len() + len > MARK_MAX_BYTES {
                        self.state = State::Ground;
                        continue;
                    }
                    self.body.extend_from_slice(body);
                    if let Some((&end, rest)) = piece.split_first() {
                        self.at += 1;
                        piece = rest;
                        if end == BEL {
                            self.complete(&mut found);
                        } else {
                            self.state = State::BodyEsc;
                        }
                    }
                }
                State::BodyEsc => {
                    if byte == b'\\' {
                        self.at += 1;
                        piece = rest;
                        self.complete(&mut found);
                    } else {
                        // The mark was cut off; its last ESC may start another one.
                        self.start = self.at - 1;
                        self.state = State::Prefix(1);
                    }
                }
            }
        }
    }

    fn complete(&mut self, found: &mut impl FnMut(Mark)) {
        self.state = State::Ground;
        let Ok(body) = std::str::from_utf8(&self.body) else { return };
        if let Some(kind) = parse(body, &self.key) {
            found(Mark { kind, start: self.start, end: self.at });
        }
    }
}

fn parse(body: &str, key: &str) -> Option<MarkKind> {
    let (code, rest) = body.split_once(';')?;
    // Only `D` has a field before the key: terminals that know OSC 133 expect its exit code there.
    let (exit, rest) = if code == "D" { rest.split_once(';')? } else { ("", rest) };
    let tail = rest.strip_prefix(key)?;
    let tail = if tail.is_empty() { "" } else { tail.strip_prefix(';')? };
    Some(match code {
        "I" => MarkKind::Init(if tail == "bash" { Flavour::Bash } else { Flavour::Posix }),
        "D" => MarkKind::End(told(exit, tail)),
        "A" => {
            let (exit, cwd) = tail.split_once(';')?;
            MarkKind::PromptStart(told(exit, cwd))
        }
        "B" => MarkKind::PromptEnd,
        "C" => MarkKind::Start,
        "P" => MarkKind::Continuation,
        "H" => MarkKind::Back,
        "R" => MarkKind::Reading,
        "L" => MarkKind::Loaded,
        "F" => {
            let (job, rest) = tail.split_once(';')?;
            let (user, host) = rest.split_once(';')?;
            MarkKind::Facts { last_job: job.parse().ok(), user: user.to_owned(), host: host.to_owned() }
        }
        "W" => {
            let (name, path) = tail.split_once(';')?;
            MarkKind::Located { name: name.to_owned(), path: path.to_owned() }
        }
        _ => return None,
    })
}

fn told(exit: &str, cwd: &str) -> Told {
    Told { exit_code: exit.parse().ok(), cwd: cwd.starts_with('/').then(|| cwd.to_owned()) }
}

/// What readline writes once it has a line.
pub(crate) const ACCEPTED: &[u8] = b"\x1b[?2004l\r";

/// Text of a turn from the bytes the terminal got: what stands before the (first) start mark goes, because it is
/// the echo of the command; marks go; line ends become `\n`.
///
/// Without a start mark (the shell refused the command, say for its syntax) the echo ends where readline switches
/// bracketed paste off, which is looked for only when `raw` holds the turn from its start.
pub(crate) fn turn_text(raw: &[u8], nonce: &str, from_start: bool) -> String {
    let mut parser = Parser::new(nonce, 0);
    let mut marks = Vec::new();
    parser.feed(raw, |m| marks.push(m));
    let loaded = marks.iter().find(|m| m.kind == MarkKind::Loaded);
    let mut at = match loaded.or_else(|| marks.iter().find(|m| m.kind == MarkKind::Start)) {
        Some(m) => m.end as usize,
        None if from_start => memchr::memmem::find(raw, ACCEPTED).map_or(0, |i| i + ACCEPTED.len()),
        None => 0,
    };
    let mut kept = Vec::with_capacity(raw.len().saturating_sub(at));
    for m in &marks {
        if m.start as usize >= at {
            kept.extend_from_slice(raw.get(at..m.start as usize).unwrap_or_default());
            at = m.end as usize;
        }
    }
    kept.extend_from_slice(raw.get(at..).unwrap_or_default());
    // Readline switches bracketed paste on before it draws a prompt; it is the last thing in a turn whose end is
    // told by the prompt.
    let kept = kept.strip_suffix(b"\x1b[?2004h").unwrap_or(&kept);
    let text = String::from_utf8_lossy(kept);
    if text.contains("\r\n") { text.replace("\r\n", "\n") } else { text.into_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(pieces: &[&[u8]]) -> Vec<Mark> {
        let mut p = Parser::new("n1", 0);
        let mut out = vec![];
        for piece in pieces {
            p.feed(piece, |m| out.push(m));
        }
        assert_eq!(p.position(), pieces.iter().map(|p| p.len() as u64).sum::<u64>());
        out
    }

    fn kinds(pieces: &[&[u8]]) -> Vec<MarkKind> {
        all(pieces).into_iter().map(|m| m.kind).collect()
    }

    #[test]
    fn every_mark_is_read() {
        let told = |c, d: &str| Told { exit_code: c, cwd: Some(d.into()) };
        let got = kinds(&[b"x\x1b]133;I;k=n1;bash\x07\x1b]133;D;3;k=n1;/a b;c\x07y\x1b]133;A;k=n1;4;/z\x07\
            \x1b]133;B;k=n1\x07\x1b]133;C;k=n1\x1b\\\x1b]133;P;k=n1\x07"]);
        assert_eq!(
            got,
            [
                MarkKind::Init(Flavour::Bash),
                MarkKind::End(told(Some(3), "/a b;c")),
                MarkKind::PromptStart(told(Some(4), "/z")),
                MarkKind::PromptEnd,
                MarkKind::Start,
                MarkKind::Continuation,
            ]
        );
    }

    #[test]
    fn forged_and_broken_marks_are_ignored() {
        for bad in [
            &b"\x1b]133;D;0;k=other;/\x07"[..],
            b"\x1b]133;D;0;k=n11;/\x07",
            b"\x1b]133;D;0\x07",
            b"\x1b]133;C\x07",
            b"\x1b]133;Z;k=n1\x07",
            b"\x1b]133;D;0;k=n1;/\xff\x07",
            b"]133;D;0;k=n1;/\x07",
            b"\\e]133;D;0;k=n1;/\x07",
        ] {
            assert_eq!(all(&[bad]), [], "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn an_unfinished_mark_does_not_hide_the_next_one() {
        let mut bytes = b"\x1b]133;D;0;k=n1;".to_vec();
        bytes.extend(vec![b'x'; MARK_MAX_BYTES + 1]);
        bytes.extend(b"\x1b]133;D;1\x1b\x1b]133;C;k=n1\x07");
        let got = all(&[&bytes]);
        assert_eq!(got.len(), 1);
        assert_eq!((got[0].end - got[0].start, got[0].end), (13, bytes.len() as u64));
    }

    #[test]
    fn text_is_what_the_command_wrote() {
        let raw =
            b"echo\r\n\x1b[?2004l\r\x1b]133;C;k=n1\x07one\r\n\x1b]133;C;k=n1\x07t\xc3\xa9\x1b]133;C\x07\r\n";
        assert_eq!(turn_text(raw, "n1", true), "one\nt\u{e9}\x1b]133;C\x07\n");
        assert_eq!(turn_text(b"fi\r\n\x1b[?2004l\rbash: no\r\n", "n1", true), "bash: no\n");
        assert_eq!(turn_text(b"tail \x1b[?2004l\r", "n1", false), "tail \x1b[?2004l\r");
    }

    fn fragment() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..20),
            Just(b"\x1b]133;D;7;k=n1;/d\x07".to_vec()),
            Just(b"\x1b]133;C;k=n1\x1b\\".to_vec()),
            Just(b"\x1b]133;D;7;k=zz;/d\x07".to_vec()),
            Just(b"\x1b]133;".to_vec()),
            Just(b"\x1b\x1b]".to_vec()),
        ]
    }

    proptest! {
        #[test]
        fn splits_do_not_matter(parts in prop::collection::vec(fragment(), 0..12), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
            let bytes = parts.concat();
            let mut cuts: Vec<usize> = cuts.iter().map(|c| c.index(bytes.len() + 1)).collect();
            cuts.sort_unstable();
            let mut pieces = vec![];
            let mut at = 0;
            for c in cuts {
                pieces.push(&bytes[at..c]);
                at = c;
            }
            pieces.push(&bytes[at..]);
            let whole = all(&[&bytes]);
            prop_assert_eq!(&whole, &all(&pieces));
            let mut last = 0;
            for m in &whole {
                prop_assert!(m.start >= last && m.end > m.start && m.end <= bytes.len() as u64);
                prop_assert!(bytes[m.start as usize..].starts_with(PREFIX));
                last = m.end;
            }
            turn_text(&bytes, "n1", true);
        }
    }
}
