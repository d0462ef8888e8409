//! The real server on a disk that is full: its data directory lies on a file system of a few megabytes.
//!
//! Mounting one takes root, or a system that lets users make namespaces; elsewhere the test says so and does nothing.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use common::{Home, wait_for};
use fleetcore::{CommandEvent, CommandId, CommandSpec, CommandState, ErrorKind, Offset};
use fleetcore_http::client::{
    Client, Credentials, ReconnectPolicy, Transport,
    wire::{CommandQuery, NewCommand},
};
use futures::StreamExt as _;

/// Tells the inner half of the test where its small file system is mounted.
const MOUNTED: &str = "FLEETCORE_TEST_SMALL_DISK";
/// Room for the database and a little output.
const DISK: u64 = 24 << 20;
/// What a command prints: less than the room that is freed later, more than the room there is now.
const PRINTED: usize = 12_000_000;
const LIMIT: Duration = Duration::from_secs(60);

fn mounting(dir: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--", "sh", "-c"]);
    command.arg("mount -t tmpfs -o size=\"$1\",mode=700 fleetcore-test \"$2\" && shift 2 && exec \"$@\"");
    command.arg("sh").arg(DISK.to_string()).arg(dir).stdin(Stdio::null());
    command
}

/// Runs the test below in a mount namespace of its own, where the small file system is visible to it, the server and
/// the server's commands, and goes when they are gone.
#[test]
fn a_full_disk_is_survived() {
    let dir = tempfile::tempdir().unwrap();
    let probe = mounting(dir.path()).arg("true").output();
    if !probe.as_ref().is_ok_and(|o| o.status.success()) {
        eprintln!("SKIPPED a_full_disk_is_survived: no tmpfs can be mounted here: {probe:?}");
        return;
    }
    let test = mounting(dir.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "inside_the_small_file_system", "--ignored", "--nocapture"])
        .env(MOUNTED, dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&test.stdout) + String::from_utf8_lossy(&test.stderr);
    assert!(test.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
}

fn client_of(data: &Path, url: &str) -> Client {
    wait_for(|| std::fs::read_to_string(data.join("server.json")).is_ok_and(|text| text.contains(url)));
    let token = std::fs::read_to_string(data.join("local-token")).unwrap();
    let policy = ReconnectPolicy::never();
    Client::builder(url).with_credentials(Credentials::token(token)).with_reconnect(policy).build().unwrap()
}

async fn create(client: &Client, spec: CommandSpec) -> fleetcore::Result<CommandId> {
    let new = NewCommand::from_spec(&"local".parse().unwrap(), &spec)?;
    Ok(client.create_command(&new).await?.id.parse().unwrap())
}

/// Lets a command that reads lines go on by one.
async fn go(client: &Client, id: CommandId) {
    let line = futures::stream::iter([Ok(Bytes::from_static(b"go\n"))]).boxed();
    client.write_stdin(id, line, false).await.unwrap();
}

/// Everything that is kept of a command that has ended: the bytes, and how many are missing.
async fn kept(client: &Client, id: CommandId) -> (Vec<u8>, u64) {
    let mut events = client.output(id, Offset(0), Transport::EventStream).await.unwrap();
    let (mut bytes, mut missing, mut at) = (vec![], 0, 0);
    while let Some(event) = events.next().await {
        match event.unwrap() {
            CommandEvent::Output(chunk) => {
                assert_eq!(chunk.offset.0, at, "a jump without a gap");
                at = chunk.end().0;
                bytes.extend_from_slice(&chunk.data);
            }
            CommandEvent::Gap { from, to } => {
                assert_eq!(from.0, at);
                missing += to.0 - from.0;
                at = to.0;
            }
            _ => {}
        }
    }
    (bytes, missing)
}

/// Takes what room there is, to the last byte.
fn fill(path: &Path) {
    let mut file = File::options().append(true).create(true).open(path).unwrap();
    for piece in [64 << 10, 4096, 1] {
        while file.write_all(&vec![b'-'; piece]).is_ok() {}
    }
}

async fn state_and_code(client: &Client, id: CommandId) -> (CommandState, Option<i32>) {
    let ended = client.wait_command(id, LIMIT).await.unwrap();
    (ended.state, ended.exit.and_then(|exit| exit.code))
}

/// What the database says, rather than what the server remembers.
fn unsettled_on_disk(data: &Path) -> i64 {
    let open = rusqlite::Connection::open_with_flags(
        data.join("fleetcore.db"),
        rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX,
    );
    let count = "SELECT count(*) FROM commands WHERE state IN ('queued', 'running')";
    open.and_then(|conn| conn.query_row(count, [], |row| row.get(0))).unwrap_or(i64::MAX)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by a_full_disk_is_survived, in a mount namespace"]
async fn inside_the_small_file_system() {
    let disk = PathBuf::from(std::env::var_os(MOUNTED).unwrap());
    let (data, ballast) = (disk.join("data"), disk.join("ballast"));
    let home = Home::new();
    let arguments = ["--data-dir", data.to_str().unwrap()];
    let mut server = home.serve_with(&arguments, &[]);
    let client = client_of(&data, &server.url);
    let log = || std::fs::read_to_string(home.path("serve.log")).unwrap();

    // Most of the room is somebody else's, who will give it back.
    std::fs::write(&ballast, vec![b'-'; 18 << 20]).unwrap();
    let before = create(&client, CommandSpec::shell("echo all is well")).await.unwrap();
    assert_eq!(state_and_code(&client, before).await, (CommandState::Succeeded, Some(0)));
    let print = format!("head -c {PRINTED} /dev/zero | tr '\\0' x");
    let mut printing = vec![];
    for code in [0, 3, 77] {
        let spec = CommandSpec::shell(format!("read go; {print}; exit {code}")).with_stdin();
        printing.push((create(&client, spec).await.unwrap(), code));
    }
    let script = format!("read go; {print}; read go; echo after; read go; exit 5");
    let long = create(&client, CommandSpec::shell(script).with_stdin()).await.unwrap();
    let mut following = client.output(long, Offset(0), Transport::WebSocket).await.unwrap();
    for id in printing.iter().map(|(id, _)| *id).chain([long]) {
        go(&client, id).await;
    }

    // Whoever follows gets every byte of it, stored or not.
    let mut followed = 0;
    while followed < PRINTED as u64 {
        match following.next().await.unwrap().unwrap() {
            CommandEvent::Output(chunk) => {
                assert_eq!(chunk.offset.0, followed);
                followed = chunk.end().0;
            }
            CommandEvent::Gap { from, to } => {
                // Only where it fell behind the window while nothing could be stored.
                assert_eq!(from.0, followed);
                followed = to.0;
            }
            _ => {}
        }
    }
    fill(&ballast);

    // Commands end as they would have, and what they printed is there but for a gap.
    for (id, code) in &printing {
        let state = if *code == 0 { CommandState::Succeeded } else { CommandState::Failed };
        assert_eq!(state_and_code(&client, *id).await, (state, Some(*code)));
        let (bytes, missing) = kept(&client, *id).await;
        assert_eq!(bytes.len() as u64 + missing, PRINTED as u64);
        assert!(bytes.iter().all(|b| *b == b'x'));
        assert!(missing > 0, "12 MB cannot have been stored in what room there was");
    }
    assert!(log().contains("output cannot be stored"), "{}", log());

    // It answers; what cannot be recorded is refused with a reason, and nothing of it is left behind.
    client.info().await.unwrap();
    let mut refused = None;
    for n in 0..2000 {
        let big = format!(": {}", "y".repeat(50_000));
        match create(&client, CommandSpec::shell(big).with_label("n", n.to_string())).await {
            Ok(id) => assert_eq!(state_and_code(&client, id).await, (CommandState::Succeeded, Some(0))),
            Err(e) => {
                refused = Some(e);
                break;
            }
        }
    }
    let Some(refused) = refused else { panic!("the database cannot grow for ever on a full disk") };
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
    assert!(refused.to_string().contains("disk is full"), "{refused}");
    let listed = client.commands(&CommandQuery::default()).await.unwrap();
    assert!(listed.items.iter().any(|c| c.id == before.to_string()));

    // Room again: the long one is stored again behind its gap, and new ones run as ever.
    std::fs::remove_file(&ballast).unwrap();
    go(&client, long).await;
    let mut printed = vec![];
    while !printed.ends_with(b"after\n") {
        if let CommandEvent::Output(chunk) = following.next().await.unwrap().unwrap() {
            printed.extend_from_slice(&chunk.data);
        }
    }
    go(&client, long).await;
    assert_eq!(state_and_code(&client, long).await, (CommandState::Failed, Some(5)));
    let small = create(&client, CommandSpec::shell("seq 100000; exit 9")).await.unwrap();
    assert_eq!(state_and_code(&client, small).await, (CommandState::Failed, Some(9)));
    wait_for(|| unsettled_on_disk(&data) == 0);
    assert!(log().contains("output is stored again; there is a gap"), "{}", log());
    assert!(!log().contains("panicked"), "{}", log());

    // What it said before it was killed, it says afterwards.
    assert!(server.child.try_wait().unwrap().is_none(), "it went by itself");
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    let server = home.serve_with(&arguments, &[]);
    let client = client_of(&data, &server.url);
    for (id, code) in printing.into_iter().chain([(before, 0), (long, 5), (small, 9)]) {
        let state = if code == 0 { CommandState::Succeeded } else { CommandState::Failed };
        assert_eq!(state_and_code(&client, id).await, (state, Some(code)), "{id}");
    }
    let (bytes, missing) = kept(&client, long).await;
    assert_eq!(bytes.len() as u64 + missing, PRINTED as u64 + 6);
    assert!(missing > 0 && bytes.ends_with(b"after\n"));
    let expected: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    let (bytes, missing) = kept(&client, small).await;
    assert_eq!((bytes == expected.as_bytes(), missing), (true, 0));
    let (bytes, _) = kept(&client, before).await;
    assert_eq!(bytes, b"all is well\n");
    let check: String = rusqlite::Connection::open(data.join("fleetcore.db"))
        .and_then(|conn| conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)))
        .unwrap();
    assert_eq!(check, "ok");
    assert_eq!(server.stop(), 0);
}
