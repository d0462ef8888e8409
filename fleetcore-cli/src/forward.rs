//! What `fleetcore tunnel` is asked for: `[BIND:]LOCAL:[HOST:]REMOTE`.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
};

use fleetcore::{Error, ErrorKind, HostPort, Result};

/// The whole of it, for people.
const RULE: &str =
    "[BIND:]LOCAL:[HOST:]REMOTE, e.g. 8080:80 or 8080:db.internal:5432; an IPv6 address in brackets";
/// Host that is meant when none is named: the target itself.
const ITSELF: &str = "127.0.0.1";

/// A port here, and the address on the target's side that it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Forward {
    /// Where to listen; port 0 picks one.
    pub(crate) bind: SocketAddr,
    /// Where it leads, as seen from the target.
    pub(crate) to: HostPort,
}

/// Which part is wrong, and what it must be.
fn wrong(text: &str, part: &'static str, rule: &'static str) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("{part} must be {rule}"))
        .with_context("field", "tunnel")
        .with_context("value", text.chars().take(80).collect::<String>().escape_debug())
        .with_context("part", part)
        .with_context("rule", RULE)
}

/// The parts between colons; those in brackets are not looked into.
fn parts(text: &str) -> Option<Vec<&str>> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let end =
            if rest.starts_with('[') { rest.find(']')? + 1 } else { rest.find(':').unwrap_or(rest.len()) };
        let (part, after) = rest.split_at_checked(end)?;
        parts.push(part);
        if after.is_empty() {
            return Some(parts);
        }
        rest = after.strip_prefix(':')?;
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

impl FromStr for Forward {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |part: &str| if is_number(part) { part.parse::<u16>().ok() } else { None };
        let parts = parts(text)
            .ok_or_else(|| wrong(text, "address", "closed by ] and followed by : when it begins with ["))?;
        let (bind, local, host, remote) = match parts.as_slice() {
            [local, remote] => (None, *local, None, *remote),
            // A number in front can only be the port: no address is one.
            [local, host, remote] if is_number(local) => (None, *local, Some(*host), *remote),
            [bind, local, remote] => (Some(*bind), *local, None, *remote),
            [bind, local, host, remote] => (Some(*bind), *local, Some(*host), *remote),
            [_] => return Err(wrong(text, "REMOTE", "the port on the target's side, after a colon")),
            _ => return Err(wrong(text, "address", "in brackets when it is an IPv6 address")),
        };
        let local = number(local)
            .ok_or_else(|| wrong(text, "LOCAL", "a port here: 0 to 65535, where 0 picks a free one"))?;
        let remote = number(remote)
            .filter(|port| *port != 0)
            .ok_or_else(|| wrong(text, "REMOTE", "a port on the target's side: 1 to 65535"))?;
        let bind = match bind {
            None | Some("localhost") => IpAddr::from(Ipv4Addr::LOCALHOST),
            Some(bind) => {
                let bare = bind.strip_prefix('[').and_then(|b| b.strip_suffix(']')).unwrap_or(bind);
                bare.parse().map_err(|_| {
                    wrong(text, "BIND", "an address of this host, such as 127.0.0.1 or [::1], or localhost")
                })?
            }
        };
        let to = HostPort::new(host.unwrap_or(ITSELF), remote).map_err(|e| {
            wrong(text, "HOST", "a host name or address, as the target knows it").with_source(e)
        })?;
        Ok(Self { bind: SocketAddr::new(bind, local), to })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forms() {
        for (text, bind, to) in [
            ("8080:80", "127.0.0.1:8080", "127.0.0.1:80"),
            ("0:80", "127.0.0.1:0", "127.0.0.1:80"),
            ("8080:db.internal:5432", "127.0.0.1:8080", "db.internal:5432"),
            ("0.0.0.0:8080:80", "0.0.0.0:8080", "127.0.0.1:80"),
            ("localhost:8080:80", "127.0.0.1:8080", "127.0.0.1:80"),
            ("[::1]:8080:80", "[::1]:8080", "127.0.0.1:80"),
            ("8080:[::1]:80", "127.0.0.1:8080", "[::1]:80"),
            ("[::]:1:[fd00::2]:2", "[::]:1", "[fd00::2]:2"),
            ("10.0.0.1:1:h:2", "10.0.0.1:1", "h:2"),
        ] {
            let forward: Forward = text.parse().unwrap();
            assert_eq!((forward.bind.to_string().as_str(), forward.to.to_string().as_str()), (bind, to));
        }
    }

    #[test]
    fn half_of_one_says_what_is_missing() {
        for (text, part) in [
            ("", "REMOTE"),
            ("8080", "REMOTE"),
            ("8080:", "REMOTE"),
            (":80", "LOCAL"),
            ("8080:0", "REMOTE"),
            ("8080:65536", "REMOTE"),
            ("65536:80", "LOCAL"),
            ("+1:80", "LOCAL"),
            ("x:80", "LOCAL"),
            ("8080:h:", "REMOTE"),
            ("8080::80", "HOST"),
            ("8080:a b:80", "HOST"),
            ("8080:--all:80", "HOST"),
            ("*:8080:80", "BIND"),
            ("example.com:8080:80", "BIND"),
            ("::1:8080:80", "address"),
            ("[::1:8080:80", "address"),
            ("[::1]8080:80", "address"),
            ("1:2:3:4:5", "address"),
        ] {
            let error = text.parse::<Forward>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
            assert_eq!(error.context_value("part"), Some(part), "{text}: {error}");
            assert_eq!(error.context_value("rule"), Some(RULE));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_understood(text in "[0-9a-z:\\[\\].*%-]{0,24}|.{0,24}") {
            if let Ok(Forward { bind, to }) = text.parse::<Forward>() {
                let again: Forward = format!("{bind}:{to}").parse().unwrap();
                prop_assert_eq!(again, Forward { bind, to });
            }
        }

        #[test]
        fn every_address_can_be_named(
            bind in any::<SocketAddr>(), host in "[a-z][a-z0-9-]{0,8}[a-z]|[1-9][0-9]?\\.0\\.0\\.[0-9]", port in 1u16..
        ) {
            let bind = SocketAddr::new(bind.ip(), bind.port());
            let forward: Forward = format!("{bind}:{host}:{port}").parse().unwrap();
            prop_assert_eq!(forward.bind, bind);
            prop_assert_eq!((forward.to.host(), forward.to.port()), (host.as_str(), port));
            let short: Forward = format!("{}:{host}:{port}", bind.port()).parse().unwrap();
            prop_assert_eq!(short.bind, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), bind.port()));
        }
    }
}
