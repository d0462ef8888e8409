//! The program against a live `fleetcore serve`.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use common::{Home, announced, mode, signal_child, wait_for};
use rustix::process::Signal;

#[test]
fn the_same_codes_as_without_a_server() {
    let home = Home::new();
    let server = home.serve();
    announced(&home);
    for (args, code) in [
        (&["run", "local", "--", "true"][..], 0),
        (&["run", "local", "--", "sh", "-c", "exit 7"], 7),
        (&["run", "local", "-c", "kill -KILL $$"], 137),
        (&["run", "local", "--timeout", "100ms", "--", "sleep", "100"], 124),
        (&["run", "local", "--", "no-such-program"], 125),
        (&["run", "nowhere/there", "--", "true"], 125),
        (&["ls", "local:/no/such/place"], 66),
        (&["ls", "nowhere/there:/"], 66),
        (&["logs", "01900000-0000-7000-8000-000000000000"], 66),
        (&["kill", "ffffffff"], 66),
        (&["kill", "no-such-session"], 66),
        (&["token", "rm", "not-a-token"], 64),
    ] {
        let done = home.run(args);
        assert_eq!(done.code, code, "{args:?}: {done:?}");
    }
    assert_eq!(server.stop(), 0);
}

#[test]
fn run_streams_and_feeds_through_the_server() {
    let home = Home::new();
    let _server = home.serve();
    announced(&home);
    let done = home.run(&["run", "local", "--", "sh", "-c", "printf 'a\\000\\377b'; printf err >&2"]);
    assert_eq!((&done.raw[..], &done.err[..]), (&b"a\0\xffb"[..], "err"));
    let input: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    assert_eq!(home.feed(&["run", "local", "--", "cat"], &input).ok().raw, input);
    let done = home.run(&["run", "local", "-t", "-c", "test -t 0 && test -t 1 && stty size"]).ok();
    assert_eq!(done.out, "24 80\r\n");
}

#[test]
fn detached_commands_are_watched_and_ended() {
    let home = Home::new();
    let _server = home.serve();
    announced(&home);
    let id = home.run(&["run", "-d", "local", "-c", "echo up; exec sleep 1000"]).ok().out.trim().to_owned();
    assert_eq!(home.run(&["ps", "-q"]).ok().out.trim(), id);
    wait_for(|| home.run(&["logs", &id]).ok().out == "up\n");
    home.run(&["kill", &id[24..]]).ok();
    // Attaching to it gives its end.
    assert_eq!(home.run(&["attach", &id]).code, 128 + 15);
    assert_eq!(home.run(&["ps", "-q"]).ok().out, "");
    assert_eq!(home.run(&["ps", "-q", "-s", "cancelled"]).ok().out.trim(), id);
    home.run(&["kill", &id]).ok();
    assert_eq!(home.run(&["kill", "-s", "INT", &id]).code, 73, "it has ended");

    let id =
        home.run(&["run", "-d", "local", "-c", "trap 'exit 9' USR1; echo up; while :; do sleep 0.05; done"]);
    let id = id.ok().out.trim().to_owned();
    wait_for(|| home.run(&["logs", &id]).ok().out == "up\n");
    home.run(&["kill", "-s", "USR1", &id]).ok();
    assert_eq!(home.run(&["attach", "--read-only", &id]).code, 9);
}

#[test]
fn a_watcher_that_leaves_does_not_touch_the_command() {
    let home = Home::new();
    let _server = home.serve();
    announced(&home);
    let script = "trap 'echo hit; exit 9' INT TERM; echo up; while :; do echo on; sleep 0.05; done";
    let id = home.run(&["run", "-d", "local", "-c", script]).ok().out.trim().to_owned();
    let watch = |args: &[&str]| {
        let mut child = home.command(args).stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
        (child, out)
    };
    for args in [&["attach", "--read-only", &id][..], &["attach", &id]] {
        for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
            let (mut child, _out) = watch(args);
            signal_child(&child, signal);
            assert_eq!(child.wait().unwrap().code(), Some(code), "{args:?}");
        }
        let (mut child, out) = watch(args);
        drop(out);
        assert_eq!(child.wait().unwrap().code(), Some(141), "{args:?}");
    }
    assert_eq!(home.run(&["ps", "-q"]).ok().out.trim(), id, "it runs on");
    assert!(!home.run(&["logs", &id]).ok().out.contains("hit"));
}

#[test]
fn logs_follow_until_the_end() {
    let home = Home::new();
    let _server = home.serve();
    announced(&home);
    let fifo = home.path("go");
    let script = format!("mkfifo {0}; echo one; read x < {0}; echo two; echo bad >&2", fifo.display());
    let id = home.run(&["run", "-d", "local", "-c", &script]).ok().out.trim().to_owned();
    let mut child =
        home.command(&["logs", "-f", &id]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "one\n");
    std::fs::write(&fifo, "go\n").unwrap();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "one\ntwo\n");
    let done = child.wait_with_output().unwrap();
    assert_eq!((done.status.code(), &done.stderr[..]), (Some(0), &b"bad\n"[..]));
    let stamped = home.run(&["logs", "-t", &id]).ok().out;
    assert!(
        stamped.lines().all(|l| l.split_once(' ').unwrap().0.parse::<jiff::Timestamp>().is_ok()),
        "{stamped}"
    );
}

#[test]
fn files_through_the_server() {
    let home = Home::new();
    let _server = home.serve();
    announced(&home);
    std::fs::create_dir_all(home.path("tree/sub")).unwrap();
    let data: Vec<u8> = (0..3_000_000u32).map(|n| (n % 253) as u8).collect();
    std::fs::write(home.path("tree/sub/b"), &data).unwrap();
    std::fs::write(home.path("tree/with space ü"), b"x").unwrap();
    let there = |p: &str| format!("local:{}", home.path(p).display());
    home.run(&["cp", "-r", "tree", &there("up")]).ok();
    home.run(&["cp", "-r", &there("up"), "down"]).ok();
    assert_eq!(std::fs::read(home.path("down/sub/b")).unwrap(), data);
    home.run(&["cp", &there("up/with space ü"), "one"]).ok();
    assert_eq!(std::fs::read(home.path("one")).unwrap(), b"x");
    assert_eq!(home.run(&["ls", "-q", &there("up")]).ok().out, "sub\nwith space ü\n");
}

#[test]
fn files_stay_inside_the_root() {
    let home = Home::new();
    std::fs::create_dir(home.path("inside")).unwrap();
    std::fs::write(home.path("inside/a"), b"x").unwrap();
    std::fs::write(home.path("outside"), b"x").unwrap();
    let _server = home.serve_with(&["--file-root", "inside"], &[]);
    announced(&home);
    let there = |p: &str| format!("local:{}", home.path(p).display());
    assert_eq!(home.run(&["ls", "-q", &there("inside")]).ok().out, "a\n");
    let refused = home.run(&["cp", &there("outside"), "copy"]);
    assert_eq!(refused.code, 77, "{refused:?}");
    assert!(!home.path("copy").exists());
}

#[test]
fn log_in_use_tokens_log_out() {
    let home = Home::new();
    let mut server = home.serve();
    let password = server.password();
    announced(&home);
    let url = server.url.clone();
    // Another user of the host: no local token, so the server wants to know who it is.
    let other = Home::new();
    let refused = other.run(&["--server", &url, "ps"]);
    assert_eq!(refused.code, 77, "{refused:?}");
    assert!(refused.err.contains("fleetcore login"), "{refused:?}");
    assert_eq!(other.feed(&["login", &url, "--password-file", "-"], b"wrong password\n").code, 77);
    let line = format!("{password}\n");
    let all = "read,run,files,machines,admin";
    other.feed(&["login", &url, "--password-file", "-", "--scopes", all], line.as_bytes()).ok();
    let kept = other.path(".config/fleetcore/credentials.toml");
    assert_eq!(mode(&kept), 0o600);
    assert!(!std::fs::read_to_string(&kept).unwrap().contains(&password), "the password is not kept");
    // From now on this server is the one to use.
    assert_eq!(other.run(&["run", "local", "--", "sh", "-c", "exit 5"]).code, 5);

    let secret = other.run(&["token", "create", "ci", "--scopes", "read"]).ok().out.trim().to_owned();
    assert!(secret.starts_with("fct_"));
    let with_token = |args: &[&str]| {
        let mut command = home.command(args);
        command.env("FLEETCORE_TOKEN", &secret).env("FLEETCORE_SERVER", &url).output().unwrap()
    };
    assert_eq!(with_token(&["ps"]).status.code(), Some(0));
    assert_eq!(with_token(&["run", "local", "--", "true"]).status.code(), Some(125), "it may only read");
    let tokens = other.run(&["token", "ls", "-o", "json"]).ok().json();
    let ci = tokens.as_array().unwrap().iter().find(|t| t["name"] == "ci").unwrap()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(!tokens.to_string().contains(&secret), "secrets are shown once");
    other.run(&["token", "rm", &ci]).ok();
    assert_eq!(with_token(&["ps"]).status.code(), Some(77));

    other
        .feed(&["user", "add", "eve", "--role", "viewer", "--password-file", "-"], b"a good long password\n")
        .ok();
    assert_eq!(
        other.feed(&["user", "add", "eve", "--password-file", "-"], b"a good long password\n").code,
        73
    );
    assert_eq!(other.feed(&["user", "add", "x", "--password-file", "-"], b"short\n").code, 64);
    assert_eq!(other.run(&["user", "rm", "admin"]).code, 73, "the last admin stays");
    other.run(&["user", "set", "eve", "--disable"]).ok();
    let users = other.run(&["user", "ls", "-o", "json"]).ok().json();
    assert!(users.as_array().unwrap().iter().any(|u| u["name"] == "eve" && u["disabled"] == true));

    let token = std::fs::read_to_string(&kept).unwrap();
    let token =
        token.lines().find_map(|l| l.strip_prefix("token = \"")).unwrap().trim_end_matches('"').to_owned();
    other.run(&["logout"]).ok();
    let mut revoked = home.command(&["--server", &url, "ps"]);
    assert_eq!(revoked.env("FLEETCORE_TOKEN", token).output().unwrap().status.code(), Some(77));
    assert_eq!(other.run(&["logout"]).code, 66);
}

#[test]
fn a_server_of_this_host_is_not_asked_through_a_proxy() {
    let home = Home::new();
    let _server = home.serve();
    announced(&home);
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", proxy.local_addr().unwrap());
    let mut command = home.command(&["ps"]);
    command.env("HTTP_PROXY", &url).env("http_proxy", &url).env("ALL_PROXY", &url);
    assert_eq!(command.output().unwrap().status.code(), Some(0));
    proxy.set_nonblocking(true).unwrap();
    assert!(proxy.accept().is_err(), "the token went to the proxy");
}

#[test]
fn the_first_password_can_be_chosen_and_is_not_printed() {
    let home = Home::new();
    let server = home.serve_with(&[], &[("FLEETCORE_ADMIN_PASSWORD", "chosen by somebody")]);
    let other = Home::new();
    other.feed(&["login", &server.url, "--password-file", "-"], b"chosen by somebody\n").ok();
    // Commands do not inherit it.
    let done = other.run(&["run", "local", "-c", "echo ${FLEETCORE_ADMIN_PASSWORD-unset}"]).ok();
    assert_eq!(done.out, "unset\n");
    let log = std::fs::read_to_string(home.path("serve.log")).unwrap();
    assert!(!log.contains("chosen by somebody"));
}

#[test]
fn a_graceful_stop_settles_everything() {
    let home = Home::new();
    let server = home.serve();
    announced(&home);
    let id = home.run(&["run", "-d", "local", "--", "sleep", "1000"]).ok().out.trim().to_owned();
    assert_eq!(mode(&home.data_dir().join("local-token")), 0o600);
    assert_eq!(home.serve_fails(), 73, "one server per data directory");
    assert_eq!(server.stop(), 0);
    assert!(!home.data_dir().join("server.json").exists());
    assert!(!home.data_dir().join("local-token").exists());
    // Without the server the records are read in-process.
    let all = home.run(&["ps", "-a", "-o", "json"]).ok().json();
    assert_eq!((all[0]["id"].as_str(), all[0]["state"].as_str()), (Some(&*id), Some("cancelled")));
    assert_eq!(all[0]["exit"]["reason"], "shutdown");
}

#[test]
fn a_killed_server_is_not_found_and_its_commands_are_lost() {
    let home = Home::new();
    let mut server = home.serve();
    announced(&home);
    let script = "echo kept; while echo on; do sleep 0.1; done";
    let id = home.run(&["run", "-d", "local", "-c", script]).ok().out.trim().to_owned();
    wait_for(|| home.run(&["logs", &id]).ok().out.starts_with("kept\n"));
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    assert!(home.data_dir().join("server.json").exists(), "nobody could remove it");
    let all = home.run(&["ps", "-a", "-o", "json"]).ok().json();
    assert_eq!(all[0]["state"], "lost");
    assert!(home.run(&["logs", &id]).ok().out.starts_with("kept\n"), "no acknowledged byte is gone");
    let again = home.serve();
    wait_for(|| {
        let text = std::fs::read_to_string(home.data_dir().join("server.json")).unwrap();
        text.contains(&again.url)
    });
    assert!(home.run(&["logs", &id]).ok().out.starts_with("kept\n"));
    let tokens = home.run(&["token", "ls", "-q"]).ok().out;
    assert_eq!(tokens.lines().count(), 1, "the token of the killed server is gone: {tokens}");
}

#[test]
fn local_opts_out_of_a_running_server() {
    let home = Home::new();
    let _server = home.serve();
    announced(&home);
    home.run(&["--local", "run", "local", "--", "true"]).ok();
    let done = home.run(&["--local", "ps"]);
    assert_eq!(done.code, 73, "the server has the data directory");
    assert!(done.err.contains("server"), "{done:?}");
    assert_eq!(home.run(&["ps", "-a", "-q"]).ok().out, "", "and knows nothing of it");
}

#[test]
fn bad_settings_of_the_server_are_named() {
    let home = Home::new();
    for (args, code) in [
        (&["serve", "--listen", "nonsense"][..], 64),
        (&["serve", "--listen", "127.0.0.1:0", "--tls-cert", "x"], 64),
        (&["serve", "--listen", "127.0.0.1:0", "--behind-proxy", "10.0.0.0/99"], 64),
        (&["serve", "--listen", "127.0.0.1:0", "--ui-dir", "/no/such/dir"], 64),
        (&["serve", "--listen", "127.0.0.1:0", "--file-root", "/no/such/dir"], 64),
        (&["serve", "--listen", "127.0.0.1:0", "--session-idle", "soon"], 64),
        (&["serve", "--listen", "127.0.0.1:0", "--admin-password-file", "/no/such/file"], 66),
    ] {
        let done = home.run(args);
        assert_eq!(done.code, code, "{args:?}: {done:?}");
    }
}
