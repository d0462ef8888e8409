//! Logs, metrics and, with the feature `otel`, spans to a collector.

use std::{str::FromStr, sync::OnceLock};

use fleetcore::{Error, ErrorKind, Result};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl FromStr for LogFormat {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(Error::invalid("log_format", "text or json")),
        }
    }
}

/// Keeps what must be flushed at the end of the program; drop it last.
#[derive(Debug, Default)]
#[must_use = "dropping this flushes and ends the export of spans"]
pub struct TelemetryGuard {
    #[cfg(feature = "otel")]
    provider: Option<opentelemetry_sdk::trace::SdkTracerProvider>,
}

#[cfg(feature = "otel")]
impl Drop for TelemetryGuard {
    fn drop(&mut self) {
        if let Some(provider) = self.provider.take() {
            // Nobody is left to tell.
            let _ = provider.shutdown();
        }
    }
}

/// Sends logs to standard error. `filter` is in the syntax of `RUST_LOG`, which wins when it is set; the default is
/// `info`. With the feature `otel` and `OTEL_EXPORTER_OTLP_ENDPOINT` set, spans go to that collector.
///
/// # Errors
/// `InvalidInput` for a filter that cannot be read; `AlreadyExists` when the program has set up logging before.
pub fn init(format: LogFormat, filter: Option<&str>) -> Result<TelemetryGuard> {
    let text = std::env::var("RUST_LOG").ok().filter(|v| !v.is_empty());
    let text = text.as_deref().or(filter).unwrap_or("info");
    let filter = EnvFilter::try_new(text).map_err(|e| {
        Error::invalid("log filter", "in the syntax of RUST_LOG, such as info,fleetcore=debug").with_source(e)
    })?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(ansi()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let registry = tracing_subscriber::registry().with(lines.with_filter(filter));
    let twice = |e| Error::new(ErrorKind::AlreadyExists, "logging is set up already").with_source(e);
    #[cfg(feature = "otel")]
    {
        let (layer, provider) = match otel::layer()? {
            Some((layer, provider)) => (Some(layer), Some(provider)),
            None => (None, None),
        };
        registry.with(layer).try_init().map_err(twice)?;
        Ok(TelemetryGuard { provider })
    }
    #[cfg(not(feature = "otel"))]
    {
        registry.try_init().map_err(twice)?;
        Ok(TelemetryGuard::default())
    }
}

fn ansi() -> bool {
    use std::io::IsTerminal;
    std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) && std::io::stderr().is_terminal()
}

/// The recorder of this process, installed at the first call. When the program has installed another one before, this
/// one stays empty.
pub fn prometheus() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("another metrics recorder is installed; /metrics stays empty");
        }
        handle
    })
}

#[cfg(feature = "otel")]
mod otel {
    use fleetcore::{Error, ErrorKind, Result};
    use opentelemetry::trace::TracerProvider;
    use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
    use tracing::Subscriber;
    use tracing_subscriber::{
        Layer,
        filter::{LevelFilter, Targets},
        registry::LookupSpan,
    };

    /// Operations of the core are spans of level debug, whatever the log shows; of others, such as the exporter's own
    /// client, only what matters.
    fn filter() -> Targets {
        Targets::new().with_default(LevelFilter::INFO).with_target("fleetcore", LevelFilter::DEBUG)
    }

    type Boxed<S> = Box<dyn Layer<S> + Send + Sync>;

    pub(super) fn layer<S>() -> Result<Option<(Boxed<S>, SdkTracerProvider)>>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        if std::env::var_os("OTEL_EXPORTER_OTLP_ENDPOINT").is_none_or(|v| v.is_empty()) {
            return Ok(None);
        }
        let exporter = opentelemetry_otlp::SpanExporter::builder().with_http().build().map_err(|e| {
            Error::new(ErrorKind::InvalidInput, "spans cannot be exported")
                .with_context("field", "OTEL_EXPORTER_OTLP_ENDPOINT")
                .with_source(e)
        })?;
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(Resource::builder().with_service_name("fleetcore").build())
            .build();
        let tracer = provider.tracer("fleetcore");
        let layer = tracing_opentelemetry::layer().with_tracer(tracer).with_filter(filter());
        Ok(Some((Box::new(layer), provider)))
    }

    #[cfg(test)]
    mod tests {
        use tracing::Level;

        #[test]
        fn spans_of_the_core_are_exported() {
            let filter = super::filter();
            assert!(filter.would_enable("fleetcore::layers::tracing", &Level::DEBUG));
            assert!(filter.would_enable("fleetcore_http::app", &Level::INFO));
            assert!(!filter.would_enable("hyper_util::client", &Level::DEBUG));
        }
    }
}
