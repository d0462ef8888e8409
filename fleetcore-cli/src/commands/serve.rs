//! `fleetcore serve`

use std::{path::Path, sync::Arc, time::Duration};

use fleetcore::{
    CommandStore, Error, Fleet, IdentityStore, Result,
    backends::local::{CgroupMode, Local, LocalConfig},
    layers::{CapabilityCheckLayer, MetricsLayer, TracingLayer},
    store::sqlite::{SqliteConfig, SqliteStore},
};
use fleetcore_http::{Server, ServerConfig, Stores, TlsConfig, ensure_admin, telemetry};
use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret as _, SecretString};
use tokio_util::sync::CancellationToken;

use super::compat;
use crate::{
    cli::{LogFormat, Serve},
    config::Settings,
    error::{Outcome, note},
    exit, local_server, parse, render,
    signals::StopSignals,
};

/// How often what is too old is removed.
const PRUNE_EVERY: Duration = Duration::from_secs(600);
/// What waiters of commands that did not survive are told.
const LOST: &str = "the server ended before the command did";

/// Runs the server until told to stop.
pub(crate) async fn serve(args: Serve, settings: &Settings) -> Outcome {
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

    allow_many_files();
    let store = Arc::new(open_store(&args, settings).await?);
    let password = ensure_admin(&*store, first_password(args.admin_password_file.as_deref())?).await?;
    let server =
        Server::bind(config(&args)?, fleet(&args, store.clone())?, Stores::new(store.clone())).await?;
    let (url, address) = (server.url(), server.local_addr());
    let further = compat::further(&args.compat, server.app(), &settings.data_dir).await?;

    // The first line is the address, for programs that start us on port 0.
    render::print(&format!("{url}\n"))?;
    if let Some(password) = &password {
        render::print(&format!("admin password: {}\n", password.expose_secret()))?;
    }
    render::print(&further.lines())?;
    let certificate = args.tls_cert.as_deref();
    let announced =
        match local_server::announce(&settings.data_dir, &url, address, certificate, &*store).await {
            Ok(announced) => Some(announced),
            Err(error) => {
                tracing::warn!(%error, "commands on this host will not find this server by themselves");
                None
            }
        };
    tracing::info!(%url, data_dir = %settings.data_dir.display(), "serving");

    let shutdown = CancellationToken::new();
    let mut dialects = further.run(&shutdown);
    let pruning = tokio::spawn(prune(store.clone(), args.retention, shutdown.clone()));
    let mut running = std::pin::pin!(server.run(shutdown.clone()));
    let stop = tokio::select! {
        ended = &mut running => return ended.map(|()| exit::OK).map_err(Into::into),
        stop = stops.next() => stop,
    };
    tracing::info!(signal = stop.number(), "stopping; once more to stop at once");
    shutdown.cancel();
    // From now on nobody should find us.
    if let Some(announced) = announced {
        announced.withdraw(&*store).await;
    }
    let code = tokio::select! {
        ended = &mut running => ended.map(|()| exit::OK)?,
        again = stops.next() => {
            note(settings.quiet, "stopped at once");
            // Dropping the runtime kills what still runs.
            return Ok(128 + again.number());
        }
    };
    let _ = pruning.await;
    while dialects.join_next().await.is_some() {}
    Ok(code)
}

/// Raises the soft limit of open files to the hard one: a command takes four descriptors, a terminal six, and the
/// usual soft limit of 1024 is there for programs that use `select(2)`.
pub(crate) fn allow_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// Opens the data directory; commands of a server that was killed become `Lost`.
async fn open_store(args: &Serve, settings: &Settings) -> Result<SqliteStore> {
    let mut config = SqliteConfig::new(&settings.data_dir);
    if let Some(bytes) = args.max_log_bytes {
        config = config.with_max_log_bytes(bytes);
    }
    if let Some(bytes) = args.max_total_log_bytes {
        config = config.with_max_total_log_bytes(bytes);
    }
    let store = SqliteStore::open(config.with_max_log_age(args.retention)).map_err(|e| {
        e.with_context("hint", "another server may run on this directory; choose one with --data-dir")
    })?;
    let lost = store.mark_lost(LOST).await?;
    if !lost.is_empty() {
        tracing::warn!(commands = lost.len(), "commands did not survive the end of the server before");
    }
    Ok(store)
}

fn fleet(args: &Serve, store: Arc<SqliteStore>) -> Result<Fleet> {
    let mut config = LocalConfig::default().with_cgroup(CgroupMode::Auto);
    if let Some(dir) = &args.file_root {
        let root = std::path::absolute(dir)
            .map_err(|e| Error::io("find the file root", e).with_context("path", dir.display()))?;
        if !root.is_dir() {
            return Err(Error::invalid("file_root", "a directory").with_context("path", root.display()));
        }
        config = config.with_file_root(root);
    }
    Ok(Fleet::builder()
        .with_host(Arc::new(Local::new(config)))
        .with_store(store)
        .with_layer(Arc::new(CapabilityCheckLayer::new()))
        .with_layer(Arc::new(MetricsLayer::new()))
        .with_layer(Arc::new(TracingLayer::new()))
        .build())
}

fn config(args: &Serve) -> Result<ServerConfig> {
    let mut config = ServerConfig::on(args.listen);
    if let (Some(cert), Some(key)) = (&args.tls_cert, &args.tls_key) {
        config.tls = Some(TlsConfig { cert: cert.clone(), key: key.clone() });
    }
    config.behind_proxy = args.behind_proxy.is_some();
    config.trusted_proxies = args.behind_proxy.iter().flatten().map(|n| n.parse()).collect::<Result<_>>()?;
    config.allowed_hosts = args.allow_host.clone();
    config.ui_dir = args.ui_dir.clone();
    config.metrics_public = args.metrics_public;
    config.session_idle = args.session_idle;
    if let Some(dir) = &args.ui_dir
        && !dir.is_dir()
    {
        return Err(Error::invalid("ui_dir", "a directory").with_context("path", dir.display()));
    }
    Ok(config)
}

/// The password for the first admin, if somebody chose one.
fn first_password(file: Option<&Path>) -> Result<Option<SecretString>> {
    if let Some(path) = file {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Error::io("read the admin password", e).with_context("path", path.display()))?;
        return parse::first_line(&text).map(Some);
    }
    Ok(std::env::var("FLEETCORE_ADMIN_PASSWORD").ok().filter(|p| !p.is_empty()).map(SecretString::from))
}

/// Removes what is too old, now and then.
async fn prune(store: Arc<SqliteStore>, retention: Option<Duration>, stop: CancellationToken) {
    let mut every = tokio::time::interval(PRUNE_EVERY);
    while stop.run_until_cancelled(every.tick()).await.is_some() {
        let now = Timestamp::now();
        if let Err(error) = store.prune_tokens(now).await {
            tracing::warn!(%error, "expired tokens cannot be removed");
        }
        let Some(age) = retention.and_then(|r| SignedDuration::try_from(r).ok()) else { continue };
        let Ok(before) = now.checked_sub(age) else { continue };
        match store.prune(before).await {
            Ok(0) => {}
            Ok(commands) => tracing::info!(commands, "old commands are forgotten"),
            Err(error) => tracing::warn!(%error, "old commands cannot be removed"),
        }
    }
}
