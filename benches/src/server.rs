//! A server of this process.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use fleetcore::{
    Fleet,
    backends::local::{Local, LocalConfig},
    store::{
        memory::MemoryStore,
        sqlite::{SqliteConfig, SqliteStore},
    },
};
use fleetcore_http::{Server, ServerConfig, Stores, ensure_admin};
use http_body_util::BodyExt;
use hyper::{Method, header};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::Http;

const PASSWORD: &str = "correct horse battery staple";
/// Output kept on disk by one measurement: bulk ones write gigabytes.
const LOG_BYTES: u64 = 2 << 30;

/// The product's server on a free port, with its stores in a temporary directory. Dropping it stops it.
#[derive(Debug)]
pub struct TestServer {
    /// Where it listens.
    pub addr: SocketAddr,
    /// An API token with every scope.
    pub token: String,
    /// Its fleet.
    pub fleet: Fleet,
    /// A scratch directory.
    pub dir: TempDir,
    _stop: DropGuard,
}

impl TestServer {
    /// Everything on disk, as `fleetcore serve` has it.
    pub fn start(runtime: &Runtime) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = SqliteConfig::new(dir.path().join("data")).with_max_total_log_bytes(LOG_BYTES);
        let store = Arc::new(SqliteStore::open(config).expect("a fresh store"));
        let fleet = Fleet::builder().with_host(host()).with_store(store.clone()).build();
        Self::serve(runtime, dir, fleet, Stores::new(store))
    }

    /// Commands are not recorded: what the server costs without its store.
    pub fn start_without_store(runtime: &Runtime) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let fleet = Fleet::builder().with_host(host()).build();
        Self::serve(runtime, dir, fleet, Stores::new(Arc::new(MemoryStore::default())))
    }

    fn serve(runtime: &Runtime, dir: TempDir, fleet: Fleet, stores: Stores) -> Self {
        let stop = CancellationToken::new();
        runtime.block_on(async {
            ensure_admin(&*stores.identity, Some(PASSWORD.into())).await.expect("a first user");
            let config = ServerConfig::on(SocketAddr::from(([127, 0, 0, 1], 0)));
            let server = Server::bind(config, fleet.clone(), stores).await.expect("a free port");
            let addr = server.local_addr();
            tokio::spawn(server.run(stop.clone()));
            let token = login_token(addr, PASSWORD).await;
            Self { addr, token, fleet, dir, _stop: stop.drop_guard() }
        })
    }

    /// A connection that is logged in.
    pub async fn connect(&self) -> Http {
        Http::connect(self.addr, Some(&self.token)).await
    }
}

fn host() -> Arc<Local> {
    Arc::new(Local::new(LocalConfig::default()))
}

/// Logs in as `admin` and makes an API token, as a person would in the browser.
pub async fn login_token(addr: SocketAddr, password: &str) -> String {
    let mut http = Http::connect(addr, None).await;
    let json_type = ("content-type", "application/json");
    let body = json!({"user": "admin", "password": password}).to_string();
    let login = http.send(Method::POST, "/api/v1/login", &[json_type], Bytes::from(body)).await;
    assert!(login.status().is_success(), "login: {}", login.status());
    let cookie = login.headers().get(header::SET_COOKIE).and_then(|c| c.to_str().ok()).unwrap_or_default();
    let cookie = cookie.split(';').next().unwrap_or_default().to_owned();
    login.into_body().collect().await.expect("a whole body");
    let body = json!({"name": "bench", "scopes": ["read", "run", "files", "machines", "tunnels", "admin"]})
        .to_string();
    let origin = format!("http://{addr}");
    let headers = [json_type, ("cookie", &cookie), ("origin", &origin)];
    let made = http.send(Method::POST, "/api/v1/tokens", &headers, Bytes::from(body)).await;
    assert!(made.status().is_success(), "token: {}", made.status());
    let made = made.into_body().collect().await.expect("a whole body").to_bytes();
    let made: Value = serde_json::from_slice(&made).expect("JSON");
    made.get("secret").and_then(Value::as_str).expect("a new token shows its secret").to_owned()
}
