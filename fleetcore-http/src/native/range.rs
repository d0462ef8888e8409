//! `Range: bytes=…` (RFC 9110, section 14), one range.

use axum::http::{HeaderMap, header};

/// A part of `len` bytes: `start..end`, never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ByteRange {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// What a `Range` header asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Everything: no header, another unit, several ranges, or something that cannot be read (RFC 9110 wants such
    /// headers ignored).
    All,
    /// One part.
    Part(ByteRange),
    /// Bytes that are not there.
    Nothing,
}

pub(crate) fn wanted(headers: &HeaderMap, len: u64) -> Wanted {
    match headers.get(header::RANGE).and_then(|v| v.to_str().ok()) {
        Some(text) => parse(text, len),
        None => Wanted::All,
    }
}

fn parse(text: &str, len: u64) -> Wanted {
    let Some((unit, range)) = text.split_once('=') else { return Wanted::All };
    let Some((first, last)) = range.trim().split_once('-') else { return Wanted::All };
    if !unit.trim().eq_ignore_ascii_case("bytes") || range.contains(',') {
        return Wanted::All;
    }
    // `parse` alone would take "+1".
    let number = |t: &str| t.bytes().all(|b| b.is_ascii_digit()).then(|| t.parse::<u64>().ok()).flatten();
    let (start, end) = match (first.trim(), last.trim()) {
        ("", n) => match number(n) {
            Some(0) => return Wanted::Nothing,
            Some(n) => (len.saturating_sub(n), len),
            None => return Wanted::All,
        },
        (a, "") => match number(a) {
            Some(a) => (a, len),
            None => return Wanted::All,
        },
        (a, b) => match (number(a), number(b)) {
            (Some(a), Some(b)) if a <= b => (a, b.saturating_add(1).min(len)),
            _ => return Wanted::All,
        },
    };
    if start >= len { Wanted::Nothing } else { Wanted::Part(ByteRange { start, end }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let part = |start, end| Wanted::Part(ByteRange { start, end });
        for (text, want) in [
            ("bytes=0-3", part(0, 4)),
            ("bytes=2-", part(2, 10)),
            ("bytes=-3", part(7, 10)),
            ("bytes=-99", part(0, 10)),
            ("bytes=5-99", part(5, 10)),
            ("Bytes = 1-1", part(1, 2)),
            ("bytes=10-", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=3-2", Wanted::All),
            ("bytes=0-1,3-4", Wanted::All),
            ("lines=0-1", Wanted::All),
            ("bytes=+1-2", Wanted::All),
            ("bytes=0-99999999999999999999", Wanted::All),
            ("bytes=0-18446744073709551615", part(0, 10)),
            ("bytes=-", Wanted::All),
            ("", Wanted::All),
        ] {
            assert_eq!(parse(text, 10), want, "{text}");
        }
        assert_eq!(parse("bytes=0-", 0), Wanted::Nothing);
        assert_eq!(parse("bytes=-5", 0), Wanted::Nothing);
    }
}
