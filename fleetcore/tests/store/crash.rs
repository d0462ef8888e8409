//! `kill -9` at any moment: what was acknowledged is there afterwards.

use std::{
    collections::HashMap,
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
};

use fleetcore::{
    Channel, CommandId, CommandState, CommandStore, ExitKind, ExitStatus, Offset, StateChange,
    store::sqlite::{SqliteConfig, SqliteStore},
};
use fleetcore_testkit::suite::store::{chunk, output, record};
use libtest_mimic::Trial;

use crate::{block_on, byte_at, bytes, trial};

const DIR: &str = "FLEETCORE_TEST_CRASH_DIR";
const KILLS: u64 = 25;
const WRITERS: u64 = 4;

pub(crate) fn is_child() -> bool {
    env::var_os(DIR).is_some()
}

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("crash::nothing_acknowledged_is_lost", nothing_acknowledged_is_lost)]
}

/// Runs commands as fast as it can and says on stdout what is done, until it is killed.
pub(crate) fn child() {
    let dir = env::var_os(DIR).unwrap();
    let store = SqliteStore::open(SqliteConfig::new(dir)).unwrap();
    block_on(futures::future::join_all((0..WRITERS).map(|w| write(&store, w))));
}

async fn write(store: &SqliteStore, mut seed: u64) {
    loop {
        let r = record(&["sleep", "1"]);
        store.insert(r.clone()).await.unwrap();
        say(r.id, 1, 0);
        store.transition(r.id, 1, StateChange::to(CommandState::Running)).await.unwrap();
        say(r.id, 2, 0);
        let mut end = 0;
        for _ in 0..=random(&mut seed) % 40 {
            // Mostly small, sometimes large enough for another thread and more than one frame.
            let len = if random(&mut seed) % 30 == 0 { 1_500_000 } else { 1 + random(&mut seed) % 20_000 };
            store.append_output(r.id, &chunk(end, Channel::Stdout, bytes(end, len))).await.unwrap();
            end += len;
            say(r.id, 2, end);
        }
        let change = StateChange::ended(ExitStatus::new(ExitKind::Code(0)), Offset(end));
        store.transition(r.id, 2, change).await.unwrap();
        say(r.id, 3, end);
    }
}

/// One write, so that a line is whole or absent.
fn say(id: CommandId, revision: u64, end: u64) {
    let line = format!("{id} {revision} {end}\n");
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}

/// Marsaglia's xorshift64*, seeded: the same run every time, but for the moment of the kill.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut x = *seed;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33
}

fn nothing_acknowledged_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut seed = 42;
    let mut all = HashMap::new();
    let mut acknowledged = 0;
    for _ in 0..KILLS {
        let lines = 1 + random(&mut seed) % 400;
        let round = run_and_kill(dir.path(), lines);
        acknowledged += round.values().map(|(_, end)| end).sum::<u64>();
        block_on(check(dir.path(), &round, true));
        all.extend(round);
    }
    // And what earlier runs left is still there after all that followed.
    block_on(check(dir.path(), &all, false));
    assert!(acknowledged > 1 << 20, "the child did something worth losing: {acknowledged} bytes");
}

/// Kills the child after so many lines; the last revision and offset it named for each command.
fn run_and_kill(dir: &Path, lines: u64) -> HashMap<CommandId, (u64, u64)> {
    let mut child =
        Command::new(env::current_exe().unwrap()).env(DIR, dir).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = HashMap::new();
    let mut count = 0;
    // To the end: what it said before it died counts.
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let words: Vec<_> = line.split(' ').collect();
        let [id, revision, end] = words[..] else { panic!("{line:?}") };
        said.insert(id.parse().unwrap(), (revision.parse().unwrap(), end.parse().unwrap()));
        count += 1;
        if count == lines {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(count >= lines, "the child ended by itself");
    said
}

async fn check(dir: &Path, said: &HashMap<CommandId, (u64, u64)>, fresh: bool) {
    let store = SqliteStore::open(SqliteConfig::new(dir)).unwrap();
    for (id, (revision, end)) in said {
        let r = store.get(*id).await.unwrap();
        assert!(r.revision >= *revision, "{r:?} was at {revision}");
        let mut position = 0;
        for c in output(&store, *id, 0).await {
            assert_eq!(c.offset.0, position, "a gap in {id}");
            assert!(c.data.iter().zip(position..).all(|(b, at)| *b == byte_at(at)), "wrong bytes in {id}");
            position = c.end().0;
        }
        assert!(position >= *end, "{id} had {end} bytes and has {position}");
    }
    let lost = store.mark_lost("killed").await.unwrap();
    assert!(lost.len() as u64 <= if fresh { WRITERS } else { 0 });
    for id in lost {
        let r = store.get(id).await.unwrap();
        let (_, end) = said.get(&id).copied().unwrap_or_default();
        assert!(r.state == CommandState::Lost && r.output_end.0 >= end, "{r:?}");
    }
}
