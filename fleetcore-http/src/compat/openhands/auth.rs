//! The one key of a runtime.

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::reply;

/// Header of the key.
const KEY: &str = "x-session-api-key";
/// What anybody may ask.
const OPEN: [&str; 2] = ["/alive", "/server_info"];

/// Compares without telling by the time it takes where two keys differ, or how long the right one is.
fn same(given: &[u8], key: &SecretString) -> bool {
    Sha256::digest(given).ct_eq(&Sha256::digest(key.expose_secret().as_bytes())).into()
}

/// The refusal of whoever does not have the key, before anything else is looked at.
pub(super) fn refusal(key: Option<&SecretString>, path: &str, headers: &HeaderMap) -> Option<Response> {
    let key = key?;
    if OPEN.contains(&path) || headers.get(KEY).is_some_and(|given| same(given.as_bytes(), key)) {
        return None;
    }
    Some(reply::detail(StatusCode::FORBIDDEN, "Invalid API Key"))
}

/// The MCP proxy wants the same key once more, as a bearer token.
pub(super) fn bearer_refusal(key: Option<&SecretString>, headers: &HeaderMap) -> Option<Response> {
    let key = key?;
    let given = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
    let token = given.split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
    if token.is_some_and(|(_, token)| same(token, key)) {
        return None;
    }
    let body = r#"{"error":"invalid_token","error_description":"Authentication required"}"#;
    let mut response = reply::ready(StatusCode::UNAUTHORIZED, body);
    response.headers_mut().insert(
        header::WWW_AUTHENTICATE,
        HeaderValue::from_static(
            r#"Bearer error="invalid_token", error_description="Authentication required""#,
        ),
    );
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
        all.iter().map(|(k, v)| (k.parse().unwrap(), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn only_the_header_counts_and_only_exact_paths_are_open() {
        let key = Some(SecretString::from("s3cret"));
        let ok = |path: &str, all: &[(&'static str, &'static str)]| {
            refusal(key.as_ref(), path, &headers(all)).is_none()
        };
        assert!(ok("/alive", &[]) && ok("/server_info", &[]) && ok("/x", &[("X-Session-API-Key", "s3cret")]));
        for (path, all) in [
            ("/alive/", &[][..]),
            ("/x", &[]),
            ("/x", &[("x-session-api-key", "")]),
            ("/x", &[("x-session-api-key", "S3cret")]),
            ("/x", &[("authorization", "Bearer s3cret")]),
        ] {
            assert!(!ok(path, all), "{path} {all:?}");
        }
        assert!(refusal(None, "/x", &HeaderMap::new()).is_none());
    }

    #[test]
    fn the_proxy_wants_a_bearer_token_too() {
        let key = Some(SecretString::from("k"));
        let ok = |value: &'static str| {
            bearer_refusal(key.as_ref(), &headers(&[("authorization", value)])).is_none()
        };
        assert!(ok("Bearer k") && ok("bearer k") && !ok("Bearer x") && !ok("k") && !ok("Bearer "));
        let refused = bearer_refusal(key.as_ref(), &HeaderMap::new()).unwrap();
        assert_eq!(refused.status(), 401);
    }
}
