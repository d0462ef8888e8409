//! `fleetcore agent`

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use fleetcore::{
    AddressRules, AgentId, CommandStore as _, Error, Labels, Result,
    store::sqlite::{SqliteConfig, SqliteStore},
};
use fleetcore_http::{
    Stores,
    link::{Agent, AgentConfig, AgentEnd, BehindStore, host_status},
    telemetry,
};
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use super::{agent_identity as identity, agent_install, serve};
use crate::{
    cli::{Agent as Args, AgentVerb, LogFormat},
    config::{Keep, Settings},
    error::Outcome,
    exit, parse,
    signals::StopSignals,
};

/// Below the data directory, unless another one is given: a server of the same user keeps its own data beside it.
const DIRECTORY: &str = "agent-data";
/// What the server is told of commands that did not survive.
const LOST: &str = "the agent ended before the command did";
/// How long output stays here after its command has ended: the server has it long before, unless it is away.
const RETENTION: std::time::Duration = std::time::Duration::from_secs(7 * 24 * 3600);

/// The token in a file.
pub(super) fn token(file: &Path) -> Result<SecretString> {
    let text = std::fs::read_to_string(file)
        .map_err(|e| Error::io("read the agent's token", e).with_context("path", file.display()))?;
    parse::first_line(&text)
}

/// Where an agent keeps its things.
pub(super) fn directory(given: Option<PathBuf>, settings: &Settings) -> PathBuf {
    given.unwrap_or_else(|| settings.data_dir.join(DIRECTORY))
}

/// What is known of an agent before it connects.
struct Whoami {
    server: String,
    id: Option<AgentId>,
    token: SecretString,
    labels: Labels,
}

/// The token that is given; that of a host that joins now, or has joined before.
async fn whoami(args: &Args, dir: &Path, settings: &Settings) -> Result<Whoami> {
    if let Some(file) = &args.token_file {
        let (server, token) = (settings.agent_server()?, token(file)?);
        return Ok(Whoami { server, id: args.id.clone(), token, labels: Labels::new() });
    }
    let known = match &args.join {
        Some(code) => Some(identity::join(settings, dir, code, args.id.as_ref()).await?),
        None => identity::load(dir)?,
    };
    let known = known.ok_or_else(|| {
        Error::invalid("join", "given: this host has not joined yet").with_context(
            "hint",
            "`fleetcore agents join-code` on the server makes a code; --token-file names a token",
        )
    })?;
    // Named otherwise, it is the same server at another address: the token tells.
    let server = settings.agent_server().unwrap_or(known.server);
    Ok(Whoami { server, id: args.id.clone().or(Some(known.id)), token: known.token, labels: known.labels })
}

/// Runs the agent until told to stop, or until the server does not want it.
pub(crate) async fn agent(mut args: Args, settings: &Settings) -> Outcome {
    match args.verb.take() {
        Some(AgentVerb::Install(args)) => return agent_install::install(*args, settings).await,
        Some(AgentVerb::Uninstall(args)) => return agent_install::uninstall(&args, settings),
        None => {}
    }
    let mut stops = StopSignals::listen()?;
    let format = match args.log_format {
        LogFormat::Text => telemetry::LogFormat::Text,
        LogFormat::Json => telemetry::LogFormat::Json,
    };
    let filter = match settings.verbose {
        0 if settings.quiet => "warn",
        0 => "info",
        1 => "info,fleetcore=debug,fleetcore_http=debug",
        _ => "debug",
    };
    let _telemetry = telemetry::init(format, Some(filter))?;
    serve::allow_many_files();
    let dir = directory(args.agent_dir.clone(), settings);
    let store =
        SqliteStore::open(SqliteConfig::new(&dir).with_max_log_age(Some(RETENTION))).map_err(|e| {
            e.with_context("hint", "another agent may run on this directory; choose one with --agent-dir")
        })?;
    let store = Arc::new(store);
    let lost = store.mark_lost(LOST).await?;
    if !lost.is_empty() {
        tracing::warn!(commands = lost.len(), "commands did not survive the end of the agent before");
    }
    let records = Arc::new(BehindStore::new(store.clone()));
    let fleet = serve::fleet(args.offer.file_root.as_deref(), settings, &dir, records.clone())?.build();
    let mine = whoami(&args, &dir, settings).await?;
    let server = mine.server.clone();
    let mut labels = mine.labels;
    labels.extend(args.offer.label.iter().cloned());
    let mut config = AgentConfig::new(server.clone(), mine.token)
        .with_id(mine.id)
        .with_labels(labels)
        .with_status(host_status())
        .with_reconnect(args.reconnect_first, args.reconnect_most);
    if !args.offer.allow_tunnel.is_empty() {
        config = config.with_tunnels(AddressRules::new(args.offer.allow_tunnel.clone()));
    }
    config.roots.extend(settings.certificates()?);
    let agent = Agent::new(config, fleet.clone(), Stores::new(store.clone()))?;
    tracing::info!(server, data_dir = %dir.display(), "agent");

    let keep = Keep { retention: Some(RETENTION), audit_retention: Some(RETENTION), ..Keep::default() };
    let stop = CancellationToken::new();
    let pruning = tokio::spawn(serve::prune(store, keep, stop.clone()));
    let ended = {
        let mut running = std::pin::pin!(agent.run(stop.clone()));
        tokio::select! {
            ended = &mut running => ended,
            signal = stops.next() => {
                tracing::info!(signal = signal.number(), "stopping; once more to stop at once");
                // What runs here ends first, so that the server still hears how.
                tokio::select! {
                    () = fleet.shutdown() => {}
                    again = stops.next() => return Ok(128 + again.number()),
                }
                stop.cancel();
                running.await
            }
        }
    };
    stop.cancel();
    let _ = pruning.await;
    records.flush().await;
    match ended {
        AgentEnd::Refused(error) => {
            fleet.shutdown().await;
            Err(error.into())
        }
        _ => Ok(exit::OK),
    }
}
