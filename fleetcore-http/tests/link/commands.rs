//! An agent that is there.

use fleetcore::{
    CommandEvent, CommandId, CommandSpec, CommandState, ErrorKind, ExitKind, MachineState, Offset, OpContext,
    PtySize,
};
use futures::{StreamExt as _, future::join_all};

use crate::common::*;

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_where_their_target_says() {
    let home = home().await;
    let agent = home.agent("agent-1").await;
    assert_eq!(home.run("agent-1", "echo hello").await, "hello\n");
    assert_eq!(home.run("local", "echo here").await, "here\n");

    let id = CommandId::generate();
    let spec = CommandSpec::shell("echo out; echo err >&2; exit 7").with_label("a", "b");
    let cx = OpContext::for_actor("ann");
    let running = home.machine("agent-1").spawn_with(&cx, id, spec).await.unwrap();
    let output = limited(running.output()).await.unwrap();
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    assert_eq!(output.status.kind, ExitKind::Code(7));
    // Both sides have a record under the same id.
    let here = home.fleet.commands().get(id).await.unwrap();
    assert_eq!((here.state, here.target.to_string()), (CommandState::Failed, "agent-1".to_owned()));
    let there = agent.fleet.commands().get(id).await.unwrap();
    assert_eq!((there.state, there.actor.as_deref()), (CommandState::Failed, Some("ann")));
    assert_eq!(there.labels["a"], "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_says_why() {
    let home = home().await;
    let _agent = home.agent("agent-1").await;
    let error = home.machine("agent-1").spawn(CommandSpec::argv(["/no/such/program"])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    let error = home.fleet.machine("agent-2").unwrap_err();
    assert_eq!((error.kind(), error.context_value("agent")), (ErrorKind::NotFound, Some("agent-2")));
    let error = home.machine("agent-1/nowhere/x").spawn(CommandSpec::argv(["true"])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_and_much_of_it() {
    let home = home().await;
    let _agent = home.agent("agent-1").await;
    let all = pattern(200_000);
    let runs = (0..20).map(|_| async {
        let spec = CommandSpec::shell(script(200_000)).with_replay(64 << 10, fleetcore::Overflow::Block);
        let running = home.machine("agent-1").spawn(spec).await.unwrap();
        let mut stream = running.stream(Offset(0));
        let mut bytes = vec![];
        let exit = read_to(&mut stream, &mut bytes, usize::MAX).await.unwrap();
        assert!(exit.success());
        bytes
    });
    for bytes in limited(join_all(runs)).await {
        assert!(bytes == all);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn terminals_have_sizes_and_signals() {
    let home = home().await;
    let _agent = home.agent("agent-1").await;
    let spec = CommandSpec::shell("trap 'stty size; exit 3' USR1; echo ready; while :; do sleep 0.05; done")
        .with_pty(PtySize { cols: 80, rows: 24 });
    let running = home.machine("agent-1").spawn(spec).await.unwrap();
    let mut stream = running.stream(Offset(0));
    let first = limited(stream.next()).await;
    assert!(matches!(first, Some(Ok(CommandEvent::Output(_)))), "{first:?}");
    running.resize(PtySize { cols: 100, rows: 30 }).await.unwrap();
    running.signal(fleetcore::Signal::User1).await.unwrap();
    let output = limited(running.output()).await.unwrap();
    assert!(output.text().contains("30 100"), "{output:?}");
    assert_eq!(output.status.kind, ExitKind::Code(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_targets_waits_for_no_agent() {
    let home = home().await;
    let _one = home.agent("agent-1").await;
    {
        let two = home.agent("agent-2").await;
        two.stop.cancel();
    }
    home.down("agent-2").await;
    let all = home.fleet.targets(&OpContext::default()).await.unwrap();
    let seen: Vec<_> = all.iter().map(|t| (t.target.to_string(), t.info.state)).collect();
    assert!(seen.contains(&("agent-1".to_owned(), MachineState::Running)), "{seen:?}");
    assert!(seen.contains(&("agent-2".to_owned(), MachineState::Unknown)), "{seen:?}");
    let error = home.machine("agent-2").spawn(CommandSpec::argv(["true"])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.context_value("last_seen").is_some_and(|t| t != "never"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_leaves_takes_its_command_along() {
    let home = home().await;
    let agent = home.agent("agent-1").await;
    let running = home.machine("agent-1").spawn(CommandSpec::shell("sleep 1000 & wait")).await.unwrap();
    let id = running.id();
    drop(running);
    let record = limited(home.fleet.commands().wait(id)).await.unwrap();
    assert_eq!(record.state, CommandState::Cancelled);
    assert_eq!(record.exit.unwrap().reason, Some(fleetcore::EndReason::OwnerDropped));
    assert_eq!(limited(agent.fleet.commands().wait(id)).await.unwrap().state, CommandState::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_limit_holds_there() {
    let home = home().await;
    let _agent = home.agent("agent-1").await;
    let spec = CommandSpec::argv(["sleep", "1000"]).with_timeout(std::time::Duration::from_millis(50));
    let output = limited(home.machine("agent-1").spawn(spec).await.unwrap().output()).await.unwrap();
    assert_eq!(output.status.reason, Some(fleetcore::EndReason::TimedOut));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_those_of_the_agent() {
    let home = home().await;
    let _agent = home.agent("agent-1").await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x").to_str().unwrap().to_owned();
    let files = home.machine("agent-1").files().await.unwrap();
    let data = pattern(300_000);
    files.write(&path, data.clone(), fleetcore::WriteOptions::default()).await.unwrap();
    assert!(std::fs::read(&path).unwrap() == data);
    assert!(files.read(&path).await.unwrap() == data);
    assert_eq!(files.stat("/no/such/file").await.unwrap_err().kind(), ErrorKind::NotFound);
}
