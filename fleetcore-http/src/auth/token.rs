//! Tokens: 256 random bits, kept as SHA-256, cached for a moment so that most requests ask no store.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use fleetcore::{
    Error, ErrorKind, IdentityStore, Result, Role, Scope, TokenId, TokenKind, TokenRecord, UserName,
};
use jiff::Timestamp;
use parking_lot::RwLock;
use rand::RngCore;
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// What an API token starts with, so that people and secret scanners recognise one.
pub(crate) const TOKEN_PREFIX: &str = "fct_";
/// What a login's secret starts with.
pub(crate) const LOGIN_PREFIX: &str = "fcl_";
/// base64url of 32 bytes, without padding.
const SECRET_CHARS: usize = 43;
/// How long a cached identity is believed. Revoking here drops it at once; this bounds the time when somebody else
/// changes the store.
const CACHE_TTL: Duration = Duration::from_secs(15);
/// Identities kept; when more tokens are in use the cache starts over.
const CACHE_MAX: usize = 8192;
/// A use is noted to the minute, as [`TokenRecord::last_used_at`] says.
const TOUCH_EVERY_S: i64 = 60;

/// How somebody proved who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// A cookie from logging in.
    Login,
    /// An API token.
    Token,
}

impl Via {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Token => "token",
        }
    }
}

/// Who calls.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) user: UserName,
    /// The same name as the core wants it.
    pub(crate) name: Arc<str>,
    pub(crate) role: Role,
    /// What both the token and the role allow.
    pub(crate) scopes: BTreeSet<Scope>,
    pub(crate) via: Via,
    pub(crate) token: TokenId,
    pub(crate) expires_at: Option<Timestamp>,
}

/// A new secret, and what to store of it.
pub(crate) fn new_token(
    kind: TokenKind,
    name: &str,
    user: &UserName,
    scopes: BTreeSet<Scope>,
    expires_at: Option<Timestamp>,
) -> (SecretString, TokenRecord) {
    let mut bytes = [0u8; 32];
    rand::rng().fill_bytes(&mut bytes);
    let prefix = if kind == TokenKind::Login { LOGIN_PREFIX } else { TOKEN_PREFIX };
    let secret = format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes));
    let record = TokenRecord::new(kind, name, user.clone(), hash(&secret), scopes, Timestamp::now());
    (secret.into(), record.with_expires_at(expires_at))
}

fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

struct Cached {
    identity: Arc<Identity>,
    until: Instant,
}

/// Looks tokens up.
pub(crate) struct TokenCache {
    store: Arc<dyn IdentityStore>,
    known: RwLock<HashMap<[u8; 32], Cached>>,
    /// Goes up with every revocation: a lookup that began before must not fill the cache afterwards.
    generation: AtomicU64,
}

impl std::fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenCache").field("known", &self.known.read().len()).finish_non_exhaustive()
    }
}

impl TokenCache {
    pub(crate) fn new(store: Arc<dyn IdentityStore>) -> Self {
        Self { store, known: RwLock::default(), generation: AtomicU64::new(0) }
    }

    /// Who holds this secret; `Unauthenticated` for anything but a good one.
    pub(crate) async fn identify(&self, secret: &str, via: Via) -> Result<Arc<Identity>> {
        let refused = || Error::new(ErrorKind::Unauthenticated, "the token is not valid");
        let prefix = match via {
            Via::Login => LOGIN_PREFIX,
            Via::Token => TOKEN_PREFIX,
        };
        if secret.strip_prefix(prefix).is_none_or(|s| s.len() != SECRET_CHARS) {
            return Err(refused());
        }
        let hash = hash(secret);
        let now = Instant::now();
        if let Some(cached) = self.known.read().get(&hash).filter(|c| c.until > now) {
            let identity = cached.identity.clone();
            return if expired(identity.expires_at) { Err(refused()) } else { Ok(identity) };
        }
        let generation = self.generation.load(Ordering::Acquire);
        let not_found = |e: Error| if e.kind() == ErrorKind::NotFound { refused() } else { e };
        let token = self.store.token_by_hash(&hash).await.map_err(not_found)?;
        let wanted = if via == Via::Login { TokenKind::Login } else { TokenKind::Api };
        if !bool::from(token.secret_sha256.ct_eq(&hash)) || token.kind != wanted || expired(token.expires_at)
        {
            return Err(refused());
        }
        let user = self.store.user(&token.user).await.map_err(not_found)?;
        if user.disabled {
            return Err(refused());
        }
        let identity = Arc::new(Identity {
            name: user.name.as_str().into(),
            scopes: token.scopes.intersection(&user.role.scopes()).copied().collect(),
            user: user.name,
            role: user.role,
            via,
            token: token.id,
            expires_at: token.expires_at,
        });
        self.keep(hash, identity.clone(), generation);
        self.touch(&token);
        Ok(identity)
    }

    fn keep(&self, hash: [u8; 32], identity: Arc<Identity>, generation: u64) {
        let mut known = self.known.write();
        if self.generation.load(Ordering::Acquire) != generation {
            return;
        }
        if known.len() >= CACHE_MAX {
            known.clear();
        }
        known.insert(hash, Cached { identity, until: Instant::now() + CACHE_TTL });
    }

    fn touch(&self, token: &TokenRecord) {
        let now = Timestamp::now();
        if token.last_used_at.is_some_and(|at| now.as_second() - at.as_second() < TOUCH_EVERY_S) {
            return;
        }
        let (store, id) = (self.store.clone(), token.id);
        tokio::spawn(async move {
            if let Err(error) = store.touch_token(id, now).await {
                tracing::debug!(%error, token = %id, "cannot note the use of a token");
            }
        });
    }

    /// Forgets identities for which `gone` holds.
    pub(crate) fn forget(&self, gone: impl Fn(&Identity) -> bool) {
        let mut known = self.known.write();
        self.generation.fetch_add(1, Ordering::AcqRel);
        known.retain(|_, c| !gone(&c.identity));
    }
}

fn expired(at: Option<Timestamp>) -> bool {
    at.is_some_and(|at| at <= Timestamp::now())
}
