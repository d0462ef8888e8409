//! The sandbox provider, and one of its machines.

use std::sync::{
    Arc, LazyLock,
    atomic::{AtomicU64, Ordering},
};

use fleetcore::{
    Fleet, MachineSpec, OpContext, Provider,
    backends::sandbox::{SandboxConfig, Sandboxes},
};
use fleetcore_testkit::{Env, Runner, fail, must};

/// Goes with the test run.
static DIR: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap_or_else(|e| fail(e)));
static NEXT: AtomicU64 = AtomicU64::new(0);

fn open() -> Sandboxes {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    must(Sandboxes::open(SandboxConfig::new(DIR.path().join(number.to_string()).join("sandboxes"))))
}

async fn env() -> fleetcore::Result<Env> {
    let provider = open();
    let mut spec = MachineSpec::default();
    spec.name = "suite".to_owned();
    provider.create(&OpContext::default(), spec).await?;
    Env::new(Fleet::builder().with_provider(Arc::new(provider)).build(), "sandbox/suite").await
}

/// Adds the suites, or says why sandboxes cannot be made here.
pub(super) fn register(runner: &mut Runner) {
    let runtime = tokio::runtime::Runtime::new().unwrap_or_else(|e| fail(e));
    match runtime.block_on(open().probe()) {
        Err(why) => {
            assert!(std::env::var_os("FLEETCORE_REQUIRE_SANDBOX").is_none(), "{why}");
            runner.skip("sandbox", &why.to_string());
        }
        Ok(()) => {
            runner.machine("sandbox", env).plain_provider("sandbox", || Arc::new(open()));
        }
    }
}
