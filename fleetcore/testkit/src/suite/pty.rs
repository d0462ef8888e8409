//! What every machine with terminals promises.

use std::{sync::Arc, time::Duration};

use fleetcore::{Channel, CommandSpec, ErrorKind, ExitKind, Offset, Overflow, PtySize, RunningCommand};

use super::{Case, cases};
use crate::{Env, PATTERN_SCRIPT, Seen, must, names_the_field, pattern, read_until, refused, sh};

/// All cases.
pub fn all() -> Vec<Case<Env>> {
    cases![
        pty_runs_on_a_terminal_or_is_unsupported,
        the_size_is_set_and_changes,
        a_change_of_size_is_signalled,
        what_is_typed_is_echoed,
        ctrl_c_interrupts_the_foreground,
        ctrl_d_ends_the_input,
        the_tail_is_complete,
        all_job_groups_end_with_the_owner,
        a_program_that_ignores_hangup_ends,
        a_resize_needs_a_terminal_and_a_size,
        much_typing_and_much_output_pass_each_other,
    ]
}

const SIZE: PtySize = PtySize { cols: 80, rows: 24 };
const SHORT: Duration = Duration::from_millis(100);

async fn ready(env: &Env, spec: CommandSpec, word: &str) -> RunningCommand {
    let command = env.spawn(spec.with_pty(SIZE)).await;
    read_until(&mut command.stream(Offset(0)), word).await;
    command
}

async fn pty_runs_on_a_terminal_or_is_unsupported(env: Arc<Env>) {
    let spec = sh("test -t 0 && test -t 1 && test -t 2 && echo terminal; echo err >&2", &[]).with_pty(SIZE);
    if !env.can.pty {
        return env.unsupported(spec).await;
    }
    let seen = env.seen(spec).await;
    assert_eq!(seen.text(), "terminal\r\nerr\r\n");
    assert_eq!(
        seen.channel(Channel::Pty).len(),
        seen.bytes.len(),
        "all of it comes on the terminal's channel"
    );
    assert!(seen.status().success() && !seen.status().leaked);
}

async fn the_size_is_set_and_changes(env: Arc<Env>) {
    if !env.can.pty {
        return;
    }
    let spec = sh("stty size; read go; stty size", &[]).with_pty(PtySize { cols: 101, rows: 37 });
    let command = env.spawn(spec).await;
    let mut stream = command.stream(Offset(0));
    read_until(&mut stream, "37 101").await;
    must(command.resize(PtySize { cols: 133, rows: 50 }).await);
    must(command.write_stdin("\n").await);
    read_until(&mut stream, "50 133").await;
    assert!(must(command.wait().await).success());
}

async fn a_change_of_size_is_signalled(env: Arc<Env>) {
    if !env.can.pty {
        return;
    }
    let script = "trap 'stty size; kill $!; exit 6' WINCH; sleep 1000 & echo ready; wait";
    let command = ready(&env, sh(script, &[]), "ready").await;
    must(command.resize(PtySize { cols: 42, rows: 17 }).await);
    let seen = Seen::all(&command, 0).await;
    assert!(seen.text().contains("17 42"), "{:?}", seen.text());
    assert_eq!(seen.status().kind, ExitKind::Code(6));
}

async fn what_is_typed_is_echoed(env: Arc<Env>) {
    if !env.can.pty {
        return;
    }
    let command = env.spawn(CommandSpec::argv(["cat"]).with_pty(SIZE)).await;
    must(command.write_stdin("héllo\r").await);
    let mut stream = command.stream(Offset(0));
    let seen = read_until(&mut stream, "héllo\r\nhéllo\r\n").await;
    assert_eq!(seen, "héllo\r\nhéllo\r\n");
    must(command.write_stdin("\x04").await);
    assert!(must(command.wait().await).success());
}

async fn ctrl_c_interrupts_the_foreground(env: Arc<Env>) {
    if !env.can.pty {
        return;
    }
    // The child says that it is there: a shell that is interrupted just before it forks waits for the child first.
    let script = "trap 'exit 4' INT; sh -c 'echo ready; exec sleep 1000'";
    let command = ready(&env, sh(script, &[]), "ready").await;
    must(command.write_stdin("\x03").await);
    let status = must(command.wait().await);
    assert_eq!((status.kind, status.reason), (ExitKind::Code(4), None));
}

async fn ctrl_d_ends_the_input(env: Arc<Env>) {
    if !env.can.pty {
        return;
    }
    let typed = ready(&env, sh("echo ready; cat; echo end", &[]), "ready").await;
    must(typed.write_stdin("\x04").await);
    let closed = ready(&env, sh("echo ready; cat; echo end", &[]), "ready").await;
    closed.close_stdin().await;
    for command in [typed, closed] {
        let seen = Seen::all(&command, 0).await;
        assert!(seen.text().ends_with("end\r\n"), "{:?}", seen.text());
        assert!(seen.status().success());
    }
}

async fn the_tail_is_complete(env: Arc<Env>) {
    if !env.can.pty {
        return;
    }
    let lines = 30_000;
    let want = String::from_utf8_lossy(&pattern(lines * 8)).replace('\n', "\r\n");
    for _ in 0..5 {
        let spec =
            sh(PATTERN_SCRIPT, &[&lines.to_string()]).with_pty(SIZE).with_replay(32 << 10, Overflow::Block);
        let seen = env.seen(spec).await;
        assert!(seen.text() == want, "{} of {} bytes", seen.bytes.len(), want.len());
    }
}

async fn all_job_groups_end_with_the_owner(env: Arc<Env>) {
    if !env.can.pty {
        return;
    }
    let watch = env.watch_tree().await;
    // `set -m` is job control: each of these gets a process group of its own.
    let script = "set -m; exec 3>\"$1\"; sleep 1000 & nohup sleep 1000 >&3 2>&1 & \
                  sh -c 'trap \"\" TERM HUP; echo \"u\"p; sleep 1000' & wait";
    let command = ready(&env, sh(script, &[&watch.path]).with_grace(SHORT), "up").await;
    let handle = command.handle();
    drop(command);
    must(handle.wait().await);
    watch.gone().await;
}

async fn a_program_that_ignores_hangup_ends(env: Arc<Env>) {
    if !env.can.pty {
        return;
    }
    let script = "trap '' TERM HUP INT QUIT; echo ready; while :; do sleep 1000; done";
    let command = ready(&env, sh(script, &[]).with_grace(SHORT), "ready").await;
    command.cancel();
    assert_eq!(must(command.wait().await).kind, ExitKind::Signal(9));
}

async fn a_resize_needs_a_terminal_and_a_size(env: Arc<Env>) {
    let command = env.spawn(sh("sleep 1000", &[])).await;
    refused(command.resize(SIZE).await, ErrorKind::InvalidState);
    drop(command);
    if env.can.pty {
        let command = env.spawn(sh("sleep 1000", &[]).with_pty(SIZE)).await;
        let error = refused(command.resize(PtySize { cols: 0, rows: 1 }).await, ErrorKind::InvalidInput);
        names_the_field(&error, &["size", "cols", "rows"]);
    }
}

async fn much_typing_and_much_output_pass_each_other(env: Arc<Env>) {
    if !env.can.pty {
        return;
    }
    // Raw, without echo: every byte goes through unchanged, in both directions at once.
    let script = "stty raw -echo; echo ready; exec head -c \"$1\"";
    let data = pattern(1 << 20);
    let spec = sh(script, &[&data.len().to_string()]).with_replay(64 << 10, Overflow::Block);
    let command = env.spawn(spec.with_pty(SIZE)).await;
    let mut stream = command.stream(Offset(0));
    let before = read_until(&mut stream, "ready\n").await;
    let (seen, written) = futures::join!(Seen::rest(&mut stream), command.write_stdin(data.clone()));
    must(written);
    let came = [before.as_bytes(), &seen.bytes].concat();
    assert!(came.ends_with(&data), "{} of {} bytes", seen.bytes.len(), data.len());
}
