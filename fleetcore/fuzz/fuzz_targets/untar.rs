//! Unpacking on this host: nothing may appear outside the directory.
#![no_main]

use std::{fs, sync::LazyLock};

use fleetcore::{
    Executor, OpContext,
    backends::local::{Local, LocalConfig},
};
use futures::{StreamExt, stream};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_all().build().unwrap());

fuzz_target!(|data: &[u8]| {
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("inside");
    let files = Local::new(LocalConfig::default()).files().unwrap();
    let data = data.to_vec();
    let bytes = stream::once(async move { Ok(data.into()) }).boxed();
    let _ = RUNTIME.block_on(files.write_tar(&OpContext::default(), inside.to_str().unwrap(), bytes));
    let beside: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(beside.iter().all(|name| name == "inside"), "{beside:?}");
});
