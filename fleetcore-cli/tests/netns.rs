//! Server and agent on two hosts as far as the network can tell: a network namespace each and a cable between them, which
//! is pulled in the middle of output. Nobody is told: packets are lost and no connection is reset.
//!
//! Needs root and `ip` (Debian: iproute2), and says so where they are missing.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::{
    fs::File,
    io::{Read, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use common::Home;

/// Long enough for a slow machine; nothing waits for it when all is well.
const LIMIT: Duration = Duration::from_secs(120);
const TOKEN: &str = "fca_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
/// Silence on the cable is noticed after three of these.
const HEARTBEAT: &str = "100ms";
const PORT: u16 = 4000;
const SERVER: &str = "10.0.0.1";
const AGENT: &str = "10.0.0.2";
/// The end of the cable in each namespace.
const END: &str = "cable";
/// Names of namespaces begin with this and the number of our process.
const PREFIX: &str = "fleetcore-test";

/// Bytes between two cuts: more than can wait on the way, so that the output has crossed the cable in between.
const STEP: usize = 3_000_000;
/// Bytes of a line of [`line`].
const LINE: usize = 8;

fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let done = Command::new(program).args(args).output().map_err(|e| format!("{program}: {e}"))?;
    match done.status.success() {
        true => Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
        false => Err(format!("{program} {args:?}: {}", String::from_utf8_lossy(&done.stderr).trim())),
    }
}

/// A network namespace; gone with this value.
struct Namespace(String);

impl Namespace {
    fn new(name: String) -> Result<Self, String> {
        // The first one of all makes a mount that the others share.
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock().unwrap_or_else(|e| e.into_inner());
        sweep();
        run("ip", &["netns", "add", &name])?;
        Ok(Self(name))
    }

    fn ip(&self, args: &[&str]) {
        run("ip", &[&["-n", &self.0], args].concat()).unwrap();
    }

    /// The same program, in here.
    fn inside(&self, command: &Command) -> Command {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &self.0]).arg(command.get_program()).args(command.get_args());
        inside.env_clear().current_dir(command.get_current_dir().unwrap_or(Path::new("/")));
        inside.envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))));
        inside
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = run("ip", &["netns", "del", &self.0]) {
            eprintln!("{error}");
        }
    }
}

/// Removes what a test that was killed has left.
fn sweep() {
    let Ok(known) = run("ip", &["netns", "list"]) else { return };
    for name in known.lines().filter_map(|l| l.split(' ').next()) {
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').nth(1));
        if process.is_some_and(|p| !Path::new("/proc").join(p).exists()) {
            // Another test may be faster.
            let _ = run("ip", &["netns", "del", name]);
        }
    }
}

/// Where a cable is pulled.
#[derive(Clone, Copy)]
enum Side {
    Server,
    Agent,
}

/// A server, an agent, and the cable between them.
struct Rig {
    home: Home,
    children: Vec<Child>,
    // After the children: a namespace lives as long as somebody is in it.
    server: Namespace,
    agent: Namespace,
}

impl Drop for Rig {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for name in ["serve.log", "agent.log"] {
                let text = std::fs::read_to_string(self.home.path(name)).unwrap_or_default();
                let tail: Vec<&str> = text.lines().rev().take(40).collect();
                eprintln!("{name}, newest first:\n{}", tail.join("\n"));
            }
        }
    }
}

impl Rig {
    /// `None`, and why on standard error, where namespaces cannot be made.
    fn new(test: &str) -> Option<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = |side| format!("{PREFIX}-{}-{n}-{side}", std::process::id());
        let both = Namespace::new(name("server")).and_then(|s| Ok((s, Namespace::new(name("agent"))?)));
        let (server, agent) = match both {
            Ok(both) => both,
            Err(why) => {
                eprintln!("SKIPPED {test}: it needs root and ip (apt-get install iproute2): {why}");
                return None;
            }
        };
        server.ip(&["link", "add", END, "type", "veth", "peer", "name", END, "netns", &agent.0]);
        for (namespace, address) in [(&server, SERVER), (&agent, AGENT)] {
            namespace.ip(&["address", "add", &format!("{address}/24"), "dev", END]);
            namespace.ip(&["link", "set", "lo", "up"]);
            namespace.ip(&["link", "set", END, "up"]);
        }
        let mut rig = Self { home: Home::new(), children: vec![], server, agent };
        std::fs::write(rig.home.path("token"), TOKEN).unwrap();
        let listen = format!("0.0.0.0:{PORT}");
        let serve = ["serve", "--listen", &listen, "--agent-token-file", "agent-1=token"];
        rig.start(Side::Server, &[&serve[..], &["--agent-heartbeat", HEARTBEAT]].concat());
        let at = format!("http://{SERVER}:{PORT}");
        let agent = ["agent", "--server", &at, "--id", "agent-1", "--token-file", "token"];
        let again = ["--reconnect-first", "20ms", "--reconnect-most", "100ms"];
        rig.start(Side::Agent, &[&agent[..], &again].concat());
        rig.until("the agent connects", || {
            rig.connections() > 0 && rig.home.data_dir().join("server.json").exists()
        });
        Some(rig)
    }

    fn start(&mut self, side: Side, args: &[&str]) {
        let (namespace, log) = match side {
            Side::Server => (&self.server, "serve.log"),
            Side::Agent => (&self.agent, "agent.log"),
        };
        let mut command = namespace.inside(&self.home.command(args));
        let log = File::create(self.home.path(log)).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.children.push(command.spawn().unwrap());
    }

    /// Runs something on the agent, from a client on the server's host.
    fn client(&self, args: &[&str]) -> Child {
        let url = format!("http://127.0.0.1:{PORT}");
        let all = [&["--server", &url, "run", "agent-1"], args].concat();
        let mut command = self.server.inside(&self.home.command(&all));
        let log = File::create(self.home.path("run.log")).unwrap();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn().unwrap()
    }

    fn log(&self, text: &str) -> usize {
        let log = std::fs::read_to_string(self.home.path("serve.log")).unwrap_or_default();
        log.lines().filter(|line| line.contains(text)).count()
    }

    /// Links there have been so far.
    fn connections(&self) -> usize {
        self.log("the agent is connected")
    }

    fn until(&self, what: &str, mut so: impl FnMut() -> bool) {
        let started = Instant::now();
        while !so() {
            assert!(started.elapsed() < LIMIT, "in vain: {what}");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    fn pull(&self, side: Side) {
        self.end(side, "down");
    }

    fn plug(&self, side: Side) {
        self.end(side, "up");
    }

    fn end(&self, side: Side, state: &str) {
        let namespace = match side {
            Side::Server => &self.server,
            Side::Agent => &self.agent,
        };
        namespace.ip(&["link", "set", END, state]);
    }

    /// Until the silence is noticed, and a little of the connection that comes after.
    fn cut(&self, side: Side) {
        let (ended, before) = (self.log("the agent's link ended"), self.connections());
        self.pull(side);
        self.until("the server notices", || self.log("the agent's link ended") > ended);
        self.plug(side);
        self.until("the agent comes back", || self.connections() > before);
    }

    /// Shorter than anybody notices but the kernel, which sends again what was lost.
    fn blink(&self, side: Side) {
        self.pull(side);
        self.plug(side);
    }
}

fn line(n: usize) -> String {
    format!("{n:07x}\n")
}

/// Writes `lines` lines.
fn script(lines: usize) -> String {
    format!("awk 'BEGIN {{ for (i = 0; i < {lines}; i++) printf \"%07x\\n\", i }}'")
}

/// Reads what [`script`] writes; every byte must be the right one.
struct Reader<R> {
    from: R,
    at: usize,
}

impl<R: Read> Reader<R> {
    fn to(&mut self, end: usize) {
        let mut buffer = vec![0; 64 << 10];
        while self.at < end {
            let most = buffer.len().min(end - self.at);
            let n = self.from.read(&mut buffer[..most]).unwrap();
            assert!(n > 0, "it ended after {} bytes of {end}", self.at);
            self.check(&buffer[..n]);
        }
    }

    fn check(&mut self, bytes: &[u8]) {
        let first = self.at / LINE;
        let last = (self.at + bytes.len()).div_ceil(LINE);
        let want: String = (first..last).map(line).collect();
        let skip = self.at % LINE;
        assert!(
            want.as_bytes()[skip..].starts_with(bytes),
            "at byte {}: {:?}",
            self.at,
            String::from_utf8_lossy(&bytes[..bytes.len().min(80)])
        );
        self.at += bytes.len();
    }

    fn nothing_more(mut self) {
        let mut rest = vec![];
        self.from.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty(), "{} bytes too many", rest.len());
    }
}

/// Odd places, so that messages are cut in the middle, too.
fn place(cut: usize) -> usize {
    cut * STEP + cut * 13 % 997
}

/// Reads the output of one command through `cuts` cuts.
fn output_is_whole(rig: &Rig, cuts: usize, cut: impl Fn(usize)) {
    let lines = (cuts + 1) * STEP / LINE;
    let mut client = rig.client(&["--no-stdin", "-c", &format!("{}; exit 7", script(lines))]);
    let mut output = Reader { from: client.stdout.take().unwrap(), at: 0 };
    for n in 1..=cuts {
        output.to(place(n).min(lines * LINE));
        cut(n);
    }
    output.to(lines * LINE);
    output.nothing_more();
    assert_eq!(client.wait().unwrap().code(), Some(7));
}

/// 40 of the 100 cuts: the agent's own end of the cable is out, as when Wi-Fi drops.
#[test]
fn output_is_whole_when_the_agents_network_goes() {
    let Some(rig) = Rig::new("output_is_whole_when_the_agents_network_goes") else { return };
    output_is_whole(&rig, 40, |_| rig.cut(Side::Agent));
    assert!(rig.connections() > 40);
}

/// 20 more: nothing at the agent's host says that the server cannot be reached, packets just vanish.
#[test]
fn output_is_whole_when_packets_vanish() {
    let Some(rig) = Rig::new("output_is_whole_when_packets_vanish") else { return };
    output_is_whole(&rig, 20, |_| rig.cut(Side::Server));
    assert!(rig.connections() > 20);
}

/// 40 more, both ways at once: input and output of one command, through cuts that are noticed and ones that are not.
#[test]
fn input_and_output_are_whole() {
    let Some(rig) = Rig::new("input_and_output_are_whole") else { return };
    let lines = 41 * STEP / LINE;
    let mut client = rig.client(&["--", "cat"]);
    let mut input = client.stdin.take().unwrap();
    let typing = std::thread::spawn(move || {
        for first in (0..lines).step_by(1000) {
            let part: String = (first..lines.min(first + 1000)).map(line).collect();
            input.write_all(part.as_bytes()).unwrap();
        }
    });
    let mut output = Reader { from: client.stdout.take().unwrap(), at: 0 };
    for n in 1..=40 {
        output.to(place(n));
        match n % 4 {
            0 => rig.cut(Side::Agent),
            1 => rig.blink(Side::Server),
            _ => rig.blink(Side::Agent),
        }
    }
    output.to(lines * LINE);
    typing.join().unwrap();
    output.nothing_more();
    assert_eq!(client.wait().unwrap().code(), Some(0));
}
