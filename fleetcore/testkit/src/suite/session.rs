//! What every shell session promises.
#![expect(clippy::unwrap_used, clippy::panic, reason = "cases fail by panicking")]

use std::{sync::Arc, time::Duration};

use fleetcore::{
    CommandEvent, ErrorKind, Executor, ExitKind, HandedBack, Key, Offset, OpContext, PtySize, Session,
    SessionId, SessionSpec, Turn, TurnStatus, WaitPolicy, session::ShellSession,
};
use futures::StreamExt;

use super::{Case, cases};

mod rendered;

/// A shell on a machine.
#[derive(Debug)]
pub struct Shell {
    executor: Arc<dyn Executor>,
    shell: Vec<String>,
}

impl Shell {
    /// `shell` (see [`SessionSpec::shell`]) on the machine of `executor`. bash should come with `--norc`.
    pub fn new(executor: Arc<dyn Executor>, shell: &[&str]) -> Self {
        Self { executor, shell: shell.iter().map(|s| (*s).to_owned()).collect() }
    }

    fn is_bash(&self) -> bool {
        self.shell.first().is_some_and(|s| s.ends_with("bash"))
    }

    fn spec(&self) -> SessionSpec {
        SessionSpec::new(SessionId::new("suite").unwrap()).with_shell(self.shell.clone()).with_cwd("/")
    }

    async fn try_open(&self, spec: SessionSpec) -> fleetcore::Result<Arc<dyn Session>> {
        let session = ShellSession::open(Arc::clone(&self.executor), &OpContext::default(), spec).await?;
        Ok(Arc::new(session))
    }

    async fn open(&self) -> Arc<dyn Session> {
        self.try_open(self.spec()).await.unwrap()
    }
}

/// All cases.
pub fn all() -> Vec<Case<Shell>> {
    let mut all = cases![
        state_exit_code_and_directory_are_told,
        text_is_what_the_command_wrote,
        several_lines_are_one_turn,
        nothing_is_a_turn_too,
        a_syntax_error_ends_the_turn,
        an_incomplete_command_does_not_hang,
        keys_are_not_commands,
        soft_timeout_hands_back_and_interrupt_ends,
        quiet_timeout_hands_back,
        expected_text_hands_back,
        expected_text_comes_before_the_end,
        a_program_is_answered_by_keys,
        two_waiters_get_the_same_turn,
        an_interrupt_between_two_programs_is_heeded,
        a_dropped_run_can_be_resumed,
        there_must_be_something_to_resume,
        forged_marks_mean_nothing,
        exit_ends_the_session,
        exec_ends_the_session,
        settings_of_the_shell_do_not_matter,
        hooks_are_mended,
        redirecting_the_shell_does_no_harm,
        output_of_jobs_does_not_end_turns,
        typed_commands_make_it_busy,
        a_begun_line_is_emptied,
        exclamation_marks_are_text,
        a_flood_is_followed_to_its_end,
        long_commands_arrive_whole_or_not_at_all,
        strange_directories_are_told,
        terminal_settings_may_change,
        the_screen_is_what_a_person_sees,
        size_changes_reach_programs,
        viewers_see_every_byte,
        closing_ends_every_job,
        dropping_ends_every_job,
        start_up_commands_run_first,
        bad_shells_are_refused,
        the_set_up_does_not_show,
        home_feels_like_home,
        many_turns_in_a_row,
    ];
    all.extend(rendered::all());
    all
}

/// Far more than any command here takes; says which one hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// A turn that must end.
async fn run(session: &dyn Session, command: &str) -> (Option<i32>, String) {
    let turn = session.run(command, WaitPolicy::soft(PATIENCE)).await.unwrap();
    let text = session.text(turn.output.clone()).await.unwrap();
    assert!(matches!(turn.status, TurnStatus::Completed { .. }), "{command:?}: {turn:?} {text:?}");
    (code(&turn), text)
}

fn code(turn: &Turn) -> Option<i32> {
    match &turn.status {
        TurnStatus::Completed { exit_code } => *exit_code,
        other => panic!("the command should have ended: {other:?}"),
    }
}

/// Interrupts what runs, which must end of it.
async fn stop(session: &dyn Session) -> Turn {
    let turn = session.interrupt(WaitPolicy::soft(PATIENCE)).await.unwrap();
    assert!(!matches!(turn.status, TurnStatus::Running(_)), "{turn:?}");
    turn
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Waits for a change nobody is told of.
macro_rules! until {
    ($what:expr, $done:expr) => {{
        let mut tries = 0;
        while !$done {
            tries += 1;
            assert!(tries < 2000, "never happened: {}", $what);
            tokio::time::sleep(ms(5)).await;
        }
    }};
}

async fn state_exit_code_and_directory_are_told(shell: Arc<Shell>) {
    let s = shell.open().await;
    let info = s.info();
    assert_eq!((info.busy, info.turns, info.cwd.as_deref(), info.ended), (false, 0, Some("/"), None));
    let turn = s.run("cd /tmp && A=1 && false", WaitPolicy::forever()).await.unwrap();
    assert_eq!((turn.seq, code(&turn), turn.cwd.as_deref()), (1, Some(1), Some("/tmp")));
    assert_eq!(run(&*s, "echo $? A=$A in $PWD").await, (Some(0), "1 A=1 in /tmp\n".into()));
    assert_eq!(run(&*s, "(exit 77)").await, (Some(77), String::new()));
    let info = s.info();
    assert_eq!((info.busy, info.turns, info.cwd.as_deref()), (false, 3, Some("/tmp")));
    assert!(info.active_at >= info.created_at && info.output_end > turn.output.end);
}

async fn text_is_what_the_command_wrote(shell: Arc<Shell>) {
    let s = shell.open().await;
    assert_eq!(run(&*s, "printf 'a\\n\\nb'").await.1, "a\n\nb");
    assert_eq!(run(&*s, "echo 'ä €' \"it's\" '$HOME'").await.1, "ä € it's $HOME\n");
    assert_eq!(
        run(&*s, "printf '\\033[31mred\\033[0m\\r50%%\\r99%%\\n'").await.1,
        "\x1b[31mred\x1b[0m\r50%\r99%\n"
    );
    assert_eq!(run(&*s, "echo out; echo err >&2").await.1, "out\nerr\n");
    assert_eq!(run(&*s, "printf '\\377\\376'").await.1, "\u{fffd}\u{fffd}");
    let all = s.text(Offset(0)..s.info().output_end).await.unwrap();
    assert!(!all.contains("]133;"), "{all:?}");
    let wrong = s.text(Offset(5)..Offset(4)).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::InvalidInput);
    assert_eq!(s.text(Offset(1 << 40)..Offset(1 << 41)).await.unwrap(), "");
}

async fn several_lines_are_one_turn(shell: Arc<Shell>) {
    let s = shell.open().await;
    let script = "for i in 1 2; do\n\techo \"line $i\"\ndone\n\n# comment\ncat <<'E'\nhere's $x\nE\necho end\n(exit 5)\n";
    assert_eq!(run(&*s, script).await, (Some(5), "line 1\nline 2\nhere's $x\nend\n".into()));
    assert_eq!(run(&*s, "f() {\n  echo \"f $1\"\n}\nf x").await, (Some(0), "f x\n".into()));
    assert_eq!(run(&*s, "f y").await.1, "f y\n");
    assert_eq!(s.info().turns, 3);
}

async fn nothing_is_a_turn_too(shell: Arc<Shell>) {
    let s = shell.open().await;
    for nothing in ["", "\n", "   ", "# only a comment", ":"] {
        assert_eq!(run(&*s, nothing).await, (Some(0), String::new()), "{nothing:?}");
    }
    assert_eq!(run(&*s, "echo ok").await.1, "ok\n");
}

async fn a_syntax_error_ends_the_turn(shell: Arc<Shell>) {
    let s = shell.open().await;
    let (status, text) = run(&*s, "fi").await;
    assert_eq!(status, Some(2), "{text}");
    assert!(text.contains("yntax error") && !text.contains("2004"), "{text:?}");
    assert_eq!(run(&*s, "echo ok").await, (Some(0), "ok\n".into()));
    assert_eq!(run(&*s, "/no/such/program").await.0, Some(127));
}

async fn an_incomplete_command_does_not_hang(shell: Arc<Shell>) {
    let s = shell.open().await;
    for text in [
        "echo \"a",
        "echo 'a",
        "if true; then",
        "cat <<X\nabc",
        "echo $(ls",
        "(true",
        "while :; do",
        "echo `a",
    ] {
        match s.run(text, WaitPolicy::forever()).await {
            Err(e) => {
                assert_eq!((e.kind(), e.context_value("field")), (ErrorKind::InvalidInput, Some("command")))
            }
            // A shell whose `eval` sees the end of the text says so, or reads a here-document to the end of it.
            Ok(turn) => assert!(!shell.is_bash(), "{text:?}: {turn:?}"),
        }
        assert_eq!(run(&*s, "echo ok").await, (Some(0), "ok\n".into()), "after {text:?}");
    }
}

async fn keys_are_not_commands(shell: Arc<Shell>) {
    let s = shell.open().await;
    for text in ["a\0b", "echo \x1b[201~\nid", "a\x03", "a\rb", "\u{9b}6n"] {
        let e = s.run(text, WaitPolicy::forever()).await.unwrap_err();
        assert_eq!(
            (e.kind(), e.context_value("field")),
            (ErrorKind::InvalidInput, Some("command")),
            "{text:?}"
        );
    }
    let e = s.run("true", WaitPolicy::forever().with_expect("")).await.unwrap_err();
    assert_eq!((e.kind(), e.context_value("field")), (ErrorKind::InvalidInput, Some("expect")));
    let e = s.send_keys(&[Key::Ctrl('7')]).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidInput);
    assert_eq!((s.info().turns, s.info().busy), (0, false));
}

async fn soft_timeout_hands_back_and_interrupt_ends(shell: Arc<Shell>) {
    let s = shell.open().await;
    let started = s
        .run("echo start; sleep 1000; echo never", WaitPolicy::forever().with_expect("start\n"))
        .await
        .unwrap();
    assert_eq!(started.status, TurnStatus::Running(HandedBack::Expected { index: 0 }));
    let turn = s.resume(WaitPolicy::soft(ms(50))).await.unwrap();
    assert_eq!(turn.status, TurnStatus::Running(HandedBack::SoftTimeout));
    assert_eq!(s.text(turn.output).await.unwrap(), "start\n");
    assert!(s.info().busy);
    let e = s.run("echo no", WaitPolicy::forever()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Busy);
    let turn = stop(&*s).await;
    assert_eq!((turn.seq, code(&turn)), (1, Some(130)));
    assert_eq!(
        s.interrupt(WaitPolicy::forever()).await.unwrap(),
        turn,
        "nothing is typed into an idle shell"
    );
    assert_eq!(run(&*s, "echo next").await, (Some(0), "next\n".into()));
}

async fn quiet_timeout_hands_back(shell: Arc<Shell>) {
    let s = shell.open().await;
    s.run("echo hi; read x; echo got $x", WaitPolicy::forever().with_expect("hi\n")).await.unwrap();
    let turn = s.resume(WaitPolicy::forever().with_quiet(ms(150))).await.unwrap();
    assert_eq!(turn.status, TurnStatus::Running(HandedBack::Quiet));
    assert_eq!(s.text(turn.output).await.unwrap(), "hi\n");
    s.send_keys(&[Key::Text("you".into()), Key::Enter]).await.unwrap();
    let turn = s.resume(WaitPolicy::forever()).await.unwrap();
    assert_eq!((turn.seq, code(&turn)), (1, Some(0)));
    assert_eq!(s.text(turn.output).await.unwrap(), "hi\nyou\ngot you\n");
}

async fn expected_text_hands_back(shell: Arc<Shell>) {
    let s = shell.open().await;
    // The echo of the command is not its output.
    let wait = || WaitPolicy::forever().with_expect("nowhere").with_expect("name? ");
    let turn =
        s.run("for i in 1 2 3; do printf 'na''me? '; read x; echo \"<$x>\"; done", wait()).await.unwrap();
    assert_eq!(turn.status, TurnStatus::Running(HandedBack::Expected { index: 1 }));
    for name in ["anna", "bert"] {
        s.send_keys(&[Key::Text(name.into()), Key::Enter]).await.unwrap();
        let turn = s.resume(wait()).await.unwrap();
        assert_eq!(turn.status, TurnStatus::Running(HandedBack::Expected { index: 1 }), "{name}");
        let text = s.text(turn.output).await.unwrap();
        assert!(text.ends_with(&format!("<{name}>\nname? ")), "{text:?}");
    }
    s.send_keys(&[Key::Text("carl".into()), Key::Enter]).await.unwrap();
    let turn = s.resume(wait()).await.unwrap();
    assert_eq!(code(&turn), Some(0));
    assert!(s.text(turn.output).await.unwrap().ends_with("<carl>\n"));
}

async fn expected_text_comes_before_the_end(shell: Arc<Shell>) {
    let s = shell.open().await;
    let turn = s
        .run(
            "printf 'one\\ntwo\\n'; (exit 3)",
            WaitPolicy::forever().with_expect("two").with_expect("one\ntw"),
        )
        .await
        .unwrap();
    assert_eq!(
        turn.status,
        TurnStatus::Running(HandedBack::Expected { index: 1 }),
        "the text that begins first"
    );
    let turn = s.resume(WaitPolicy::forever()).await.unwrap();
    assert_eq!(code(&turn), Some(3));
    let turn = s.run("seq 1 200000", WaitPolicy::forever().with_expect("\n199999\n200000\n")).await.unwrap();
    assert_eq!(turn.status, TurnStatus::Running(HandedBack::Expected { index: 0 }));
    until!("it ends", !s.info().busy);
    // What was not asked for is not missed.
    assert_eq!(run(&*s, "echo next").await.1, "next\n");
    assert_eq!(s.resume(WaitPolicy::forever()).await.unwrap_err().kind(), ErrorKind::InvalidState);
}

async fn a_program_is_answered_by_keys(shell: Arc<Shell>) {
    let s = shell.open().await;
    let turn =
        s.run("echo ready; cat; echo eof $?", WaitPolicy::forever().with_expect("ready\n")).await.unwrap();
    assert_eq!(turn.status, TurnStatus::Running(HandedBack::Expected { index: 0 }));
    s.send_keys(&[Key::Text("ab".into()), Key::Backspace, Key::Text("é".into()), Key::Enter]).await.unwrap();
    let turn = s.resume(WaitPolicy::forever().with_expect("\naé\n")).await.unwrap();
    assert_eq!(turn.status, TurnStatus::Running(HandedBack::Expected { index: 0 }));
    s.send_keys(&[Key::Ctrl('d')]).await.unwrap();
    let turn = s.resume(WaitPolicy::forever()).await.unwrap();
    assert!(s.text(turn.output).await.unwrap().ends_with("aé\neof 0\n"));
}

async fn two_waiters_get_the_same_turn(shell: Arc<Shell>) {
    let s = shell.open().await;
    let other = Arc::clone(&s);
    let waiter =
        tokio::spawn(async move { other.run("echo x; sleep 1000", WaitPolicy::forever()).await.unwrap() });
    until!("the command runs", s.text(Offset(0)..s.info().output_end).await.unwrap() == "x\n");
    let a = stop(&*s).await;
    let b = waiter.await.unwrap();
    assert_eq!((&a, code(&a)), (&b, Some(130)));
    // An interrupt long before the program starts is not lost either.
    for _ in 0..20 {
        let other = Arc::clone(&s);
        let waiter =
            tokio::spawn(async move { other.run("sleep 1000", WaitPolicy::forever()).await.unwrap() });
        until!("the command is typed", s.info().busy);
        let a = stop(&*s).await;
        assert_eq!(a, waiter.await.unwrap());
        assert_eq!(run(&*s, "echo fine").await, (Some(0), "fine\n".into()));
    }
}

async fn an_interrupt_between_two_programs_is_heeded(shell: Arc<Shell>) {
    let s = shell.open().await;
    for _ in 0..40 {
        let begun = WaitPolicy::soft(PATIENCE).with_expect("begun\n");
        let turn = s.run("echo begun; sleep 1000", begun).await.unwrap();
        assert_eq!(turn.status, TurnStatus::Running(HandedBack::Expected { index: 0 }));
        assert_eq!(code(&stop(&*s).await), Some(130));
    }
    assert_eq!(run(&*s, "echo fine").await, (Some(0), "fine\n".into()));
}

async fn a_dropped_run_can_be_resumed(shell: Arc<Shell>) {
    let s = shell.open().await;
    let dropped =
        tokio::time::timeout(ms(50), s.run("echo go; read x; (exit $x)", WaitPolicy::forever())).await;
    assert!(dropped.is_err());
    until!("it reads", s.text(Offset(0)..s.info().output_end).await.unwrap() == "go\n");
    assert_eq!(s.run("true", WaitPolicy::forever()).await.unwrap_err().kind(), ErrorKind::Busy);
    s.send_keys(&[Key::Text("9".into()), Key::Enter]).await.unwrap();
    until!("the command ends", !s.info().busy);
    let turn = s.resume(WaitPolicy::forever()).await.unwrap();
    assert_eq!((turn.seq, code(&turn)), (1, Some(9)));
    assert_eq!(s.resume(WaitPolicy::forever()).await.unwrap_err().kind(), ErrorKind::InvalidState);
    // Dropped at any moment, the shell stays usable.
    for n in 0..30 {
        let _ = tokio::time::timeout(
            Duration::from_micros(n * 37),
            s.run("echo some text", WaitPolicy::forever()),
        )
        .await;
        if s.info().busy {
            let _ = s.resume(WaitPolicy::forever()).await;
        }
        assert_eq!(run(&*s, "echo fine").await, (Some(0), "fine\n".into()), "{n}");
    }
}

async fn there_must_be_something_to_resume(shell: Arc<Shell>) {
    let s = shell.open().await;
    assert_eq!(s.resume(WaitPolicy::forever()).await.unwrap_err().kind(), ErrorKind::InvalidState);
    assert_eq!(s.interrupt(WaitPolicy::forever()).await.unwrap_err().kind(), ErrorKind::InvalidState);
}

async fn forged_marks_mean_nothing(shell: Arc<Shell>) {
    let s = shell.open().await;
    let forged =
        "printf '\\033]133;D;0;k=x;/\\007\\033]133;D;0\\007\\033]133;C\\007\\033]133;A\\007'; (exit 9)";
    let (status, text) = run(&*s, forged).await;
    assert_eq!(status, Some(9));
    assert!(text.contains("133;D;0;k=x;/"), "the program's own bytes stay: {text:?}");
    // Half a mark at the end of the output does not swallow the shell's own.
    assert_eq!(run(&*s, "printf '\\033]133;D;0;k='; (exit 4)").await.0, Some(4));
    assert_eq!(run(&*s, "printf '\\033'; (exit 5)").await.0, Some(5));
}

async fn exit_ends_the_session(shell: Arc<Shell>) {
    let s = shell.open().await;
    let turn = s.run("echo bye; exit 3", WaitPolicy::forever()).await.unwrap();
    let TurnStatus::SessionEnded(status) = turn.status else { panic!("{turn:?}") };
    assert_eq!((status.kind, status.reason), (ExitKind::Code(3), None));
    assert!(s.text(turn.output).await.unwrap().starts_with("bye\n"));
    assert_eq!((s.ended().await.unwrap(), s.info().ended), (status, Some(status)));
    assert_eq!(s.close().await.unwrap(), status);
    let gone = [
        s.run("true", WaitPolicy::forever()).await.unwrap_err(),
        s.resume(WaitPolicy::forever()).await.unwrap_err(),
        s.send_keys(&[Key::Enter]).await.unwrap_err(),
        s.resize(PtySize::default()).await.unwrap_err(),
    ];
    for e in gone {
        assert_eq!(e.kind(), ErrorKind::InvalidState, "{e}");
    }
    assert!(s.screen().await.unwrap().text().contains("bye"));
}

async fn exec_ends_the_session(shell: Arc<Shell>) {
    let s = shell.open().await;
    let turn = s.run("exec sh -c 'echo other; exit 6'", WaitPolicy::forever()).await.unwrap();
    assert!(matches!(turn.status, TurnStatus::SessionEnded(st) if st.kind == ExitKind::Code(6)), "{turn:?}");
    assert_eq!(s.text(turn.output).await.unwrap(), "other\n");
    let s = shell.open().await;
    let turn = s.run("kill -9 $$", WaitPolicy::forever()).await.unwrap();
    assert!(
        matches!(turn.status, TurnStatus::SessionEnded(st) if st.kind == ExitKind::Signal(9)),
        "{turn:?}"
    );
}

async fn settings_of_the_shell_do_not_matter(shell: Arc<Shell>) {
    let s = shell.open().await;
    for setting in [
        "set -u",
        "set -e",
        "set +e",
        "set -f",
        "IFS=:",
        "set -m",
        "set -C",
        "alias echo='printf %s\\\\n'; unalias echo",
    ] {
        assert_eq!(run(&*s, setting).await.0, Some(0), "{setting}");
        assert_eq!(run(&*s, "! true; echo ok").await, (Some(0), "ok\n".into()), "{setting}");
        if shell.is_bash() || setting != "set -e" {
            assert_eq!(run(&*s, "! true").await.0, Some(1), "{setting}"); // ends `eval`, and with it a strict `sh`
        }
    }
    run(&*s, "set -x").await;
    let (status, text) = run(&*s, "echo traced").await;
    assert!(status == Some(0) && text.contains("traced\n"), "{text:?}");
}

async fn hooks_are_mended(shell: Arc<Shell>) {
    let s = shell.open().await;
    let taken: &[&str] = if shell.is_bash() {
        &[
            "PS1='new> '",
            "PROMPT_COMMAND='echo mine'",
            "PROMPT_COMMAND=; PS0=; PS2=",
            "unset PROMPT_COMMAND",
            "unset PS1 PS0 PS2",
            "PS1='$(false)$ '",
            "trap 'true' DEBUG",
            "trap 'true' ERR",
            "set -o vi",
            "set -o posix",
            "PROMPT_COMMAND=(true true)", // from here on only `PS1` tells
        ]
    } else {
        &["PS2=x", "true", "PS4=x"]
    };
    for take in taken {
        assert_eq!(run(&*s, take).await.0, Some(0), "{take}");
        assert_eq!(run(&*s, "cd /tmp; echo ok; (exit 3)").await, (Some(3), "ok\n".into()), "after {take}");
        let turn = s.run("cd /\ntrue", WaitPolicy::forever()).await.unwrap();
        assert_eq!((code(&turn), turn.cwd.as_deref()), (Some(0), Some("/")), "after {take}");
    }
}

async fn redirecting_the_shell_does_no_harm(shell: Arc<Shell>) {
    let s = shell.open().await;
    assert_eq!(run(&*s, "exec 7>&1 >/dev/null").await.0, Some(0));
    assert_eq!(run(&*s, "echo lost; echo kept >&7; (exit 2)").await, (Some(2), "kept\n".into()));
    assert_eq!(run(&*s, "exec >&7 7>&-").await.0, Some(0));
    assert_eq!(run(&*s, "echo back").await, (Some(0), "back\n".into()));
}

async fn output_of_jobs_does_not_end_turns(shell: Arc<Shell>) {
    let s = shell.open().await;
    assert_eq!(run(&*s, "{ sleep 0.05; echo late; } & true").await.0, Some(0));
    until!("the job writes", s.text(Offset(0)..s.info().output_end).await.unwrap().contains("late\n"));
    assert_eq!(run(&*s, "(exit 8)").await.0, Some(8));
    let (status, text) = run(&*s, "{ sleep 0.05; echo in time; } & wait; echo done").await;
    assert!(status == Some(0) && text.contains("in time\n") && text.contains("done\n"), "{text:?}");
}

async fn typed_commands_make_it_busy(shell: Arc<Shell>) {
    let s = shell.open().await;
    s.write("sleep 1000\r".into()).await.unwrap();
    assert!(s.info().busy);
    assert_eq!(s.run("true", WaitPolicy::forever()).await.unwrap_err().kind(), ErrorKind::Busy);
    // It can be waited for and interrupted like any other.
    let turn = s.resume(WaitPolicy::soft(ms(1))).await.unwrap();
    assert_eq!(turn.status, TurnStatus::Running(HandedBack::SoftTimeout));
    let turn = stop(&*s).await;
    assert_eq!((turn.seq, code(&turn), s.info().busy), (0, Some(130), false));
    s.write("cd /tmp\r".into()).await.unwrap();
    until!("it ends", !s.info().busy);
    assert_eq!(s.info().cwd.as_deref(), Some("/tmp"));
    assert_eq!((run(&*s, "pwd").await, s.info().turns), ((Some(0), "/tmp\n".into()), 1));
    // Return at an empty line, Ctrl-C at a begun one.
    for keys in [&b"\r"[..], b"abc\x03"] {
        s.write(bytes::Bytes::copy_from_slice(keys)).await.unwrap();
        let _ = s.resume(WaitPolicy::soft(ms(200))).await;
        stop(&*s).await; // which does nothing once the prompt is back
        assert_eq!(run(&*s, "echo ok; (exit 4)").await, (Some(4), "ok\n".into()), "{keys:?}");
    }
}

async fn a_begun_line_is_emptied(shell: Arc<Shell>) {
    let s = shell.open().await;
    s.write("rm -rf /nonexistent; ".into()).await.unwrap();
    assert!(!s.info().busy);
    assert_eq!(run(&*s, "echo clean").await, (Some(0), "clean\n".into()));
    if shell.is_bash() {
        s.write("abc def\x1b[D\x1b[D".into()).await.unwrap();
        assert_eq!(run(&*s, "echo clean").await, (Some(0), "clean\n".into()));
    }
}

async fn exclamation_marks_are_text(shell: Arc<Shell>) {
    let s = shell.open().await;
    assert_eq!(run(&*s, "echo wow!! \"!x\" !$").await, (Some(0), "wow!! !x !$\n".into()));
}

async fn a_flood_is_followed_to_its_end(shell: Arc<Shell>) {
    let s = shell.open().await;
    let turn = s
        .run("head -c 30000000 /dev/zero | tr '\\0' x; echo; echo last; (exit 7)", WaitPolicy::forever())
        .await
        .unwrap();
    assert_eq!(code(&turn), Some(7));
    assert!(turn.output.end.0 - turn.output.start.0 > 30_000_000);
    let text = s.text(turn.output).await.unwrap();
    assert!(text.ends_with("xxx\nlast\n") && text.len() < 8 << 20, "{}", text.len());
    assert_eq!(run(&*s, "echo ok").await.1, "ok\n");
    until!("the screen has caught up", s.screen().await.unwrap().at == s.info().output_end);
}

async fn long_commands_arrive_whole_or_not_at_all(shell: Arc<Shell>) {
    let s = shell.open().await;
    for bytes in [300, 3900, 4094, 4095, 4096, 5000, 100_000] {
        match s.run(&format!("echo {}", "x".repeat(bytes)), WaitPolicy::forever()).await {
            Ok(turn) => assert_eq!(s.text(turn.output).await.unwrap().len(), bytes + 1, "{bytes}"),
            Err(e) => {
                assert!(!shell.is_bash() && bytes > 3900, "{bytes}: {e}");
                assert_eq!(e.kind(), ErrorKind::InvalidInput);
            }
        }
    }
    let lines: String = (0..5000).map(|n| format!("echo 'line {n}'\n")).collect();
    let expect: String = (0..5000).map(|n| format!("line {n}\n")).collect();
    assert_eq!(run(&*s, &lines).await, (Some(0), expect));
    let e = s.run(&"x\n".repeat(1 << 20), WaitPolicy::forever()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidInput);
}

async fn strange_directories_are_told(shell: Arc<Shell>) {
    let s = shell.open().await;
    let (_, root) = run(&*s, "mktemp -d").await;
    let root = root.trim();
    for name in ["with space", "semi;colon", "ünï", "quote'\"", "$HOME", "-dash", "back\\slash"] {
        let quoted = format!("{root}/{name}").replace('\'', "'\\''");
        let turn = s.run(&format!("mkdir '{quoted}' && cd '{quoted}'"), WaitPolicy::forever()).await.unwrap();
        assert_eq!((code(&turn), turn.cwd), (Some(0), Some(format!("{root}/{name}"))));
    }
    if shell.is_bash() {
        run(&*s, &format!("mkdir $'{root}/be\\all\\n' && cd $'{root}/be\\all\\n'")).await;
        assert_eq!(s.info().cwd, Some(format!("{root}/be?ll?")));
    }
    assert_eq!(run(&*s, &format!("cd /; rm -r {root}")).await.0, Some(0));
}

async fn terminal_settings_may_change(shell: Arc<Shell>) {
    let s = shell.open().await;
    for setting in ["stty -echo", "stty echo", "stty -onlcr; stty onlcr"] {
        assert_eq!(run(&*s, setting).await.0, Some(0), "{setting}");
        assert_eq!(run(&*s, "echo ok; (exit 3)").await, (Some(3), "ok\n".into()), "{setting}");
    }
    // A program that reads single keys without echo, as editors do.
    let raw = "old=$(stty -g); stty raw -echo; printf 'key? '; k=$(dd bs=1 count=1 2>/dev/null); stty $old; echo \"<$k>\"";
    let turn = s.run(raw, WaitPolicy::forever().with_expect("key? ")).await.unwrap();
    assert_eq!(turn.status, TurnStatus::Running(HandedBack::Expected { index: 0 }));
    s.send_keys(&[Key::Text("q".into())]).await.unwrap();
    let turn = s.resume(WaitPolicy::forever()).await.unwrap();
    assert_eq!(s.text(turn.output).await.unwrap(), "key? <q>\n");
}

async fn the_screen_is_what_a_person_sees(shell: Arc<Shell>) {
    let s = shell.open().await;
    run(&*s, "clear 2>/dev/null || printf '\\033[H\\033[2J'; echo visible; printf 'pro%s\\n' gress").await;
    until!("the prompt is drawn", s.screen().await.unwrap().text().ends_with(['$', '#']));
    let screen = s.screen().await.unwrap();
    assert!(
        screen.lines.iter().any(|l| l == "visible") && screen.lines.iter().any(|l| l == "progress"),
        "{screen:?}"
    );
    assert!(!screen.text().contains("133;"), "{screen:?}");
    assert_eq!(screen.lines.len(), 24);
    run(&*s, "seq 1 100").await;
    let screen = s.screen().await.unwrap();
    assert!(
        screen.scrollback.iter().any(|l| l == "10") && screen.lines.iter().any(|l| l == "100"),
        "{screen:?}"
    );
    let turn = s
        .run(
            "printf '\\033[?1049h\\033[Hfull'; read x; printf '\\033[?1049l'",
            WaitPolicy::forever().with_expect("full"),
        )
        .await
        .unwrap();
    assert!(matches!(turn.status, TurnStatus::Running(_)));
    assert_eq!(s.screen().await.unwrap().lines.first().map(String::as_str), Some("full"));
    s.send_keys(&[Key::Enter]).await.unwrap();
    s.resume(WaitPolicy::forever()).await.unwrap();
    assert!(s.screen().await.unwrap().text().contains("\n100\n"));
}

async fn size_changes_reach_programs(shell: Arc<Shell>) {
    let s = shell.open().await;
    assert_eq!(run(&*s, "stty size").await.1, "24 80\n");
    for (rows, cols) in [(33, 101), (5, 20), (24, 80)] {
        s.resize(PtySize { cols, rows }).await.unwrap();
        assert_eq!(run(&*s, "stty size").await, (Some(0), format!("{rows} {cols}\n")));
        assert_eq!(
            (s.info().size, s.screen().await.unwrap().lines.len()),
            (PtySize { cols, rows }, usize::from(rows))
        );
    }
    let e = s.resize(PtySize { cols: 0, rows: 1 }).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidInput);
}

async fn viewers_see_every_byte(shell: Arc<Shell>) {
    let s = shell.open().await;
    let view = |s: &Arc<dyn Session>| {
        let s = Arc::clone(s);
        tokio::spawn(async move {
            let mut stream = s.stream(Offset(0)).await.unwrap();
            drop(s);
            let mut bytes = vec![];
            while let Some(event) = stream.next().await {
                match event.unwrap() {
                    CommandEvent::Output(chunk) => {
                        assert_eq!(chunk.offset.0, bytes.len() as u64);
                        bytes.extend_from_slice(&chunk.data);
                    }
                    CommandEvent::Gap { from, to } => panic!("{from} {to}"),
                    _ => {}
                }
            }
            bytes
        })
    };
    let (a, b) = (view(&s), view(&s));
    run(&*s, "seq 1 20000").await;
    s.run("exit", WaitPolicy::forever()).await.unwrap();
    let (a, b) = (a.await.unwrap(), b.await.unwrap());
    assert_eq!(a, b);
    assert_eq!(a.len() as u64, s.info().output_end.0);
    assert!(String::from_utf8_lossy(&a).contains("\r\n20000\r\n"));
}

/// Whether a process of the machine is gone, or dead and only not yet reaped.
async fn gone(other: &dyn Session, pid: &str) -> bool {
    run(other, &format!("case $(cat /proc/{pid}/stat 2>/dev/null) in ''|*') Z '*) true ;; *) false ;; esac"))
        .await
        .0
        == Some(0)
}

async fn jobs(s: &dyn Session) -> Vec<String> {
    let (_, pids) = run(
        s,
        "(trap '' HUP TERM; exec sleep 1000) & p=$!; nohup sleep 1000 >/dev/null 2>&1 & echo \"pids=$p $!\"",
    )
    .await;
    let pids = pids.split("pids=").nth(1).unwrap().split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert!(pids.len() >= 2, "{pids:?}");
    pids
}

async fn closing_ends_every_job(shell: Arc<Shell>) {
    let (s, other) = (shell.open().await, shell.open().await);
    let pids = jobs(&*s).await;
    let began = std::time::Instant::now();
    let status = s.close().await.unwrap();
    assert!(status.reason.is_some() && began.elapsed() < Duration::from_secs(30), "{status:?}");
    for pid in pids {
        until!("the job is gone", gone(&*other, &pid).await);
    }
    assert_eq!(s.info().ended, Some(status));
}

async fn dropping_ends_every_job(shell: Arc<Shell>) {
    let (s, other) = (shell.open().await, shell.open().await);
    let pids = jobs(&*s).await;
    drop(s);
    for pid in pids {
        until!("the job is gone", gone(&*other, &pid).await);
    }
}

async fn start_up_commands_run_first(shell: Arc<Shell>) {
    let mut spec = shell.spec();
    spec.startup = vec!["X=from-start-up".into(), "cd /tmp".into()];
    spec.env.insert("SECRET".into(), "s3cret".into());
    let s = shell.try_open(spec).await.unwrap();
    assert_eq!((s.info().turns, s.info().cwd.as_deref()), (0, Some("/tmp")));
    assert_eq!(run(&*s, "echo $X $SECRET").await.1, "from-start-up s3cret\n");
    let mut spec = shell.spec();
    spec.startup = vec!["true".into(), "(exit 3)".into()];
    let e = shell.try_open(spec).await.unwrap_err();
    assert_eq!((e.kind(), e.context_value("command")), (ErrorKind::CommandFailed, Some("(exit 3)")));
    let mut spec = shell.spec();
    spec.startup = vec!["exit 1".into()];
    assert_eq!(shell.try_open(spec).await.unwrap_err().kind(), ErrorKind::CommandFailed);
}

async fn bad_shells_are_refused(shell: Arc<Shell>) {
    for (argv, kind) in [
        (&["fish"][..], ErrorKind::InvalidInput),
        (&["bash", "-c", "true"], ErrorKind::InvalidInput),
        (&["/no/such/bash"], ErrorKind::NotFound),
        (&["/no/such/dash"], ErrorKind::NotFound),
    ] {
        let e = shell.try_open(shell.spec().with_shell(argv.iter().copied())).await.unwrap_err();
        assert_eq!(e.kind(), kind, "{argv:?}: {e}");
    }
    let e = shell.try_open(shell.spec().with_size(PtySize { cols: 0, rows: 0 })).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidInput);
    let e = shell.try_open(shell.spec().with_cwd("/no/such/dir")).await.unwrap_err();
    assert!(matches!(e.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput), "{e}");
    // A shell that ends instead of showing a prompt, and one that never shows any.
    if shell.is_bash() {
        let mut spec = shell.spec().with_shell(["bash", "--rcfile", "/dev/stdin"]);
        spec.env.insert("PROMPT_COMMAND".into(), "exit".into());
        let cx = OpContext::default().with_timeout(Duration::from_millis(300));
        let e = ShellSession::open(Arc::clone(&shell.executor), &cx, spec).await.unwrap_err();
        assert!(matches!(e.kind(), ErrorKind::Timeout | ErrorKind::Unavailable), "{e}");
    }
}

async fn the_set_up_does_not_show(shell: Arc<Shell>) {
    let s = shell.open().await;
    let all = s.text(Offset(0)..s.info().output_end).await.unwrap();
    assert!(all.lines().count() <= 2 && !all.contains("fc_") && !all.contains("FLEETCORE"), "{all:?}");
    let (_, env) = run(&*s, "env").await;
    assert!(
        !env.contains("FLEETCORE_RC")
            && !env.contains("FLEETCORE_SH_RC")
            && !env.contains("STARTER")
            && !env.contains("133;"),
        "{env}"
    );
    let (_, fds) = run(&*s, "ls -l /proc/$$/fd 2>/dev/null").await;
    assert!(!fds.lines().any(|l| l.contains(" 63 -> ") || l.contains(" 3 -> ")), "{fds}");
    if shell.is_bash() {
        let (_, history) = run(&*s, "history").await;
        assert!(!history.contains("__fc"), "{history}");
    }
    // A nested shell has no marks of ours.
    let nested = if shell.is_bash() { "bash --norc -i" } else { "sh -i" };
    let prompt = WaitPolicy::forever().with_expect("$ ").with_expect("# ");
    let turn = s.run(nested, prompt).await.unwrap();
    assert!(matches!(turn.status, TurnStatus::Running(_)), "{turn:?}");
    s.write("exit 5\r".into()).await.unwrap();
    assert_eq!(code(&s.resume(WaitPolicy::forever()).await.unwrap()), Some(5));
}

async fn home_feels_like_home(shell: Arc<Shell>) {
    if !shell.is_bash() {
        return;
    }
    let s = shell.open().await;
    let (_, home) = run(&*s, "mktemp -d").await;
    let home = home.trim();
    let rc = format!(
        "cat > {home}/.bashrc <<'E'\nPS1='home> '\nalias hi='echo hello'\nPROMPT_COMMAND='printf \"<pc>\"'\nE"
    );
    run(&*s, &rc).await;
    for argv in [&[][..], &["bash"], &["bash", "--rcfile", &format!("{home}/.bashrc")]] {
        let mut spec = SessionSpec::new(SessionId::new("home").unwrap()).with_shell(argv.iter().copied());
        spec.env.insert("HOME".into(), home.to_owned().into());
        let s = shell.try_open(spec).await.unwrap();
        assert_eq!(run(&*s, "hi").await, (Some(0), "hello\n".into()), "{argv:?}");
        assert!(s.info().shell.first().is_some_and(|p| p == "bash"));
        until!("the prompt is drawn", s.screen().await.unwrap().text().ends_with("<pc>home>"));
    }
    run(&*s, &format!("rm -r {home}")).await;
}

async fn many_turns_in_a_row(shell: Arc<Shell>) {
    let s = shell.open().await;
    for n in 0..200 {
        assert_eq!(
            run(&*s, &format!("echo {n}; (exit {})", n % 100)).await,
            (Some(n % 100), format!("{n}\n"))
        );
    }
    assert_eq!(s.info().turns, 200);
}
