//! Joining, and agents as services, with the real program.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

use common::{Home, Server, announced, mode, wait_for};

struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server, and a home of another user on another host, as far as the program can tell.
fn rig() -> (Home, Server, Home) {
    let home = Home::new();
    let server = home.serve_with(&["--agent-heartbeat", "300ms"], &[]);
    announced(&home);
    (home, server, Home::new())
}

fn code(home: &Home) -> String {
    home.run(&["agents", "join-code", "-q", "--label", "role=web"]).ok().out.trim().to_owned()
}

fn start(host: &Home, args: &[&str]) -> Agent {
    let log = std::fs::File::options().create(true).append(true).open(host.path("agent.log")).unwrap();
    let mut command = host.command(args);
    command.args(["--reconnect-first", "20ms", "--reconnect-most", "100ms"]);
    Agent(command.stdout(Stdio::null()).stderr(log).spawn().unwrap())
}

fn agents(home: &Home) -> serde_json::Value {
    home.run(&["agents", "ls", "-o", "json"]).ok().json()
}

fn online(home: &Home, id: &str) {
    wait_for(|| {
        agents(home)
            .as_array()
            .unwrap()
            .iter()
            .any(|a| a["id"] == id && a["connected"] == true && !a["load"].is_null())
    });
}

#[test]
fn a_host_joins_comes_back_and_is_put_out() {
    let (home, server, host) = rig();
    let made = home.run(&["agents", "join-code"]).ok();
    assert!(
        made.out.starts_with(&format!("fleetcore agent --server {} --join fcj_", server.url)),
        "{made:?}"
    );
    let code = code(&home);
    let mut agent = start(&host, &["agent", "--server", &server.url, "--join", &code, "--id", "office-1"]);
    online(&home, "office-1");
    let kept = host.data_dir().join("agent-data/agent.json");
    assert_eq!(mode(&kept), 0o600);
    let table = home.run(&["agents"]).ok();
    assert!(table.out.contains("office-1") && table.out.contains("online"), "{table:?}");
    assert_eq!(agents(&home)[0]["labels"]["role"], "web");
    assert_eq!(home.run(&["run", "office-1", "-c", "exit 7"]).code, 7);
    agent.0.kill().unwrap();
    agent.0.wait().unwrap();
    // The same command line again, as a container would; then without the code.
    drop(start(&host, &["agent", "--server", &server.url, "--join", &code, "--id", "office-1"]));
    let mut agent = start(&host, &["agent"]);
    online(&home, "office-1");

    home.run(&["agents", "rm", "office-1"]).ok();
    assert_eq!(agent.0.wait().unwrap().code(), Some(77), "it was told");
    assert_eq!(agents(&home).as_array().unwrap().len(), 0);
    assert_eq!(home.run(&["agents", "rm", "office-1"]).code, 66);

    // A code works once, and nothing of it is left where it failed.
    let other = Home::new();
    let refused = other.run(&["agent", "--server", &server.url, "--join", &code, "--id", "office-2"]);
    assert_eq!(refused.code, 77, "{refused:?}");
    assert!(refused.err.contains("join-code") && !refused.err.contains(&code), "{refused:?}");
    assert!(!other.data_dir().join("agent-data/agent.json").exists());
    let unknown = other.run(&["agent", "--server", &server.url]);
    assert_eq!(unknown.code, 64, "{unknown:?}");
}

/// Whether systemd understands a unit, where there is one to ask.
fn verify(unit: &str, dir: &Path) {
    let path = dir.join("fleetcore-agent.service");
    std::fs::write(&path, unit).unwrap();
    let Ok(done) = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output() else {
        eprintln!("no systemd-analyze: not verified");
        return;
    };
    let said = String::from_utf8_lossy(&done.stderr);
    // Of its own units it may say what it likes.
    let ours: Vec<&str> = said.lines().filter(|l| l.contains("fleetcore-agent.service")).collect();
    assert!(ours.is_empty(), "{ours:?}\n{unit}");
}

#[test]
fn definitions_are_printed_and_systemd_understands_them() {
    let home = Home::new();
    let server = "https://fleet.example";
    for more in [
        &["--user"][..],
        &["--system"],
        &["--system", "--confine", "--run-as", "daemon"],
        &["--user", "--confine"],
    ] {
        let args = [
            "agent",
            "install",
            "--server",
            server,
            "--init",
            "systemd",
            "--dry-run",
            "--join",
            "fcj_secret",
        ];
        let odd = ["--label", "room=50% of $HOME \"x\""];
        let printed = home.run(&[&args, more, &odd].concat()).ok();
        assert!(!printed.out.contains("fcj_secret"), "{printed:?}");
        assert!(printed.out.contains("--label=room=50%% of $$HOME \\\"x\\\"\""), "{printed:?}");
        verify(&printed.out, home.path("").as_path());
    }
    let plist =
        home.run(&["agent", "install", "--server", server, "--init", "launchd", "--user", "--dry-run"]).ok();
    assert!(plist.out.contains("<string>--server=https://fleet.example</string>"), "{plist:?}");
    for bad in [
        &["--run-as", "a b"][..],
        &["--user", "--run-as", "x"],
        &["--user", "--system"],
        &["--label", "a=\n"],
    ] {
        let args = ["agent", "install", "--server", server, "--system", "--init", "systemd", "--dry-run"];
        let args = if bad[0] == "--user" { &args[..4] } else { &args[..] };
        assert_eq!(home.run(&[args, bad].concat()).code, 64, "{bad:?}");
    }
    assert_eq!(home.run(&["agent", "install", "--dry-run"]).code, 64, "no server");
}

#[test]
fn a_service_is_written_without_a_secret_and_removed() {
    let (home, server, host) = rig();
    let code = code(&home);
    let place = ["--user", "--init", "systemd"];
    let install =
        ["agent", "install", "--server", &server.url, "--no-start", "--id", "office-1", "--join", &code];
    let done = host.run(&[&install, &place[..]].concat()).ok();
    assert_eq!(done.out, "office-1\n");
    let unit = host.path(".config/systemd/user/fleetcore-agent.service");
    let kept = host.data_dir().join("agent-data/agent.json");
    assert_eq!(mode(&kept), 0o600);
    let identity: serde_json::Value = serde_json::from_slice(&std::fs::read(&kept).unwrap()).unwrap();
    let text = std::fs::read_to_string(&unit).unwrap();
    assert!(!text.contains(&code) && !text.contains(identity["token"].as_str().unwrap()), "{text}");
    // Again, without a code: it has joined.
    let again = ["agent", "install", "--server", &server.url, "--no-start", "--label", "a=b"];
    host.run(&[&again, &place[..]].concat()).ok();
    assert!(std::fs::read_to_string(&unit).unwrap().contains("--label=a=b"));

    // What the unit runs is an agent that connects.
    let line = text.lines().find_map(|l| l.strip_prefix("ExecStart=")).unwrap();
    let words: Vec<&str> = line.split(' ').skip(1).collect();
    let agent = start(&host, &words);
    online(&home, "office-1");
    drop(agent);

    let uninstall = ["agent", "uninstall", "--no-stop"];
    host.run(&[&uninstall, &place[..]].concat()).ok();
    assert!(!unit.exists() && kept.exists());
    assert_eq!(host.run(&[&uninstall, &place[..]].concat()).code, 66);
    host.run(&[&uninstall[..], &["--purge"], &place].concat()).ok();
    assert!(!kept.exists());
}
