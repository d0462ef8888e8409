//! What keeps other web sites from using a browser that is logged in here.

use std::net::IpAddr;

use axum::http::{HeaderMap, Uri, header};
use fleetcore::{Error, ErrorKind, Result};

use crate::{app::App, extract::peer_ip};

/// A request that changes something, or opens a WebSocket, on the strength of a cookie must come from a page of this
/// server.
pub(crate) fn check_origin(
    headers: &HeaderMap,
    uri: &Uri,
    extensions: &axum::http::Extensions,
    app: &App,
) -> Result<()> {
    let refused =
        |why: &'static str| Error::new(ErrorKind::PermissionDenied, why).with_context("rule", "same origin");
    match headers.get(header::ORIGIN) {
        Some(origin) => {
            let origin = origin.to_str().map_err(|_| refused("the origin cannot be read"))?;
            let proxied = app.config().trusts(peer_ip(extensions));
            let forwarded = headers.get("x-forwarded-host").filter(|_| proxied).and_then(|v| v.to_str().ok());
            let host =
                forwarded.or_else(|| host(headers, uri)).ok_or_else(|| refused("the request has no host"))?;
            match same_site(origin, host) {
                Some(true) => Ok(()),
                Some(false) => Err(refused("the request comes from another site")),
                None => Err(refused("the request comes from nowhere")),
            }
        }
        // Browsers that send no Origin send this; no script can set it.
        None => match headers.get("sec-fetch-site").map(|v| v.as_bytes()) {
            Some(b"same-origin") => Ok(()),
            _ => Err(refused("a request with a login cookie needs an Origin header")),
        },
    }
}

/// Whether a page of this origin is one of the host; `None` for an origin that is none, such as `null`.
pub(super) fn same_site(origin: &str, host: &str) -> Option<bool> {
    let (scheme, authority) = origin.split_once("://")?;
    let default_port = if scheme == "https" { ":443" } else { ":80" };
    let strip = |text: &str| text.strip_suffix(default_port).unwrap_or(text).to_ascii_lowercase();
    Some(strip(authority) == strip(host))
}

/// The name the client called the server by.
pub(crate) fn host<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    headers.get(header::HOST).and_then(|v| v.to_str().ok()).or_else(|| uri.authority().map(|a| a.as_str()))
}

/// The address the client called the server by, to show to people. A name with characters that none has is not shown:
/// people paste this into shells.
#[cfg(feature = "client")]
pub(crate) fn called_as(
    headers: &HeaderMap,
    uri: &Uri,
    extensions: &axum::http::Extensions,
    app: &App,
) -> String {
    let forwarded = |name: &str| {
        let proxied = app.config().trusts(peer_ip(extensions));
        headers.get(name).filter(|_| proxied).and_then(|v| v.to_str().ok())
    };
    let host = forwarded("x-forwarded-host").or_else(|| host(headers, uri)).unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    let host = if host.is_empty() || !host.chars().all(plain) { "SERVER" } else { host };
    let scheme = if app.config().secure_cookies() { "https" } else { "http" };
    format!("{scheme}://{host}")
}

/// Whether the server answers to the name it was called by. On loopback only names that mean this host: a web page
/// whose own name was made to resolve to 127.0.0.1 would otherwise count as same origin (DNS rebinding).
pub(crate) fn host_allowed(headers: &HeaderMap, uri: &Uri, app: &App) -> bool {
    let config = app.config();
    let loopback = config.listen.ip().to_canonical().is_loopback();
    if !loopback && config.allowed_hosts.is_empty() {
        return true;
    }
    let Some(host) = host(headers, uri) else { return false };
    let name = without_port(host).to_ascii_lowercase();
    let name = name.trim_end_matches('.');
    if config.allowed_hosts.iter().any(|h| h.eq_ignore_ascii_case(name) || h.eq_ignore_ascii_case(host)) {
        return true;
    }
    // Behind a proxy on the same host the name is the proxy's.
    if config.behind_proxy && config.allowed_hosts.is_empty() {
        return true;
    }
    let ip = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name == "localhost" || name.ends_with(".localhost") || ip.is_ok_and(|ip| ip.to_canonical().is_loopback())
}

pub(super) fn without_port(host: &str) -> &str {
    match host.rfind(':') {
        Some(at) if !host.ends_with(']') && !host.get(at..).unwrap_or_default().contains(']') => {
            host.get(..at).unwrap_or(host)
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_cut_off_names_and_addresses() {
        for (host, name) in [
            ("a:1", "a"),
            ("a", "a"),
            ("[::1]:7070", "[::1]"),
            ("[::1]", "[::1]"),
            ("127.0.0.1:80", "127.0.0.1"),
        ] {
            assert_eq!(without_port(host), name);
        }
    }
}
