//! Agents that speak Batwa's agent API, driven over HTTP.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::http::StatusCode;
use bytes::{Bytes, BytesMut};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Client, Method, header};
use secrecy::ExposeSecret as _;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    agents::Agent,
    map::{self, AgentFailure, Deed},
    wire::{ActionRemote, Create, CreateRemote},
};

/// Longest wait for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Longest wait for a list or details.
const LOOK_LIMIT: Duration = Duration::from_secs(10);
/// Longest wait for a stop or delete.
const STOP_LIMIT: Duration = Duration::from_secs(120);
/// Longest wait for a start.
const START_LIMIT: Duration = Duration::from_secs(300);
/// Longest wait for a launch, which may download an image.
const CREATE_LIMIT: Duration = Duration::from_secs(900);
/// Most of an answer that is read.
const ANSWER_MAX: usize = 16 << 20;
/// Everything but RFC 3986's unreserved characters is escaped.
pub(super) const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A client of agents. Opens nothing before its first use.
#[derive(Clone, Debug, Default)]
pub(super) struct Remote(Arc<OnceLock<Option<Client>>>);

impl Remote {
    fn client(&self) -> Result<&Client, AgentFailure> {
        let make = || {
            let made = client(CONNECT_LIMIT);
            if let Err(error) = &made {
                tracing::error!(%error, "no HTTP client");
            }
            made.ok()
        };
        self.0.get_or_init(make).as_ref().ok_or(AgentFailure::Unreachable)
    }

    /// The agent's list, as it printed it.
    pub(super) async fn list(&self, agent: &Agent) -> Result<Bytes, AgentFailure> {
        let (status, body) = self.call(agent, Method::GET, "/api/vm/list", None::<&()>, LOOK_LIMIT).await?;
        map::checked_reply(status, &body)?;
        Ok(body)
    }

    /// The agent's details of a machine, as it printed them.
    pub(super) async fn info(&self, agent: &Agent, name: &str) -> Result<Bytes, AgentFailure> {
        let path = format!("/api/vm/info/{}", utf8_percent_encode(name, SEGMENT));
        let (status, body) = self.call(agent, Method::GET, &path, None::<&()>, LOOK_LIMIT).await?;
        let reply: Map<String, Value> = map::checked_reply(status, &body)?;
        // The Go agent wraps what it does not understand.
        match reply.get("data").and_then(|d| d.get("detail")).and_then(Value::as_str) {
            Some(detail) => Err(AgentFailure::Said(StatusCode::NOT_FOUND, detail.to_owned())),
            None => Ok(body),
        }
    }

    /// Launches a machine there.
    pub(super) async fn create(&self, agent: &Agent, wanted: &Create) -> Result<String, AgentFailure> {
        let Create { name, cpus, memory, disk, image, .. } = wanted;
        let body = CreateRemote { name, cpus: *cpus, memory, disk, image };
        self.deed(agent, Deed::Create, &body, CREATE_LIMIT).await
    }

    /// Starts, stops or deletes a machine there.
    pub(super) async fn act(&self, agent: &Agent, deed: Deed, name: &str) -> Result<String, AgentFailure> {
        let limit = if deed == Deed::Start { START_LIMIT } else { STOP_LIMIT };
        self.deed(agent, deed, &ActionRemote { name }, limit).await
    }

    async fn deed(
        &self,
        agent: &Agent,
        deed: Deed,
        body: &impl Serialize,
        limit: Duration,
    ) -> Result<String, AgentFailure> {
        let path = format!("/api/vm/{}", deed.as_str());
        let (status, body) = self.call(agent, Method::POST, &path, Some(body), limit).await?;
        map::deed_reply(status, &body)
    }

    async fn call(
        &self,
        agent: &Agent,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), AgentFailure> {
        let url = format!("{}{path}", agent.info.api_url);
        let mut request =
            self.client()?.request(method, url).header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = &agent.key {
            request = request.header("X-API-Key", key.expose_secret());
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let id = &agent.info.agent_id;
        let work = async {
            let mut reply = request.send().await.map_err(|error| failure(&error, id))?;
            let status = reply.status();
            let mut all = BytesMut::new();
            while let Some(piece) = reply.chunk().await.map_err(|error| failure(&error, id))? {
                if all.len() + piece.len() > ANSWER_MAX {
                    return Err(AgentFailure::Odd);
                }
                all.extend_from_slice(&piece);
            }
            Ok((status, all.freeze()))
        };
        tokio::time::timeout(limit, work).await.unwrap_or(Err(AgentFailure::Late))
    }
}

/// A client for traffic between master and agents: no proxies, no redirects, which would carry the key elsewhere.
pub(super) fn client(connect_limit: Duration) -> reqwest::Result<Client> {
    Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(connect_limit)
        .tcp_nodelay(true)
        .build()
}

fn failure(error: &reqwest::Error, id: &str) -> AgentFailure {
    tracing::debug!(%error, agent = id, "an agent did not answer");
    if error.is_timeout() && !error.is_connect() {
        AgentFailure::Late
    } else if error.is_builder() || error.is_decode() {
        AgentFailure::Odd
    } else {
        AgentFailure::Unreachable
    }
}
