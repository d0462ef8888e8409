//! The behaviour suite over every backend of this crate.
//!
//! `FLEETCORE_TEST=local,table` chooses backends (default: those that need nothing but this host); the others are
//! skipped with a printed reason. `local+each` and `table+each` put every built-in layer and chaos in front one by one.
//! `FLEETCORE_STRESS=N` runs it N times.

#[cfg(feature = "multipass")]
mod multipass;
#[cfg(target_os = "linux")]
mod sandbox;

use std::{process::ExitCode, sync::Arc};

use fleetcore::{
    Executor, Fleet, MachineCapabilities, Provider,
    backends::local::{Local, LocalConfig},
};
use fleetcore_testkit::{
    Env, Runner, WithoutNativeFiles,
    layers::{self, Layers},
    standin::TableProvider,
};

fn local(behind: fn() -> Layers, host: fn() -> Arc<dyn Executor>) -> impl Fn() -> EnvFuture + Clone {
    move || {
        Box::pin(async move {
            let fleet = behind().into_iter().fold(Fleet::builder(), |fleet, layer| fleet.with_layer(layer));
            Env::new(fleet.with_host(host()).build(), "local").await
        })
    }
}

type EnvFuture = std::pin::Pin<Box<dyn Future<Output = fleetcore::Result<Env>> + Send>>;

fn host() -> Arc<dyn Executor> {
    Arc::new(Local::new(LocalConfig::default()))
}

fn host_without_files() -> Arc<dyn Executor> {
    Arc::new(WithoutNativeFiles(host()))
}

fn layered_table(behind: fn() -> Layers, can: Option<MachineCapabilities>) -> Arc<dyn Provider> {
    let table: Arc<dyn Provider> = Arc::new(can.map_or_else(TableProvider::default, TableProvider::new));
    behind().into_iter().fold(table, |provider, layer| layer.layer_provider(provider))
}

/// What runs when `FLEETCORE_TEST` is silent: all of it takes about a minute on two slow processors.
const DEFAULT: &str = "local,local+each,table,table+each,sandbox,multipass";
/// All that can be named.
const KNOWN: [&str; 6] = ["local", "local+each", "table", "table+each", "sandbox", "multipass"];

fn main() -> ExitCode {
    #[cfg(feature = "multipass")]
    if let Some(code) = fleetcore_testkit::multipass::main_if_called() {
        return code;
    }
    let mut runner = Runner::new();
    let wanted = std::env::var("FLEETCORE_TEST").unwrap_or_else(|_| DEFAULT.to_owned());
    let wanted: Vec<&str> = wanted.split([',', '|']).map(str::trim).filter(|w| !w.is_empty()).collect();
    if wanted.contains(&"local") {
        runner
            .machine("local", local(Vec::new, host))
            .machine("local+simulated-files", local(Vec::new, host_without_files))
            .machine("local+layers", local(layers::all, host))
            .machine("local+chaos", local(layers::calm, host))
            .machine("local+short-reads", local(layers::choppy, host));
    }
    if wanted.contains(&"local+each") {
        for (name, behind) in layers::each() {
            runner.machine(&format!("local+each+{name}"), local(behind, host));
        }
    }
    if wanted.contains(&"table") {
        runner
            .plain_provider("table", || Arc::new(TableProvider::default()))
            .plain_provider("table+layers", || layered_table(layers::all, None))
            .plain_provider("table+nothing", || {
                layered_table(layers::all, Some(MachineCapabilities::default()))
            });
    }
    if wanted.contains(&"table+each") {
        for (name, behind) in layers::each() {
            runner.plain_provider(&format!("table+each+{name}"), move || layered_table(behind, None));
        }
    }
    #[cfg(target_os = "linux")]
    if wanted.contains(&"sandbox") {
        sandbox::register(&mut runner);
    }
    #[cfg(feature = "multipass")]
    if wanted.contains(&"multipass") {
        multipass::add(&mut runner);
    }
    for name in wanted.iter().filter(|w| !KNOWN.contains(w)) {
        runner.skip(name, "this build has no such backend");
    }
    for name in KNOWN.iter().filter(|n| !wanted.contains(n)) {
        runner.skip(name, "FLEETCORE_TEST does not name it");
    }
    let code = runner.run();
    #[cfg(feature = "multipass")]
    multipass::clean_up();
    code
}
