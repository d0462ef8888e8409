use std::{path::Path, time::SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::Channel;

const LIMITS: SpoolLimits =
    SpoolLimits { command_bytes: 1 << 20, total_bytes: 1 << 30, max_age: None, segment_bytes: 4096 };

fn spool(dir: &Path, limits: SpoolLimits) -> Arc<Spool> {
    Arc::new(Spool::new(dir.to_owned(), limits, || {}))
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

fn chunk(offset: u64, data: impl Into<Bytes>) -> OutputChunk {
    OutputChunk { offset: Offset(offset), channel: Channel::Stdout, at: Timestamp::now(), data: data.into() }
}

/// The byte every test puts at a position, so that any range can be checked without keeping it.
fn byte_at(offset: u64) -> u8 {
    (offset.wrapping_mul(2_654_435_761) >> 13) as u8
}

fn bytes(from: u64, len: usize) -> Vec<u8> {
    (from..from + len as u64).map(byte_at).collect()
}

async fn read(spool: &Arc<Spool>, id: CommandId, from: u64) -> Vec<OutputChunk> {
    spool.read(id, Offset(from)).await.unwrap().try_collect().await.unwrap()
}

/// Ranges that are there, joined, after checking every byte and the order.
fn ranges(chunks: &[OutputChunk]) -> Vec<(u64, u64)> {
    let mut out: Vec<(u64, u64)> = Vec::new();
    for c in chunks {
        assert!(!c.data.is_empty() && c.data.len() <= 1 << 20);
        assert!(
            c.data.iter().zip(c.offset.0..).all(|(b, at)| *b == byte_at(at)),
            "wrong bytes at {}",
            c.offset
        );
        match out.last_mut() {
            Some((_, end)) if *end == c.offset.0 => *end = c.end().0,
            last => {
                assert!(last.is_none_or(|(_, end)| *end < c.offset.0), "out of order at {}", c.offset);
                out.push((c.offset.0, c.end().0));
            }
        }
    }
    out
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all.sort();
    all
}

#[test]
fn what_is_written_comes_back_with_channel_and_time() {
    let dir = tempfile::tempdir().unwrap();
    let (id, spool) = (CommandId::generate(), spool(dir.path(), LIMITS));
    let mut sent = vec![chunk(0, "out"), chunk(3, &b"err\xff\0!"[..]), chunk(9, "tail")];
    sent[1].channel = Channel::Stderr;
    run(async {
        for c in &sent {
            spool.append(id, c).await.unwrap();
        }
        assert_eq!(read(&spool, id, 0).await, sent);
        let mut inside = sent[1..].to_vec();
        inside[0].offset = Offset(5);
        inside[0].data = inside[0].data.slice(2..);
        assert_eq!(read(&spool, id, 5).await, inside);
        assert_eq!(read(&spool, id, 13).await, []);
    });
}

#[test]
fn no_output_costs_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let (id, spool) = (CommandId::generate(), spool(dir.path(), LIMITS));
    run(async {
        spool.append(id, &chunk(0, "")).await.unwrap();
        assert_eq!(read(&spool, id, 0).await, []);
    });
    assert_eq!(files(dir.path()).len(), 0);
    assert_eq!(spool.end(id).unwrap(), None);
}

#[test]
fn a_large_chunk_is_read_in_bounded_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let limits = SpoolLimits { command_bytes: 1 << 30, segment_bytes: 8 << 20, ..LIMITS };
    let (id, spool) = (CommandId::generate(), spool(dir.path(), limits));
    run(async {
        spool.append(id, &chunk(0, bytes(0, 5_000_001))).await.unwrap();
        assert_eq!(ranges(&read(&spool, id, 0).await), [(0, 5_000_001)]);
        assert_eq!(ranges(&read(&spool, id, 4_999_999).await), [(4_999_999, 5_000_001)]);
    });
}

#[test]
fn the_oldest_goes_when_one_command_writes_too_much() {
    let dir = tempfile::tempdir().unwrap();
    let limits = SpoolLimits { command_bytes: 16 << 10, ..LIMITS };
    let (id, spool) = (CommandId::generate(), spool(dir.path(), limits));
    run(async {
        for at in (0..200_000).step_by(1000) {
            spool.append(id, &chunk(at, bytes(at, 1000))).await.unwrap();
        }
        let kept = ranges(&read(&spool, id, 0).await);
        let [(start, 200_000)] = kept[..] else { panic!("{kept:?}") };
        assert!(start >= 200_000 - (16 << 10), "{start}");
        assert!(start <= 200_000 - (10 << 10), "{start}");
    });
    let on_disk: u64 = files(dir.path()).iter().map(|f| f.metadata().unwrap().len()).sum();
    assert!(on_disk <= limits.command_bytes, "{on_disk}");
}

#[test]
fn the_oldest_goes_when_all_commands_write_too_much() {
    let dir = tempfile::tempdir().unwrap();
    let limits = SpoolLimits { total_bytes: 64 << 10, ..LIMITS };
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let spool = Arc::new(Spool::new(dir.path().to_owned(), limits, move || {
        count.fetch_add(1, Ordering::Relaxed);
    }));
    let ids: Vec<_> = (0..10).map(|_| CommandId::generate()).collect();
    run(async {
        for id in &ids {
            for at in (0..20_000).step_by(1000) {
                spool.append(*id, &chunk(at, bytes(at, 1000))).await.unwrap();
            }
        }
        assert!(asked.load(Ordering::Relaxed) > 0);
        spool.enforce(SystemTime::now()).unwrap();
        let on_disk: u64 = files(dir.path()).iter().map(|f| f.metadata().unwrap().len()).sum();
        assert!(on_disk <= limits.total_bytes, "{on_disk}");
        // A command that is being written keeps its last segment and goes on.
        for id in &ids {
            spool.append(*id, &chunk(20_000, bytes(20_000, 10))).await.unwrap();
            assert_eq!(ranges(&read(&spool, *id, 0).await).last().unwrap().1, 20_010);
        }
    });
}

#[test]
fn old_output_goes_with_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let limits = SpoolLimits { max_age: Some(Duration::from_secs(60)), ..LIMITS };
    let (id, spool) = (CommandId::generate(), spool(dir.path(), limits));
    run(async {
        spool.append(id, &chunk(0, "old")).await.unwrap();
        spool.close(id);
        spool.enforce(SystemTime::now()).unwrap();
        assert_eq!(read(&spool, id, 0).await.len(), 1);
        spool.enforce(SystemTime::now() + Duration::from_secs(120)).unwrap();
        assert_eq!(read(&spool, id, 0).await, []);
    });
    assert_eq!(spool.commands().unwrap(), []);
}

#[test]
fn many_commands_share_few_open_files() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(dir.path(), LIMITS);
    let ids: Vec<_> = (0..600).map(|_| CommandId::generate()).collect();
    run(async {
        for round in 0..3 {
            for id in &ids {
                spool.append(*id, &chunk(round * 10, bytes(round * 10, 10))).await.unwrap();
                assert!(spool.writers.load(Ordering::Relaxed) <= MAX_WRITERS);
            }
        }
        for id in &ids {
            assert_eq!(ranges(&read(&spool, *id, 0).await), [(0, 30)]);
            spool.close(*id);
        }
    });
    assert_eq!(spool.writers.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_see_everything_appended_before_they_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (id, spool) = (CommandId::generate(), spool(dir.path(), LIMITS));
    let (done, seen) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let writer = {
        let (spool, done) = (Arc::clone(&spool), Arc::clone(&done));
        tokio::spawn(async move {
            for i in 0..400_u64 {
                let at = done.load(Ordering::SeqCst);
                let len = if i % 40 == 0 { 100_000 } else { 700 };
                spool.append(id, &chunk(at, bytes(at, len))).await.unwrap();
                done.store(at + len as u64, Ordering::SeqCst);
                tokio::task::yield_now().await;
            }
        })
    };
    while !writer.is_finished() {
        let before = done.load(Ordering::SeqCst);
        let from = before.saturating_sub(50_000);
        let kept = ranges(&read(&spool, id, from).await);
        if before > 0 {
            let end = kept.last().unwrap().1;
            assert!(end >= before, "{end} < {before}");
            seen.store(end, Ordering::SeqCst);
        }
        tokio::task::yield_now().await;
    }
    writer.await.unwrap();
    assert!(seen.load(Ordering::SeqCst) <= done.load(Ordering::SeqCst));
}

#[derive(Clone, Debug)]
enum Step {
    /// Append at the end.
    Push(usize),
    /// Append what overlaps what is stored.
    Again(u64, usize),
    /// Skip bytes, as a supervisor does after a failed append.
    Skip(u64),
    /// Close and open again, as after a restart.
    Reopen,
    /// Kill in the middle of a write: bytes are missing at the end of the last file.
    Tear(u64),
    /// Kill in the middle of a write: bytes of a frame that was never whole.
    Litter(Vec<u8>),
    Read(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0_usize..3000).prop_map(Step::Push),
        1 => (0_u64..2000, 0_usize..3000).prop_map(|(back, len)| Step::Again(back, len)),
        1 => (1_u64..5000).prop_map(Step::Skip),
        1 => Just(Step::Reopen),
        1 => (1_u64..3000).prop_map(Step::Tear),
        1 => prop::collection::vec(any::<u8>(), 1..100).prop_map(Step::Litter),
        2 => (0_u64..60_000).prop_map(Step::Read),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever happens, a reader gets the right bytes or a gap, and nothing whole is lost but by the cap.
    #[test]
    fn bytes_are_right_or_there_is_a_gap(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let limits = SpoolLimits { command_bytes: 32 << 10, ..LIMITS };
        let id = CommandId::generate();
        let mut spool = spool(dir.path(), limits);
        // What must be there: ranges that were acknowledged and not torn.
        let mut model: Vec<(u64, u64)> = Vec::new();
        let mut end = 0;
        run(async {
            for step in steps {
                match step {
                    Step::Push(len) => {
                        spool.append(id, &chunk(end, bytes(end, len))).await.unwrap();
                        if len > 0 { model.push((end, end + len as u64)); }
                        end += len as u64;
                    }
                    Step::Again(back, len) => {
                        let stored = model.last().map_or(0, |(_, e)| *e);
                        let from = stored.saturating_sub(back);
                        spool.append(id, &chunk(from, bytes(from, len))).await.unwrap();
                        let to = from + len as u64;
                        if to > stored {
                            model.push((stored, to));
                            end = end.max(to);
                        }
                    }
                    Step::Skip(n) => end += n,
                    Step::Reopen => spool = self::spool(dir.path(), limits),
                    Step::Tear(n) => {
                        if let Some(last) = files(dir.path()).last() {
                            let file = std::fs::OpenOptions::new().write(true).open(last).unwrap();
                            let len = file.metadata().unwrap().len();
                            file.set_len(len.saturating_sub(n)).unwrap();
                            spool = self::spool(dir.path(), limits);
                            let kept = spool.end(id).unwrap().map_or(0, |e| e.0);
                            model.retain(|(s, _)| *s < kept);
                            if let Some(last) = model.last_mut() { last.1 = last.1.min(kept); }
                            end = kept;
                        }
                    }
                    Step::Litter(garbage) => {
                        // Only a writer litters, and a writer begins by cutting off what an earlier one left.
                        spool.append(id, &chunk(end, bytes(end, 1))).await.unwrap();
                        model.push((end, end + 1));
                        end += 1;
                        if let Some(last) = files(dir.path()).last() {
                            use std::io::Write as _;
                            std::fs::OpenOptions::new().append(true).open(last).unwrap().write_all(&garbage).unwrap();
                            spool = self::spool(dir.path(), limits);
                        }
                    }
                    Step::Read(from) => {
                        let got = ranges(&read(&spool, id, from).await);
                        check(&model, &got, from);
                    }
                }
            }
            check(&model, &ranges(&read(&spool, id, 0).await), 0);
        });
    }
}

/// `got` is the model from `from` on, but for what the cap dropped at the front.
fn check(model: &[(u64, u64)], got: &[(u64, u64)], from: u64) {
    let first = got.first().map_or(u64::MAX, |g| g.0);
    let newest = model.last().map_or(0, |m| m.1);
    if newest > from {
        assert!(first < newest, "the newest bytes are gone: {model:?} {got:?}");
    }
    let mut want: Vec<(u64, u64)> = Vec::new();
    for (s, e) in model.iter().map(|(s, e)| ((*s).max(from).max(first), *e)).filter(|(s, e)| s < e) {
        match want.last_mut() {
            Some((_, end)) if *end == s => *end = e,
            _ => want.push((s, e)),
        }
    }
    assert_eq!(want, got);
}

#[test]
fn reading_may_begin_anywhere_in_a_segment_of_large_and_small_frames() {
    let dir = tempfile::tempdir().unwrap();
    let limits = SpoolLimits { segment_bytes: 1 << 20, ..LIMITS };
    let (id, spool) = (CommandId::generate(), spool(dir.path(), limits));
    run(async {
        // With a hole after the third; a reader passes over frames of 2 KiB and more without reading them.
        let (mut at, mut starts) = (0, vec![]);
        for len in [5000, 10, 3000, 7, 100_000, 2048, 2047, 1, 4096] {
            spool.append(id, &chunk(at, bytes(at, len))).await.unwrap();
            starts.push(at);
            at += len as u64 + if starts.len() == 3 { 500 } else { 0 };
        }
        let hole = 8010..8510;
        for from in starts.iter().flat_map(|s| [s.saturating_sub(1), *s, s + 1]).chain([8200, at - 1]) {
            let want: Vec<_> = [(from, hole.start), (from.max(hole.end), at)]
                .into_iter()
                .filter(|(start, end)| start < end)
                .collect();
            assert_eq!(ranges(&read(&spool, id, from).await), want, "from {from}");
        }
    });
}
