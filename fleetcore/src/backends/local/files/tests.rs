//! What every [`FileSystem`] must do (`suite`, shared with files over `spawn`), and what only the native one does.

use std::{
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::{LocalFiles, transfer::Transfers};
use crate::{
    Error, ErrorKind, FileKind, Result, Retry, WriteOptions,
    backends::local::{Local, LocalConfig},
    raw::{ByteStream, Executor, FileSystem, OpContext},
};

fn native(config: LocalConfig) -> Arc<dyn FileSystem> {
    Local::new(config).files().unwrap()
}

fn cx() -> OpContext {
    OpContext::default()
}

pub(crate) fn bytes(data: impl Into<Bytes>) -> ByteStream {
    stream::iter([Ok(data.into())]).boxed()
}

pub(crate) async fn all(data: ByteStream) -> Result<Vec<u8>> {
    data.try_fold(Vec::new(), |mut all, piece| async move {
        all.extend_from_slice(&piece);
        Ok(all)
    })
    .await
}

async fn read(fs: &dyn FileSystem, path: &str, offset: u64, len: Option<u64>) -> Result<Vec<u8>> {
    all(fs.read(&cx(), path, offset, len).await?).await
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn kind<T>(result: Result<T>) -> ErrorKind {
    result.map(drop).unwrap_err().kind()
}

/// A path below `dir`.
fn at(dir: &Path, name: &str) -> String {
    format!("{}/{name}", dir.display())
}

/// Data that fails after some good bytes.
fn broken_data(size: usize) -> ByteStream {
    let items = [Ok(Bytes::from(vec![b'n'; size])), Err(Error::new(ErrorKind::Unavailable, "sender left"))];
    stream::iter(items).boxed()
}

/// Everything `FileSystem` promises, checked from outside with the standard library.
pub(crate) async fn suite(fs: Arc<dyn FileSystem>) {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path();
    let fs = &*fs;
    contents(fs, dir).await;
    writing(fs, dir).await;
    names_and_directories(fs, dir).await;
    bad_paths(fs, dir).await;
    trees(fs, dir).await;
    hostile_archives(fs, dir).await;
}

async fn contents(fs: &dyn FileSystem, dir: &Path) {
    let data: Vec<u8> = (0..3_000_000u32).map(|i| (i % 253) as u8).collect();
    let path = at(dir, "big file");
    std::fs::write(&path, &data).unwrap();
    assert!(read(fs, &path, 0, None).await.unwrap() == data);
    assert_eq!(read(fs, &path, 1000, Some(5)).await.unwrap(), data[1000..1005]);
    assert!(read(fs, &path, 777_777, Some(1_500_000)).await.unwrap() == data[777_777..2_277_777]);
    assert_eq!(read(fs, &path, 2_999_999, Some(100)).await.unwrap(), data[2_999_999..]);
    assert_eq!(read(fs, &path, 3_000_000, None).await.unwrap(), b"");
    assert_eq!(read(fs, &path, 9_000_000, None).await.unwrap(), b"");
    assert_eq!(read(fs, &path, 5, Some(0)).await.unwrap(), b"");
    let link = at(dir, "link");
    symlink("big file", &link).unwrap();
    let info = fs.stat(&cx(), &link).await.unwrap();
    assert_eq!((info.kind, info.size, info.path), (FileKind::File, 3_000_000, link.clone()));
    assert_eq!(info.modified_at.unwrap().as_second(), std::fs::metadata(&path).unwrap().mtime());
    assert_eq!(fs.stat(&cx(), &at(dir, ".")).await.unwrap().kind, FileKind::Dir);
    std::fs::remove_file(link).unwrap();
    std::fs::remove_file(path).unwrap();
}

async fn writing(fs: &dyn FileSystem, dir: &Path) {
    let path = at(dir, "-f");
    let plain = WriteOptions::default();
    for opts in [plain.with_mode(Some(0o640)), WriteOptions::atomic().with_mode(Some(0o604))] {
        let info = fs.write(&cx(), &path, opts, bytes("one")).await.unwrap();
        assert_eq!((info.size, info.mode, info.path.as_str()), (3, opts.mode, path.as_str()));
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        // A shorter text leaves no rest; the mode of an existing file stays.
        fs.write(&cx(), &path, opts.with_mode(Some(0o777)), bytes("2")).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"2");
        assert_eq!(Some(std::fs::metadata(&path).unwrap().mode() & 0o7777), opts.mode);
        std::fs::remove_file(&path).unwrap();
    }
    fs.write(&cx(), &path, plain.with_append(true), bytes("a")).await.unwrap();
    let info = fs.write(&cx(), &path, plain.with_append(true), bytes("b")).await.unwrap();
    assert_eq!((std::fs::read(&path).unwrap(), info.size), (b"ab".to_vec(), 2));
    // Large, in many pieces, and none.
    let piece = Bytes::from(vec![7; 100_000]);
    let pieces = stream::iter((0..30).map(move |_| Ok(piece.clone()))).boxed();
    fs.write(&cx(), &path, WriteOptions::atomic(), pieces).await.unwrap();
    assert!(std::fs::read(&path).unwrap() == vec![7; 3_000_000]);
    fs.write(&cx(), &path, WriteOptions::atomic(), stream::iter([]).boxed()).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"");
    // An atomic write is all or nothing, whenever the data fails.
    std::fs::write(&path, "old").unwrap();
    for size in [10, 2_000_000] {
        assert_eq!(
            kind(fs.write(&cx(), &path, WriteOptions::atomic(), broken_data(size)).await),
            ErrorKind::Unavailable
        );
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir), ["-f"]);
    }
    // Through a link the file it leads to is written, and the link stays.
    symlink("-f", at(dir, "link")).unwrap();
    for opts in [plain, WriteOptions::atomic()] {
        fs.write(&cx(), &at(dir, "link"), opts, bytes("via")).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"via");
        std::fs::write(&path, "old").unwrap();
    }
    assert!(std::fs::symlink_metadata(at(dir, "link")).unwrap().is_symlink());
    std::fs::remove_file(at(dir, "link")).unwrap();
    // Directories in between.
    let deep = at(dir, "x/y/z");
    for opts in [plain, WriteOptions::atomic()] {
        assert_eq!(kind(fs.write(&cx(), &deep, opts, bytes("d")).await), ErrorKind::NotFound);
        fs.write(&cx(), &deep, opts.with_create_parents(true), bytes("d")).await.unwrap();
        assert_eq!(std::fs::read(&deep).unwrap(), b"d");
        std::fs::remove_dir_all(at(dir, "x")).unwrap();
    }
    let both = WriteOptions::atomic().with_append(true);
    assert_eq!(kind(fs.write(&cx(), &path, both, bytes("")).await), ErrorKind::InvalidInput);
    std::fs::remove_file(path).unwrap();
}

async fn names_and_directories(fs: &dyn FileSystem, dir: &Path) {
    fs.create_dir(&cx(), &at(dir, "d/e/f")).await.unwrap();
    fs.create_dir(&cx(), &at(dir, "d/e/f")).await.unwrap();
    let odd = ["-n", ".hidden", "..two", "a\nb", "q'\"$(x)", "ü"];
    for name in odd {
        std::fs::write(dir.join("d").join(name), name).unwrap();
    }
    symlink("/nowhere", at(dir, "d/link")).unwrap();
    let listed = fs.list(&cx(), &at(dir, "d")).await.unwrap();
    let mut wanted: Vec<&str> = odd.into_iter().chain(["e", "link"]).collect();
    wanted.sort_unstable();
    assert_eq!(listed.iter().map(|i| i.path.as_str()).collect::<Vec<_>>(), wanted);
    let of = |name: &str| listed.iter().find(|i| i.path == name).unwrap();
    assert_eq!(
        (of("e").kind, of("link").kind, of("-n").kind),
        (FileKind::Dir, FileKind::Symlink, FileKind::File)
    );
    assert_eq!((of("a\nb").size, of("a\nb").mode.is_some()), (3, true));
    assert_eq!(fs.list(&cx(), &at(dir, "d/e/f")).await.unwrap(), []);
    for name in odd {
        assert_eq!(read(fs, &at(dir, &format!("d/{name}")), 0, None).await.unwrap(), name.as_bytes());
    }
    // Renaming replaces a file, and an empty directory by a directory.
    fs.rename(&cx(), &at(dir, "d/-n"), &at(dir, "d/ü")).await.unwrap();
    assert_eq!(std::fs::read(at(dir, "d/ü")).unwrap(), b"-n");
    fs.rename(&cx(), &at(dir, "d/e"), &at(dir, "d/g")).await.unwrap();
    assert!(dir.join("d/g/f").is_dir());
    assert_eq!(kind(fs.rename(&cx(), &at(dir, "d/none"), &at(dir, "d/x")).await), ErrorKind::NotFound);
    // Removing does not go through links.
    std::fs::create_dir(at(dir, "keep")).unwrap();
    std::fs::write(at(dir, "keep/me"), "").unwrap();
    symlink(dir.join("keep"), at(dir, "d/g/f/out")).unwrap();
    assert_eq!(kind(fs.remove(&cx(), &at(dir, "d"), false).await), ErrorKind::InvalidState);
    fs.remove(&cx(), &at(dir, "d/link"), false).await.unwrap();
    fs.remove(&cx(), &at(dir, "d"), true).await.unwrap();
    assert_eq!(names(dir), ["keep"]);
    symlink("keep", at(dir, "l")).unwrap();
    fs.remove(&cx(), &at(dir, "l"), true).await.unwrap();
    assert_eq!(kind(fs.remove(&cx(), &at(dir, "l"), true).await), ErrorKind::NotFound);
    std::fs::remove_file(at(dir, "keep/me")).unwrap();
    fs.remove(&cx(), &at(dir, "keep"), false).await.unwrap();
    assert_eq!(names(dir), [""; 0]);
}

async fn bad_paths(fs: &dyn FileSystem, dir: &Path) {
    std::fs::write(at(dir, "file"), "").unwrap();
    let fifo = at(dir, "fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let err = read(fs, &at(dir, "none"), 0, None).await.unwrap_err();
    assert_eq!(
        (err.kind(), err.context_value("path")),
        (ErrorKind::NotFound, Some(at(dir, "none").as_str()))
    );
    assert_eq!(kind(fs.stat(&cx(), &at(dir, "none")).await), ErrorKind::NotFound);
    assert_eq!(kind(fs.list(&cx(), &at(dir, "none")).await), ErrorKind::NotFound);
    assert_eq!(kind(fs.list(&cx(), &at(dir, "file")).await), ErrorKind::InvalidState);
    assert_eq!(kind(fs.stat(&cx(), &at(dir, "file/x")).await), ErrorKind::InvalidState);
    assert_eq!(kind(fs.create_dir(&cx(), &at(dir, "file/x")).await), ErrorKind::InvalidState);
    for special in [at(dir, "."), fifo.clone()] {
        assert_eq!(kind(read(fs, &special, 0, None).await), ErrorKind::InvalidState, "{special}");
        let opts = WriteOptions::default();
        assert_eq!(
            kind(fs.write(&cx(), &special, opts, bytes("")).await),
            ErrorKind::InvalidState,
            "{special}"
        );
    }
    assert_eq!(
        kind(fs.write(&cx(), &fifo, WriteOptions::atomic(), bytes("")).await),
        ErrorKind::InvalidState
    );
    assert_eq!(kind(fs.read_tar(&cx(), &fifo).await), ErrorKind::InvalidState);
    assert_eq!(kind(fs.read_tar(&cx(), &at(dir, "none")).await), ErrorKind::NotFound);
    for bad in ["", "a\0b"] {
        assert_eq!(kind(fs.stat(&cx(), bad).await), ErrorKind::InvalidInput);
        assert_eq!(
            kind(fs.write(&cx(), bad, WriteOptions::default(), bytes("")).await),
            ErrorKind::InvalidInput
        );
        assert_eq!(kind(fs.write_tar(&cx(), bad, bytes("")).await), ErrorKind::InvalidInput);
    }
    for bad in ["/", "//", "/..", "/tmp/..", "."] {
        assert_eq!(kind(fs.remove(&cx(), bad, true).await), ErrorKind::InvalidInput, "{bad}");
    }
    for name in ["file", "fifo"] {
        std::fs::remove_file(at(dir, name)).unwrap();
    }
}

async fn trees(fs: &dyn FileSystem, dir: &Path) {
    let from = dir.join("from");
    std::fs::create_dir_all(from.join("sub/empty")).unwrap();
    std::fs::write(from.join("a"), vec![1; 700_000]).unwrap();
    let long = format!("sub/{}", "n".repeat(200));
    std::fs::write(from.join(&long), "long").unwrap();
    std::fs::set_permissions(from.join("a"), PermissionsExt::from_mode(0o750)).unwrap();
    symlink("../a", from.join("sub/link")).unwrap();
    let packed = all(fs.read_tar(&cx(), &at(dir, "from")).await.unwrap()).await.unwrap();
    let count = fs.write_tar(&cx(), &at(dir, "to/deep"), bytes(packed)).await.unwrap();
    assert!(count >= 5, "{count}");
    let to = dir.join("to/deep");
    assert!(std::fs::read(to.join("a")).unwrap() == vec![1; 700_000]);
    assert_eq!(std::fs::metadata(to.join("a")).unwrap().mode() & 0o777, 0o750);
    assert_eq!(std::fs::read(to.join(long)).unwrap(), b"long");
    assert_eq!(std::fs::read_link(to.join("sub/link")).unwrap(), Path::new("../a"));
    assert!(to.join("sub/empty").is_dir());
    // A single file travels under its own name; again is fine.
    for _ in 0..2 {
        let one = fs.read_tar(&cx(), &at(dir, "from/a")).await.unwrap();
        assert_eq!(fs.write_tar(&cx(), &at(dir, "to"), one).await.unwrap(), 1);
    }
    assert_eq!(std::fs::metadata(dir.join("to/a")).unwrap().len(), 700_000);
    for name in ["from", "to"] {
        std::fs::remove_dir_all(dir.join(name)).unwrap();
    }
}

/// An archive of `entries` (name, kind, link) after `good`, with names that the tar crate itself would refuse to write.
fn archive(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let add = |tar: &mut tar::Builder<Vec<u8>>, name: &str, kind: tar::EntryType, link: &str, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(data.len() as u64);
        header.set_cksum();
        tar.append(&header, data).unwrap();
    };
    add(&mut tar, "good", tar::EntryType::Regular, "", b"g");
    for (name, kind, link) in entries {
        let data: &[u8] = if *kind == tar::EntryType::Regular { b"evil" } else { b"" };
        add(&mut tar, name, *kind, link, data);
    }
    add(&mut tar, "after", tar::EntryType::Regular, "", b"x");
    tar.into_inner().unwrap()
}

fn evil(name: &str, kind: tar::EntryType, link: &str) -> Vec<u8> {
    archive(&[(name, kind, link)])
}

async fn hostile_archives(fs: &dyn FileSystem, dir: &Path) {
    use tar::EntryType as T;
    let outside = dir.join("outside");
    let dest = dir.join("dest");
    std::fs::write(&outside, "untouched").unwrap();
    let cases = [
        ("../outside".to_owned(), T::Regular, "".to_owned()),
        ("x/../../outside".to_owned(), T::Regular, "".to_owned()),
        (outside.display().to_string(), T::Regular, "".to_owned()),
        ("dev".to_owned(), T::Char, "".to_owned()),
        ("blk".to_owned(), T::Block, "".to_owned()),
        ("fifo".to_owned(), T::Fifo, "".to_owned()),
        ("link".to_owned(), T::Symlink, "../outside".to_owned()),
        ("link".to_owned(), T::Symlink, "/etc".to_owned()),
        ("hard".to_owned(), T::Link, "../outside".to_owned()),
        ("hard".to_owned(), T::Link, outside.display().to_string()),
    ];
    for (name, entry, link) in cases {
        let err = fs.write_tar(&cx(), &at(dir, "dest"), bytes(evil(&name, entry, &link))).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidInput, "{name} {entry:?}: {err}");
        assert_eq!(std::fs::read(&outside).unwrap(), b"untouched", "{name}");
        assert!(!dest.join("after").exists(), "{name}");
        let _ = std::fs::remove_dir_all(&dest);
    }
    // Each of these links stays inside by its name alone; two together lead out.
    let ways = [
        ("l", T::Symlink, ".", "l/evil", T::Symlink, "../outside"),
        ("./l", T::Symlink, ".", "l//./evil", T::Regular, ""),
        ("d/e/l", T::Symlink, "../..", "evil", T::Symlink, "d/e/l/../outside"),
        ("d/l", T::Symlink, "..", "evil", T::Link, "d/l"),
    ];
    for (first, kind, to, name, entry, link) in ways {
        let data = archive(&[(first, kind, to), (name, entry, link)]);
        let err = fs.write_tar(&cx(), &at(dir, "dest"), bytes(data)).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidInput, "{first}, {name}: {err}");
        assert_eq!(err.context_value("entry"), Some(name), "{err}");
        assert!(err.context_value("rule").is_some(), "{err}");
        assert_eq!(std::fs::read(&outside).unwrap(), b"untouched", "{name}");
        assert!(dest.join("evil").symlink_metadata().is_err() && !dest.join("after").exists(), "{name}");
        let _ = std::fs::remove_dir_all(&dest);
    }
    // Links beside and behind others, and a name that merely begins like one, are fine.
    let fine = [
        ("d/l", T::Symlink, "../good"),
        ("d/l2", T::Symlink, "l"),
        ("d/l2x/f", T::Regular, ""),
        ("d/l", T::Symlink, "../d"),
    ];
    assert_eq!(fs.write_tar(&cx(), &at(dir, "dest"), bytes(archive(&fine))).await.unwrap(), 6);
    let _ = std::fs::remove_dir_all(&dest);
    // Not a tar stream, one that is cut off, and one whose sender fails.
    let good = evil("b", T::Regular, "");
    for data in [bytes(vec![b'x'; 2000]), bytes(good[..1100].to_vec())] {
        assert_eq!(kind(fs.write_tar(&cx(), &at(dir, "dest"), data).await), ErrorKind::InvalidInput);
    }
    let failing = bytes(good[..600].to_vec()).chain(broken_data(0)).boxed();
    assert_eq!(kind(fs.write_tar(&cx(), &at(dir, "dest"), failing).await), ErrorKind::Unavailable);
    let _ = std::fs::remove_dir_all(&dest);
    std::fs::remove_file(outside).unwrap();
}

#[tokio::test]
async fn native_files_do_all_of_it() {
    suite(native(LocalConfig::default())).await;
}

#[tokio::test]
async fn relative_paths_start_at_home() {
    let home = tempfile::tempdir().unwrap();
    for root in [None, Some(home.path())] {
        let mut config = LocalConfig::default().with_home(home.path());
        config.file_root = root.map(Path::to_owned);
        let fs = native(config);
        fs.write(&cx(), "a/b", WriteOptions::default().with_create_parents(true), bytes("x")).await.unwrap();
        assert_eq!(std::fs::read(home.path().join("a/b")).unwrap(), b"x");
        assert_eq!(fs.list(&cx(), ".").await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn nothing_leads_out_of_the_root() {
    let outer = tempfile::tempdir().unwrap();
    let root = outer.path().join("root");
    std::fs::create_dir_all(root.join("in")).unwrap();
    std::fs::write(outer.path().join("secret"), "s").unwrap();
    symlink("../secret", root.join("rel")).unwrap();
    symlink(outer.path(), root.join("abs")).unwrap();
    std::fs::write(root.join("in/file"), "f").unwrap();
    symlink("in/file", root.join("fine")).unwrap();
    let fs = native(LocalConfig::default().with_home("/").with_file_root(&root));
    let path = |p: &str| at(&root, p);
    assert_eq!(read(&*fs, &path("fine"), 0, None).await.unwrap(), b"f");
    assert_eq!(read(&*fs, "in/file", 0, None).await.unwrap(), b"f", "home is outside: the root stands in");
    for bad in [
        path("rel"),
        path("abs/secret"),
        path("../secret"),
        path("in/../../secret"),
        at(outer.path(), "secret"),
        "/etc/passwd".into(),
        "../secret".into(),
        "/proc/self/root/etc/passwd".into(),
    ] {
        let bad = bad.as_str();
        let denied = ErrorKind::PermissionDenied;
        assert_eq!(kind(fs.stat(&cx(), bad).await), denied, "{bad}");
        assert_eq!(kind(read(&*fs, bad, 0, None).await), denied, "{bad}");
        assert_eq!(kind(fs.read_tar(&cx(), bad).await), denied, "{bad}");
        for opts in [
            WriteOptions::default(),
            WriteOptions::atomic(),
            WriteOptions::default().with_create_parents(true),
        ] {
            let result = fs.write(&cx(), bad, opts, bytes("evil")).await;
            assert!(result.is_err(), "{bad} {opts:?}");
        }
        assert_eq!(kind(fs.create_dir(&cx(), &format!("{bad}/x")).await), denied, "{bad}");
        assert_eq!(
            kind(fs.write_tar(&cx(), &format!("{bad}/x"), bytes(vec![0; 1024])).await),
            denied,
            "{bad}"
        );
        assert_eq!(kind(fs.rename(&cx(), &path("in/file"), &format!("{bad}/x")).await), denied, "{bad}");
    }
    assert_eq!(std::fs::read(outer.path().join("secret")).unwrap(), b"s");
    assert_eq!(names(outer.path()), ["root", "secret"]);
    assert_eq!(kind(fs.remove(&cx(), &path(""), true).await), ErrorKind::InvalidInput);
    assert!(root.join("in/file").exists());
    // The links themselves are inside and may go.
    fs.remove(&cx(), &path("abs"), true).await.unwrap();
    assert!(outer.path().join("secret").exists());
}

#[tokio::test]
async fn a_planted_link_does_not_carry_an_archive_outside() {
    let tmp = tempfile::tempdir().unwrap();
    std::fs::create_dir(tmp.path().join("dest")).unwrap();
    symlink("..", tmp.path().join("dest/up")).unwrap();
    let fs = native(LocalConfig::default());
    let archive = evil("up/planted", tar::EntryType::Regular, "");
    assert_eq!(
        kind(fs.write_tar(&cx(), &at(tmp.path(), "dest"), bytes(archive)).await),
        ErrorKind::InvalidInput
    );
    assert_eq!(names(tmp.path()), ["dest"]);
}

#[tokio::test]
async fn archives_have_limits() {
    let tmp = tempfile::tempdir().unwrap();
    let archive = || bytes(evil("b", tar::EntryType::Regular, ""));
    for (entries, size, fits) in [(3, 6, true), (2, 6, false), (3, 5, false)] {
        let fs = native(LocalConfig::default().with_tar_limits(entries, size));
        let result = fs.write_tar(&cx(), &at(tmp.path(), &format!("d{entries}{size}")), archive()).await;
        assert_eq!(result.is_ok(), fits, "{result:?}");
        assert!(fits || kind(result) == ErrorKind::InvalidInput);
    }
}

#[tokio::test]
async fn a_dropped_write_leaves_the_old_file_and_nothing_else() {
    let tmp = tempfile::tempdir().unwrap();
    let path = at(tmp.path(), "f");
    std::fs::write(&path, "old").unwrap();
    let fs = native(LocalConfig::default());
    let (started, wait) = tokio::sync::oneshot::channel();
    let mut started = Some(started);
    // Endless silence after a first block, which says when it was taken.
    let data = stream::iter([Ok(Bytes::from(vec![1; 1 << 20]))])
        .chain(stream::once(async move {
            let _ = started.take().unwrap().send(());
            std::future::pending().await
        }))
        .boxed();
    let context = cx();
    let mut write = fs.write(&context, &path, WriteOptions::atomic(), data);
    tokio::select! { _ = &mut write => panic!("ended"), _ = wait => {} }
    assert_eq!(names(tmp.path()).len(), 2, "the temporary file is there");
    drop(write);
    assert_eq!(names(tmp.path()), ["f"]);
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
}

#[test]
fn stalled_archives_leave_the_threads_of_other_operations_alone() {
    let tmp = tempfile::tempdir().unwrap();
    std::fs::write(at(tmp.path(), "f"), vec![0; 8 << 20]).unwrap();
    let fs = native(LocalConfig::default());
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
    let stat = async || {
        let path = at(tmp.path(), "f");
        let limit = std::time::Duration::from_secs(20); // only ever waited for when it is broken
        tokio::time::timeout(limit, fs.stat(&cx(), &path)).await.expect("a thread is taken").unwrap();
    };
    runtime.block_on(async {
        let unread = fs.read_tar(&cx(), &at(tmp.path(), "f")).await.unwrap();
        stat().await;
        drop(unread);
    });
    runtime.block_on(async {
        let (context, path) = (cx(), at(tmp.path(), "dest"));
        let mut silent = fs.write_tar(&context, &path, stream::pending().boxed());
        assert!(futures::poll!(&mut silent).is_pending());
        stat().await;
    });
}

#[tokio::test]
async fn archives_have_a_limited_number_of_threads_and_give_them_back() {
    let tmp = tempfile::tempdir().unwrap();
    std::fs::write(at(tmp.path(), "f"), vec![0; 8 << 20]).unwrap();
    let mut fs = LocalFiles::open(&Arc::new(LocalConfig::default())).unwrap();
    let transfers = Transfers::of(2);
    Arc::get_mut(&mut fs.0).unwrap().transfers = transfers.clone();
    let (context, dest) = (cx(), at(tmp.path(), "dest"));
    let mut unread = fs.read_tar(&context, &at(tmp.path(), "f")).await.unwrap();
    let mut silent = fs.write_tar(&context, &dest, stream::pending().boxed());
    assert!(futures::poll!(&mut silent).is_pending());
    let refused = [
        fs.read_tar(&context, &at(tmp.path(), "f")).await.map(drop).unwrap_err(),
        fs.write_tar(&context, &dest, bytes("")).await.map(drop).unwrap_err(),
    ];
    for error in refused {
        assert_eq!(error.kind(), ErrorKind::RateLimited, "{error}");
        assert!(matches!(error.retry(), Retry::Temporary { .. }), "{error:?}");
        assert!(error.operation().ends_with("_tar") && error.context_value("path").is_some(), "{error}");
    }
    // The threads end with those who wait for them, or this would never return.
    unread.next().await.unwrap().unwrap();
    drop((unread, silent));
    transfers.all_ended(2).await;
    drop(fs.read_tar(&context, &at(tmp.path(), "f")).await.unwrap());
}
