//! The bytes of a zip file with stored entries, after PKWARE's APPNOTE 6.3.
//!
//! Written by hand because the length must be known before the first byte is sent: then clients get a `Content-Length`
//! and can ask for ranges. What libraries write depends on what they come across on the way.

use jiff::{Timestamp, tz::TimeZone};

/// Files up to this size are read before their header is written, which then has everything in it. Those above get a
/// data descriptor behind them.
pub(super) const WHOLE: u64 = 4 << 20;

/// From here on sizes and offsets need 64 bits; the value itself is the mark for that.
const WIDE: u64 = 0xffff_ffff;
const WIDE_COUNT: usize = 0xffff;

const LOCAL: u64 = 30;
const CENTRAL: u64 = 46;
const END: u64 = 22;
/// The record and the locator.
const WIDE_END: u64 = 56 + 20;

/// A file that will be in the archive.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) mode: Option<u32>,
    pub(super) modified_at: Option<Timestamp>,
}

/// A file that is in the archive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    pub(super) plan: usize,
    pub(super) size: u64,
    pub(super) crc: u32,
    pub(super) offset: u64,
}

impl Planned {
    /// Whether its header waits until all of it was read.
    pub(super) fn is_whole(&self) -> bool {
        self.size <= WHOLE
    }

    fn is_wide(&self) -> bool {
        self.size >= WIDE
    }

    fn flags(&self) -> u16 {
        let utf8 = if self.name.is_ascii() { 0 } else { 1 << 11 };
        utf8 | if self.is_whole() { 0 } else { 1 << 3 }
    }

    fn version(&self) -> u16 {
        if self.is_wide() { 45 } else { 20 }
    }

    /// Version, flags, method, time and date: the same in both headers.
    fn common(&self, version: u16) -> Vec<u8> {
        let (date, time) = dos(self.modified_at);
        [version, self.flags(), 0, time, date].into_iter().flat_map(u16::to_le_bytes).collect()
    }

    /// What comes before the contents. `known` are checksum and size, where they come first.
    pub(super) fn header(&self, known: Option<(u32, u64)>) -> Vec<u8> {
        let (crc, size) = known.unwrap_or_default();
        let mut out = b"PK\x03\x04".to_vec();
        out.extend(self.common(self.version()));
        out.extend(crc.to_le_bytes());
        let extra = if self.is_wide() { wide_extra(&[0, 0]) } else { Vec::new() };
        let shown = if self.is_wide() { u32::MAX } else { narrow(size) };
        out.extend([shown, shown].into_iter().flat_map(u32::to_le_bytes));
        out.extend([self.name.len(), extra.len()].into_iter().flat_map(short));
        out.extend(self.name.as_bytes());
        out.extend(extra);
        out
    }

    /// What comes behind the contents, where the header could not know.
    pub(super) fn descriptor(&self, crc: u32, size: u64) -> Vec<u8> {
        let mut out = b"PK\x07\x08".to_vec();
        out.extend(crc.to_le_bytes());
        for _ in 0..2 {
            if self.is_wide() {
                out.extend(size.to_le_bytes())
            } else {
                out.extend(narrow(size).to_le_bytes())
            }
        }
        out
    }

    /// Its place in the table of contents.
    pub(super) fn listed(&self, written: &Written) -> Vec<u8> {
        let wide_offset = written.offset >= WIDE;
        let mut wide = if self.is_wide() { vec![written.size, written.size] } else { Vec::new() };
        if wide_offset {
            wide.push(written.offset);
        }
        let extra = if wide.is_empty() { Vec::new() } else { wide_extra(&wide) };
        let version = if extra.is_empty() { 20 } else { 45 };
        let size = if self.is_wide() { u32::MAX } else { narrow(written.size) };
        let mode = 0o100_000 | self.mode.unwrap_or(0o644);
        let mut out = b"PK\x01\x02".to_vec();
        out.extend((3_u16 << 8 | version).to_le_bytes()); // made on Unix
        out.extend(self.common(version));
        out.extend([written.crc, size, size].into_iter().flat_map(u32::to_le_bytes));
        out.extend([self.name.len(), extra.len(), 0, 0, 0].into_iter().flat_map(short));
        out.extend((mode << 16).to_le_bytes());
        out.extend((if wide_offset { u32::MAX } else { narrow(written.offset) }).to_le_bytes());
        out.extend(self.name.as_bytes());
        out.extend(extra);
        out
    }

    fn span(&self) -> u64 {
        let extra = if self.is_wide() { 20 } else { 0 };
        let descriptor = match (self.is_whole(), self.is_wide()) {
            (true, _) => 0,
            (false, false) => 16,
            (false, true) => 24,
        };
        LOCAL + self.name.len() as u64 + extra + self.size + descriptor
    }
}

/// How long the archive will be, and whether its end is wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) total: u64,
    wide: bool,
}

impl Layout {
    pub(super) fn of(plan: &[Planned]) -> Self {
        let (mut offset, mut table) = (0, 0);
        for file in plan {
            let wide = 16 * u64::from(file.is_wide()) + 8 * u64::from(offset >= WIDE);
            let extra = if wide == 0 { 0 } else { 4 + wide };
            table += CENTRAL + file.name.len() as u64 + extra;
            offset += file.span();
        }
        let wide = offset >= WIDE || table >= WIDE || plan.len() >= WIDE_COUNT;
        Self { total: offset + table + END + if wide { WIDE_END } else { 0 }, wide }
    }

    /// How much stays free before a table of contents of `table` bytes. More than where the files ended, if some of
    /// them were gone or had shrunk; what is in the gap does not matter, as readers start at the end.
    pub(super) fn table_at(&self, table: u64) -> u64 {
        self.total - END - if self.wide { WIDE_END } else { 0 } - table
    }

    /// What comes behind the table of contents.
    pub(super) fn end(&self, count: usize, table: u64) -> Vec<u8> {
        let at = self.table_at(table);
        let mut out = Vec::new();
        if self.wide {
            out.extend(b"PK\x06\x06");
            out.extend(44_u64.to_le_bytes());
            out.extend([3 << 8 | 45_u16, 45].into_iter().flat_map(u16::to_le_bytes));
            out.extend(0_u64.to_le_bytes()); // disks
            out.extend([count as u64, count as u64, table, at].into_iter().flat_map(u64::to_le_bytes));
            out.extend(b"PK\x06\x07");
            out.extend(0_u32.to_le_bytes());
            out.extend((at + table).to_le_bytes());
            out.extend(1_u32.to_le_bytes());
        }
        out.extend(b"PK\x05\x06");
        let count = count.min(WIDE_COUNT);
        out.extend([0, 0, count, count].into_iter().flat_map(short));
        out.extend([table, at].into_iter().map(narrow).flat_map(u32::to_le_bytes));
        out.extend(short(0));
        out
    }
}

fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn short(value: usize) -> [u8; 2] {
    u16::try_from(value).unwrap_or(u16::MAX).to_le_bytes()
}

fn wide_extra(values: &[u64]) -> Vec<u8> {
    let mut out = [1_u16, u16::try_from(values.len() * 8).unwrap_or(0)].map(u16::to_le_bytes).concat();
    out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    out
}

/// Date and time as MS-DOS has them: local, to two seconds, from 1980 to 2107.
fn dos(at: Option<Timestamp>) -> (u16, u16) {
    let at = at.unwrap_or_default().to_zoned(TimeZone::system());
    let part = |value: i8| u16::try_from(value).unwrap_or(0);
    let date =
        |year: i16, month: u16, day: u16| (u16::try_from(year - 1980).unwrap_or(0)) << 9 | month << 5 | day;
    match at.year() {
        ..1980 => (date(1980, 1, 1), 0),
        year @ 1980..=2107 => {
            let time = part(at.hour()) << 11 | part(at.minute()) << 5 | (part(at.second()) / 2);
            (date(year, part(at.month()), part(at.day())), time)
        }
        _ => (date(2107, 12, 31), 23 << 11 | 59 << 5 | 29),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Read};

    use super::*;

    fn planned(name: &str, size: u64) -> Planned {
        Planned { name: name.into(), size, mode: Some(0o755), modified_at: None }
    }

    /// An archive of these contents, laid out for files of the planned sizes.
    fn archive(files: &[(Planned, &[u8])]) -> Vec<u8> {
        let plan: Vec<_> = files.iter().map(|(plan, _)| plan.clone()).collect();
        let layout = Layout::of(&plan);
        let (mut out, mut table) = (Vec::new(), Vec::new());
        for (at, (plan, contents)) in files.iter().enumerate() {
            let (crc, size) = (crc32fast::hash(contents), contents.len() as u64);
            table.extend(plan.listed(&Written { plan: at, size, crc, offset: out.len() as u64 }));
            out.extend(plan.header(plan.is_whole().then_some((crc, size))));
            out.extend(*contents);
            if !plan.is_whole() {
                out.extend(plan.descriptor(crc, size));
            }
        }
        out.resize(usize::try_from(layout.table_at(table.len() as u64)).unwrap(), 0);
        let end = layout.end(files.len(), table.len() as u64);
        out.extend(table);
        out.extend(end);
        assert_eq!(out.len() as u64, layout.total);
        out
    }

    #[test]
    fn others_read_what_is_written() {
        let large = vec![7; usize::try_from(WHOLE).unwrap() + 1];
        let files = [
            (planned("a/b.txt", 2), b"hi".as_slice()),
            (planned("日本", 0), b""),
            (planned("large", WHOLE + 1), &large),
        ];
        let mut zip = zip::ZipArchive::new(Cursor::new(archive(&files))).unwrap();
        for (plan, contents) in &files {
            let mut file = zip.by_name(&plan.name).unwrap();
            let mut read = Vec::new();
            file.read_to_end(&mut read).unwrap(); // and checks the checksum
            assert_eq!((&read[..], file.unix_mode()), (*contents, Some(0o100_755)), "{}", plan.name);
        }
        // As long as what the original sends for the same tree.
        let tree = [(planned("proj/one.txt", 1), b"1".as_slice()), (planned("proj/sub/two.txt", 2), b"22")];
        assert_eq!(archive(&tree).len(), 233);
        assert_eq!(archive(&[]).len(), 22);
    }

    #[test]
    fn what_shrank_or_vanished_leaves_a_gap_that_does_no_harm() {
        let files = [(planned("shrank", 100), b"less".as_slice()), (planned("whole", 4), b"1234")];
        let mut zip = zip::ZipArchive::new(Cursor::new(archive(&files))).unwrap();
        for (name, contents) in [("shrank", "less"), ("whole", "1234")] {
            assert_eq!(std::io::read_to_string(zip.by_name(name).unwrap()).unwrap(), contents);
        }
    }

    #[test]
    fn what_needs_64_bits_gets_them() {
        let huge = planned("h", 5 << 30);
        let plan = [huge.clone(), planned("behind", 1)];
        // 20 more in the local header, 8 in the descriptor, 20 and 12 in the table.
        let expected =
            (30 + 1 + 20 + (5 << 30) + 24) + (30 + 6 + 1) + (46 + 1 + 20) + (46 + 6 + 12) + 76 + 22;
        let layout = Layout::of(&plan);
        assert_eq!(layout, Layout { total: expected, wide: true });
        let written = Written { plan: 0, size: huge.size, crc: 0, offset: 0 };
        assert_eq!((huge.listed(&written).len(), layout.end(2, 131).len()), (67, 98));
        let many: Vec<_> = (0..WIDE_COUNT).map(|n| (planned(&n.to_string(), 0), b"".as_slice())).collect();
        assert_eq!(zip::ZipArchive::new(Cursor::new(archive(&many))).unwrap().len(), WIDE_COUNT);
    }

    #[test]
    fn times_outside_of_what_dos_knows_are_clamped() {
        let at = |second| dos(Some(Timestamp::from_second(second).unwrap()));
        assert_eq!(at(0), (1 << 5 | 1, 0));
        assert_eq!(at(1 << 33).0 >> 9, 127);
        assert_eq!(at(1_700_000_000).0 >> 9, 43);
    }
}
