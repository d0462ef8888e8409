//! Against real processes.
#![cfg(target_os = "linux")]

use std::{
    os::unix::process::ExitStatusExt as _,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Marked, MemoryGuard};

const NAME: &str = "FLEETCORE_OOM_TEST";

fn marked() -> (Arc<Marked>, String) {
    let value = uuid::Uuid::now_v7().to_string();
    (Arc::new(Marked::new(NAME, &value)), value)
}

fn sh(value: &str, script: &str) -> Child {
    let mut command = Command::new("/bin/sh");
    // Should nobody end it, this does before the host suffers.
    command.args(["-c", &format!("ulimit -v 4000000; {script}")]).env(NAME, value);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn until(mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(60), "it never happened");
        std::thread::yield_now();
    }
}

#[test]
fn marked_processes_and_what_they_start_are_found() {
    let (marked, value) = marked();
    assert!(marked.list().is_empty());
    // One that clears its environment and one whose parent ends.
    let mut child = sh(&value, "env -i sleep 1000 & (sleep 1001 &) ; read x; kill $!");
    let names = || {
        let mut names: Vec<String> = marked.list().into_iter().map(|p| p.name).collect();
        names.sort();
        names
    };
    until(|| names() == ["sh", "sleep", "sleep"]);
    let find =
        || marked.list().into_iter().find(|p| p.name == "sleep" && p.parent != child.id() as i32).unwrap();
    until(|| find().state == 'S');
    let orphan = find();
    assert!(orphan.resident_bytes > 0 && orphan.threads == 1, "{orphan:?}");
    drop(child.stdin.take());
    child.wait().unwrap();
    until(|| names() == ["sleep"]);
    super::kill::kill(&orphan).unwrap().wait();
    assert!(super::kill::kill(&orphan).is_none(), "it is dead");
    until(|| names().is_empty());
}

#[test]
fn the_largest_is_ended_and_the_others_live() {
    let (marked, value) = marked();
    let mut small = sh(&value, "read x; exit 7");
    let guard = MemoryGuard::start(Arc::clone(&marked), 200 << 20).unwrap();
    assert_eq!((guard.killed(), guard.limit_bytes()), (0, 200 << 20));
    // It reads zeros and waits for the end of the line in memory.
    let mut hog = sh(&value, "exec tail /dev/zero");
    let status = hog.wait().unwrap();
    assert_eq!(status.signal(), Some(9), "{status:?}");
    until(|| guard.killed() == 1);
    let (killed, seen) = guard.since(0);
    let killed = &killed[0];
    assert_eq!((seen, &killed.process), (1, &Some((hog.id() as i32, "tail".to_owned()))));
    assert!(killed.held_bytes > 190 << 20 && killed.used_bytes > 200 << 20, "{killed:?}");
    // Nobody else was touched, and nobody who is not marked.
    drop(small.stdin.take());
    assert_eq!(small.wait().unwrap().code(), Some(7));
    drop(guard);
}

#[test]
fn what_is_shared_counts_once() {
    let (marked, value) = marked();
    // 20 MB in a shell, and a dozen copies of it that touch nothing.
    let script = "x=$(head -c 20000000 /dev/zero | tr '\\0' a); \
                  for i in 1 2 3 4 5 6 7 8 9 10 11 12; do (sleep 1000; :) & done; read y; kill $(jobs -p)";
    let mut command = Command::new("bash");
    command.args(["-c", script]).env(NAME, &value);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let resident = || marked.list().iter().map(|p| p.resident_bytes).sum::<u64>();
    until(|| resident() > 200 << 20);
    let held: u64 = marked.list().iter().map(super::Process::held_bytes).sum();
    assert!((19 << 20..120 << 20).contains(&held), "{held}");
    drop(child.stdin.take());
    child.wait().unwrap();
    until(|| marked.list().iter().all(|p| p.name != "bash"));
    for sleeper in marked.list() {
        drop(super::kill::kill(&sleeper));
    }
}
