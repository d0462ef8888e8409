//! The behaviour suite over every backend of this crate.
//!
//! `FLEETCORE_TEST=local,table` chooses backends (default: those that need nothing but this host); the others are
//! skipped with a printed reason. `FLEETCORE_STRESS=N` runs it N times.

use std::{process::ExitCode, sync::Arc};

use fleetcore::{
    Executor, Fleet, Layer, MachineCapabilities,
    backends::local::{Local, LocalConfig},
    layers::{
        AuditLayer, CapabilityCheckLayer, ChaosLayer, ChaosPlan, Fault, LimitLayer, Operation, RetryLayer,
        TimeoutLayer, TracingLayer, When,
    },
    store::memory::MemoryStore,
};
use fleetcore_testkit::{Env, Runner, WithoutNativeFiles, standin::TableProvider};

type Layers = Vec<Arc<dyn Layer>>;

/// Every built-in layer that is not there to break things, in the recommended order.
fn all_layers() -> Layers {
    vec![
        Arc::new(TimeoutLayer::default()),
        Arc::new(RetryLayer::default()),
        Arc::new(LimitLayer::default()),
        Arc::new(CapabilityCheckLayer::new()),
        Arc::new(AuditLayer::new(Arc::new(MemoryStore::new()))),
        #[cfg(feature = "metrics")]
        Arc::new(fleetcore::layers::MetricsLayer::new()),
        Arc::new(TracingLayer::new()),
    ]
}

fn calm() -> Layers {
    vec![Arc::new(ChaosLayer::new(ChaosPlan::seeded(1)))]
}

/// Faults that no caller may notice: output in small pieces.
fn choppy() -> Layers {
    let mut plan = ChaosPlan::seeded(2);
    for operation in [Operation::Spawn, Operation::FileRead, Operation::TarRead] {
        plan = plan.with(operation, When::Always, Fault::ShortReads(997));
    }
    vec![Arc::new(ChaosLayer::new(plan))]
}

fn local(layers: fn() -> Layers, host: fn() -> Arc<dyn Executor>) -> impl Fn() -> EnvFuture + Clone {
    move || {
        Box::pin(async move {
            let fleet = layers().into_iter().fold(Fleet::builder(), |fleet, layer| fleet.with_layer(layer));
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

fn layered_table(can: Option<MachineCapabilities>) -> Arc<dyn fleetcore::Provider> {
    let table: Arc<dyn fleetcore::Provider> =
        Arc::new(can.map_or_else(TableProvider::default, TableProvider::new));
    all_layers().into_iter().fold(table, |provider, layer| layer.layer_provider(provider))
}

/// What is built in and needs nothing but this host.
const BACKENDS: &[&str] = &[
    "local",
    "table",
    #[cfg(feature = "multipass")]
    "multipass",
];

fn main() -> ExitCode {
    #[cfg(feature = "multipass")]
    if let Some(code) = fleetcore_testkit::multipass::main_if_called() {
        return code;
    }
    let mut runner = Runner::new();
    let wanted = std::env::var("FLEETCORE_TEST").unwrap_or_else(|_| BACKENDS.join(","));
    let wanted: Vec<&str> = wanted.split([',', '|']).map(str::trim).filter(|w| !w.is_empty()).collect();
    if wanted.contains(&"local") {
        runner
            .machine("local", local(Vec::new, host))
            .machine("local+simulated-files", local(Vec::new, host_without_files))
            .machine("local+layers", local(all_layers, host))
            .machine("local+chaos", local(calm, host))
            .machine("local+short-reads", local(choppy, host));
    }
    if wanted.contains(&"table") {
        runner
            .plain_provider("table", || Arc::new(TableProvider::default()))
            .plain_provider("table+layers", || layered_table(None))
            .plain_provider("table+nothing", || layered_table(Some(MachineCapabilities::default())));
    }
    #[cfg(feature = "multipass")]
    if wanted.contains(&"multipass") {
        multipass::add(&mut runner);
    }
    for name in wanted.iter().filter(|w| !BACKENDS.contains(w)) {
        runner.skip(name, "this build has no such backend");
    }
    for name in BACKENDS.iter().filter(|n| !wanted.contains(n)) {
        runner.skip(name, "FLEETCORE_TEST does not name it");
    }
    let code = runner.run();
    #[cfg(feature = "multipass")]
    multipass::clean_up();
    code
}

/// Multipass, or rather its stand-in.
#[cfg(feature = "multipass")]
mod multipass {
    use std::{process::Command, sync::Arc};

    use fleetcore::{Fleet, Provider, backends::multipass::Multipass};
    use fleetcore_testkit::{Env, Runner, multipass::StandIn};
    use parking_lot::Mutex;

    use super::{EnvFuture, all_layers};

    /// The machine that all cases share which need one that is up.
    static SHARED: Mutex<Option<StandIn>> = Mutex::new(None);
    /// Those of the cases about machines. They live until the end.
    static OWN: Mutex<Vec<StandIn>> = Mutex::new(Vec::new());

    fn shared() -> fleetcore::Result<Multipass> {
        let mut shared = SHARED.lock();
        if let Some(stand_in) = &*shared {
            return Ok(Multipass::new(stand_in.config()));
        }
        let stand_in = StandIn::new()?;
        let config = stand_in.config();
        let mut launch = Command::new(stand_in.program());
        launch.args(["launch", "-n", "suite"]).envs(&config.env).stdout(std::process::Stdio::null());
        let ended = launch.status().map_err(|e| fleetcore::Error::io("launch", e))?;
        assert!(ended.success(), "no machine: {ended}");
        *shared = Some(stand_in);
        Ok(Multipass::new(config))
    }

    fn machine(layered: bool) -> impl Fn() -> EnvFuture + Clone {
        move || {
            Box::pin(async move {
                let layers = if layered { all_layers() } else { Vec::new() };
                let fleet = layers.into_iter().fold(Fleet::builder(), |fleet, layer| fleet.with_layer(layer));
                Env::new(fleet.with_provider(Arc::new(shared()?)).build(), "multipass/suite").await
            })
        }
    }

    fn provider() -> Arc<dyn Provider> {
        let Ok(stand_in) = StandIn::new() else { fleetcore_testkit::fail("no room for a stand-in") };
        let multipass = Arc::new(Multipass::new(stand_in.config()));
        OWN.lock().push(stand_in);
        multipass
    }

    pub(super) fn add(runner: &mut Runner) {
        runner
            .machine("multipass", machine(false))
            .machine("multipass+layers", machine(true))
            .plain_provider("multipass", provider)
            .plain_provider("multipass+layers", || {
                all_layers().into_iter().fold(provider(), |provider, layer| layer.layer_provider(provider))
            });
    }

    /// Takes all machines down, so that nothing of them runs on, and removes them.
    pub(super) fn clean_up() {
        let all = SHARED.lock().take().into_iter().chain(OWN.lock().drain(..));
        for stand_in in all {
            let mut delete = Command::new(stand_in.program());
            let _ = delete.args(["delete", "--purge", "--all"]).envs(&stand_in.config().env).status();
        }
    }
}
