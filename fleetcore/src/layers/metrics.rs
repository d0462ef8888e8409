//! Counters and histograms.

use std::{future::Future, sync::Arc, time::Instant};

use ::metrics::{
    Counter, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use futures::{FutureExt as _, StreamExt as _};

use super::{
    around::{Around, Call},
    streams,
    wrapped::layer_hooks,
};
use crate::{
    ExitKind, Result,
    raw::{BoxConnection, OpContext, RawProcess},
};

const OPERATIONS: &str = "fleetcore_operations_total";
const OPERATION_SECONDS: &str = "fleetcore_operation_duration_seconds";
const RUNNING: &str = "fleetcore_commands_running";
const ENDED: &str = "fleetcore_commands_ended_total";
const COMMAND_SECONDS: &str = "fleetcore_command_duration_seconds";
const OUTPUT_BYTES: &str = "fleetcore_command_output_bytes_total";
const TUNNELS: &str = "fleetcore_tunnels_open";
const TUNNEL_BYTES: &str = "fleetcore_tunnel_bytes_total";

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
/// | `fleetcore_tunnels_open` | |
/// | `fleetcore_tunnel_bytes_total` | `direction`: `to`, `from` the machine |
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
        describe_gauge!(TUNNELS, "Connections open through machines");
        describe_counter!(TUNNEL_BYTES, Unit::Bytes, "Bytes of connections through machines");
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

/// One more connection is open until this is dropped.
struct Open {
    to: Counter,
    from: Counter,
}

impl Open {
    fn new() -> Self {
        gauge!(TUNNELS).increment(1.0);
        Self {
            to: counter!(TUNNEL_BYTES, "direction" => "to"),
            from: counter!(TUNNEL_BYTES, "direction" => "from"),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        gauge!(TUNNELS).decrement(1.0);
    }
}

impl streams::Passage for Open {
    fn read(&self, bytes: usize) {
        self.from.increment(bytes as u64);
    }

    fn written(&self, bytes: usize) {
        self.to.increment(bytes as u64);
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

    fn connection(&self, _call: &Call<'_>, (): (), connection: BoxConnection) -> BoxConnection {
        streams::pass_by(connection, Open::new())
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ::metrics::{
        Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
        SharedString, with_local_recorder,
    };
    use parking_lot::Mutex;

    use super::{super::fake, *};
    use crate::{CommandId, CommandSpec, Error, ErrorKind};

    /// Adds everything up: counts, the value of a gauge, the number of samples.
    #[derive(Clone, Debug, Default)]
    struct Sums(Arc<Mutex<BTreeMap<String, f64>>>);

    struct Cell(Sums, String);

    impl Cell {
        fn add(&self, value: f64) {
            *self.0.0.lock().entry(self.1.clone()).or_default() += value;
        }
    }

    impl CounterFn for Cell {
        fn increment(&self, value: u64) {
            self.add(value as f64);
        }
        fn absolute(&self, _: u64) {}
    }

    impl GaugeFn for Cell {
        fn increment(&self, value: f64) {
            self.add(value);
        }
        fn decrement(&self, value: f64) {
            self.add(-value);
        }
        fn set(&self, _: f64) {}
    }

    impl HistogramFn for Cell {
        fn record(&self, _: f64) {
            self.add(1.0);
        }
    }

    impl Sums {
        fn cell(&self, key: &Key) -> Arc<Cell> {
            let labels: Vec<_> = key.labels().map(|l| format!("{}={}", l.key(), l.value())).collect();
            Arc::new(Cell(self.clone(), format!("{} {}", key.name(), labels.join(" ")).trim_end().to_owned()))
        }
    }

    impl Recorder for Sums {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(self.cell(key))
        }
        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(self.cell(key))
        }
        fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::from_arc(self.cell(key))
        }
    }

    #[test]
    fn operations_and_processes_are_counted() {
        let sums = Sums::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        with_local_recorder(&sums, || {
            runtime.block_on(async {
                let denied = Error::new(ErrorKind::PermissionDenied, "no");
                let (executor, fake) = fake::executor(&MetricsLayer::new(), fake::Fake::failing([denied]));
                let cx = OpContext::default();
                executor.ping(&cx).await.unwrap_err();
                executor.ping(&cx).await.unwrap();
                let spec = CommandSpec::argv(["true"]);
                let process = executor.spawn(&cx, CommandId::generate(), &spec).await.unwrap();
                assert_eq!(sums.0.lock()[RUNNING], 1.0);
                fake.end.send_replace(true);
                let RawProcess { output, exit, control, .. } = process;
                assert_eq!(output.count().await, 3);
                exit.await.unwrap();
                drop(control);
            });
        });
        let sums = sums.0.lock();
        for (name, value) in [
            ("fleetcore_operations_total operation=machine.ping outcome=permission_denied", 1.0),
            ("fleetcore_operations_total operation=machine.ping outcome=ok", 1.0),
            ("fleetcore_operation_duration_seconds operation=machine.ping", 2.0),
            ("fleetcore_commands_running", 0.0),
            ("fleetcore_commands_ended_total exit=success", 1.0),
            ("fleetcore_command_duration_seconds", 1.0),
            ("fleetcore_command_output_bytes_total", 15.0),
        ] {
            assert_eq!(sums.get(name), Some(&value), "{name} in {sums:?}");
        }
    }
}
