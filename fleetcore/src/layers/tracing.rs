//! Spans and events.

use std::{future::Future, sync::Arc, time::Instant};

use ::tracing::{Instrument as _, Span, debug, debug_span, field, warn};
use futures::FutureExt as _;

use super::{
    around::{Around, Call},
    wrapped::layer_hooks,
};
use crate::{
    ErrorKind, ExitKind, Result,
    raw::{OpContext, RawProcess},
};

/// Puts a span `operation` (target `fleetcore::layers`, level debug) around every call, with fields `operation`,
/// `subject`, `program`, `actor` and, at its end, `outcome`; and logs how it went: success and the caller's own
/// mistakes at debug, failures of the backend at warn. The end of a process is an event of its own.
///
/// Arguments, variables and data never appear: of a command, only the name of its program does.
#[derive(Clone, Debug, Default)]
pub struct TracingLayer(Arc<Traced>);

#[derive(Debug, Default)]
struct Traced;

impl TracingLayer {
    /// The layer.
    pub fn new() -> Self {
        Self::default()
    }
}

layer_hooks!(TracingLayer);

/// Whether a failure is worth waking somebody for, rather than an answer to the caller.
fn is_fault(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unexpected | ErrorKind::Timeout | ErrorKind::Unavailable | ErrorKind::DataLoss)
}

impl Around for Traced {
    type Ticket = Span;

    async fn call<T, F, Fut>(&self, call: &Call<'_>, cx: &OpContext, mut run: F) -> Result<(T, Span)>
    where
        T: Send,
        F: FnMut(OpContext) -> Fut + Send,
        Fut: Future<Output = Result<T>> + Send,
    {
        let span = debug_span!(
            "operation",
            operation = call.operation.as_str(),
            subject = %call.subject,
            program = call.program,
            actor = cx.actor.as_deref(),
            outcome = field::Empty,
        );
        let started = Instant::now();
        let result = run(cx.clone()).instrument(span.clone()).await;
        let elapsed = started.elapsed();
        let _entered = span.enter();
        match result {
            Ok(done) => {
                span.record("outcome", "ok");
                debug!(?elapsed, "done");
                drop(_entered);
                Ok((done, span))
            }
            Err(error) => {
                span.record("outcome", error.kind().code());
                if is_fault(error.kind()) {
                    warn!(?elapsed, %error, "failed");
                } else {
                    debug!(?elapsed, %error, "refused");
                }
                Err(error)
            }
        }
    }

    fn process(&self, _call: &Call<'_>, span: Span, mut process: RawProcess) -> RawProcess {
        let started = Instant::now();
        process.exit = process
            .exit
            .map(move |exit| {
                let elapsed = started.elapsed();
                span.in_scope(|| match &exit {
                    Ok(ExitKind::Unknown) => warn!(?elapsed, "nobody knows how the process ended"),
                    Ok(kind) => debug!(?elapsed, ?kind, "process ended"),
                    Err(error) => warn!(?elapsed, %error, "lost the process"),
                });
                exit
            })
            .boxed();
        process
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use ::tracing::{Event, Metadata, Subscriber, field::Visit, span};
    use parking_lot::Mutex;

    use super::{super::fake, *};
    use crate::{CommandId, CommandSpec, Error};

    /// Writes down everything that is traced.
    #[derive(Clone, Default)]
    struct Pen(Arc<Mutex<String>>);

    struct Fields<'a>(&'a mut String);

    impl Visit for Fields<'_> {
        fn record_debug(&mut self, field: &field::Field, value: &dyn fmt::Debug) {
            self.0.push_str(&format!("{}={value:?};", field.name()));
        }
    }

    impl Subscriber for Pen {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
            span.record(&mut Fields(&mut self.0.lock()));
            span::Id::from_u64(1)
        }
        fn record(&self, _: &span::Id, values: &span::Record<'_>) {
            values.record(&mut Fields(&mut self.0.lock()));
        }
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn event(&self, event: &Event<'_>) {
            let mut text = self.0.lock();
            text.push_str(&format!("{} ", event.metadata().level()));
            event.record(&mut Fields(&mut text));
        }
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    #[tokio::test]
    async fn a_trace_tells_who_what_and_how_it_went_but_no_secret() {
        let pen = Pen::default();
        let _here = ::tracing::subscriber::set_default(pen.clone());
        let broken = Error::new(ErrorKind::Unavailable, "gone");
        let (executor, fake) = fake::executor(&TracingLayer::new(), fake::Fake::failing([broken]));
        let cx = OpContext::for_actor("ann");
        executor.ping(&cx).await.unwrap_err();
        let spec = CommandSpec::argv(["login", "hunter2"]).with_env("TOKEN", "hunter2");
        let process = executor.spawn(&cx, CommandId::generate(), &spec).await.unwrap();
        fake.end.send_replace(true);
        process.exit.await.unwrap();

        let text = pen.0.lock().clone();
        for part in [
            "operation=\"machine.ping\"",
            "actor=\"ann\"",
            "outcome=\"unavailable\"",
            "WARN",
            "operation=\"command.spawn\"",
            "program=\"login\"",
            "outcome=\"ok\"",
            "kind=Code(0)",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(!text.contains("hunter2"), "{text}");
    }
}
