//! Terminals: the program on a PTY, as a person uses it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{Home, announced, wait_for};
use fleetcore::{
    CommandEvent, CommandHandle, CommandSpec, CommandStream, ExitKind, Fleet, Offset, PtySize, Signal,
};
use futures::StreamExt as _;

/// The program on a terminal.
struct Terminal {
    handle: CommandHandle,
    stream: Box<dyn CommandStream>,
    seen: String,
    /// Where the next search begins, so that one text is found once.
    from: usize,
}

impl Terminal {
    async fn open(home: &Home, args: &[&str]) -> Self {
        let argv = [env!("CARGO_BIN_EXE_fleetcore")].iter().chain(args).copied();
        let spec = CommandSpec::argv(argv)
            .with_pty(PtySize { cols: 100, rows: 30 })
            .with_clear_env()
            .with_env("HOME", home.path("").to_str().unwrap())
            .with_env("PATH", std::env::var("PATH").unwrap())
            .with_env("TERM", "xterm")
            .with_env("SHELL", "/bin/sh")
            .with_env("PS1", "$ ")
            .with_cwd(home.path("").to_str().unwrap());
        let handle = Fleet::local().machine("local").unwrap().spawn(spec).await.unwrap().detach();
        let stream = handle.stream(Offset(0));
        Self { handle, stream, seen: String::new(), from: 0 }
    }

    async fn keys(&self, keys: &str) {
        self.handle.write_stdin(keys.to_owned()).await.unwrap();
    }

    /// Reads until `text` shows up.
    async fn see(&mut self, text: &str) {
        let found = tokio::time::timeout(Duration::from_secs(60), async {
            loop {
                if let Some(at) = self.seen[self.from..].find(text) {
                    self.from += at + text.len();
                    return true;
                }
                match self.stream.next().await.unwrap().unwrap() {
                    CommandEvent::Output(chunk) => self.seen.push_str(&String::from_utf8_lossy(&chunk.data)),
                    CommandEvent::Exited(_) => return false,
                    _ => {}
                }
            }
        });
        assert!(found.await.unwrap_or(false), "{text:?} is not in {:?}", self.seen);
    }

    async fn exit_code(&mut self) -> i32 {
        match tokio::time::timeout(Duration::from_secs(60), self.handle.wait()).await.unwrap().unwrap().kind {
            ExitKind::Code(code) => code,
            other => panic!("{other:?}: {}", self.seen),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_in_process() {
    let home = Home::new();
    let mut terminal = Terminal::open(&home, &["shell"]).await;
    terminal.keys("echo $((6*7))\r").await;
    terminal.see("42").await;
    terminal.keys("stty size\r").await;
    terminal.see("30 100").await;
    terminal.handle.resize(PtySize { cols: 91, rows: 17 }).await.unwrap();
    // The size arrives by signal, in its own time: ask until it is there.
    terminal.keys("until [ \"$(stty size)\" = '17 91' ]; do sleep 0.02; done; echo re''sized\r").await;
    terminal.see("resized").await;
    // Keys are the program's: Ctrl-C ends the inner command, not us.
    // It says so itself, so it surely is in the foreground when the key comes.
    terminal.keys("sh -c \"echo be''gun; exec sleep 1000\"\r").await;
    terminal.see("begun").await;
    terminal.keys("\x03").await;
    // A shell that is being interrupted throws away what is typed meanwhile.
    terminal.see("^C").await;
    terminal.see("$ ").await;
    terminal.keys("echo go''on; exit 5\r").await;
    terminal.see("goon").await;
    assert_eq!(terminal.exit_code().await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_of_a_server_survives_detaching() {
    let home = Home::new();
    let server = home.serve();
    announced(&home);
    let mut terminal = Terminal::open(&home, &["shell"]).await;
    terminal.keys("KEPT=yes; echo re''ady\r").await;
    terminal.see("ready").await;
    terminal.keys("\x1dd").await;
    terminal.see("come back with: fleetcore attach ").await;
    assert_eq!(terminal.exit_code().await, 0);

    let id = home.run(&["ps", "-q"]).ok().out.trim().to_owned();
    let mut terminal = Terminal::open(&home, &["attach", &id[24..]]).await;
    terminal.see("ready").await;
    terminal.keys("echo it=$KEPT; exit 6\r").await;
    terminal.see("it=yes").await;
    assert_eq!(terminal.exit_code().await, 6);
    assert_eq!(server.stop(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_screen_is_put_right_when_the_program_is_lost() {
    let home = Home::new();
    let _server = home.serve();
    announced(&home);
    let mut terminal = Terminal::open(&home, &["shell"]).await;
    terminal.keys("echo re''ady\r").await;
    terminal.see("ready").await;
    terminal.handle.signal(Signal::Terminate).await.unwrap();
    terminal.see("\x1b[?1049l").await;
    assert_eq!(terminal.exit_code().await, 143);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_nobody_uses_is_closed() {
    let home = Home::new();
    let _server = home.serve_with(&["--session-idle", "100ms"], &[]);
    announced(&home);
    let mut terminal = Terminal::open(&home, &["shell", "--session", "work"]).await;
    terminal.keys("echo re''ady\r").await;
    terminal.see("ready").await;
    terminal.keys("\x1dd").await;
    assert_eq!(terminal.exit_code().await, 0);
    // How it ended stays to be read for a while.
    wait_for(|| home.run(&["sessions", "-o", "json"]).ok().json()[0]["ended"].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_session_is_joined_again() {
    let home = Home::new();
    let _server = home.serve();
    announced(&home);
    let mut terminal = Terminal::open(&home, &["shell", "--session", "work"]).await;
    terminal.keys("KEPT=yes; echo re''ady\r").await;
    terminal.see("ready").await;
    terminal.keys("\x1dd").await;
    assert_eq!(terminal.exit_code().await, 0);

    let sessions = home.run(&["sessions", "-o", "json"]).ok().json();
    assert_eq!(sessions[0]["id"], "work");
    let mut terminal = Terminal::open(&home, &["shell", "--session", "work"]).await;
    terminal.keys("echo it=$KEPT\r").await;
    terminal.see("it=yes").await;
    terminal.keys("\x1dd").await;
    assert_eq!(terminal.exit_code().await, 0);
    home.run(&["kill", "work"]).ok();
    assert_eq!(home.run(&["sessions", "-q"]).ok().out, "");
}
