//! The behaviour suite over a target of a live server, reached through the client.
//!
//! One server for all cases, as in real life: what a case leaves behind on it would disturb the others.
//! `FLEETCORE_TEST=remote+each` adds every built-in layer on its own. `FLEETCORE_STRESS=N` runs it N times.

#![expect(clippy::unwrap_used, reason = "a server that does not start ends the test")]

use std::{collections::BTreeSet, process::ExitCode, sync::Arc, time::Duration};

use fleetcore::{
    Fleet, IdentityStore, Result, Role, Scope, Target, TokenKind, TokenRecord, UserName, UserRecord,
    backends::local::{Local, LocalConfig},
    store::memory::MemoryStore,
};
use fleetcore_http::{
    Server, ServerConfig, Stores,
    client::{Client, Credentials, RemoteExecutor},
};
use fleetcore_testkit::{Env, Runner, layers};
use futures::future::BoxFuture;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

/// Where the server is, and a token of all scopes.
#[derive(Clone)]
struct Address {
    url: String,
    token: String,
}

impl Address {
    async fn env(&self, layers: layers::Layers) -> Result<Env> {
        // A client, and so a connection pool, for each case: cases have runtimes of their own.
        let client = Client::new(self.url.as_str(), Credentials::token(self.token.as_str()))?;
        let executor = RemoteExecutor::connect(client, Target::local()).await?;
        let fleet = layers.into_iter().fold(Fleet::builder(), |fleet, layer| fleet.with_layer(layer));
        Env::new(fleet.with_host(Arc::new(executor)).build(), "local").await
    }

    fn with(
        &self,
        layers: fn() -> layers::Layers,
    ) -> impl Fn() -> BoxFuture<'static, Result<Env>> + Clone + use<> {
        let address = self.clone();
        move || {
            let address = address.clone();
            Box::pin(async move { address.env(layers()).await })
        }
    }
}

async fn token(store: &MemoryStore) -> String {
    let user = UserName::new("suite").unwrap();
    let record = UserRecord::new(user.clone(), Role::Admin, "none".to_owned().into(), Timestamp::now());
    store.insert_user(record).await.unwrap();
    // Known to nobody outside: the server listens on loopback and ends with this process.
    let secret =
        format!("fct_{}{}", uuid::Uuid::new_v4().simple(), &uuid::Uuid::new_v4().simple().to_string()[..11]);
    let hash = Sha256::digest(secret.as_bytes()).into();
    let scopes: BTreeSet<_> = Scope::ALL.into_iter().collect();
    store
        .insert_token(TokenRecord::new(TokenKind::Api, "suite", user, hash, scopes, Timestamp::now()))
        .await
        .unwrap();
    secret
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let stop = CancellationToken::new();
    let (address, running) = runtime.block_on(async {
        let store = Arc::new(MemoryStore::new());
        let fleet = Fleet::builder()
            .with_host(Arc::new(Local::new(LocalConfig::default())))
            .with_store(store.clone())
            .build();
        let mut config = ServerConfig::on(([127, 0, 0, 1], 0).into());
        config.shutdown_grace = Duration::from_secs(10);
        let server = Server::bind(config, fleet, Stores::new(store.clone())).await.unwrap();
        let address = Address { url: server.url(), token: token(&store).await };
        (address, tokio::spawn(server.run(stop.clone())))
    });

    let wanted = std::env::var("FLEETCORE_TEST").unwrap_or_else(|_| "remote".to_owned());
    let wanted: Vec<&str> = wanted.split([',', '|']).map(str::trim).collect();
    let mut runner = Runner::new();
    if wanted.iter().any(|w| ["remote", "remote+each"].contains(w)) {
        runner.machine("remote", address.with(Vec::new)).machine("remote+layers", address.with(layers::all));
    } else {
        runner.skip("remote", "FLEETCORE_TEST does not name it");
    }
    if wanted.contains(&"remote+each") {
        for (name, make) in layers::each() {
            runner.machine(&format!("remote+{name}"), address.with(make));
        }
    } else {
        runner.skip("remote+each", "FLEETCORE_TEST does not name it");
    }
    let outcome = runner.run();

    stop.cancel();
    // A server that cannot stop was left in a bad way by some case.
    runtime.block_on(running).unwrap().unwrap();
    outcome
}
