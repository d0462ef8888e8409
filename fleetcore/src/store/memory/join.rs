use std::collections::HashSet;

use async_trait::async_trait;
use jiff::Timestamp;

use super::MemoryStore;
use crate::{AgentId, AgentToken, JoinCode, JoinStore, Result, store::join};

#[async_trait]
impl JoinStore for MemoryStore {
    async fn insert_join_code(&self, code: JoinCode) -> Result<()> {
        let mut state = self.state();
        state.join_codes.retain(|c| c.expires_at > code.created_at);
        if state.join_codes.len() >= JoinCode::MAX_OPEN {
            return Err(join::too_many(JoinCode::MAX_OPEN));
        }
        state.join_codes.push(code);
        Ok(())
    }

    async fn redeem_join_code(
        &self,
        code_sha256: &[u8; 32],
        agent: &AgentId,
        token_sha256: [u8; 32],
        now: Timestamp,
    ) -> Result<AgentToken> {
        let mut state = self.state();
        let at = state.join_codes.iter().position(|c| join::same(&c.code_sha256, code_sha256));
        let good = at.and_then(|at| Some((at, state.join_codes.get(at)?.clone())));
        let (at, code) = good.filter(|(_, c)| c.expires_at > now).ok_or_else(join::refused)?;
        if state.agent_tokens.contains_key(agent) || state.agents.contains_key(agent) {
            return Err(join::taken(agent));
        }
        state.join_codes.swap_remove(at);
        let token = AgentToken::new(agent.clone(), token_sha256, &code, now);
        state.agent_tokens.insert(agent.clone(), token.clone());
        Ok(token)
    }

    async fn agent_token(&self, token_sha256: &[u8; 32]) -> Result<AgentToken> {
        let state = self.state();
        let found = state.agent_tokens.values().find(|t| join::same(&t.token_sha256, token_sha256));
        found.cloned().ok_or_else(|| join::no_token(None))
    }

    async fn agent_token_of(&self, agent: &AgentId) -> Result<AgentToken> {
        self.state().agent_tokens.get(agent).cloned().ok_or_else(|| join::no_token(Some(agent)))
    }

    async fn agent_tokens(&self) -> Result<Vec<AgentToken>> {
        Ok(self.state().agent_tokens.values().cloned().collect())
    }

    async fn remove_agent_token(&self, agent: &AgentId) -> Result<()> {
        let gone = self.state().agent_tokens.remove(agent);
        gone.map(drop).ok_or_else(|| join::no_token(Some(agent)))
    }

    async fn ban_agent_tokens(&self, token_sha256: Vec<[u8; 32]>) -> Result<()> {
        self.state().banned_tokens.extend(token_sha256);
        Ok(())
    }

    async fn banned_agent_tokens(&self) -> Result<HashSet<[u8; 32]>> {
        Ok(self.state().banned_tokens.clone())
    }
}
