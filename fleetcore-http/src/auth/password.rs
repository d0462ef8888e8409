//! Passwords: argon2id, never more at once than the memory for it.

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier},
};
use fleetcore::{Error, ErrorKind, Result};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

/// Hashes and checks passwords. Each takes 19 MiB and some 20 ms (the argon2id setting OWASP recommends and the
/// crate's default), so only a few run at once and never on a thread that serves requests.
#[derive(Debug)]
pub(crate) struct Passwords {
    permits: Semaphore,
    /// A hash nobody has the password of: checked when the user does not exist, so that both take as long.
    decoy: tokio::sync::OnceCell<SecretString>,
}

impl Passwords {
    pub(crate) fn new(at_once: usize) -> Self {
        Self { permits: Semaphore::new(at_once.max(1)), decoy: tokio::sync::OnceCell::new() }
    }

    /// PHC string of a new password.
    pub(crate) async fn hash(&self, password: &SecretString) -> Result<SecretString> {
        let password = password.clone();
        self.work("hash_password", move || {
            Argon2::default()
                .hash_password(password.expose_secret().as_bytes())
                .map(|h| SecretString::from(h.to_string()))
        })
        .await?
        .map_err(|e| Error::new(ErrorKind::Unexpected, "cannot hash the password").with_source(e.to_string()))
    }

    /// Whether `password` is the one `hash` was made of. Without a hash: takes as long, and says no.
    pub(crate) async fn verify(&self, password: &SecretString, hash: Option<&SecretString>) -> Result<bool> {
        let known = hash.is_some();
        let hash = match hash {
            Some(hash) => hash.clone(),
            None => {
                let decoy = SecretString::from(uuid::Uuid::new_v4().to_string());
                self.decoy.get_or_try_init(|| self.hash(&decoy)).await?.clone()
            }
        };
        let password = password.clone();
        let same = self
            .work("check_password", move || {
                Argon2::default()
                    .verify_password(password.expose_secret().as_bytes(), hash.expose_secret())
                    .is_ok()
            })
            .await?;
        Ok(same && known)
    }

    async fn work<T: Send + 'static>(
        &self,
        operation: &'static str,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let failed = |e: &dyn std::fmt::Display| {
            Error::new(ErrorKind::Unexpected, "password worker failed")
                .with_operation(operation)
                .with_context("cause", e)
        };
        let _permit = self.permits.acquire().await.map_err(|e| failed(&e))?;
        tokio::task::spawn_blocking(f).await.map_err(|e| failed(&e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_right_password_of_a_known_user_passes() {
        let p = Passwords::new(2);
        let hash = p.hash(&"correct horse".into()).await.unwrap();
        assert!(hash.expose_secret().starts_with("$argon2id$"));
        assert!(p.verify(&"correct horse".into(), Some(&hash)).await.unwrap());
        assert!(!p.verify(&"wrong".into(), Some(&hash)).await.unwrap());
        assert!(!p.verify(&"correct horse".into(), None).await.unwrap());
        assert!(!p.verify(&"x".into(), Some(&"garbage".into())).await.unwrap());
    }
}
