use async_trait::async_trait;
use jiff::Timestamp;

use super::MemoryStore;
use crate::{
    AuditEntry, AuditFilter, AuditStore, Error, ErrorKind, IdentityStore, Result, TokenId, TokenRecord,
    UserName, UserRecord,
};

fn no_user(name: &UserName) -> Error {
    Error::new(ErrorKind::NotFound, "no such user").with_context("user", name)
}

fn no_token(id: TokenId) -> Error {
    Error::new(ErrorKind::NotFound, "no such token").with_context("token", id)
}

#[async_trait]
impl IdentityStore for MemoryStore {
    async fn insert_user(&self, user: UserRecord) -> Result<()> {
        let mut state = self.state();
        if state.users.contains_key(&user.name) {
            return Err(
                Error::new(ErrorKind::AlreadyExists, "the user exists").with_context("user", user.name)
            );
        }
        state.users.insert(user.name.clone(), user);
        Ok(())
    }

    async fn update_user(&self, user: UserRecord) -> Result<()> {
        let mut state = self.state();
        let slot = state.users.get_mut(&user.name).ok_or_else(|| no_user(&user.name))?;
        *slot = user;
        Ok(())
    }

    async fn user(&self, name: &UserName) -> Result<UserRecord> {
        self.state().users.get(name).cloned().ok_or_else(|| no_user(name))
    }

    async fn users(&self) -> Result<Vec<UserRecord>> {
        Ok(self.state().users.values().cloned().collect())
    }

    async fn remove_user(&self, name: &UserName) -> Result<()> {
        let mut state = self.state();
        state.users.remove(name).ok_or_else(|| no_user(name))?;
        state.tokens.retain(|_, t| t.user != *name);
        Ok(())
    }

    async fn insert_token(&self, token: TokenRecord) -> Result<()> {
        let mut state = self.state();
        if !state.users.contains_key(&token.user) {
            return Err(no_user(&token.user));
        }
        let taken = |t: &TokenRecord| t.id == token.id || t.secret_sha256 == token.secret_sha256;
        if state.tokens.values().any(taken) {
            return Err(
                Error::new(ErrorKind::AlreadyExists, "the token exists").with_context("token", token.id)
            );
        }
        state.tokens.insert(token.id, token);
        Ok(())
    }

    async fn token_by_hash(&self, secret_sha256: &[u8; 32]) -> Result<TokenRecord> {
        let state = self.state();
        let token = state.tokens.values().find(|t| t.secret_sha256 == *secret_sha256);
        token.cloned().ok_or_else(|| Error::new(ErrorKind::NotFound, "no such token"))
    }

    async fn tokens(&self, user: Option<&UserName>) -> Result<Vec<TokenRecord>> {
        let state = self.state();
        let mut tokens: Vec<_> =
            state.tokens.values().filter(|t| user.is_none_or(|u| *u == t.user)).cloned().collect();
        tokens.sort_by_key(|t| std::cmp::Reverse((t.created_at, t.id)));
        Ok(tokens)
    }

    async fn touch_token(&self, id: TokenId, at: Timestamp) -> Result<()> {
        self.state().tokens.get_mut(&id).ok_or_else(|| no_token(id))?.last_used_at = Some(at);
        Ok(())
    }

    async fn remove_token(&self, id: TokenId) -> Result<()> {
        self.state().tokens.remove(&id).map(drop).ok_or_else(|| no_token(id))
    }

    async fn prune_tokens(&self, now: Timestamp) -> Result<u64> {
        let mut state = self.state();
        let before = state.tokens.len();
        state.tokens.retain(|_, t| t.expires_at.is_none_or(|at| at >= now));
        Ok((before - state.tokens.len()) as u64)
    }
}

#[async_trait]
impl AuditStore for MemoryStore {
    async fn append(&self, mut entry: AuditEntry) -> Result<()> {
        let mut state = self.state();
        state.audit_seq += 1;
        entry.seq = state.audit_seq;
        state.audit.push_back(entry);
        while state.audit.len() > self.shared.limits.audit_entries {
            state.audit.pop_front();
        }
        Ok(())
    }

    async fn read(&self, filter: AuditFilter) -> Result<Vec<AuditEntry>> {
        let passes = |e: &&AuditEntry| {
            filter.before.is_none_or(|seq| e.seq < seq)
                && filter.actor.as_ref().is_none_or(|a| *a == e.actor)
                && filter
                    .action
                    .as_ref()
                    .is_none_or(|a| e.action == *a || (a.ends_with('.') && e.action.starts_with(a.as_str())))
        };
        let limit = if filter.limit == 0 { 100 } else { filter.limit };
        Ok(self.state().audit.iter().rev().filter(passes).take(limit).cloned().collect())
    }

    async fn prune_audit(&self, before: Option<Timestamp>, keep: Option<u64>) -> Result<u64> {
        let mut state = self.state();
        let count = state.audit.len();
        state.audit.retain(|entry| before.is_none_or(|before| entry.at >= before));
        let keep = keep.map_or(usize::MAX, |keep| usize::try_from(keep).unwrap_or(usize::MAX));
        let excess = state.audit.len().saturating_sub(keep);
        state.audit.drain(..excess);
        Ok((count - state.audit.len()) as u64)
    }
}
