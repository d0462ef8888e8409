//! Settings of the server.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use fleetcore::{AddressRules, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// Settings of the server. The default listens on loopback only, needs a login and has bounds on everything.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Address to listen on. Default `127.0.0.1:7070`; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Certificate and key; without them the server speaks plain HTTP.
    pub tls: Option<TlsConfig>,
    /// A proxy in front speaks TLS: cookies are `Secure`, and forwarded headers of `trusted_proxies` count.
    pub behind_proxy: bool,
    /// Whose `X-Forwarded-*` headers count. Empty means loopback. Only with `behind_proxy`.
    pub trusted_proxies: Vec<Network>,
    /// Names the server may be called by besides `localhost` and loopback addresses. On a loopback address every
    /// other name is refused, which stops DNS rebinding; on other addresses an empty list allows any name.
    pub allowed_hosts: Vec<String>,
    /// A directory with another front end, instead of the built-in one.
    pub ui_dir: Option<PathBuf>,
    /// Whether `/metrics` needs no login.
    pub metrics_public: bool,
    /// How long a login lasts, in seconds. Default: 7 days.
    #[serde(rename = "login_ttl_s", with = "seconds")]
    pub login_ttl: Duration,
    /// When a session that asked for nothing else is closed for lack of activity, in seconds. Default: never.
    #[serde(rename = "session_idle_s", with = "optional_seconds")]
    pub session_idle: Option<Duration>,
    /// How long open requests may take to end once the server stops, in seconds. Default: 10 s.
    #[serde(rename = "shutdown_grace_s", with = "seconds")]
    pub shutdown_grace: Duration,
    /// Where connections through targets of this server may lead: `HOST:PORT`, `HOST:*`, `*:PORT` or `*`, as seen from the
    /// target. Default: the target itself. Agents have rules of their own.
    pub allow_tunnel: AddressRules,
    /// Bounds on what callers can make the server hold.
    pub limits: Limits,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7070)),
            tls: None,
            behind_proxy: false,
            trusted_proxies: vec![],
            allowed_hosts: vec![],
            ui_dir: None,
            metrics_public: false,
            login_ttl: Duration::from_secs(7 * 24 * 3600),
            session_idle: None,
            shutdown_grace: Duration::from_secs(10),
            allow_tunnel: AddressRules::default(),
            limits: Limits::default(),
        }
    }
}

impl ServerConfig {
    /// The default settings on another address.
    pub fn on(listen: SocketAddr) -> Self {
        Self { listen, ..Self::default() }
    }

    /// Whether cookies carry `Secure`.
    pub fn secure_cookies(&self) -> bool {
        self.tls.is_some() || self.behind_proxy
    }

    /// Whether headers of a proxy at `peer` count.
    pub(crate) fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.behind_proxy
            && if self.trusted_proxies.is_empty() {
                peer.is_loopback()
            } else {
                self.trusted_proxies.iter().any(|n| n.contains(peer))
            }
    }

    /// What is dangerous about these settings, for the operator to read at start.
    pub fn warnings(&self) -> Vec<String> {
        let mut all = vec![];
        if !self.listen.ip().to_canonical().is_loopback() && self.tls.is_none() && !self.behind_proxy {
            all.push(format!(
                "listening on {} without TLS: passwords and terminals cross the network in the clear; \
                 give a certificate, or put a TLS proxy in front and say so with --behind-proxy",
                self.listen
            ));
        }
        if self.metrics_public {
            all.push("/metrics is readable without a login".to_owned());
        }
        all
    }
}

/// Where the certificate is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// Certificate chain, PEM.
    pub cert: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
}

/// Bounds on what callers can make the server hold.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Limits {
    /// Size of a JSON body. Default 4 MiB: room for a long environment and argument list.
    pub json_bytes: usize,
    /// Size of one upload to a file. Default 64 GiB; uploads are streamed, this only bounds the disk.
    pub upload_bytes: u64,
    /// Size of one message from a WebSocket client. Default 1 MiB.
    pub message_bytes: usize,
    /// Input of one WebSocket client that the program has not taken yet. Default 1 MiB.
    pub input_queue_bytes: usize,
    /// Commands one user may have running. Default 2048.
    pub commands_per_actor: usize,
    /// Sessions one user may have open. Default 1024.
    pub sessions_per_actor: usize,
    /// Output streams, event streams and WebSockets one user may have open. Default 4096.
    pub streams_per_actor: usize,
    /// Connections through targets that one user may have open. Default 1024.
    pub tunnels_per_actor: usize,
    /// Connections through targets at once. Default 4096.
    pub tunnels: usize,
    /// Runtimes of AI coding agents at once. Default 64.
    pub runtimes: usize,
    /// Runtimes one user may have at once. Default 16.
    pub runtimes_per_actor: usize,
    /// Connections at once. Default 16384.
    pub connections: usize,
    /// Passwords checked at once; each takes 19 MiB (OWASP's argon2id setting). Default 2.
    pub password_checks: usize,
    /// Tries to log in per minute and address. Default 10.
    pub logins_per_minute: u32,
    /// Tries of agents to join per minute and address. Default 60.
    pub joins_per_minute: u32,
    /// Longest `wait` of one request. Default 10 min.
    #[serde(rename = "wait_s", with = "seconds")]
    pub wait: Duration,
    /// How long a client may take to send its headers or a JSON body. Default 30 s.
    #[serde(rename = "request_read_s", with = "seconds")]
    pub request_read: Duration,
}

impl Limits {
    /// Refuses bounds that nothing could live within, or that are none.
    ///
    /// # Errors
    /// `InvalidInput` that names the field and the rule.
    pub fn check(&self) -> Result<()> {
        let counts = [
            ("limits.json_bytes", self.json_bytes),
            ("limits.message_bytes", self.message_bytes),
            ("limits.input_queue_bytes", self.input_queue_bytes),
            ("limits.commands_per_actor", self.commands_per_actor),
            ("limits.sessions_per_actor", self.sessions_per_actor),
            ("limits.streams_per_actor", self.streams_per_actor),
            ("limits.tunnels_per_actor", self.tunnels_per_actor),
            ("limits.tunnels", self.tunnels),
            ("limits.runtimes", self.runtimes),
            ("limits.runtimes_per_actor", self.runtimes_per_actor),
            ("limits.connections", self.connections),
            ("limits.password_checks", self.password_checks),
        ];
        for (field, count) in counts {
            if count == 0 || u32::try_from(count).is_err() {
                return Err(Error::invalid(field, "1 to 4294967295"));
            }
        }
        if self.logins_per_minute == 0 {
            return Err(Error::invalid("limits.logins_per_minute", "at least 1"));
        }
        if self.joins_per_minute == 0 {
            return Err(Error::invalid("limits.joins_per_minute", "at least 1"));
        }
        if self.request_read.is_zero() {
            return Err(Error::invalid("limits.request_read_s", "longer than zero"));
        }
        Ok(())
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            json_bytes: 4 << 20,
            upload_bytes: 64 << 30,
            message_bytes: 1 << 20,
            input_queue_bytes: 1 << 20,
            commands_per_actor: 2048,
            sessions_per_actor: 1024,
            streams_per_actor: 4096,
            tunnels_per_actor: 1024,
            tunnels: 4096,
            runtimes: 64,
            runtimes_per_actor: 16,
            connections: 16_384,
            password_checks: 2,
            logins_per_minute: 10,
            joins_per_minute: 60,
            wait: Duration::from_secs(600),
            request_read: Duration::from_secs(30),
        }
    }
}

/// An address or a block of addresses: `10.0.0.0/8`, `::1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether `ip` is in it.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => same_prefix(v4(net), v4(ip), u32::from(self.prefix) + 96),
            (IpAddr::V6(net), IpAddr::V6(ip)) => same_prefix(v6(net), v6(ip), u32::from(self.prefix)),
            _ => false,
        }
    }
}

fn v4(ip: Ipv4Addr) -> u128 {
    u128::from(u32::from(ip))
}
fn v6(ip: Ipv6Addr) -> u128 {
    u128::from(ip)
}
fn same_prefix(a: u128, b: u128, bits: u32) -> bool {
    // A shift by the whole width is not defined, and means "everything is the same".
    (a ^ b).checked_shr(128u32.saturating_sub(bits)).unwrap_or(0) == 0
}

impl FromStr for Network {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::new(ErrorKind::InvalidInput, "not an address or block of addresses")
                .with_context("field", "trusted_proxies")
                .with_context("rule", "an address such as 10.0.0.1 or a block such as 10.0.0.0/8")
                .with_context("value", text.chars().take(64).collect::<String>().escape_debug())
        };
        let (address, prefix) = match text.split_once('/') {
            Some((a, p)) => (a, Some(p.parse::<u8>().map_err(|_| bad())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(width);
        if prefix > width {
            return Err(bad());
        }
        Ok(Self { address, prefix })
    }
}

impl TryFrom<String> for Network {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(net: Network) -> Self {
        format!("{}/{}", net.address, net.prefix)
    }
}

mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_f64(d.as_secs_f64())
    }
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(d)?).map_err(D::Error::custom)
    }
}

mod optional_seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(d: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
        match d {
            Some(d) => s.serialize_some(&d.as_secs_f64()),
            None => s.serialize_none(),
        }
    }
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
        Option::<f64>::deserialize(d)?.map(Duration::try_from_secs_f64).transpose().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_addresses() {
        let net: Network = "10.1.0.0/16".parse().unwrap();
        assert!(net.contains("10.1.2.3".parse().unwrap()));
        assert!(net.contains("::ffff:10.1.2.3".parse().unwrap()));
        assert!(!net.contains("10.2.0.1".parse().unwrap()));
        assert!("0.0.0.0/0".parse::<Network>().unwrap().contains("9.9.9.9".parse().unwrap()));
        assert!("::/0".parse::<Network>().unwrap().contains("fe80::1".parse().unwrap()));
        for bad in ["", "x", "10.0.0.0/33", "::/129", "10.0.0.0/-1"] {
            assert_eq!(bad.parse::<Network>().unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
    }

    #[test]
    fn forwarded_headers_count_only_behind_a_proxy() {
        let mut config = ServerConfig::default();
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert!(!config.trusts(loopback));
        config.behind_proxy = true;
        assert!(config.trusts(loopback) && !config.trusts("10.0.0.1".parse().unwrap()));
        config.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
        assert!(!config.trusts(loopback) && config.trusts("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn an_open_address_without_tls_is_worth_a_warning() {
        assert!(ServerConfig::default().warnings().is_empty());
        let mut open = ServerConfig::on("0.0.0.0:7070".parse().unwrap());
        assert_eq!(open.warnings().len(), 1);
        open.behind_proxy = true;
        assert!(open.warnings().is_empty());
    }

    #[test]
    fn unknown_settings_are_refused() {
        assert!(serde_json::from_str::<ServerConfig>(r#"{"listen":"127.0.0.1:1","login_ttl_s":5}"#).is_ok());
        assert!(serde_json::from_str::<ServerConfig>(r#"{"listne":"127.0.0.1:1"}"#).is_err());
    }
}
