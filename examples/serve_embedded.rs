//! The server inside one's own program: same routes, same browser front end, one's own fleet behind it.
//!
//! `cargo run -p fleetcore-examples --example serve_embedded`, then open the printed address; Ctrl-C stops it.

use std::sync::Arc;

use fleetcore::{
    Fleet, Result,
    backends::local::{Local, LocalConfig},
    store::sqlite::{SqliteConfig, SqliteStore},
};
use fleetcore_http::{Server, ServerConfig, Stores, ensure_admin};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<()> {
    // A real program keeps this directory; it is also where output is logged.
    let dir = tempfile::tempdir().map_err(|e| fleetcore::Error::io("make a directory", e))?;
    let store = Arc::new(SqliteStore::open(SqliteConfig::new(dir.path().join("data")))?);
    let host = Arc::new(Local::new(LocalConfig::default()));
    // Layers and other providers go here.
    let fleet = Fleet::builder().with_host(host).with_store(store.clone()).build();

    // The example's password is on the command line; `None` would make a random one.
    let password = std::env::args().nth(1).unwrap_or_else(|| "correct horse battery".to_owned());
    ensure_admin(&*store, Some(password.into())).await?;

    let listen = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::bind(ServerConfig::on(listen), fleet, Stores::new(store)).await?;
    println!("{}", server.url());

    let stop = CancellationToken::new();
    let on_ctrl_c = stop.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            on_ctrl_c.cancel();
        }
    });
    server.run(stop).await
}
