//! Tunnels through an agent.

use std::sync::Arc;

use fleetcore::{AddressRules, BoxConnection, ErrorKind, Fleet, HostPort, MachineSpec, OpContext};
use fleetcore_http::link::AgentConfig;
use fleetcore_testkit::standin::TableProvider;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
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

/// Sends back what it gets, to any number at once.
async fn echo() -> HostPort {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = socket.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
        }
    });
    HostPort::new("127.0.0.1", port).unwrap()
}

async fn exchange(connection: BoxConnection, data: &[u8]) -> Vec<u8> {
    let (mut from, mut to) = tokio::io::split(connection);
    let mut got = vec![];
    let send = async {
        to.write_all(data).await.unwrap();
        to.shutdown().await.unwrap();
    };
    let (_, read) = limited(async { tokio::join!(send, from.read_to_end(&mut got)) }).await;
    read.unwrap();
    got
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_behind_an_agent_are_connected_through_it_under_its_rules() {
    let home = home().await;
    let (open, closed) = (echo().await, echo().await);
    let rule = open.to_string().parse().unwrap();
    let fleet = Fleet::builder().with_provider(Arc::new(TableProvider::default()));
    let tune = |config: AgentConfig| config.with_tunnels(AddressRules::new([rule]));
    let _host = Host::start_on(fleet, &home.url(), home.tokens.issue(id("office-1")), tune);
    home.up("office-1").await;
    let mut spec = MachineSpec::default();
    spec.name = "dev1".to_owned();
    let provider = home.fleet.agent_providers().remove(0);
    limited(provider.create(&OpContext::default(), spec)).await.unwrap();
    let data = pattern(300_000);
    for target in ["office-1", "office-1/table/dev1"] {
        let machine = home.machine(target);
        assert!(exchange(limited(machine.connect(&open)).await.unwrap(), &data).await == data, "{target}");
        let refused = limited(machine.connect(&closed)).await.map(drop).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "{target}: {refused:?}");
        assert_eq!(refused.context_value("address"), Some(closed.to_string().as_str()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_goes_breaks_its_connections_and_the_next_one_carries_new_ones() {
    let home = home().await;
    let to = echo().await;
    let agent = home.agent("agent-1").await;
    let machine = home.machine("agent-1");
    let tunnel = machine.tunnel(([127, 0, 0, 1], 0).into(), to).await.unwrap();
    let mut socket = TcpStream::connect(tunnel.local_addr()).await.unwrap();
    socket.write_all(b"x").await.unwrap();
    limited(socket.read_exact(&mut [0])).await.unwrap();
    drop(agent);
    let end = limited(socket.read_to_end(&mut vec![])).await;
    assert!(end.is_err(), "it would pass for all there was: {end:?}");
    home.down("agent-1").await;
    // The reset may come while we still connect.
    if let Ok(mut refused) = TcpStream::connect(tunnel.local_addr()).await {
        assert!(limited(refused.read_to_end(&mut vec![])).await.is_err());
    }
    let _agent = home.agent("agent-1").await;
    let socket = TcpStream::connect(tunnel.local_addr()).await.unwrap();
    assert_eq!(exchange(Box::new(socket), b"again").await, b"again");
}
