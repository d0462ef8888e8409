//! Terminals over real WebSockets and real terminals.

use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Message, client::IntoClientRequest as _},
};

use crate::common::*;

pub(crate) struct Terminal {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub(crate) seen: Vec<u8>,
    pub(crate) texts: String,
    pub(crate) code: Option<u16>,
    pub(crate) largest: usize,
}

impl Terminal {
    pub(crate) async fn open(server: &Running, path: &str, headers: &[(&str, &str)]) -> Self {
        Self::try_open(server, path, headers).await.expect("a terminal")
    }

    pub(crate) async fn try_open(
        server: &Running,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, u16> {
        let mut request = format!("ws://{}{path}", server.address).into_client_request().unwrap();
        for (name, value) in headers {
            let name: axum::http::HeaderName = name.parse().unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        match tokio_tungstenite::connect_async(request).await {
            Ok((socket, reply)) => {
                assert!(reply.headers().get("sec-websocket-protocol").is_none());
                Ok(Self { socket, seen: Vec::new(), texts: String::new(), code: None, largest: 0 })
            }
            Err(tokio_tungstenite::tungstenite::Error::Http(reply)) => Err(reply.status().as_u16()),
            Err(e) => panic!("{e}"),
        }
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    pub(crate) async fn send_bytes(&mut self, data: &[u8]) {
        self.socket.send(Message::binary(data.to_vec())).await.unwrap();
    }

    /// Reads until it holds; `false` when the other side closed before.
    pub(crate) async fn until(&mut self, done: impl Fn(&Self) -> bool) -> bool {
        let reading = async {
            while !done(self) {
                match self.socket.next().await {
                    Some(Ok(Message::Binary(data))) => {
                        self.largest = self.largest.max(data.len());
                        self.seen.extend_from_slice(&data);
                    }
                    Some(Ok(Message::Text(text))) => self.texts.push_str(&text),
                    Some(Ok(Message::Close(frame))) => self.code = frame.map(|f| f.code.into()),
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return done(self),
                }
            }
            true
        };
        match tokio::time::timeout(LIMIT, reading).await {
            Ok(held) => held,
            Err(_) => panic!("never; seen {:?} and {:?}", self.shown(), self.texts),
        }
    }

    pub(crate) async fn until_text(&mut self, text: &str) {
        let found = self.until(|t| t.shown().contains(text)).await;
        assert!(found, "no {text:?} in {:?}", self.shown());
    }

    /// Reads to the end; gives the close code.
    pub(crate) async fn end(&mut self) -> Option<u16> {
        self.until(|_| false).await;
        self.code
    }

    pub(crate) fn shown(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    pub(crate) async fn close(mut self) {
        let _ = self.socket.close(None).await;
    }

    /// Cuts the connection with a reset.
    pub(crate) fn reset(self) {
        if let MaybeTlsStream::Plain(stream) = self.socket.get_ref() {
            #[expect(deprecated, reason = "a reset is what the test is about")]
            stream.set_linger(Some(Duration::ZERO)).unwrap();
        }
    }
}

async fn master() -> (Multipass, Running, String) {
    let multipass = Multipass::local();
    for name in ["echo", "raw", "size", "deaf"] {
        multipass.set(&format!("vms/{name}"), "Running\n[]\nUbuntu 22.04 LTS\n1\n");
    }
    let master = Running::master(&multipass, &[]).await;
    let cookie = master.login().await;
    (multipass, master, cookie)
}

async fn open(master: &Running, cookie: &str, vm: &str) -> Terminal {
    Terminal::open(master, &format!("/ws?vm_name={vm}"), &[("Cookie", cookie)]).await
}

#[tokio::test]
async fn a_shell_on_a_real_terminal() {
    let (multipass, master, cookie) = master().await;
    let mut terminal = open(&master, &cookie, "primary").await;
    terminal.send(r#"{"type":"resize","cols":134,"rows":40}"#).await;
    terminal.until_text("ubuntu@primary:~$ ").await;
    terminal.send("stty size; echo IN-$((6*7)); echo $TERM\r").await;
    terminal.until_text("IN-42").await;
    terminal.until_text("xterm-256color").await;
    assert!(terminal.shown().contains("40 134"), "{}", terminal.shown());
    // Ctrl-C reaches the program, which needs a controlling terminal.
    terminal.send("sh -c 'echo U''P; exec sleep 1000'\r").await;
    terminal.until_text("\rUP\r\n").await;
    terminal.send("\u{3}").await;
    terminal.send("echo AFTER-$((1+1))\r").await;
    terminal.until_text("AFTER-2").await;
    terminal.send("exit\r").await;
    assert_eq!(terminal.end().await, Some(1000), "a real close after the shell has ended");
    assert_eq!(multipass.argv().last().unwrap(), &["multipass", "shell", "primary"]);
    assert!(terminal.texts.is_empty());
}

#[tokio::test]
async fn sizes_reach_the_program_and_are_never_typed() {
    let (_multipass, master, cookie) = master().await;
    let mut terminal = open(&master, &cookie, "size").await;
    terminal.send(r#"{"type":"resize","cols":"90","rows":31.9}"#).await;
    terminal.until_text("31 90").await;
    for none in [
        r#"{"type":"resize","cols":70000,"rows":-1}"#,
        r#"{"type":"resize","cols":80}"#,
        r#"{"type":"resize","cols":0,"rows":0}"#,
    ] {
        terminal.send(none).await;
    }
    terminal.send(r#" {"rows":30,"x":1,"cols":100,"type":"resize"} "#).await;
    terminal.until_text("30 100").await;
    assert!(!terminal.shown().contains("resize"), "{}", terminal.shown());
    // Other JSON is typed.
    let mut echo = open(&master, &cookie, "echo").await;
    echo.until_text("Welcome to echo").await;
    echo.send("5\r").await;
    echo.until_text("5\r\n5\r\n").await;
    echo.send("{\"type\":\"ping\"}\r").await;
    echo.until_text("{\"type\":\"ping\"}\r\n{\"type\":\"ping\"}\r\n").await;
    // Keys may come as bytes too.
    echo.send_bytes(b"bytes\r").await;
    echo.until_text("bytes\r\nbytes\r\n").await;
    // Without any size it starts as a terminal that everybody knows.
    let mut plain = open(&master, &cookie, "size").await;
    plain.until_text("24 80").await;
}

#[tokio::test]
async fn nothing_of_a_paste_is_lost() {
    let (_multipass, master, cookie) = master().await;
    let mut terminal = open(&master, &cookie, "raw").await;
    terminal.send(r#"{"type":"resize","cols":80,"rows":24}"#).await;
    terminal.until_text("ready").await;
    let before = terminal.seen.len();
    let paste: String = (0..60_000u32).map(|n| char::from(b'a' + (n % 26) as u8)).collect();
    terminal.send(&paste).await;
    let large: String = (0..1_000_000u32).map(|n| char::from(b'A' + (n % 23) as u8)).collect();
    terminal.send(&large).await;
    let whole = paste.len() + large.len();
    terminal.until(|t| t.seen.len() - before >= whole).await;
    let got = &terminal.seen[before..];
    assert!(got == [paste.as_bytes(), large.as_bytes()].concat(), "every byte, in order");
    assert!(terminal.largest <= 4096, "{}", terminal.largest);
}

#[tokio::test]
async fn what_cannot_be_opened_says_why() {
    let (_multipass, master, cookie) = master().await;
    for (path, text, code) in [
        ("/ws", "Error: VM name is required\r\n", 1000),
        ("/ws?vm_name=", "Error: VM name is required\r\n", 1000),
        ("/ws?vm_name=web&agent_id=ghost", "Error: Agent 'ghost' not found\r\n", 1000),
        ("/ws?vm_name=--all", "Error: Invalid VM name\r\n", 1008),
        ("/ws?vm_name=web%26vm_name%3Dprimary", "Error: Invalid VM name\r\n", 1008),
        ("/ws?vm_name=primary&vm_name=..%2Fx", "Error: Invalid VM name\r\n", 1008),
    ] {
        let mut terminal = Terminal::open(&master, path, &[("Cookie", &cookie)]).await;
        assert_eq!((terminal.end().await, terminal.texts.as_str()), (Some(code), text), "{path}");
    }
    // Multipass itself tells that there is no such machine.
    let mut unknown = open(&master, &cookie, "nosuch").await;
    assert_eq!(unknown.end().await, Some(1000));
    assert_eq!(unknown.shown(), "shell failed: instance \"nosuch\" does not exist\r\n");

    let none = Running::start("batwa-server", &["--multipass", "/nonexistent/multipass"]).await;
    let cookie = none.login().await;
    let mut terminal = open(&none, &cookie, "x").await;
    assert_eq!(terminal.end().await, Some(1011));
    let text = "\r\n[Connection Error] multipass command not found. Is multipass installed?\r\n\
                Make sure the VM 'x' is running.\r\n";
    assert_eq!(terminal.texts, text);
}

fn alive(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

/// The process id of a shell that ignores SIGHUP and SIGTERM.
async fn deaf(terminal: &mut Terminal) -> u32 {
    terminal.until(|t| t.shown().matches('\n').count() >= 2).await;
    terminal.shown().lines().nth(1).unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn no_process_outlives_its_browser() {
    let (_multipass, master, cookie) = master().await;
    for how in ["close", "reset", "drop"] {
        let mut terminal = open(&master, &cookie, "deaf").await;
        let pid = deaf(&mut terminal).await;
        assert!(alive(pid));
        match how {
            "close" => terminal.close().await,
            "reset" => terminal.reset(),
            _ => drop(terminal),
        }
        eventually(how, async || (!alive(pid)).then_some(())).await;
    }
}

#[tokio::test]
async fn logging_out_ends_terminals_and_stopping_the_server_too() {
    let (_multipass, master, cookie) = master().await;
    let other = master.login().await;
    let mut terminal = open(&master, &cookie, "echo").await;
    terminal.until_text("Welcome").await;
    let mut stays = open(&master, &other, "echo").await;
    stays.until_text("Welcome").await;
    request(master.address, "POST", "/api/auth/logout", &[("Cookie", &cookie)], None).await;
    assert_eq!(terminal.end().await, Some(1008));
    stays.send("still here\r").await;
    stays.until_text("still here").await;
    let (ended, ()) = tokio::join!(stays.end(), master.stop());
    assert!(ended.is_some(), "a real close");
}

#[tokio::test]
async fn many_idle_terminals_at_once() {
    let (_multipass, master, cookie) = master().await;
    let mut all = Vec::new();
    for _ in 0..20 {
        all.push(open(&master, &cookie, "echo").await);
    }
    for (n, terminal) in all.iter_mut().enumerate() {
        terminal.until_text("Welcome to echo").await;
        terminal.send(&format!("number {n}\r")).await;
        terminal.until_text(&format!("number {n}\r\n")).await;
    }
}
