//! Files that browsing leaves in the workspace: screenshots and downloads. Nothing in it is written over.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use super::super::nolink::{Dir, Owner};

/// Where screenshots are.
const SCREENSHOTS: &str = ".browser_screenshots";
/// Where downloads arrive.
const DOWNLOADS: &str = ".downloads";
/// Endings of files that are still arriving.
const ARRIVING: [&str; 2] = [".crdownload", ".tmp"];

/// How the first bytes of a file tell what it is.
static KINDS: &[(&[u8], &str)] = &[
    (b"\x89PNG\r\n", ".png"),
    (b"\xff\xd8\xff", ".jpg"),
    (b"GIF8", ".gif"),
    (b"%PDF-", ".pdf"),
    (b"PK\x03\x04", ".zip"),
    (b"\x1f\x8b", ".gz"),
    (b"BZh", ".bz2"),
    (b"\xfd7zXZ\0", ".xz"),
    (b"\x28\xb5\x2f\xfd", ".zst"),
    (b"7z\xbc\xaf\x27\x1c", ".7z"),
    (b"\x7fELF", ".elf"),
    (b"ID3", ".mp3"),
    (b"OggS", ".ogg"),
    (b"<?xml", ".xml"),
    (b"<!DOCTYPE html", ".html"),
    (b"<html", ".html"),
    (b"SQLite format 3\0", ".sqlite"),
];

/// A file that has arrived. One of the same name may take its place later.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Download {
    pub(super) name: String,
    changed: Option<std::time::SystemTime>,
}

/// The workspace.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) dir: PathBuf,
    /// Whose new files are.
    pub(super) owner: Owner,
}

impl Place {
    /// Where the browser puts downloads.
    pub(super) fn downloads(&self) -> PathBuf {
        self.dir.join(DOWNLOADS)
    }

    /// Makes the directory of downloads.
    pub(super) fn prepare(&self) -> io::Result<()> {
        self.inside(DOWNLOADS).map(drop)
    }

    /// A directory of ours in the workspace, made when it is missing.
    fn inside(&self, name: &str) -> io::Result<Dir> {
        Dir::open(&self.dir)?.inside(name, 0o775, self.owner)
    }

    fn create(&self, dir: &Dir, name: &str) -> io::Result<File> {
        dir.create(name, 0o664, self.owner)
    }

    /// Keeps a screenshot; where it is.
    pub(super) fn screenshot(&self, png: &[u8], now: &jiff::Zoned) -> io::Result<PathBuf> {
        let name = format!("screenshot_{}.png", now.strftime("%Y%m%d_%H%M%S_%6f"));
        let dir = self.inside(SCREENSHOTS)?;
        self.create(&dir, &name)?.write_all(png)?;
        Ok(self.dir.join(SCREENSHOTS).join(name))
    }

    /// What was downloaded.
    pub(super) fn downloaded(&self) -> io::Result<Vec<Download>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.downloads())? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_file() && !ARRIVING.iter().any(|end| name.ends_with(end)) {
                let changed = entry.metadata()?.modified().ok();
                names.push(Download { name, changed });
            }
        }
        names.sort();
        Ok(names)
    }

    /// Copies a download to where the agent finds it; where that is. `count` is how many there were.
    pub(super) fn take(&self, name: &str, count: usize) -> io::Result<PathBuf> {
        let mut from = self.inside(DOWNLOADS)?.read(name)?;
        let mut head = Vec::new();
        (&mut from).take(64).read_to_end(&mut head)?;
        let end = ending(&head, name);
        let workspace = Dir::open(&self.dir)?;
        let mut number = count;
        let (path, mut to) = loop {
            let target = format!("file_{number}{end}");
            match self.create(&workspace, &target) {
                Ok(file) => break (self.dir.join(target), file),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(error),
            }
        };
        to.write_all(&head)?;
        io::copy(&mut from, &mut to)?;
        Ok(path)
    }
}

/// How the name of a file ends that begins like this.
fn ending(head: &[u8], name: &str) -> String {
    if let Some((_, end)) = KINDS.iter().find(|(start, _)| head.starts_with(start)) {
        return (*end).to_owned();
    }
    let own = Path::new(name).extension().and_then(|e| e.to_str());
    own.filter(|e| e.len() <= 8 && e.bytes().all(|b| b.is_ascii_alphanumeric()))
        .map_or_else(String::new, |e| format!(".{e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_over_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { dir: dir.path().to_owned(), owner: None };
        place.prepare().unwrap();
        std::fs::write(place.downloads().join("report"), b"%PDF-1.7 and so on").unwrap();
        std::fs::write(place.downloads().join("half.crdownload"), b"x").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", place.downloads().join("link")).unwrap();
        let names: Vec<_> = place.downloaded().unwrap().into_iter().map(|d| d.name).collect();
        assert_eq!(names, ["report"]);
        std::fs::write(dir.path().join("file_1.pdf"), b"mine").unwrap();
        let taken = place.take("report", 1).unwrap();
        assert_eq!(taken, dir.path().join("file_2.pdf"));
        assert_eq!(std::fs::read(taken).unwrap(), b"%PDF-1.7 and so on");
        assert!(place.take("link", 1).is_err() && place.take("../file_1.pdf", 9).is_ok_and(|p| p.exists()));
        std::os::unix::fs::symlink("/tmp", dir.path().join(SCREENSHOTS)).unwrap();
        assert!(place.screenshot(b"x", &jiff::Zoned::now()).is_err());
        assert_eq!(ending(b"hello", "notes.txt"), ".txt");
        assert_eq!(ending(b"hello", "odd.a/b"), "");
    }
}
