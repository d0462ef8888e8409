//! Making a connection: TCP or a channel of the jump host, host key, login, helper.

use std::{borrow::Cow, sync::Arc};

use russh::{
    Channel, Preferred,
    client::{self, ChannelOpenHandle, Msg, Session},
    keys::PublicKeyOrCertificate,
};
use tokio::net::TcpStream;

use super::{
    auth,
    config::SshHost,
    error::{self, Failure},
    helper::Helper,
    known_hosts::KnownHosts,
    pool::{Lease, Pool},
};
use crate::{Error, ErrorKind, Result};

/// Bytes the host may send on a channel before we have read them. What a command has written when it is killed is at
/// most this much behind.
const WINDOW: u32 = 512 << 10;
/// Packets that wait for a channel's reader before the whole connection waits.
const PACKETS: usize = 32;
/// Unanswered keep-alives until the connection counts as broken.
const KEEP_ALIVES: usize = 3;

/// Our answers to what the host asks.
#[derive(Debug)]
pub(super) struct Client {
    known: KnownHosts,
}

type Answer = std::result::Result<(), Failure>;

impl client::Handler for Client {
    type Error = Failure;

    async fn check_server_key(
        &mut self,
        shown: &PublicKeyOrCertificate,
    ) -> std::result::Result<bool, Failure> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = shown else {
            return Ok(false); // certificates are not asked for
        };
        let (known, key) = (self.known.clone(), key.clone());
        let checked = tokio::task::spawn_blocking(move || known.check(&key)).await;
        checked
            .unwrap_or_else(|e| Err(Error::new(ErrorKind::Unexpected, e.to_string())))
            .map_err(Failure::Ours)?;
        Ok(true)
    }

    // A host has no business opening channels to us. Dropping `reply` refuses.

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Answer {
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Answer {
        Ok(())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        _: Channel<Msg>,
        _reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Answer {
        Ok(())
    }

    async fn server_channel_open_session(
        &mut self,
        _: Channel<Msg>,
        _reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Answer {
        Ok(())
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Answer {
        Ok(())
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Answer {
        Ok(())
    }

    async fn server_channel_open_x11(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Answer {
        Ok(())
    }
}

/// A connection that is logged in, and what it needs.
pub(super) struct Connected {
    pub(super) session: client::Handle<Client>,
    pub(super) helper: Helper,
    /// The slot on the jump host's connection that carries this one.
    pub(super) through: Option<Lease>,
}

fn known_hosts(name: &str, host: &SshHost) -> KnownHosts {
    let mut files: Vec<_> = host.known_hosts.iter().map(|p| auth::expand(p)).collect();
    if files.is_empty() {
        files = vec![auth::expand("~/.ssh/known_hosts".as_ref()), "/etc/ssh/ssh_known_hosts".into()];
    }
    let address = host.address.as_deref().unwrap_or(name);
    match &host.host_key_alias {
        // As in OpenSSH: an alias stands for itself, whatever the port.
        Some(alias) => KnownHosts::new(files, alias, 22, host.host_key_policy),
        None => KnownHosts::new(files, address, host.port, host.host_key_policy),
    }
}

fn settings(host: &SshHost, known: &KnownHosts) -> Result<client::Config> {
    let mut preferred = Preferred::default();
    let first = known.algorithms()?;
    let mut keys: Vec<_> = preferred.key.to_vec();
    // A stable sort: the kinds known of this host first, all else as before. An RSA key stands for all its hashes.
    let is_known = |a: &russh::keys::Algorithm| {
        use russh::keys::Algorithm::Rsa;
        first.iter().any(|k| k == a || matches!((k, a), (Rsa { .. }, Rsa { .. })))
    };
    keys.sort_by_key(|a| !is_known(a));
    preferred.key = Cow::Owned(keys);
    Ok(client::Config {
        window_size: WINDOW,
        channel_buffer_size: PACKETS,
        preferred,
        keepalive_interval: (!host.keep_alive.is_zero()).then_some(host.keep_alive),
        keepalive_max: KEEP_ALIVES,
        nodelay: true,
        ..client::Config::default()
    })
}

/// Connects and logs in.
///
/// # Errors
/// `PermissionDenied` for an unknown host key or refused keys, `Unavailable` and `Timeout` when the host cannot be
/// reached, `Unsupported` when it has no POSIX shell. All name the host.
pub(super) async fn connect(
    name: &str,
    host: &SshHost,
    jump: Option<&Arc<Pool>>,
    exclusive: bool,
) -> Result<Connected> {
    let limit = host.connect_timeout;
    let late = || {
        error::temporary(
            Error::new(ErrorKind::Timeout, "the host did not answer in time")
                .with_operation("connect")
                .with_context("limit_s", limit.as_secs()),
        )
    };
    let work = tokio::time::timeout(limit, go(name, host, jump, exclusive)).await;
    work.unwrap_or_else(|_| Err(late())).map_err(|e| {
        let e = if e.context_value("address").is_none() {
            e.with_context("address", format!("{}:{}", host.address.as_deref().unwrap_or(name), host.port))
        } else {
            e
        };
        e.with_operation("connect").with_context("target", format!("ssh/{name}"))
    })
}

async fn go(name: &str, host: &SshHost, jump: Option<&Arc<Pool>>, exclusive: bool) -> Result<Connected> {
    if let Some(option) = &host.unsupported {
        let message = "the host's OpenSSH settings have an option that is not supported here";
        return Err(Error::new(ErrorKind::Unsupported, message)
            .with_context("option", option)
            .with_context("hint", "describe the host in the settings of fleetcore instead"));
    }
    let address = host.address.as_deref().unwrap_or(name);
    let user = auth::user(host)?;
    let known = known_hosts(name, host);
    let (for_settings, host_settings) = (known.clone(), host.clone());
    let config = tokio::task::spawn_blocking(move || settings(&host_settings, &for_settings))
        .await
        .unwrap_or_else(|e| Err(Error::new(ErrorKind::Unexpected, e.to_string())))?;
    let config = Arc::new(config);
    let failed = |e: Failure| e.into_error("connect");
    let (mut session, through) = match jump {
        None => {
            let unreachable = |e| error::temporary(reachable(Error::io("connect", e)));
            let stream = TcpStream::connect((address, host.port)).await.map_err(unreachable)?;
            let _ = stream.set_nodelay(true);
            (client::connect_stream(config, stream, Client { known }).await.map_err(failed)?, None)
        }
        Some(pool) => {
            // A future that needs itself, through another host, has to be boxed.
            let lease =
                Box::pin(pool.lease(exclusive)).await.map_err(|e| e.with_context("through", pool.name()))?;
            let opened = lease
                .session()
                .channel_open_direct_tcpip(address, host.port.into(), "127.0.0.1", 0)
                .await
                .map_err(|e| error::ssh("connect", e).with_context("through", pool.name()))?;
            let session = client::connect_stream(config, opened.into_stream(), Client { known }).await;
            (session.map_err(failed)?, Some(lease))
        }
    };
    auth::log_in(&mut session, host, &user).await?;
    let channel = session.channel_open_session().await.map_err(|e| error::ssh("start helper", e))?;
    let helper = Helper::start(channel).await?;
    Ok(Connected { session, helper, through })
}

/// Whatever keeps us from a host, it is not there for us now.
fn reachable(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Unavailable | ErrorKind::Timeout => error,
        _ => Error::new(ErrorKind::Unavailable, "the host cannot be reached").with_source(error),
    }
}
