//! What Linux tells of processes in `/proc` (proc(5)). Where there is none, as on macOS, no process is found.

use std::str::FromStr;

/// Ids of all processes there are.
pub(crate) fn ids() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The environment a process was started with. `None` when it is dead, or somebody else's.
pub(crate) fn environ(pid: i32) -> Option<Vec<u8>> {
    std::fs::read(format!("/proc/{pid}/environ")).ok()
}

/// The `NAME=value` of an environment as the kernel shows it.
pub(crate) fn entries(environ: &[u8]) -> impl Iterator<Item = &[u8]> {
    environ.split(|byte| *byte == 0)
}

/// The line `/proc/PID/stat`: `pid (name) state ppid pgrp session …`.
#[derive(Debug)]
pub(crate) struct Stat {
    pub(crate) pid: i32,
    /// Of its program; what is not UTF-8 is replaced.
    pub(crate) name: String,
    pub(crate) state: char,
    /// From the state on.
    fields: String,
}

impl Stat {
    /// That of a process. `None` when there is none with this id.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Self::parse(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name may contain anything, parentheses and non-UTF-8 too.
    pub(crate) fn parse(line: &[u8]) -> Option<Self> {
        let (open, close) = (memchr::memchr(b'(', line)?, memchr::memrchr(b')', line)?);
        let pid = std::str::from_utf8(line.get(..open)?).ok()?.trim().parse().ok()?;
        let name = String::from_utf8_lossy(line.get(open + 1..close)?).into_owned();
        let fields = std::str::from_utf8(line.get(close + 1..)?).ok()?.trim_ascii().to_owned();
        Some(Self { pid, name, state: fields.chars().next()?, fields })
    }

    /// Whether it is neither dead nor only waiting to be reaped.
    pub(crate) fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }

    /// A number behind the state, by that of its field as in proc(5), where the state is the third. `None` where the
    /// line ends before, or says something else.
    pub(crate) fn number<T: FromStr>(&self, field: usize) -> Option<T> {
        self.fields.split_ascii_whitespace().nth(field.checked_sub(3)?)?.parse().ok()
    }

    /// Its process group.
    pub(crate) fn group(&self) -> Option<i32> {
        self.number(5)
    }

    /// Its terminal session.
    pub(crate) fn session(&self) -> Option<i32> {
        self.number(6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_processes_cannot_confuse_the_parser() {
        let stat = Stat::parse(b"7 (a) R 1 2 (\xff b) S 1 42 43 0 -1 4194560\n").unwrap();
        assert_eq!((stat.pid, stat.name.as_str(), stat.state), (7, "a) R 1 2 (\u{fffd} b", 'S'));
        assert_eq!((stat.group(), stat.session(), stat.number(8)), (Some(42), Some(43), Some(-1)));
        let empty = Stat::parse(b"7 () R 1 2 3").unwrap();
        assert_eq!((empty.name.as_str(), empty.session(), empty.is_alive()), ("", Some(3), true));
        assert!(!Stat::parse(b"7 (Z) Z 1").unwrap().is_alive());
    }

    #[test]
    fn lines_that_end_early_have_less_to_tell() {
        for line in ["", "7", "7 (x", "7 )x(", "7 (x)", "7 (x) ", "(x) S 1", "a (x) S 1"] {
            assert!(Stat::parse(line.as_bytes()).is_none(), "{line}");
        }
        let stat = Stat::parse(b"7 (x) S 1 4").unwrap();
        assert_eq!((stat.number(4), stat.group(), stat.session()), (Some(1), Some(4), None));
        assert_eq!(
            (stat.number::<i32>(2), stat.number::<u64>(3), stat.number::<u64>(99)),
            (None, None, None)
        );
    }

    #[test]
    fn an_environment_is_made_of_entries() {
        let found: Vec<&[u8]> = entries(b"A=b\0C=\0").collect();
        assert_eq!(found, [&b"A=b"[..], b"C=", b""]);
    }
}
