//! One keystroke over a WebSocket and back: a bare axum relay of a terminal, a command, a session.
#![expect(clippy::expect_used, reason = "a benchmark that cannot run must stop")]

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::ws::{Message, WebSocket, WebSocketUpgrade},
    routing::get,
};
use bytes::Bytes;
use fleetcore_benches::{Attach, BarePty, TestServer, criterion, measure, runtime};
use futures::{SinkExt, StreamExt};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Mutex,
};
use tokio_tungstenite::{client_async, tungstenite};

/// The program gives back every byte at once; what it says first shows that it has got that far. The parts keep the
/// echo of a typed command from looking like it.
const RAW_CAT: &str = "stty raw -echo; printf 'RE%s' ADY; cat";

/// What any web terminal has to do, and nothing more.
async fn relay(mut socket: WebSocket) {
    let mut terminal = BarePty::spawn("sh", &["-c", RAW_CAT]);
    let mut buffer = vec![0; 16 << 10];
    loop {
        tokio::select! {
            read = terminal.pty.read(&mut buffer) => {
                let Ok(n) = read else { return };
                let data = Bytes::copy_from_slice(buffer.get(..n).unwrap_or_default());
                if socket.send(Message::Binary(data)).await.is_err() {
                    return;
                }
            }
            message = socket.recv() => match message {
                Some(Ok(Message::Binary(data))) => terminal.pty.write_all(&data).await.expect("it runs"),
                Some(Ok(_)) => {}
                _ => return,
            },
        }
    }
}

async fn start_relay() -> SocketAddr {
    let routes = Router::new().route("/", get(|ws: WebSocketUpgrade| async { ws.on_upgrade(relay) }));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let addr = listener.local_addr().expect("a port");
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream: &mut TcpStream| {
        stream.set_nodelay(true).expect("a TCP socket");
    });
    tokio::spawn(async move { axum::serve(listener, routes).await });
    addr
}

type Socket = tokio_tungstenite::WebSocketStream<TcpStream>;

async fn read_until(socket: &mut Socket, text: &[u8]) {
    let mut seen = Vec::new();
    while !seen.windows(text.len()).any(|w| w == text) {
        let message = socket.next().await.expect("an open socket").expect("an open socket");
        seen.extend_from_slice(&message.into_data());
    }
}

async fn connect_relay() -> Socket {
    let addr = start_relay().await;
    let stream = TcpStream::connect(addr).await.expect("it listens");
    stream.set_nodelay(true).expect("a TCP socket");
    let (mut socket, _) = client_async(format!("ws://{addr}/"), stream).await.expect("it attaches");
    read_until(&mut socket, b"READY").await;
    socket
}

async fn attach_command(server: &TestServer) -> Attach {
    let mut http = server.connect().await;
    let command = json!({"target": "local", "shell": RAW_CAT, "pty": {"cols": 80, "rows": 24}});
    let id = http.start(&command).await;
    let mut attach = Attach::open(server.addr, &server.token, &format!("/api/v1/commands/{id}/attach")).await;
    attach.wait_for(b"READY").await;
    attach
}

async fn attach_session(server: &TestServer) -> Attach {
    let mut http = server.connect().await;
    let session = json!({"id": "echo", "target": "local", "shell": ["bash", "--norc"]});
    http.post("/api/v1/sessions", &session).await;
    let mut attach = Attach::open(server.addr, &server.token, "/api/v1/sessions/echo/attach").await;
    attach.input(format!("{RAW_CAT}\r").as_bytes()).await;
    attach.wait_for(b"READY").await;
    attach
}

fn main() {
    let runtime = runtime();
    let server = TestServer::start(&runtime);
    let mut c = criterion();
    let mut group = c.benchmark_group("echo");
    let socket = Arc::new(Mutex::new(runtime.block_on(connect_relay())));
    measure(&mut group, &runtime, "floor", move || {
        let socket = Arc::clone(&socket);
        async move {
            let mut socket = socket.lock().await;
            let key = tungstenite::Message::Binary(Bytes::from_static(b"x"));
            socket.send(key).await.expect("an open socket");
            read_until(&mut socket, b"x").await;
        }
    });
    for (name, attach) in [
        ("fleetcore-command", runtime.block_on(attach_command(&server))),
        ("fleetcore-session", runtime.block_on(attach_session(&server))),
    ] {
        let attach = Arc::new(Mutex::new(attach));
        measure(&mut group, &runtime, name, move || {
            let attach = Arc::clone(&attach);
            async move { attach.lock().await.keystroke().await }
        });
    }
    group.finish();
    c.final_summary();
}
