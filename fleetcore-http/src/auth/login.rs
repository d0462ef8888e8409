//! Logging in with a password.

use std::{net::IpAddr, num::NonZeroU32, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use fleetcore::{Error, ErrorKind, IdentityStore, Result, Retry, Role, TokenKind, UserName, UserRecord};
use governor::{DefaultKeyedRateLimiter, Quota, clock::Clock};
use jiff::Timestamp;
use rand::RngCore;
use secrecy::{ExposeSecret, SecretString};

use super::{Identity, Lease, Passwords, Via, new_token};
use crate::app::App;

/// Name of the cookie a login sets.
pub(crate) const COOKIE: &str = "fleetcore_login";
/// Shortest password a user may choose: what NIST SP 800-63B rev. 4 and OWASP ask for is between 8 and 15.
const PASSWORD_MIN_CHARS: usize = 12;
/// Longest password; bounds the work of hashing it.
const PASSWORD_MAX_BYTES: usize = 1024;
/// When this many addresses are remembered, those that have waited long enough are forgotten.
const LIMITER_SWEEP: usize = 4096;

/// Slows down guessing, by address.
#[derive(Debug)]
pub(crate) struct LoginLimiter {
    limiter: DefaultKeyedRateLimiter<IpAddr>,
    operation: &'static str,
}

impl LoginLimiter {
    /// For an operation such as `login`.
    pub(crate) fn new(operation: &'static str, per_minute: u32) -> Self {
        let per_minute = NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN);
        Self { limiter: DefaultKeyedRateLimiter::keyed(Quota::per_minute(per_minute)), operation }
    }

    /// `RateLimited` when this address has tried too often.
    pub(crate) fn check(&self, ip: IpAddr) -> Result<()> {
        if self.limiter.len() > LIMITER_SWEEP {
            self.limiter.retain_recent();
        }
        // One home network has a whole /64 of addresses to guess from.
        let key = match ip {
            IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
            v4 => v4,
        };
        self.limiter.check_key(&key).map_err(|until| {
            let after = until.wait_time_from(governor::clock::DefaultClock::default().now());
            Error::new(ErrorKind::RateLimited, "too many attempts from this address")
                .with_operation(self.operation)
                .with_retry(Retry::Temporary { after: Some(after) })
        })
    }
}

/// Checks name and password; a good one makes a login.
pub(crate) async fn log_in(
    app: &App,
    user: &str,
    password: &SecretString,
) -> Result<(SecretString, Identity)> {
    let refused = || Error::new(ErrorKind::Unauthenticated, "wrong user or password").with_operation("login");
    if password.expose_secret().len() > PASSWORD_MAX_BYTES {
        return Err(refused());
    }
    let record = match UserName::new(user) {
        Ok(name) => match app.identities().user(&name).await {
            Ok(record) => Some(record),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        },
        Err(_) => None,
    };
    let good = app.passwords().verify(password, record.as_ref().map(|r| &r.password_hash)).await?;
    let record = record.filter(|r| good && !r.disabled).ok_or_else(refused)?;
    let ttl = jiff::SignedDuration::try_from(app.config().login_ttl)
        .unwrap_or(jiff::SignedDuration::from_hours(24));
    let expires_at = Timestamp::now().checked_add(ttl).ok();
    let scopes = record.role.scopes();
    let (secret, token) = new_token(TokenKind::Login, "login", &record.name, scopes.clone(), expires_at);
    let id = token.id;
    app.identities().insert_token(token).await?;
    // Only for the answer; requests with the secret look it up.
    let lease = Arc::new(Lease::new(id, record.name.clone(), Via::Login, expires_at));
    let identity = Identity {
        name: record.name.as_str().into(),
        user: record.name,
        role: record.role,
        scopes,
        via: Via::Login,
        token: id,
        expires_at,
        lease,
    };
    Ok((secret, identity))
}

/// `Set-Cookie` of a login.
pub(crate) fn login_cookie(secret: &SecretString, ttl: Duration, secure: bool) -> String {
    cookie(secret.expose_secret(), ttl.as_secs(), secure)
}

/// `Set-Cookie` that ends a login.
pub(crate) fn clear_cookie(secure: bool) -> String {
    cookie("", 0, secure)
}

fn cookie(value: &str, max_age_s: u64, secure: bool) -> String {
    let secure = if secure { "; Secure" } else { "" };
    format!("{COOKIE}={value}; Path=/; Max-Age={max_age_s}; HttpOnly; SameSite=Strict{secure}")
}

/// Whether a new password may be used.
pub(crate) fn check_new_password(field: &'static str, password: &SecretString) -> Result<()> {
    let text = password.expose_secret();
    if text.chars().count() < PASSWORD_MIN_CHARS || text.len() > PASSWORD_MAX_BYTES {
        return Err(Error::invalid(field, "12 to 1024 characters"));
    }
    Ok(())
}

/// Makes the user `admin` when there is no user yet, with `password` or a random one.
///
/// Returns the random password, to be shown once; `None` when there were users already or the password was given.
///
/// # Errors
/// `InvalidInput` for an empty password; those of the store.
pub async fn ensure_admin(
    store: &dyn IdentityStore,
    password: Option<SecretString>,
) -> Result<Option<SecretString>> {
    if !store.users().await?.is_empty() {
        return Ok(None);
    }
    let (password, generated) = match password {
        Some(p) if p.expose_secret().is_empty() => return Err(Error::invalid("password", "not empty")),
        Some(p) => {
            if check_new_password("password", &p).is_err() {
                tracing::warn!("the first admin's password is shorter than 12 characters");
            }
            (p, None)
        }
        None => {
            let mut bytes = [0u8; 18];
            rand::rng().fill_bytes(&mut bytes);
            let p = SecretString::from(URL_SAFE_NO_PAD.encode(bytes));
            (p.clone(), Some(p))
        }
    };
    let hash = Passwords::new(1).hash(&password).await?;
    let user = UserRecord::new(UserName::new("admin")?, Role::Admin, hash, Timestamp::now());
    match store.insert_user(user).await {
        Ok(()) => Ok(generated),
        // Another process on the same store was first.
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guessing_is_slowed_by_address_and_by_network() {
        let limiter = LoginLimiter::new("login", 2);
        let a: IpAddr = "192.0.2.1".parse().unwrap();
        assert!(limiter.check(a).is_ok() && limiter.check(a).is_ok());
        let err = limiter.check(a).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::RateLimited);
        assert!(matches!(err.retry(), Retry::Temporary { after: Some(d) } if !d.is_zero()));
        assert!(limiter.check("192.0.2.2".parse().unwrap()).is_ok());
        for n in 0..2 {
            limiter.check(format!("2001:db8::{n}").parse().unwrap()).unwrap();
        }
        assert!(limiter.check("2001:db8::ffff".parse().unwrap()).is_err());
    }

    #[test]
    fn the_cookie_is_out_of_reach_of_scripts_and_other_sites() {
        let c = login_cookie(&"x".into(), Duration::from_secs(60), true);
        for part in ["HttpOnly", "SameSite=Strict", "Secure", "Path=/", "Max-Age=60"] {
            assert!(c.contains(part), "{c}");
        }
        assert!(!login_cookie(&"x".into(), Duration::from_secs(60), false).contains("Secure"));
    }
}
