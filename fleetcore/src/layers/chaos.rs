//! Failures on purpose, for tests.

use std::{
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};

use super::{
    around::{Around, Call},
    operation::Operation,
    random, streams,
    wrapped::layer_hooks,
};
use crate::{
    Channel, Error, ErrorKind, Result, Retry,
    raw::{BoxConnection, ByteStream, OpContext, RawProcess},
};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The call fails without being made.
    Fail(ErrorKind, Retry),
    /// The call is made, and its answer is lost: the caller sees this error. A process that was started is dropped.
    LoseAnswer(ErrorKind, Retry),
    /// The call is made this much later.
    Delay(Duration),
    /// Output, file contents and bytes of connections arrive in pieces of 1 to this many bytes.
    ShortReads(usize),
    /// Output, file contents or connections break off with `Unavailable` after this many bytes.
    Cut(u64),
}

/// Which calls a fault hits. Calls are counted per rule, from 1.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum When {
    /// Every one.
    Always,
    /// Only this one.
    Nth(u64),
    /// The first so many.
    First(u64),
    /// Every so manyth.
    Every(u64),
    /// This part of them (0.0 to 1.0), chosen by the seed.
    Part(f64),
}

/// A reproducible plan of failures. The default is the empty plan.
#[derive(Clone, Debug, Default)]
pub struct ChaosPlan {
    seed: u64,
    rules: Vec<(Option<Operation>, When, Fault)>,
}

impl ChaosPlan {
    /// An empty plan whose choices follow from `seed`.
    pub fn seeded(seed: u64) -> Self {
        Self { seed, rules: vec![] }
    }

    /// Adds a fault for one operation, or for all of them (`None`).
    #[must_use]
    pub fn with(mut self, operation: impl Into<Option<Operation>>, when: When, fault: Fault) -> Self {
        self.rules.push((operation.into(), when, fault));
        self
    }
}

/// Injects the faults of a [`ChaosPlan`]. The same plan and the same order of calls give the same faults. With the
/// empty plan it changes nothing.
///
/// Every rule counts the calls it applies to, over everything the layer wraps.
#[derive(Clone, Debug)]
pub struct ChaosLayer(Arc<Chaos>);

#[derive(Debug)]
struct Chaos {
    seed: u64,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    operation: Option<Operation>,
    when: When,
    fault: Fault,
    seen: AtomicU64,
    hits: AtomicU64,
}

impl ChaosLayer {
    /// Follows `plan`.
    pub fn new(plan: ChaosPlan) -> Self {
        let rules = plan.rules.into_iter().map(|(operation, when, fault)| Rule {
            operation,
            when,
            fault,
            seen: AtomicU64::new(0),
            hits: AtomicU64::new(0),
        });
        Self(Arc::new(Chaos { seed: plan.seed, rules: rules.collect() }))
    }

    /// How often a fault was injected so far, by rule in the order they were added: lets a test prove that its plan did
    /// something.
    pub fn hits(&self) -> Vec<u64> {
        self.0.rules.iter().map(|r| r.hits.load(Ordering::Relaxed)).collect()
    }
}

layer_hooks!(ChaosLayer);

impl Chaos {
    /// Faults for this call, in the order of the rules.
    fn draw(&self, operation: Operation) -> Vec<Fault> {
        let applies =
            self.rules.iter().enumerate().filter(|(_, r)| r.operation.is_none_or(|o| o == operation));
        let hit = applies.filter(|(i, rule)| {
            let n = rule.seen.fetch_add(1, Ordering::Relaxed) + 1;
            let hit = match rule.when {
                When::Always => true,
                When::Nth(nth) => n == nth,
                When::First(count) => n <= count,
                When::Every(step) => step > 0 && n.is_multiple_of(step),
                // Each rule draws from a sequence of its own.
                When::Part(part) => random::nth_unit(random::nth(self.seed, *i as u64), n) < part,
            };
            rule.hits.fetch_add(u64::from(hit), Ordering::Relaxed);
            hit
        });
        hit.map(|(_, rule)| rule.fault).collect()
    }
}

fn injected(operation: Operation, kind: ErrorKind, retry: Retry) -> Error {
    Error::new(kind, "injected failure").with_operation(operation.as_str()).with_retry(retry)
}

/// Spoils what is read from a connection.
struct Spoiler {
    pieces: Option<(usize, u64)>,
    seen: AtomicU64,
    bytes: AtomicU64,
    cut: Option<u64>,
    operation: Operation,
}

impl streams::Passage for Spoiler {
    fn room(&self, len: usize) -> io::Result<usize> {
        let mut room = len;
        if let Some((most, seed)) = self.pieces {
            let n = random::nth(seed, self.seen.fetch_add(1, Ordering::Relaxed));
            room = room.min(1 + usize::try_from(n % most as u64).unwrap_or(0));
        }
        let Some(cut) = self.cut else { return Ok(room) };
        match usize::try_from(cut - self.bytes.load(Ordering::Relaxed).min(cut)) {
            Ok(0) => {
                let error = injected(self.operation, ErrorKind::Unavailable, Retry::Permanent);
                Err(io::Error::new(io::ErrorKind::ConnectionReset, error))
            }
            Ok(left) => Ok(room.min(left)),
            Err(_) => Ok(room),
        }
    }

    fn read(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Around for Chaos {
    /// Faults that strike after the call.
    type Ticket = Vec<Fault>;

    async fn call<T, F, Fut>(&self, call: &Call<'_>, cx: &OpContext, mut run: F) -> Result<(T, Vec<Fault>)>
    where
        T: Send,
        F: FnMut(OpContext) -> Fut + Send,
        Fut: Future<Output = Result<T>> + Send,
    {
        let faults = self.draw(call.operation);
        for fault in &faults {
            match *fault {
                Fault::Delay(pause) => tokio::time::sleep(pause).await,
                Fault::Fail(kind, retry) => return Err(injected(call.operation, kind, retry)),
                _ => {}
            }
        }
        let done = run(cx.clone()).await?;
        for fault in &faults {
            if let Fault::LoseAnswer(kind, retry) = *fault {
                return Err(injected(call.operation, kind, retry));
            }
        }
        Ok((done, faults))
    }

    fn connection(&self, call: &Call<'_>, faults: Vec<Fault>, connection: BoxConnection) -> BoxConnection {
        let pieces = faults.iter().rev().find_map(|f| match f {
            Fault::ShortReads(most) => Some(((*most).max(1), self.seed)),
            _ => None,
        });
        let cut = faults.iter().filter_map(|f| match f {
            Fault::Cut(after) => Some(*after),
            _ => None,
        });
        let cut = cut.min();
        if pieces.is_none() && cut.is_none() {
            return connection;
        }
        let (seen, bytes) = Default::default();
        streams::pass_by(connection, Spoiler { pieces, seen, bytes, cut, operation: call.operation })
    }

    fn process(&self, call: &Call<'_>, faults: Vec<Fault>, mut process: RawProcess) -> RawProcess {
        process.output = spoil(process.output, &faults, self.seed, call.operation);
        process
    }

    fn bytes(&self, call: &Call<'_>, faults: Vec<Fault>, bytes: ByteStream) -> ByteStream {
        if faults.is_empty() {
            return bytes;
        }
        // File contents have no channel; any will do on the way through.
        let tagged = bytes.map(|item| item.map(|data| (Channel::Stdout, data))).boxed();
        spoil(tagged, &faults, self.seed, call.operation).map(|item| item.map(|(_, data)| data)).boxed()
    }
}

type Tagged = BoxStream<'static, Result<(Channel, Bytes)>>;

fn spoil(mut output: Tagged, faults: &[Fault], seed: u64, operation: Operation) -> Tagged {
    for fault in faults {
        output = match *fault {
            Fault::ShortReads(most) => short_reads(output, seed, most.max(1)),
            Fault::Cut(after) => cut(output, after, operation),
            _ => output,
        };
    }
    output
}

fn short_reads(output: Tagged, seed: u64, most: usize) -> Tagged {
    let mut pieces = 0;
    let split = output.flat_map(move |item| match item {
        Err(error) => stream::iter(vec![Err(error)]),
        Ok((channel, mut data)) => {
            let mut parts = Vec::new();
            while !data.is_empty() {
                pieces += 1;
                let want = 1 + (random::nth(seed, pieces) % most as u64) as usize;
                parts.push(Ok((channel, data.split_to(want.min(data.len())))));
            }
            stream::iter(parts)
        }
    });
    split.boxed()
}

fn cut(output: Tagged, after: u64, operation: Operation) -> Tagged {
    stream::unfold(Some((output, after)), move |state| async move {
        let (mut output, left) = state?;
        let lost = || Err(injected(operation, ErrorKind::Unavailable, Retry::Temporary { after: None }));
        if left == 0 {
            return Some((lost(), None));
        }
        match output.next().await? {
            Ok((channel, mut data)) => {
                data.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                let left = left - data.len() as u64;
                Some((Ok((channel, data)), Some((output, left))))
            }
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::{super::fake, *};
    use crate::{CommandId, CommandSpec};

    const BUSY: Fault = Fault::Fail(ErrorKind::Busy, Retry::Permanent);

    async fn pings(plan: ChaosPlan, count: usize) -> String {
        let (executor, _) = fake::executor(&ChaosLayer::new(plan), fake::Fake::new());
        let mut seen = String::new();
        for _ in 0..count {
            let ok = executor.ping(&OpContext::default()).await.is_ok();
            seen.push(if ok { '.' } else { 'x' });
        }
        seen
    }

    #[tokio::test]
    async fn the_plan_says_which_calls_fail() {
        let plan = |when| ChaosPlan::seeded(3).with(Operation::Ping, when, BUSY);
        assert_eq!(pings(plan(When::Nth(3)), 6).await, "..x...");
        assert_eq!(pings(plan(When::First(2)), 6).await, "xx....");
        assert_eq!(pings(plan(When::Every(2)), 6).await, ".x.x.x");
        assert_eq!(pings(plan(When::Always), 3).await, "xxx");
        assert_eq!(pings(ChaosPlan::default(), 3).await, "...");
        assert_eq!(pings(ChaosPlan::default().with(Operation::Spawn, When::Always, BUSY), 3).await, "...");
    }

    #[tokio::test]
    async fn chance_follows_from_the_seed() {
        let plan = |seed| ChaosPlan::seeded(seed).with(None, When::Part(0.5), BUSY);
        let once = pings(plan(1), 64).await;
        assert_eq!(once, pings(plan(1), 64).await);
        assert_ne!(once, pings(plan(2), 64).await);
        assert!((16..48).contains(&once.matches('x').count()), "{once}");
    }

    #[tokio::test]
    async fn a_lost_answer_is_a_call_that_was_made() {
        let lost = Fault::LoseAnswer(ErrorKind::Timeout, Retry::Temporary { after: None });
        let layer = ChaosLayer::new(ChaosPlan::default().with(Operation::Ping, When::Always, lost));
        let (executor, seen) = fake::executor(&layer, fake::Fake::new());
        assert_eq!(executor.ping(&OpContext::default()).await.unwrap_err().kind(), ErrorKind::Timeout);
        assert_eq!((seen.calls(), layer.hits()), (vec!["ping"], vec![1]));
    }

    #[tokio::test]
    async fn connections_come_in_pieces_and_break_off() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let plan = ChaosPlan::seeded(5).with(Operation::TunnelOpen, When::Always, Fault::ShortReads(3)).with(
            Operation::TunnelOpen,
            When::Always,
            Fault::Cut(10),
        );
        let (executor, _) = fake::executor(&ChaosLayer::new(plan), fake::Fake::new());
        let to = crate::HostPort::new("localhost", 1).unwrap();
        let mut connection = executor.connect(&OpContext::default(), &to).await.unwrap();
        connection.write_all(b"0123456789abcdef").await.unwrap();
        let mut got = Vec::new();
        let error = loop {
            let mut piece = [0; 16];
            match connection.read(&mut piece).await {
                Ok(n) => {
                    assert!((1..=3).contains(&n));
                    got.extend_from_slice(&piece[..n]);
                }
                Err(e) => break e,
            }
        };
        assert_eq!(got, b"0123456789");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    async fn output(fault: Fault) -> (Vec<usize>, String, Option<ErrorKind>) {
        let plan = ChaosPlan::seeded(5).with(Operation::Spawn, When::Always, fault);
        let (executor, _) = fake::executor(&ChaosLayer::new(plan), fake::Fake::new());
        let spec = CommandSpec::argv(["true"]);
        let process = executor.spawn(&OpContext::default(), CommandId::generate(), &spec).await.unwrap();
        let (mut sizes, mut text, mut error) = (vec![], String::new(), None);
        for item in process.output.collect::<Vec<_>>().await {
            match item {
                Ok((_, data)) => {
                    sizes.push(data.len());
                    text.push_str(std::str::from_utf8(&data).unwrap());
                }
                Err(e) => error = Some(e.kind()),
            }
        }
        (sizes, text, error)
    }

    #[tokio::test]
    async fn short_reads_lose_nothing_and_a_cut_loses_the_rest() {
        let (sizes, text, error) = output(Fault::ShortReads(3)).await;
        assert!(sizes.iter().all(|s| (1..=3).contains(s)), "{sizes:?}");
        assert_eq!((text.as_str(), error), ("hello big world", None));

        let (_, text, error) = output(Fault::Cut(8)).await;
        assert_eq!((text.as_str(), error), ("hello bi", Some(ErrorKind::Unavailable)));
    }
}
