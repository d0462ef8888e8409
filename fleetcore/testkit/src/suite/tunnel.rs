//! What every machine promises about connections.

use std::{net::Ipv4Addr, sync::Arc};

use fleetcore::{
    BoxConnection, CommandSpec, CommandStream, ErrorKind, HostPort, Offset, OpContext, Overflow,
    RunningCommand, TunnelEvent,
};
use futures::future::BoxFuture;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{Case, cases};
use crate::{
    Env,
    env::{fail, must, pattern, read_until, refused},
};

/// All cases.
pub fn all() -> Vec<Case<Env>> {
    cases![
        connections_open_or_are_unsupported,
        much_goes_both_ways_byte_by_byte,
        what_we_send_ends_before_what_we_get,
        what_we_get_ends_before_what_we_send,
        a_port_where_nobody_listens_is_unavailable,
        a_reader_that_stands_still_holds_up_nobody,
        many_connections_do_not_mix,
        dropping_a_connection_closes_it_there,
        a_reset_is_no_end,
        a_tunnel_serves_and_survives_refusals,
        dropping_a_tunnel_closes_all_of_it,
    ]
}

/// Serves one port on the machine. The first line of a connection says what it is to do; what has become of each is told
/// on standard output.
const SERVICE: &str = r#"
import socket, struct, sys, threading
server = socket.socket()
server.bind(("127.0.0.1", 0))
server.listen(64)
silent = socket.socket()
silent.bind(("127.0.0.1", 0))
lock = threading.Lock()
def tell(text):
    with lock:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
tell("ports %d %d" % (server.getsockname()[1], silent.getsockname()[1]))
def serve(peer):
    mode, total = b"", 0
    try:
        while not mode.endswith(b"\n"):
            byte = peer.recv(1)
            if not byte:
                break
            mode += byte
        mode = mode.strip()
        if mode == b"echo":
            while True:
                data = peer.recv(65536)
                if not data:
                    break
                total += len(data)
                peer.sendall(data)
        elif mode == b"count":
            while True:
                data = peer.recv(65536)
                if not data:
                    break
                total += len(data)
            peer.sendall(b"%d" % total)
        elif mode == b"last":
            peer.sendall(b"bye")
            peer.shutdown(socket.SHUT_WR)
            while True:
                data = peer.recv(65536)
                if not data:
                    break
                total += len(data)
        elif mode == b"pour":
            while True:
                peer.sendall(b"x" * 65536)
        elif mode == b"reset":
            peer.recv(1)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        tell("closed %s %d" % (mode.decode(), total))
    except OSError:
        peer.close()
        tell("broken %s" % mode.decode())
while True:
    peer, _ = server.accept()
    threading.Thread(target=serve, args=(peer,), daemon=True).start()
"#;

/// The service on the machine; ends with this value.
struct Service {
    said: Box<dyn CommandStream>,
    /// All it has said so far.
    heard: String,
    address: HostPort,
    /// Bound, but nobody listens.
    silent: HostPort,
    _command: RunningCommand,
}

impl Service {
    async fn start(env: &Env) -> Self {
        let argv = ["python3", "-I", "-S", "-c", SERVICE];
        let command = env.spawn(CommandSpec::argv(argv).with_replay(64 << 10, Overflow::Block)).await;
        let mut said = command.stream(Offset(0));
        let heard = read_until(&mut said, "\n").await;
        let ports: Vec<u16> = heard.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [port, silent] = ports[..] else { fail(format!("{heard:?}")) };
        let at = |port| must(HostPort::new("127.0.0.1", port));
        Self { said, heard, address: at(port), silent: at(silent), _command: command }
    }

    fn open(&self, env: &Env, mode: &str) -> BoxFuture<'static, BoxConnection> {
        let (machine, address, line) = (env.machine.clone(), self.address.clone(), format!("{mode}\n"));
        Box::pin(async move {
            let mut connection = must(machine.connect(&address).await);
            well(connection.write_all(line.as_bytes()).await);
            well(connection.flush().await);
            connection
        })
    }

    /// Waits until it has said one of these.
    async fn says(&mut self, any: &[&str]) {
        while !any.iter().any(|text| self.heard.contains(text)) {
            self.heard.push_str(&read_until(&mut self.said, "\n").await);
        }
    }
}

fn well<T>(result: std::io::Result<T>) -> T {
    result.unwrap_or_else(|e| fail(format!("{e:?}")))
}

/// Sends all of `data`, then ends; gives what came back until the end of that.
async fn exchange(connection: impl AsyncRead + AsyncWrite, data: &[u8]) -> Vec<u8> {
    let (mut from, mut to) = tokio::io::split(connection);
    let send = async {
        well(to.write_all(data).await);
        well(to.shutdown().await);
    };
    let mut got = Vec::with_capacity(data.len());
    let receive = async { well(from.read_to_end(&mut got).await) };
    tokio::join!(send, receive);
    got
}

async fn connections_open_or_are_unsupported(env: Arc<Env>) {
    if !env.can.connect {
        let somewhere = must(HostPort::new("127.0.0.1", 1));
        refused(env.machine.connect(&somewhere).await, ErrorKind::Unsupported);
        refused(env.machine.tunnel((Ipv4Addr::LOCALHOST, 0).into(), somewhere).await, ErrorKind::Unsupported);
        return;
    }
    let service = Service::start(&env).await;
    let mut connection = service.open(&env, "echo").await;
    for word in ["hello", "again"] {
        well(connection.write_all(word.as_bytes()).await);
        well(connection.flush().await);
        let mut answer = [0; 5];
        well(connection.read_exact(&mut answer).await);
        assert_eq!(answer, word.as_bytes());
    }
    // By name, too: the machine is its own localhost.
    let by_name = must(HostPort::new("localhost", service.address.port()));
    let connection = must(env.machine.connect(&by_name).await);
    assert_eq!(exchange(connection, b"echo\nname").await, b"name");
}

async fn much_goes_both_ways_byte_by_byte(env: Arc<Env>) {
    if !env.can.connect {
        return;
    }
    let service = Service::start(&env).await;
    let data = pattern(20 << 20);
    let got = exchange(service.open(&env, "echo").await, &data).await;
    assert!(got == data, "{} of {} bytes, or others", got.len(), data.len());
}

async fn what_we_send_ends_before_what_we_get(env: Arc<Env>) {
    if !env.can.connect {
        return;
    }
    let mut service = Service::start(&env).await;
    let mut connection = service.open(&env, "count").await;
    // All of it before anything is read.
    well(connection.write_all(&pattern(3_000_000)).await);
    well(connection.shutdown().await);
    let mut answer = String::new();
    well(connection.read_to_string(&mut answer).await);
    assert_eq!(answer, "3000000");
    service.says(&["closed count 3000000"]).await;
    let nothing = service.open(&env, "count").await;
    assert_eq!(exchange(nothing, b"").await, b"0");
}

async fn what_we_get_ends_before_what_we_send(env: Arc<Env>) {
    if !env.can.connect {
        return;
    }
    let mut service = Service::start(&env).await;
    let mut connection = service.open(&env, "last").await;
    let mut answer = String::new();
    well(connection.read_to_string(&mut answer).await);
    assert_eq!(answer, "bye");
    well(connection.write_all(&pattern(1_000_000)).await);
    well(connection.shutdown().await);
    service.says(&["closed last 1000000"]).await;
}

async fn a_port_where_nobody_listens_is_unavailable(env: Arc<Env>) {
    if !env.can.connect {
        return;
    }
    let service = Service::start(&env).await;
    let error = refused(env.machine.connect(&service.silent).await, ErrorKind::Unavailable);
    let address = service.silent.to_string();
    assert_eq!(error.context_value("address"), Some(address.as_str()), "{error:?}");
    // Nothing is the worse for it.
    assert_eq!(exchange(service.open(&env, "echo").await, b"still").await, b"still");
}

async fn a_reader_that_stands_still_holds_up_nobody(env: Arc<Env>) {
    if !env.can.connect {
        return;
    }
    let mut service = Service::start(&env).await;
    let mut stuck = service.open(&env, "pour").await;
    let mut first = [0; 1];
    well(stuck.read_exact(&mut first).await);
    let data = pattern(2_000_000);
    let got = exchange(service.open(&env, "echo").await, &data).await;
    assert!(got == data);
    assert_eq!(env.sh("echo \"$1\"", &["works"]).await, "works\n");
    // It goes on when it is read again, and is all there.
    let mut more = vec![0; 3_000_000];
    well(stuck.read_exact(&mut more).await);
    assert!(more.iter().all(|b| *b == b'x'));
    drop(stuck);
    service.says(&["broken pour"]).await;
}

async fn many_connections_do_not_mix(env: Arc<Env>) {
    if !env.can.connect {
        return;
    }
    let service = Service::start(&env).await;
    let data = pattern(400_000);
    let one = |n: usize| {
        let (opening, mine) = (service.open(&env, "echo"), data.slice(n * 40_000..(n + 1) * 40_000));
        async move {
            let got = exchange(opening.await, &mine).await;
            assert!(got == mine, "connection {n}");
        }
    };
    futures::future::join_all((0..10).map(one)).await;
}

async fn dropping_a_connection_closes_it_there(env: Arc<Env>) {
    if !env.can.connect {
        return;
    }
    let mut service = Service::start(&env).await;
    let mut connection = service.open(&env, "echo").await;
    well(connection.write_all(b"x").await);
    well(connection.read_exact(&mut [0]).await);
    drop(connection);
    service.says(&["closed echo", "broken echo"]).await;
    // One that is given up before it is through leaves nothing either.
    let cx = OpContext::default();
    cx.cancel.cancel();
    drop(env.machine.connect_with(&cx, &service.address).await);
    assert_eq!(exchange(service.open(&env, "echo").await, b"still").await, b"still");
}

async fn a_reset_is_no_end(env: Arc<Env>) {
    if !env.can.connect {
        return;
    }
    let mut service = Service::start(&env).await;
    let mut connection = service.open(&env, "reset").await;
    well(connection.write_all(b"x").await);
    well(connection.flush().await);
    service.says(&["closed reset"]).await;
    let end = connection.read_to_end(&mut Vec::new()).await;
    assert_eq!(end.is_err(), env.tells_reset, "{end:?}");
}

async fn a_tunnel_serves_and_survives_refusals(env: Arc<Env>) {
    if !env.can.connect {
        return;
    }
    let service = Service::start(&env).await;
    let here = (Ipv4Addr::LOCALHOST, 0).into();
    let tunnel = must(env.machine.tunnel(here, service.address.clone()).await);
    for _ in 0..2 {
        let socket = well(TcpStream::connect(tunnel.local_addr()).await);
        let data = pattern(300_000);
        let got = exchange(socket, &[b"echo\n", &data[..]].concat()).await;
        assert!(got == data);
    }
    let taken = refused(
        env.machine.tunnel(tunnel.local_addr(), service.address.clone()).await,
        ErrorKind::AlreadyExists,
    );
    assert!(taken.context_value("address").is_some(), "{taken:?}");
    tunnel.close().await;

    let tunnel = must(env.machine.tunnel(here, service.silent.clone()).await);
    for _ in 0..2 {
        let mut events = tunnel.events();
        // The reset may come while we still connect.
        if let Ok(mut socket) = TcpStream::connect(tunnel.local_addr()).await {
            let got = socket.read_to_end(&mut Vec::new()).await;
            assert!(got.is_err(), "a refused connection is reset: {got:?}");
        }
        match events.recv().await {
            Ok(TunnelEvent::Refused { peer, error }) => {
                assert!(peer.ip().is_loopback());
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
            }
            other => fail(format!("{other:?}")),
        }
    }
}

async fn dropping_a_tunnel_closes_all_of_it(env: Arc<Env>) {
    if !env.can.connect {
        return;
    }
    let mut service = Service::start(&env).await;
    let tunnel = must(env.machine.tunnel((Ipv4Addr::LOCALHOST, 0).into(), service.address.clone()).await);
    let (address, mut events) = (tunnel.local_addr(), tunnel.events());
    let mut socket = well(TcpStream::connect(address).await);
    well(socket.write_all(b"echo\nx").await);
    well(socket.read_exact(&mut [0]).await);
    drop(tunnel);
    // Its events end when the last of its tasks is gone.
    while !matches!(events.recv().await, Err(tokio::sync::broadcast::error::RecvError::Closed)) {}
    let got = socket.read_to_end(&mut Vec::new()).await;
    assert!(matches!(got, Ok(0) | Err(_)), "{got:?}");
    // A process that another test is just starting may hold a copy of the port until it runs its program.
    // The time limit of a case ends a wait in vain.
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    service.says(&["closed echo", "broken echo"]).await;
}
