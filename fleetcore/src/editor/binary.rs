//! Whether a file is text.

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};

/// Bytes from the start of a file that [`is_binary`] needs.
pub const HEAD_BYTES: usize = 1024;

/// Whether a file is something else than text, judged by its name and its first [`HEAD_BYTES`] bytes.
///
/// Compiled Python (`.pyc`) always is; an empty file never is. A NUL character, or a byte 0xff outside of a known
/// encoding, decides the rest, after the rules of Python's `binaryornot`: UTF-8 with or without
/// byte order mark, UTF-16 with one and text in an old 8-bit or East Asian encoding are text.
pub fn is_binary(name: &str, head: &[u8]) -> bool {
    if name.ends_with(".pyc") {
        return true;
    }
    let cut = head.len() >= HEAD_BYTES;
    let head = head.get(..HEAD_BYTES).unwrap_or(head);
    if head.is_empty() || is_utf16(head) || (!head.contains(&0) && is_utf8(head, cut)) {
        return false;
    }
    if head.contains(&0) {
        return true;
    }
    if is_old_encoding(head, cut) {
        return false;
    }
    let share = |count: usize| count as f64 / head.len() as f64;
    let strange = share(head.iter().filter(|b| !is_plain(**b)).count());
    let low = share(head.iter().filter(|b| **b < 0x7f).count());
    (strange > 0.3 && low < 0.05) || (strange > 0.8 && low > 0.8) || head.contains(&0xff)
}

fn is_plain(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r' | b'\t' | 0x0c | 0x08 | 0x20..=0x7e)
}

/// With a byte order mark; that of UTF-32, which begins the same way, is something else.
fn is_utf16(head: &[u8]) -> bool {
    (head.starts_with(&[0xff, 0xfe]) && !head.starts_with(&[0xff, 0xfe, 0, 0]))
        || head.starts_with(&[0xfe, 0xff])
}

/// UTF-8 with something beyond ASCII. The last character may be cut off where the head ends.
fn is_utf8(head: &[u8], cut: bool) -> bool {
    match std::str::from_utf8(head) {
        Ok(text) => !text.is_ascii(),
        Err(e) => cut && e.error_len().is_none() && e.valid_up_to() > 0,
    }
}

/// Whether a detector recognises an encoding other than those in which every byte means something.
fn is_old_encoding(head: &[u8], cut: bool) -> bool {
    if head.iter().any(|b| *b < 0x20 && !is_plain(*b)) {
        return false;
    }
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
    if !detector.feed(head, !cut) {
        return false;
    }
    let guess = detector.guess(None, Utf8Detection::Deny);
    if guess == encoding_rs::WINDOWS_1252 {
        return false;
    }
    let (_, malformed) = guess.decode_without_bom_handling(head);
    !malformed || (cut && !guess.is_single_byte())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_in_any_common_encoding_is_text() {
        let utf16: Vec<u8> =
            [0xff, 0xfe].into_iter().chain("hé\n".encode_utf16().flat_map(u16::to_le_bytes)).collect();
        let cyrillic = "Съешь ещё этих мягких французских булок, да выпей чаю. Яяя".repeat(4);
        let (cyrillic, ..) = encoding_rs::WINDOWS_1251.encode(&cyrillic);
        // A character across the end of the head.
        let japanese = format!("a{}", "日本語".repeat(500)).into_bytes();
        let cases: [(&str, &[u8]); 8] = [
            ("a.txt", b""),
            ("a.txt", b"plain\r\n\ttext\x0c"),
            ("a.txt", "naïve 日本語 🎉\n".as_bytes()),
            ("a.txt", b"\xef\xbb\xbfhello\n"),
            ("a.txt", &utf16),
            ("a.txt", b"caf\xe9 d\xe9j\xe0 vu"),
            ("a.txt", &cyrillic),
            ("a.txt", &japanese),
        ];
        for (name, head) in cases {
            assert!(!is_binary(name, head), "{head:?}");
        }
    }

    #[test]
    fn what_is_not_text_is_binary() {
        let png = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR";
        let cases: [(&str, &[u8]); 5] = [
            ("a.pyc", b"text\n"),
            ("a", png),
            ("a", b"abc\0def"),
            ("a", &[1, 2, 3, 4, 5, 6, 7, 14, 15]),
            ("a", b"abc\xff\x01"),
        ];
        for (name, head) in cases {
            assert!(is_binary(name, head), "{head:?}");
        }
    }

    #[test]
    fn only_the_head_counts() {
        let mut late = vec![b'a'; HEAD_BYTES];
        late.push(0);
        assert!(!is_binary("a", &late));
    }
}
