//! Sessions at agents.

use fleetcore::{ErrorKind, Key, OpContext, SessionId, SessionSpec, TurnStatus, WaitPolicy};
use fleetcore_http::link::AgentTokens;

use crate::common::*;

fn spec(name: &str) -> SessionSpec {
    SessionSpec::new(SessionId::new(name).unwrap())
}

fn completed(code: i32) -> TurnStatus {
    TurnStatus::Completed { exit_code: Some(code) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_remembers_across_a_cut() {
    let home = home().await;
    let cable = Cable::to(home.address).await;
    let agent = Host::start(&cable.url(), home.tokens.issue(id("agent-1")));
    home.up("agent-1").await;
    let cx = OpContext::default();
    let session = home.fleet.sessions().open(&cx, &home.machine("agent-1"), spec("s")).await.unwrap();
    let turn =
        limited(session.run("X=41; cd /tmp; echo hello; (exit 3)", WaitPolicy::forever())).await.unwrap();
    assert_eq!((turn.status.clone(), turn.cwd.as_deref()), (completed(3), Some("/tmp")));
    assert_eq!(session.text(turn.output.clone()).await.unwrap(), "hello\n");
    cable.unplug();
    home.down("agent-1").await;
    cable.plug();
    home.up("agent-1").await;
    let turn = limited(session.run("echo $((X + 1))", WaitPolicy::forever())).await.unwrap();
    assert_eq!(session.text(turn.output.clone()).await.unwrap(), "42\n");
    // Text of an earlier turn is had from the agent.
    session.send_keys(&[Key::Text("echo typed".into()), Key::Enter]).await.unwrap();
    let shown = async {
        while !session.screen().await.unwrap().text().contains("\ntyped") {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    limited(shown).await;
    assert_eq!(agent.fleet.sessions().list().len(), 1);
    limited(home.fleet.sessions().close(&SessionId::new("s").unwrap())).await.unwrap();
    assert_eq!(agent.fleet.sessions().list().len(), 0);
    assert_eq!(home.fleet.sessions().get(session.id()).unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_outlives_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = AgentTokens::new();
    let home = home_on(dir.path(), tokens.clone(), "127.0.0.1:0".parse().unwrap()).await;
    let address = home.address;
    let agent = Host::start(&home.url(), tokens.issue(id("agent-1")));
    home.up("agent-1").await;
    let name = SessionId::new("s").unwrap();
    let session =
        home.fleet.sessions().open(&OpContext::default(), &home.machine("agent-1"), spec("s")).await.unwrap();
    limited(session.run("X=7", WaitPolicy::forever())).await.unwrap();
    drop(session);
    home.stop().await;
    assert_eq!(agent.fleet.sessions().list().len(), 1);

    let home = home_on(dir.path(), tokens, address).await;
    home.up("agent-1").await;
    until("the session is listed", || home.fleet.sessions().get(&name).is_ok()).await;
    assert_eq!(home.fleet.sessions().target(&name).unwrap(), target("agent-1"));
    let session = home.fleet.sessions().get(&name).unwrap();
    let turn = limited(session.run("echo $X", WaitPolicy::forever())).await.unwrap();
    assert_eq!(session.text(turn.output).await.unwrap(), "7\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_a_caller_ends_with_its_handle() {
    let home = home().await;
    let agent = home.agent("agent-1").await;
    let session = home.machine("agent-1").open_session(spec("mine")).await.unwrap();
    assert_eq!(agent.fleet.sessions().list().len(), 1);
    drop(session);
    until("it ends", || agent.fleet.sessions().list().is_empty()).await;
}
