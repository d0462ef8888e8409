//! What a command writes.

use std::sync::Arc;

use fleetcore::{Channel, CommandEvent, CommandSpec, CommandState, ExitKind, Io, Overflow};
use futures::future::join_all;

use crate::{
    Env, PATTERN_SCRIPT, Seen, must, pattern, sh, sh_block,
    suite::{Case, cases},
};

pub(super) fn all() -> Vec<Case<Env>> {
    cases![
        output_comes_on_two_channels_or_split_is_unsupported,
        merged_output_keeps_the_true_order,
        every_byte_comes_as_it_was_written,
        the_last_line_needs_no_newline,
        silence_is_no_output,
        much_output_comes_whole,
        the_end_comes_once_and_last,
        a_command_that_closes_its_output_is_not_over,
        a_hundred_at_once_keep_apart,
        many_readers_see_the_same,
    ]
}

async fn output_comes_on_two_channels_or_split_is_unsupported(env: Arc<Env>) {
    let spec = sh("echo out; echo err >&2; echo out2; echo err2 >&2", &[]);
    if !env.can.split_output {
        return env.unsupported(spec).await;
    }
    let out = must(env.run(spec).await.check());
    assert_eq!(String::from_utf8_lossy(&out.stdout), "out\nout2\n");
    assert_eq!(String::from_utf8_lossy(&out.stderr), "err\nerr2\n");
}

async fn merged_output_keeps_the_true_order(env: Arc<Env>) {
    let script = "i=0; while [ $i -lt 500 ]; do echo $i; echo $i >&2; i=$((i + 1)); done";
    let spec = sh(script, &[]).with_io(Io::Pipes { stdin: false, merge: true });
    let seen = env.seen(spec).await;
    let want: String = (0..500).map(|i| format!("{i}\n{i}\n")).collect();
    assert_eq!(seen.text(), want);
    assert_eq!(seen.channel(Channel::Stdout).len(), want.len(), "all of it is standard output");
}

async fn every_byte_comes_as_it_was_written(env: Arc<Env>) {
    let octal: String = (0..=255).map(|b| format!("\\{b:03o}")).collect();
    let out = env.run(sh("printf \"$1$1\"", &[&octal])).await;
    let want: Vec<u8> = (0..=255).chain(0..=255).collect();
    assert_eq!(out.stdout, want);
}

async fn the_last_line_needs_no_newline(env: Arc<Env>) {
    assert_eq!(env.sh("printf 'a\\nb'", &[]).await, "a\nb");
}

async fn silence_is_no_output(env: Arc<Env>) {
    let seen = env.seen(CommandSpec::argv(["true"])).await;
    assert!(seen.bytes.is_empty());
    assert!(!seen.events.iter().any(|e| matches!(e, CommandEvent::Output(_))), "{:?}", seen.events);
}

async fn much_output_comes_whole(env: Arc<Env>) {
    let lines = 1 << 19;
    let seen = env.seen(sh_block(PATTERN_SCRIPT, &[&lines.to_string()])).await;
    let want = pattern(lines * 8);
    assert_eq!(seen.bytes.len(), want.len());
    assert!(seen.bytes == want, "4 MiB differ in content");
}

async fn the_end_comes_once_and_last(env: Arc<Env>) {
    for code in ["0", "3"] {
        let command = env.spawn(sh("echo x; exit \"$1\"", &[code])).await;
        let seen = Seen::all(&command, 0).await;
        // `Seen` has checked that nothing follows the end.
        let ends = seen.events.iter().filter(|e| matches!(e, CommandEvent::Exited(_))).count();
        assert_eq!(ends, 1);
        let record = command.record();
        let state = if code == "0" { CommandState::Succeeded } else { CommandState::Failed };
        assert_eq!(
            (record.state, record.exit),
            (state, seen.exit),
            "the record is settled before the end shows"
        );
        assert_eq!(record.output_end.0, 2);
    }
}

async fn a_command_that_closes_its_output_is_not_over(env: Arc<Env>) {
    let gate = env.path("gate");
    env.sh("mkfifo \"$1\"", &[&gate]).await;
    let command = env.spawn(sh("echo before; exec >&- 2>&-; read line < \"$1\"; exit 7", &[&gate])).await;
    let waiter = command.handle();
    let args = [gate.as_str()];
    let open = env.sh("echo go > \"$1\"", &args);
    let (seen, _) = futures::join!(Seen::all(&waiter, 0), open);
    assert_eq!((seen.text().as_str(), seen.status().kind), ("before\n", ExitKind::Code(7)));
}

async fn a_hundred_at_once_keep_apart(env: Arc<Env>) {
    let one = |n: usize| {
        let env = Arc::clone(&env);
        async move {
            let out = env.run(sh("echo \"$1\"; echo \"$1\" >&2; exit $(($1 % 7))", &[&n.to_string()])).await;
            assert_eq!(out.text(), format!("{n}\n"));
            assert_eq!(String::from_utf8_lossy(&out.stderr), format!("{n}\n"));
            assert_eq!(out.status.kind, ExitKind::Code(n as i32 % 7));
        }
    };
    join_all((0..100).map(one)).await;
}

async fn many_readers_see_the_same(env: Arc<Env>) {
    let lines = 20_000;
    let spec = sh(PATTERN_SCRIPT, &[&lines.to_string()]).with_replay(16 << 10, Overflow::Block);
    let command = env.spawn(spec).await;
    // All attach before any reads: with `Block` none may miss a byte.
    let mut streams: Vec<_> = (0..20).map(|_| command.stream(fleetcore::Offset(0))).collect();
    let seen = join_all(streams.iter_mut().map(Seen::rest)).await;
    let want = pattern(lines * 8);
    assert!(seen.iter().all(|s| s.bytes == want && s.gaps.is_empty()));
}
