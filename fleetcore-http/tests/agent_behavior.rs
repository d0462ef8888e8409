//! The behaviour suite over the host of an agent.

use std::{process::ExitCode, sync::Arc, time::Duration};

use fleetcore::{
    AgentId, Error, Fleet, Layer, Result,
    backends::local::{Local, LocalConfig},
    layers::{CapabilityCheckLayer, TracingLayer},
    store::memory::MemoryStore,
};
use fleetcore_http::{
    Server, ServerConfig, Stores,
    link::{Agent, AgentConfig, AgentHub, AgentTokens, LinkConfig},
};
use fleetcore_testkit::Env;
use tokio_util::sync::CancellationToken;

/// Room for a slow machine; nothing waits for it when all is well.
const LIMIT: Duration = Duration::from_secs(60);

async fn env() -> Result<Env> {
    let store = Arc::new(MemoryStore::new());
    let tokens = AgentTokens::new();
    let hub = AgentHub::open(store.clone(), Arc::new(tokens.clone()), LinkConfig::default()).await?;
    let layers: [Arc<dyn Layer>; 2] = [Arc::new(CapabilityCheckLayer::new()), Arc::new(TracingLayer::new())];
    let fleet = layers.into_iter().fold(Fleet::builder(), |fleet, layer| fleet.with_layer(layer));
    let fleet = fleet.with_store(store.clone()).with_agents(Arc::new(hub.clone())).build();
    let config = ServerConfig::on(([127, 0, 0, 1], 0).into());
    let server = Server::bind(config, fleet.clone(), Stores::new(store).with_agents(hub.clone())).await?;
    let (id, url) = (AgentId::new("agent-1")?, server.url());
    // Both end with the runtime of the case.
    tokio::spawn(server.run(CancellationToken::new()));

    let store = Arc::new(MemoryStore::new());
    let host = Arc::new(Local::new(LocalConfig::default()));
    let there = Fleet::builder().with_host(host).with_store(store.clone()).build();
    let agent = Agent::new(AgentConfig::new(url, tokens.issue(id.clone())), there, Stores::new(store))?;
    tokio::spawn(async move { agent.run(CancellationToken::new()).await });
    let connected = async {
        while hub.wait_connected(&id, LIMIT).await.is_err() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let late = |_| Error::new(fleetcore::ErrorKind::Timeout, "the agent does not connect");
    tokio::time::timeout(LIMIT, connected).await.map_err(late)?;
    Env::new(fleet, "agent-1").await
}

fn main() -> ExitCode {
    fleetcore_testkit::run("agent", env)
}
