//! The program in the place of OpenHands' runtime.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::process::ExitStatusExt as _,
    process::{Child, ChildStdout, Stdio},
};

use common::{Home, signal_child, wait_for};
use rustix::process::Signal;

const KEY: &str = "X-Session-API-Key: s3cret\r\n";

struct Runtime {
    child: Child,
    address: String,
    _lines: BufReader<ChildStdout>,
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn args<'a>(port: &'a str, dir: &'a str) -> Vec<&'a str> {
    let user = ["--username", "root", "--user-id", "0", "--no-enable-browser"];
    [&["compat", "openhands-runtime", port, "--working-dir", dir][..], &user].concat()
}

fn start(home: &Home, env: &[(&str, &str)]) -> Runtime {
    let dir = home.path("work").display().to_string();
    let mut command = home.command(&args("0", &dir));
    command.envs(env.iter().copied()).env("FLEETCORE_VIEWER_URL_FILE", home.path("viewer"));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    let port = line.trim_end().rsplit(':').next().unwrap();
    let runtime = Runtime { child, address: format!("127.0.0.1:{port}"), _lines: lines };
    // It answers from the beginning, and says when it is ready.
    wait_for(|| ask(&runtime.address, "GET", "/alive", "", "").0 == 200);
    runtime
}

fn send(address: &str, method: &str, path: &str, headers: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )
    .unwrap();
    stream
}

fn ask(address: &str, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
    let mut all = String::new();
    send(address, method, path, headers, body).read_to_string(&mut all).unwrap();
    (all[9..12].parse().unwrap(), all)
}

fn run(command: &str) -> String {
    format!(r#"{{"action":{{"action":"run","args":{{"command":"{command}"}},"timeout":60}}}}"#)
}

#[test]
fn it_stands_where_the_original_stood_and_dies_of_the_signal() {
    let home = Home::new();
    let mut runtime = start(&home, &[("SESSION_API_KEY", "s3cret")]);
    let (status, all) = ask(&runtime.address, "POST", "/execute_action", "", &run("echo hi"));
    assert!(status == 403 && all.ends_with(r#"{"detail":"Invalid API Key"}"#), "{all}");
    // The key is nobody's business who runs in there.
    let (status, all) =
        ask(&runtime.address, "POST", "/execute_action", KEY, &run("echo [$SESSION_API_KEY]; pwd"));
    let dir = home.path("work").display().to_string();
    assert!(status == 200 && all.contains(&format!(r#""content":"[]\n{dir}""#)), "{all}");
    let viewer = std::fs::read_to_string(home.path("viewer")).unwrap();
    assert!(viewer.starts_with("http://localhost:"), "{viewer}");
    // A command that runs does not keep it.
    let mut waiting =
        send(&runtime.address, "POST", "/execute_action", KEY, &run("echo begun > began; sleep 1000"));
    wait_for(|| home.path("work/began").exists());
    signal_child(&runtime.child, Signal::TERM);
    let status = runtime.child.wait().unwrap();
    assert_eq!(status.signal(), Some(15), "{status:?}");
    let mut rest = String::new();
    let _ = waiting.read_to_string(&mut rest);
}

#[test]
fn exit_codes_of_the_original() {
    let home = Home::new();
    let dir = home.path("work").display().to_string();
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let file = home.path("file");
    std::fs::write(&file, "").unwrap();
    let below = file.join("x").display().to_string();
    for (args, code, says) in [
        (vec!["compat", "openhands-runtime"], 2, "the following arguments are required: port"),
        (vec!["compat", "openhands-runtime", "x"], 2, "invalid int value: 'x'"),
        (args(&port, &dir), 1, ""),
        ([args("0", &dir), vec!["--plugins", "nope"]].concat(), 1, "Plugin nope not found"),
        (vec!["compat", "openhands-runtime", "0"], 3, "--working-dir"),
        (args("0", &below), 3, "working directory"),
    ] {
        let done = home.run(&args);
        assert!(done.code == code && done.err.contains(says), "{args:?}: {done:?}");
    }
}
