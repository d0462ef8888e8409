//! The program without a server.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::Stdio,
};

use common::{Home, signal_child, wait_for};

#[test]
fn exit_codes_are_passed_on_or_tell_what_went_wrong() {
    let home = Home::new();
    for (args, code) in [
        (&["run", "local", "--", "true"][..], 0),
        (&["run", "local", "--", "sh", "-c", "exit 7"], 7),
        (&["run", "local", "-c", "kill -KILL $$"], 137),
        (&["run", "local", "--timeout", "100ms", "--", "sleep", "100"], 124),
        (&["run", "local", "--", "no-such-program"], 125),
        (&["run", "nowhere/there", "--", "true"], 125),
        (&["run", "-d", "local", "--", "true"], 125),
        (&["run", "not a target", "--", "true"], 64),
        (&["run", "local"], 64),
        (&["no-such-verb"], 64),
        (&["ls", "local:/no/such/place"], 66),
        (&["ls", "/tmp"], 64),
        (&["ls", "nowhere/there:/"], 66),
        (&["logs", "01900000-0000-7000-8000-000000000000"], 66),
        (&["logs", "zz"], 64),
        (&["kill", "ffffffff"], 66),
        (&["sessions"], 69),
        (&["token", "ls"], 64),
        (&["--server", "http://127.0.0.1:1", "ps"], 69),
        (&["--server", "nonsense", "ps"], 64),
        (&["--help"], 0),
        (&["--version"], 0),
    ] {
        let done = home.run(args);
        assert_eq!(done.code, code, "{args:?}: {done:?}");
        if code == 125 || (66..100).contains(&code) {
            assert_eq!(done.err.lines().count(), 1, "one line: {done:?}");
            assert!(done.err.starts_with("fleetcore: "), "{done:?}");
        }
    }
}

#[test]
fn the_streams_stay_apart_and_bytes_are_exact() {
    let home = Home::new();
    let done = home.run(&["run", "local", "--", "sh", "-c", "printf 'a\\000\\377b'; printf err >&2"]);
    assert_eq!((&done.raw[..], &done.err[..]), (&b"a\0\xffb"[..], "err"));
    let big = home.run(&["run", "local", "-c", "head -c 5000000 /dev/zero"]).ok();
    assert_eq!(big.raw.len(), 5_000_000);
}

#[test]
fn input_is_forwarded_from_a_pipe() {
    let home = Home::new();
    let input: Vec<u8> = (0..2_000_000u32).map(|n| (n % 251) as u8).collect();
    assert_eq!(home.feed(&["run", "local", "--", "cat"], &input).ok().raw, input);
    // A program that does not read its input is no error.
    assert_eq!(home.feed(&["run", "local", "--", "true"], &input).code, 0);
    assert_eq!(home.feed(&["run", "-n", "local", "--", "cat"], &input).ok().raw, b"");
}

#[test]
fn settings_reach_the_command() {
    let home = Home::new();
    let script = "pwd; echo $A $B";
    let done = home.run(&["run", "local", "--cwd", "/", "-e", "A=1", "-e", "B=x y", "-c", script]).ok();
    assert_eq!(done.out, "/\n1 x y\n");
    let done = home.run(&["run", "local", "-t", "-c", "test -t 0 && test -t 1 && stty size"]).ok();
    assert_eq!(done.out, "24 80\r\n");
    assert_eq!(home.run(&["run", "local", "-e", "NOT_SET_HERE", "--", "true"]).code, 64);
}

#[test]
fn the_first_interrupt_is_passed_on() {
    let home = Home::new();
    let script = "trap 'echo caught; exit 42' INT; echo ready; while :; do sleep 0.05; done";
    let mut child = home.command(&["run", "local", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    signal_child(&child, rustix::process::Signal::INT);
    out.read_to_string(&mut line).unwrap();
    assert!(line.ends_with("caught\n"), "{line}");
    assert_eq!(child.wait().unwrap().code(), Some(42));
}

#[test]
fn an_interrupt_ends_the_wait_for_a_server_that_does_not_answer() {
    let home = Home::new();
    for args in [
        &["run", "local", "--", "true"][..],
        &["shell"],
        &["attach", "--read-only", "01900000-0000-7000-8000-000000000000"],
        &["logs", "01900000-0000-7000-8000-000000000000"],
    ] {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut command = home.command(args);
        command.env("FLEETCORE_SERVER", format!("http://{}", silent.local_addr().unwrap()));
        let mut child = command.spawn().unwrap();
        // It has asked: from here on it waits.
        let (mut asked, _) = silent.accept().unwrap();
        asked.read_exact(&mut [0]).unwrap();
        signal_child(&child, rustix::process::Signal::INT);
        assert_eq!(child.wait().unwrap().code(), Some(130), "{args:?}");
    }
}

#[test]
fn a_copy_that_is_interrupted_leaves_nothing_behind() {
    let home = Home::new();
    std::fs::create_dir(home.path("to")).unwrap();
    let mut child = home.command(&["cp", "-", "to/file"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // Ends with the program, which stops reading.
    let writer = std::thread::spawn(move || while stdin.write_all(&[b'x'; 65536]).is_ok() {});
    let entries = || std::fs::read_dir(home.path("to")).unwrap().count();
    wait_for(|| entries() > 0);
    signal_child(&child, rustix::process::Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    writer.join().unwrap();
    assert_eq!(entries(), 0);
}

#[test]
fn the_second_interrupt_kills() {
    let home = Home::new();
    let script = "trap 'echo no' INT; echo ready; while :; do sleep 0.05; done";
    let mut child = home.command(&["run", "local", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    signal_child(&child, rustix::process::Signal::INT);
    line.clear();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "no\n");
    signal_child(&child, rustix::process::Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(137));
}

#[test]
fn a_reader_that_leaves_ends_the_command() {
    let home = Home::new();
    let mut child = home.command(&["run", "local", "--", "yes"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut some = [0u8; 4];
    out.read_exact(&mut some).unwrap();
    drop(out);
    assert_eq!(child.wait().unwrap().code(), Some(141));
}

#[test]
fn records_in_three_forms() {
    let home = Home::new();
    home.run(&["run", "local", "-l", "who=me", "--", "echo", "tab\there"]).ok();
    home.run(&["run", "local", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!(home.run(&["ps", "-o", "json"]).ok().json(), serde_json::json!([]), "nothing runs");

    let all = home.run(&["ps", "-a", "-o", "json"]).ok().json();
    let all = all.as_array().unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(all[0]["state"], "failed");
    assert_eq!(all[0]["exit"]["code"], 3);
    assert_eq!(all[1]["argv"][1], "tab\there");

    let table = home.run(&["ps", "-a"]).ok();
    assert!(table.out.starts_with("ID "), "{table:?}");
    assert_eq!(table.out.lines().count(), 3);
    assert!(!table.out.contains('\x1b'), "no colour in a pipe: {table:?}");

    let plain = home.run(&["ps", "-a", "-o", "plain"]).ok();
    let rows: Vec<Vec<&str>> = plain.out.lines().map(|l| l.split('\t').collect()).collect();
    assert_eq!(rows.iter().map(Vec::len).collect::<Vec<_>>(), [8, 8], "values cannot break rows");
    assert_eq!((rows[0][2], rows[0][3], rows[1][2]), ("failed", "3", "succeeded"));

    let ids = home.run(&["ps", "-a", "-q"]).ok().out;
    assert_eq!(ids.lines().next(), all[0]["id"].as_str());
    let labelled = home.run(&["ps", "-a", "-q", "-l", "who=me"]).ok().out;
    assert_eq!(labelled.trim(), all[1]["id"].as_str().unwrap());
    assert_eq!(home.run(&["ps", "-q", "-s", "succeeded"]).ok().out, labelled);
    assert_eq!(home.run(&["ps", "-s", "nonsense"]).code, 64);

    let short = &ids.lines().next().unwrap()[24..];
    let logs = home.run(&["logs", short]).ok();
    assert_eq!((&logs.out[..], &logs.err[..]), ("out\n", "err\n"));
    assert_eq!(home.run(&["logs", "--from", "4", short]).ok().out, "");
    let events = home.run(&["-o", "json", "logs", short]).ok().out;
    let channels: Vec<_> = events
        .lines()
        .map(|l| {
            serde_json::from_str::<serde_json::Value>(l).unwrap()["channel"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(channels.len(), 2);
    assert!(channels.contains(&"stderr".to_owned()));
}

#[test]
fn errors_as_json_name_field_and_rule() {
    let home = Home::new();
    let done = home.run(&["-o", "json", "--server", "ftp://x", "ps"]);
    let problem: serde_json::Value = serde_json::from_str(&done.err).unwrap();
    assert_eq!(problem["code"], "invalid_input");
    assert_eq!(problem["context"]["field"], "server");
    assert!(problem["context"]["rule"].as_str().unwrap().contains("http://"));
    assert_eq!(problem["exit_code"], done.code);
}

#[test]
fn settings_files_are_strict_and_flags_win() {
    let home = Home::new();
    std::fs::create_dir_all(home.path(".config/fleetcore")).unwrap();
    let file = home.path(".config/fleetcore/config.toml");
    std::fs::write(&file, "output = \"plain\"\n").unwrap();
    assert!(!home.run(&["targets"]).ok().out.contains("TARGET"), "the file counts");
    assert!(home.run(&["-o", "table", "targets"]).ok().out.contains("TARGET"), "the flag wins");
    let mut with_env = home.command(&["targets"]);
    assert!(
        with_env.env("FLEETCORE_OUTPUT", "json").output().unwrap().stdout.starts_with(b"["),
        "so does the variable"
    );
    std::fs::write(&file, "servre = \"http://x\"\n").unwrap();
    let done = home.run(&["targets"]);
    assert_eq!(done.code, 64);
    assert!(done.err.contains("servre") && done.err.contains("config.toml"), "{done:?}");
    assert_eq!(home.run(&["--config", "/no/such/file", "targets"]).code, 66);
}

#[test]
fn copying_here() {
    let home = Home::new();
    std::fs::create_dir_all(home.path("tree/sub")).unwrap();
    std::fs::write(home.path("tree/a"), b"A").unwrap();
    std::fs::write(home.path("tree/sub/b"), vec![7; 300_000]).unwrap();
    let there = |p: &str| format!("local:{}", home.path(p).display());
    home.run(&["cp", "tree/a", &there("copy")]).ok();
    home.run(&["cp", &there("copy"), "back"]).ok();
    assert_eq!(std::fs::read(home.path("back")).unwrap(), b"A");
    // Into a directory that is there: under its own name.
    home.run(&["cp", "back", &there("tree")]).ok();
    assert_eq!(std::fs::read(home.path("tree/back")).unwrap(), b"A");

    assert_eq!(home.run(&["cp", "tree", &there("tree2")]).code, 64, "a directory needs -r");
    home.run(&["cp", "-r", "tree", &there("tree2")]).ok();
    assert_eq!(std::fs::read(home.path("tree2/sub/b")).unwrap(), vec![7; 300_000]);

    home.feed(&["cp", "-", &there("typed")], b"from stdin").ok();
    assert_eq!(home.run(&["cp", &there("typed"), "-"]).ok().raw, b"from stdin");
    assert_eq!(home.run(&["cp", "missing", &there("x")]).code, 66);
    assert_eq!(home.run(&["cp", "back", &there("no/such/dir/x")]).code, 66);
    home.run(&["cp", "-p", "back", &there("no/such/dir/x")]).ok();
    assert_eq!(std::fs::read(home.path("no/such/dir/x")).unwrap(), b"A");

    let names = home.run(&["ls", "-q", &there("tree")]).ok().out;
    assert_eq!(names, "a\nback\nsub\n");
    let listed = home.run(&["ls", "-o", "json", &there("tree/a")]).ok().json();
    assert_eq!(listed[0]["size"], 1);
}

#[test]
fn completions_and_manual() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(home.run(&["completions", shell]).ok().out.contains("fleetcore"), "{shell}");
    }
    assert_eq!(home.run(&["completions", "tcsh"]).code, 64);
    let bash = home.run(&["completions", "bash"]).ok().out;
    std::fs::write(home.path("c.bash"), bash).unwrap();
    assert!(
        std::process::Command::new("bash").arg("-n").arg(home.path("c.bash")).status().unwrap().success()
    );
    let page = home.run(&["man"]).ok().out;
    assert!(page.contains(".TH fleetcore") && page.contains("125"), "{page}");
    home.run(&["man", "--dir", "pages"]).ok();
    for page in ["fleetcore.1", "fleetcore-run.1", "fleetcore-token-create.1"] {
        assert!(home.path("pages").join(page).exists(), "{page}");
    }
    assert!(home.run(&["--help"]).ok().out.contains("124"), "exit codes are in the help");
}

#[test]
fn doctor_says_what_is_missing() {
    let home = Home::new();
    let checks = home.run(&["doctor", "-o", "json"]).ok().json();
    let of = |name: &str| checks.as_array().unwrap().iter().find(|c| c["name"] == name).unwrap().clone();
    assert_eq!(of("sh")["state"], "ok");
    assert_eq!(of("local")["state"], "ok");
    assert_eq!(of("server")["state"], "missing");
    assert_eq!(of("server")["advice"], "fleetcore serve");

    let mut poor = home.command(&["doctor", "-o", "json"]);
    let out = poor.env("PATH", home.path("empty")).output().unwrap();
    assert_eq!(out.status.code(), Some(69), "nothing works without a shell");
    let checks: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(checks[0]["advice"].as_str().unwrap().contains("install"));

    let done = home.run(&["--server", "http://127.0.0.1:1", "doctor"]);
    assert_eq!(done.code, 69, "a server that was named must answer");
}

#[test]
fn a_killed_program_leaves_a_lost_record() {
    let home = Home::new();
    // Ends by itself when its output is gone, so nothing stays behind.
    let script = "echo up; while echo on; do sleep 0.1; done";
    let mut child = home.command(&["run", "local", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    signal_child(&child, rustix::process::Signal::KILL);
    child.wait().unwrap();
    let all = home.run(&["ps", "-a", "-o", "json"]).ok().json();
    assert_eq!(all[0]["state"], "lost");
}
