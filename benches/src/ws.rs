//! The client's side of a WebSocket attach (`fleetcore.v1`), with flow control as a browser does it.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest, protocol::frame::coding::CloseCode},
};

/// Unacknowledged bytes after which an ack is sent: half the default window.
const ACK_EVERY: u64 = 128 << 10;

/// What the server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Bytes of output.
    Output(Bytes),
    /// Output that is no longer kept.
    Gap,
    /// The command has ended.
    Exit,
    /// The server closed the connection, in this way.
    Closed(Option<u16>),
    /// Anything else.
    Other,
}

/// An attached terminal.
#[derive(Debug)]
pub struct Attach {
    socket: WebSocketStream<TcpStream>,
    /// Offset after the last byte received.
    pub position: u64,
    acked: u64,
}

impl Attach {
    /// Attaches; `path` is that of the command or session, with the query.
    pub async fn open(addr: SocketAddr, token: &str, path: &str) -> Self {
        let mut request = format!("ws://{addr}{path}").into_client_request().expect("a valid address");
        let headers = request.headers_mut();
        headers.insert("authorization", format!("Bearer {token}").parse().expect("a plain token"));
        headers.insert("sec-websocket-protocol", "fleetcore.v1".parse().expect("a plain name"));
        Self { socket: open(addr, request).await, position: 0, acked: 0 }
    }

    /// Types.
    pub async fn input(&mut self, data: &[u8]) {
        let mut frame = BytesMut::with_capacity(1 + data.len());
        frame.put_u8(0x01);
        frame.put_slice(data);
        self.socket.send(Message::Binary(frame.freeze())).await.expect("the socket is open");
    }

    /// The next frame; acknowledges output as it comes.
    pub async fn next(&mut self) -> Frame {
        let mut data = match self.socket.next().await {
            Some(Ok(Message::Binary(data))) => data,
            Some(Ok(Message::Close(close))) => return Frame::Closed(close.map(|c| c.code.into())),
            Some(Ok(_)) => return Frame::Other,
            None | Some(Err(_)) => return Frame::Closed(None),
        };
        match data.first() {
            Some(0x01) if data.len() >= 10 => {
                let (head, _) = data.split_at(9);
                let offset: [u8; 8] = head.get(1..).and_then(|o| o.try_into().ok()).expect("nine bytes");
                let payload = data.split_off(10);
                self.position = u64::from_be_bytes(offset) + payload.len() as u64;
                if self.position - self.acked >= ACK_EVERY {
                    self.acked = self.position;
                    let mut ack = BytesMut::with_capacity(9);
                    ack.put_u8(0x03);
                    ack.put_u64(self.position);
                    self.socket.send(Message::Binary(ack.freeze())).await.expect("the socket is open");
                }
                Frame::Output(payload)
            }
            Some(0x02) => Frame::Gap,
            Some(0x03) => Frame::Exit,
            _ => Frame::Other,
        }
    }

    /// Reads output until it contains `text`.
    pub async fn wait_for(&mut self, text: &[u8]) {
        let mut seen = Vec::new();
        while !contains(&seen, text) {
            match self.next().await {
                Frame::Output(data) => seen.extend_from_slice(&data),
                Frame::Other => {}
                end => panicked(&format!("no {text:?} before {end:?}")),
            }
        }
    }

    /// Types one key and waits for its echo.
    pub async fn keystroke(&mut self) {
        self.input(b"x").await;
        loop {
            match self.next().await {
                Frame::Output(data) if data.contains(&b'x') => return,
                Frame::Output(_) | Frame::Other => {}
                end => panicked(&format!("no echo: {end:?}")),
            }
        }
    }

    /// Reads to the end; returns the bytes received. Every byte must be there and the close a clean one.
    pub async fn drain(&mut self) -> u64 {
        let (mut bytes, mut exited) = (0, false);
        loop {
            match self.next().await {
                Frame::Output(data) => bytes += data.len() as u64,
                Frame::Exit => exited = true,
                Frame::Other => {}
                Frame::Gap => panicked("output is missing"),
                Frame::Closed(code) => {
                    assert!(exited, "closed before the end was told");
                    assert_eq!(code, Some(CloseCode::Normal.into()), "not a clean close");
                    return bytes;
                }
            }
        }
    }
}

#[expect(clippy::panic, reason = "a benchmark of something that does not work must stop")]
fn panicked(why: &str) -> ! {
    panic!("{why}")
}

/// A socket for any request, without delay.
pub(crate) async fn open(
    addr: SocketAddr,
    request: impl IntoClientRequest + Unpin,
) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(addr).await.expect("the server listens");
    stream.set_nodelay(true).expect("a TCP socket");
    client_async(request, stream).await.expect("the server attaches").0
}

/// Whether `text` is somewhere in `data`.
pub(crate) fn contains(data: &[u8], text: &[u8]) -> bool {
    data.windows(text.len()).any(|w| w == text)
}
