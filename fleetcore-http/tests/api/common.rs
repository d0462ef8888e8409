use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use fleetcore::{
    Fleet, FleetBuilder, IdentityStore, Role, Scope, TokenKind, TokenRecord, UserName, UserRecord,
    backends::local::{Local, LocalConfig},
    store::memory::MemoryStore,
};
use fleetcore_http::{
    Server, ServerConfig, Stores,
    link::{AgentHub, Joining, LinkConfig},
};
use futures::{SinkExt, StreamExt};
use jiff::Timestamp;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::{net::TcpStream, task::JoinHandle};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue},
};
use tokio_util::sync::CancellationToken;

/// Long enough for a slow machine; nothing waits for it when all is well.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Harness {
    pub(crate) base: String,
    pub(crate) address: SocketAddr,
    pub(crate) http: reqwest::Client,
    pub(crate) token: String,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) stop: CancellationToken,
    pub(crate) done: Option<JoinHandle<fleetcore::Result<()>>>,
    pub(crate) dir: tempfile::TempDir,
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A server on a free port, with the user `admin` and an API token of all scopes.
pub(crate) async fn start() -> Harness {
    start_with(|_| {}).await
}

pub(crate) async fn start_with(change: impl FnOnce(&mut ServerConfig)) -> Harness {
    let store = Arc::new(MemoryStore::new());
    start_over(store, change).await
}

pub(crate) async fn start_over(store: Arc<MemoryStore>, change: impl FnOnce(&mut ServerConfig)) -> Harness {
    start_on(Fleet::builder(), store, change).await
}

/// A server over `fleet`, which gets this host and the store.
pub(crate) async fn start_on(
    fleet: FleetBuilder,
    store: Arc<MemoryStore>,
    change: impl FnOnce(&mut ServerConfig),
) -> Harness {
    let mut config = ServerConfig::on("127.0.0.1:0".parse().unwrap());
    config.shutdown_grace = Duration::from_secs(5);
    change(&mut config);
    let joining = Joining::new(store.clone());
    let link = LinkConfig::default().with_heartbeat(Duration::from_millis(300));
    let hub = AgentHub::open(store.clone(), Arc::new(joining.clone()), link).await.unwrap();
    let fleet = fleet
        .with_host(Arc::new(Local::new(LocalConfig::default())))
        .with_store(store.clone())
        .with_agents(Arc::new(hub.clone()))
        .build();
    let stores =
        Stores::new(store.clone()).with_agents(hub).with_joining(joining).with_metrics(store.clone());
    let tls = config.tls.is_some();
    let server = Server::bind(config, fleet, stores).await.unwrap();
    let address = server.local_addr();
    let stop = CancellationToken::new();
    let done = tokio::spawn(server.run(stop.clone()));
    let mut harness = Harness {
        base: format!("{}://{address}", if tls { "https" } else { "http" }),
        address,
        http: reqwest::Client::builder().no_proxy().build().unwrap(),
        token: String::new(),
        store,
        stop,
        done: Some(done),
        dir: tempfile::tempdir().unwrap(),
    };
    harness.token = harness.user_with_token("admin", Role::Admin, Scope::ALL).await;
    harness
}

impl Harness {
    /// Makes a user without a usable password, and a token of these scopes.
    pub(crate) async fn user_with_token(
        &self,
        name: &str,
        role: Role,
        scopes: impl IntoIterator<Item = Scope>,
    ) -> String {
        let user = UserName::new(name).unwrap();
        let record = UserRecord::new(user.clone(), role, "none".to_owned().into(), Timestamp::now());
        let _ = self.store.insert_user(record).await;
        let secret = format!("fct_{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
        let hash = Sha256::digest(secret.as_bytes()).into();
        let scopes: BTreeSet<_> = scopes.into_iter().collect();
        let token = TokenRecord::new(TokenKind::Api, "test", user, hash, scopes, Timestamp::now());
        self.store.insert_token(token).await.unwrap();
        secret
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token).timeout(LIMIT)
    }
    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }
    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.request(Method::POST, path)
    }

    pub(crate) async fn json(&self, path: &str) -> Value {
        let response = self.get(path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        response.json().await.unwrap()
    }

    pub(crate) async fn post_json(&self, path: &str, body: Value) -> (StatusCode, Value) {
        let response = self.post(path).json(&body).send().await.unwrap();
        let status = response.status();
        (status, response.json().await.unwrap_or(Value::Null))
    }

    /// Starts a command and gives its id.
    pub(crate) async fn run(&self, mut body: Value) -> String {
        body.as_object_mut().unwrap().entry("target").or_insert("local".into());
        let (status, command) = self.post_json("/api/v1/commands", body).await;
        assert_eq!(status, 201, "{command}");
        command["id"].as_str().unwrap().to_owned()
    }

    /// Waits for the end of a command.
    pub(crate) async fn settled(&self, id: &str) -> Value {
        self.json(&format!("/api/v1/commands/{id}?wait_ms=60000")).await
    }

    pub(crate) async fn attach(&self, path: &str) -> Socket {
        let mut request = format!("ws://{}{path}", self.address).into_client_request().unwrap();
        let bearer = format!("Bearer {}", self.token);
        request.headers_mut().insert("authorization", HeaderValue::from_str(&bearer).unwrap());
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("fleetcore.v1"));
        let (socket, response) = tokio_tungstenite::connect_async(request).await.unwrap();
        assert_eq!(response.headers()["sec-websocket-protocol"], "fleetcore.v1");
        Socket(socket)
    }

    pub(crate) async fn finish(&mut self) {
        self.stop.cancel();
        let done = self.done.take().unwrap();
        tokio::time::timeout(LIMIT, done).await.expect("the server stops").unwrap().unwrap();
    }
}

/// Checks the shape of an error.
pub(crate) async fn problem(response: Response, status: u16, code: &str) -> Value {
    let url = response.url().to_string();
    assert_eq!(response.status().as_u16(), status, "{url}");
    assert_eq!(response.headers()["content-type"], "application/problem+json", "{url}");
    let body: Value = response.json().await.unwrap();
    assert_eq!(
        (body["status"].as_u64(), body["code"].as_str()),
        (Some(u64::from(status)), Some(code)),
        "{body}"
    );
    assert_eq!(body["type"], format!("/problems/{code}"));
    assert!(body["title"].is_string() && body["detail"].is_string(), "{body}");
    body
}

pub(crate) struct Socket(pub(crate) WebSocketStream<MaybeTlsStream<TcpStream>>);

/// A frame of the server.
#[derive(Debug, PartialEq)]
pub(crate) enum Frame {
    Output { offset: u64, channel: u8, data: Vec<u8> },
    Gap(u64, u64),
    Exit(Value),
    State(Value),
    Pong(Vec<u8>),
    Error(Value),
    Closed(u16),
}

impl Socket {
    pub(crate) async fn send(&mut self, kind: u8, payload: &[u8]) {
        let frame = [&[kind], payload].concat();
        self.0.send(Message::Binary(frame.into())).await.unwrap();
    }
    pub(crate) async fn input(&mut self, data: &[u8]) {
        self.send(1, data).await;
    }
    /// The server may have left meanwhile.
    pub(crate) async fn ack(&mut self, offset: u64) {
        let frame = [&[3][..], &offset.to_be_bytes()].concat();
        let _ = self.0.send(Message::Binary(frame.into())).await;
    }

    pub(crate) async fn next(&mut self) -> Frame {
        loop {
            let message = tokio::time::timeout(LIMIT, self.0.next()).await.expect("a frame comes");
            let frame = match message.expect("not cut off").unwrap() {
                Message::Binary(frame) => frame,
                Message::Close(frame) => return Frame::Closed(frame.map_or(1005, |f| f.code.into())),
                _ => continue,
            };
            let number = |range: std::ops::Range<usize>| u64::from_be_bytes(frame[range].try_into().unwrap());
            let json = || serde_json::from_slice(&frame[1..]).unwrap();
            return match frame[0] {
                1 => Frame::Output { offset: number(1..9), channel: frame[9], data: frame[10..].to_vec() },
                2 => Frame::Gap(number(1..9), number(9..17)),
                3 => Frame::Exit(json()),
                4 => Frame::State(json()),
                5 => Frame::Pong(frame[1..].to_vec()),
                6 => Frame::Error(json()),
                kind => panic!("kind {kind}"),
            };
        }
    }

    /// Output until the frame `done` says is the last one; acks everything.
    pub(crate) async fn read_until(&mut self, mut done: impl FnMut(&Frame, &[u8]) -> bool) -> Vec<u8> {
        let mut all = vec![];
        loop {
            let frame = self.next().await;
            if let Frame::Output { offset, data, .. } = &frame {
                all.extend_from_slice(data);
                self.ack(offset + data.len() as u64).await;
            }
            if done(&frame, &all) {
                return all;
            }
            assert!(!matches!(frame, Frame::Closed(_)), "closed after {:?}", String::from_utf8_lossy(&all));
        }
    }

    pub(crate) async fn read_text(&mut self, text: &str) -> String {
        let all = self.read_until(|_, all| String::from_utf8_lossy(all).contains(text)).await;
        String::from_utf8_lossy(&all).into_owned()
    }

    pub(crate) async fn read_to_exit(&mut self) -> (Vec<u8>, Value) {
        let mut exit = Value::Null;
        let all = self
            .read_until(|frame, _| {
                if let Frame::Exit(e) = frame {
                    exit = e.clone();
                }
                !exit.is_null()
            })
            .await;
        assert_eq!(self.next().await, Frame::Closed(1000));
        (all, exit)
    }
}

/// One server-sent event: id, name, data.
pub(crate) type Event = (Option<String>, String, Value);

/// Splits a text into server-sent events.
pub(crate) fn parse_events(text: &str) -> Vec<Event> {
    text.split("\n\n")
        .filter_map(|e| {
            let field = |name: &str| e.lines().find_map(|l| l.strip_prefix(name)).map(str::to_owned);
            Some((field("id: "), field("event: ")?, serde_json::from_str(&field("data: ")?).unwrap()))
        })
        .collect()
}

/// Bytes of all output events.
pub(crate) fn output_bytes(events: &[Event]) -> Vec<u8> {
    use base64::engine::general_purpose::STANDARD;
    let mut all = vec![];
    for (_, name, data) in events {
        if name == "output" {
            match data["text"].as_str() {
                Some(text) => all.extend_from_slice(text.as_bytes()),
                None => all.extend(STANDARD.decode(data["base64"].as_str().unwrap()).unwrap()),
            }
        }
    }
    all
}
