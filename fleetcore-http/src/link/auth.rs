//! Who an agent is.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use fleetcore::{AgentId, Error, ErrorKind, Result};
use parking_lot::RwLock;
use rand::RngCore as _;
use secrecy::SecretString;
use sha2::{Digest as _, Sha256};

/// What an agent's token starts with, so that people and secret scanners recognise one.
pub const TOKEN_PREFIX: &str = "fca_";

/// Tells which agent a token belongs to.
#[async_trait]
pub trait AgentAuth: Send + Sync + fmt::Debug + 'static {
    /// The agent whose token this is.
    ///
    /// # Errors
    /// `Unauthenticated` when it is nobody's; those of a store.
    async fn verify(&self, token: &str) -> Result<AgentId>;
}

/// A fresh token of 256 random bits, and the SHA-256 to keep of it.
pub fn new_agent_token() -> (SecretString, [u8; 32]) {
    let mut random = [0; 32];
    rand::rng().fill_bytes(&mut random);
    let secret = format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(random));
    let hash = Sha256::digest(secret.as_bytes()).into();
    (SecretString::from(secret), hash)
}

/// Tokens in memory, by the hash of their secret: for programs that hand them out themselves.
#[derive(Clone, Debug, Default)]
pub struct AgentTokens(Arc<RwLock<HashMap<[u8; 32], AgentId>>>);

impl AgentTokens {
    /// No tokens.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets an agent in with a fresh token.
    pub fn issue(&self, agent: AgentId) -> SecretString {
        let (secret, hash) = new_agent_token();
        self.0.write().insert(hash, agent);
        secret
    }

    /// Lets an agent in with the token that has this SHA-256.
    pub fn allow(&self, agent: AgentId, token_sha256: [u8; 32]) {
        self.0.write().insert(token_sha256, agent);
    }

    /// Whether an agent has a token here.
    pub fn holds(&self, agent: &AgentId) -> bool {
        self.0.read().values().any(|a| a == agent)
    }

    /// Forgets all tokens of an agent; gives their hashes.
    pub fn revoke(&self, agent: &AgentId) -> Vec<[u8; 32]> {
        self.0.write().extract_if(|_, a| a == agent).map(|(hash, _)| hash).collect()
    }

    /// Forgets the tokens with these hashes; gives whose they were.
    pub(super) fn forget(&self, hashes: &HashSet<[u8; 32]>) -> Vec<AgentId> {
        self.0.write().extract_if(|hash, _| hashes.contains(hash)).map(|(_, agent)| agent).collect()
    }
}

#[async_trait]
impl AgentAuth for AgentTokens {
    async fn verify(&self, token: &str) -> Result<AgentId> {
        // Looking a hash up takes no longer for a nearly right one: what an attacker could learn from the time is
        // about the hash, not about the secret.
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        self.0.read().get(&hash).cloned().ok_or_else(|| {
            Error::new(ErrorKind::Unauthenticated, "the agent's token is not known here")
                .with_operation("agent.link")
        })
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[tokio::test]
    async fn tokens_name_their_agent_until_revoked() {
        let tokens = AgentTokens::new();
        let id = AgentId::new("office-1").unwrap();
        let secret = tokens.issue(id.clone());
        assert_eq!(tokens.verify(secret.expose_secret()).await.unwrap(), id);
        for wrong in ["", "fca_", &secret.expose_secret()[1..]] {
            assert_eq!(tokens.verify(wrong).await.unwrap_err().kind(), ErrorKind::Unauthenticated);
        }
        assert_eq!(tokens.revoke(&id).len(), 1);
        assert_eq!(tokens.revoke(&id).len(), 0);
        assert!(tokens.verify(secret.expose_secret()).await.is_err());
    }
}
