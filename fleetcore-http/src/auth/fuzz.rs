//! Properties of what reads credentials and addresses out of headers; see [`crate::fuzz`].

use std::net::{IpAddr, Ipv4Addr};

use axum::http::{HeaderMap, HeaderValue, header};

use super::{
    COOKIE,
    csrf::{same_site, without_port},
    extract::{bearer, cookie},
};
use crate::{config::Network, extract::behind_proxies};

fn headers(name: header::HeaderName, values: &[&[u8]]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for value in values.iter().filter_map(|v| HeaderValue::from_bytes(v).ok()) {
        map.append(&name, value);
    }
    map
}

/// `Cookie` and `Authorization`: what is found stands in the header, whole and under its own name.
pub(crate) fn credentials(first: &[u8], second: &[u8]) {
    let map = headers(header::COOKIE, &[first, second]);
    if let Some(secret) = cookie(&map) {
        assert!(!secret.is_empty() && !secret.contains(';'));
        let pair = format!("{COOKIE}={secret}");
        let stands = |v: &HeaderValue| v.to_str().is_ok_and(|v| v.split(';').any(|p| p.trim() == pair));
        assert!(map.values().any(stands), "{secret:?} stands in no header");
    }
    for value in map.values() {
        if let Some(token) = bearer(value) {
            assert_eq!(token, token.trim());
            assert!(value.to_str().is_ok_and(|v| v.len() > "bearer".len() && v.trim_end().ends_with(token)));
        }
    }
    // Whatever comes before it, a good cookie is found.
    let mut with = first.to_vec();
    with.extend_from_slice(format!("; {COOKIE}=secret").as_bytes());
    let map = headers(header::COOKIE, &[&with]);
    if map.values().all(|v| v.to_str().is_ok()) && !map.is_empty() && !contains(first, COOKIE.as_bytes()) {
        assert_eq!(cookie(&map), Some("secret"));
    }
}

fn contains(data: &[u8], part: &[u8]) -> bool {
    data.windows(part.len()).any(|w| w == part)
}

/// `Origin` and `Host`: a page is of its own host, and of no other that differs in more than a default port.
pub(crate) fn origins(origin: &str, host: &str) {
    let own = |scheme: &str| same_site(&format!("{scheme}://{host}"), host);
    assert_eq!((own("http"), own("https")), (Some(true), Some(true)));
    if same_site(origin, host) == Some(true) {
        let authority = origin.split_once("://").map(|(_, a)| a.to_ascii_lowercase()).unwrap_or_default();
        let host = host.to_ascii_lowercase();
        let same = |a: &str, b: &str| a == b || [":80", ":443"].iter().any(|p| a.strip_suffix(p) == Some(b));
        assert!(same(&authority, &host) || same(&host, &authority), "{origin:?} is taken for {host:?}");
    }
    let name = without_port(host);
    assert!(host.starts_with(name));
    assert!(name.len() == host.len() || host.as_bytes().get(name.len()) == Some(&b':'));
}

/// `X-Forwarded-For`: the client is the peer or somebody named, and nobody left of one who is not trusted counts.
pub(crate) fn forwarded(value: &[u8]) {
    let name = header::HeaderName::from_static("x-forwarded-for");
    let map = headers(name, &[value]);
    let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let listed: Vec<IpAddr> = map
        .values()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|hop| hop.trim().parse::<IpAddr>().ok())
        .map(|ip| ip.to_canonical())
        .collect();
    let strict = behind_proxies(peer, &map, |_| false);
    let last = map.values().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).last();
    let last = last.and_then(|hop| hop.trim().parse::<IpAddr>().ok()).map(|ip| ip.to_canonical());
    assert_eq!(strict, last.unwrap_or(peer), "only the entry of our own proxy counts");
    let loose = behind_proxies(peer, &map, |_| true);
    assert!(loose == peer || listed.contains(&loose));
}

/// Blocks of addresses: what is read is written and read again as the same, and holds its own address.
pub(crate) fn network(text: &str, other: u128) {
    let Ok(network) = text.parse::<Network>() else { return };
    let written = String::from(network);
    assert_eq!(written.parse::<Network>().ok(), Some(network));
    let own = written.split('/').next().and_then(|a| a.parse::<IpAddr>().ok());
    // An IPv4 address in IPv6 clothes is compared as what it is, and so is in no IPv6 block.
    assert!(own.is_some_and(|ip| ip != ip.to_canonical() || network.contains(ip)), "{written}");
    let _ = network.contains(IpAddr::V6(other.into()));
    let _ = network.contains(IpAddr::V4(u32::try_from(other >> 96).unwrap_or_default().into()));
}
