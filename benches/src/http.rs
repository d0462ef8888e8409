//! One keep-alive connection.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1::{Builder, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// One keep-alive HTTP/1.1 connection. A request waits for the one before.
#[derive(Debug)]
pub struct Http {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    token: Option<String>,
}

impl Http {
    /// Connects; every request carries `token`.
    pub async fn connect(addr: SocketAddr, token: Option<&str>) -> Self {
        let stream = TcpStream::connect(addr).await.expect("the server listens");
        stream.set_nodelay(true).expect("a TCP socket");
        // Room for bulk output; the default of 400 KiB costs many small reads.
        let mut builder = Builder::new();
        builder.max_buf_size(1 << 20);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.expect("a fresh connection");
        tokio::spawn(connection);
        Self { sender, host: addr.to_string(), token: token.map(str::to_owned) }
    }

    /// Sends a request and returns the answer's head.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Response<Incoming> {
        self.sender.ready().await.expect("the connection is kept");
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, &self.host);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).expect("a valid request");
        self.sender.send_request(request).await.expect("the server answers")
    }

    /// Sends a request and returns the whole answer, which must be a success.
    pub async fn bytes(&mut self, method: Method, path: &str, body: Bytes) -> Bytes {
        let response = self.send(method, path, &[], body).await;
        let status = response.status();
        let body = response.into_body().collect().await.expect("a whole body").to_bytes();
        assert!(status.is_success(), "{path}: {status} {}", String::from_utf8_lossy(&body));
        body
    }

    /// Posts JSON and returns the answer, which must be a success.
    pub async fn post(&mut self, path: &str, body: &Value) -> Value {
        let headers = [("content-type", "application/json")];
        let response = self.send(Method::POST, path, &headers, Bytes::from(body.to_string())).await;
        let status = response.status();
        let body = response.into_body().collect().await.expect("a whole body").to_bytes();
        assert!(status.is_success(), "{path}: {status} {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap_or_default()
    }

    /// Starts a command; returns its id.
    pub async fn start(&mut self, command: &Value) -> String {
        let answer = self.post("/api/v1/commands", command).await;
        answer.get("id").and_then(Value::as_str).expect("a command has an id").to_owned()
    }

    /// Reads a body to its end through `scan` without keeping it.
    pub async fn scan(&mut self, path: &str, accept: &str, scan: &mut impl Scan) {
        let response = self.send(Method::GET, path, &[("accept", accept)], Bytes::new()).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let mut body = response.into_body();
        // A connection that breaks off in the middle is an error here, not an end.
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.expect("the stream is whole").into_data() {
                scan.take(&data);
            }
        }
    }
}

/// Looks at a body as it comes.
pub trait Scan {
    /// Takes the next piece.
    fn take(&mut self, data: &[u8]);
}

/// Counts bytes.
impl Scan for u64 {
    fn take(&mut self, data: &[u8]) {
        *self += data.len() as u64;
    }
}

/// Reads a stream of server-sent events only as far as it takes to know that nothing is missing: the `id` of an event
/// is the offset after it. Taking the JSON apart would measure the client.
#[derive(Debug, Default)]
pub struct SseScan {
    line: Vec<u8>,
    /// The last `id`: bytes of output told so far.
    pub position: u64,
    /// Whether some output was not kept.
    pub gap: bool,
    /// Whether the end was told.
    pub exited: bool,
}

impl SseScan {
    fn line(&mut self, line: &[u8]) {
        if let Some(id) = line.strip_prefix(b"id:") {
            let id = String::from_utf8_lossy(id);
            self.position = id.trim().parse().unwrap_or(self.position);
        } else if let Some(event) = line.strip_prefix(b"event:") {
            self.gap |= event.trim_ascii() == b"gap";
            self.exited |= event.trim_ascii() == b"exit";
        }
    }
}

impl Scan for SseScan {
    fn take(&mut self, mut data: &[u8]) {
        while let Some(end) = memchr::memchr(b'\n', data) {
            let (head, rest) = data.split_at(end);
            if self.line.is_empty() {
                self.line(head);
            } else {
                self.line.extend_from_slice(head);
                let line = std::mem::take(&mut self.line);
                self.line(&line);
            }
            data = rest.get(1..).unwrap_or_default();
        }
        // Of an unfinished line only the beginning matters.
        let room = 64usize.saturating_sub(self.line.len());
        self.line.extend_from_slice(data.get(..data.len().min(room)).unwrap_or_default());
    }
}
