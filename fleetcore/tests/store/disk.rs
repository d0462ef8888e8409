//! A full disk: commands go on, the hole is a gap, nothing crashes.

use std::{fs, process::Command};

use fleetcore::{
    Channel, CommandState, CommandStore, ErrorKind, StateChange,
    store::sqlite::{SqliteConfig, SqliteStore},
};
use fleetcore_testkit::suite::store::{chunk, output, record};
use libtest_mimic::Trial;
use tempfile::TempDir;

use crate::{block_on, byte_at, bytes, trial};

/// Size of the disk; room for the database and some output.
const DISK: u64 = 16 << 20;
const PIECE: u64 = 60_000;

pub(crate) fn trials() -> Vec<Trial> {
    let full = trial("disk::a_full_disk_costs_bytes_but_nothing_else", a_full_disk_costs_bytes_but_nothing_else);
    let tmpfs = Mount::new();
    if tmpfs.is_none() {
        eprintln!("SKIPPED: the full-disk test needs the right to mount a tmpfs (run it as root)");
    }
    vec![full.with_ignored_flag(tmpfs.is_none())]
}

/// A small file system, unmounted on drop.
struct Mount(TempDir);

impl Mount {
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().ok()?;
        let size = format!("size={DISK}");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).output().ok()?;
        mount.status.success().then_some(Self(dir))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let done = Command::new("umount").arg(self.0.path()).status();
        assert!(done.is_ok_and(|s| s.success()) || std::thread::panicking(), "the test disk stays mounted");
    }
}

fn a_full_disk_costs_bytes_but_nothing_else() {
    let disk = Mount::new().expect("it could be mounted a moment ago");
    let dir = disk.0.path();
    let data = dir.join("data");
    let store = SqliteStore::open(SqliteConfig::new(&data)).unwrap();
    let filler = dir.join("filler");
    fs::write(&filler, vec![1; (DISK / 2) as usize]).unwrap();
    let r = record(&["true"]);
    let (mut stored, mut end) = (Vec::<(u64, u64)>::new(), 0);
    let mut refused = 0;
    block_on(async {
        store.insert(r.clone()).await.unwrap();
        store.transition(r.id, 1, StateChange::to(CommandState::Running)).await.unwrap();
        // Until the disk is full, and on while it is.
        while refused < 20 {
            assert!(end < 2 * DISK, "the disk never fills up");
            match store.append_output(r.id, &chunk(end, Channel::Stdout, bytes(end, PIECE))).await {
                Ok(()) => stored.push((end, end + PIECE)),
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");
                    refused += 1;
                }
            }
            end += PIECE;
        }
        // Records need space too; they are refused with a reason and reading goes on.
        let mut fresh = Vec::new();
        let mut full = None;
        for _ in 0..50_000 {
            let other = record(&["a", "record", "that", "takes", "some", "space"]);
            match store.insert(other.clone()).await {
                Ok(()) => fresh.push(other.id),
                Err(e) => {
                    full = Some(e);
                    break;
                }
            }
        }
        let full = full.expect("the disk is full for records as well");
        assert_eq!(full.kind(), ErrorKind::Unavailable, "{full}");
        assert!(!output(&store, r.id, 0).await.is_empty());
        store.get(r.id).await.unwrap();

        fs::remove_file(&filler).unwrap();
        for _ in 0..3 {
            store.append_output(r.id, &chunk(end, Channel::Stdout, bytes(end, PIECE))).await.unwrap();
            stored.push((end, end + PIECE));
            end += PIECE;
        }
        store.insert(record(&["true"])).await.unwrap();
        for id in fresh {
            store.get(id).await.unwrap();
        }
    });
    drop(store);
    let store = SqliteStore::open(SqliteConfig::new(&data)).unwrap();
    block_on(async {
        let kept = output(&store, r.id, 0).await;
        assert!(kept.iter().all(|c| c.data.iter().zip(c.offset.0..).all(|(b, at)| *b == byte_at(at))));
        let ranges: Vec<_> = kept.iter().map(|c| (c.offset.0, c.end().0)).collect();
        assert_eq!(ranges, stored, "what was acknowledged is there, the rest is a gap");
        assert_eq!(store.mark_lost("disk").await.unwrap().first(), Some(&r.id));
        assert_eq!(store.get(r.id).await.unwrap().output_end.0, end);
    });
    drop(store);
}
