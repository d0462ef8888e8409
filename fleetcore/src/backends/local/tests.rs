//! Processes and terminals of this host, as a supervisor uses them.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{CgroupMode, Local, LocalConfig};
use crate::{
    Channel, CommandId, CommandSpec, Error, ErrorKind, ExitKind, Io, PtySize, Result, Signal,
    raw::{Executor, OpContext, RawProcess},
};

/// Only a test that hangs runs into it.
const LIMIT: Duration = Duration::from_secs(60);

async fn spawn(spec: CommandSpec) -> RawProcess {
    try_spawn(spec).await.unwrap()
}

async fn try_spawn(spec: CommandSpec) -> Result<RawProcess> {
    let local = Local::new(LocalConfig::default().with_home("/"));
    local.spawn(&OpContext::default(), CommandId::generate(), &spec).await
}

async fn refused(spec: CommandSpec) -> Error {
    try_spawn(spec).await.map(drop).unwrap_err()
}

/// Collects all output and the end.
async fn finish(mut p: RawProcess) -> (BTreeMap<String, Vec<u8>>, ExitKind) {
    let mut out: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let work = async {
        while let Some(chunk) = p.output.next().await {
            let (channel, data) = chunk.unwrap();
            out.entry(format!("{channel:?}")).or_default().extend_from_slice(&data);
        }
        (&mut p.exit).await.unwrap()
    };
    let exit = tokio::time::timeout(LIMIT, work).await.expect("the command hangs");
    (out, exit)
}

async fn text(spec: CommandSpec) -> String {
    let (out, exit) = finish(spawn(spec).await).await;
    assert_eq!(exit, ExitKind::Code(0), "{out:?}");
    out.values().map(|v| String::from_utf8_lossy(v).into_owned()).collect()
}

/// Reads until `wanted` has been printed, and returns everything read so far.
async fn until(p: &mut RawProcess, wanted: &str) -> String {
    let mut seen = Vec::new();
    let work = async {
        loop {
            let text = String::from_utf8_lossy(&seen).into_owned();
            if text.contains(wanted) {
                return text;
            }
            match p.output.next().await {
                Some(Ok((_, data))) => seen.extend_from_slice(&data),
                other => panic!("{other:?} before {wanted:?}, seen {text:?}"),
            }
        }
    };
    tokio::time::timeout(LIMIT, work).await.expect("never printed")
}

/// Reads whole lines that start with `key=` and returns the number after it.
async fn number(p: &mut RawProcess, key: &str) -> i32 {
    let seen = until_line(p, key).await;
    seen.trim().parse().unwrap_or_else(|_| panic!("{seen:?}"))
}

async fn until_line(p: &mut RawProcess, key: &str) -> String {
    let mut seen = String::new();
    loop {
        if let Some((_, rest)) = seen.split_once(&format!("{key}="))
            && let Some((line, _)) = rest.split_once('\n')
        {
            return line.to_owned();
        }
        let (_, data) = p.output.next().await.expect("output ended").unwrap();
        seen.push_str(&String::from_utf8_lossy(&data));
    }
}

/// Resolves when the process is gone or a zombie.
async fn dead(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let work = tokio::task::spawn_blocking(move || {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let Ok(fd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else {
            return true;
        };
        let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)).unwrap() == 1
    });
    assert!(work.await.unwrap(), "process {pid:?} lives");
}

fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Waits until `pid` is reaped.
async fn gone(pid: i32) {
    let gone = tokio::task::spawn_blocking(move || {
        while std::path::Path::new(&format!("/proc/{pid}")).exists() {
            std::thread::yield_now();
        }
    });
    tokio::time::timeout(LIMIT, gone).await.unwrap().unwrap();
}

fn merged() -> Io {
    Io::Pipes { stdin: false, merge: true }
}

// ---- output

#[tokio::test]
async fn output_is_split_and_the_code_arrives() {
    let (out, exit) = finish(spawn(CommandSpec::shell("echo out; echo err >&2; exit 3")).await).await;
    assert_eq!((&out["Stdout"][..], &out["Stderr"][..]), (&b"out\n"[..], &b"err\n"[..]));
    assert_eq!(exit, ExitKind::Code(3));
}

#[tokio::test]
async fn merged_output_keeps_the_order_the_program_wrote_in() {
    let script = "i=0; while [ $i -lt 500 ]; do echo o$i; echo e$i >&2; i=$((i+1)); done";
    let (out, _) = finish(spawn(CommandSpec::shell(script).with_io(merged())).await).await;
    let wanted: String = (0..500).map(|i| format!("o{i}\ne{i}\n")).collect();
    assert_eq!(String::from_utf8_lossy(&out["Stdout"]), wanted);
    assert_eq!(out.len(), 1);
}

#[tokio::test]
async fn bulk_output_is_complete_and_neither_channel_starves() {
    let script = "head -c 20000000 /dev/zero & head -c 20000000 /dev/zero >&2; wait";
    let (out, exit) = finish(spawn(CommandSpec::shell(script)).await).await;
    assert_eq!((out["Stdout"].len(), out["Stderr"].len(), exit), (20_000_000, 20_000_000, ExitKind::Code(0)));
}

#[tokio::test]
async fn every_byte_value_passes_unchanged() {
    let script = r#"i=0; while [ $i -lt 256 ]; do printf "\\$(printf %03o $i)"; i=$((i+1)); done"#;
    let (out, _) = finish(spawn(CommandSpec::shell(script)).await).await;
    assert_eq!(out["Stdout"], (0..=255).collect::<Vec<u8>>());
}

#[tokio::test]
async fn output_may_end_long_before_the_process() {
    let mut p = spawn(CommandSpec::shell("exec >&- 2>&-; read x; exit 7").with_stdin()).await;
    assert!(p.output.next().await.is_none());
    p.stdin.as_mut().unwrap().write_all(b"go\n").await.unwrap();
    assert_eq!((&mut p.exit).await.unwrap(), ExitKind::Code(7));
}

#[tokio::test]
async fn a_signal_is_told_from_a_code() {
    let (_, exit) = finish(spawn(CommandSpec::shell("kill -TERM $$")).await).await;
    assert_eq!(exit, ExitKind::Signal(15));
}

// ---- input

#[tokio::test]
async fn stdin_is_empty_unless_asked_for() {
    assert_eq!(text(CommandSpec::argv(["cat"])).await, "");
}

#[tokio::test]
async fn a_slow_reader_gets_every_byte_of_a_large_input() {
    const SIZE: usize = 64 << 20;
    let mut p = spawn(CommandSpec::shell("head -c 1000 >/dev/null; cat | wc -c").with_stdin()).await;
    let mut stdin = p.stdin.take().unwrap();
    let writer = tokio::spawn(async move {
        let block = vec![b'x'; 1 << 20];
        for _ in 0..SIZE >> 20 {
            stdin.write_all(&block).await.unwrap();
        }
        stdin.shutdown().await.unwrap();
        stdin.write_all(b"late").await.unwrap_err().kind()
    });
    let (out, _) = finish(p).await;
    assert_eq!(writer.await.unwrap(), std::io::ErrorKind::BrokenPipe);
    // `head` may read ahead into its buffer, but never more than that.
    let got: usize = String::from_utf8_lossy(&out["Stdout"]).trim().parse().unwrap();
    assert!((SIZE - (64 << 10)..=SIZE - 1000).contains(&got), "{got}");
}

#[tokio::test]
async fn writing_to_a_program_that_does_not_read_fails_instead_of_killing_us() {
    let mut p = spawn(CommandSpec::argv(["true"]).with_stdin()).await;
    (&mut p.exit).await.unwrap();
    let err = p.stdin.as_mut().unwrap().write_all(&vec![0; 1 << 20]).await.unwrap_err();
    assert_eq!(err.kind(), std::io::ErrorKind::BrokenPipe);
}

// ---- terminal

#[tokio::test]
async fn the_last_bytes_of_a_terminal_are_never_lost() {
    let wanted: String = (1..=200_000).map(|i| format!("{i}\r\n")).collect();
    for round in 0..30 {
        let p = spawn(CommandSpec::argv(["seq", "1", "200000"]).with_pty(PtySize::default())).await;
        let (out, exit) = finish(p).await;
        assert_eq!(exit, ExitKind::Code(0));
        assert!(out["Pty"] == wanted.as_bytes(), "round {round}: {} of {}", out["Pty"].len(), wanted.len());
    }
}

#[tokio::test]
async fn a_terminal_echoes_has_a_size_and_tells_of_changes() {
    let script = "trap 'echo size=$(stty size); echo' WINCH; echo size=$(stty size); echo term=$TERM; \
                  while :; do read line && echo got=$line; done";
    let mut p = spawn(CommandSpec::shell(script).with_pty(PtySize { cols: 100, rows: 30 })).await;
    until(&mut p, "term=xterm-256color\r\n").await;
    p.stdin.as_mut().unwrap().write_all(b"hello\n").await.unwrap();
    let seen = until(&mut p, "got=hello\r\n").await;
    assert!(seen.starts_with("hello\r\n"), "echo: {seen:?}");
    p.control.resize(PtySize { cols: 133, rows: 44 }).await.unwrap();
    // The shell runs the trap once `read` returns.
    p.stdin.as_mut().unwrap().write_all(b"\n").await.unwrap();
    until(&mut p, "size=44 133\r\n").await;
}

#[tokio::test]
async fn end_of_input_can_be_typed_at_the_start_and_in_the_middle_of_a_line() {
    for input in ["", "one\n", "one\ntwo"] {
        let mut p = spawn(
            CommandSpec::shell("stty -echo; echo ready; cat; echo; echo end").with_pty(PtySize::default()),
        )
        .await;
        until(&mut p, "ready\r\n").await;
        let stdin = p.stdin.as_mut().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        stdin.shutdown().await.unwrap();
        let seen = until(&mut p, "end\r\n").await;
        assert_eq!(seen, format!("{}\r\nend\r\n", input.replace('\n', "\r\n")));
    }
}

#[tokio::test]
async fn bulk_input_to_a_terminal_arrives_whole() {
    let script = "stty raw -echo; echo ready; head -c 1000000 | cksum";
    let mut p = spawn(CommandSpec::shell(script).with_pty(PtySize::default())).await;
    until(&mut p, "ready").await;
    let data: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
    let mut stdin = p.stdin.take().unwrap();
    let expected = {
        let mut c = spawn(CommandSpec::argv(["cksum"]).with_stdin()).await;
        let mut stdin = c.stdin.take().unwrap();
        let data = data.clone();
        let feed = tokio::spawn(async move { stdin.write_all(&data).await });
        let (out, _) = finish(c).await;
        feed.await.unwrap().unwrap();
        String::from_utf8(out["Stdout"].clone()).unwrap()
    };
    let feed = tokio::spawn(async move {
        stdin.write_all(&data).await.unwrap();
        stdin // typing must not end before the program does
    });
    until(&mut p, expected.trim()).await;
    drop(feed.await.unwrap());
}

#[tokio::test]
async fn resizing_without_a_terminal_or_to_nothing_is_an_error() {
    let p = spawn(CommandSpec::argv(["true"])).await;
    assert_eq!(p.control.resize(PtySize::default()).await.unwrap_err().kind(), ErrorKind::InvalidState);
    let none = PtySize { cols: 0, rows: 1 };
    assert_eq!(p.control.resize(none).await.unwrap_err().context_value("field"), Some("cols"));
    assert_eq!(refused(CommandSpec::argv(["true"]).with_pty(none)).await.kind(), ErrorKind::InvalidInput);
}

// ---- environment

#[tokio::test]
async fn variables_directory_and_an_empty_environment() {
    assert_eq!(
        text(CommandSpec::shell("echo $A; pwd").with_env("A", "b c").with_cwd("/tmp")).await,
        "b c\n/tmp\n"
    );
    let spec = CommandSpec::argv(["/usr/bin/env"]).with_clear_env().with_env("ONLY", "1");
    let all = text(spec).await;
    let names: Vec<_> = all.lines().filter_map(|l| l.split_once('=')).map(|(n, _)| n).collect();
    assert_eq!(names, ["FLEETCORE_COMMAND_ID", "ONLY"], "{all}");
    let dir = tempfile::tempdir().unwrap();
    let local = Local::new(LocalConfig::default().with_home(dir.path()));
    let p =
        local.spawn(&OpContext::default(), CommandId::generate(), &CommandSpec::argv(["pwd", "-P"])).await;
    let (out, _) = finish(p.unwrap()).await;
    let home = dir.path().canonicalize().unwrap();
    assert_eq!(String::from_utf8_lossy(&out["Stdout"]).trim(), home.to_str().unwrap());
}

#[tokio::test]
async fn another_user_is_taken_on_completely() {
    if !rustix::process::geteuid().is_root() {
        return; // only root can
    }
    for io in [merged(), Io::Pty(PtySize::default())] {
        let script = "id -un; id -G; echo $USER $LOGNAME $HOME; pwd; [ -t 0 ] && : </dev/tty && echo tty";
        let (out, _) = finish(spawn(CommandSpec::shell(script).with_user("daemon").with_io(io)).await).await;
        let seen: String = out.values().map(|v| String::from_utf8_lossy(v).replace('\r', "")).collect();
        let mut lines = seen.lines();
        assert_eq!(lines.next(), Some("daemon"), "{seen}");
        assert!(!lines.next().unwrap().split(' ').any(|g| g == "0"), "groups of root are gone: {seen}");
        assert!(lines.next().unwrap().starts_with("daemon daemon /"), "{seen}");
        assert_eq!(seen.ends_with("tty\n"), io != merged(), "{seen}");
    }
    let err = refused(CommandSpec::argv(["true"]).with_user("no-such-user-here")).await;
    assert_eq!((err.kind(), err.context_value("field")), (ErrorKind::NotFound, Some("user")));
    let strict = Local::new(LocalConfig::default().with_user_switch(false));
    assert!(!strict.capabilities().run_as_user);
    let spec = CommandSpec::argv(["true"]).with_user("daemon");
    let err = strict.spawn(&OpContext::default(), CommandId::generate(), &spec).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::PermissionDenied);
}

// ---- bad input

#[tokio::test]
async fn what_cannot_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("plain");
    std::fs::write(&plain, "no program").unwrap();
    let script = dir.path().join("script");
    std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    for file in [&plain, &script] {
        std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "").unwrap();
    let path = |p: &std::path::Path| p.to_str().unwrap().to_owned();

    for io in [Io::default(), Io::Pty(PtySize::default())] {
        let fails = |spec: CommandSpec| refused(spec.with_io(io));
        let err = fails(CommandSpec::argv(["no-such-program"])).await;
        assert_eq!(
            (err.kind(), err.context_value("program")),
            (ErrorKind::NotFound, Some("no-such-program"))
        );
        let err = fails(CommandSpec::argv(["true"]).with_cwd("/no/such/dir")).await;
        assert_eq!((err.kind(), err.context_value("cwd")), (ErrorKind::NotFound, Some("/no/such/dir")));
        let err = fails(CommandSpec::argv(["true"]).with_cwd(path(&plain))).await;
        assert_eq!((err.kind(), err.context_value("field")), (ErrorKind::InvalidState, Some("cwd")));
        let err = fails(CommandSpec::argv([path(&secret)])).await;
        assert_eq!(err.kind(), ErrorKind::PermissionDenied, "{err}");
        let err = fails(CommandSpec::argv([path(&script)])).await;
        assert!(err.kind() == ErrorKind::NotFound && err.message().contains("interpreter"), "{err}");
        let err = fails(CommandSpec::argv(["true".to_owned(), "x".repeat(40 << 20)])).await;
        assert_eq!((err.kind(), err.context_value("field")), (ErrorKind::InvalidInput, Some("argv")));
    }
    // On a terminal, and where signals must be reset first (under nohup), the C library hands such a file to the shell
    // instead.
    if !super::user::ignored_signals() {
        let err = refused(CommandSpec::argv([path(&plain)])).await;
        assert_eq!(err.kind(), ErrorKind::InvalidInput, "{err}");
    }
}

#[tokio::test]
async fn bad_input_names_the_field_and_starts_nothing() {
    let cases = [
        (CommandSpec::argv::<String>([]), "argv"),
        (CommandSpec::argv([""]), "argv"),
        (CommandSpec::argv(["true", "a\0b"]), "argv"),
        (CommandSpec::shell("a\0b"), "shell"),
        (CommandSpec::argv(["true"]).with_env("", "x"), "env"),
        (CommandSpec::argv(["true"]).with_env("A=B", "x"), "env"),
        (CommandSpec::argv(["true"]).with_env("A", "x\0"), "env"),
        (CommandSpec::argv(["true"]).with_cwd("/\0"), "cwd"),
        (CommandSpec::argv(["true"]).with_user("a\0"), "user"),
    ];
    for (spec, field) in cases {
        let err = refused(spec).await;
        assert_eq!((err.kind(), err.context_value("field")), (ErrorKind::InvalidInput, Some(field)), "{err}");
        assert!(err.context_value("rule").is_some());
    }
    let secret = refused(CommandSpec::argv(["true"]).with_env("A", "hunter2\0")).await;
    assert!(!format!("{secret:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_caller_who_is_gone_starts_nothing() {
    let cx = OpContext::default();
    cx.cancel.cancel();
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("mark");
    let spec = CommandSpec::argv(["touch", mark.to_str().unwrap()]);
    let err = Local::default().spawn(&cx, CommandId::generate(), &spec).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Cancelled);
    let late = OpContext::default().with_timeout(Duration::ZERO);
    let err = Local::default().spawn(&late, CommandId::generate(), &spec).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Timeout);
    assert!(!mark.exists());
}

// ---- signals and death

#[tokio::test]
async fn a_signal_reaches_the_whole_group_and_a_finished_tree_is_no_error() {
    let mut p = spawn(CommandSpec::shell("sleep 1000 & echo pid=$!; wait")).await;
    let sleeper = number(&mut p, "pid").await;
    p.control.signal(Signal::Terminate).await.unwrap();
    assert_eq!((&mut p.exit).await.unwrap(), ExitKind::Signal(15));
    dead(sleeper).await;
    for signal in [Signal::Terminate, Signal::Kill, Signal::Continue] {
        p.control.signal(signal).await.unwrap();
    }
}

#[tokio::test]
async fn stop_and_continue() {
    let mut p = spawn(
        CommandSpec::shell("trap 'echo usr; exit 4' USR1; echo ready; while :; do read x; done").with_stdin(),
    )
    .await;
    until(&mut p, "ready").await;
    p.control.signal(Signal::Stop).await.unwrap();
    p.control.signal(Signal::User1).await.unwrap();
    p.control.signal(Signal::Continue).await.unwrap();
    until(&mut p, "usr").await;
    assert_eq!((&mut p.exit).await.unwrap(), ExitKind::Code(4));
}

#[tokio::test]
async fn a_program_that_ignores_every_signal_is_killed() {
    let mut p = spawn(CommandSpec::shell(
        "trap '' TERM HUP INT QUIT USR1 USR2; echo ready; while :; do sleep 1000; done",
    ))
    .await;
    until(&mut p, "ready").await;
    p.control.signal(Signal::Terminate).await.unwrap();
    p.control.signal(Signal::Kill).await.unwrap();
    assert_eq!((&mut p.exit).await.unwrap(), ExitKind::Signal(9));
}

/// Starts a daemon that left group and session, twice removed from its parent.
const DAEMON: &str =
    "setsid sh -c 'sh -c \"echo pid=\\$\\$; exec sleep 1000\" &' & wait; echo left=1; sleep 1000";

#[tokio::test]
async fn kill_finds_a_daemon_that_left_group_and_session() {
    for io in [merged(), Io::Pty(PtySize::default())] {
        let mut p = spawn(CommandSpec::shell(DAEMON).with_io(io)).await;
        let daemon = number(&mut p, "pid").await;
        assert!(alive(daemon));
        p.control.signal(Signal::Kill).await.unwrap();
        assert!(!alive(daemon), "signal returns when it is done");
        assert_eq!((&mut p.exit).await.unwrap(), ExitKind::Signal(9));
    }
}

#[tokio::test]
async fn a_control_group_catches_even_who_wipes_its_environment() {
    let Some(parent) = super::cgroup::own_dir() else { return };
    let probe = parent.join(format!("fleetcore-test-{}", std::process::id()));
    if std::fs::create_dir(&probe).is_err() || !probe.join("cgroup.kill").exists() {
        let _ = std::fs::remove_dir(&probe);
        return; // not allowed here, or an old kernel
    }
    let script = "env -i setsid sh -c 'echo pid=$$; exec sleep 1000' & wait";
    for (mode, io) in
        [(CgroupMode::Path(probe.clone()), merged()), (CgroupMode::Auto, Io::Pty(PtySize::default()))]
    {
        let local = Local::new(LocalConfig::default().with_cgroup(mode));
        let id = CommandId::generate();
        let spec = CommandSpec::shell(script).with_io(io);
        let mut p = local.spawn(&OpContext::default(), id, &spec).await.unwrap();
        let daemon = number(&mut p, "pid").await;
        let at = std::fs::read_to_string(format!("/proc/{daemon}/cgroup")).unwrap();
        assert!(at.contains(&id.to_string()), "{at}");
        p.control.signal(Signal::Kill).await.unwrap();
        assert!(!alive(daemon));
        drop(p);
        for dir in [&probe, &parent] {
            assert!(!dir.join(format!("fleetcore-{id}")).exists(), "removed again");
        }
    }
    std::fs::remove_dir(probe).unwrap();
    // One that cannot be made does not keep a command from running.
    let local = Local::new(LocalConfig::default().with_cgroup(CgroupMode::Path("/no/such/place".into())));
    let p = local.spawn(&OpContext::default(), CommandId::generate(), &CommandSpec::argv(["true"])).await;
    assert_eq!(finish(p.unwrap()).await.1, ExitKind::Code(0));
}

#[tokio::test]
async fn dropping_kills_the_tree() {
    for io in [merged(), Io::Pty(PtySize::default())] {
        let mut p = spawn(CommandSpec::shell(DAEMON).with_io(io)).await;
        let daemon = number(&mut p, "pid").await;
        let leader = p.pid.unwrap().cast_signed();
        drop(p);
        // Killed before the drop returned; dying takes as long as the machine is busy.
        dead(daemon).await;
        gone(leader).await;
    }
}

#[tokio::test]
async fn jobs_of_an_interactive_shell_die_with_it() {
    let spec = CommandSpec::argv(["bash", "--norc", "-i"]).with_pty(PtySize::default());
    let mut p = spawn(spec.with_env("PS1", "")).await;
    let typed =
        b"nohup sleep 1000 >/dev/null 2>&1 & echo one=$!\n(trap '' HUP TERM; sleep 1000) & echo two=$!\n";
    p.stdin.as_mut().unwrap().write_all(typed).await.unwrap();
    // The echo of what was typed has "$!" where the answer has a number.
    let mut seen = String::new();
    let mut jobs = vec![];
    while jobs.len() < 2 {
        let (_, data) = p.output.next().await.unwrap().unwrap();
        seen.push_str(&String::from_utf8_lossy(&data));
        jobs = ["one=", "two="]
            .iter()
            .filter_map(|k| seen.split(k).skip(1).find_map(|r| r.split_once('\r')?.0.parse::<i32>().ok()))
            .collect();
    }
    assert!(jobs.iter().all(|j| alive(*j)));
    p.control.signal(Signal::Kill).await.unwrap();
    assert!(jobs.iter().all(|j| !alive(*j)), "{jobs:?}");
    assert_eq!((&mut p.exit).await.unwrap(), ExitKind::Signal(9));
}

#[tokio::test]
async fn disarmed_trees_live_on_and_are_still_reaped() {
    let mut p = spawn(CommandSpec::shell("echo ready; read x").with_stdin()).await;
    until(&mut p, "ready").await;
    let pid = p.pid.unwrap().cast_signed();
    p.control.disarm();
    let stdin = p.stdin.take();
    drop(p);
    assert!(alive(pid));
    drop(stdin);
    dead(pid).await;
    // The reaper thread waits for it; its entry goes away without anybody asking.
    gone(pid).await;
}

#[tokio::test]
async fn the_process_id_stays_taken_until_the_parts_are_dropped() {
    let mut p = spawn(CommandSpec::argv(["true"])).await;
    (&mut p.exit).await.unwrap();
    let stat = format!("/proc/{}/stat", p.pid.unwrap());
    assert!(std::fs::read_to_string(&stat).unwrap().contains(") Z "));
    drop(p);
    assert!(std::fs::read_to_string(&stat).is_err());
}

#[tokio::test]
async fn many_kills_at_once_share_one_search() {
    let mut all = vec![];
    for _ in 0..50 {
        let mut p = spawn(CommandSpec::shell(DAEMON).with_io(merged())).await;
        let daemon = number(&mut p, "pid").await;
        all.push((p, daemon));
    }
    futures::future::join_all(all.iter().map(|(p, _)| p.control.signal(Signal::Kill))).await;
    assert!(all.iter().all(|(_, d)| !alive(*d)));
}

/// Runs alone in a process of its own: other tests open descriptors and start children meanwhile.
#[tokio::test]
async fn five_hundred_commands_leave_no_zombie_and_no_descriptor() {
    if std::env::var_os("FLEETCORE_TEST_ALONE").is_none() {
        let this = std::env::current_exe().unwrap();
        let name = "backends::local::tests::five_hundred_commands_leave_no_zombie_and_no_descriptor";
        let spec = CommandSpec::argv([this.to_str().unwrap(), "--exact", name, "--nocapture"]);
        let (out, exit) = finish(spawn(spec.with_env("FLEETCORE_TEST_ALONE", "1")).await).await;
        assert_eq!(exit, ExitKind::Code(0), "{}", String::from_utf8_lossy(&out["Stdout"]));
        return;
    }
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    drop(finish(spawn(CommandSpec::argv(["true"])).await).await);
    let before = descriptors();
    for i in 0..500 {
        let spec = match i % 5 {
            0 => CommandSpec::argv(["true"]).with_pty(PtySize::default()),
            1 => CommandSpec::argv(["sleep", "1000"]).with_stdin(),
            _ => CommandSpec::argv(["true"]).with_io(merged()),
        };
        let p = spawn(spec).await;
        if i % 5 != 1 {
            finish(p).await;
        }
    }
    assert_eq!(descriptors(), before);
    let children = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    assert_eq!(children, "");
}

#[tokio::test]
async fn children_inherit_no_descriptor_of_ours() {
    // Whatever this test's own parent left open without close-on-exec is not ours to close.
    let inherited: std::collections::BTreeSet<String> = std::fs::read_dir("/proc/self/fdinfo")
        .unwrap()
        .flatten()
        .filter(|e| {
            let info = std::fs::read_to_string(e.path()).unwrap_or_default();
            let flags = info.lines().find_map(|l| l.strip_prefix("flags:")).unwrap_or("02000000");
            u32::from_str_radix(flags.trim(), 8).unwrap() & 0o2_000_000 == 0
        })
        .map(|e| e.file_name().into_string().unwrap())
        .collect();
    let others = (0..5).map(|_| spawn(CommandSpec::argv(["cat"]).with_pty(PtySize::default())));
    let others = futures::future::join_all(others).await;
    for io in [merged(), Io::Pty(PtySize::default())] {
        let (out, _) = finish(spawn(CommandSpec::shell("cd /proc/self/fd; echo *").with_io(io)).await).await;
        let listing: String = out.values().map(|v| String::from_utf8_lossy(v).into_owned()).collect();
        let extra: Vec<_> = listing.split_whitespace().filter(|n| !inherited.contains(*n)).collect();
        // 3 is the directory that is being listed.
        assert!(extra.iter().all(|n| ["0", "1", "2", "3"].contains(n)), "{listing}, inherited {inherited:?}");
    }
    drop(others);
}

#[tokio::test]
async fn reading_can_pause_without_losing_anything() {
    let mut p = spawn(CommandSpec::argv(["seq", "1", "300000"])).await;
    let mut all = Vec::new();
    while let Some(chunk) = p.output.next().await {
        let (channel, data): (Channel, Bytes) = chunk.unwrap();
        assert_eq!(channel, Channel::Stdout);
        all.extend_from_slice(&data);
        tokio::task::yield_now().await;
    }
    let mut bare = tokio::process::Command::new("seq")
        .args(["1", "300000"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut wanted = Vec::new();
    bare.stdout.take().unwrap().read_to_end(&mut wanted).await.unwrap();
    bare.wait().await.unwrap();
    assert!(all == wanted);
}
