//! Agents, how they get in, and measurements of hosts.

use std::time::Duration;

use fleetcore::{AgentId, Labels, Result, Target};
use jiff::Timestamp;
use reqwest::Method;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;

use super::{
    Client, Credentials,
    wire::{Agent, Joined, Metrics, NewJoinCode, Page},
};

/// Which part of a history, and how fine; the default is the last hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetricsQuery {
    /// From when on.
    pub from: Option<Timestamp>,
    /// Until when.
    pub to: Option<Timestamp>,
    /// Time from one point to the next, in whole seconds.
    pub step: Option<Duration>,
}

impl MetricsQuery {
    fn pairs(&self) -> Vec<(&'static str, String)> {
        let mut pairs = vec![];
        pairs.extend(self.from.map(|t| ("from", t.to_string())));
        pairs.extend(self.to.map(|t| ("to", t.to_string())));
        pairs.extend(self.step.map(|s| ("step", s.as_secs().max(1).to_string())));
        pairs
    }
}

impl Client {
    /// All agents that may connect, by name.
    ///
    /// # Errors
    /// `Unsupported` when the server takes no agents.
    pub async fn agents(&self) -> Result<Vec<Agent>> {
        let page: Page<Agent> = self.get("client.agents", &["api", "v1", "agents"], &[]).await?;
        Ok(page.items)
    }

    /// One agent.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn agent(&self, id: &AgentId) -> Result<Agent> {
        self.get("client.agent", &["api", "v1", "agents", id.as_str()], &[]).await
    }

    /// Puts an agent out for good.
    ///
    /// # Errors
    /// `NotFound`; `PermissionDenied` without the scope `machines`.
    pub async fn delete_agent(&self, id: &AgentId) -> Result<()> {
        let request = self.request(Method::DELETE, &["api", "v1", "agents", id.as_str()]);
        self.no_answer("client.delete_agent", request).await
    }

    /// Makes a code that lets one agent join, within an hour unless another time is given.
    ///
    /// # Errors
    /// `InvalidInput` for a time beyond 30 days; `RateLimited` when too many codes are open; `PermissionDenied` without
    /// the scope `machines`.
    pub async fn create_join_code(
        &self,
        labels: &Labels,
        expires_in: Option<Duration>,
    ) -> Result<NewJoinCode> {
        let body = json!({ "labels": labels, "expires_in_s": expires_in.map(|d| d.as_secs()) });
        self.post("client.create_join_code", &["api", "v1", "agents", "join-codes"], &body).await
    }

    /// Exchanges a join code for the token of an agent of this name. Whoever this client is, is not said.
    ///
    /// # Errors
    /// `Unauthenticated` for a code that is wrong, has expired or was used; `AlreadyExists` when the name is taken;
    /// `RateLimited`.
    pub async fn join(&self, code: &SecretString, id: &AgentId) -> Result<Joined> {
        let body = json!({ "code": code.expose_secret(), "id": id });
        let nobody = self.with_credentials(Credentials::Anonymous);
        nobody.post("client.join", &["api", "v1", "agents", "join"], &body).await
    }

    /// How busy an agent's host was.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` when `from` is not before `to`.
    pub async fn agent_metrics(&self, id: &AgentId, query: &MetricsQuery) -> Result<Metrics> {
        let segments = ["api", "v1", "agents", id.as_str(), "metrics"];
        self.get("client.agent_metrics", &segments, &query.pairs()).await
    }

    /// How busy a target was: `local` or an agent.
    ///
    /// # Errors
    /// As [`agent_metrics`](Self::agent_metrics).
    pub async fn metrics(&self, target: &Target, query: &MetricsQuery) -> Result<Metrics> {
        let segments = ["api", "v1", "targets", &target.to_string(), "metrics"];
        self.get("client.metrics", &segments, &query.pairs()).await
    }
}
