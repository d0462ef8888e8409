//! `fleetcore mcp`

use std::{path::Path, sync::Arc, time::Duration};

use fleetcore::{
    CommandStore as _, Error, ErrorKind, Result,
    store::sqlite::{SqliteConfig, SqliteStore},
};
use fleetcore_http::{
    Stores,
    mcp::{Mcp, McpOptions},
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::serve;
use crate::{
    cli::Mcp as Args,
    config::{Place, Settings},
    error::{Failure, Outcome, note},
    exit,
    signals::StopSignals,
};

/// Where records and output of tools without a server are kept, below the data directory: of their own, because this
/// program may run for days and must not keep a server or other commands from the data directory.
const DIRECTORY: &str = "mcp";
/// How long they are kept.
const RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);

/// Offers the tools until standard input ends.
pub(crate) async fn mcp(args: Args, settings: &Settings) -> Outcome {
    let mut stops = StopSignals::listen()?;
    let options = McpOptions::default().with_read_only(args.read_only).with_targets(args.target);
    let (tools, _scratch) = match settings.place()? {
        Place::Server(client) => (Mcp::remote(client), None),
        Place::Here => here(settings).await?,
    };
    let stop = CancellationToken::new();
    let tools = tools.with_options(options);
    let mut serving = std::pin::pin!(tools.serve(tokio::io::stdin(), tokio::io::stdout(), stop.clone()));
    tokio::select! {
        ended = &mut serving => ended?,
        signal = stops.next() => {
            stop.cancel();
            tokio::select! {
                ended = &mut serving => ended?,
                again = stops.next() => return Err(Failure::Code(again.exit_code())),
            }
            return Err(Failure::Code(signal.exit_code()));
        }
    }
    Ok(exit::OK)
}

/// Tools that work in this process. The directory is removed when it is dropped.
async fn here(settings: &Settings) -> Result<(Mcp, Option<TempDir>)> {
    let config = |dir: &Path| SqliteConfig::new(dir).with_max_log_age(Some(RETENTION));
    let (store, scratch) = match SqliteStore::open(config(&settings.data_dir.join(DIRECTORY))) {
        Ok(store) => {
            store.mark_lost("the program that ran it ended before it did").await?;
            (store, None)
        }
        // Another one has it, or it cannot be written: the tools must work all the same.
        Err(e) => {
            if e.kind() != ErrorKind::Busy {
                note(settings.quiet, &format!("commands are not recorded for later: {}", e.message()));
            }
            let scratch = tempfile::Builder::new().prefix("fleetcore-mcp-").tempdir();
            let scratch = scratch.map_err(|e| Error::io("make a temporary directory", e))?;
            (SqliteStore::open(config(scratch.path()))?, Some(scratch))
        }
    };
    let store = Arc::new(store);
    let fleet = serve::fleet(None, settings, &settings.data_dir, store.clone())?.build();
    let actor = std::env::var("USER").ok().filter(|u| !u.is_empty()).unwrap_or_else(|| "local".to_owned());
    Ok((Mcp::local(fleet, Stores::new(store), &actor)?, scratch))
}
