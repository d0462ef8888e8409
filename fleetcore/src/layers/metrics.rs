//! Counters and histograms.

use std::{future::Future, sync::Arc, time::Instant};

use ::metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use futures::{FutureExt as _, StreamExt as _};

use super::{
    around::{Around, Call},
    streams,
    wrapped::layer_hooks,
};
use crate::{
    ExitKind, Result,
    raw::{OpContext, RawProcess},
};

const OPERATIONS: &str = "fleetcore_operations_total";
const OPERATION_SECONDS: &str = "fleetcore_operation_duration_seconds";
const RUNNING: &str = "fleetcore_commands_running";
const ENDED: &str = "fleetcore_commands_ended_total";
const COMMAND_SECONDS: &str = "fleetcore_command_duration_seconds";
const OUTPUT_BYTES: &str = "fleetcore_command_output_bytes_total";

/// Counts through the [`metrics`](https://docs.rs/metrics) facade; install any recorder to see the numbers.
///
/// | metric | labels |
/// |---|---|
/// | `fleetcore_operations_total` | `operation`, `outcome` (`ok` or an error code) |
/// | `fleetcore_operation_duration_seconds` | `operation` |
/// | `fleetcore_commands_running` | |
/// | `fleetcore_commands_ended_total` | `exit`: `success`, `failure`, `signal`, `unknown` |
/// | `fleetcore_command_duration_seconds` | |
/// | `fleetcore_command_output_bytes_total` | |
///
/// No label holds anything a user chose, so the number of series is bounded.
#[derive(Clone, Debug)]
pub struct MetricsLayer(Arc<Counted>);

#[derive(Debug)]
struct Counted;

impl MetricsLayer {
    /// The layer; also describes its metrics to the recorder.
    pub fn new() -> Self {
        describe_counter!(OPERATIONS, "Operations, by name and outcome");
        describe_histogram!(OPERATION_SECONDS, Unit::Seconds, "How long operations take");
        describe_gauge!(RUNNING, "Processes alive");
        describe_counter!(ENDED, "Processes that ended, by how");
        describe_histogram!(COMMAND_SECONDS, Unit::Seconds, "How long processes live");
        describe_counter!(OUTPUT_BYTES, Unit::Bytes, "Output of processes");
        Self(Arc::new(Counted))
    }
}

impl Default for MetricsLayer {
    fn default() -> Self {
        Self::new()
    }
}

layer_hooks!(MetricsLayer);

/// One more process is alive until this is dropped.
struct Alive(Instant);

impl Alive {
    fn new() -> Self {
        gauge!(RUNNING).increment(1.0);
        Self(Instant::now())
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        gauge!(RUNNING).decrement(1.0);
        histogram!(COMMAND_SECONDS).record(self.0.elapsed());
    }
}

impl Around for Counted {
    type Ticket = ();

    async fn call<T, F, Fut>(&self, call: &Call<'_>, cx: &OpContext, mut run: F) -> Result<(T, ())>
    where
        T: Send,
        F: FnMut(OpContext) -> Fut + Send,
        Fut: Future<Output = Result<T>> + Send,
    {
        let operation = call.operation.as_str();
        let started = Instant::now();
        let result = run(cx.clone()).await;
        let outcome = result.as_ref().map_or_else(|e| e.kind().code(), |_| "ok");
        counter!(OPERATIONS, "operation" => operation, "outcome" => outcome).increment(1);
        histogram!(OPERATION_SECONDS, "operation" => operation).record(started.elapsed());
        Ok((result?, ()))
    }

    fn process(&self, _call: &Call<'_>, (): (), mut process: RawProcess) -> RawProcess {
        let bytes = counter!(OUTPUT_BYTES);
        process.output = process
            .output
            .inspect(move |item| {
                if let Ok((_, data)) = item {
                    bytes.increment(data.len() as u64);
                }
            })
            .boxed();
        process.exit = process
            .exit
            .inspect(|exit| {
                let how = match exit {
                    Ok(ExitKind::Code(0)) => "success",
                    Ok(ExitKind::Code(_)) => "failure",
                    Ok(ExitKind::Signal(_)) => "signal",
                    Ok(ExitKind::Unknown) | Err(_) => "unknown",
                };
                counter!(ENDED, "exit" => how).increment(1);
            })
            .boxed();
        streams::keep_with_process(process, Alive::new())
    }
}
