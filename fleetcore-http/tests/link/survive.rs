//! Links that are cut, agents that are away, servers that are started anew.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use fleetcore::{
    CommandId, CommandSpec, CommandState, ErrorKind, ExitKind, Offset, OpContext, Overflow, Signal,
};
use fleetcore_http::link::AgentTokens;

use crate::common::*;

/// The issue's number.
const CUTS: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn output_is_whole_however_often_the_link_is_cut() {
    let home = home().await;
    let cable = Cable::to(home.address).await;
    let token = home.tokens.issue(id("agent-1"));
    let agent = Host::start(&cable.url(), token);
    home.up("agent-1").await;

    const LINES: usize = 2_000_000;
    let all = pattern(LINES);
    let spec = CommandSpec::shell(script(LINES)).with_replay(64 << 10, Overflow::Block);
    let running = home.machine("agent-1").spawn(spec).await.unwrap();
    let mut stream = running.stream(Offset(0));
    let mut bytes = vec![];
    for cut in 1..=CUTS {
        // Odd places, so that messages are cut in the middle, too.
        let exit = read_to(&mut stream, &mut bytes, cut * (all.len() / (CUTS + 2)) + cut * 13 % 997).await;
        assert_eq!(exit, None, "it ended after {} bytes", bytes.len());
        let before = cable.connections.load(SeqCst);
        cable.cut();
        until("the agent comes back", || cable.connections.load(SeqCst) > before).await;
    }
    let exit = read_to(&mut stream, &mut bytes, usize::MAX).await.unwrap();
    assert!(exit.success(), "{exit:?}");
    assert!(bytes == all, "{} bytes of {}", bytes.len(), all.len());
    drop(agent);
}

#[tokio::test(flavor = "multi_thread")]
async fn input_is_whole_however_often_the_link_is_cut() {
    let home = home().await;
    let cable = Cable::to(home.address).await;
    let _agent = Host::start(&cable.url(), home.tokens.issue(id("agent-1")));
    home.up("agent-1").await;

    let all = pattern(200_000);
    let spec = CommandSpec::argv(["cat"]).with_stdin().with_replay(64 << 10, Overflow::Block);
    let running = home.machine("agent-1").spawn(spec).await.unwrap();
    let mut stream = running.stream(Offset(0));
    let writer = async {
        for part in all.chunks(all.len() / 50 + 1) {
            running.write_stdin(part.to_vec()).await.unwrap();
            cable.cut();
        }
        running.close_stdin().await;
    };
    let mut bytes = vec![];
    let reader = read_to(&mut stream, &mut bytes, usize::MAX);
    let (exit, ()) = limited(async { tokio::join!(reader, writer) }).await;
    assert!(exit.unwrap().success());
    assert!(bytes == all, "{} bytes of {}", bytes.len(), all.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn work_goes_on_while_the_link_is_down() {
    let home = home().await;
    let cable = Cable::to(home.address).await;
    let agent = Host::start(&cable.url(), home.tokens.issue(id("agent-1")));
    home.up("agent-1").await;
    let dir = tempfile::tempdir().unwrap();
    let go = dir.path().join("go");
    let wait = format!(
        "echo before; until [ -e {} ]; do sleep 0.01; done; {}; exit 3",
        go.display(),
        script(50_000)
    );
    let id = CommandId::generate();
    let cx = OpContext::default();
    let running = home.machine("agent-1").spawn_with(&cx, id, CommandSpec::shell(wait)).await.unwrap();
    let mut stream = running.stream(Offset(0));
    let mut bytes = vec![];
    read_to(&mut stream, &mut bytes, 7).await;

    cable.unplug();
    home.down("agent-1").await;
    std::fs::write(&go, "").unwrap();
    // It ends over there, and nobody here knows.
    let there = limited(agent.fleet.commands().wait(id)).await.unwrap();
    assert_eq!(there.state, CommandState::Failed);
    assert_eq!(home.fleet.commands().get(id).await.unwrap().state, CommandState::Running);
    let refused = home.machine("agent-1").spawn(CommandSpec::argv(["true"])).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    let interrupt = running.signal(Signal::Interrupt).await.unwrap_err();
    assert_eq!(interrupt.kind(), ErrorKind::Unavailable);

    cable.plug();
    let exit = read_to(&mut stream, &mut bytes, usize::MAX).await.unwrap();
    assert_eq!(exit.kind, ExitKind::Code(3));
    assert!(bytes[7..] == pattern(50_000), "{} bytes", bytes.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cancelled_while_the_link_is_down_ends_when_it_is_up() {
    let home = home().await;
    let cable = Cable::to(home.address).await;
    let agent = Host::start(&cable.url(), home.tokens.issue(id("agent-1")));
    home.up("agent-1").await;
    let running = home.machine("agent-1").spawn(CommandSpec::argv(["sleep", "1000"])).await.unwrap();
    let handle = running.detach();
    cable.unplug();
    home.down("agent-1").await;
    handle.cancel();
    cable.plug();
    let status = limited(handle.wait()).await.unwrap();
    assert_eq!(status.reason, Some(fleetcore::EndReason::Requested));
    let there = limited(agent.fleet.commands().wait(handle.id())).await.unwrap();
    assert_eq!(there.state, CommandState::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_away_for_long_loses_its_commands_until_it_is_back() {
    let home = home_with(quick().with_lost_after(Duration::from_millis(100))).await;
    let cable = Cable::to(home.address).await;
    let _agent = Host::start(&cable.url(), home.tokens.issue(id("agent-1")));
    home.up("agent-1").await;
    let dir = tempfile::tempdir().unwrap();
    let go = dir.path().join("go");
    let wait = format!("echo one; until [ -e {} ]; do sleep 0.01; done; echo two", go.display());
    let running = home.machine("agent-1").spawn(CommandSpec::shell(wait)).await.unwrap();
    let handle = running.detach();
    let mut bytes = vec![];
    read_to(&mut handle.stream(Offset(0)), &mut bytes, 4).await;
    cable.unplug();
    let lost = limited(home.fleet.commands().wait(handle.id())).await.unwrap();
    assert_eq!(lost.state, CommandState::Lost);

    cable.plug();
    home.up("agent-1").await;
    until("it runs again", || home.fleet.commands().handle(handle.id()).is_some()).await;
    std::fs::write(&go, "").unwrap();
    let ended = limited(home.fleet.commands().wait(handle.id())).await.unwrap();
    assert_eq!((ended.state, ended.output_end), (CommandState::Succeeded, Offset(8)));
    let mut stream = home.fleet.commands().stream(handle.id(), Offset(0)).await.unwrap();
    let mut bytes = vec![];
    assert!(read_to(&mut stream, &mut bytes, usize::MAX).await.unwrap().success());
    assert_eq!(bytes, b"one\ntwo\n");
}

/// What runs when the server stops, what ends while it is down, and what is there again afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_server_takes_up_what_runs() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let tokens = AgentTokens::new();
    let home = home_on(&data, tokens.clone(), "127.0.0.1:0".parse().unwrap()).await;
    let address = home.address;
    let agent = Host::start(&home.url(), tokens.issue(id("agent-1")));
    home.up("agent-1").await;

    let go = |name: &str| dir.path().join(name);
    let waiting = |name: &str| {
        let go = go(name);
        let text =
            format!("{}; until [ -e {} ]; do sleep 0.01; done; echo end; exit 5", script(5000), go.display());
        CommandSpec::shell(text)
    };
    let mut ids = vec![];
    for name in ["meanwhile", "later"] {
        let running = home.machine("agent-1").spawn(waiting(name)).await.unwrap();
        let handle = running.detach();
        read_to(&mut handle.stream(Offset(0)), &mut vec![], 40_000).await;
        ids.push(handle.id());
    }
    home.stop().await;
    std::fs::write(go("meanwhile"), "").unwrap();
    assert_eq!(limited(agent.fleet.commands().wait(ids[0])).await.unwrap().state, CommandState::Failed);
    assert!(
        agent.fleet.commands().handle(ids[1]).is_some(),
        "the agent's commands do not end with the server"
    );

    let home = home_on(&data, tokens, address).await;
    assert_eq!(home.fleet.commands().get(ids[1]).await.unwrap().state, CommandState::Lost);
    home.up("agent-1").await;
    until("it runs again", || home.fleet.commands().handle(ids[1]).is_some()).await;
    let record = home.fleet.commands().get(ids[1]).await.unwrap();
    assert_eq!((record.state, record.error, record.ended_at), (CommandState::Running, None, None));
    std::fs::write(go("later"), "").unwrap();
    let mut all = pattern(5000).to_vec();
    all.extend_from_slice(b"end\n");
    for id in ids {
        let settled = || async { home.fleet.commands().wait(id).await.unwrap() };
        let record = limited(async {
            loop {
                let record = settled().await;
                if record.state != CommandState::Lost {
                    return record;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        assert_eq!((record.state, record.exit.unwrap().kind), (CommandState::Failed, ExitKind::Code(5)));
        let mut stream = home.fleet.commands().stream(id, Offset(0)).await.unwrap();
        let mut bytes = vec![];
        read_to(&mut stream, &mut bytes, usize::MAX).await.unwrap();
        assert!(bytes == all, "{} bytes", bytes.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_go_before_work() {
    let home = home().await;
    let agent = home.agent("agent-1").await;
    // A window of output is always under way, and nobody reads most of it.
    let mut held = vec![];
    for _ in 0..40 {
        let spec = CommandSpec::argv(["yes"]).with_replay(4 << 10, Overflow::Block);
        held.push(home.machine("agent-1").spawn(spec).await.unwrap());
    }
    let busy = home.machine("agent-1").spawn(CommandSpec::argv(["yes"])).await.unwrap();
    // Three leases' worth of time.
    tokio::time::sleep(quick().ttl * 3).await;
    assert!(home.hub.is_connected(&id("agent-1")));
    assert!(busy.output_end().0 > 0);
    assert_eq!(home.run("agent-1", "echo quick").await, "quick\n");
    drop(held);
    drop(busy);
    until("all have ended", || agent.fleet.commands().running() == 0).await;
}
