//! Tokens: 256 random bits, kept as SHA-256, cached for a moment so that most requests ask no store.

use std::{
    collections::{BTreeSet, HashMap},
    future::pending,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use fleetcore::{
    Error, ErrorKind, IdentityStore, Result, Role, Scope, TokenId, TokenKind, TokenRecord, UserName,
    UserRecord,
};
use futures::future::BoxFuture;
use jiff::Timestamp;
use parking_lot::RwLock;
use rand::RngCore;
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio_util::sync::CancellationToken;

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
/// How often a stream compares the clock with the end of its token: clocks are set, and timers do not reach years.
const EXPIRY_STEP: Duration = Duration::from_secs(3600);

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
    /// Shared by all who hold the same token.
    pub(crate) lease: Arc<Lease>,
}

#[cfg(feature = "client")]
impl Identity {
    /// The server at the other end of an agent's link, acting for `actor`.
    pub(crate) fn over_link(actor: &Arc<str>) -> Arc<Self> {
        static SERVER: std::sync::OnceLock<(UserName, Arc<Lease>)> = std::sync::OnceLock::new();
        #[expect(clippy::expect_used, reason = "a constant that is a name")]
        let (user, lease) = SERVER.get_or_init(|| {
            let user = UserName::new("server").expect("a name");
            let lease = Lease::new(TokenId::generate(), user.clone(), Via::Token, None);
            (user, Arc::new(lease))
        });
        Arc::new(Self {
            user: user.clone(),
            name: actor.clone(),
            role: Role::Admin,
            scopes: Scope::ALL.into_iter().collect(),
            via: Via::Token,
            token: lease.token,
            expires_at: None,
            lease: lease.clone(),
        })
    }
}

/// How long what was opened with a token may stay open.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) token: TokenId,
    pub(crate) user: UserName,
    pub(crate) via: Via,
    expires_at: Option<Timestamp>,
    revoked: CancellationToken,
}

impl Lease {
    pub(crate) fn new(token: TokenId, user: UserName, via: Via, expires_at: Option<Timestamp>) -> Self {
        Self { token, user, via, expires_at, revoked: CancellationToken::new() }
    }

    /// Resolves when the token is revoked or has expired.
    pub(crate) fn ended(self: &Arc<Self>) -> BoxFuture<'static, ()> {
        // The cache keeps no lease alive, so the future does.
        let lease = self.clone();
        Box::pin(async move {
            tokio::select! {
                () = lease.revoked.cancelled() => {}
                () = until(lease.expires_at) => {}
            }
        })
    }
}

async fn until(at: Option<Timestamp>) {
    let Some(at) = at else { return pending().await };
    // A negative duration is none.
    while let Ok(left) = Duration::try_from(at.duration_since(Timestamp::now()))
        && !left.is_zero()
    {
        tokio::time::sleep(left.min(EXPIRY_STEP)).await;
    }
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

#[derive(Default)]
struct Known {
    identities: HashMap<[u8; 32], Cached>,
    /// Outlives the entry above for as long as a stream is open.
    leases: HashMap<TokenId, Weak<Lease>>,
}

/// Looks tokens up.
pub(crate) struct TokenCache {
    store: Arc<dyn IdentityStore>,
    known: RwLock<Known>,
    /// Goes up with every revocation: a lookup that began before must not fill the cache afterwards.
    generation: AtomicU64,
}

impl std::fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenCache")
            .field("known", &self.known.read().identities.len())
            .finish_non_exhaustive()
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
        // Again when something was revoked meanwhile: it may have been this token, and its streams must hear of it.
        loop {
            let now = Instant::now();
            if let Some(cached) = self.known.read().identities.get(&hash).filter(|c| c.until > now) {
                let identity = cached.identity.clone();
                return if expired(identity.expires_at) { Err(refused()) } else { Ok(identity) };
            }
            let generation = self.generation.load(Ordering::Acquire);
            let not_found = |e: Error| if e.kind() == ErrorKind::NotFound { refused() } else { e };
            let token = self.store.token_by_hash(&hash).await.map_err(not_found)?;
            let wanted = if via == Via::Login { TokenKind::Login } else { TokenKind::Api };
            let good = bool::from(token.secret_sha256.ct_eq(&hash));
            if !good || token.kind != wanted || expired(token.expires_at) {
                return Err(refused());
            }
            let user = self.store.user(&token.user).await.map_err(not_found)?;
            if user.disabled {
                return Err(refused());
            }
            if let Some(identity) = self.keep(hash, &token, user, via, generation) {
                self.touch(&token);
                return Ok(identity);
            }
        }
    }

    /// `None` when something was revoked since `generation`.
    fn keep(
        &self,
        hash: [u8; 32],
        token: &TokenRecord,
        user: UserRecord,
        via: Via,
        generation: u64,
    ) -> Option<Arc<Identity>> {
        let mut known = self.known.write();
        if self.generation.load(Ordering::Acquire) != generation {
            return None;
        }
        if known.identities.len() >= CACHE_MAX {
            known.identities.clear();
            known.leases.retain(|_, lease| lease.strong_count() > 0);
        }
        let lease = known.leases.get(&token.id).and_then(Weak::upgrade).unwrap_or_else(|| {
            let lease = Arc::new(Lease::new(token.id, user.name.clone(), via, token.expires_at));
            known.leases.insert(token.id, Arc::downgrade(&lease));
            lease
        });
        let identity = Arc::new(Identity {
            name: user.name.as_str().into(),
            scopes: token.scopes.intersection(&user.role.scopes()).copied().collect(),
            user: user.name,
            role: user.role,
            via,
            token: token.id,
            expires_at: token.expires_at,
            lease,
        });
        known
            .identities
            .insert(hash, Cached { identity: identity.clone(), until: Instant::now() + CACHE_TTL });
        Some(identity)
    }

    fn touch(&self, token: &TokenRecord) {
        let now = Timestamp::now();
        // A note from the future is of a clock that was wrong.
        let fresh = 0..TOUCH_EVERY_S;
        if token.last_used_at.is_some_and(|at| fresh.contains(&(now.as_second() - at.as_second()))) {
            return;
        }
        let (store, id) = (self.store.clone(), token.id);
        tokio::spawn(async move {
            if let Err(error) = store.touch_token(id, now).await {
                tracing::debug!(%error, token = %id, "cannot note the use of a token");
            }
        });
    }

    /// Forgets those for whom `gone` holds and ends their streams. Comes after the change to the store.
    pub(crate) fn revoke(&self, gone: impl Fn(&Lease) -> bool) {
        let mut known = self.known.write();
        self.generation.fetch_add(1, Ordering::AcqRel);
        known.identities.retain(|_, c| !gone(&c.identity.lease));
        known.leases.retain(|_, lease| match lease.upgrade() {
            Some(lease) if gone(&lease) => {
                lease.revoked.cancel();
                false
            }
            live => live.is_some(),
        });
    }
}

fn expired(at: Option<Timestamp>) -> bool {
    at.is_some_and(|at| at <= Timestamp::now())
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn leases_end_when_they_expire() {
        let lease = |seconds: Option<i64>| {
            let at = seconds.map(|s| Timestamp::now() + jiff::SignedDuration::from_secs(s));
            Arc::new(Lease::new(TokenId::generate(), UserName::new("a").unwrap(), Via::Token, at))
        };
        assert!(lease(None).ended().now_or_never().is_none());
        // Longer than timers reach.
        assert!(lease(Some(10 * 366 * 86_400)).ended().now_or_never().is_none());
        lease(Some(0)).ended().await;
        lease(Some(1)).ended().await;
    }
}
