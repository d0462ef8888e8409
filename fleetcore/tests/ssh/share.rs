//! Connections that many share.

use std::time::Duration;

use bytes::Bytes;
use fleetcore::{
    CommandSpec, ErrorKind, MachineState, Offset, OpContext, Overflow, WriteOptions, backends::ssh::SshConfig,
};
use fleetcore_testkit::{PATTERN_SCRIPT, pattern, read_until, sh};
use futures::{StreamExt as _, TryStreamExt as _, future::join_all, stream};

use crate::{fleet, host, machine, sshd};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_commands_at_once_share_few_connections() {
    let Some(sshd) = sshd("") else { return };
    let fleet = fleet(&SshConfig::default().with_host("box", host(&sshd)));
    let machine = fleet.machine("ssh/box").unwrap();
    let one = |n: usize| {
        let machine = machine.clone();
        async move {
            let out = machine
                .spawn(sh("echo $(($1 * 2))", &[&n.to_string()]))
                .await
                .unwrap()
                .output()
                .await
                .unwrap();
            assert_eq!(out.text(), format!("{}\n", n * 2));
        }
    };
    join_all((0..50).map(one)).await;
    // Fifty with eight to a connection; as root or with privilege separation sshd has up to two processes for each.
    let processes = sshd.connections().len();
    assert!((1..=14).contains(&processes), "{processes}");
    assert_eq!(
        fleet.machine("ssh/box").unwrap().info(&OpContext::default()).await.unwrap().state,
        MachineState::Running
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_allows_few_channels_gets_more_connections() {
    // Helper, files, and one command.
    let Some(sshd) = sshd("MaxSessions 3") else { return };
    let machine = machine(host(&sshd));
    let one = |n: usize| {
        let machine = machine.clone();
        async move {
            let running =
                machine.spawn(sh("read line; echo $1 $line", &[&n.to_string()]).with_stdin()).await.unwrap();
            running.write_stdin("go\n").await.unwrap();
            assert_eq!(running.output().await.unwrap().text(), format!("{n} go\n"));
        }
    };
    join_all((0..6).map(one)).await;
}

#[tokio::test]
async fn too_many_are_refused_and_may_try_again() {
    let Some(sshd) = sshd("") else { return };
    let machine = machine(host(&sshd).with_limits(2, 1));
    let sleep = || machine.spawn(sh("echo up; sleep 1000", &[]));
    let (a, b) = (sleep().await.unwrap(), sleep().await.unwrap());
    let error = sleep().await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RateLimited, "{error}");
    drop(a);
    // Once the first is gone there is room.
    loop {
        match machine.spawn(sh("echo up", &[])).await {
            Ok(next) => {
                assert_eq!(next.output().await.unwrap().text(), "up\n");
                break;
            }
            Err(e) => assert_eq!(e.kind(), ErrorKind::RateLimited, "{e}"),
        }
        tokio::task::yield_now().await;
    }
    drop(b);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stands_still_holds_up_nobody_else() {
    let Some(sshd) = sshd("") else { return };
    let machine = machine(host(&sshd));
    let lines = 1 << 20;
    let slow = sh(PATTERN_SCRIPT, &[&lines.to_string()]).with_replay(64 << 10, Overflow::Block);
    let slow = machine.spawn(slow).await.unwrap();
    let mut stream = slow.stream(Offset(0));
    let _first = stream.next().await;
    for _ in 0..20 {
        let out = machine.spawn(sh("echo quick", &[])).await.unwrap().output().await.unwrap();
        assert_eq!(out.text(), "quick\n");
    }
    // Held back: had it not been, 8 MiB would have come and been dropped, and the record would say how much.
    assert!(slow.output_end().0 < 4 << 20, "{:?}", slow.output_end());
    slow.cancel();
    slow.wait().await.unwrap();
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_opened_again() {
    let Some(sshd) = sshd("") else { return };
    let machine = machine(host(&sshd).with_idle_timeout(Duration::from_millis(50)));
    for _ in 0..2 {
        let out = machine.spawn(sh("echo x", &[])).await.unwrap().output().await.unwrap();
        assert_eq!(out.text(), "x\n");
        while !sshd.connections().is_empty() {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_megabytes_go_both_ways_over_sftp() {
    let Some(sshd) = sshd("") else { return };
    let files = machine(host(&sshd)).files().await.unwrap();
    let data = pattern(20 << 20);
    let path = sshd.dir().join("large").display().to_string();
    let pieces: Vec<_> = data.chunks(300_001).map(|p| Ok(Bytes::copy_from_slice(p))).collect();
    let written =
        files.write_stream(&path, WriteOptions::atomic(), stream::iter(pieces).boxed()).await.unwrap();
    assert_eq!(written.size, data.len() as u64);
    assert!(std::fs::read(&path).unwrap() == data);
    let back: Vec<Bytes> = files.read_stream(&path, 0, None).await.unwrap().try_collect().await.unwrap();
    assert!(back.concat() == data);
}

#[tokio::test]
async fn a_host_is_reached_over_another() {
    let (Some(gate), Some(inner)) = (sshd(""), sshd("")) else { return };
    let config = SshConfig::default()
        .with_host("gate", host(&gate))
        .with_host("inner", host(&inner).with_jump("gate"));
    let fleet = fleet(&config);
    let machine = fleet.machine("ssh/inner").unwrap();
    let out = machine.spawn(sh("echo \"$SSH_CONNECTION\"", &[])).await.unwrap().output().await.unwrap();
    assert!(out.text().trim_end().ends_with(&inner.port().to_string()), "{}", out.text());
    assert!(!gate.connections().is_empty(), "by way of the gate");
    // Input, and output that is waited for, take the same way.
    let cat = machine
        .spawn(CommandSpec::argv(["cat"]).with_stdin().with_replay(64 << 10, Overflow::Block))
        .await
        .unwrap();
    let mut stream = cat.stream(Offset(0));
    cat.write_stdin("over there\n").await.unwrap();
    read_until(&mut stream, "over there").await;
    drop(cat);
    // The gate's own trouble is told as such.
    let mut broken = host(&gate);
    broken.identity_files = vec![inner.key()];
    let config =
        SshConfig::default().with_host("gate", broken).with_host("inner", host(&inner).with_jump("gate"));
    let error =
        crate::fleet(&config).machine("ssh/inner").unwrap().ping(&OpContext::default()).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.context_value("through")),
        (ErrorKind::PermissionDenied, Some("gate")),
        "{error}"
    );
}

/// Why further connections are opened instead of waiting for room on the first: `cargo test … -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure_waiting_against_connecting() {
    let Some(sshd) = sshd("") else { return };
    for (what, script) in [("true", "true"), ("sleep 0.2", "sleep 0.2")] {
        for (how, at_once) in [("eight at a time on one connection", 8), ("fifty at once", 50)] {
            let machine = machine(host(&sshd));
            machine.ping(&OpContext::default()).await.unwrap();
            let started = std::time::Instant::now();
            let one = |_| {
                let machine = machine.clone();
                async move { machine.spawn(sh(script, &[])).await.unwrap().output().await.unwrap() }
            };
            let ends: Vec<_> = stream::iter(0..50).map(one).buffer_unordered(at_once).collect().await;
            assert!(ends.iter().all(|o| o.status.success()));
            println!("50 x {what}, {how}: {:?}", started.elapsed());
        }
    }
}
