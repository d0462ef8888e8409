//! Connections to addresses that targets can reach.

use std::time::Duration;

use fleetcore::{AddressRule, AddressRules, Role, Scope};
use futures::{SinkExt as _, StreamExt as _};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{self, Message, client::IntoClientRequest as _, http::HeaderValue},
};

use crate::common::*;

const PROTOCOL: &str = "fleetcore.tunnel.v1";

type Ws = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Tries to open a tunnel; what was said instead, if it was not to be.
async fn open(server: &Harness, token: &str, query: &str) -> Result<Ws, (StatusCode, Value)> {
    let url = format!("ws://{}/api/v1/targets/local/tunnel?{query}", server.address);
    let mut request = url.into_client_request().unwrap();
    let bearer = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
    request.headers_mut().insert("authorization", bearer);
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(PROTOCOL));
    match tokio_tungstenite::connect_async(request).await {
        Ok((socket, response)) => {
            assert_eq!(response.headers()["sec-websocket-protocol"], PROTOCOL);
            Ok(socket)
        }
        Err(tungstenite::Error::Http(response)) => {
            assert_eq!(response.headers()["content-type"], "application/problem+json");
            let body = serde_json::from_slice(response.body().as_deref().unwrap_or_default()).unwrap();
            Err((response.status().as_u16().try_into().unwrap(), body))
        }
        Err(e) => panic!("{e}"),
    }
}

async fn refused(server: &Harness, token: &str, query: &str, status: u16, code: &str) -> Value {
    let (got, body) = open(server, token, query).await.map(drop).unwrap_err();
    assert_eq!((got.as_u16(), body["code"].as_str()), (status, Some(code)), "{query}: {body}");
    body
}

async fn next(socket: &mut Ws) -> Message {
    loop {
        match tokio::time::timeout(LIMIT, socket.next()).await.expect("a message comes").unwrap().unwrap() {
            Message::Ping(_) | Message::Pong(_) => {}
            other => return other,
        }
    }
}

async fn closed(socket: &mut Ws) -> u16 {
    loop {
        match next(socket).await {
            Message::Close(frame) => return frame.unwrap().code.into(),
            Message::Binary(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// A port, and the one connection to it.
async fn service() -> (u16, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    (listener.local_addr().unwrap().port(), listener)
}

async fn silent_port() -> u16 {
    service().await.0
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_binary_messages_and_an_empty_one_is_the_end() {
    let server = start().await;
    let (port, listener) = service().await;
    let mut socket = open(&server, &server.token, &format!("port={port}")).await.unwrap();
    let (mut there, _) = listener.accept().await.unwrap();
    socket.send(Message::Binary("hello".into())).await.unwrap();
    let mut got = [0; 5];
    there.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hello");
    // Our end first: the other direction goes on.
    socket.send(Message::Binary("".into())).await.unwrap();
    assert_eq!(there.read(&mut got).await.unwrap(), 0);
    there.write_all(b"answer").await.unwrap();
    drop(there);
    let mut answer = Vec::new();
    loop {
        match next(&mut socket).await {
            Message::Binary(data) if data.is_empty() => break,
            Message::Binary(data) => answer.extend_from_slice(&data),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(answer, b"answer");
    assert_eq!(closed(&mut socket).await, 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_is_told_and_no_end() {
    let server = start().await;
    let (port, listener) = service().await;
    let query = format!("host=localhost&port={port}");
    // The service resets it.
    let mut socket = open(&server, &server.token, &query).await.unwrap();
    let (there, _) = listener.accept().await.unwrap();
    there.set_zero_linger().unwrap();
    drop(there);
    assert_eq!(closed(&mut socket).await, 1011);
    // The client is gone without a word.
    let socket = open(&server, &server.token, &query).await.unwrap();
    let (mut there, _) = listener.accept().await.unwrap();
    drop(socket);
    let end = there.read(&mut [0; 8]).await;
    assert!(end.is_err(), "it would pass for all there was: {end:?}");
    // The client breaks the rules.
    let mut socket = open(&server, &server.token, &query).await.unwrap();
    let (_there, _) = listener.accept().await.unwrap();
    socket.send(Message::Text("hello".into())).await.unwrap();
    assert_eq!(closed(&mut socket).await, 1003);
    // The server stops.
    let mut server = server;
    let mut socket = open(&server, &server.token, &query).await.unwrap();
    let (_there, _) = listener.accept().await.unwrap();
    server.stop.cancel();
    assert_eq!(closed(&mut socket).await, 1001);
    drop(socket);
    server.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_takes_a_scope_and_a_good_address() {
    let server = start().await;
    let port = silent_port().await;
    let query = format!("port={port}");
    refused(&server, "fct_nobody", &query, 401, "unauthenticated").await;
    let others = Scope::ALL.into_iter().filter(|s| *s != Scope::Tunnels);
    let without = server.user_with_token("without", Role::Admin, others).await;
    let body = refused(&server, &without, &query, 403, "permission_denied").await;
    assert_eq!(body["context"]["scope"], "tunnels");
    let viewer = server.user_with_token("viewer", Role::Viewer, Role::Viewer.scopes()).await;
    refused(&server, &viewer, &query, 403, "permission_denied").await;
    let with = server.user_with_token("with", Role::Operator, [Scope::Tunnels]).await;
    let body = refused(&server, &with, &query, 503, "unavailable").await;
    assert_eq!(body["context"]["address"], format!("127.0.0.1:{port}"));

    for (query, field) in [
        ("", "port"),
        ("port=x", "port"),
        ("port=0", "port"),
        ("port=70000", "port"),
        ("port=1&host=%20", "host"),
        ("port=1&host=a%20b", "host"),
        ("port=1&host=--all", "host"),
        ("port=1&host=127.1", "host"),
        ("port=1&speed=9", "speed"),
    ] {
        let body = refused(&server, &with, query, 400, "invalid_input").await;
        let said = body["context"]["field"].as_str().unwrap_or_default();
        assert!(said.contains(field) || body["detail"].as_str().unwrap().contains(field), "{query}: {body}");
    }
    // Without an upgrade it is told what it is.
    let path = format!("/api/v1/targets/local/tunnel?port={port}");
    problem(server.get(&path).send().await.unwrap(), 426, "upgrade_required").await;
    let path = format!("/api/v1/targets/agent-9/tunnel?port={port}");
    problem(server.get(&path).send().await.unwrap(), 404, "not_found").await;
    problem(server.request(Method::POST, &path).send().await.unwrap(), 405, "method_not_allowed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_no_open_proxy() {
    let server = start().await;
    for host in ["192.0.2.1", "10.0.0.1", "0.0.0.0", "::ffff:127.0.0.1", "example.com"] {
        let body =
            refused(&server, &server.token, &format!("port=80&host={host}"), 403, "permission_denied").await;
        assert_eq!(body["context"]["allowed"], "localhost:* 127.0.0.1:* [::1]:*");
    }
    let (port, _listener) = service().await;
    let rules: Vec<AddressRule> = vec![format!("127.0.0.1:{port}").parse().unwrap()];
    let narrow = start_with(|config| config.allow_tunnel = AddressRules::new(rules)).await;
    open(&narrow, &narrow.token, &format!("port={port}")).await.unwrap();
    refused(&narrow, &narrow.token, &format!("port={}", port ^ 1), 403, "permission_denied").await;
    refused(&narrow, &narrow.token, &format!("port={port}&host=localhost"), 403, "permission_denied").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_and_the_server_have_so_many() {
    let server = start_with(|config| {
        config.limits.tunnels_per_actor = 1;
        config.limits.tunnels = 2;
    })
    .await;
    let (port, _listener) = service().await;
    let query = format!("port={port}");
    let other = server.user_with_token("other", Role::Operator, [Scope::Tunnels]).await;
    let third = server.user_with_token("third", Role::Operator, [Scope::Tunnels]).await;
    let first = open(&server, &server.token, &query).await.unwrap();
    refused(&server, &server.token, &query, 429, "rate_limited").await;
    let _second = open(&server, &other, &query).await.unwrap();
    refused(&server, &third, &query, 429, "rate_limited").await;
    drop(first);
    // As soon as the server has seen that it is gone there is room again.
    fleetcore_testkit::eventually("there is room again", async || open(&server, &third, &query).await.ok())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_one_is_in_the_audit_log() {
    let server = start().await;
    let (port, _listener) = service().await;
    let silent = silent_port().await;
    let _open = open(&server, &server.token, &format!("port={port}")).await.unwrap();
    refused(&server, &server.token, &format!("port={silent}"), 503, "unavailable").await;
    refused(&server, &server.token, "port=80&host=192.0.2.1", 403, "permission_denied").await;
    let wanted = [
        ("ok", format!("to 127.0.0.1:{port}; from 127.0.0.1")),
        ("unavailable", format!("to 127.0.0.1:{silent}; from 127.0.0.1")),
        ("permission_denied", "to 192.0.2.1:80; from 127.0.0.1".to_owned()),
    ];
    // Entries are written behind the answer.
    let written = async || {
        let log = server.json("/api/v1/audit").await;
        let items = log["items"].as_array().unwrap().clone();
        let seen = |outcome: &str, detail: &str| {
            items.iter().any(|e| {
                e["actor"] == "admin"
                    && e["action"] == "tunnel.open"
                    && e["target"] == "local"
                    && e["outcome"] == outcome
                    && e["detail"] == detail
            })
        };
        wanted.iter().all(|(outcome, detail)| seen(outcome, detail)).then_some(())
    };
    fleetcore_testkit::eventually("all are written", written).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_not_hoarded_for() {
    let server = start().await;
    let (port, listener) = service().await;
    let socket = open(&server, &server.token, &format!("port={port}")).await.unwrap();
    let (mut there, _) = listener.accept().await.unwrap();
    // Until the kernel's buffers are full and for a while after, nothing more is taken.
    let chunk = vec![7; 1 << 20];
    let mut sent = 0_u64;
    while let Ok(n) = tokio::time::timeout(Duration::from_millis(500), there.write(&chunk)).await {
        sent += n.unwrap() as u64;
        assert!(sent < 256 << 20, "somebody keeps all of it");
    }
    drop(socket);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_with_the_login_it_was_opened_with() {
    let server = start().await;
    let (port, listener) = service().await;
    let wanted = serde_json::json!({ "name": "t", "scopes": ["tunnels"] });
    let (_, made) = server.post_json("/api/v1/tokens", wanted).await;
    let mut socket = open(&server, made["secret"].as_str().unwrap(), &format!("port={port}")).await.unwrap();
    let (mut there, _) = listener.accept().await.unwrap();
    let path = format!("/api/v1/tokens/{}", made["id"].as_str().unwrap());
    assert_eq!(server.request(Method::DELETE, &path).send().await.unwrap().status(), 204);
    assert_eq!(closed(&mut socket).await, 1008);
    assert!(there.read(&mut [0; 8]).await.is_err(), "it would pass for all there was");
}
