//! What the benchmarks share: a runtime, a server on a free port, thin clients, a pretended process.
//!
//! Every group measures the product beside a floor, a bare program that does only the unavoidable part, in the same
//! run: functions are called `floor…` and `fleetcore…`, and `scripts/bench` prints their ratio. Clients are as thin as
//! they can be (one hyper connection, one tungstenite socket), so that a number is the server's and not the client's.
#![expect(clippy::expect_used, reason = "a benchmark that cannot run must stop")]

mod bare;
mod fake;
mod http;
mod server;
mod ws;

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use criterion::{BenchmarkGroup, Criterion, measurement::WallTime};
use tokio::runtime::{Builder, Runtime};

pub use bare::BarePty;
pub use fake::FakeHost;
pub use http::{Http, Scan, SseScan};
pub use server::{TestServer, login_token};
pub use ws::{Attach, Frame};

/// Bytes of the bulk measurements: what the issue asks for.
pub const BULK_BYTES: usize = 50_000_000;
/// Bytes of one line of [`text_file`], newline included.
pub const LINE_BYTES: usize = 100;

/// The runtime of floor and product alike: as many workers as the machine of the reference numbers had processors.
pub fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads can be made")
}

/// Criterion with modest sample sizes: the whole suite is to end within minutes.
pub fn criterion() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20)
        .nresamples(10_000)
        .without_plots()
        .configure_from_args()
}

/// Measures `work`, one at a time, on a worker of the runtime: a future polled by `block_on` would pay for a switch
/// between threads at every wake-up, which no server does.
pub fn measure<W, F>(group: &mut BenchmarkGroup<'_, WallTime>, runtime: &Runtime, name: &str, work: W)
where
    W: FnMut() -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send,
{
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|rounds| {
            let mut work = work.clone();
            let timed = runtime.spawn(async move {
                let start = Instant::now();
                for _ in 0..rounds {
                    work().await;
                }
                start.elapsed()
            });
            runtime.block_on(timed).expect("the measured work does not panic")
        });
    });
}

/// A text file of exactly `bytes` (a multiple of [`LINE_BYTES`]) in `dir`: 99 letters and a newline per line.
pub fn text_file(dir: &Path, bytes: usize) -> PathBuf {
    let path = dir.join(format!("text-{bytes}"));
    let mut line = vec![b'x'; LINE_BYTES - 1];
    line.push(b'\n');
    let block = line.repeat(1000);
    let mut file = std::fs::File::create(&path).expect("the file can be made");
    let mut left = bytes;
    while left > 0 {
        let (part, _) = block.split_at(left.min(block.len()));
        file.write_all(part).expect("the file can be written");
        left -= part.len();
    }
    path
}
