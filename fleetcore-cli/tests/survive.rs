//! The real server under `kill -9` and under load.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{Home, wait_for};
use fleetcore::{CommandEvent, CommandId, CommandSpec, CommandState, Offset, PtySize};
use fleetcore_http::client::{
    Client, Credentials, ReconnectPolicy, Transport,
    wire::{Command, NewCommand},
};
use futures::{StreamExt as _, TryStreamExt as _, future::join_all};

const ROUNDS: u64 = 12;
const COMMANDS: usize = 6;

fn client_of(home: &Home, url: &str) -> Client {
    let token = std::fs::read_to_string(home.data_dir().join("local-token")).unwrap();
    let policy = ReconnectPolicy::never();
    Client::builder(url).with_credentials(Credentials::token(token)).with_reconnect(policy).build().unwrap()
}

/// A client of a server that may have found the announcement of one that was killed.
fn connect(home: &Home, url: &str) -> Client {
    wait_for(|| {
        std::fs::read_to_string(home.data_dir().join("server.json")).is_ok_and(|text| text.contains(url))
    });
    client_of(home, url)
}

async fn create(client: &Client, spec: CommandSpec) -> CommandId {
    let new = NewCommand::from_spec(&"local".parse().unwrap(), &spec).unwrap();
    client.create_command(&new).await.unwrap().id.parse().unwrap()
}

/// Bytes a client has been given, by command.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<u8>>>);

async fn watch(client: Client, id: CommandId, seen: Seen, total: Arc<AtomicU64>) {
    let Ok(mut events) = client.output(id, Offset(0), Transport::WebSocket).await else { return };
    while let Some(Ok(event)) = events.next().await {
        if let CommandEvent::Output(chunk) = event {
            let mut bytes = seen.0.lock().unwrap();
            assert_eq!(chunk.offset.0, bytes.len() as u64);
            bytes.extend_from_slice(&chunk.data);
            total.fetch_add(chunk.data.len() as u64, Ordering::Relaxed);
        }
    }
}

/// A server that is killed loses no byte that any client has seen, and no record it has answered for.
#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_random_points_loses_nothing_acknowledged() {
    let home = Home::new();
    let mut acknowledged: Vec<(CommandId, Vec<u8>)> = vec![];
    for round in 0..ROUNDS {
        let mut server = home.serve();
        let client = connect(&home, &server.url);
        let total = Arc::new(AtomicU64::new(0));
        let mut watched = vec![];
        let mut tasks = vec![];
        for n in 0..COMMANDS {
            // Fast and slow writers, a terminal among them.
            let script = match n % 3 {
                0 => format!("seq {n}00000 999999999"),
                1 => format!("i=0; while echo command {n} line $i; do i=$((i+1)); done"),
                _ => "while head -c 70000 /dev/zero | tr '\\0' x; do :; done".to_owned(),
            };
            let mut spec = CommandSpec::shell(script);
            if n == 4 {
                spec = spec.with_pty(PtySize::default());
            }
            let id = create(&client, spec).await;
            let seen = Seen::default();
            tasks.push(tokio::spawn(watch(client.clone(), id, seen.clone(), total.clone())));
            watched.push((id, seen));
        }
        // A different point of time in every round, told by bytes rather than by a clock.
        let point = 1000 + round * round * 40_000;
        while total.load(Ordering::Relaxed) < point {
            tokio::task::yield_now().await;
        }
        server.child.kill().unwrap();
        server.child.wait().unwrap();
        join_all(tasks).await;
        acknowledged.extend(watched.into_iter().map(|(id, seen)| (id, seen.0.lock().unwrap().clone())));
    }
    let server = home.serve();
    let client = connect(&home, &server.url);
    for (id, bytes) in acknowledged {
        let record = client.command(id).await.unwrap();
        assert_eq!(record.state, CommandState::Lost, "{id}");
        assert!(record.output_bytes >= bytes.len() as u64, "{id}");
        let kept: Vec<u8> = client
            .output_bytes(id, Offset(0), false)
            .await
            .unwrap()
            .try_fold(vec![], |mut all, piece| async move {
                all.extend_from_slice(&piece);
                Ok(all)
            })
            .await
            .unwrap();
        assert!(kept.starts_with(&bytes), "{id}: {} of {} bytes", kept.len(), bytes.len());
    }
    assert_eq!(server.stop(), 0);
}

/// A thousand commands at once, and the server answers meanwhile; then all of them end as they should.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_commands_at_once() {
    let home = Home::new();
    let server = home.serve();
    let client = connect(&home, &server.url);
    let ids: Vec<CommandId> = futures::stream::iter(0..1000)
        .map(|_| {
            let client = client.clone();
            async move { create(&client, CommandSpec::argv(["cat"]).with_stdin()).await }
        })
        .buffer_unordered(16)
        .collect()
        .await;
    client.info().await.unwrap();
    let ended: Vec<Command> = futures::stream::iter(ids)
        .map(|id| {
            let client = client.clone();
            async move {
                client.close_stdin(id).await.unwrap();
                client.wait_command(id, Duration::from_secs(60)).await.unwrap()
            }
        })
        .buffer_unordered(16)
        .collect()
        .await;
    assert_eq!(ended.len(), 1000);
    assert!(ended.iter().all(|c| c.state == CommandState::Succeeded));
    assert_eq!(server.stop(), 0);
}
