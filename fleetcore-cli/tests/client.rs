//! The typed client against a live server: broken connections, remote targets.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{Home, announced};
use fleetcore::{
    CommandEvent, CommandSpec, CommandState, ErrorKind, ExitKind, Fleet, Offset, PtySize, Signal, Target,
    WriteOptions,
};
use fleetcore_http::client::{
    AttachEvent, AttachOptions, Client, Credentials, ReconnectPolicy, RemoteExecutor, Tail, Transport,
    wire::{CommandQuery, NewCommand},
};
use futures::StreamExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

fn client_of(home: &Home, url: &str) -> Client {
    let token = std::fs::read_to_string(home.data_dir().join("local-token")).unwrap();
    let policy = ReconnectPolicy::default()
        .with_pauses(Duration::from_millis(1), Duration::from_millis(20))
        .with_give_up_after(Duration::from_secs(20));
    Client::builder(url).with_credentials(Credentials::token(token)).with_reconnect(policy).build().unwrap()
}

/// A way to the server that breaks each connection after `limit` bytes of answer; counts the breaks.
async fn breaking_proxy(to: String, limit: usize) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let breaks = Arc::new(AtomicUsize::new(0));
    let counted = breaks.clone();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let (to, counted) = (to.clone(), counted.clone());
            tokio::spawn(async move {
                let Ok(mut server) = TcpStream::connect(to.trim_start_matches("http://")).await else {
                    return;
                };
                let (mut from_client, mut to_client) = client.split();
                let (mut from_server, mut to_server) = server.split();
                let up = async { tokio::io::copy(&mut from_client, &mut to_server).await.map(drop) };
                let down = async {
                    let mut left = limit;
                    let mut buffer = vec![0; 4096];
                    while left > 0 {
                        let n = from_server.read(&mut buffer).await?;
                        if n == 0 {
                            return Ok(());
                        }
                        let n = n.min(left);
                        to_client.write_all(&buffer[..n]).await?;
                        left -= n;
                    }
                    counted.fetch_add(1, Ordering::Relaxed);
                    std::io::Result::Ok(())
                };
                tokio::select! { r = up => drop(r), r = down => drop(r) }
            });
        }
    });
    (url, breaks)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_byte_arrives_once_however_often_the_connection_breaks() {
    let home = Home::new();
    let server = home.serve();
    announced(&home);
    let direct = client_of(&home, &server.url);
    let spec = CommandSpec::shell("i=0; while [ $i -lt 100000 ]; do echo line $i; i=$((i+1)); done; exit 3");
    let command =
        direct.create_command(&NewCommand::from_spec(&Target::local(), &spec).unwrap()).await.unwrap();
    let id = command.id.parse().unwrap();
    let want: String = (0..100_000).map(|i| format!("line {i}\n")).collect();

    // More than the largest frame, or nothing would ever get through.
    let (url, breaks) = breaking_proxy(server.url.clone(), 400_000).await;
    let broken = client_of(&home, &url);
    for over in [Transport::WebSocket, Transport::EventStream] {
        let before = breaks.load(Ordering::Relaxed);
        let mut stream = broken.output(id, Offset(0), over).await.unwrap();
        let (mut got, mut end) = (Vec::new(), None);
        while let Some(event) = stream.next().await {
            match event.unwrap() {
                CommandEvent::Output(chunk) => {
                    assert_eq!(chunk.offset.0, got.len() as u64, "{over:?}");
                    got.extend_from_slice(&chunk.data);
                }
                CommandEvent::Exited(status) => end = Some(status),
                CommandEvent::Gap { from, to } => panic!("gap {from}..{to}"),
                _ => {}
            }
        }
        assert_eq!(end.map(|e| e.kind), Some(ExitKind::Code(3)), "{over:?}");
        assert!(String::from_utf8(got).unwrap() == want, "{over:?}: bytes differ");
        assert!(breaks.load(Ordering::Relaxed) > before, "{over:?}: nothing broke");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_from_the_middle_go_on_to_the_end() {
    let home = Home::new();
    let server = home.serve();
    announced(&home);
    let client = client_of(&home, &server.url);
    let spec = CommandSpec::shell("echo first; read x; echo got $x").with_stdin();
    let command =
        client.create_command(&NewCommand::from_spec(&Target::local(), &spec).unwrap()).await.unwrap();
    let id = command.id.parse().unwrap();
    let mut events = client.output(id, Offset(0), Transport::WebSocket).await.unwrap();
    while !matches!(events.next().await.unwrap().unwrap(), CommandEvent::Output(_)) {}

    let mut bytes = client.output_bytes(id, Offset(3), true).await.unwrap();
    let mut got = bytes.next().await.unwrap().unwrap().to_vec();
    let line = futures::stream::once(async { Ok("it\n".into()) }).boxed();
    client.write_stdin(id, line, true).await.unwrap();
    while let Some(part) = bytes.next().await {
        got.extend_from_slice(&part.unwrap());
    }
    assert_eq!(String::from_utf8(got).unwrap(), "st\ngot it\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_keep_their_kind_and_context() {
    let home = Home::new();
    let server = home.serve();
    announced(&home);
    let client = client_of(&home, &server.url);
    let nobody = client.with_credentials(Credentials::Anonymous);
    assert_eq!(nobody.targets().await.unwrap_err().kind(), ErrorKind::Unauthenticated);
    let err = client.target(&"nowhere/there".parse().unwrap()).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound);
    let bad = CommandQuery { limit: Some(1_000_000), ..CommandQuery::default() };
    let err = client.commands(&bad).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::InvalidInput);
    assert!(err.context_value("field").is_some() || err.message().contains("limit"), "{err}");
    let missing = fleetcore::CommandId::generate();
    assert_eq!(
        client.output(missing, Offset(0), Transport::WebSocket).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        client.output(missing, Offset(0), Transport::EventStream).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    let gone = Client::new("http://127.0.0.1:1", Credentials::Anonymous).unwrap();
    assert_eq!(gone.info().await.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attachment_types_resizes_and_signals() {
    let home = Home::new();
    let server = home.serve();
    announced(&home);
    let client = client_of(&home, &server.url);
    let script = "stty -echo; trap 'echo hup; exit 4' USR1; echo ready; read x; echo got $x; stty size; while :; do sleep 0.02; done";
    let spec = CommandSpec::shell(script).with_pty(PtySize::default());
    let command =
        client.create_command(&NewCommand::from_spec(&Target::local(), &spec).unwrap()).await.unwrap();
    let mut attached =
        client.attach_command(command.id.parse().unwrap(), AttachOptions::default()).await.unwrap();
    let (mut seen, mut step) = (String::new(), 0);
    let mut end = None;
    while let Some(event) = attached.output.next().await {
        match event.unwrap() {
            AttachEvent::Command(CommandEvent::Output(chunk)) => {
                seen.push_str(&String::from_utf8_lossy(&chunk.data))
            }
            AttachEvent::Command(CommandEvent::Exited(status)) => end = Some(status),
            _ => {}
        }
        if step == 0 && seen.contains("ready") {
            step = 1;
            attached.input.resize(PtySize { cols: 33, rows: 11 }).await.unwrap();
            attached.input.write(b"hello\r").await.unwrap();
        } else if step == 1 && seen.contains("11 33") {
            step = 2;
            attached.input.signal(Signal::User1).await.unwrap();
        }
    }
    assert!(seen.contains("got hello") && seen.contains("hup"), "{seen}");
    assert_eq!(end.map(|e| e.kind), Some(ExitKind::Code(4)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_remote_target_is_an_executor_like_any_other() {
    let home = Home::new();
    let server = home.serve();
    announced(&home);
    let client = client_of(&home, &server.url);
    let remote = RemoteExecutor::connect(client.clone(), Target::local()).await.unwrap();
    let fleet = Fleet::builder().with_host(Arc::new(remote)).build();
    let machine = fleet.machine("local").unwrap();

    let out = machine
        .spawn(CommandSpec::shell("echo out; echo err >&2; exit 3"))
        .await
        .unwrap()
        .output()
        .await
        .unwrap();
    assert_eq!(
        (&out.stdout[..], &out.stderr[..], out.status.kind),
        (&b"out\n"[..], &b"err\n"[..], ExitKind::Code(3))
    );

    let cat = machine.spawn(CommandSpec::argv(["cat"]).with_stdin()).await.unwrap();
    cat.write_stdin("typed").await.unwrap();
    cat.close_stdin().await;
    assert_eq!(cat.output().await.unwrap().stdout, b"typed");

    let err = machine.spawn(CommandSpec::argv(["no-such-program"])).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound);

    let limited = machine
        .spawn(CommandSpec::argv(["sleep", "1000"]).with_timeout(Duration::from_millis(100)))
        .await
        .unwrap();
    assert_eq!(limited.output().await.unwrap().status.state(), CommandState::Failed);

    // Dropping the owner here ends the command there.
    let owned = machine.spawn(CommandSpec::argv(["sleep", "1000"])).await.unwrap();
    let id = owned.id();
    drop(owned);
    let ended = client.wait_command(id, Duration::from_secs(60)).await.unwrap();
    assert!(ended.state.is_settled(), "{:?}", ended.state);

    let files = machine.files().await.unwrap();
    let path = home.path("dir/file").to_str().unwrap().to_owned();
    files.write(&path, "0123456789", WriteOptions::atomic().with_create_parents(true)).await.unwrap();
    assert_eq!(files.read(&path).await.unwrap(), "0123456789");
    let mut part =
        client.files(&Target::local()).read(&path, Tail { offset: 3, len: Some(4) }).await.unwrap();
    let mut got = Vec::new();
    while let Some(bytes) = part.next().await {
        got.extend_from_slice(&bytes.unwrap());
    }
    assert_eq!(got, b"3456");
    assert_eq!(files.read("/no/such/file").await.unwrap_err().kind(), ErrorKind::NotFound);
    fleet.shutdown().await;
}
