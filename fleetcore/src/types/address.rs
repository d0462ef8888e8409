//! Addresses that connections lead to, and rules about which of them are allowed.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// Longest name: RFC 1035, section 2.3.4, in text form.
const NAME_MAX: usize = 253;
/// Longest part of a name between two dots: RFC 1035, section 2.3.4.
const LABEL_MAX: usize = 63;
/// What a host may be.
const HOST_RULE: &str = "a host name such as db.example.com, or an address such as 127.0.0.1 or ::1";

/// A host, by name or address, and a port. What it leads to is up to the machine that connects: `localhost` is that
/// machine.
///
/// ```
/// use fleetcore::HostPort;
/// let db: HostPort = "DB.example.com:5432".parse()?;
/// assert_eq!((db.host(), db.port()), ("db.example.com", 5432));
/// assert_eq!(HostPort::new("::1", 80)?.to_string(), "[::1]:80");
/// # Ok::<(), fleetcore::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPort {
    /// In lower case; addresses in their usual form, without brackets.
    host: String,
    port: u16,
}

/// The one spelling of a host.
fn host_of(text: &str) -> Result<String> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let invalid = || {
        Error::invalid("host", HOST_RULE)
            .with_context("value", text.chars().take(64).collect::<String>().escape_debug())
    };
    if let Some(bare) = bare {
        return bare.parse::<Ipv6Addr>().map(|a| a.to_string()).map_err(|_| invalid());
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    let label = |l: &str| {
        (1..=LABEL_MAX).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    // Resolvers take 127.1, 2130706433 and 0x7f000001 for addresses: a rule about addresses would not see which.
    let last = text.rsplit('.').next().unwrap_or_default();
    let number = last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x") || last.starts_with("0X");
    if text.len() > NAME_MAX || number || !text.split('.').all(label) {
        return Err(invalid());
    }
    Ok(text.to_ascii_lowercase())
}

impl HostPort {
    /// This host and port; an IPv6 address with or without brackets.
    ///
    /// # Errors
    /// `InvalidInput` that names `host` or `port` and the rule.
    pub fn new(host: &str, port: u16) -> Result<Self> {
        if port == 0 {
            return Err(Error::invalid("port", "1 to 65535"));
        }
        Ok(Self { host: host_of(host)?, port })
    }

    /// The host, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The host, if it is an address.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl FromStr for HostPort {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = || {
            Error::invalid("address", "HOST:PORT, an IPv6 address in brackets")
                .with_context("value", text.chars().take(64).collect::<String>().escape_debug())
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        if host.contains(':') && !host.starts_with('[') {
            return Err(invalid());
        }
        Self::new(host, port_of(port)?)
    }
}

/// A port, in digits only.
fn port_of(text: &str) -> Result<u16> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let port = if digits { text.parse().unwrap_or(0) } else { 0 };
    if port == 0 {
        return Err(Error::invalid("port", "1 to 65535")
            .with_context("value", text.chars().take(64).collect::<String>().escape_debug()));
    }
    Ok(port)
}

impl TryFrom<String> for HostPort {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<HostPort> for String {
    fn from(address: HostPort) -> Self {
        address.to_string()
    }
}

/// Addresses that are allowed: `HOST:PORT`, `HOST:*`, `*:PORT` or `*`. A host is compared as it is written: a rule for
/// `localhost` does not speak of `127.0.0.1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddressRule {
    host: Option<String>,
    port: Option<u16>,
}

impl AddressRule {
    /// Whether it allows this address.
    pub fn allows(&self, to: &HostPort) -> bool {
        self.host.as_ref().is_none_or(|h| *h == to.host) && self.port.is_none_or(|p| p == to.port)
    }
}

impl FromStr for AddressRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "*" {
            return Ok(Self { host: None, port: None });
        }
        let invalid = |e: Error| {
            Error::invalid("allow_tunnel", "HOST:PORT, HOST:*, *:PORT or *")
                .with_context("value", text.chars().take(64).collect::<String>().escape_debug())
                .with_source(e)
        };
        let wrong = || Error::new(ErrorKind::InvalidInput, "no port");
        let (host, port) = text.rsplit_once(':').ok_or_else(|| invalid(wrong()))?;
        let host = if host == "*" { None } else { Some(host_of(host).map_err(invalid)?) };
        let port = if port == "*" { None } else { Some(port_of(port).map_err(invalid)?) };
        Ok(Self { host, port })
    }
}

impl fmt::Display for AddressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, self.port) {
            (None, None) => f.write_str("*"),
            (None, Some(port)) => write!(f, "*:{port}"),
            (Some(host), port) => {
                if host.contains(':') {
                    write!(f, "[{host}]:")?
                } else {
                    write!(f, "{host}:")?
                }
                match port {
                    Some(port) => write!(f, "{port}"),
                    None => f.write_str("*"),
                }
            }
        }
    }
}

impl TryFrom<String> for AddressRule {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<AddressRule> for String {
    fn from(rule: AddressRule) -> Self {
        rule.to_string()
    }
}

/// Which addresses connections may lead to. The default is the machine that connects itself: `localhost`, `127.0.0.1` and
/// `::1`, so that nobody becomes an open proxy into the network around that machine without being told to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AddressRules(Vec<AddressRule>);

impl Default for AddressRules {
    fn default() -> Self {
        let own = ["localhost".to_owned(), Ipv4Addr::LOCALHOST.to_string(), Ipv6Addr::LOCALHOST.to_string()];
        Self(own.map(|host| AddressRule { host: Some(host), port: None }).to_vec())
    }
}

impl AddressRules {
    /// These and no others; none at all allows nothing.
    pub fn new(rules: impl IntoIterator<Item = AddressRule>) -> Self {
        Self(rules.into_iter().collect())
    }

    /// Refuses what no rule allows.
    ///
    /// # Errors
    /// `PermissionDenied`, with the address and what is allowed.
    pub fn check(&self, to: &HostPort) -> Result<()> {
        if self.0.iter().any(|rule| rule.allows(to)) {
            return Ok(());
        }
        let allowed: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        Err(Error::new(ErrorKind::PermissionDenied, "connections to this address are not allowed here")
            .with_context("address", to)
            .with_context("allowed", allowed.join(" ")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_have_one_spelling() {
        for (text, host, shown) in [
            ("LocalHost:80", "localhost", "localhost:80"),
            ("127.0.0.1:80", "127.0.0.1", "127.0.0.1:80"),
            ("[0:0::1]:80", "::1", "[::1]:80"),
            ("my_db-1.example:80", "my_db-1.example", "my_db-1.example:80"),
        ] {
            let address: HostPort = text.parse().unwrap();
            assert_eq!((address.host(), address.to_string().as_str()), (host, shown));
        }
        assert_eq!(HostPort::new("[::1]", 1).unwrap(), HostPort::new("::1", 1).unwrap());
    }

    #[test]
    fn what_is_no_address_is_refused_by_name() {
        for (text, field) in [
            ("", "address"),
            ("80", "address"),
            ("::1:80", "address"),
            ("h:", "port"),
            ("h:0", "port"),
            ("h:65536", "port"),
            ("h:+80", "port"),
            (":80", "host"),
            ("a b:80", "host"),
            ("-h:80", "host"),
            ("--all:80", "host"),
            ("../x:80", "host"),
            ("h..x:80", "host"),
            ("127.1:80", "host"),
            ("2130706433:80", "host"),
            ("0x7f000001:80", "host"),
            ("[127.0.0.1]:80", "host"),
            ("[fe80::1%eth0]:80", "host"),
            ("h\u{e9}:80", "host"),
            ("h\0:80", "host"),
        ] {
            let error = text.parse::<HostPort>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
            assert_eq!(error.context_value("field"), Some(field), "{text}: {error}");
            assert!(error.context_value("rule").is_some());
        }
        HostPort::new(&"a".repeat(300), 1).unwrap_err();
    }

    #[test]
    fn rules_allow_what_they_say_and_by_default_this_machine() {
        let to = |text: &str| text.parse::<HostPort>().unwrap();
        let rules = AddressRules::default();
        for own in ["localhost:1", "127.0.0.1:65535", "[::1]:80"] {
            rules.check(&to(own)).unwrap();
        }
        for other in ["127.0.0.2:1", "0.0.0.0:1", "[::]:1", "[::ffff:127.0.0.1]:1", "10.0.0.1:80", "db:80"] {
            let refused = rules.check(&to(other)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
            assert_eq!(refused.context_value("allowed"), Some("localhost:* 127.0.0.1:* [::1]:*"));
        }
        for (rule, yes, no) in [
            ("db:5432", "DB:5432", "db:5433"),
            ("db:*", "db:1", "db2:1"),
            ("*:80", "anything:80", "anything:81"),
            ("::1:*", "[::1]:7", "localhost:7"),
        ] {
            let rule: AddressRule = rule.parse().unwrap();
            assert!(rule.allows(&to(yes)) && !rule.allows(&to(no)), "{rule}");
            assert_eq!(rule.to_string().parse::<AddressRule>().unwrap(), rule);
        }
        assert!("*".parse::<AddressRule>().unwrap().allows(&to("a:1")));
        assert!(AddressRules::new([]).check(&to("localhost:1")).is_err());
        for bad in ["", "db", "db:x", ":1", "a b:1", "db:0"] {
            let error = bad.parse::<AddressRule>().unwrap_err();
            assert_eq!(error.context_value("field"), Some("allow_tunnel"), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_round_trips(text in "[a-zA-Z0-9:.*_\\[\\]%-]{0,20}|.{0,30}") {
            if let Ok(address) = text.parse::<HostPort>() {
                prop_assert_eq!(address.to_string().parse::<HostPort>().unwrap(), address);
            }
            if let Ok(rule) = text.parse::<AddressRule>() {
                prop_assert_eq!(rule.to_string().parse::<AddressRule>().unwrap(), rule);
            }
        }

        #[test]
        fn every_socket_address_is_one(ip in any::<std::net::IpAddr>(), port in 1u16..) {
            let socket = std::net::SocketAddr::new(ip, port);
            let address: HostPort = socket.to_string().parse().unwrap();
            prop_assert_eq!((address.ip(), address.port()), (Some(ip), port));
        }
    }
}
