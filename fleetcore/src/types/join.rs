//! How agents get in: codes that work once, and the tokens they are exchanged for. Only hashes are kept of both.

use std::fmt;

use jiff::Timestamp;

use super::Labels;
use crate::AgentId;

/// A code that lets one agent join.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct JoinCode {
    /// SHA-256 of the code.
    pub code_sha256: [u8; 32],
    /// Labels the agent gets.
    pub labels: Labels,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
    /// When it stops working.
    pub expires_at: Timestamp,
}

impl JoinCode {
    /// Codes that may be open at once; a store refuses more as `RateLimited`.
    pub const MAX_OPEN: usize = 1000;

    /// A code that was just made.
    pub fn new(
        code_sha256: [u8; 32],
        labels: Labels,
        created_by: impl Into<String>,
        created_at: Timestamp,
        expires_at: Timestamp,
    ) -> Self {
        Self { code_sha256, labels, created_by: created_by.into(), created_at, expires_at }
    }
}

impl fmt::Debug for JoinCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinCode")
            .field("labels", &self.labels)
            .field("created_by", &self.created_by)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// The right of an agent to connect, until it is revoked.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AgentToken {
    /// Whose.
    pub agent: AgentId,
    /// SHA-256 of the token. A plain hash is enough because a token has 256 random bits.
    pub token_sha256: [u8; 32],
    /// Labels of the code it was exchanged for.
    pub labels: Labels,
    /// Who made the code.
    pub invited_by: String,
    /// When the agent joined.
    pub joined_at: Timestamp,
}

impl AgentToken {
    /// The token that `code` was exchanged for.
    pub fn new(agent: AgentId, token_sha256: [u8; 32], code: &JoinCode, joined_at: Timestamp) -> Self {
        let (labels, invited_by) = (code.labels.clone(), code.created_by.clone());
        Self { agent, token_sha256, labels, invited_by, joined_at }
    }

    /// A token as a store reads it.
    pub fn from_parts(
        agent: AgentId,
        token_sha256: [u8; 32],
        labels: Labels,
        invited_by: String,
        joined_at: Timestamp,
    ) -> Self {
        Self { agent, token_sha256, labels, invited_by, joined_at }
    }
}

impl fmt::Debug for AgentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentToken")
            .field("agent", &self.agent)
            .field("joined_at", &self.joined_at)
            .finish_non_exhaustive()
    }
}
