//! What every [`CommandStore`] promises.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "cases fail by panicking")]

use std::sync::Arc;

use bytes::Bytes;
use fleetcore::{
    Channel, CommandFilter, CommandId, CommandRecord, CommandSpec, CommandState, CommandStore, ErrorKind,
    ExitKind, ExitStatus, Offset, OutputChunk, StateChange, Target,
};
use futures::{TryStreamExt, future::join_all};
use jiff::{SignedDuration, Timestamp};

use super::{Case, cases};

/// All cases.
pub fn all() -> Vec<Case<dyn CommandStore>> {
    cases![
        a_record_comes_back_as_it_was,
        an_id_can_be_used_once,
        what_is_unknown_is_not_found,
        of_many_equal_inserts_one_wins,
        a_stale_revision_is_a_conflict,
        of_many_transitions_one_wins,
        the_state_machine_is_kept,
        a_failed_operation_leaves_its_neighbours_alone,
        lists_are_newest_first_and_page,
        lists_pass_every_filter,
        hostile_text_is_only_text,
        output_comes_back_from_any_offset,
        output_is_stored_once,
        missing_output_is_a_gap,
        large_output_arrives_in_bounded_pieces,
        no_output_is_an_empty_stream,
        a_reader_is_not_disturbed_by_a_writer,
        prune_takes_what_ended_and_its_output,
        lost_is_what_was_not_settled,
    ]
}

/// A record of a command that is about to start.
pub fn record(argv: &[&str]) -> CommandRecord {
    let spec = CommandSpec::argv(argv.iter().copied());
    CommandRecord::new(CommandId::generate(), Target::local(), &spec, Some("suite".to_owned()))
}

/// A piece of output.
pub fn chunk(offset: u64, channel: Channel, data: impl Into<Bytes>) -> OutputChunk {
    OutputChunk { offset: Offset(offset), channel, at: Timestamp::now(), data: data.into() }
}

/// Everything that is kept from `from` on.
pub async fn output(store: &dyn CommandStore, id: CommandId, from: u64) -> Vec<OutputChunk> {
    store.read_output(id, Offset(from)).await.unwrap().try_collect().await.unwrap()
}

fn joined(chunks: &[OutputChunk]) -> Vec<u8> {
    chunks.iter().flat_map(|c| c.data.iter().copied()).collect()
}

fn ended(code: i32, end: u64) -> StateChange {
    StateChange::ended(ExitStatus::new(ExitKind::Code(code)), Offset(end))
}

async fn settle(store: &dyn CommandStore, id: CommandId, code: i32) -> CommandRecord {
    let running = store.transition(id, 1, StateChange::to(CommandState::Running)).await.unwrap();
    store.transition(id, running.revision, ended(code, 0)).await.unwrap()
}

async fn a_record_comes_back_as_it_was(store: Arc<dyn CommandStore>) {
    let mut r = record(&["printf", "%s", "a b\n\u{1F980}\0"]);
    r.target = "box/web/m-1".parse().unwrap();
    r.cwd = Some("/tmp/ü".to_owned());
    r.labels.insert("a".to_owned(), "b=c".to_owned());
    store.insert(r.clone()).await.unwrap();
    assert_eq!(store.get(r.id).await.unwrap(), r);
    let running = store.transition(r.id, 1, StateChange::to(CommandState::Running)).await.unwrap();
    assert_eq!(store.get(r.id).await.unwrap(), running);
    let change = ended(3, 77).with_error("why");
    let done = store.transition(r.id, 2, change.clone()).await.unwrap();
    assert_eq!(done, running.apply(&change).unwrap());
    assert_eq!(store.get(r.id).await.unwrap(), done);
    assert_eq!((done.state, done.output_end, done.revision), (CommandState::Failed, Offset(77), 3));
}

async fn an_id_can_be_used_once(store: Arc<dyn CommandStore>) {
    let r = record(&["true"]);
    store.insert(r.clone()).await.unwrap();
    let mut other = record(&["false"]);
    other.id = r.id;
    other.labels.insert("k".to_owned(), "v".to_owned());
    assert_eq!(store.insert(other).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(store.get(r.id).await.unwrap(), r);
    let mut filter = CommandFilter::default();
    filter.labels.insert("k".to_owned(), "v".to_owned());
    assert_eq!(store.list(filter).await.unwrap(), [], "a refused insert leaves nothing behind");
}

async fn what_is_unknown_is_not_found(store: Arc<dyn CommandStore>) {
    let id = CommandId::generate();
    assert_eq!(store.get(id).await.unwrap_err().kind(), ErrorKind::NotFound);
    let err = store.transition(id, 1, StateChange::to(CommandState::Running)).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound);
}

async fn of_many_equal_inserts_one_wins(store: Arc<dyn CommandStore>) {
    let r = record(&["true"]);
    let results = join_all((0..20).map(|_| store.insert(r.clone()))).await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
    assert!(results.iter().flat_map(|r| r.as_ref().err()).all(|e| e.kind() == ErrorKind::AlreadyExists));
}

async fn a_stale_revision_is_a_conflict(store: Arc<dyn CommandStore>) {
    let r = record(&["true"]);
    store.insert(r.clone()).await.unwrap();
    for wrong in [0, 2, u64::MAX] {
        let err = store.transition(r.id, wrong, StateChange::to(CommandState::Running)).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Conflict, "{wrong}");
    }
    assert_eq!(store.get(r.id).await.unwrap(), r);
}

async fn of_many_transitions_one_wins(store: Arc<dyn CommandStore>) {
    let r = record(&["true"]);
    store.insert(r.clone()).await.unwrap();
    let results =
        join_all((0..20).map(|_| store.transition(r.id, 1, StateChange::to(CommandState::Cancelled)))).await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
    assert!(results.iter().flat_map(|r| r.as_ref().err()).all(|e| e.kind() == ErrorKind::Conflict));
    assert_eq!(store.get(r.id).await.unwrap().revision, 2);
}

async fn the_state_machine_is_kept(store: Arc<dyn CommandStore>) {
    let r = record(&["true"]);
    store.insert(r.clone()).await.unwrap();
    let done = settle(&*store, r.id, 0).await;
    for to in CommandState::ALL {
        let err = store.transition(r.id, done.revision, StateChange::to(to)).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidState, "{to}");
    }
    assert_eq!(store.get(r.id).await.unwrap(), done);
}

async fn a_failed_operation_leaves_its_neighbours_alone(store: Arc<dyn CommandStore>) {
    let taken = record(&["taken"]);
    store.insert(taken.clone()).await.unwrap();
    let fresh: Vec<_> = (0..50).map(|_| record(&["fresh"])).collect();
    // All at once, so that a store that groups its writes has good and bad ones in one group.
    let work = fresh.iter().flat_map(|r| [store.insert(r.clone()), store.insert(taken.clone())]);
    let results = join_all(work).await;
    for (i, result) in results.iter().enumerate() {
        assert_eq!(result.is_ok(), i % 2 == 0, "{i}: {result:?}");
    }
    for r in &fresh {
        assert_eq!(store.get(r.id).await.unwrap(), *r);
    }
}

async fn lists_are_newest_first_and_page(store: Arc<dyn CommandStore>) {
    let mut all: Vec<_> = (0..250).map(|_| record(&["true"])).collect();
    for (i, r) in (1_u64..).zip(&mut all) {
        // Clients choose ids; these go down while time goes up.
        r.id = format!("ffffffff-ffff-4fff-8fff-{:012x}", 0xffff_ffff_u64 - i).parse().unwrap();
        r.created_at += SignedDuration::from_millis(i64::try_from(i).unwrap());
    }
    for r in &all {
        store.insert(r.clone()).await.unwrap();
    }
    let newest: Vec<_> = all.iter().rev().map(|r| r.id).collect();
    let ids = |page: &[CommandRecord]| page.iter().map(|r| r.id).collect::<Vec<_>>();
    let page = store.list(CommandFilter::default()).await.unwrap();
    assert_eq!(ids(&page), newest[..100], "100 is the default");
    let mut seen = Vec::new();
    let mut filter = CommandFilter::default();
    filter.limit = Some(70);
    loop {
        let page = store.list(filter.clone()).await.unwrap();
        let Some(last) = page.last() else { break };
        filter.before = Some(last.id);
        seen.extend(ids(&page));
    }
    assert_eq!(seen, newest);
    filter.before = None;
    filter.limit = Some(0);
    assert_eq!(store.list(filter).await.unwrap(), []);
}

async fn lists_pass_every_filter(store: Arc<dyn CommandStore>) {
    let mut all = Vec::new();
    for i in 0..60_u32 {
        let mut r = record(&["make", if i % 2 == 0 { "test" } else { "Build" }]);
        r.target = if i % 3 == 0 { "web/m-1".parse().unwrap() } else { Target::local() };
        r.created_at -= SignedDuration::from_secs(i64::from(60 - i));
        r.labels.insert("team".to_owned(), format!("t{}", i % 4));
        r.labels.insert("n".to_owned(), i.to_string());
        store.insert(r.clone()).await.unwrap();
        if i % 5 != 0 {
            r = settle(&*store, r.id, i32::from(i % 7 == 0)).await;
        }
        all.push(r);
    }
    let mut filters = vec![CommandFilter::default(); 10];
    filters[1].target = Some("web/m-1".parse().unwrap());
    filters[2].states = vec![CommandState::Failed];
    filters[3].states = vec![CommandState::Queued, CommandState::Succeeded];
    filters[4].labels.insert("team".to_owned(), "t1".to_owned());
    filters[5].labels.extend([("team".to_owned(), "t3".to_owned()), ("n".to_owned(), "7".to_owned())]);
    filters[6].search = Some("Build".to_owned());
    filters[7].since = Some(all[30].created_at);
    filters[8].search = Some("build".to_owned());
    filters[9] = filters[7].clone();
    filters[9].target = Some(Target::local());
    filters[9].states = vec![CommandState::Succeeded, CommandState::Failed];
    filters[9].labels.insert("team".to_owned(), "t2".to_owned());
    filters[9].search = Some("test".to_owned());
    filters[9].before = Some(all[55].id);
    for (i, filter) in filters.into_iter().enumerate() {
        let older = |r: &&CommandRecord| filter.before.is_none() || r.created_at < all[55].created_at;
        let want: Vec<_> = all.iter().rev().filter(older).filter(|r| filter.matches(r)).cloned().collect();
        assert_eq!(want.is_empty(), i == 8, "the case is worth asking: {filter:?}");
        assert_eq!(store.list(filter.clone()).await.unwrap(), want, "{filter:?}");
    }
}

async fn hostile_text_is_only_text(store: Arc<dyn CommandStore>) {
    let evil = "'; DROP TABLE commands; -- %_\"\\ \u{202e}";
    let mut r = record(&["echo", evil]);
    r.labels.insert(evil.to_owned(), evil.to_owned());
    store.insert(r.clone()).await.unwrap();
    store.insert(record(&["other"])).await.unwrap();
    let mut by_label = CommandFilter::default();
    by_label.labels.insert(evil.to_owned(), evil.to_owned());
    let mut by_text = CommandFilter::default();
    by_text.search = Some("%_".to_owned());
    for filter in [by_label, by_text] {
        assert_eq!(store.list(filter).await.unwrap(), [r.clone()]);
    }
}

async fn output_comes_back_from_any_offset(store: Arc<dyn CommandStore>) {
    let r = record(&["true"]);
    store.insert(r.clone()).await.unwrap();
    let sent = [
        chunk(0, Channel::Stdout, "hello "),
        chunk(6, Channel::Stderr, &b"\xff\0w"[..]),
        chunk(9, Channel::Log, "orld"),
        chunk(13, Channel::Pty, "!"),
    ];
    for c in &sent {
        store.append_output(r.id, c).await.unwrap();
    }
    assert_eq!(output(&*store, r.id, 0).await, sent);
    let whole = joined(&sent);
    for from in 0..=whole.len() + 2 {
        let got = output(&*store, r.id, from as u64).await;
        assert_eq!(joined(&got), whole[from.min(whole.len())..], "{from}");
        assert!(got.first().is_none_or(|c| c.offset == Offset(from as u64)), "{from}");
    }
}

async fn output_is_stored_once(store: Arc<dyn CommandStore>) {
    let r = record(&["true"]);
    store.insert(r.clone()).await.unwrap();
    for (at, text) in [(0, "abc"), (0, "abc"), (1, "bc"), (1, "bcde"), (4, ""), (0, "abcdef"), (6, "g")] {
        store.append_output(r.id, &chunk(at, Channel::Stdout, text)).await.unwrap();
    }
    let got = output(&*store, r.id, 0).await;
    assert_eq!(joined(&got), b"abcdefg");
    assert!(got.windows(2).all(|w| w[0].end() == w[1].offset));
}

async fn missing_output_is_a_gap(store: Arc<dyn CommandStore>) {
    let r = record(&["true"]);
    store.insert(r.clone()).await.unwrap();
    let sent = [chunk(0, Channel::Stdout, "abc"), chunk(10, Channel::Stdout, "xyz")];
    for c in &sent {
        store.append_output(r.id, c).await.unwrap();
    }
    assert_eq!(output(&*store, r.id, 0).await, sent);
    assert_eq!(output(&*store, r.id, 5).await, sent[1..]);
    // What comes late for a hole that was left is not stored.
    store.append_output(r.id, &chunk(3, Channel::Stdout, "defg")).await.unwrap();
    assert_eq!(output(&*store, r.id, 0).await, sent);
}

async fn large_output_arrives_in_bounded_pieces(store: Arc<dyn CommandStore>) {
    let r = record(&["true"]);
    store.insert(r.clone()).await.unwrap();
    let data: Vec<u8> = (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 21) as u8).collect();
    let data = Bytes::from(data);
    store.append_output(r.id, &chunk(0, Channel::Stdout, data.slice(..2_500_000))).await.unwrap();
    store.append_output(r.id, &chunk(2_500_000, Channel::Stdout, data.slice(2_500_000..))).await.unwrap();
    let got = output(&*store, r.id, 0).await;
    assert!(got.iter().all(|c| (1..=1 << 20).contains(&c.data.len())));
    assert!(joined(&got) == data, "bytes differ");
    assert!(joined(&output(&*store, r.id, 2_499_999).await) == data[2_499_999..], "bytes differ");
}

async fn no_output_is_an_empty_stream(store: Arc<dyn CommandStore>) {
    let r = record(&["true"]);
    store.insert(r.clone()).await.unwrap();
    store.append_output(r.id, &chunk(0, Channel::Stdout, "")).await.unwrap();
    assert_eq!(output(&*store, r.id, 0).await, []);
    assert_eq!(output(&*store, r.id, 100).await, []);
}

async fn a_reader_is_not_disturbed_by_a_writer(store: Arc<dyn CommandStore>) {
    let r = record(&["true"]);
    store.insert(r.clone()).await.unwrap();
    let mut end = 0;
    let mut readers = Vec::new();
    for i in 0..50_u8 {
        store.append_output(r.id, &chunk(end, Channel::Stdout, vec![i; 1000])).await.unwrap();
        end += 1000;
        readers.push((end, store.read_output(r.id, Offset(0)).await.unwrap()));
    }
    settle(&*store, r.id, 0).await;
    for (end, reader) in readers {
        let got = joined(&reader.try_collect::<Vec<_>>().await.unwrap());
        assert!(got.len() as u64 >= end, "what was there when the stream began is in it");
        assert!(got.chunks(1000).zip(0_u8..).all(|(c, i)| c == [i; 1000]));
    }
}

async fn prune_takes_what_ended_and_its_output(store: Arc<dyn CommandStore>) {
    let (old, young, running) = (record(&["old"]), record(&["young"]), record(&["running"]));
    for r in [&old, &young, &running] {
        store.insert(r.clone()).await.unwrap();
        store.append_output(r.id, &chunk(0, Channel::Stdout, "x")).await.unwrap();
    }
    let hour = SignedDuration::from_hours(1);
    let mut change = ended(0, 1);
    change.at = old.created_at - hour - hour;
    store.transition(old.id, 1, StateChange::to(CommandState::Running)).await.unwrap();
    store.transition(old.id, 2, change).await.unwrap();
    settle(&*store, young.id, 0).await;
    assert_eq!(store.prune(old.created_at - hour).await.unwrap(), 1);
    assert_eq!(store.get(old.id).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(output(&*store, old.id, 0).await, []);
    for r in [&young, &running] {
        store.get(r.id).await.unwrap();
        assert_eq!(output(&*store, r.id, 0).await.len(), 1);
    }
    assert_eq!(store.prune(Timestamp::now() + hour).await.unwrap(), 1, "what runs stays");
    store.get(running.id).await.unwrap();
}

async fn lost_is_what_was_not_settled(store: Arc<dyn CommandStore>) {
    let (queued, running, done) = (record(&["q"]), record(&["r"]), record(&["d"]));
    for r in [&queued, &running, &done] {
        store.insert(r.clone()).await.unwrap();
    }
    store.transition(running.id, 1, StateChange::to(CommandState::Running)).await.unwrap();
    store.append_output(running.id, &chunk(0, Channel::Stdout, "12345")).await.unwrap();
    settle(&*store, done.id, 0).await;
    let mut lost = store.mark_lost("the server ended").await.unwrap();
    lost.sort();
    assert_eq!(lost, [queued.id, running.id]);
    let r = store.get(running.id).await.unwrap();
    assert_eq!((r.state, r.output_end, r.revision), (CommandState::Lost, Offset(5), 3));
    assert_eq!(r.error.as_deref(), Some("the server ended"));
    assert!(r.ended_at.is_some());
    assert_eq!(store.get(done.id).await.unwrap().state, CommandState::Succeeded);
    assert_eq!(store.mark_lost("again").await.unwrap(), []);
    // Not final: whoever knows better may settle it.
    let settled = store.transition(running.id, r.revision, ended(0, 9)).await.unwrap();
    assert_eq!((settled.state, settled.output_end), (CommandState::Succeeded, Offset(9)));
}
