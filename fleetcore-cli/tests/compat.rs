//! The program under the names of those it stands in for.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, ChildStdout, Command, Stdio},
};

use common::{Home, ask, signal_child};
use rustix::process::Signal;

const PASSWORD: &str = "correct horse battery";

/// The value of the `Cookie` header after logging in.
fn login(url: &str, password: &str) -> String {
    let body = format!(r#"{{"username":"admin","password":"{password}"}}"#);
    let (status, all) = ask(url, "POST", "/api/auth/login", "Content-Type: application/json\r\n", &body);
    assert_eq!(status, 200, "{all}");
    let cookie = all.lines().find_map(|l| l.strip_prefix("set-cookie: ")).unwrap();
    cookie.split(';').next().unwrap().to_owned()
}

struct Program {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Program {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
    fn stop(mut self) -> i32 {
        signal_child(&self.child, Signal::TERM);
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program linked under another name.
fn linked(home: &Home, name: &str) -> Command {
    let link = home.path(name);
    let _ = std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_fleetcore"), &link);
    let mut command = Command::new(&link);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", home.path(""));
    command.current_dir(home.path("")).stdin(Stdio::null());
    command
}

#[test]
fn a_link_under_the_name_of_the_original_is_the_original() {
    let home = Home::new();
    let start = || {
        let mut command = linked(&home, "batwa-server");
        command.env("PORT", "0").env("BATWA_MULTIPASS", "/nonexistent/multipass");
        command
    };
    let mut first = Program::start(start());
    let url = first.line();
    assert!(url.starts_with("http://127.0.0.1:"), "{url}");
    let password = first.line().strip_prefix("admin password: ").unwrap().to_owned();
    assert!(first.line().starts_with("agent key: "));
    let cookie = login(&url, &password);
    let (status, all) = ask(&url, "GET", "/api/vm/list", &format!("Cookie: {cookie}\r\n"), "");
    assert!(status == 200 && all.contains(r#"{"success":true,"vms":[]"#), "{all}");
    assert_eq!(first.stop(), 0);

    // Passwords and logins survive; nothing secret is printed again.
    let mut again = Program::start(start());
    let url = again.line();
    let (_, all) = ask(&url, "GET", "/api/auth/check", &format!("Cookie: {cookie}\r\n"), "");
    assert!(all.contains(r#""username":"admin""#), "{all}");
    assert_eq!(again.stop(), 0);
}

#[test]
fn the_agent_takes_the_flags_and_variables_of_the_original() {
    let home = Home::new();
    let mut command = linked(&home, "batwa-agent");
    command.args(["--agent-id=my-agent", "--host", "127.0.0.1", "-port", "0"]).env("API_KEY", "k");
    let mut agent = Program::start(command);
    let url = agent.line();
    let (status, all) = ask(&url, "GET", "/health", "", "");
    assert!(status == 200 && all.contains(r#""agent_id":"my-agent""#), "{all}");
    assert_eq!(ask(&url, "GET", "/api/vm/list", "", "").0, 403);
    assert_eq!(agent.stop(), 0);

    for (args, code, says) in [
        (&[][..], 2, "the following arguments are required: --agent-id"),
        (&["--agent-id", "a", "--port", "abc"], 2, "invalid int value: 'abc'"),
        (&["--agent-id", "a", "--bogus"], 2, "unrecognized arguments: --bogus"),
    ] {
        let done = home.run(&[&["compat", "batwa-agent"], args].concat());
        assert!(done.code == code && done.err.contains(says), "{args:?}: {done:?}");
    }
    let help = home.run(&["compat", "batwa-agent", "--help"]);
    assert!(help.code == 0 && help.out.contains("--heartbeat-interval"), "{help:?}");
    let unknown = home.run(&["compat", "nope"]);
    assert!(unknown.code == 66 && unknown.err.contains("batwa-server"), "{unknown:?}");
}

#[test]
fn a_full_server_has_the_dialect_as_a_further_listener() {
    let home = Home::new();
    let mut command =
        home.command(&["serve", "--listen", "127.0.0.1:0", "--compat", "batwa-server=127.0.0.1:0"]);
    command.env("FLEETCORE_ADMIN_PASSWORD", PASSWORD).env("BATWA_ENROL_KEY", "enrol");
    let mut server = Program::start(command);
    let native = server.line();
    let batwa = server.line().strip_prefix("batwa-server ").unwrap().to_owned();
    assert_eq!(ask(&native, "GET", "/healthz", "", "").0, 200);
    // The same people.
    let cookie = login(&batwa, PASSWORD);
    let body = r#"{"agent_id":"a1","hostname":"h","api_url":"http://127.0.0.1:9","api_key":"enrol"}"#;
    let (status, all) =
        ask(&batwa, "POST", "/api/agent/register", "Content-Type: application/json\r\n", body);
    assert_eq!(status, 200, "{all}");
    let (_, all) = ask(&batwa, "GET", "/api/agent/list", &format!("Cookie: {cookie}\r\n"), "");
    assert!(all.contains(r#""agent_id":"a1""#), "{all}");
    assert_eq!(server.stop(), 0);
    let bad = home.run(&["serve", "--listen", "127.0.0.1:0", "--compat", "nope=127.0.0.1:0"]);
    assert_eq!(bad.code, 66, "{bad:?}");
}

#[test]
fn recorded_command_lines_end_as_recorded() {
    let Some(records) = fleetcore_testkit::recorded("batwa", "interop/agent_cli.jsonl") else { return };
    let home = Home::new();
    let mut compared = 0;
    for record in &records {
        let Some(args) = record["args"].as_array() else { continue };
        let args: Vec<&str> = args.iter().map(|a| a.as_str().unwrap()).collect();
        // The name the original had in its own complaints.
        let done = linked(&home, "agent_main.py").args(&args).output().unwrap();
        let (code, out, err) = (
            done.status.code().unwrap(),
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr),
        );
        let python = record["impl"] == "python";
        // Without an id the Go version says 1 where everything else about arguments is 2.
        let go_alone = record["impl"] == "go" && args.is_empty();
        assert_eq!(
            i64::from(code),
            if go_alone { 2 } else { record["rc"].as_i64().unwrap() },
            "{record} {err}"
        );
        if code == 0 {
            for flag in ["agent-id", "api-key", "master-url", "port", "host", "heartbeat-interval"] {
                assert!(out.contains(&format!("--{flag}")), "{out}");
            }
            assert!(err.is_empty(), "{err}");
        } else if python {
            let complaint = record["stderr"].as_str().unwrap().lines().last().unwrap();
            assert_eq!(err.lines().last().unwrap(), complaint);
        }
        compared += 1;
    }
    assert!(compared >= 12, "{compared}");

    // The script.
    let script = |case: &str| records.iter().find(|r| r["case"] == case).unwrap();
    let missing = script("multipass missing");
    let done = linked(&home, "start_agent.sh").env("PATH", home.path("")).output().unwrap();
    assert_eq!(i64::from(done.status.code().unwrap()), missing["rc"].as_i64().unwrap());
    let said = String::from_utf8_lossy(&done.stderr);
    let wanted = missing["output"].as_str().unwrap();
    let end = wanted.rfind("Error: ").unwrap();
    assert!(said.ends_with(&wanted[end..]), "{said} {done:?}");

    let stand_in = home.path("bin");
    std::fs::create_dir(&stand_in).unwrap();
    std::os::unix::fs::symlink("/bin/true", stand_in.join("multipass")).unwrap();
    let mut command = linked(&home, "start_agent.sh");
    for (name, value) in script("all variables")["env"].as_object().unwrap() {
        command.env(name, value.as_str().unwrap());
    }
    command.env("AGENT_PORT", "0").env("PATH", &stand_in);
    let mut agent = Program::start(command);
    let url = agent.line();
    assert!(ask(&url, "GET", "/health", "", "").1.contains(r#""agent_id":"envagent""#));
    assert_eq!(ask(&url, "GET", "/api/vm/list", "", "").0, 403, "its key is set");
    assert_eq!(agent.stop(), 0);
    // D17: nothing is evaluated.
    let injected = &script("AGENT_ID with a command substitution")["env"]["AGENT_ID"];
    let done = linked(&home, "start_agent.sh")
        .env("PATH", &stand_in)
        .env("AGENT_ID", injected.as_str().unwrap())
        .output()
        .unwrap();
    assert_eq!(done.status.code(), Some(2), "{done:?}");
}

#[test]
fn a_link_is_the_same_as_the_verb() {
    let home = Home::new();
    for (name, args, code) in [
        ("batwa-server", &["--help"][..], 0),
        ("batwa-server", &["--bogus"], 2),
        ("batwa-server", &["--port", "x"], 2),
        ("batwa-server", &["--ui-dir", "/nowhere"], 2),
        ("batwa-agent", &["--help"], 0),
        ("batwa-agent", &[], 2),
        ("batwa-agent", &["--agent-id", "a", "--api-key="], 2),
    ] {
        let link = linked(&home, name).args(args).output().unwrap();
        let verb = home.run(&[&["compat", name], args].concat());
        assert_eq!((link.status.code(), verb.code), (Some(code), code), "{name} {args:?}");
        assert_eq!(String::from_utf8_lossy(&link.stdout), verb.out, "{name} {args:?}");
        assert_eq!(String::from_utf8_lossy(&link.stderr), verb.err, "{name} {args:?}");
    }
}
