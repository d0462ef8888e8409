//! Connections that break, and what is left on the machine then.

use fleetcore::{CommandState, ExitKind, Offset, OpContext};
use fleetcore_testkit::{Env, Seen, read_until, sh, sshd::Sshd};

use crate::{fleet, host, sshd};

use fleetcore::backends::ssh::SshConfig;

/// Two hosts that are the same sshd, so that each has its own connection.
async fn env(sshd: &Sshd) -> Env {
    let config = SshConfig::default().with_host("box", host(sshd)).with_host("other", host(sshd));
    Env::new(fleet(&config), "ssh/box").await.unwrap()
}

const TREE: &str = r#"exec 3>"$1"; (trap '' TERM HUP INT; while :; do sleep 1000; done) & echo up; wait"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_cut_in_the_middle_of_output_loses_its_commands_only() {
    let Some(sshd) = sshd("") else { return };
    let env = env(&sshd).await;
    let other = env.fleet.machine("ssh/other").unwrap();
    let before = sshd.connections();
    let elsewhere = other.spawn(sh("echo up; read line; echo \"$line\"", &[]).with_stdin()).await.unwrap();
    read_until(&mut elsewhere.stream(Offset(0)), "up").await;
    // Everything that was there before the other host was connected to.
    let watch = other_watch(&env, &other).await;
    let noisy =
        env.spawn(sh(&format!("{} while echo noise; do :; done", "exec 3>\"$1\";"), &[&watch.0])).await;
    read_until(&mut noisy.stream(Offset(0)), "noise").await;
    Sshd::cut(&before).unwrap();
    let seen = Seen::all(&noisy, 0).await;
    assert_eq!((seen.status().kind, noisy.record().state), (ExitKind::Unknown, CommandState::Lost));
    // Nothing of it is left on the machine.
    watch.1.output().await.unwrap().check().unwrap();
    // The other connection knows nothing of it, and the cut one is made anew.
    elsewhere.write_stdin("still here\n").await.unwrap();
    assert_eq!(elsewhere.output().await.unwrap().text(), "up\nstill here\n");
    assert_eq!(env.sh("echo again", &[]).await, "again\n");
    env.machine.ping(&OpContext::default()).await.unwrap();
    env.close().await.unwrap();
}

/// A FIFO read from the other host; its reader ends when nobody holds it open for writing any more.
async fn other_watch(env: &Env, other: &fleetcore::Machine) -> (String, fleetcore::RunningCommand) {
    let path = env.path("fifo");
    env.sh("mkfifo \"$1\"", &[&path]).await;
    let cat = other.spawn(sh("exec cat \"$1\"", &[&path])).await.unwrap();
    (path, cat)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_ends_when_our_side_vanishes() {
    let Some(sshd) = sshd("") else { return };
    let watcher = env(&sshd).await;
    let watch = watcher.watch_tree().await;
    let path = watch.path.clone();
    let config = SshConfig::default().with_host("box", host(&sshd));
    // A runtime of its own that goes away with everything in it, as a process does that is killed.
    let gone = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let machine = fleet(&config).machine("ssh/box").unwrap();
            let command = machine.spawn(sh(TREE, &[&path])).await.unwrap();
            read_until(&mut command.stream(Offset(0)), "up").await;
            std::mem::forget(command);
        });
        runtime.shutdown_background();
    });
    gone.await.unwrap();
    watch.gone().await;
    watcher.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_start_leaves_nothing() {
    let Some(sshd) = sshd("") else { return };
    let env = env(&sshd).await;
    let watch = env.watch_tree().await;
    // Holding the FIFO open keeps the reader from waiting for a first writer.
    let holder = env.spawn(sh("exec 3>\"$1\"; echo up; read line", &[&watch.path]).with_stdin()).await;
    read_until(&mut holder.stream(Offset(0)), "up").await;
    for polls in 1..60 {
        let mut start = Box::pin(env.machine.spawn(sh(TREE, &[&watch.path])));
        for _ in 0..polls {
            if futures::poll!(&mut start).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(start);
    }
    holder.close_stdin().await;
    watch.gone().await;
    env.close().await.unwrap();
}
