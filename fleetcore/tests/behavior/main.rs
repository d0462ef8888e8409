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

/// A fresh sandbox, in a directory that goes with the test run.
#[cfg(target_os = "linux")]
mod sandboxes {
    use std::sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    };

    use fleetcore::{
        Fleet, MachineSpec, OpContext, Provider,
        backends::sandbox::{SandboxConfig, Sandboxes},
    };
    use fleetcore_testkit::Env;

    static DIR: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());
    static NEXT: AtomicU64 = AtomicU64::new(0);

    fn open() -> Sandboxes {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Sandboxes::open(SandboxConfig::new(DIR.path().join(number.to_string()).join("sandboxes"))).unwrap()
    }

    pub(super) fn provider() -> Arc<dyn Provider> {
        Arc::new(open())
    }

    pub(super) async fn env() -> fleetcore::Result<Env> {
        let provider = provider();
        let mut spec = MachineSpec::default();
        spec.name = "suite".to_owned();
        provider.create(&OpContext::default(), spec).await?;
        Env::new(Fleet::builder().with_provider(provider).build(), "sandbox/suite").await
    }

    /// Why sandboxes cannot be tested here.
    pub(super) fn missing() -> Option<String> {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let why = runtime.block_on(open().probe()).err().map(|e| e.to_string());
        assert!(
            why.is_none() || std::env::var_os("FLEETCORE_REQUIRE_SANDBOX").is_none(),
            "sandboxes are required: {why:?}"
        );
        why
    }
}

fn layered_table(can: Option<MachineCapabilities>) -> Arc<dyn fleetcore::Provider> {
    let table: Arc<dyn fleetcore::Provider> =
        Arc::new(can.map_or_else(TableProvider::default, TableProvider::new));
    all_layers().into_iter().fold(table, |provider, layer| layer.layer_provider(provider))
}

fn main() -> ExitCode {
    let mut runner = Runner::new();
    let wanted = std::env::var("FLEETCORE_TEST").unwrap_or_else(|_| "local,table,sandbox".to_owned());
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
    #[cfg(target_os = "linux")]
    if wanted.contains(&"sandbox") {
        match sandboxes::missing() {
            Some(why) => {
                runner.skip("sandbox", &why);
            }
            None => {
                runner
                    .machine("sandbox", || Box::pin(sandboxes::env()))
                    .plain_provider("sandbox", sandboxes::provider);
            }
        }
    }
    for name in wanted.iter().filter(|w| !["local", "table", "sandbox"].contains(w)) {
        runner.skip(name, "this build has no such backend");
    }
    for name in ["local", "table", "sandbox"].iter().filter(|n| !wanted.contains(n)) {
        runner.skip(name, "FLEETCORE_TEST does not name it");
    }
    runner.run()
}
