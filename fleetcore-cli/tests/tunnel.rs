//! Tunnels of the real program: in this process, and through a real server and a real agent.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    process::{Child, ChildStdout, Stdio},
    time::Duration,
};

use common::{Home, signal_child, wait_for};
use rustix::process::Signal;

const TOKEN: &str = "fca_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Serves each connection by reading it to its end, then sending all of it back.
fn service() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            std::thread::spawn(move || {
                let mut all = Vec::new();
                if socket.read_to_end(&mut all).is_ok() {
                    let _ = socket.write_all(&all);
                }
            });
        }
    });
    port
}

fn silent_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn pattern(lines: usize) -> Vec<u8> {
    (0..lines).map(|n| format!("{n:07x}\n")).collect::<String>().into_bytes()
}

/// Sends all, ends, and reads what comes back.
fn exchange(address: &str, data: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(60)))?;
    socket.write_all(data)?;
    socket.shutdown(Shutdown::Write)?;
    let mut got = Vec::new();
    socket.read_to_end(&mut got)?;
    Ok(got)
}

/// A running `fleetcore tunnel`; ends with this value.
struct Tunnel {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Tunnel {
    fn start(home: &Home, args: &[&str]) -> Self {
        let mut command = home.command(&["tunnel"]);
        let log = std::fs::File::create(home.path("tunnel.log")).unwrap();
        let mut child = command.args(args).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn stop(mut self, signal: Signal) -> Option<i32> {
        signal_child(&self.child, signal);
        self.child.wait().unwrap().code()
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn log(home: &Home) -> String {
    std::fs::read_to_string(home.path("tunnel.log")).unwrap()
}

#[test]
fn several_in_this_process_until_interrupted() {
    let home = Home::new();
    let (port, silent) = (service(), silent_port());
    let specs = [format!("0:{port}"), format!("localhost:0:localhost:{port}"), format!("0:{silent}")];
    let args: Vec<&str> = ["--local", "local"].into_iter().chain(specs.iter().map(String::as_str)).collect();
    let mut tunnel = Tunnel::start(&home, &args);
    let lines: Vec<String> = (0..3).map(|_| tunnel.line()).collect();
    let addresses: Vec<&str> = lines.iter().map(|l| l.split(' ').next().unwrap()).collect();
    assert_eq!(lines[0], format!("{} -> local 127.0.0.1:{port}", addresses[0]), "{}", log(&home));
    assert_eq!(lines[1], format!("{} -> local localhost:{port}", addresses[1]));
    let data = pattern(100_000);
    for address in &addresses[..2] {
        assert!(exchange(address, &data).unwrap() == data);
    }
    // One that is refused is reset and reported; the others go on.
    assert!(exchange(addresses[2], b"x").is_err());
    wait_for(|| log(&home).contains("refused") && log(&home).contains(&format!("127.0.0.1:{silent}")));
    assert!(exchange(addresses[0], b"still").unwrap() == b"still");
    // Nobody else is kept from the data directory meanwhile.
    let beside = home.run(&["--local", "run", "local", "--", "true"]);
    assert_eq!((beside.code, beside.err.as_str()), (0, ""), "{beside:?}");
    let open = TcpStream::connect(addresses[0]).unwrap();
    assert_eq!(tunnel.stop(Signal::INT), Some(0));
    for address in addresses {
        assert!(TcpStream::connect(address).is_err(), "the port is closed");
    }
    drop(open);
}

#[test]
fn forms_of_output_and_exit_codes() {
    let home = Home::new();
    let port = service();
    let spec = format!("0:{port}");
    let mut json = Tunnel::start(&home, &["--local", "-o", "json", "local", &spec]);
    let line: serde_json::Value = serde_json::from_str(&json.line()).unwrap();
    assert_eq!((&line["target"], &line["remote"]), (&"local".into(), &format!("127.0.0.1:{port}").into()));
    let local = line["local"].as_str().unwrap().to_owned();
    assert!(exchange(&local, b"json").unwrap() == b"json");
    let mut quiet = Tunnel::start(&home, &["--local", "-q", "local", &spec]);
    let address = quiet.line();
    assert!(exchange(&address, b"quiet").unwrap() == b"quiet");
    assert_eq!(quiet.stop(Signal::TERM), Some(0));

    let run = |args: &[&str]| home.run(&[&["--local", "tunnel"], args].concat());
    // The port is taken: nothing of the others stays, and the reason is told.
    let taken = run(&["local", &spec, &format!("{}:{port}", local.rsplit(':').next().unwrap())]);
    assert_eq!(taken.code, 73, "{taken:?}");
    assert!(taken.out.is_empty() && taken.err.contains(&local), "{taken:?}");
    assert_eq!(run(&["ssh/nowhere", &spec]).code, 66);
    for (spec, part) in [("8080", "REMOTE"), ("8080:", "REMOTE"), (":80", "LOCAL"), ("::1:1:2", "address")] {
        let refused = run(&["local", spec]);
        assert_eq!(refused.code, 64, "{refused:?}");
        assert!(
            refused.err.contains("[BIND:]LOCAL:[HOST:]REMOTE") && refused.err.contains(part),
            "{refused:?}"
        );
    }
    assert_eq!(run(&["local"]).code, 64);
    assert_eq!(json.stop(Signal::INT), Some(0));
}

fn serve(home: &Home, port: u16) -> Child {
    let (listen, token) = (format!("127.0.0.1:{port}"), home.path("token"));
    let agents = format!("agent-1={}", token.display());
    let mut command = home.command(&["serve", "--listen", &listen, "--agent-token-file", &agents]);
    command.args(["--agent-heartbeat", "300ms"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn agent(home: &Home, port: u16, allowed: u16) -> Child {
    let (server, token) = (format!("http://127.0.0.1:{port}"), home.path("token"));
    let allow = format!("localhost:{allowed}");
    let args = ["agent", "--server", &server, "--id", "agent-1", "--token-file", token.to_str().unwrap()];
    let mut command = home.command(&args);
    command.args(["--reconnect-first", "20ms", "--reconnect-most", "100ms", "--allow-tunnel", &allow]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn through_an_agent_and_past_a_restart_of_the_server() {
    let home = Home::new();
    std::fs::write(home.path("token"), format!("{TOKEN}\n")).unwrap();
    let (port, allowed, forbidden) = (silent_port(), service(), service());
    let mut server = Ends(serve(&home, port));
    let _agent = Ends(agent(&home, port, allowed));
    let connected = |home: &Home| {
        let targets = home.run(&["--server", &format!("http://127.0.0.1:{port}"), "targets", "-o", "json"]);
        targets.out.contains("\"connected\"")
    };
    wait_for(|| connected(&home));
    let url = format!("http://127.0.0.1:{port}");
    let (good, bad) = (format!("0:localhost:{allowed}"), format!("0:localhost:{forbidden}"));
    let mut tunnel = Tunnel::start(&home, &["--server", &url, "-o", "plain", "agent-1", &good, &bad]);
    let line = tunnel.line();
    let fields: Vec<&str> = line.split('\t').collect();
    assert_eq!(fields[1..], ["agent-1", &format!("localhost:{allowed}")], "{}", log(&home));
    let (address, refused) = (fields[0], tunnel.line());
    let refused = refused.split('\t').next().unwrap();
    let data = pattern(1_000_000);
    assert!(exchange(address, &data).unwrap() == data, "both ways, each to its own end");
    // What the agent does not allow is refused, one connection at a time.
    assert!(exchange(refused, b"x").is_err());
    wait_for(|| log(&home).contains("not allowed"));
    assert!(exchange(address, b"still").unwrap() == b"still");

    // A server that is killed takes its connections along, seen as broken, and nothing else.
    let mut cut = TcpStream::connect(address).unwrap();
    cut.write_all(b"half of it").unwrap();
    server.0.kill().unwrap();
    server.0.wait().unwrap();
    cut.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    assert!(cut.read_to_end(&mut Vec::new()).is_err(), "it would pass for all there was");
    assert!(exchange(address, b"x").is_err());
    server.0 = serve(&home, port);
    wait_for(|| connected(&home));
    // Its token is another one now, which is found like the first.
    wait_for(|| exchange(address, b"again").is_ok_and(|got| got == b"again"));
    assert!(tunnel.child.try_wait().unwrap().is_none(), "{}", log(&home));
    assert_eq!(tunnel.stop(Signal::TERM), Some(0));
    assert!(TcpStream::connect(address).is_err());
}
