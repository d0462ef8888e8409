//! What is run, and with what.

use std::sync::Arc;

use fleetcore::{
    CommandId, CommandSpec, ErrorKind, ExitKind, Offset, OpContext, Program, PtySize, SessionId, SessionSpec,
    WaitPolicy,
};
use futures::{StreamExt as _, stream};

use crate::{
    Env, must, names_the_field, refused, sh,
    suite::{Case, cases},
};

pub(super) fn all() -> Vec<Case<Env>> {
    cases![
        arguments_arrive_exactly,
        a_shell_script_runs_in_sh,
        every_exit_code_comes_back,
        death_by_a_signal_is_told,
        variables_arrive_exactly_beside_the_inherited,
        the_environment_can_be_cleared,
        the_directory_is_set,
        a_missing_directory_is_not_found,
        a_missing_program_is_not_found,
        a_program_that_may_not_run_is_denied,
        bad_input_names_the_field_and_leaves_nothing,
        an_id_is_used_once,
        user_is_switched_or_unsupported,
        an_action_that_is_not_listed_is_unsupported,
        reattach_adopts_or_is_unsupported,
        native_sessions_open_or_are_unsupported,
        ping_answers,
    ]
}

async fn arguments_arrive_exactly(env: Arc<Env>) {
    let long = "x".repeat(100_000);
    let args = [
        "",
        " ",
        "a b",
        "'",
        "\"",
        "''",
        "\\",
        "\\n",
        "\n",
        "a\nb\n",
        "\t",
        "\x01\x1b\x7f",
        "$HOME",
        "${x}",
        "`id`",
        "$(id)",
        "*",
        "~",
        "-n",
        "--",
        ";",
        "&& false",
        "|",
        "#",
        "!",
        "%s%n",
        "ü✓",
        "日本語",
        "🦀",
        "",
        &long,
        "",
    ];
    let out = env.run(sh(r#"for a; do printf '%s\0' "$a"; done"#, &args)).await;
    let want: Vec<u8> = args.iter().flat_map(|a| a.bytes().chain([0])).collect();
    assert_eq!(String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&want));
}

async fn a_shell_script_runs_in_sh(env: Arc<Env>) {
    let out = must(env.run(CommandSpec::shell("x='a  b'; printf '%s.%d' \"$x\" $((6 * 7))")).await.check());
    assert_eq!(out.text(), "a  b.42");
}

async fn every_exit_code_comes_back(env: Arc<Env>) {
    let codes: Vec<i32> = (0..=255).collect();
    let run = |code: i32| {
        let env = Arc::clone(&env);
        async move { env.run(sh("exit \"$1\"", &[&code.to_string()])).await.status }
    };
    let ends: Vec<_> = stream::iter(codes.clone()).map(run).buffered(16).collect().await;
    for (code, status) in codes.iter().zip(ends) {
        assert_eq!((status.kind, status.reason, status.leaked), (ExitKind::Code(*code), None, false));
        assert_eq!(status.success(), *code == 0);
    }
}

async fn death_by_a_signal_is_told(env: Arc<Env>) {
    for (name, number) in [("KILL", 9), ("TERM", 15), ("USR1", 10)] {
        let status = env.run(sh("kill -s \"$1\" $$", &[name])).await.status;
        assert_eq!((status.kind, status.reason), (ExitKind::Signal(number), None), "{name}");
    }
}

async fn variables_arrive_exactly_beside_the_inherited(env: Arc<Env>) {
    let value = "a 'b' \"c\" $d `e` \\ \n\tü✓";
    let spec = sh(r#"printf '%s|%s|%s' "$SUITE_A" "$SUITE_B" "${PATH:+path}""#, &[])
        .with_env("SUITE_A", value)
        .with_env("SUITE_B", "");
    assert_eq!(must(env.run(spec).await.check()).text(), format!("{value}||path"));
}

async fn the_environment_can_be_cleared(env: Arc<Env>) {
    let spec = CommandSpec::argv(["/usr/bin/env"]).with_clear_env().with_env("A", "1").with_env("B", "x=y");
    let out = must(env.run(spec).await.check()).text();
    // A backend may mark its commands with variables of its own.
    let mut lines: Vec<_> = out.lines().filter(|l| !l.starts_with("FLEETCORE_")).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["A=1", "B=x=y"]);
}

async fn the_directory_is_set(env: Arc<Env>) {
    let odd = env.path("a 'dir' with $odd \"name\" ü");
    env.sh("mkdir \"$1\"", &[&odd]).await;
    let out = must(env.run(CommandSpec::argv(["pwd", "-P"]).with_cwd(&odd)).await.check()).text();
    assert_eq!(
        out.trim_end_matches('\n'),
        env.sh("cd \"$1\" && pwd -P", &[&odd]).await.trim_end_matches('\n')
    );
}

async fn a_missing_directory_is_not_found(env: Arc<Env>) {
    let error = env.refused(CommandSpec::argv(["true"]).with_cwd(env.path("missing"))).await;
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
}

async fn a_missing_program_is_not_found(env: Arc<Env>) {
    for program in ["fleetcore-no-such-program", "/no/such/program", "./no-such-program"] {
        let error = env.refused(CommandSpec::argv([program])).await;
        assert_eq!(error.kind(), ErrorKind::NotFound, "{program}: {error:?}");
    }
}

async fn a_program_that_may_not_run_is_denied(env: Arc<Env>) {
    let path = env.path("plain");
    env.sh("echo data > \"$1\"", &[&path]).await;
    let error = env.refused(CommandSpec::argv([path])).await;
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
}

async fn bad_input_names_the_field_and_leaves_nothing(env: Arc<Env>) {
    let ok = || CommandSpec::argv(["true"]);
    let mut cases = vec![
        (&["argv"][..], CommandSpec::argv(Vec::<String>::new())),
        (&["argv"], CommandSpec::argv([""])),
        (&["argv"], CommandSpec::argv(["echo", "a\0b"])),
        (&["shell"], CommandSpec::shell("echo a\0b")),
        (&["cwd"], ok().with_cwd("/\0")),
        (&["env"], ok().with_env("", "x")),
        (&["env"], ok().with_env("A=B", "x")),
        (&["env"], ok().with_env("A\0", "x")),
        (&["env"], ok().with_env("A", "x\0y")),
    ];
    if env.can.pty {
        cases.push((&["cols", "size"], ok().with_pty(PtySize { cols: 0, rows: 24 })));
        cases.push((&["rows", "size"], ok().with_pty(PtySize { cols: 80, rows: 0 })));
    }
    for (fields, spec) in cases {
        names_the_field(&env.refused(spec).await, fields);
    }
}

async fn an_id_is_used_once(env: Arc<Env>) {
    let (cx, id) = (OpContext::default(), CommandId::generate());
    let spec = sh("sleep 1000", &[]);
    let first = must(env.machine.spawn_with(&cx, id, spec.clone()).await);
    refused(env.machine.spawn_with(&cx, id, spec).await, ErrorKind::AlreadyExists);
    assert!(first.record().exit.is_none(), "the first is not disturbed");
}

async fn user_is_switched_or_unsupported(env: Arc<Env>) {
    let spec = CommandSpec::argv(["id", "-un"]).with_user("nobody");
    if !env.can.run_as_user {
        return env.unsupported(spec).await;
    }
    if env.sh("id -u", &[]).await.trim() != "0" {
        let error = env.refused(spec).await;
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
        return;
    }
    assert_eq!(must(env.run(spec.with_cwd("/")).await.check()).text(), "nobody\n");
    let error = env.refused(CommandSpec::argv(["true"]).with_user("fleetcore-no-such-user")).await;
    assert!(matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput), "{error:?}");
}

async fn an_action_that_is_not_listed_is_unsupported(env: Arc<Env>) {
    let name = "fleetcore-no-such-action".to_owned();
    assert!(!env.can.actions.contains(&name));
    env.unsupported(CommandSpec::new(Program::Action { name, args: Default::default() })).await;
    assert!(env.can.actions.iter().all(|a| !a.is_empty()), "actions have names");
}

async fn reattach_adopts_or_is_unsupported(env: Arc<Env>) {
    let executor = must(env.machine.executor(&OpContext::default()).await);
    let answer = executor.reattach(&OpContext::default(), CommandId::generate(), Offset(0)).await;
    let kind = if env.can.reattach { ErrorKind::NotFound } else { ErrorKind::Unsupported };
    refused(answer, kind);
}

async fn native_sessions_open_or_are_unsupported(env: Arc<Env>) {
    let executor = must(env.machine.executor(&OpContext::default()).await);
    let spec = SessionSpec::new(must(SessionId::new("native")));
    let session = executor.open_session(&OpContext::default(), spec).await;
    if !env.can.native_sessions {
        refused(session, ErrorKind::Unsupported);
        return;
    }
    let session = must(session);
    let turn = must(session.run("echo hi", WaitPolicy::forever()).await);
    assert!(must(session.text(turn.output).await).contains("hi"));
    must(session.close().await);
}

async fn ping_answers(env: Arc<Env>) {
    must(env.machine.ping(&OpContext::default()).await);
    let cx = OpContext::default();
    cx.cancel.cancel();
    let late = env.machine.ping(&cx).await;
    // A ping that needs no waiting may win over the cancellation, but no other error may come.
    assert!(late.is_ok() || late.as_ref().is_err_and(|e| e.kind() == ErrorKind::Cancelled), "{late:?}");
}
