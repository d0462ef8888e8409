//! Reads along with a tar stream and lets only harmless entries pass to the tar(1) of a machine.
//!
//! Anything that two readers of tar could understand differently is refused as well: what is checked here must
//! be what is unpacked there. Format: POSIX pax(1), "ustar Interchange Format", and the GNU tar manual.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Buf, Bytes, BytesMut};

use crate::{
    Error, Result,
    sim::tar_links::{LinkPaths, NOT_LINKED, NOT_THROUGH},
};

const BLOCK: usize = 512;
/// Longest extension header: paths and attributes, a few kilobytes in practice.
const EXTENSION_MAX: u64 = 256 << 10;
/// Most entries of one stream.
const ENTRIES_MAX: u64 = 1_000_000;

/// Number of entries that passed, readable while the guard is at work.
#[derive(Clone, Debug, Default)]
pub(super) struct Counter(Arc<AtomicU64>);

impl Counter {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What extension headers said about the next entry.
#[derive(Debug, Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

#[derive(Debug)]
enum State {
    /// At a header; what came of it so far.
    Header(BytesMut),
    /// Within data that needs no look: so many bytes with padding.
    Data(u64),
    /// Within an extension header of that type: bytes of content, of padding, and what came so far.
    Extension(u8, u64, u64, Vec<u8>),
    /// Behind the end mark, where nobody reads.
    Ended,
}

/// The guard. Feed it all pieces, then [`finish`](Self::finish).
#[derive(Debug)]
pub(super) struct TarGuard {
    state: State,
    next: Extension,
    entries: Counter,
    links: LinkPaths,
}

impl Default for TarGuard {
    fn default() -> Self {
        Self {
            state: State::Header(BytesMut::new()),
            next: Extension::default(),
            entries: Counter::default(),
            links: LinkPaths::default(),
        }
    }
}

fn bad(rule: &'static str) -> Error {
    Error::invalid("data", rule)
}

fn bad_entry(path: &[u8], rule: &'static str) -> Error {
    Error::invalid("entry", rule).with_context("entry", String::from_utf8_lossy(path).escape_debug())
}

impl TarGuard {
    /// The number of entries.
    pub(super) fn counter(&self) -> Counter {
        self.entries.clone()
    }

    /// Takes a piece; returns what may pass.
    pub(super) fn check(&mut self, mut piece: Bytes) -> Result<Bytes> {
        // Most pieces are all data.
        if let State::Data(left) = &mut self.state
            && *left > piece.len() as u64
        {
            *left -= piece.len() as u64;
            return Ok(piece);
        }
        let mut good = BytesMut::with_capacity(piece.len() + BLOCK);
        while !piece.is_empty() {
            match &mut self.state {
                State::Header(block) => {
                    let part = piece.split_to(piece.len().min(BLOCK - block.len()));
                    block.extend_from_slice(&part);
                    if block.len() == BLOCK {
                        let block = mem::take(block);
                        self.state = self.header(&block)?;
                        if !matches!(self.state, State::Ended) {
                            good.extend_from_slice(&block);
                        }
                    }
                }
                State::Data(left) => {
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(piece.len());
                    good.extend_from_slice(&piece.split_to(n));
                    *left -= n as u64;
                    if *left == 0 {
                        self.state = State::Header(BytesMut::new());
                    }
                }
                State::Extension(kind, content, padding, seen) => {
                    let n = usize::try_from(*content + *padding).unwrap_or(usize::MAX).min(piece.len());
                    let part = piece.split_to(n);
                    let inside = usize::try_from(*content).unwrap_or(usize::MAX).min(n);
                    seen.extend(part.iter().take(inside));
                    *content -= inside as u64;
                    *padding -= (n - inside) as u64;
                    good.extend_from_slice(&part);
                    if *content + *padding == 0 {
                        let (kind, seen) = (*kind, mem::take(seen));
                        self.state = State::Header(BytesMut::new());
                        self.extension(kind, seen)?;
                    }
                }
                State::Ended => piece.advance(piece.len()),
            }
        }
        Ok(good.freeze())
    }

    /// The stream has ended; returns the end mark.
    pub(super) fn finish(&mut self) -> Result<Bytes> {
        let next = &self.next;
        let pending = next.path.is_some() || next.link.is_some() || next.size.is_some();
        match &self.state {
            State::Header(block) if block.is_empty() && !pending => {}
            State::Ended if !pending => {}
            _ => return Err(bad("a complete tar stream")),
        }
        Ok(Bytes::from(vec![0; 2 * BLOCK]))
    }

    /// Judges a header; returns what follows it.
    fn header(&mut self, block: &[u8]) -> Result<State> {
        if block.iter().all(|b| *b == 0) {
            return Ok(State::Ended);
        }
        let field = |from: usize, len: usize| block.get(from..from + len).unwrap_or_default();
        let sum = block
            .iter()
            .enumerate()
            .fold(0u64, |sum, (i, b)| sum + u64::from(if (148..156).contains(&i) { b' ' } else { *b }));
        if number(field(148, 8)) != Some(sum) {
            return Err(bad("a tar stream; a header has a wrong checksum"));
        }
        let kind = field(156, 1).first().copied().unwrap_or_default();
        let header_size = number(field(124, 12)).ok_or_else(|| bad("a tar stream with readable sizes"))?;
        if matches!(kind, b'x' | b'L' | b'K' | b'g') {
            if header_size > EXTENSION_MAX {
                return Err(bad("a tar stream with extension headers of at most 256 KiB"));
            }
            let state = State::Extension(kind, header_size, padding(header_size), Vec::new());
            return if header_size == 0 {
                self.extension(kind, Vec::new())?;
                Ok(State::Header(BytesMut::new()))
            } else {
                Ok(state)
            };
        }
        let next = mem::take(&mut self.next);
        let size = next.size.unwrap_or(header_size);
        let path = next.path.unwrap_or_else(|| {
            let prefix = text(field(345, 155));
            // Only POSIX headers have a prefix; GNU ones keep times there.
            if field(257, 6) == b"ustar\0" && !prefix.is_empty() {
                [prefix, b"/", text(field(0, 100))].concat()
            } else {
                text(field(0, 100)).to_vec()
            }
        });
        let link = next.link.unwrap_or_else(|| text(field(157, 100)).to_vec());
        let depth = safe_depth(&path).ok_or_else(|| bad_entry(&path, "a relative path without `..`"))?;
        if self.links.on_the_way(names(&path)) {
            return Err(bad_entry(&path, NOT_THROUGH));
        }
        match kind {
            b'0' | 0 | b'7' => {}
            b'5' => {}
            // It would move a symbolic link to where its target means something else.
            b'1' if self.links.on_the_way_or_at(names(&link)) => return Err(bad_entry(&path, NOT_LINKED)),
            b'1' if safe_depth(&link).is_some_and(|d| d > 0) => {}
            b'2' if stays_inside(depth, &link) => {}
            b'1' | b'2' => return Err(bad_entry(&path, "a link that stays inside the directory")),
            _ => return Err(bad_entry(&path, "a file, directory or link, not a device or FIFO")),
        }
        if size > 0 && (matches!(kind, b'1' | b'2' | b'5') || path.ends_with(b"/")) {
            return Err(bad_entry(&path, "a file if it has contents"));
        }
        if self.entries.0.fetch_add(1, Ordering::Relaxed) >= ENTRIES_MAX {
            return Err(bad("a tar stream of at most a million entries"));
        }
        if kind == b'2' {
            self.links.add(names(&path));
        }
        let length =
            size.checked_add(padding(size)).ok_or_else(|| bad("a tar stream with readable sizes"))?;
        Ok(if length == 0 { State::Header(BytesMut::new()) } else { State::Data(length) })
    }

    /// Takes in an extension header.
    fn extension(&mut self, kind: u8, mut content: Vec<u8>) -> Result<()> {
        match kind {
            b'L' | b'K' => {
                if content.last() == Some(&0) {
                    content.pop();
                }
                let slot = if kind == b'L' { &mut self.next.path } else { &mut self.next.link };
                set_once(slot, content)
            }
            _ => {
                for record in records(&content) {
                    let (key, value) = record.ok_or_else(|| bad("a tar stream with readable pax headers"))?;
                    let about_entry = matches!(key, b"path" | b"linkpath" | b"size");
                    if key.starts_with(b"GNU.sparse") || (kind == b'g' && about_entry) {
                        return Err(bad("a tar stream without sparse files and global paths"));
                    }
                    match key {
                        b"path" => set_once(&mut self.next.path, value.to_vec())?,
                        b"linkpath" => set_once(&mut self.next.link, value.to_vec())?,
                        b"size" => {
                            let size = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
                            self.next.size =
                                Some(size.ok_or_else(|| bad("a tar stream with readable sizes"))?);
                        }
                        _ => {}
                    }
                }
                Ok(())
            }
        }
    }
}

/// Two names for one entry could be understood differently.
fn set_once(slot: &mut Option<Vec<u8>>, value: Vec<u8>) -> Result<()> {
    if slot.is_some() || value.contains(&0) {
        return Err(bad("a tar stream with one name for each entry, without NUL"));
    }
    *slot = Some(value);
    Ok(())
}

/// Records of a pax header: `length key=value\n`. `None` for one that is not.
fn records(mut content: &[u8]) -> impl Iterator<Item = Option<(&[u8], &[u8])>> {
    std::iter::from_fn(move || {
        if content.is_empty() {
            return None;
        }
        let record = (|| {
            let digits = content.iter().position(|b| *b == b' ')?;
            let length: usize = std::str::from_utf8(content.get(..digits)?).ok()?.parse().ok()?;
            let body = content.get(digits + 1..length)?.strip_suffix(b"\n")?;
            let equals = body.iter().position(|b| *b == b'=')?;
            let pair = (body.get(..equals)?, body.get(equals + 1..)?);
            content = content.get(length..)?;
            Some(pair)
        })();
        if record.is_none() {
            content = &[];
        }
        Some(record)
    })
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

/// A text field ends at the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

/// A number: octal digits, or base 256 when the first bit is set.
fn number(field: &[u8]) -> Option<u64> {
    if field.first().is_some_and(|b| b & 0x80 != 0) {
        let (first, rest) = field.split_first()?;
        return rest
            .iter()
            .try_fold(u64::from(first & 0x7f), |n, b| n.checked_mul(256).map(|n| n | u64::from(*b)));
    }
    let digits = std::str::from_utf8(text(field)).ok()?.trim_matches(' ');
    if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
}

/// Number of names in a relative path without `..`.
fn safe_depth(path: &[u8]) -> Option<usize> {
    if path.is_empty() || path.starts_with(b"/") {
        return None;
    }
    names(path).map(|n| (n != b"..").then_some(1)).sum()
}

/// The names a path consists of, `..` among them.
fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|n| !matches!(*n, b"" | b"."))
}

/// Whether a link in a directory `depth - 1` levels down stays inside. `..` behind a name does not count as
/// going back: the name may be, or become, a link to somewhere else.
fn stays_inside(depth: usize, target: &[u8]) -> bool {
    let mut depth = depth.saturating_sub(1);
    let mut named = false;
    if target.starts_with(b"/") || target.is_empty() {
        return false;
    }
    for name in names(target) {
        if name != b".." {
            named = true;
        } else if named || depth == 0 {
            return false;
        } else {
            depth -= 1;
        }
    }
    true
}

/// Feeds `data` in pieces as `cut` says. What passes must be the input itself, and the pieces must not matter.
#[cfg(fuzzing)]
pub(crate) fn fuzz(cut: usize, data: &[u8]) {
    let run = |size: usize| {
        let mut guard = TarGuard::default();
        let mut good = Vec::new();
        for piece in data.chunks(size.max(1)) {
            good.extend_from_slice(&guard.check(Bytes::copy_from_slice(piece)).map_err(|e| e.kind())?);
        }
        good.extend_from_slice(&guard.finish().map_err(|e| e.kind())?);
        Ok::<_, crate::ErrorKind>(good)
    };
    assert_eq!(run(cut), run(data.len()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One header; extension and entry alike.
    fn header(name: &[u8], kind: u8, size: usize) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        block[..name.len()].copy_from_slice(name);
        block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        block[148..156].fill(b' ');
        block[156] = kind;
        block[257..263].copy_from_slice(b"ustar\0");
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }

    fn entry(name: &[u8], kind: u8, content: &[u8]) -> Vec<u8> {
        let mut all = header(name, kind, content.len());
        all.extend_from_slice(content);
        all.resize(all.len().next_multiple_of(BLOCK), 0);
        all
    }

    fn pax(key: &str, value: &str) -> Vec<u8> {
        let mut length = key.len() + value.len() + 3;
        length += length.to_string().len();
        let record = format!("{length} {key}={value}\n");
        assert_eq!(record.len(), length);
        entry(b"pax", b'x', record.as_bytes())
    }

    fn judge(stream: &[u8], step: usize) -> Result<(Vec<u8>, u64)> {
        let mut guard = TarGuard::default();
        let mut out = Vec::new();
        for piece in stream.chunks(step.max(1)) {
            out.extend_from_slice(&guard.check(Bytes::copy_from_slice(piece))?);
        }
        out.extend_from_slice(&guard.finish()?);
        Ok((out, guard.counter().get()))
    }

    #[test]
    fn names_hidden_in_extension_headers_are_judged_too() {
        let evil = [
            [pax("path", "../x"), entry(b"good", b'0', b"e")].concat(),
            [entry(b"L", b'L', b"/etc/x\0"), entry(b"good", b'0', b"e")].concat(),
            [pax("linkpath", "/etc"), entry(b"good", b'2', b"")].concat(),
            [pax("GNU.sparse.name", "../x"), entry(b"good", b'0', b"e")].concat(),
            [pax("path", "a"), pax("path", "b"), entry(b"good", b'0', b"e")].concat(),
            entry(b"good/", b'0', b"contents of a directory"),
            pax("path", "of nothing"),
        ];
        for stream in evil {
            assert_eq!(judge(&stream, 512).unwrap_err().kind(), crate::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn good_streams_pass_unchanged_in_pieces_of_any_size() {
        let mut stream =
            [pax("path", "long/name"), entry(b"x", b'0', &[7; 3000]), entry(b"d/", b'5', b"")].concat();
        stream.extend([0; 2 * BLOCK]);
        for step in [1, 100, 511, 512, 513, 5000] {
            assert_eq!(judge(&stream, step).unwrap(), (stream.clone(), 2));
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(mut data in prop::collection::vec(any::<u8>(), 0..2000), kind in any::<u8>(), step in 1usize..700) {
            let _ = judge(&data, step);
            let mut stream = header(b"a", kind, data.len());
            stream.append(&mut data);
            let _ = judge(&stream, step);
        }
    }
}
