//! Who did what.

use std::{future::Future, sync::Arc};

use ::tracing::error;
use tokio::{runtime::Handle, task::JoinHandle};

use super::{
    around::{Around, Call},
    wrapped::layer_hooks,
};
use crate::{
    AuditEntry, Error, ErrorKind, Result, Retry,
    raw::{AuditStore, OpContext},
};

/// What happens when the audit log cannot be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuditPolicy {
    /// The operation goes on and the lost entry is logged at level error: a full disk must not stop the fleet.
    /// One entry per operation, written when its outcome is known.
    #[default]
    BestEffort,
    /// An entry with outcome `started` is written before the operation; when that fails, the operation is refused as
    /// `Unavailable` and nothing has happened. The entry with the real outcome follows; if that one is lost, it is
    /// logged, and `started` still tells.
    Required,
}

/// Writes an entry to the audit log for every operation that changes something
/// ([`Operation::is_audited`](super::Operation::is_audited)): the actor of the [`OpContext`], the operation, what it
/// was done to, and the outcome (`ok` or an error code).
///
/// A call that its caller drops half-way is recorded as `cancelled`. Of a command, `target` is its id (the record has
/// the rest) and `detail` the name of its program: arguments may be secret. An operation without an actor is by
/// [`AuditLayer::NOBODY`].
#[derive(Clone, Debug)]
pub struct AuditLayer(Arc<Audited>);

#[derive(Debug)]
struct Audited {
    log: Arc<dyn AuditStore>,
    policy: AuditPolicy,
}

impl AuditLayer {
    /// The actor of operations nobody put a name to: those of the program itself.
    pub const NOBODY: &'static str = "internal";

    /// Writes to `log`; entries that cannot be written are lost ([`AuditPolicy::BestEffort`]).
    pub fn new(log: Arc<dyn AuditStore>) -> Self {
        Self::with_policy(log, AuditPolicy::default())
    }

    /// Writes to `log` under `policy`.
    pub fn with_policy(log: Arc<dyn AuditStore>, policy: AuditPolicy) -> Self {
        Self(Arc::new(Audited { log, policy }))
    }
}

layer_hooks!(AuditLayer);

/// An entry that is owed. Dropped unpaid, when the caller loses interest, it is written by a task of its own.
struct Owed<'a> {
    log: &'a Arc<dyn AuditStore>,
    entry: Option<AuditEntry>,
}

impl Owed<'_> {
    async fn pay(mut self, outcome: &str) {
        if let Some(written) = self.write(outcome) {
            // Fails only with the runtime.
            let _ = written.await;
        }
    }

    /// Writes the entry in a task of its own: a caller who leaves during the write neither loses it nor makes it two.
    fn write(&mut self, outcome: &str) -> Option<JoinHandle<()>> {
        let mut entry = self.entry.take()?;
        entry.outcome = outcome.to_owned();
        entry.at = jiff::Timestamp::now();
        let log = Arc::clone(self.log);
        // Without a runtime the program is ending; there is nobody left to write it.
        let runtime = Handle::try_current().ok()?;
        Some(runtime.spawn(async move { note_loss(log.append(entry.clone()).await, &entry) }))
    }
}

impl Drop for Owed<'_> {
    fn drop(&mut self) {
        drop(self.write(ErrorKind::Cancelled.code()));
    }
}

fn note_loss(written: Result<()>, entry: &AuditEntry) {
    if let Err(error) = written {
        let AuditEntry { actor, action, target, .. } = entry;
        error!(%error, actor, action, target, "the audit log lost an entry");
    }
}

impl Around for Audited {
    type Ticket = ();

    async fn call<T, F, Fut>(&self, call: &Call<'_>, cx: &OpContext, mut run: F) -> Result<(T, ())>
    where
        T: Send,
        F: FnMut(OpContext) -> Fut + Send,
        Fut: Future<Output = Result<T>> + Send,
    {
        if !call.operation.is_audited() {
            return Ok((run(cx.clone()).await?, ()));
        }
        let actor = cx.actor.as_deref().unwrap_or(AuditLayer::NOBODY);
        let entry = AuditEntry::new(actor, call.operation.as_str(), call.subject.to_string(), "started")
            .with_detail(call.program.unwrap_or_default());
        if self.policy == AuditPolicy::Required {
            self.log.append(entry.clone()).await.map_err(|e| {
                Error::new(ErrorKind::Unavailable, "the audit log cannot be written, so nothing was done")
                    .with_operation(call.operation.as_str())
                    .with_retry(Retry::Temporary { after: None })
                    .with_source(e)
            })?;
        }
        let owed = Owed { log: &self.log, entry: Some(entry) };
        let result = run(cx.clone()).await;
        owed.pay(result.as_ref().map_or_else(|e| e.kind().code(), |_| "ok")).await;
        Ok((result?, ()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_trait::async_trait;
    use futures::StreamExt as _;
    use parking_lot::Mutex;
    use tokio::sync::Notify;

    use super::{super::fake, *};
    use crate::{AuditFilter, CommandId, CommandSpec, MachineId, WriteOptions};

    #[derive(Debug, Default)]
    struct Log {
        entries: Mutex<Vec<AuditEntry>>,
        broken: bool,
        begun: Notify,
        written: Notify,
        /// Writes wait for this, when it is there.
        gate: Option<Arc<Notify>>,
    }

    #[async_trait]
    impl AuditStore for Log {
        async fn append(&self, entry: AuditEntry) -> Result<()> {
            if self.broken {
                return Err(Error::new(ErrorKind::Unavailable, "disk full"));
            }
            self.begun.notify_one();
            if let Some(gate) = &self.gate {
                gate.notified().await;
            }
            self.entries.lock().push(entry);
            self.written.notify_one();
            Ok(())
        }
        async fn read(&self, _: AuditFilter) -> Result<Vec<AuditEntry>> {
            Ok(self.entries.lock().clone())
        }
        async fn prune_audit(&self, _: Option<jiff::Timestamp>, _: Option<u64>) -> Result<u64> {
            Ok(0)
        }
    }

    fn lines(log: &Log) -> Vec<String> {
        let line = |e: &AuditEntry| format!("{} {} {} {}", e.actor, e.action, e.target, e.outcome);
        log.entries.lock().iter().map(line).collect()
    }

    #[tokio::test]
    async fn changes_are_recorded_with_actor_target_and_outcome_and_questions_are_not() {
        let log = Arc::new(Log::default());
        let layer = AuditLayer::new(log.clone());
        let busy = Error::new(ErrorKind::Busy, "no");
        let (provider, _) = fake::provider(&layer, fake::Fake::failing([busy]));
        let (cx, id) = (OpContext::for_actor("ann"), MachineId::new("m1").unwrap());
        provider.start(&cx, &id).await.unwrap_err();
        provider.delete(&OpContext::default(), &id, true).await.unwrap();
        provider.info(&cx, &id).await.unwrap();
        provider.act(&cx, Some(&id), "snapshot", crate::Json::new()).await.unwrap();
        provider.act(&cx, Some(&id), "snapshots", crate::Json::new()).await.unwrap();
        assert_eq!(
            lines(&log),
            [
                "ann machine.start fake/m1 busy",
                "internal machine.delete fake/m1 ok",
                "ann machine.act fake/m1 ok"
            ]
        );
        assert_eq!(log.entries.lock()[2].detail, "snapshot");
    }

    #[tokio::test]
    async fn connections_are_recorded_with_where_they_lead() {
        let log = Arc::new(Log::default());
        let (executor, _) = fake::executor(&AuditLayer::new(log.clone()), fake::Fake::new());
        let to = crate::HostPort::new("::1", 80).unwrap();
        executor.connect(&OpContext::for_actor("ann"), &to).await.map(drop).unwrap();
        assert_eq!(lines(&log), ["ann tunnel.open [::1]:80 ok"]);
    }

    #[tokio::test]
    async fn arguments_are_not_recorded() {
        let log = Arc::new(Log::default());
        let (executor, _) = fake::executor(&AuditLayer::new(log.clone()), fake::Fake::new());
        let id = CommandId::generate();
        let spec = CommandSpec::argv(["login", "hunter2"]).with_env("TOKEN", "hunter2");
        executor.spawn(&OpContext::for_actor("ann"), id, &spec).await.unwrap();
        assert_eq!(lines(&log), [format!("ann command.spawn {id} ok")]);
        assert_eq!(log.entries.lock()[0].detail, "login");
        assert!(!format!("{:?}", log.entries.lock()).contains("hunter2"));
    }

    #[tokio::test]
    async fn a_call_its_caller_drops_is_recorded_as_cancelled() {
        let log = Arc::new(Log::default());
        let slow = fake::Fake { delay: Duration::from_secs(3600), ..fake::Fake::new() };
        let (executor, _) = fake::executor(&AuditLayer::new(log.clone()), slow);
        let files = executor.files().unwrap();
        let cx = OpContext::for_actor("ann");
        let data = futures::stream::empty().boxed();
        let mut write = files.write(&cx, "f", WriteOptions::default(), data);
        assert!(futures::poll!(&mut write).is_pending());
        drop(write);
        log.written.notified().await;
        assert_eq!(lines(&log), ["ann file.write f cancelled"]);
    }

    #[tokio::test]
    async fn a_caller_who_leaves_during_the_write_leaves_one_entry() {
        let gate = Arc::new(Notify::new());
        let log = Arc::new(Log { gate: Some(gate.clone()), ..Log::default() });
        let (executor, _) = fake::executor(&AuditLayer::new(log.clone()), fake::Fake::new());
        let files = executor.files().unwrap();
        let cx = OpContext::for_actor("ann");
        let mut make = files.create_dir(&cx, "d");
        tokio::select! {
            made = &mut make => panic!("did not wait for its entry: {made:?}"),
            () = log.begun.notified() => {}
        }
        drop(make);
        // Room for two entries, to see that the second one does not come.
        gate.notify_one();
        log.written.notified().await;
        gate.notify_one();
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(lines(&log), ["ann file.create_dir d ok"]);
    }

    #[tokio::test]
    async fn a_broken_log_stops_only_those_who_asked_for_that() {
        let broken = || Arc::new(Log { broken: true, ..Log::default() });
        let cx = OpContext::default();
        let (executor, seen) = fake::executor(&AuditLayer::new(broken()), fake::Fake::new());
        executor.files().unwrap().create_dir(&cx, "d").await.unwrap();
        assert_eq!(seen.calls(), ["create_dir"]);

        let layer = AuditLayer::with_policy(broken(), AuditPolicy::Required);
        let (executor, seen) = fake::executor(&layer, fake::Fake::new());
        let refused = executor.files().unwrap().create_dir(&cx, "d").await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unavailable);
        assert!(seen.calls().is_empty(), "nothing was done");
    }

    #[tokio::test]
    async fn required_writes_before_and_after() {
        let log = Arc::new(Log::default());
        let layer = AuditLayer::with_policy(log.clone(), AuditPolicy::Required);
        let (executor, _) = fake::executor(&layer, fake::Fake::new());
        executor.files().unwrap().create_dir(&OpContext::for_actor("ann"), "d").await.unwrap();
        assert_eq!(lines(&log), ["ann file.create_dir d started", "ann file.create_dir d ok"]);
    }
}
