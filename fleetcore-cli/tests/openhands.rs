//! The program in the place of OpenHands' runtime.
#![expect(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::TcpListener,
    os::unix::process::ExitStatusExt as _,
    process::{Child, ChildStdout, Stdio},
};

use common::{Home, ask, send, signal_child, wait_for};
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
    serve(command)
}

fn serve(mut command: std::process::Command) -> Runtime {
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

/// A command of the same user must not find the key where the kernel shows the environment and the memory of a process.
#[test]
fn commands_of_the_same_user_cannot_look_into_the_runtime() {
    let home = Home::new();
    let dir = home.path("work");
    std::fs::create_dir_all(&dir).unwrap();
    let mut words = vec!["compat", "openhands-runtime", "0", "--no-enable-browser", "--working-dir"];
    let dir = dir.display().to_string();
    words.push(&dir);
    let mut command = home.command(&words);
    if rustix::process::geteuid().is_root() {
        // Root may look anywhere: it has to be somebody else.
        let program = home.path("fleetcore");
        std::fs::copy(command.get_program(), &program).unwrap();
        let env: Vec<_> = command.get_envs().map(|(k, v)| (k.to_owned(), v.map(ToOwned::to_owned))).collect();
        let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let mut other = std::process::Command::new("setpriv");
        other.env_clear();
        other.args(["--reuid", "64321", "--regid", "64321", "--clear-groups", "--"]).arg(program).args(args);
        for (name, value) in env {
            match value {
                Some(value) => other.env(name, value),
                None => other.env_remove(name),
            };
        }
        let mut dir = home.path("work");
        while dir.starts_with(std::env::temp_dir()) && dir != std::env::temp_dir() {
            std::os::unix::fs::chown(&dir, Some(64321), Some(64321)).unwrap();
            dir = dir.parent().unwrap().to_owned();
        }
        command = other;
    }
    command.env("SESSION_API_KEY", "s3cret").env("FLEETCORE_VIEWER_URL_FILE", home.path("work/viewer"));
    command.env("SU_TO_USER", "false").env("HOME", &dir);
    let runtime = serve(command);
    let pid = runtime.child.id();
    let look = format!(
        "cat /proc/{pid}/environ; cat /proc/{pid}/maps; head -c 1 /proc/{pid}/mem; cat /proc/{pid}/cmdline"
    );
    let (status, all) = ask(&runtime.address, "POST", "/execute_action", KEY, &run(&look));
    assert_eq!(status, 200, "{all}");
    assert!(!all.contains("s3cret") && all.contains("openhands-runtime"), "{all}");
    assert_eq!(all.matches("Permission denied").count(), 3, "{all}");
    // It still measures itself, and what it starts is as open as ever.
    let (_, all) =
        ask(&runtime.address, "POST", "/execute_action", KEY, &run("wc -c < /proc/$$/environ; id -u"));
    assert!(!all.contains("denied"), "{all}");
    let (_, all) = ask(&runtime.address, "GET", "/server_info", "", "");
    assert!(!all.contains(r#""read_bytes":0,"write_bytes":0"#), "{all}");
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

impl Runtime {
    /// Content and exit code of a command.
    fn run(&self, command: &str) -> (String, i64) {
        let body = serde_json::json!({ "action":
            { "action": "run", "args": { "command": command, "blocking": true }, "timeout": 600 } });
        let answer = self.act(&body);
        let code = answer["extras"]["metadata"]["exit_code"].as_i64();
        let code = code.unwrap_or_else(|| panic!("{command}: {answer}"));
        (answer["content"].as_str().unwrap().to_owned(), code)
    }

    fn act(&self, body: &serde_json::Value) -> serde_json::Value {
        let (status, all) = ask(&self.address, "POST", "/execute_action", "", &body.to_string());
        assert_eq!(status, 200, "{body}: {all}");
        serde_json::from_str(all.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// A line of `/proc/PID/status`, in MiB.
    fn memory_mib(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).unwrap();
        line.split_ascii_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
    }
}

fn number(variable: &str, usually: u64) -> u64 {
    std::env::var(variable).map_or(usually, |text| text.parse().unwrap())
}

#[test]
fn a_command_that_takes_too_much_memory_is_ended_and_everybody_is_told() {
    let home = Home::new();
    let runtime = start(&home, &[("RUNTIME_MAX_MEMORY_GB", "1")]);
    // The limit of the shell is for the host, should ours not work.
    let (content, code) = runtime.run("x=kept; (ulimit -v 8000000; exec tail /dev/zero)");
    assert_eq!(code, 137, "{content}");
    let told = "(tail) was killed. It held ";
    assert!(content.contains("[Out of memory: process ") && content.contains(told), "{content}");
    assert!(content.ends_with("the limit of this runtime is 1024 MiB.]"), "{content}");
    // It is told once; the shell lives on, and the server anyway.
    assert_eq!(runtime.run("echo $x"), ("kept".to_owned(), 0));
    let metrics = ask(&runtime.address, "GET", "/metrics", "", "").1;
    for line in
        ["fleetcore_runtime_memory_kills_total 1\n", "fleetcore_runtime_memory_limit_bytes 1073741824\n"]
    {
        assert!(metrics.contains(line), "{metrics}");
    }
    // In the background and of another session, it is told with the next command.
    runtime.run("(ulimit -v 8000000; exec setsid tail /dev/zero) & disown; cd /");
    let killed = || {
        ask(&runtime.address, "GET", "/metrics", "", "")
            .1
            .contains("fleetcore_runtime_memory_kills_total 2\n")
    };
    wait_for(killed);
    let (content, code) = runtime.run("echo later");
    assert!(code == 0 && content.starts_with("later\n[Out of memory: process "), "{content}");
    // A shell that holds too much itself is replaced.
    let (content, code) = runtime.run("ulimit -v 8000000; y=$(tr '\\0' a < /dev/zero)");
    assert!(content.contains("Out of memory") && code != 0, "{code} {content}");
    assert_eq!(runtime.run("echo well").0.lines().next(), Some("well"));
}

#[test]
fn processes_are_listed() {
    let home = Home::new();
    let runtime = start(&home, &[("SESSION_API_KEY", "s3cret")]);
    for path in ["/server_info/processes", "/metrics"] {
        assert_eq!(ask(&runtime.address, "GET", path, "", "").0, 403, "{path}");
    }
    assert_eq!(ask(&runtime.address, "POST", "/execute_action", KEY, &run("sleep 1000 & disown")).0, 200);
    // A process is a copy of its shell until it has become its program.
    wait_for(|| {
        let (status, list) = ask(&runtime.address, "GET", "/server_info/processes", KEY, "");
        assert!(status == 200 && list.contains(r#""name":"bash""#), "{list}");
        list.contains(r#""name":"sleep""#)
    });
    let (status, metrics) = ask(&runtime.address, "GET", "/metrics", KEY, "");
    assert!(status == 200 && metrics.contains("fleetcore_runtime_processes 2\n"), "{metrics}");
    assert!(metrics.contains("fleetcore_runtime_actions_total 1\n"), "{metrics}");
}

/// `FLEETCORE_SURVIVE_ACTIONS`: how many; 1000 otherwise.
#[test]
fn many_actions_leave_nothing_behind() {
    let home = Home::new();
    let runtime = start(&home, &[]);
    let dir = home.path("work").display().to_string();
    let act = |action: &str, args: serde_json::Value| {
        runtime.act(&serde_json::json!({ "action": { "action": action, "args": args, "timeout": 60 } }))
    };
    let turn = |n: u64| match n % 10 {
        0 => drop(act("read", serde_json::json!({ "path": "file" }))),
        1 => drop(act("write", serde_json::json!({ "path": "file", "content": format!("{n}\n") }))),
        2 => {
            let args =
                serde_json::json!({ "path": format!("{dir}/edited"), "command": "create", "file_text": "a" });
            drop(act("edit", args));
            std::fs::remove_file(format!("{dir}/edited")).unwrap();
        }
        3 => assert_eq!(runtime.run("exec 3< /dev/null; exec 3<&-; ls /nonexistent 2>/dev/null").1, 2),
        4 if n % 100 == 4 => {
            let args = serde_json::json!({ "command": "echo static", "is_static": true });
            assert_eq!(act("run", args)["content"], "static");
        }
        5 if n % 100 == 5 => assert_eq!(runtime.run("exit 5").1, 5),
        6 => drop(ask(&runtime.address, "GET", "/server_info", "", "")),
        _ => assert_eq!(runtime.run(&format!("echo {n}")), (n.to_string(), 0)),
    };
    // Buffers and threads that are kept are there after some.
    (0..300).for_each(turn);
    let (files, memory) = (runtime.open_files(), runtime.memory_mib("VmRSS"));
    let all = number("FLEETCORE_SURVIVE_ACTIONS", 1000);
    (300..300 + all).for_each(turn);
    // What belongs to connections and shells that have just ended may still be there for a moment.
    wait_for(|| runtime.open_files() <= files);
    let grown = runtime.memory_mib("VmRSS").saturating_sub(memory);
    assert!(grown <= 16, "{grown} MiB more after {all} actions, {memory} before");
    eprintln!("{all} actions: {files} open files, {memory} MiB and {grown} more");
    let (_, metrics) = ask(&runtime.address, "GET", "/metrics", "", "");
    assert!(metrics.contains("fleetcore_runtime_processes 1\n"), "{metrics}");
}

/// `FLEETCORE_SURVIVE_BYTES`: how many; 200 MB otherwise.
#[test]
fn a_flood_of_output_is_answered_in_bounded_memory() {
    let home = Home::new();
    let runtime = start(&home, &[]);
    let bytes = number("FLEETCORE_SURVIVE_BYTES", 200_000_000);
    let flood = format!("echo first; yes 'a line of a flood of output' | head -c {bytes}; echo; echo last");
    let (content, code) = runtime.run(&flood);
    assert!(code == 0 && content.ends_with("last") && content.len() < 40_000, "{code} {}", content.len());
    let most = runtime.memory_mib("VmHWM");
    assert!(most < 300, "{most} MiB");
    assert_eq!(runtime.run("echo next"), ("next".to_owned(), 0));
    eprintln!("{bytes} bytes: at most {most} MiB");
}
