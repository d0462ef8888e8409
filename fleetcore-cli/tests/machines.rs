//! Machines, and one command on many of them: in this process and on a server.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use common::{Home, announced, signal_child, wait_for};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Whether sandboxes work here; where they must (`FLEETCORE_REQUIRE_SANDBOX`), that they do.
fn sandboxes(home: &Home) -> bool {
    let providers = home.run(&["providers", "-o", "json"]).ok().json();
    let sandbox = providers.as_array().unwrap().iter().find(|p| p["name"] == "sandbox").unwrap().clone();
    let works = sandbox["available"] == true;
    if !works {
        assert!(sandbox["reason"].is_string(), "it says why: {sandbox}");
        assert!(std::env::var_os("FLEETCORE_REQUIRE_SANDBOX").is_none(), "sandboxes are required: {sandbox}");
        eprintln!("skipped: {sandbox}");
    }
    works
}

fn life(home: &Home) {
    let made = home.run(&["create", "sandbox/dev1", "-l", "role=web", "--option", "network=true"]).ok();
    assert_eq!(made.out, "sandbox/dev1\n");
    assert!(made.err.is_empty() || made.err.starts_with("fleetcore: "), "{made:?}");
    assert_eq!(home.run(&["create", "sandbox/dev1"]).code, 73);
    assert_eq!(home.run(&["create", "sandbox/dev2", "--option", "nonsense=1"]).code, 64);
    assert_eq!(home.run(&["create", "nowhere/dev2"]).code, 66);
    assert_eq!(home.run(&["create", "sandbox/dev2", "--disk", "1G"]).code, 69);
    let made = home.run(&["create", "sandbox/dev2", "-l", "role=db", "-o", "json"]).ok().json();
    assert_eq!((&made["target"], &made["state"]), (&json!("sandbox/dev2"), &json!("running")));

    assert_eq!(home.run(&["machines", "ls", "-q"]).ok().out, "sandbox/dev1\nsandbox/dev2\n");
    assert_eq!(home.run(&["machines", "-q", "-l", "role=db"]).ok().out, "sandbox/dev2\n");
    assert_eq!(home.run(&["run", "sandbox/dev1", "--", "hostname"]).ok().out, "dev1\n");

    home.run(&["stop", "sandbox/dev1", "sandbox/dev2"]).ok();
    assert_eq!(home.run(&["machines", "-q", "-s", "stopped"]).ok().out, "sandbox/dev1\nsandbox/dev2\n");
    assert_eq!(home.run(&["stop", "--suspend", "sandbox/dev1"]).code, 69);
    home.run(&["start", "sandbox/dev1"]).ok();
    assert_eq!(home.run(&["machines", "-q", "-s", "running"]).ok().out, "sandbox/dev1\n");
    assert_eq!(home.run(&["start", "sandbox/none"]).code, 66);
    assert_eq!(home.run(&["start", "local"]).code, 69);

    let refused = home.run(&["delete", "sandbox/dev1"]);
    assert_eq!(refused.code, 64, "nobody can be asked: {refused:?}");
    home.run(&["delete", "--yes", "sandbox/dev1", "sandbox/dev2"]).ok();
    assert_eq!(home.run(&["machines", "-q"]).ok().out, "");
    assert_eq!(home.run(&["action", "sandbox"]).ok().out.lines().count(), 1, "a head and no action");
    assert_eq!(home.run(&["action", "sandbox", "explode"]).code, 69);
}

fn events(out: &str) -> Vec<Value> {
    out.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

fn many(home: &Home) {
    for (name, role) in [("a", "web"), ("b", "db"), ("c", "web")] {
        home.run(&["create", &format!("sandbox/{name}"), "-l", &format!("role={role}")]).ok();
    }
    // Each line with its target, channels apart, a summary.
    let done = home.run(&["run", "sandbox/*", "-c", "hostname; echo to err >&2; printf 'no end'"]).ok();
    let mut out: Vec<&str> = done.out.lines().collect();
    out.sort_unstable();
    let expected = ["a", "b", "c"].map(|n| [format!("sandbox/{n} | {n}"), format!("sandbox/{n} | no end")]);
    assert_eq!(out, expected.concat());
    for name in ["a", "b", "c"] {
        assert!(done.err.contains(&format!("sandbox/{name} | to err\n")), "{done:?}");
    }
    assert!(done.err.ends_with("3 targets: 3 succeeded, 0 failed\n"), "{done:?}");
    assert_eq!(
        home.run(&["run", "-q", "sandbox/*", "--label", "role=web", "--", "hostname"])
            .ok()
            .out
            .lines()
            .count(),
        2
    );

    // One fails: exit code 1, and why.
    let done = home.run(&["run", "sandbox/*", "-c", "test $(hostname) != b || exit 3"]);
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.err.contains("sandbox/b: exit 3\n3 targets: 2 succeeded, 1 failed\n"), "{done:?}");
    // A target that is not there fails alone.
    let done = home.run(&["run", "sandbox/a", "sandbox/none", "--", "hostname"]);
    assert_eq!((done.code, &*done.out), (1, "sandbox/a | a\n"), "{done:?}");
    assert!(done.err.contains("sandbox/none: "), "{done:?}");
    let done = home.run(&["run", "sandbox/*", "--parallel", "1", "--max-failures", "1", "--", "false"]);
    assert_eq!(done.code, 1);
    assert!(done.err.contains("3 targets: 0 succeeded, 1 failed, 2 skipped"), "{done:?}");

    let done = home.run(&["run", "sandbox/*", "--group", "--batch", "1", "-c", "seq 3"]).ok();
    assert_eq!(done.out, ["a", "b", "c"].map(|n| format!("==> sandbox/{n} <==\n1\n2\n3\n")).concat());

    let done = home.run(&["run", "-o", "json", "sandbox/a", "sandbox/b", "-c", "hostname"]).ok();
    let events = events(&done.out);
    let count = |event: &str| events.iter().filter(|e| e["event"] == event).count();
    assert_eq!((count("start"), count("output"), count("exit"), count("summary")), (2, 2, 2, 1), "{done:?}");
    let output = events.iter().find(|e| e["event"] == "output" && e["target"] == "sandbox/a").unwrap();
    assert_eq!((&output["channel"], &output["line"]), (&json!("stdout"), &json!("a")));
    assert!(events.iter().any(|e| e["event"] == "exit" && e["exit"]["code"] == 0), "{done:?}");

    // Much output of many at once is whole.
    let done = home.run(&["run", "-q", "sandbox/*", "-c", "seq 30000"]).ok();
    assert_eq!(done.out.lines().count(), 90_000);

    assert_eq!(home.run(&["run", "nothing/*", "--", "true"]).code, 125);
    assert_eq!(home.run(&["run", "sand box/*", "--", "true"]).code, 64);
    assert_eq!(home.run(&["run", "sandbox/*", "--parallel", "0", "--", "true"]).code, 125);

    // Ctrl-C ends all of them.
    let mut child = home
        .command(&["run", "sandbox/*", "-c", "echo up; exec sleep 1000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (0..3).for_each(|_| assert!(lines.next().unwrap().unwrap().ends_with(" | up")));
    signal_child(&child, Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    home.run(&["delete", "--yes", "sandbox/a", "sandbox/b", "sandbox/c"]).ok();
}

/// The commands end although nobody reads what they say, and so do we.
fn a_reader_that_stopped(home: &Home, args: &[&str]) {
    let mark = format!("flood-{}", fleetcore::CommandId::generate());
    let script = format!(": {mark}; while :; do echo 0123456789012345678901234567890123456789; done");
    let mut child = home
        .command(&[&["run"], args, &["-c", &script]].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    std::io::Read::read_exact(&mut out, &mut [0; 1000]).unwrap();
    let running = || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        all.filter_map(|p| std::fs::read(p.path().join("cmdline")).ok())
            .filter(|l| l.starts_with(b"/bin/sh") && l.windows(mark.len()).any(|w| w == mark.as_bytes()))
            .count()
    };
    assert!(running() > 0);
    signal_child(&child, Signal::INT);
    wait_for(|| running() == 0);
    signal_child(&child, Signal::INT);
    wait_for(|| child.try_wait().unwrap().is_some());
    drop(out);
}

#[test]
fn a_reader_that_stopped_keeps_nothing_running() {
    let home = Home::new();
    a_reader_that_stopped(&home, &["local"]);
    a_reader_that_stopped(&home, &["local", "--parallel", "2"]);
    a_reader_that_stopped(&home, &["local", "--parallel", "2", "-o", "json"]);
}

#[test]
fn a_server_that_is_killed_leaves_no_sandbox_running() {
    let home = Home::new();
    let mut server = home.serve();
    announced(&home);
    if sandboxes(&home) {
        let name = format!("s-{}", fleetcore::CommandId::generate());
        let target = format!("sandbox/{name}");
        home.run(&["create", &target]).ok();
        // Whatever it does to the processes that keep it.
        let script = "trap '' TERM HUP; setsid sleep 1000 & kill -STOP 1 2; echo up >flag; wait";
        home.run(&["run", "-d", &target, "-c", script]).ok();
        wait_for(|| home.run(&["run", &target, "--", "cat", "flag"]).out == "up\n");
        let holders = || {
            let all = std::fs::read_dir("/proc").unwrap().flatten();
            all.filter_map(|p| std::fs::read(p.path().join("cmdline")).ok())
                .filter(|l| l.split(|b| *b == 0).any(|w| w == name.as_bytes()))
                .count()
        };
        assert!(holders() > 0);
        server.kill();
        wait_for(|| holders() == 0);
        server = home.serve();
        announced(&home);
        assert_eq!(home.run(&["run", &target, "--", "cat", "flag"]).ok().out, "up\n", "it comes up again");
        home.run(&["delete", "--yes", &target]).ok();
    }
    assert_eq!(server.stop(), 0);
}

#[test]
fn what_is_not_installed_is_listed_with_what_to_do() {
    let home = Home::new();
    // Nothing but a shell is installed here.
    std::fs::create_dir(home.path("bin")).unwrap();
    std::os::unix::fs::symlink("/bin/sh", home.path("bin/sh")).unwrap();
    let mut command = home.command(&["providers", "-o", "json"]);
    let done = command.env("PATH", home.path("bin")).output().unwrap();
    let providers: Value = serde_json::from_slice(&done.stdout).unwrap();
    for (name, install) in [("multipass", "install"), ("sandbox", "bubblewrap")] {
        let provider = providers.as_array().unwrap().iter().find(|p| p["name"] == name);
        let provider = provider.unwrap_or_else(|| panic!("{name} is missing: {providers}"));
        assert_eq!(provider["available"], false, "{provider}");
        assert!(provider.to_string().contains(install), "{provider}");
    }
    let machines = home.command(&["machines"]).env("PATH", home.path("bin")).output().unwrap();
    assert!(machines.status.success() && machines.stderr.is_empty(), "{machines:?}");
}

#[test]
fn the_life_of_machines_in_this_process() {
    let home = Home::new();
    if sandboxes(&home) {
        life(&home);
    }
}

#[test]
fn the_life_of_machines_on_a_server() {
    let home = Home::new();
    let server = home.serve();
    announced(&home);
    if sandboxes(&home) {
        life(&home);
        let id = home.run(&["create", "--no-wait", "sandbox/later"]).ok().out;
        home.run(&["logs", "-f", id.trim()]).ok();
        assert_eq!(home.run(&["machines", "-q"]).ok().out, "sandbox/later\n");
        let all = home.run(&["ps", "-a", "-o", "json"]).ok().json();
        assert!(all.as_array().unwrap().iter().any(|c| c["action"]["name"] == "create"), "{all}");
    }
    assert_eq!(server.stop(), 0);
}

#[test]
fn many_targets_in_this_process() {
    let home = Home::new();
    if sandboxes(&home) {
        many(&home);
    }
}

#[test]
fn many_targets_on_a_server() {
    let home = Home::new();
    let server = home.serve();
    announced(&home);
    if sandboxes(&home) {
        many(&home);
        let id = home.run(&["run", "-d", "*", "--", "echo", "hello"]).ok().out.trim().to_owned();
        let lines = home.run(&["logs", "-f", &id]).ok();
        assert!(format!("{}{}", lines.out, lines.err).contains("\"summary\""), "{lines:?}");
        let children = home.run(&["ps", "-aq", "-l", &format!("fleetcore/parent={id}")]).ok();
        assert_eq!(children.out.lines().count(), 1, "the host itself");
    }
    assert_eq!(server.stop(), 0);
}
