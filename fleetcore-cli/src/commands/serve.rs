//! `fleetcore serve`

use std::{path::Path, sync::Arc, time::Duration};

use fleetcore::{
    AddressRules, AuditStore, CommandStore, Error, Fleet, FleetBuilder, IdentityStore, Result,
    backends::local::{CgroupMode, Local, LocalConfig},
    layers::{CapabilityCheckLayer, MetricsLayer, TracingLayer},
    store::sqlite::{SqliteConfig, SqliteStore},
};
use fleetcore_http::{
    Server, ServerConfig, Stores, TlsConfig, ensure_admin,
    link::{AgentHub, AgentTokens, Joining, LinkConfig},
    telemetry,
};
use jiff::SignedDuration;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::{agent, compat};
use crate::{
    cli::{LogFormat, Serve},
    config::{Keep, Settings},
    error::{Outcome, note},
    exit, local_server, parse, providers, render,
    signals::StopSignals,
};

/// How often what is too old is removed.
const PRUNE_EVERY: Duration = Duration::from_secs(600);
/// Entries of the audit log that are kept when nobody says otherwise: some 200 MB.
const AUDIT_ENTRIES: u64 = 1_000_000;
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
        // In its details are arguments of tools, and those may hold secrets.
        _ => "debug,rmcp=info",
    };
    let _telemetry = telemetry::init(format, Some(filter))?;

    allow_many_files();
    let config = config(&args, settings.serve.clone())?;
    let dialects = compat::wanted(&args.compat)?;
    let keep = keep(&args, &settings.keep);
    let store = Arc::new(open_store(&keep, settings).await?);
    let certificate = config.tls.as_ref().map(|tls| tls.cert.clone());
    let password = ensure_admin(&*store, first_password(args.admin_password_file.as_deref())?).await?;
    let joining = joining(&args, store.clone()).await?;
    let agents = agents(&args, store.clone(), joining.clone()).await?;
    let stores = Stores::new(store.clone())
        .with_agents(agents.clone())
        .with_joining(joining)
        .with_metrics(store.clone());
    let fleet = fleet(args.file_root.as_deref(), settings, &settings.data_dir, store.clone())?;
    let fleet = dialects.add_to(fleet).with_agents(Arc::new(agents)).build();
    let server = Server::bind(config, fleet, stores).await?;
    let (url, address) = (server.url(), server.local_addr());
    let further = dialects.bind(server.app(), &settings.data_dir).await?;

    // The first line is the address, for programs that start us on port 0.
    render::print(&format!("{url}\n"))?;
    if let Some(password) = &password {
        render::print(&format!("admin password: {}\n", password.expose_secret()))?;
    }
    render::print(&further.lines())?;
    let certificate = certificate.as_deref();
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
    let pruning = tokio::spawn(prune(store.clone(), keep, shutdown.clone()));
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
async fn open_store(keep: &Keep, settings: &Settings) -> Result<SqliteStore> {
    let mut config = SqliteConfig::new(&settings.data_dir);
    if let Some(bytes) = keep.max_log_bytes {
        config = config.with_max_log_bytes(bytes);
    }
    if let Some(bytes) = keep.max_total_log_bytes {
        config = config.with_max_total_log_bytes(bytes);
    }
    let store = SqliteStore::open(config.with_max_log_age(keep.retention)).map_err(|e| {
        e.with_context("hint", "another server may run on this directory; choose one with --data-dir")
    })?;
    let lost = store.mark_lost(LOST).await?;
    if !lost.is_empty() {
        tracing::warn!(commands = lost.len(), "commands did not survive the end of the server before");
    }
    Ok(store)
}

/// This host and the layers every program that serves it puts around.
pub(super) fn fleet(
    file_root: Option<&Path>,
    settings: &Settings,
    data_dir: &Path,
    store: Arc<dyn CommandStore>,
) -> Result<FleetBuilder> {
    let mut config = LocalConfig::default().with_cgroup(CgroupMode::Auto);
    if let Some(dir) = file_root {
        let root = std::path::absolute(dir)
            .map_err(|e| Error::io("find the file root", e).with_context("path", dir.display()))?;
        if !root.is_dir() {
            return Err(Error::invalid("file_root", "a directory").with_context("path", root.display()));
        }
        config = config.with_file_root(root);
    }
    let builder = Fleet::builder().with_host(Arc::new(Local::new(config)));
    let builder = providers::add(builder, settings, data_dir, |said| tracing::warn!("{said}"))?;
    Ok(builder
        .with_store(store)
        .with_layer(Arc::new(CapabilityCheckLayer::new()))
        .with_layer(Arc::new(MetricsLayer::new()))
        .with_layer(Arc::new(TracingLayer::new())))
}

/// Who may connect: those who joined, and those whose tokens are given.
async fn joining(args: &Serve, store: Arc<SqliteStore>) -> Result<Joining> {
    let tokens = AgentTokens::new();
    for (id, file) in &args.agent_token_file {
        let token = agent::token(file)?;
        tokens.allow(id.clone(), Sha256::digest(token.expose_secret().as_bytes()).into());
    }
    Joining::new(store).with_tokens(tokens).await
}

/// The agents.
async fn agents(args: &Serve, store: Arc<SqliteStore>, joining: Joining) -> Result<AgentHub> {
    let config =
        LinkConfig::default().with_heartbeat(args.agent_heartbeat).with_lost_after(args.agent_lost_after);
    AgentHub::open(store, Arc::new(joining), config).await
}

/// The settings of the file, where no flag says otherwise.
fn config(args: &Serve, mut config: ServerConfig) -> Result<ServerConfig> {
    config.listen = args.listen.unwrap_or(config.listen);
    if let (Some(cert), Some(key)) = (&args.tls_cert, &args.tls_key) {
        config.tls = Some(TlsConfig { cert: cert.clone(), key: key.clone() });
    }
    if let Some(networks) = &args.behind_proxy {
        config.behind_proxy = true;
        config.trusted_proxies = networks.iter().map(|n| n.parse()).collect::<Result<_>>()?;
    }
    if !args.allow_host.is_empty() {
        config.allowed_hosts.clone_from(&args.allow_host);
    }
    if !args.allow_tunnel.is_empty() {
        config.allow_tunnel = AddressRules::new(args.allow_tunnel.clone());
    }
    config.ui_dir = args.ui_dir.clone().or(config.ui_dir);
    config.metrics_public |= args.metrics_public;
    config.session_idle = args.session_idle.or(config.session_idle);
    if let Some(dir) = &config.ui_dir
        && !dir.is_dir()
    {
        return Err(Error::invalid("ui_dir", "a directory").with_context("path", dir.display()));
    }
    config.limits.check()?;
    Ok(config)
}

/// What the file says is kept, where no flag says otherwise.
fn keep(args: &Serve, file: &Keep) -> Keep {
    Keep {
        retention: args.retention.or(file.retention),
        max_log_bytes: args.max_log_bytes.or(file.max_log_bytes),
        max_total_log_bytes: args.max_total_log_bytes.or(file.max_total_log_bytes),
        audit_retention: args.audit_retention.or(file.audit_retention),
        max_audit_entries: args.max_audit_entries.or(file.max_audit_entries).or(Some(AUDIT_ENTRIES)),
    }
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

/// Removes what is too old or too much, now and then.
pub(super) async fn prune(store: Arc<SqliteStore>, keep: Keep, stop: CancellationToken) {
    let mut every = tokio::time::interval(PRUNE_EVERY);
    while stop.run_until_cancelled(every.tick()).await.is_some() {
        let now = store.age_now();
        let before = |age: Option<Duration>| {
            age.and_then(|age| SignedDuration::try_from(age).ok()).and_then(|age| now.checked_sub(age).ok())
        };
        if let Err(error) = store.prune_tokens(now).await {
            tracing::warn!(%error, "expired tokens cannot be removed");
        }
        match store.prune_audit(before(keep.audit_retention), keep.max_audit_entries).await {
            Ok(0) => {}
            Ok(entries) => tracing::info!(entries, "old entries of the audit log are forgotten"),
            Err(error) => tracing::warn!(%error, "old entries of the audit log cannot be removed"),
        }
        let Some(before) = before(keep.retention) else { continue };
        match store.prune(before).await {
            Ok(0) => {}
            Ok(commands) => tracing::info!(commands, "old commands are forgotten"),
            Err(error) => tracing::warn!(%error, "old commands cannot be removed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Verb};

    fn args(flags: &[&str]) -> Serve {
        let line = ["fleetcore", "serve"].iter().chain(flags);
        match Cli::try_parse_from(line).unwrap().command {
            Verb::Serve(args) => *args,
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn flags_win_over_the_file() {
        let mut file = ServerConfig::on("127.0.0.1:1".parse().unwrap());
        file.limits.connections = 7;
        file.metrics_public = true;
        let config = |flags: &[&str]| config(&args(flags), file.clone());
        let kept = config(&[]).unwrap();
        assert_eq!((kept.listen.port(), kept.limits.connections, kept.metrics_public), (1, 7, true));
        assert_eq!(config(&["--listen", "127.0.0.1:2"]).unwrap().listen.port(), 2);

        let file = Keep { max_log_bytes: Some(5), ..Keep::default() };
        let kept = keep(&args(&["--audit-retention", "1d"]), &file);
        assert_eq!((kept.max_log_bytes, kept.max_audit_entries), (Some(5), Some(AUDIT_ENTRIES)));
        assert_eq!(kept.audit_retention, Some(Duration::from_secs(86_400)));
        assert_eq!(keep(&args(&["--max-log-bytes", "9"]), &file).max_log_bytes, Some(9));
    }

    #[test]
    fn limits_that_would_lock_everybody_out_are_refused() {
        let mut file = ServerConfig::default();
        file.limits.connections = 0;
        let error = config(&args(&[]), file).unwrap_err();
        assert_eq!(error.context_value("field"), Some("limits.connections"));
    }
}
