//! The real program, in a home of its own.
#![allow(dead_code, reason = "each test program uses a part")]

use std::{
    io::{BufRead, BufReader, Read as _, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use tempfile::TempDir;

/// A home directory; programs started in it see nothing of the developer's settings.
pub(crate) struct Home {
    dir: TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.path(".local/share/fleetcore")
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fleetcore"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", self.dir.path());
        command.current_dir(self.dir.path()).args(args).stdin(Stdio::null());
        command
    }

    /// Runs to the end.
    pub(crate) fn run(&self, args: &[&str]) -> Done {
        Done::of(self.command(args).output().unwrap())
    }

    /// Runs with this on stdin.
    pub(crate) fn feed(&self, args: &[&str], input: &[u8]) -> Done {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let done = Done::of(child.wait_with_output().unwrap());
        let _ = writer.join().unwrap();
        done
    }

    pub(crate) fn serve(&self) -> Server {
        self.serve_with(&[], &[])
    }

    /// Exit code of a server that cannot start.
    pub(crate) fn serve_fails(&self) -> i32 {
        self.run(&["serve", "--listen", "127.0.0.1:0"]).code
    }

    pub(crate) fn serve_with(&self, args: &[&str], env: &[(&str, &str)]) -> Server {
        let mut command = self.command(&["serve", "--listen", "127.0.0.1:0"]);
        command.args(args).envs(env.iter().copied()).stdout(Stdio::piped());
        command.stderr(std::fs::File::create(self.path("serve.log")).unwrap());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut url = String::new();
        lines.read_line(&mut url).unwrap();
        let url = url.trim_end().to_owned();
        assert!(
            url.starts_with("http"),
            "no address: {}",
            std::fs::read_to_string(self.path("serve.log")).unwrap()
        );
        Server { child, url, lines }
    }
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) raw: Vec<u8>,
}

impl Done {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
            raw: output.stdout,
        }
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// A running server; ends with this value.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) url: String,
    lines: BufReader<std::process::ChildStdout>,
}

impl Server {
    /// The second line of the first start.
    pub(crate) fn password(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().strip_prefix("admin password: ").unwrap().to_owned()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        signal_child(&self.child, signal);
    }

    /// Ends it without warning.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, then the exit code.
    pub(crate) fn stop(mut self) -> i32 {
        self.signal(rustix::process::Signal::TERM);
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn signal_child(child: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).unwrap();
}

/// Waits until the announcement of the server is there, without guessing how long that takes.
pub(crate) fn announced(home: &Home) {
    wait_for(|| home.data_dir().join("server.json").exists());
}

/// Asks again until it is so; gives up after a minute.
pub(crate) fn wait_for(mut so: impl FnMut() -> bool) {
    let started = std::time::Instant::now();
    while !so() {
        assert!(started.elapsed().as_secs() < 60, "it never came to be");
        std::thread::yield_now();
    }
}

pub(crate) fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Sends a request to a server at an address or a URL, and reads nothing yet.
pub(crate) fn send(server: &str, method: &str, path: &str, headers: &str, body: &str) -> TcpStream {
    let address = server.strip_prefix("http://").unwrap_or(server);
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )
    .unwrap();
    stream
}

/// Status, and the whole answer.
pub(crate) fn ask(server: &str, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
    let mut all = String::new();
    send(server, method, path, headers, body).read_to_string(&mut all).unwrap();
    (all[9..12].parse().unwrap(), all)
}
