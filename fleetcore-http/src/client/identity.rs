//! Logins, tokens, users and the audit log.

use fleetcore::{Result, Role, Scope};
use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, json};

use super::{
    Client,
    wire::{Audit, Me, NewToken, Page, Token, User, UserChange},
};

impl Client {
    /// Who the server takes us for.
    ///
    /// # Errors
    /// `Unauthenticated` when it does not know us.
    pub async fn me(&self) -> Result<Me> {
        self.get("client.me", &["api", "v1", "me"], &[]).await
    }

    /// Revokes the login this client uses.
    ///
    /// # Errors
    /// `Unauthenticated`, `Unavailable`.
    pub async fn logout(&self) -> Result<()> {
        self.no_answer("client.logout", self.request(Method::POST, &["api", "v1", "logout"])).await
    }

    /// Changes the own password.
    ///
    /// # Errors
    /// `InvalidInput` for a new password below 12 characters, `Unauthenticated` or `PermissionDenied` for a wrong
    /// old one.
    pub async fn change_password(&self, old: &SecretString, new: &SecretString) -> Result<()> {
        let body = json!({ "old": old.expose_secret(), "new": new.expose_secret() });
        let request = self.request(Method::POST, &["api", "v1", "me", "password"]).json(&body);
        self.no_answer("client.change_password", request).await
    }

    /// Own tokens, or everybody's (needs the `admin` scope).
    ///
    /// # Errors
    /// `PermissionDenied`.
    pub async fn tokens(&self, all: bool) -> Result<Vec<Token>> {
        let query = if all { vec![("all", "true".to_owned())] } else { vec![] };
        let page: Page<Token> = self.get("client.tokens", &["api", "v1", "tokens"], &query).await?;
        Ok(page.items)
    }

    /// Makes an API token. Its secret is in the answer and nowhere else.
    ///
    /// # Errors
    /// `PermissionDenied` for a scope the caller lacks.
    pub async fn create_token(
        &self,
        name: &str,
        scopes: &[Scope],
        expires_in_s: Option<u64>,
    ) -> Result<NewToken> {
        let body = json!({ "name": name, "scopes": scopes, "expires_in_s": expires_in_s });
        self.post("client.create_token", &["api", "v1", "tokens"], &body).await
    }

    /// Revokes a token.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn delete_token(&self, id: &str) -> Result<()> {
        self.no_answer("client.delete_token", self.request(Method::DELETE, &["api", "v1", "tokens", id]))
            .await
    }

    /// All users by name.
    ///
    /// # Errors
    /// `PermissionDenied`.
    pub async fn users(&self) -> Result<Vec<User>> {
        let page: Page<User> = self.get("client.users", &["api", "v1", "users"], &[]).await?;
        Ok(page.items)
    }

    /// Makes a user.
    ///
    /// # Errors
    /// `AlreadyExists`; `InvalidInput` for a bad name or a password below 12 characters.
    pub async fn create_user(&self, name: &str, role: Role, password: &SecretString) -> Result<User> {
        let body = json!({ "name": name, "role": role, "password": password.expose_secret() });
        self.post("client.create_user", &["api", "v1", "users"], &body).await
    }

    /// Changes a user.
    ///
    /// # Errors
    /// `NotFound`; `InvalidState` when it would leave no enabled admin.
    pub async fn update_user(&self, name: &str, change: &UserChange) -> Result<User> {
        let mut body = Map::new();
        if let Some(role) = change.role {
            body.insert("role".into(), json!(role));
        }
        if let Some(password) = &change.password {
            body.insert("password".into(), json!(password.expose_secret()));
        }
        if let Some(disabled) = change.disabled {
            body.insert("disabled".into(), json!(disabled));
        }
        let request = self.request(Method::PATCH, &["api", "v1", "users", name]).json(&body);
        self.json("client.update_user", request).await
    }

    /// Removes a user and its tokens.
    ///
    /// # Errors
    /// `NotFound`; `InvalidState` for the last enabled admin.
    pub async fn delete_user(&self, name: &str) -> Result<()> {
        self.no_answer("client.delete_user", self.request(Method::DELETE, &["api", "v1", "users", name]))
            .await
    }

    /// Lines of the audit log, newest first.
    ///
    /// # Errors
    /// `PermissionDenied`.
    pub async fn audit(
        &self,
        actor: Option<&str>,
        action: Option<&str>,
        limit: usize,
    ) -> Result<Page<Audit>> {
        #[derive(serde::Deserialize)]
        struct AuditPage {
            items: Vec<Audit>,
            #[serde(default)]
            next: Option<u64>,
        }
        let mut query = vec![("limit", limit.to_string())];
        query.extend(actor.map(|a| ("actor", a.to_owned())));
        query.extend(action.map(|a| ("action", a.to_owned())));
        let page: AuditPage = self.get("client.audit", &["api", "v1", "audit"], &query).await?;
        Ok(Page { items: page.items, next: page.next.map(|n| n.to_string()) })
    }
}
