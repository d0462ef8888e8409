//! Text of a file and the way back to its bytes.

use std::{borrow::Cow, ops::Range};

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, WINDOWS_1252};

use super::EditError;

/// What an encoding is guessed from, where it has to be.
const GUESS_BYTES: usize = 1 << 20;

/// How text is stored in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charset(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Utf8 {
        bom: bool,
    },
    /// With a byte order mark.
    Utf16 {
        big_endian: bool,
    },
    Old(&'static Encoding),
}

impl Charset {
    /// UTF-8 without a byte order mark, for new files.
    pub const UTF_8: Self = Self(Kind::Utf8 { bom: false });

    /// Its name in the WHATWG encoding standard.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Utf8 { .. } => "UTF-8",
            Kind::Utf16 { big_endian: false } => "UTF-16LE",
            Kind::Utf16 { big_endian: true } => "UTF-16BE",
            Kind::Old(encoding) => encoding.name(),
        }
    }

    fn decode(bytes: &[u8]) -> Option<(Self, String)> {
        if let Some(rest) = bytes.strip_prefix(b"\xef\xbb\xbf")
            && let Ok(text) = std::str::from_utf8(rest)
        {
            return Some((Self(Kind::Utf8 { bom: true }), text.to_owned()));
        }
        for (mark, big_endian) in [([0xff, 0xfe], false), ([0xfe, 0xff], true)] {
            if let Some(rest) = bytes.strip_prefix(&mark) {
                return Some((Self(Kind::Utf16 { big_endian }), utf16(rest, big_endian)?));
            }
        }
        if let Ok(text) = std::str::from_utf8(bytes) {
            return Some((Self::UTF_8, text.to_owned()));
        }
        let head = bytes.get(..GUESS_BYTES).unwrap_or(bytes);
        let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
        detector.feed(head, head.len() == bytes.len());
        let guess = detector.guess(None, Utf8Detection::Deny);
        // The last resort gives every byte a character of its own.
        [guess, WINDOWS_1252].into_iter().find_map(|encoding| {
            let charset = Self(Kind::Old(encoding));
            let (text, malformed) = encoding.decode_without_bom_handling(bytes);
            let back = (!malformed).then(|| charset.encode(&text).ok()).flatten()?;
            (back == bytes).then(|| (charset, text.into_owned()))
        })
    }

    fn encode(self, text: &str) -> Result<Vec<u8>, EditError> {
        match self.0 {
            Kind::Utf8 { bom: false } => Ok(text.as_bytes().to_vec()),
            Kind::Utf8 { bom: true } => Ok([b"\xef\xbb\xbf", text.as_bytes()].concat()),
            Kind::Utf16 { big_endian } => {
                let order = if big_endian { u16::to_be_bytes } else { u16::to_le_bytes };
                Ok(std::iter::once(0xfeff).chain(text.encode_utf16()).flat_map(order).collect())
            }
            Kind::Old(encoding) => {
                let (bytes, _, unmappable) = encoding.encode(text);
                if !unmappable {
                    return Ok(bytes.into_owned());
                }
                let bad = text.chars().find(|c| encoding.encode(c.encode_utf8(&mut [0; 4])).2);
                Err(EditError::Unencodable {
                    character: bad.unwrap_or(char::REPLACEMENT_CHARACTER),
                    charset: self,
                })
            }
        }
    }
}

fn utf16(bytes: &[u8], big_endian: bool) -> Option<String> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let order = if big_endian { u16::from_be_bytes } else { u16::from_le_bytes };
    let text = char::decode_utf16(pairs.iter().map(|pair| order(*pair))).collect::<Result<_, _>>().ok()?;
    rest.is_empty().then_some(text)
}

/// Text of a file: what an editor shows, and what it needs to give back the bytes it was not asked to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    charset: Charset,
    /// With the line ends of the file.
    raw: String,
    /// With `\n` as the only line end; `None` where that is the same.
    shown: Option<String>,
    /// Where in `shown` a `\n` stands for `\r\n`, ascending.
    pairs: Vec<usize>,
    /// What most lines end with.
    line_end: &'static str,
}

impl Document {
    /// A new text, in UTF-8.
    pub fn new(text: &str) -> Self {
        Self::of(Charset::UTF_8, text.to_owned())
    }

    /// The text of `bytes`. UTF-8, and UTF-16 with a byte order mark, are known for certain; other encodings are
    /// guessed from the first MiB, but only where exactly the same bytes come out again.
    ///
    /// # Errors
    /// [`EditError::Undecodable`]: UTF-16 with halves of characters.
    pub fn decode(bytes: &[u8]) -> Result<Self, EditError> {
        let (charset, raw) = Charset::decode(bytes).ok_or(EditError::Undecodable)?;
        Ok(Self::of(charset, raw))
    }

    fn of(charset: Charset, raw: String) -> Self {
        let mut pairs = Vec::new();
        if !raw.contains('\r') {
            return Self { charset, raw, shown: None, pairs, line_end: "\n" };
        }
        let mut shown = String::with_capacity(raw.len());
        let (mut alone, mut returns) = (0_usize, 0_usize);
        let mut rest = raw.as_str();
        while let Some(at) = rest.find(['\r', '\n']) {
            let (line, end) = rest.split_at(at);
            shown.push_str(line);
            rest = if let Some(rest) = end.strip_prefix("\r\n") {
                pairs.push(shown.len());
                rest
            } else if let Some(rest) = end.strip_prefix('\r') {
                returns += 1;
                rest
            } else {
                alone += 1;
                end.strip_prefix('\n').unwrap_or_default()
            };
            shown.push('\n');
        }
        shown.push_str(rest);
        let line_end = match () {
            () if pairs.len() > alone && pairs.len() >= returns => "\r\n",
            () if returns > alone => "\r",
            () => "\n",
        };
        Self { charset, raw, shown: Some(shown), pairs, line_end }
    }

    /// The text with `\n` at the end of every line, without byte order mark.
    pub fn text(&self) -> &str {
        self.shown.as_deref().unwrap_or(&self.raw)
    }

    /// How it is stored.
    pub fn charset(&self) -> Charset {
        self.charset
    }

    /// What most lines of the file end with: `\n`, `\r\n` or `\r`.
    pub fn line_end(&self) -> &'static str {
        self.line_end
    }

    /// Lines, counting one that does not end.
    pub fn line_count(&self) -> usize {
        line_count(self.text())
    }

    /// Lines `first` to `last`, counted from 1, both included, with their ends; as many of them as there are.
    pub fn lines(&self, first: usize, last: usize) -> &str {
        let text = self.text();
        let from = line_start(text, first.saturating_sub(1));
        let to = line_start(text, last).max(from);
        text.get(from..to).unwrap_or_default()
    }

    /// The same with `range` of [`text`](Self::text) replaced; `with` gets the line ends of the file.
    ///
    /// # Errors
    /// [`EditError::OutOfRange`] if `range` does not lie between characters of the text.
    pub fn splice(&self, range: Range<usize>, with: &str) -> Result<Self, EditError> {
        let raw = |at: usize| at + self.pairs.partition_point(|pair| *pair < at);
        let outside = || EditError::OutOfRange { lines: self.line_count() };
        let before = self.raw.get(..raw(range.start)).ok_or_else(outside)?;
        let after = self.raw.get(raw(range.end)..).ok_or_else(outside)?;
        if range.start > range.end {
            return Err(outside());
        }
        Ok(Self::of(self.charset, [before, &self.with_line_ends(with), after].concat()))
    }

    fn with_line_ends<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match self.line_end {
            "\n" => Cow::Borrowed(text),
            end => Cow::Owned(text.replace("\r\n", "\n").replace('\n', end)),
        }
    }

    /// The bytes of the file.
    ///
    /// # Errors
    /// [`EditError::Unencodable`] if a character was added that its encoding does not have.
    pub fn encode(&self) -> Result<Vec<u8>, EditError> {
        self.charset.encode(&self.raw)
    }
}

fn line_count(text: &str) -> usize {
    let ends = memchr::memchr_iter(b'\n', text.as_bytes()).count();
    ends + usize::from(!text.is_empty() && !text.ends_with('\n'))
}

/// Where the line after the first `lines` begins; the end of the text if there are fewer.
pub(super) fn line_start(text: &str, lines: usize) -> usize {
    match lines.checked_sub(1) {
        None => 0,
        Some(n) => memchr::memchr_iter(b'\n', text.as_bytes()).nth(n).map_or(text.len(), |at| at + 1),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(bytes: &[u8]) -> (String, &'static str) {
        let document = Document::decode(bytes).unwrap();
        assert_eq!(document.encode().unwrap(), bytes);
        (document.text().to_owned(), document.charset().name())
    }

    #[test]
    fn encodings_are_known_and_given_back() {
        assert_eq!(shown("naïve 🎉\n".as_bytes()), ("naïve 🎉\n".into(), "UTF-8"));
        assert_eq!(shown(b"\xef\xbb\xbfhi\n"), ("hi\n".into(), "UTF-8"));
        assert_eq!(shown(b"\xff\xfeh\0\xe9\0\r\0\n\0"), ("hé\n".into(), "UTF-16LE"));
        assert_eq!(shown(b"\xfe\xff\0h\0\n"), ("h\n".into(), "UTF-16BE"));
        let (cyrillic, ..) = encoding_rs::WINDOWS_1251.encode("Привет, мир! Как дела?");
        assert_eq!(shown(&cyrillic), ("Привет, мир! Как дела?".into(), "windows-1251"));
        assert!(matches!(Document::decode(b"\xff\xfeh\0\0"), Err(EditError::Undecodable)));
    }

    #[test]
    fn what_an_encoding_lacks_is_refused() {
        let document = Document::decode(b"caf\xe9 d\xe9j\xe0 vu \xe0 la carte\n").unwrap();
        let at = document.text().len();
        assert_eq!(
            document.splice(at..at, "plain\n").unwrap().encode().unwrap(),
            b"caf\xe9 d\xe9j\xe0 vu \xe0 la carte\nplain\n"
        );
        let error = document.splice(at..at, "日").unwrap().encode().unwrap_err();
        assert!(matches!(error, EditError::Unencodable { character: '日', .. }), "{error}");
    }

    #[test]
    fn lines_are_counted_as_people_do() {
        let document = Document::new("a\nb\nc");
        assert_eq!((document.line_count(), document.lines(2, 3), document.lines(3, 9)), (3, "b\nc", "c"));
        assert_eq!((document.lines(4, 9), document.lines(1, 1), document.lines(3, 2)), ("", "a\n", ""));
        assert_eq!((Document::new("").line_count(), Document::new("a\n").line_count()), (0, 1));
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(document) = Document::decode(&bytes) {
                prop_assert_eq!(document.encode().unwrap(), bytes);
            }
        }

        /// Against the obvious way: both sides keep their bytes, whatever the line ends.
        #[test]
        fn only_the_piece_changes(
            lines in proptest::collection::vec(("[aé]{0,2}", prop_oneof!["\n", "\r\n", "\r"]), 0..8),
            tail in "[aé]{0,2}", from in 0_usize..40, to in 0_usize..40,
        ) {
            // `\r` and then `\n` from two lines would be one end.
            let raw: String = lines.iter().map(|(line, end)| format!("x{line}{end}")).collect::<String>() + &tail;
            let document = Document::decode(raw.as_bytes()).unwrap();
            prop_assert_eq!(document.text(), raw.replace("\r\n", "\n").replace('\r', "\n"));
            let text = document.text();
            let at = |n: usize| text.char_indices().map(|(i, _)| i).chain([text.len()]).nth(n).unwrap_or(text.len());
            let (from, to) = (at(from.min(to)), at(from.max(to)));
            let spliced = document.splice(from..to, "NEW").unwrap();
            prop_assert_eq!(spliced.text(), [&text[..from], "NEW", &text[to..]].concat());
            let kept = spliced.raw.split("NEW").collect::<Vec<_>>();
            prop_assert!(raw.starts_with(kept[0]) && raw.ends_with(kept[1]));
        }

        #[test]
        fn lines_tile_the_text(text in "[ab\n]{0,30}", cut in 0_usize..12) {
            let document = Document::new(&text);
            let n = document.line_count();
            prop_assert_eq!(text.lines().count(), n);
            let parts = format!("{}{}", document.lines(1, cut), document.lines(cut + 1, n.max(cut + 1)));
            prop_assert_eq!(parts, text);
        }
    }
}
