//! Output that is read late, again, or slowly.

use std::sync::Arc;

use fleetcore::{CommandEvent, Offset, Overflow};
use futures::StreamExt as _;

use crate::{
    Env, PATTERN_SCRIPT, Seen, must, pattern, sh,
    suite::{Case, cases},
};

pub(super) fn all() -> Vec<Case<Env>> {
    cases![
        any_offset_resumes_with_the_same_bytes,
        a_reader_that_reconnects_loses_nothing,
        an_offset_beyond_the_end_is_the_end,
        what_was_forgotten_is_an_explicit_gap,
        drop_oldest_never_slows_the_command,
        block_holds_every_byte_for_the_first_reader,
        block_holds_every_byte_for_a_slow_reader,
        block_lets_go_when_the_last_reader_leaves,
        output_is_collected_whatever_the_window,
    ]
}

async fn any_offset_resumes_with_the_same_bytes(env: Arc<Env>) {
    let command = env.spawn(sh("for i in 1 2 3 4 5 6 7 8; do echo line $i; done", &[])).await;
    let whole = Seen::all(&command, 0).await.bytes;
    assert_eq!(whole.len(), 56);
    for from in 0..=whole.len() {
        let seen = Seen::all(&command, from as u64).await;
        assert!(whole.ends_with(&seen.bytes) && seen.bytes.len() == whole.len() - from, "from {from}");
    }
}

async fn a_reader_that_reconnects_loses_nothing(env: Arc<Env>) {
    let lines = 50_000;
    let spec = sh(PATTERN_SCRIPT, &[&lines.to_string()]).with_replay(8 << 10, Overflow::Block);
    let command = env.spawn(spec).await;
    let mut bytes = Vec::new();
    let mut stream = command.stream(Offset(0));
    'connected: loop {
        // One chunk per connection: a second one need not come before the anchor below moves.
        loop {
            match stream.next().await.map(must) {
                Some(CommandEvent::Output(chunk)) => {
                    assert_eq!(chunk.offset.0, bytes.len() as u64);
                    bytes.extend_from_slice(&chunk.data);
                    break;
                }
                Some(CommandEvent::Exited(_)) | None => break 'connected,
                Some(CommandEvent::Gap { from, to }) => crate::fail(format!("a gap from {from} to {to}")),
                Some(_) => {}
            }
        }
        // It keeps the window while the other is away; nobody promises that to a reader that is gone.
        let anchor = command.stream(stream.position());
        drop(stream);
        tokio::task::yield_now().await;
        stream = command.stream(anchor.position());
    }
    assert!(bytes == pattern(lines * 8), "{} bytes, or others", bytes.len());
}

async fn an_offset_beyond_the_end_is_the_end(env: Arc<Env>) {
    let command = env.spawn(sh("echo hello", &[])).await;
    must(command.wait().await);
    let seen = Seen::all(&command, u64::MAX).await;
    assert!(seen.bytes.is_empty() && seen.gaps.is_empty());
    assert!(seen.status().success());
}

async fn what_was_forgotten_is_an_explicit_gap(env: Arc<Env>) {
    let lines = 20_000;
    let spec = sh(PATTERN_SCRIPT, &[&lines.to_string()]).with_replay(4 << 10, Overflow::DropOldest);
    let command = env.spawn(spec).await;
    must(command.wait().await);
    let seen = Seen::all(&command, 0).await;
    let missing: u64 = seen.gaps.iter().map(|(from, to)| to - from).sum();
    assert_eq!(missing + seen.bytes.len() as u64, lines as u64 * 8, "what is missing is told to the byte");
    assert!(pattern(lines * 8).ends_with(&seen.bytes), "the newest bytes are kept");
    assert!(!seen.bytes.is_empty());
    if env.fleet.commands().store().is_none() {
        assert_eq!(seen.gaps.len(), 1, "one gap, at the start: {:?}", seen.gaps);
    }
}

async fn drop_oldest_never_slows_the_command(env: Arc<Env>) {
    let spec = sh(PATTERN_SCRIPT, &["200000"]).with_replay(4 << 10, Overflow::DropOldest);
    let command = env.spawn(spec).await;
    let idle = command.stream(Offset(0));
    assert!(must(command.wait().await).success());
    drop(idle);
}

async fn block_holds_every_byte_for_the_first_reader(env: Arc<Env>) {
    let lines = 100_000;
    let spec = sh(PATTERN_SCRIPT, &[&lines.to_string()]).with_replay(4 << 10, Overflow::Block);
    let command = env.spawn(spec).await;
    // Time passes before the first reader comes: as long as other commands take to run.
    for _ in 0..5 {
        env.sh("true", &[]).await;
    }
    assert!(command.record().exit.is_none(), "it waits for a reader");
    let seen = Seen::all(&command, 0).await;
    assert!(seen.gaps.is_empty() && seen.bytes == pattern(lines * 8), "{:?}", seen.gaps);
}

async fn block_holds_every_byte_for_a_slow_reader(env: Arc<Env>) {
    let lines = 20_000;
    let spec = sh(PATTERN_SCRIPT, &[&lines.to_string()]).with_replay(1 << 10, Overflow::Block);
    let command = env.spawn(spec).await;
    let mut slow = command.stream(Offset(0));
    let mut bytes = Vec::new();
    while let Some(event) = slow.next().await {
        match must(event) {
            CommandEvent::Output(chunk) => bytes.extend_from_slice(&chunk.data),
            CommandEvent::Gap { from, to } => crate::fail(format!("a gap from {from} to {to}")),
            _ => {}
        }
        tokio::task::yield_now().await;
    }
    assert!(bytes == pattern(lines * 8), "{} bytes, or others", bytes.len());
}

async fn block_lets_go_when_the_last_reader_leaves(env: Arc<Env>) {
    let spec = sh(PATTERN_SCRIPT, &["200000"]).with_replay(4 << 10, Overflow::Block);
    let command = env.spawn(spec).await;
    let mut stream = command.stream(Offset(0));
    while !matches!(stream.next().await.map(must), Some(CommandEvent::Output(_))) {}
    drop(stream);
    assert!(must(command.wait().await).success());
}

async fn output_is_collected_whatever_the_window(env: Arc<Env>) {
    let lines = 30_000;
    let spec = sh(PATTERN_SCRIPT, &[&lines.to_string()]).with_replay(4 << 10, Overflow::Block);
    let out = env.run(spec).await;
    assert!(!out.truncated && out.stdout == pattern(lines * 8));
}
