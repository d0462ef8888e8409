//! What a command reads.

use std::sync::Arc;

use fleetcore::{CommandSpec, ErrorKind, ExitKind, Overflow};

use crate::{
    Env, Seen, must, pattern, refused, sh,
    suite::{Case, cases},
};

pub(super) fn all() -> Vec<Case<Env>> {
    cases![
        stdin_arrives_or_is_unsupported,
        much_input_comes_whole_and_is_not_hoarded,
        closing_ends_the_input,
        every_byte_goes_in_as_it_is,
        without_stdin_there_is_nothing_to_read,
        writing_where_nobody_can_read_is_refused,
        a_writer_that_is_stuck_stops_nobody,
        a_reader_that_leaves_is_told,
    ]
}

async fn stdin_arrives_or_is_unsupported(env: Arc<Env>) {
    let spec = CommandSpec::argv(["cat"]).with_stdin();
    if !env.can.stdin {
        return env.unsupported(spec).await;
    }
    let command = env.spawn(spec).await;
    must(command.write_stdin("hello ").await);
    must(command.write_stdin("world\n").await);
    command.close_stdin().await;
    assert_eq!(must(must(command.output().await).check()).text(), "hello world\n");
}

async fn much_input_comes_whole_and_is_not_hoarded(env: Arc<Env>) {
    if !env.can.stdin {
        return;
    }
    let data = pattern(8 << 20);
    let spec = CommandSpec::argv(["cat"]).with_stdin().with_replay(64 << 10, Overflow::Block);
    let command = env.spawn(spec).await;
    let write = async {
        for piece in data.chunks(100_000) {
            must(command.write_stdin(bytes::Bytes::copy_from_slice(piece)).await);
        }
        command.close_stdin().await;
    };
    let (seen, ()) = futures::join!(Seen::all(&command, 0), write);
    assert!(seen.bytes == data, "{} of {} bytes, or others", seen.bytes.len(), data.len());
    assert!(seen.status().success());
}

async fn closing_ends_the_input(env: Arc<Env>) {
    if !env.can.stdin {
        return;
    }
    let command = env.spawn(sh("cat; echo end", &[]).with_stdin()).await;
    command.close_stdin().await;
    command.close_stdin().await;
    refused(command.write_stdin("x").await, ErrorKind::InvalidState);
    assert_eq!(must(command.output().await).text(), "end\n");
}

async fn every_byte_goes_in_as_it_is(env: Arc<Env>) {
    if !env.can.stdin {
        return;
    }
    let command = env.spawn(CommandSpec::argv(["cat"]).with_stdin()).await;
    let data: Vec<u8> = (0..=255).collect();
    must(command.write_stdin(data.clone()).await);
    command.close_stdin().await;
    assert_eq!(must(command.output().await).stdout, data);
}

async fn without_stdin_there_is_nothing_to_read(env: Arc<Env>) {
    assert_eq!(env.sh("cat; echo end", &[]).await, "end\n");
}

async fn writing_where_nobody_can_read_is_refused(env: Arc<Env>) {
    let command = env.spawn(sh("sleep 1000", &[])).await;
    refused(command.write_stdin("x").await, ErrorKind::InvalidState);
    drop(command);
    if env.can.stdin {
        let command = env.spawn(CommandSpec::argv(["true"]).with_stdin()).await;
        must(command.wait().await);
        refused(command.write_stdin("x").await, ErrorKind::InvalidState);
        command.close_stdin().await;
    }
}

async fn a_writer_that_is_stuck_stops_nobody(env: Arc<Env>) {
    if !env.can.stdin {
        return;
    }
    let command = env.spawn(sh("echo ready; sleep 1000", &[]).with_stdin()).await;
    crate::read_until(&mut command.stream(fleetcore::Offset(0)), "ready").await;
    // More than any pipe holds, and nobody reads it.
    let stuck = command.write_stdin(pattern(8 << 20));
    let cancel = async {
        command.cancel();
        must(command.wait().await)
    };
    let (written, status) = futures::join!(stuck, cancel);
    refused(written, ErrorKind::InvalidState);
    assert!(matches!(status.kind, ExitKind::Signal(_)), "{status:?}");
}

async fn a_reader_that_leaves_is_told(env: Arc<Env>) {
    if !env.can.stdin || !env.tells_closed_input {
        return;
    }
    let command = env.spawn(sh("exec <&-; echo closed; sleep 1000", &[]).with_stdin()).await;
    crate::read_until(&mut command.stream(fleetcore::Offset(0)), "closed").await;
    refused(command.write_stdin(pattern(8 << 20)).await, ErrorKind::InvalidState);
    assert!(command.record().exit.is_none(), "the command itself goes on");
}
