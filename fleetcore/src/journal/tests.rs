//! What every reader may rely on, whatever the order of pushes, reads, joins and leaves.

use std::{collections::BTreeMap, sync::Arc, task::Poll};

use bytes::Bytes;
use futures::{StreamExt, poll};
use proptest::prelude::*;

use super::{Journal, JournalStream};
use crate::{
    Channel, CommandEvent, CommandId, CommandState, CommandStream, ExitKind, ExitStatus, Offset, Overflow,
};

fn journal(capacity: usize, overflow: Overflow) -> Arc<Journal> {
    Journal::new(CommandId::generate(), capacity, overflow, None)
}

fn push(journal: &Journal, channel: Channel, data: &[u8]) {
    let chunk = journal.stamp(channel, Bytes::copy_from_slice(data));
    journal.push(chunk);
}

fn finish(journal: &Journal) {
    journal.finish(CommandState::Succeeded, ExitStatus::new(ExitKind::Code(0)));
}

/// Everything that is ready now.
async fn ready(stream: &mut JournalStream) -> Vec<CommandEvent> {
    let mut events = vec![];
    while let Poll::Ready(Some(event)) = poll!(stream.next()) {
        events.push(event.unwrap());
    }
    events
}

/// Checks that events continue at `at` without an unexplained hole, and that bytes are those that were pushed.
fn follow(at: &mut u64, events: &[CommandEvent], written: &[u8]) -> (u64, bool) {
    let (mut gaps, mut exited) = (0, false);
    for event in events {
        assert!(!exited, "nothing comes after the exit");
        match event {
            CommandEvent::Output(chunk) => {
                assert_eq!(chunk.offset.0, *at);
                assert_eq!(&chunk.data[..], &written[*at as usize..][..chunk.data.len()]);
                *at = chunk.end().0;
            }
            CommandEvent::Gap { from, to } => {
                assert_eq!(from.0, *at);
                assert!(to > from);
                gaps += to.0 - from.0;
                *at = to.0;
            }
            CommandEvent::Exited(_) => exited = true,
            CommandEvent::State(_) => {}
        }
    }
    (gaps, exited)
}

#[tokio::test]
async fn bytes_that_will_never_come_are_a_gap_for_every_reader() {
    let journal = journal(100, Overflow::DropOldest);
    let early = journal.subscribe(Offset(0));
    push(&journal, Channel::Stdout, b"abc");
    journal.skip(Offset(10));
    push(&journal, Channel::Stdout, b"xyz");
    // The past is not skipped again.
    journal.skip(Offset(5));
    journal.skip(Offset(20));
    finish(&journal);
    for (mut stream, first) in
        [(early, 0), (journal.subscribe(Offset(0)), 0), (journal.subscribe(Offset(5)), 1)]
    {
        let seen: Vec<_> = ready(&mut stream)
            .await
            .iter()
            .map(|e| match e {
                CommandEvent::Output(c) => (c.offset.0, c.end().0),
                CommandEvent::Gap { from, to } => (from.0.min(3), to.0),
                _ => (0, 0),
            })
            .collect();
        assert_eq!(seen, [(0, 3), (3, 10), (10, 13), (3, 20), (0, 0)][first..]);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push(u8, usize),
    Join(u64),
    Read(usize),
    Leave(usize),
    Resume(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..3, 0usize..400).prop_map(|(c, n)| Step::Push(c, n)),
        2 => (0u64..6000).prop_map(Step::Join),
        3 => (0usize..8).prop_map(Step::Read),
        1 => (0usize..8).prop_map(Step::Leave),
        1 => (0usize..8).prop_map(Step::Resume),
    ]
}

proptest! {
    #[test]
    fn readers_get_every_byte_or_an_explicit_gap(
        steps in prop::collection::vec(step(), 1..80),
        capacity in 1usize..2000,
        block in any::<bool>(),
    ) {
        let overflow = if block { Overflow::Block } else { Overflow::DropOldest };
        futures::executor::block_on(async move {
            let journal = journal(capacity, overflow);
            let channels = [Channel::Stdout, Channel::Stderr, Channel::Pty];
            let mut written: Vec<u8> = vec![];
            let mut readers: BTreeMap<usize, (JournalStream, u64)> = BTreeMap::new();
            let mut next_reader = 0;
            for step in steps {
                match step {
                    Step::Push(channel, len) => {
                        if !journal.has_space() {
                            continue;
                        }
                        let data: Vec<u8> = (0..len).map(|i| (written.len() + i) as u8).collect();
                        push(&journal, channels[channel as usize], &data);
                        written.extend(data);
                    }
                    Step::Join(from) => {
                        let stream = journal.subscribe(Offset(from));
                        let at = stream.position().0;
                        assert_eq!(at, from.min(written.len() as u64));
                        readers.insert(next_reader, (stream, at));
                        next_reader += 1;
                    }
                    Step::Read(n) => {
                        if let Some((stream, at)) = readers.values_mut().nth(n) {
                            let before = *at;
                            let (gaps, _) = follow(at, &ready(stream).await, &written);
                            assert_eq!(*at, written.len() as u64);
                            assert!(gaps <= *at - before);
                        }
                    }
                    Step::Leave(n) => {
                        if let Some(key) = readers.keys().nth(n).copied() {
                            readers.remove(&key);
                        }
                    }
                    Step::Resume(n) => {
                        if let Some((stream, at)) = readers.values_mut().nth(n) {
                            *stream = journal.subscribe(stream.position());
                            assert_eq!(stream.position().0, *at);
                        }
                    }
                }
            }
            finish(&journal);
            for (mut stream, mut at) in readers.into_values() {
                let (_, exited) = follow(&mut at, &ready(&mut stream).await, &written);
                assert!(exited);
                assert_eq!(at, written.len() as u64);
            }
        });
    }

    #[test]
    fn small_writes_are_merged_without_changing_a_byte(sizes in prop::collection::vec(1usize..4, 5000..6000)) {
        let journal = journal(1 << 20, Overflow::DropOldest);
        let mut written = vec![];
        for (i, n) in sizes.iter().enumerate() {
            let channel = if i % 500 < 250 { Channel::Stdout } else { Channel::Stderr };
            let data = vec![i as u8; *n];
            push(&journal, channel, &data);
            written.extend(data);
        }
        prop_assert!(journal.lock().chunks.len() < 4200);
        prop_assert_eq!(journal.slice(Offset(0)..journal.end()), written);
    }
}

#[tokio::test]
async fn block_holds_before_the_first_reader_and_lets_go_after_the_last() {
    let journal = journal(100, Overflow::Block);
    push(&journal, Channel::Stdout, &[1; 150]);
    assert!(!journal.has_space(), "nobody has read anything yet");
    let mut reader = journal.subscribe(Offset(0));
    assert!(!journal.has_space());
    assert!(matches!(reader.next().await, Some(Ok(CommandEvent::Output(c))) if c.data.len() == 150));
    assert!(journal.has_space());
    push(&journal, Channel::Stdout, &[2; 150]);
    assert!(!journal.has_space());
    drop(reader);
    assert!(journal.has_space());
}

#[tokio::test]
async fn a_waiting_reader_is_woken_by_output_and_by_the_end() {
    let journal = journal(100, Overflow::DropOldest);
    let mut reader = journal.subscribe(Offset(0));
    let waiting = tokio::spawn(async move {
        let first = reader.next().await.unwrap().unwrap();
        let second = reader.next().await.unwrap().unwrap();
        (first, second, reader.next().await.is_none())
    });
    tokio::task::yield_now().await;
    push(&journal, Channel::Stdout, b"x");
    tokio::task::yield_now().await;
    finish(&journal);
    let (first, second, over) = waiting.await.unwrap();
    assert!(matches!(first, CommandEvent::Output(c) if &c.data[..] == b"x"));
    assert!(matches!(second, CommandEvent::Exited(s) if s.success()));
    assert!(over);
}

#[tokio::test]
async fn a_reader_that_is_a_little_behind_is_not_sent_to_the_log_and_one_that_stopped_costs_nothing() {
    // Nothing is in this store: whoever is sent there finds a gap.
    let store = Arc::new(crate::store::memory::MemoryStore::default());
    let journal = Journal::new(CommandId::generate(), 100, Overflow::DropOldest, Some(store));
    let mut reader = journal.subscribe(Offset(0));
    let mut stopped = journal.subscribe(Offset(0));
    let (mut written, mut at) = (vec![], 0);
    let write = |written: &mut Vec<u8>, len: usize| {
        let data: Vec<u8> = (0..len).map(|i| (written.len() + i) as u8).collect();
        push(&journal, Channel::Stdout, &data);
        written.extend(data);
    };
    for _ in 0..20 {
        // Four windows at a time.
        (0..8).for_each(|_| write(&mut written, 50));
        let (gaps, _) = follow(&mut at, &ready(&mut reader).await, &written);
        assert_eq!((gaps, at), (0, written.len() as u64));
        assert!(written.len() as u64 - journal.lock().base <= 450);
    }
    write(&mut written, 50);
    write(&mut written, 50);
    follow(&mut at, &ready(&mut reader).await, &written);
    write(&mut written, 50);
    assert!(written.len() as u64 - journal.lock().base <= 100, "the one that stopped holds nothing");
    let first = ready(&mut stopped).await;
    assert!(matches!(first.first(), Some(CommandEvent::Gap { from: Offset(0), .. })), "{first:?}");
}
