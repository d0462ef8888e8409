//! Connections to addresses that targets can reach, over WebSocket.

use std::{io, time::Duration};

use axum::{
    extract::{
        State,
        ws::{
            CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code,
            rejection::WebSocketUpgradeRejection,
        },
    },
    http::StatusCode,
    response::Response,
};
use bytes::{Bytes, BytesMut};
use fleetcore::{AuditEntry, BoxConnection, HostPort, Machine};
use futures::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf},
    time::MissedTickBehavior,
};
use utoipa::IntoParams;

use crate::{
    app::{App, TunnelPass},
    auth::{Actor, CanTunnel, StreamPass},
    error::{Problem, Reply},
    extract::{ClientIp, Path, Query},
};

/// Name of the protocol on the WebSocket: binary messages are bytes, an empty one is the end of its direction.
pub(crate) const PROTOCOL: &str = "fleetcore.tunnel.v1";
/// Most bytes read before they are sent on, and so the largest message from here.
const PIECE_BYTES: usize = 64 << 10;
/// How long connecting may take, whatever is in between.
const CONNECT_LIMIT: Duration = Duration::from_secs(40);
/// Keeps address translation on the way from forgetting a quiet connection.
const PING_EVERY: Duration = Duration::from_secs(30);
/// How long the other side may take to answer a close.
const GOODBYE: Duration = Duration::from_secs(5);
/// Name of the deed in the audit log.
const ACTION: &str = "tunnel.open";

/// Where to connect to.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TunnelQuery {
    /// Host name or address, as seen from the target. Default: the target itself.
    #[serde(default)]
    #[param(nullable = false, example = "127.0.0.1")]
    host: Option<String>,
    /// Port.
    #[param(minimum = 1, maximum = 65535, example = 5432)]
    port: u16,
}

/// A connection to an address that the target can reach, as a WebSocket (subprotocol `fleetcore.tunnel.v1`).
///
/// Binary messages are its bytes, in both directions; an empty one is the end of what its sender sends, the other direction
/// goes on. After both ends the server closes with 1000. A close without them means that bytes may be missing: 1011 when the
/// connection broke, 1001 when the server stops, 1008 when the login has ended. Needs the scope `tunnels`.
///
/// Whether the address may be reached is up to the agent of the target (`--allow-tunnel` there), or where there is none up
/// to this server: by default the target itself and nothing else.
#[utoipa::path(get, path = "/api/v1/targets/{target}/tunnel", tag = "targets",
    params(("target" = String, Path, description = "Its name, percent-encoded as one segment", example = "local", pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,2}$"), TunnelQuery),
    responses((status = 101, description = "The connection is through, and is a WebSocket now")))]
pub(super) async fn open_tunnel(
    CanTunnel(actor): CanTunnel,
    State(app): State<App>,
    ClientIp(ip): ClientIp,
    Path(target): Path<String>,
    Query(query): Query<TunnelQuery>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Reply<Response> {
    let machine = app.fleet().machine(&target)?;
    let to = HostPort::new(query.host.as_deref().unwrap_or("127.0.0.1"), query.port)?;
    let upgrade = upgrade.map_err(|e| {
        Problem::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", "This is a WebSocket", e.body_text())
            .with_header(axum::http::header::UPGRADE, "websocket")
    })?;
    let opened = connect(&app, &actor, &machine, &to).await;
    let outcome = opened.as_ref().map_or_else(Problem::code, |_| "ok");
    let entry = AuditEntry::new(&**actor.name(), ACTION, machine.target().to_string(), outcome);
    app.audit_later(entry.with_detail(format!("to {to}; from {ip}"))).await;
    let (connection, passes) = opened?;
    let limits = &app.config().limits;
    let upgrade = upgrade
        .protocols([PROTOCOL])
        .max_message_size(limits.message_bytes)
        .max_frame_size(limits.message_bytes)
        // Bytes go out as they come: a keystroke must not wait for a buffer to fill.
        .write_buffer_size(0);
    let (served, tracked) = (app.clone(), app.tasks().token());
    Ok(upgrade.on_upgrade(move |socket| async move {
        let _tracked = tracked;
        serve(&served, socket, connection, passes).await;
    }))
}

type Passes = (StreamPass, TunnelPass);

async fn connect(
    app: &App,
    actor: &Actor,
    machine: &Machine,
    to: &HostPort,
) -> Result<(BoxConnection, Passes), Problem> {
    if machine.target().agent().is_none() {
        app.config().allow_tunnel.check(to)?;
    }
    let passes = (actor.stream(app)?, app.tunnel(actor.name())?);
    let cx = actor.context().with_timeout(CONNECT_LIMIT);
    Ok((machine.connect_with(&cx, to).await?, passes))
}

/// Why a tunnel ends before both directions have.
enum End {
    /// The connection on the target's side broke.
    Broken(io::Error),
    /// The client sends what is no part of the protocol.
    Rule(&'static str),
    ClientLeft,
    /// Revoked or expired.
    LoginEnded,
    Stopped,
}

async fn serve(app: &App, socket: WebSocket, connection: BoxConnection, (mut pass, _held): Passes) {
    let (mut sink, mut source) = socket.split();
    let end = {
        let (from, to) = tokio::io::split(connection);
        let both = async { tokio::try_join!(there(&mut source, to), back(from, &mut sink)) };
        tokio::select! {
            done = both => done.map(drop),
            () = &mut pass.ended => Err(End::LoginEnded),
            () = app.stopping().cancelled() => Err(End::Stopped),
        }
    };
    let (code, reason) = match end {
        Ok(()) => (close_code::NORMAL, "ended".to_owned()),
        // At most 123 bytes fit (RFC 6455, section 5.5).
        Err(End::Broken(e)) => (close_code::ERROR, e.to_string().chars().take(30).collect()),
        Err(End::Rule(rule)) => (close_code::UNSUPPORTED, rule.to_owned()),
        Err(End::LoginEnded) => (close_code::POLICY, "the login has ended".to_owned()),
        Err(End::Stopped) => (close_code::AWAY, "the server stops".to_owned()),
        Err(End::ClientLeft) => return,
    };
    let farewell = async {
        let frame = CloseFrame { code, reason: reason.into() };
        if sink.send(Message::Close(Some(frame))).await.is_err() {
            return;
        }
        // Reading on until the client has closed too keeps the kernel from resetting the connection while the last bytes
        // are on their way.
        while let Some(Ok(_)) = source.next().await {}
    };
    let _ = tokio::time::timeout(GOODBYE, farewell).await;
}

/// From the client to the target, until the client has sent all.
async fn there(source: &mut SplitStream<WebSocket>, mut to: WriteHalf<BoxConnection>) -> Result<(), End> {
    loop {
        match source.next().await {
            Some(Ok(Message::Binary(data))) if data.is_empty() => {
                return to.shutdown().await.map_err(End::Broken);
            }
            Some(Ok(Message::Binary(data))) => {
                to.write_all(&data).await.map_err(End::Broken)?;
                to.flush().await.map_err(End::Broken)?;
            }
            Some(Ok(Message::Text(_))) => return Err(End::Rule("bytes come in binary messages")),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Close(_)) | Err(_)) | None => return Err(End::ClientLeft),
        }
    }
}

/// From the target to the client, until the target has sent all.
async fn back(
    mut from: ReadHalf<BoxConnection>,
    sink: &mut SplitSink<WebSocket, Message>,
) -> Result<(), End> {
    let mut ping = tokio::time::interval_at(tokio::time::Instant::now() + PING_EVERY, PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut piece = BytesMut::new();
    loop {
        piece.reserve(PIECE_BYTES);
        let n = tokio::select! {
            read = from.read_buf(&mut piece) => read.map_err(End::Broken)?,
            _ = ping.tick() => {
                sink.send(Message::Ping(Bytes::new())).await.map_err(|_| End::ClientLeft)?;
                continue;
            }
        };
        // Empty when nothing more comes, which is how the client is told.
        let message = Message::Binary(piece.split().freeze());
        sink.send(message).await.map_err(|_| End::ClientLeft)?;
        if n == 0 {
            return Ok(());
        }
    }
}
