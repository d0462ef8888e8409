//! The rules of joining, as pure functions every store shares.

use std::time::Duration;

use subtle::ConstantTimeEq as _;

use crate::{AgentId, Error, ErrorKind, Retry};

/// Whether two hashes are the same, in a time that does not tell where they differ.
pub(super) fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.ct_eq(b).into()
}

/// The same for a code that never was, was used, or has expired: whoever guesses learns nothing.
pub(super) fn refused() -> Error {
    Error::new(ErrorKind::Unauthenticated, "the join code is wrong, has expired or was used")
}

pub(super) fn taken(agent: &AgentId) -> Error {
    Error::new(ErrorKind::AlreadyExists, "an agent has this name").with_context("agent", agent)
}

pub(super) fn no_token(agent: Option<&AgentId>) -> Error {
    let error = Error::new(ErrorKind::NotFound, "no such agent token");
    match agent {
        Some(agent) => error.with_context("agent", agent),
        None => error,
    }
}

pub(super) fn too_many(limit: usize) -> Error {
    Error::new(ErrorKind::RateLimited, "too many join codes are open")
        .with_context("limit", limit)
        .with_retry(Retry::Temporary { after: Some(Duration::from_secs(60)) })
}
