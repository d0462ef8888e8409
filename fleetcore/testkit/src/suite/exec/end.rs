//! How commands end.

use std::{sync::Arc, time::Duration};

use fleetcore::{
    CommandSpec, CommandState, EndReason, ErrorKind, ExitKind, Offset, OnDrop, RunningCommand, Signal,
};
use futures::future::join_all;

use crate::{
    Env, Seen, must, read_until, refused, sh,
    suite::{Case, cases},
};

pub(super) fn all() -> Vec<Case<Env>> {
    cases![
        a_time_limit_ends_a_command_as_failed,
        a_time_limit_ends_what_ignores_term,
        cancel_asks_politely_first,
        cancel_kills_what_ignores_term,
        cancel_ends_the_whole_tree,
        dropping_the_owner_ends_the_whole_tree,
        dropping_a_handle_or_a_wait_ends_nothing,
        a_detached_command_goes_on,
        a_leak_is_told_and_not_waited_for,
        a_leak_that_keeps_writing_is_not_waited_for,
        signals_arrive_or_are_unsupported,
        signalling_what_has_ended_is_an_invalid_state,
        all_who_wait_are_told_the_same,
    ]
}

const SHORT: Duration = Duration::from_millis(100);

/// Holds the watch open in two processes, the second of which a naive kill would miss.
const TREE: &str = r#"exec 3>"$1"; (trap '' TERM HUP INT; echo up; while :; do sleep 1000; done) & wait"#;

async fn ready(env: &Env, spec: CommandSpec, word: &str) -> RunningCommand {
    let command = env.spawn(spec).await;
    read_until(&mut command.stream(Offset(0)), word).await;
    command
}

async fn a_time_limit_ends_a_command_as_failed(env: Arc<Env>) {
    let command = env.spawn(sh("echo begun; exec sleep 1000", &[]).with_timeout(SHORT)).await;
    let seen = Seen::all(&command, 0).await;
    assert_eq!(seen.status().reason, Some(EndReason::TimedOut));
    assert_eq!(command.record().state, CommandState::Failed);
    assert!(!seen.status().success());
}

async fn a_time_limit_ends_what_ignores_term(env: Arc<Env>) {
    let spec =
        sh("trap '' TERM HUP; while :; do sleep 1000; done", &[]).with_timeout(SHORT).with_grace(SHORT);
    let status = must(env.spawn(spec).await.wait().await);
    assert_eq!((status.kind, status.reason), (ExitKind::Signal(9), Some(EndReason::TimedOut)));
}

async fn cancel_asks_politely_first(env: Arc<Env>) {
    let script = "trap 'echo bye; kill $! 2>/dev/null; exit 3' TERM; sleep 1000 & echo ready; wait";
    let command = ready(&env, sh(script, &[]), "ready").await;
    command.cancel();
    command.cancel();
    let seen = Seen::all(&command, 0).await;
    assert_eq!(seen.text(), "ready\nbye\n");
    assert_eq!((seen.status().kind, seen.status().reason), (ExitKind::Code(3), Some(EndReason::Requested)));
    assert_eq!(command.record().state, CommandState::Cancelled);
}

async fn cancel_kills_what_ignores_term(env: Arc<Env>) {
    let script = "trap '' TERM HUP INT; echo ready; while :; do sleep 1000; done";
    let command = ready(&env, sh(script, &[]).with_grace(SHORT), "ready").await;
    command.cancel();
    let status = must(command.wait().await);
    assert_eq!((status.kind, status.reason), (ExitKind::Signal(9), Some(EndReason::Requested)));
}

async fn cancel_ends_the_whole_tree(env: Arc<Env>) {
    let watch = env.watch_tree().await;
    let command = ready(&env, sh(TREE, &[&watch.path]).with_grace(SHORT), "up").await;
    assert!(watch.held());
    command.cancel();
    must(command.wait().await);
    watch.gone().await;
}

async fn dropping_the_owner_ends_the_whole_tree(env: Arc<Env>) {
    let watch = env.watch_tree().await;
    let command = ready(&env, sh(TREE, &[&watch.path]).with_grace(SHORT), "up").await;
    let handle = command.handle();
    drop(command);
    let status = must(handle.wait().await);
    assert_eq!(status.reason, Some(EndReason::OwnerDropped));
    watch.gone().await;
}

async fn dropping_a_handle_or_a_wait_ends_nothing(env: Arc<Env>) {
    let gate = env.path("gate");
    env.sh("mkfifo \"$1\"", &[&gate]).await;
    let command = env.spawn(sh("read line < \"$1\"; echo \"$line\"", &[&gate])).await;
    drop(command.handle());
    drop(command.stream(Offset(0)));
    assert!(futures::poll!(Box::pin(command.wait())).is_pending());
    env.sh("echo on > \"$1\"", &[&gate]).await;
    assert_eq!(must(must(command.output().await).check()).text(), "on\n");
}

async fn a_detached_command_goes_on(env: Arc<Env>) {
    let gates = [env.path("gate"), env.path("gate")];
    for gate in &gates {
        env.sh("mkfifo \"$1\"", &[gate]).await;
    }
    let [by_call, by_spec] = gates.each_ref().map(|gate| sh("read line < \"$1\"; echo \"$line\"", &[gate]));
    let by_call = env.spawn(by_call).await.detach();
    let owner = env.spawn(by_spec.with_on_drop(OnDrop::Detach)).await;
    let by_spec = owner.handle();
    drop(owner);
    for (handle, gate) in [by_call, by_spec].into_iter().zip(&gates) {
        assert!(env.fleet.commands().handle(handle.id()).is_some(), "the fleet keeps it");
        let args = [gate.as_str()];
        let open = env.sh("echo on > \"$1\"", &args);
        let (seen, _) = futures::join!(Seen::all(&handle, 0), open);
        assert_eq!((seen.text().as_str(), seen.status().success()), ("on\n", true));
    }
}

async fn a_leak_is_told_and_not_waited_for(env: Arc<Env>) {
    let command = env.spawn(sh("sleep 1000 & echo $!; exit 4", &[])).await;
    let seen = Seen::all(&command, 0).await;
    assert_eq!((seen.status().kind, seen.status().leaked), (ExitKind::Code(4), true));
    // A tree that ended by itself is left alone: the sleeper must still be there to be killed.
    env.sh("kill -9 \"$1\"", &[seen.text().trim()]).await;
}

async fn a_leak_that_keeps_writing_is_not_waited_for(env: Arc<Env>) {
    let script = "(while echo noise; do :; done) 2>/dev/null & echo $!; exit 0";
    let command = env.spawn(sh(script, &[]).with_replay(1 << 20, fleetcore::Overflow::DropOldest)).await;
    let status = must(command.wait().await);
    assert_eq!((status.kind, status.leaked), (ExitKind::Code(0), true));
}

async fn signals_arrive_or_are_unsupported(env: Arc<Env>) {
    let script = "for s in HUP INT QUIT USR1 USR2; do trap \"echo got $s\" $s; done; echo ready; \
                  while :; do sleep 1000 & wait; kill $!; done";
    let command = ready(&env, sh(script, &[]).with_grace(SHORT), "ready").await;
    if !env.can.signals {
        refused(command.signal(Signal::User1).await, ErrorKind::Unsupported);
        return;
    }
    let mut stream = command.stream(Offset(0));
    read_until(&mut stream, "ready").await;
    let cases =
        [(Signal::Hangup, "HUP"), (Signal::User1, "USR1"), (Signal::User2, "USR2"), (Signal::Quit, "QUIT")];
    for (signal, name) in cases {
        must(command.signal(signal).await);
        read_until(&mut stream, &format!("got {name}")).await;
    }
    must(command.signal(Signal::Stop).await);
    must(command.signal(Signal::User1).await);
    must(command.signal(Signal::Continue).await);
    read_until(&mut stream, "got USR1").await;
    must(command.signal(Signal::Kill).await);
    let status = must(command.wait().await);
    assert_eq!((status.kind, status.reason), (ExitKind::Signal(9), None), "a signal is not a cancellation");
}

async fn signalling_what_has_ended_is_an_invalid_state(env: Arc<Env>) {
    let command = env.spawn(CommandSpec::argv(["true"])).await;
    must(command.wait().await);
    refused(command.signal(Signal::Terminate).await, ErrorKind::InvalidState);
    command.cancel();
    assert!(must(command.wait().await).success(), "an end is final");
}

async fn all_who_wait_are_told_the_same(env: Arc<Env>) {
    let command = env.spawn(sh("exit 5", &[])).await;
    let waits = (0..50).map(|_| {
        let handle = command.handle();
        tokio::spawn(async move { must(handle.wait().await) })
    });
    for status in join_all(waits).await {
        assert!(status.is_ok_and(|s| s.kind == ExitKind::Code(5)));
    }
    assert_eq!(must(command.wait().await).kind, ExitKind::Code(5), "also later");
}
