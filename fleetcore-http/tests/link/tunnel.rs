//! Tunnels through an agent.

use fleetcore::ErrorKind;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::common::*;

#[tokio::test(flavor = "multi_thread")]
async fn bytes_go_both_ways_and_each_way_ends_by_itself() {
    let home = home().await;
    let _agent = home.agent("agent-1").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let all = pattern(500_000);
    let answer = all.clone();
    let service = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut got = vec![];
        // Reads to the end first: only a half-closed tunnel lets it answer.
        socket.read_to_end(&mut got).await.unwrap();
        socket.write_all(&answer).await.unwrap();
        got
    });
    let tunnel = home.hub.tunnel(&id("agent-1"), "127.0.0.1", port).await.unwrap();
    let (mut from, mut to) = tokio::io::split(tunnel);
    limited(to.write_all(&all)).await.unwrap();
    to.shutdown().await.unwrap();
    let mut got = vec![];
    limited(from.read_to_end(&mut got)).await.unwrap();
    assert!(got == all);
    assert!(limited(service).await.unwrap() == all);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_allowed_and_only_what_answers() {
    let home = home().await;
    let _agent = home.agent("agent-1").await;
    let refused = home.hub.tunnel(&id("agent-1"), "192.0.2.1", 80).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let closed = home.hub.tunnel(&id("agent-1"), "127.0.0.1", port).await.unwrap_err();
    assert_eq!(closed.kind(), ErrorKind::Unavailable, "{closed:?}");
    let unknown = home.hub.tunnel(&id("agent-2"), "127.0.0.1", port).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
    for bad in ["", "a b", "x\n"] {
        let error = home.hub.tunnel(&id("agent-1"), bad, 1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}
