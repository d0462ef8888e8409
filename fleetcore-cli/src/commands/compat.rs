//! `fleetcore compat NAME`, the same under the original's name, and `fleetcore serve --compat NAME=ADDR`.

use std::{
    ffi::OsString,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use fleetcore::{
    Error, ErrorKind, Fleet, FleetBuilder, IdentityStore as _, Result,
    backends::local::{Local, LocalConfig},
    layers::{CapabilityCheckLayer, TracingLayer},
    store::{
        memory::MemoryStore,
        sqlite::{SqliteConfig, SqliteStore},
    },
};
use fleetcore_http::{
    App, Stores,
    compat::{self, Call, Dialect, Listener, Plan},
    telemetry,
};
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::serve::allow_many_files;
use crate::{
    config::Settings,
    error::{Failure, Outcome, note, stdout_failed},
    exit, render,
    signals::StopSignals,
};

/// Our arguments. When the program was called by the name of one it stands in for, they are what they would be after
/// `fleetcore compat`.
pub(crate) fn argv(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    let called = args.first().and_then(|a| Path::new(a).file_name()).and_then(|n| n.to_str());
    if let Some(name) = called.filter(|n| compat::find(n).is_some()).map(OsString::from) {
        args.splice(..1, ["fleetcore".into(), "compat".into(), name]);
    }
    args
}

/// A dialect by name.
///
/// # Errors
/// `NotFound` that says which there are.
fn dialect(name: &str) -> Result<&'static dyn Dialect> {
    compat::find(name).ok_or_else(|| {
        let all: Vec<String> = compat::ALL.iter().map(|d| format!("{} ({})", d.name(), d.about())).collect();
        Error::new(ErrorKind::NotFound, "no such program to stand in for")
            .with_context("name", name.escape_debug())
            .with_context("available", all.join(", "))
    })
}

fn call(name: &str, args: Vec<String>) -> Call {
    let text = |s: OsString| s.into_string().ok();
    let env = std::env::vars_os().filter_map(|(k, v)| Some((text(k)?, text(v)?)));
    Call::new(name).with_args(args).with_env(env)
}

/// Runs a dialect until told to stop.
pub(crate) async fn compat(words: Vec<String>, settings: &Settings) -> Outcome {
    let mut words = words.into_iter();
    let name = words.next().unwrap_or_default();
    let dialect = dialect(&name)?;
    let plan = match dialect.parse(&call(&name, words.collect())) {
        Ok(plan) => plan,
        Err(refusal) => {
            let told = if refusal.code == exit::OK {
                std::io::stdout().lock().write_all(refusal.text.as_bytes())
            } else {
                std::io::stderr().lock().write_all(refusal.text.as_bytes())
            };
            return told.map(|()| refusal.code).map_err(stdout_failed);
        }
    };
    let mut stops = StopSignals::listen()?;
    let filter = match settings.verbose {
        0 if settings.quiet => "warn",
        0 => "info",
        1 => "info,fleetcore=debug,fleetcore_http=debug",
        _ => "debug",
    };
    let _telemetry = telemetry::init(telemetry::LogFormat::Text, Some(filter))?;
    allow_many_files();
    let dir = plan.data_dir().unwrap_or_else(|| settings.data_dir.join(dialect.name()));
    let app = App::new(plan.config(), fleet(plan.secrets()), stores(&*plan, &dir).await?);
    let exits = plan.exits();
    let secret = !plan.secrets().is_empty();
    let listener = match Listener::bind(plan, app, dir).await {
        Ok(listener) => listener,
        Err(error) => return Err(failed(error, exits.listen)),
    };

    if secret {
        hide_memory();
    }

    // The first line is the address, for programs that start us on port 0.
    render::print(&format!("http://{}\n", listener.local_addr()))?;
    for line in listener.notes() {
        render::print(&format!("{line}\n"))?;
    }
    tracing::info!(address = %listener.local_addr(), dialect = dialect.name(), "serving");
    // The originals are small programs; this one is not, but what it needed to start it need not keep.
    fleetcore::give_code_back();

    let shutdown = CancellationToken::new();
    let mut running = std::pin::pin!(listener.run_alone(shutdown.clone()));
    let stop = tokio::select! {
        ended = &mut running => return ended.map(|()| exit::OK).map_err(|e| failed(e, exits.start)),
        stop = stops.next() => stop,
    };
    tracing::info!(signal = stop.number(), "stopping; once more to stop at once");
    shutdown.cancel();
    tokio::select! {
        // What failed now failed because it had to stop.
        _ = &mut running => {
            if exits.of_signal {
                stop.die_of();
            }
            Ok(exit::OK)
        }
        again = stops.next() => {
            note(settings.quiet, "stopped at once");
            // Dropping the runtime kills what still runs.
            Ok(128 + again.number())
        }
    }
}

/// What runs on behalf of others runs as the same user, perhaps, and must not read the secrets of this process: not from
/// its environment in `/proc`, nor from its memory. Programs it starts are as open as ever. Root may still look.
#[cfg(target_os = "linux")]
fn hide_memory() {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "commands of the same user can read the secrets of this process");
    }
}

#[cfg(not(target_os = "linux"))]
fn hide_memory() {}

/// An error, with the original's exit code where it has one.
fn failed(error: Error, code: Option<u8>) -> Failure {
    match code {
        Some(code) => {
            eprintln!("{error}");
            Failure::Code(code)
        }
        None => Failure::Error(error),
    }
}

/// What a dialect runs on when it stands alone. Nothing is recorded: the original keeps no records either.
/// `secrets` are variables nobody on it sees.
fn fleet(secrets: &[&str]) -> Fleet {
    let config = secrets.iter().fold(LocalConfig::default(), |config, name| config.with_hidden_env(*name));
    Fleet::builder()
        .with_host(Arc::new(Local::new(config)))
        .with_layer(Arc::new(CapabilityCheckLayer::new()))
        .with_layer(Arc::new(TracingLayer::new()))
        .build()
}

async fn stores(plan: &dyn Plan, dir: &Path) -> Result<Stores> {
    if !plan.keeps_records() {
        return Ok(Stores::new(Arc::new(MemoryStore::new())));
    }
    let store = SqliteStore::open(SqliteConfig::new(dir)).map_err(|e| {
        e.with_context("hint", "another server may run on this directory; choose one with --data-dir")
    })?;
    let store = Arc::new(store);
    let expired = store.clone();
    // Nothing waits for it: tokens that have expired are refused all the same.
    tokio::spawn(async move {
        if let Err(error) = expired.prune_tokens(Timestamp::now()).await {
            tracing::warn!(%error, "tokens that have expired stay in the store");
        }
    });
    Ok(Stores::new(store))
}

/// Listeners of `--compat NAME=ADDR` that were understood, before the fleet they share is built.
pub(crate) struct Wanted(Vec<(&'static dyn Dialect, Box<dyn Plan>)>);

/// Reads the `--compat NAME=ADDR` of a server. Their other settings come from the environment.
///
/// # Errors
/// `NotFound` for a name, `InvalidInput` for an address or a setting.
pub(crate) fn wanted(all: &[(String, String)]) -> Result<Wanted> {
    let mut plans = Vec::with_capacity(all.len());
    for (name, address) in all {
        let dialect = dialect(name)?;
        let listen: SocketAddr = address.parse().map_err(|_| {
            Error::invalid("compat", "NAME=ADDR:PORT, e.g. batwa-server=127.0.0.1:8000")
                .with_context("value", address.escape_debug())
        })?;
        let plan = dialect
            .parse(&call(name, Vec::new()).with_listen(listen))
            .map_err(|refusal| Error::new(ErrorKind::InvalidInput, refusal.text.trim().to_owned()))?;
        plans.push((dialect, plan));
    }
    Ok(Wanted(plans))
}

impl Wanted {
    /// Adds the machines they bring.
    pub(crate) fn add_to(&self, fleet: FleetBuilder) -> FleetBuilder {
        let providers = self.0.iter().flat_map(|(_, plan)| plan.providers());
        providers.fold(fleet, FleetBuilder::with_provider)
    }

    /// Binds them.
    ///
    /// # Errors
    /// Those of listening, and of the dialects.
    pub(crate) async fn bind(self, app: &App, data_dir: &Path) -> Result<Further> {
        let mut all = Vec::with_capacity(self.0.len());
        for (dialect, plan) in self.0 {
            let dir: PathBuf = data_dir.join(dialect.name());
            all.push((dialect.name(), Listener::bind(plan, app.clone(), dir).await?));
        }
        Ok(Further(all))
    }
}

/// Further listeners of a full server.
pub(crate) struct Further(Vec<(&'static str, Listener)>);

impl Further {
    /// Lines for the operator: where each listens, and what has to be told once.
    pub(crate) fn lines(&self) -> String {
        let mut text = String::new();
        for (name, listener) in &self.0 {
            text.push_str(&format!("{name} http://{}\n", listener.local_addr()));
            for line in listener.notes() {
                text.push_str(&format!("{name} {line}\n"));
            }
        }
        text
    }

    /// Serves until `shutdown`.
    pub(crate) fn run(self, shutdown: &CancellationToken) -> JoinSet<()> {
        let mut running = JoinSet::new();
        for (_, listener) in self.0 {
            let serving = listener.run(shutdown.clone());
            running.spawn(async move {
                if let Err(error) = serving.await {
                    tracing::error!(%error, "a dialect ended");
                }
            });
        }
        running
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(args: &[&str]) -> Vec<String> {
        let args = argv(args.iter().map(OsString::from));
        args.into_iter().map(|a| a.into_string().unwrap()).collect()
    }

    #[test]
    fn the_name_of_the_original_is_enough() {
        assert_eq!(
            words(&["/usr/bin/batwa-agent", "--agent-id=x", "-h"]),
            ["fleetcore", "compat", "batwa-agent", "--agent-id=x", "-h"]
        );
        assert_eq!(words(&["/usr/bin/fleetcore", "ps"]), ["/usr/bin/fleetcore", "ps"]);
        assert!(words(&[]).is_empty());
    }

    #[test]
    fn an_unknown_name_says_which_there_are() {
        let err = dialect("nope").unwrap_err();
        assert!(err.context_value("available").unwrap().contains("batwa-server"), "{err}");
    }
}
