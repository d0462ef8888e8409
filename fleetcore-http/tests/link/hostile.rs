//! Agents that are wrong, mad or not who they say.

use std::time::Duration;

use fleetcore::{CommandSpec, ErrorKind, MachineState, OpContext};
use fleetcore_http::link::AgentEnd;
use futures::{SinkExt as _, StreamExt as _};
use proptest::{
    strategy::{Strategy as _, ValueTree as _},
    test_runner::TestRunner,
};
use secrecy::SecretString;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Error as WsError, Message, client::IntoClientRequest as _, http::StatusCode},
};

use crate::common::*;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn dial(home: &Home, token: &str) -> Result<Socket, WsError> {
    let mut request = format!("ws://{}/api/v1/link", home.address).into_client_request().unwrap();
    let headers = request.headers_mut();
    headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
    headers.insert("sec-websocket-protocol", "fleetcore.link.v1".parse().unwrap());
    tokio_tungstenite::connect_async(request).await.map(|(socket, _)| socket)
}

async fn dial_as(home: &Home, name: &str) -> Socket {
    let token = home.tokens.issue(id(name));
    dial(home, secret(&token)).await.unwrap()
}

fn hello(instance: &str, major: u16) -> Message {
    let text = serde_json::json!({
        "type": "hello", "protocol": {"major": major, "minor": 7}, "version": "9.9", "instance": instance,
        "colour": "a newer version says more",
    });
    Message::text(text.to_string())
}

/// What the server says last, if anything.
async fn last_word(socket: &mut Socket) -> Option<serde_json::Value> {
    let mut last = None;
    while let Some(Ok(message)) = limited(socket.next()).await {
        if let Message::Text(text) = message {
            last = serde_json::from_str(&text).ok();
        }
    }
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn only_known_tokens_get_in() {
    let home = home().await;
    for token in ["", "fca_x", "fct_x"] {
        match dial(&home, token).await {
            Err(WsError::Http(answer)) => assert_eq!(answer.status(), StatusCode::UNAUTHORIZED),
            other => panic!("{other:?}"),
        }
    }
    // A token of one agent does not open the door for another name.
    let token = home.tokens.issue(id("agent-1"));
    let mut host = Host::start_with(&home.url(), token, |c| c.with_id(Some(id("agent-2"))));
    assert!(matches!(host.ended().await, AgentEnd::Refused(e) if e.kind() == ErrorKind::InvalidInput));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_token_is_dead_stops() {
    let home = home().await;
    let token = home.tokens.issue(id("agent-1"));
    home.tokens.revoke(&id("agent-1"));
    let mut host = Host::start(&home.url(), token);
    match host.ended().await {
        AgentEnd::Refused(error) => {
            assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error:?}");
            assert!(error.context_value("hint").is_some());
        }
        other => panic!("{other:?}"),
    }
}

/// Only the server itself can say that a token is dead: a proxy in front of it, or a server in trouble, cannot.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_tries_again_whatever_stands_in_front_of_its_server() {
    let home = home().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let _host = Host::start(&url, home.tokens.issue(id("agent-1")));
    let problem = r#"{"code":"unauthenticated","status":401,"detail":"who?"}"#;
    let answers =
        ["401 Unauthorized", "403 Forbidden", "404 Not Found", "500 Oops", "502 Bad Gateway", "503 Later"];
    for answer in answers.map(Some).into_iter().chain([None]) {
        let (mut socket, _) = limited(listener.accept()).await.unwrap();
        let mut request = vec![];
        while !request.ends_with(b"\r\n\r\n") {
            assert!(limited(socket.read_buf(&mut request)).await.unwrap() > 0);
        }
        if let Some(status) = answer {
            let length = problem.len();
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\ncontent-length: {length}\r\n\
                 connection: close\r\n\r\n{problem}"
            );
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    }
    let (mut near, _) = limited(listener.accept()).await.unwrap();
    let mut far = TcpStream::connect(home.address).await.unwrap();
    tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
    home.up("agent-1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_that_do_not_meet_are_refused_for_good() {
    let home = home().await;
    let mut socket = dial_as(&home, "agent-1").await;
    socket.send(hello("i", 99)).await.unwrap();
    let word = last_word(&mut socket).await.unwrap();
    assert_eq!((word["type"].as_str(), word["reason"].as_str()), (Some("refused"), Some("version")));
    assert!(!home.hub.is_connected(&id("agent-1")));
    // A newer minor version is welcome, and told what to speak.
    let mut socket = dial_as(&home, "agent-1").await;
    socket.send(hello("i", 1)).await.unwrap();
    let Message::Text(text) = limited(socket.next()).await.unwrap().unwrap() else { panic!("no text") };
    let word: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((word["type"].as_str(), word["protocol"]["minor"].as_u64()), (Some("welcome"), Some(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_agents_with_one_name_the_older_is_told_and_stops() {
    let home = home().await;
    let token = home.tokens.issue(id("agent-1"));
    let again = |t: &SecretString| SecretString::from(secret(t).to_owned());
    let mut old = Host::start(&home.url(), again(&token));
    home.up("agent-1").await;
    let new = Host::start(&home.url(), again(&token));
    match old.ended().await {
        AgentEnd::Refused(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}"),
        other => panic!("{other:?}"),
    }
    home.up("agent-1").await;
    assert_eq!(home.run("agent-1", "echo new").await, "new\n");
    assert!(!new.end.as_ref().unwrap().is_finished());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_agent_that_was_away_does_not_push_out_the_newer() {
    let home = home().await;
    let token = home.tokens.issue(id("agent-1"));
    let again = |t: &SecretString| SecretString::from(secret(t).to_owned());
    let cable = Cable::to(home.address).await;
    let mut old = Host::start(&cable.url(), again(&token));
    home.up("agent-1").await;
    cable.unplug();
    home.down("agent-1").await;
    let new = Host::start(&home.url(), again(&token));
    home.up("agent-1").await;
    cable.plug();
    assert!(matches!(old.ended().await, AgentEnd::Refused(e) if e.kind() == ErrorKind::Conflict));
    assert!(home.hub.is_connected(&id("agent-1")));
    assert!(!new.end.as_ref().unwrap().is_finished());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_agent_is_told_and_gone() {
    let home = home().await;
    let mut agent = home.agent("agent-1").await;
    home.hub.remove(&id("agent-1")).await.unwrap();
    assert!(matches!(agent.ended().await, AgentEnd::Refused(e) if e.kind() == ErrorKind::Unauthenticated));
    assert_eq!(home.fleet.machine("agent-1").unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_ends_its_own_link_only() {
    let home = home().await;
    let _good = home.agent("good").await;
    let mut runner = TestRunner::deterministic();
    let bytes = proptest::collection::vec(proptest::num::u8::ANY, 0..200);
    for round in 0..60 {
        let mut socket = dial_as(&home, "bad").await;
        let garbage = bytes.new_tree(&mut runner).unwrap().current();
        // Before the hello, and after it.
        if round % 2 == 0 {
            socket.send(hello(&format!("i{round}"), 1)).await.unwrap();
            assert!(matches!(limited(socket.next()).await, Some(Ok(Message::Text(_)))));
        }
        let message = match round % 3 {
            0 => Message::binary(garbage),
            1 => Message::text(String::from_utf8_lossy(&garbage).into_owned()),
            // A frame of a stream that was never opened, an end, credit out of the blue.
            _ => Message::binary([&[1 + (round % 5) as u8, 0, 0, 0, 2][..], &garbage].concat()),
        };
        // It may be out already.
        let _ = socket.send(message).await;
        let _ = socket.send(Message::binary(vec![9; 10])).await;
        last_word(&mut socket).await;
    }
    assert_eq!(home.run("good", "echo fine").await, "fine\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_message_ends_the_link() {
    let home = home().await;
    let mut socket = dial_as(&home, "bad").await;
    let _ = socket.send(Message::binary(vec![0; 8 << 20])).await;
    last_word(&mut socket).await;
    assert!(!home.hub.is_connected(&id("bad")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_never_reads_holds_up_nobody() {
    let home = home().await;
    let _good = home.agent("good").await;
    let mut deaf = dial_as(&home, "deaf").await;
    deaf.send(hello("deaf", 1)).await.unwrap();
    home.up("deaf").await;
    // It speaks now and then, but hears nothing.
    let beating = tokio::spawn(async move {
        while deaf.send(Message::text(r#"{"type":"heartbeat"}"#)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let machine = home.machine("deaf");
    let soon = cx(Duration::from_millis(300));
    let spawn = machine.spawn_with(&soon, fleetcore::CommandId::generate(), CommandSpec::argv(["true"]));
    let error = limited(spawn).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable), "{error:?}");
    let targets = limited(home.fleet.targets(&OpContext::default())).await.unwrap();
    let good = targets.iter().find(|t| t.target == target("good")).unwrap();
    assert_eq!(good.info.state, MachineState::Running);
    assert_eq!(home.run("good", "echo fine").await, "fine\n");
    beating.abort();
    home.down("deaf").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_says_nothing_is_put_out() {
    let home = home().await;
    let mut socket = dial_as(&home, "mute").await;
    socket.send(hello("mute", 1)).await.unwrap();
    home.up("mute").await;
    // No heartbeat: the server ends it after the lease.
    last_word(&mut socket).await;
    home.down("mute").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_heartbeats_costs_its_sender_only() {
    let home = home().await;
    let _good = home.agent("good").await;
    let socket = dial_as(&home, "loud").await;
    let (mut to, mut from) = socket.split();
    to.send(hello("loud", 1)).await.unwrap();
    home.up("loud").await;
    let flood = tokio::spawn(async move {
        for _ in 0..20_000 {
            if to.feed(Message::text(r#"{"type":"heartbeat","status":{"n":1}}"#)).await.is_err() {
                return;
            }
        }
        let _ = to.flush().await;
    });
    let reading = tokio::spawn(async move { while let Some(Ok(_)) = from.next().await {} });
    assert_eq!(home.run("good", "echo fine").await, "fine\n");
    limited(flood).await.unwrap();
    reading.abort();
}
