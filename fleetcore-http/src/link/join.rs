//! How agents get in: a code that works once is exchanged for a token of their own.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use fleetcore::{AgentId, AgentToken, Error, ErrorKind, JoinCode, JoinStore, LOCAL, Labels, Result};
use jiff::{SignedDuration, Timestamp};
use rand::RngCore as _;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

use super::{AgentAuth, AgentTokens, new_agent_token};

/// What a join code starts with, so that people and secret scanners recognise one.
pub const JOIN_CODE_PREFIX: &str = "fcj_";
/// Random bytes of a code: nobody guesses 128 bits within its life, however many try.
const CODE_BYTES: usize = 16;
/// Longest life of a code.
pub const JOIN_CODE_LIFE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Names no agent gets: the server's own host, and what has a meaning in the routes of the API.
const RESERVED: [&str; 3] = [LOCAL, "join", "join-codes"];
/// Most labels of a code, and the longest key or value.
const LABELS_MAX: usize = 64;
const LABEL_BYTES_MAX: usize = 256;

/// Codes and tokens of agents, over a store; besides, tokens that somebody handed out by other means. Cheap to clone.
#[derive(Clone)]
pub struct Joining {
    store: Arc<dyn JoinStore>,
    fixed: AgentTokens,
}

impl fmt::Debug for Joining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joining").field("store", &self.store).finish_non_exhaustive()
    }
}

/// A code that was just made: the only time it is shown.
#[derive(Debug)]
#[non_exhaustive]
pub struct Invitation {
    /// What to give to the agent.
    pub code: SecretString,
    /// When it stops working.
    pub expires_at: Timestamp,
}

/// An agent that was let in: the only time its token is shown.
#[derive(Debug)]
#[non_exhaustive]
pub struct Admission {
    /// What the agent connects with from now on.
    pub secret: SecretString,
    /// What is kept of it.
    pub token: AgentToken,
}

fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// Whether labels are few and short.
fn check_labels(labels: &Labels) -> Result<()> {
    let good = |text: &str| text.len() <= LABEL_BYTES_MAX && !text.chars().any(char::is_control);
    if labels.len() > LABELS_MAX || !labels.iter().all(|(k, v)| !k.is_empty() && good(k) && good(v)) {
        return Err(Error::invalid(
            "labels",
            "at most 64, keys and values of at most 256 bytes without control characters",
        ));
    }
    Ok(())
}

impl Joining {
    /// Codes and tokens in `store`.
    pub fn new(store: Arc<dyn JoinStore>) -> Self {
        Self { store, fixed: AgentTokens::new() }
    }

    /// Also lets these in, except those of agents that were put out: a token that was [revoked](Self::revoke) stays
    /// dead for good, and its agent needs another one.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn with_tokens(mut self, fixed: AgentTokens) -> Result<Self> {
        for agent in fixed.forget(&self.store.banned_agent_tokens().await?) {
            tracing::warn!(%agent, "this agent was removed: its old token no longer works, give it a new one");
        }
        self.fixed = fixed;
        Ok(self)
    }

    /// Makes a code for one agent.
    ///
    /// # Errors
    /// `InvalidInput` for a life outside of 1 s to [`JOIN_CODE_LIFE_MAX`] or for too many labels; `RateLimited` when too
    /// many codes are open; those of the store.
    pub async fn invite(&self, labels: Labels, life: Duration, by: &str) -> Result<Invitation> {
        let rule = || Error::invalid("expires_in_s", "1 second to 30 days");
        if life < Duration::from_secs(1) || life > JOIN_CODE_LIFE_MAX {
            return Err(rule());
        }
        check_labels(&labels)?;
        let now = Timestamp::now();
        let life = SignedDuration::try_from(life).map_err(|_| rule())?;
        let expires_at = now.checked_add(life).map_err(|_| rule())?;
        let mut random = [0; CODE_BYTES];
        rand::rng().fill_bytes(&mut random);
        let code = format!("{JOIN_CODE_PREFIX}{}", URL_SAFE_NO_PAD.encode(random));
        self.store.insert_join_code(JoinCode::new(hash(&code), labels, by, now, expires_at)).await?;
        Ok(Invitation { code: code.into(), expires_at })
    }

    /// Lets an agent in under a name of its choice.
    ///
    /// # Errors
    /// `Unauthenticated` for a code that is wrong, has expired or was used; `AlreadyExists` when the name is taken (the
    /// code still works then); `InvalidInput` for the name `local`; those of the store.
    pub async fn redeem(&self, code: &SecretString, agent: &AgentId) -> Result<Admission> {
        if RESERVED.contains(&agent.as_str()) {
            return Err(Error::invalid("id", "another name than local, join and join-codes"));
        }
        if self.fixed.holds(agent) {
            return Err(
                Error::new(ErrorKind::AlreadyExists, "an agent has this name").with_context("agent", agent)
            );
        }
        let (secret, token_sha256) = new_agent_token();
        let code = hash(code.expose_secret().trim());
        let token = self.store.redeem_join_code(&code, agent, token_sha256, Timestamp::now()).await?;
        Ok(Admission { secret, token })
    }

    /// Ends the right of an agent to connect, for good: also a token that was handed out by other means never works
    /// again, in this program or the next one over the same store. Gives whether there was any; a link that is up is the
    /// business of the hub.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn revoke(&self, agent: &AgentId) -> Result<bool> {
        let fixed = self.fixed.revoke(agent);
        let held = !fixed.is_empty();
        if held {
            self.store.ban_agent_tokens(fixed).await?;
        }
        match self.store.remove_agent_token(agent).await {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(held),
            Err(e) => Err(e),
        }
    }

    /// Whether an agent may connect.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn admits(&self, agent: &AgentId) -> Result<bool> {
        Ok(self.fixed.holds(agent) || self.token(agent).await?.is_some())
    }

    /// The tokens of agents that joined, by agent.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn tokens(&self) -> Result<Vec<AgentToken>> {
        self.store.agent_tokens().await
    }

    /// The token of one agent, if it joined.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn token(&self, agent: &AgentId) -> Result<Option<AgentToken>> {
        match self.store.agent_token_of(agent).await {
            Ok(token) => Ok(Some(token)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}

#[async_trait]
impl AgentAuth for Joining {
    async fn verify(&self, token: &str) -> Result<AgentId> {
        if let Ok(agent) = self.fixed.verify(token).await {
            return Ok(agent);
        }
        match self.store.agent_token(&hash(token)).await {
            Ok(token) => Ok(token.agent),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                Err(Error::new(ErrorKind::Unauthenticated, "the agent's token is not known here")
                    .with_operation("agent.link"))
            }
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use fleetcore::store::memory::MemoryStore;

    use super::*;

    #[tokio::test]
    async fn a_code_becomes_a_token_that_can_be_revoked() {
        let fixed = AgentTokens::new();
        let store = Arc::new(MemoryStore::new());
        let joining = Joining::new(store.clone()).with_tokens(fixed.clone()).await.unwrap();
        let id = |name: &str| AgentId::new(name).unwrap();
        let by_hand = fixed.issue(id("by-hand"));
        let code = joining.invite(Labels::new(), Duration::from_secs(60), "admin").await.unwrap().code;
        for (name, kind) in [
            ("local", ErrorKind::InvalidInput),
            ("join", ErrorKind::InvalidInput),
            ("by-hand", ErrorKind::AlreadyExists),
        ] {
            assert_eq!(joining.redeem(&code, &id(name)).await.unwrap_err().kind(), kind, "{name}");
        }
        let admitted = joining.redeem(&code, &id("a")).await.unwrap();
        let secret = admitted.secret.expose_secret();
        assert!(secret.starts_with("fca_") && !format!("{admitted:?}").contains(secret));
        assert_eq!(joining.verify(secret).await.unwrap(), id("a"));
        assert_eq!(joining.verify(by_hand.expose_secret()).await.unwrap(), id("by-hand"));
        for name in ["a", "by-hand"] {
            assert!(joining.revoke(&id(name)).await.unwrap());
            assert!(!joining.revoke(&id(name)).await.unwrap());
        }
        for dead in [secret, by_hand.expose_secret(), code.expose_secret(), ""] {
            assert_eq!(joining.verify(dead).await.unwrap_err().kind(), ErrorKind::Unauthenticated);
        }
        // Given out again, as by a program that starts anew with the same file.
        let again = AgentTokens::new();
        again.allow(id("by-hand"), hash(by_hand.expose_secret()));
        let other = again.issue(id("by-hand"));
        let joining = Joining::new(store).with_tokens(again).await.unwrap();
        let dead = joining.verify(by_hand.expose_secret()).await.unwrap_err();
        assert_eq!(dead.kind(), ErrorKind::Unauthenticated);
        assert_eq!(
            joining.verify(other.expose_secret()).await.unwrap(),
            id("by-hand"),
            "a new token is a new start"
        );
        for life in [Duration::ZERO, JOIN_CODE_LIFE_MAX + Duration::from_secs(1)] {
            let refused = joining.invite(Labels::new(), life, "admin").await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        }
    }
}
