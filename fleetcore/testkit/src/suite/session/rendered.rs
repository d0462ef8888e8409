//! Output as a terminal shows it, and what the shell tells about itself.

use std::sync::Arc;

use fleetcore::{ErrorKind, HandedBack, Key, OnIncomplete, Rendered, Session, Turn, TurnStatus, WaitPolicy};

use super::{PATIENCE, Shell, code, ms, run};
use crate::suite::{Case, cases};

/// All cases.
pub(super) fn all() -> Vec<Case<Shell>> {
    cases![
        rendered_is_what_a_terminal_shows,
        rendered_says_what_is_new,
        rendered_keeps_the_last_lines_and_the_first,
        an_older_turn_is_rendered_from_its_text,
        an_incomplete_command_may_be_waited_for,
        facts_are_told_with_every_command,
        notices_of_jobs_belong_to_the_next_turn,
        huge_commands_are_loaded,
        an_interrupt_waits_for_a_load,
    ]
}

async fn shown(session: &dyn Session, command: &str) -> (Turn, Rendered) {
    let turn = session.run(command, WaitPolicy::soft(PATIENCE)).await.unwrap();
    assert!(matches!(turn.status, TurnStatus::Completed { .. }), "{command:?}: {turn:?}");
    let rendered = session.rendered(&turn).await.unwrap();
    (turn, rendered)
}

async fn rendered_is_what_a_terminal_shows(shell: Arc<Shell>) {
    let s = shell.open().await;
    for (command, expect) in [
        ("printf '12345\\rab\\n'", "ab345"),
        ("printf 'abc\\033[2Dz\\tx  \\n\\n'", "azc     x"),
        ("printf 'abc\\033[2Dz\\n'; echo", "azc"),
        ("printf '\\033[31mred\\033[0m  \\n'", "red"),
        ("printf 'a\\377\\376b'", "ab"),
        ("printf '%0200d' 7; printf '\\n'", &format!("{:0200}", 7)),
        ("printf 'one\\ntwo\\n\\033[2A1\\033[K\\n\\n'", "1\ntwo"),
        ("true", ""),
        ("echo é 日本", "é 日本"),
    ] {
        let (_, rendered) = shown(&*s, command).await;
        assert_eq!((rendered.text.as_str(), rendered.truncated()), (expect, false), "{command:?}");
    }
    let (_, cleared) = shown(&*s, "echo gone; printf '\\033[H\\033[2J\\033[3J'; echo kept").await;
    assert_eq!((cleared.text.as_str(), cleared.lines, cleared.cleared), ("kept", 1, true));
    let (turn, refused) = shown(&*s, "fi").await;
    assert!(code(&turn) == Some(2) && refused.text.contains("yntax error"), "{refused:?}");
    assert!(!refused.text.contains('\x1b') && refused.text.lines().count() <= 2, "{refused:?}");
}

async fn rendered_says_what_is_new(shell: Arc<Shell>) {
    let s = shell.open().await;
    let turn = s
        .run("printf 'name? '; read x; echo \"hi $x\"; read x", WaitPolicy::forever().with_expect("name? "))
        .await
        .unwrap();
    assert_eq!(turn.status, TurnStatus::Running(HandedBack::Expected { index: 0 }));
    let first = s.rendered(&turn).await.unwrap();
    assert_eq!(first.text, "name?");
    s.send_keys(&[Key::Text("me".into()), Key::Enter]).await.unwrap();
    let turn = s.resume(WaitPolicy::forever().with_expect("hi me\n")).await.unwrap();
    let second = s.rendered(&turn).await.unwrap();
    assert_eq!(second.since(&first), Some(" me\nhi me"));
    assert_eq!(second.since(&second), Some(""));
    s.send_keys(&[Key::Enter]).await.unwrap();
    let turn = s.resume(WaitPolicy::forever()).await.unwrap();
    let third = s.rendered(&turn).await.unwrap();
    assert_eq!((third.since(&second), third.at), (Some(""), turn.output.end));
}

async fn rendered_keeps_the_last_lines_and_the_first(shell: Arc<Shell>) {
    let mut spec = shell.spec();
    spec.scrollback_lines = 100;
    let s = shell.try_open(spec).await.unwrap();
    let count = "n=1; while [ $n -le 1000 ]; do echo $n; n=$((n+1)); done";
    let (_, rendered) = shown(&*s, count).await;
    let last: Vec<String> = (901..=1000).map(|n| n.to_string()).collect();
    assert_eq!((rendered.text, rendered.lines, rendered.dropped), (last.join("\n"), 100, 900));
    assert!(rendered.head.starts_with("1\n2\n3\n"));
}

async fn an_older_turn_is_rendered_from_its_text(shell: Arc<Shell>) {
    let s = shell.open().await;
    let (turn, rendered) = shown(&*s, "printf 'a\\rb\\n'").await;
    run(&*s, "echo other").await;
    assert_eq!(s.rendered(&turn).await.unwrap().text, rendered.text);
    assert_eq!(rendered.text, "b");
}

async fn an_incomplete_command_may_be_waited_for(shell: Arc<Shell>) {
    if !shell.is_bash() {
        return;
    }
    let s = shell.try_open(shell.spec().with_on_incomplete(OnIncomplete::Wait)).await.unwrap();
    let turn = s.run("echo \"open", WaitPolicy::soft(ms(300))).await.unwrap();
    assert_eq!(turn.status, TurnStatus::Running(HandedBack::SoftTimeout));
    assert_eq!(s.rendered(&turn).await.unwrap().text, "");
    assert_eq!(s.run("ls", WaitPolicy::forever()).await.unwrap_err().kind(), ErrorKind::Busy);
    s.write("close\"\r".into()).await.unwrap();
    let turn = s.resume(WaitPolicy::forever()).await.unwrap();
    assert_eq!((code(&turn), s.rendered(&turn).await.unwrap().text.as_str()), (Some(0), "open\nclose"));
    let turn = s.run("cat <<X\nabc", WaitPolicy::soft(ms(300))).await.unwrap();
    assert!(matches!(turn.status, TurnStatus::Running(_)));
    assert_eq!(code(&super::stop(&*s).await), Some(130));
    assert_eq!(run(&*s, "echo ok").await, (Some(0), "ok\n".into()));
}

async fn facts_are_told_with_every_command(shell: Arc<Shell>) {
    let mut spec = shell.spec();
    spec.locate = vec!["sh".into(), "no-such-program".into()];
    let s = shell.try_open(spec).await.unwrap();
    run(&*s, "true").await;
    let facts = s.info().facts;
    if !shell.is_bash() {
        assert_eq!(facts, fleetcore::ShellFacts::default());
        return;
    }
    assert_eq!(facts.last_job, None);
    assert_eq!(facts.user.unwrap(), run(&*s, "id -un").await.1.trim());
    assert_eq!(facts.programs.keys().collect::<Vec<_>>(), ["sh"]);
    assert_eq!(facts.programs.get("sh").unwrap(), run(&*s, "type -P sh").await.1.trim());
    let (_, job) = run(&*s, "sleep 1000 & echo $!").await;
    let job = job.trim().lines().last().unwrap().parse::<u32>().unwrap();
    assert_eq!(s.info().facts.last_job, Some(job));
    run(&*s, "set -u; PATH=/nowhere").await;
    let facts = s.info().facts;
    assert_eq!((facts.last_job, facts.programs.len()), (Some(job), 0));
}

async fn notices_of_jobs_belong_to_the_next_turn(shell: Arc<Shell>) {
    if !shell.is_bash() {
        return;
    }
    let s = shell.open().await;
    let (_, started) = run(&*s, "sleep 1000 &").await;
    assert_eq!(started.lines().count(), 1, "{started:?}");
    // The shell has not looked at its jobs between this and the prompt.
    let (_, killed) = run(&*s, "kill %%; while kill -0 %% 2>/dev/null; do :; done").await;
    let (_, next) = run(&*s, "echo next").await;
    assert!(format!("{killed}{next}").contains("Terminated"), "{killed:?} {next:?}");
    run(&*s, "set -x").await;
    assert_eq!(run(&*s, "echo x").await.1, "+ echo x\nx\n");
}

async fn huge_commands_are_loaded(shell: Arc<Shell>) {
    if !shell.is_bash() {
        return;
    }
    let s = shell.open().await;
    let body: String = (0..15_000).map(|n| format!("line {n}\t\\n \\\\ 'é' $x\n")).collect();
    let (status, text) = run(&*s, &format!("cksum <<'EOF'; (exit 4)\n{body}EOF")).await;
    let (_, bytes) = text.trim().split_once(' ').unwrap();
    assert_eq!((status, bytes), (Some(4), body.len().to_string().as_str()));
    let (_, again) = run(&*s, &format!("false\necho \"$? {}\"", "y".repeat(9000))).await;
    assert_eq!(again, format!("1 {}\n", "y".repeat(9000)));
    assert_eq!(run(&*s, "set -e").await.0, Some(0));
    assert_eq!(run(&*s, "(exit 3) || true").await.0, Some(0));
    assert_eq!(run(&*s, &format!("echo {} | wc -c", "z".repeat(20_000))).await.1.trim(), "20001");
    let (_, history) = run(&*s, "history").await;
    assert!(!history.contains("__fc"), "{:.300}", history);
}

async fn an_interrupt_waits_for_a_load(shell: Arc<Shell>) {
    if !shell.is_bash() {
        return;
    }
    let s = shell.open().await;
    let text = format!(": {}\nsleep 1000", "x".repeat(500_000));
    let turn = s.run(&text, WaitPolicy::soft(ms(1))).await.unwrap();
    assert!(matches!(turn.status, TurnStatus::Running(_)), "{turn:?}");
    assert_eq!(code(&super::stop(&*s).await), Some(130));
    assert_eq!(run(&*s, "echo ok").await, (Some(0), "ok\n".into()));
}
