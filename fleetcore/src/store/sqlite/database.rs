//! Threads around the connections: one that writes, two that read.

use std::{
    collections::VecDeque,
    sync::Arc,
    thread::{self, JoinHandle},
};

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::error::db;
use crate::{Error, ErrorKind, Result};

/// Operations waiting for a thread; callers beyond it wait.
const QUEUE: usize = 1024;
/// Operations in one transaction: bounds how long the first waits for the last.
const BATCH: usize = 256;
/// Commits after which the checkpoint thread is woken. One record takes about four pages, SQLite's own
/// default is a thousand pages.
const COMMITS_PER_CHECKPOINT: u32 = 256;
const READERS: usize = 2;

/// Tells the caller what came of it, once it is known whether the transaction holds.
type Answer = Box<dyn FnOnce(Option<&Failure>) + Send>;
/// Does the work; `Err` when there is no transaction to do it in.
type Job = Box<dyn FnOnce(Result<&Connection, &Failure>) -> (bool, Answer) + Send>;

/// Why a whole transaction failed; every operation in it gets its own error.
struct Failure {
    kind: ErrorKind,
    text: String,
}

impl Failure {
    fn new(e: &Error) -> Self {
        Self { kind: e.kind(), text: e.to_string() }
    }
    fn error(&self, operation: &'static str) -> Error {
        Error::new(self.kind, format!("the transaction failed: {}", self.text)).with_operation(operation)
    }
}

/// A thread with a queue.
#[derive(Debug)]
pub(super) struct Worker {
    queue: Option<mpsc::Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

/// Reaches a worker without keeping it.
#[derive(Clone, Debug)]
pub(super) struct WeakWorker(mpsc::WeakSender<Job>);

impl Worker {
    /// The thread that writes. `checkpoint` is called every so many commits.
    pub(super) fn writer(conn: Connection, checkpoint: impl Fn() + Send + 'static) -> Result<Self> {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let thread = spawn("fleetcore-write", move || write_loop(&conn, jobs, &checkpoint))?;
        Ok(Self { queue: Some(queue), threads: vec![thread] })
    }

    /// Threads that read.
    pub(super) fn readers(open: impl Fn() -> Result<Connection>) -> Result<Self> {
        let (queue, jobs) = mpsc::channel::<Job>(QUEUE);
        let jobs = Arc::new(Mutex::new(jobs));
        let mut threads = Vec::new();
        for _ in 0..READERS {
            let (conn, jobs) = (open()?, Arc::clone(&jobs));
            threads.push(spawn("fleetcore-read", move || {
                loop {
                    // Whoever waits holds the lock; the others wait for it, which comes to the same.
                    let job = jobs.lock().blocking_recv();
                    let Some(job) = job else { break };
                    let (_, answer) = job(Ok(&conn));
                    answer(None);
                }
            })?);
        }
        Ok(Self { queue: Some(queue), threads })
    }

    /// Runs `work` on the thread. A dropped future may or may not have done its work.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.run_then(operation, work, |_| {}).await
    }

    /// As [`run`](Self::run); `then` runs on the thread after the commit, in the order of the commits.
    pub(super) async fn run_then<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
        then: impl FnOnce(&mut T) + Send + 'static,
    ) -> Result<T> {
        let queue = self.queue.as_ref().ok_or_else(|| gone(operation))?;
        enqueue(queue, operation, work, then).await
    }

    pub(super) fn downgrade(&self) -> Option<WeakWorker> {
        self.queue.as_ref().map(|q| WeakWorker(q.downgrade()))
    }

    /// Finishes what is queued and ends the threads.
    pub(super) fn stop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store has panicked");
            }
        }
    }
}

impl WeakWorker {
    /// As [`Worker::run_then`]; `None` once the worker is stopped.
    pub(super) async fn run_then<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
        then: impl FnOnce(&mut T) + Send + 'static,
    ) -> Option<Result<T>> {
        let queue = self.0.upgrade()?;
        let (job, reply) = job(operation, work, then);
        if queue.send(job).await.is_err() {
            return None;
        }
        // The thread ends with its last sender, and nobody may ever look at this future again.
        drop(queue);
        Some(reply.await.unwrap_or_else(|_| Err(gone(operation))))
    }

    /// As [`Worker::run`] for callers on a thread of their own.
    pub(super) fn run_blocking<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Option<Result<T>> {
        let queue = self.0.upgrade()?;
        let (job, reply) = job(operation, work, |_| {});
        if queue.blocking_send(job).is_err() {
            return None;
        }
        drop(queue);
        Some(reply.blocking_recv().unwrap_or_else(|_| Err(gone(operation))))
    }
}

async fn enqueue<T: Send + 'static>(
    queue: &mpsc::Sender<Job>,
    operation: &'static str,
    work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    then: impl FnOnce(&mut T) + Send + 'static,
) -> Result<T> {
    let (job, reply) = job(operation, work, then);
    queue.send(job).await.map_err(|_| gone(operation))?;
    reply.await.unwrap_or_else(|_| Err(gone(operation)))
}

fn job<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    then: impl FnOnce(&mut T) + Send + 'static,
) -> (Job, oneshot::Receiver<Result<T>>) {
    let (tell, reply) = oneshot::channel();
    let job = move |conn: Result<&Connection, &Failure>| -> (bool, Answer) {
        let result = match conn {
            Ok(conn) => work(conn).map_err(|e| e.with_operation(operation)),
            Err(failure) => Err(failure.error(operation)),
        };
        let good = result.is_ok();
        let answer = move |failure: Option<&Failure>| {
            let mut result = match failure {
                Some(failure) => result.and_then(|_| Err(failure.error(operation))),
                None => result,
            };
            if let Ok(value) = &mut result {
                then(value);
            }
            // Fails when the caller has left.
            let _ = tell.send(result);
        };
        (good, Box::new(answer))
    };
    (Box::new(job), reply)
}

fn write_loop(conn: &Connection, mut jobs: mpsc::Receiver<Job>, checkpoint: &dyn Fn()) {
    let mut batch: VecDeque<Job> = VecDeque::with_capacity(BATCH);
    let mut answers = Vec::with_capacity(BATCH);
    let mut commits = 0;
    while let Some(first) = jobs.blocking_recv() {
        batch.push_back(first);
        while batch.len() < BATCH {
            let Ok(job) = jobs.try_recv() else { break };
            batch.push_back(job);
        }
        let failure = transaction(conn, &mut batch, &mut answers).err().map(|e| Failure::new(&e));
        if failure.is_some() && !conn.is_autocommit() {
            // Its own failure changes nothing: nobody is told that anything was done.
            let _ = run(conn, "ROLLBACK");
        }
        // Only what a failure kept from being tried.
        for job in batch.drain(..) {
            let refused = Failure { kind: ErrorKind::Unavailable, text: "it did not begin".to_owned() };
            answers.push(job(Err(failure.as_ref().unwrap_or(&refused))).1);
        }
        for answer in answers.drain(..) {
            answer(failure.as_ref());
        }
        commits += 1;
        if commits == COMMITS_PER_CHECKPOINT {
            commits = 0;
            checkpoint();
        }
    }
}

/// Does the jobs in one transaction. One that fails is undone alone; an error here fails them all.
fn transaction(conn: &Connection, batch: &mut VecDeque<Job>, answers: &mut Vec<Answer>) -> Result<()> {
    run(conn, "BEGIN IMMEDIATE")?;
    let alone = batch.len() == 1;
    let mut any = false;
    while let Some(job) = batch.pop_front() {
        if !alone {
            // Errors leave the job in nobody's hands: put it back to be refused.
            if let Err(e) = run(conn, "SAVEPOINT job") {
                batch.push_front(job);
                return Err(e);
            }
        }
        let (good, answer) = job(Ok(conn));
        answers.push(answer);
        any |= good;
        // A full disk can make SQLite roll back by itself: then nothing of the batch holds.
        if conn.is_autocommit() {
            let text = "the database gave up on it, as it does on a full disk";
            return Err(Error::new(ErrorKind::Unavailable, text));
        }
        if !alone {
            if !good {
                run(conn, "ROLLBACK TO job")?;
            }
            run(conn, "RELEASE job")?;
        }
    }
    run(conn, if any { "COMMIT" } else { "ROLLBACK" })
}

fn run(conn: &Connection, sql: &str) -> Result<()> {
    conn.prepare_cached(sql).and_then(|mut s| s.execute([])).map(drop).map_err(db("store.commit"))
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(body).map_err(|e| Error::io("store.open", e))
}

fn gone(operation: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, "the store is closed").with_operation(operation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::mpsc::channel, time::Duration};

    #[tokio::test]
    async fn a_weak_caller_that_never_looks_again_does_not_keep_the_worker() {
        let mut worker = Worker::writer(Connection::open_in_memory().unwrap(), || {}).unwrap();
        let weak = worker.downgrade().unwrap();
        // Holds the thread, so that the call below is surely still waiting after its first poll.
        let (go, wait) = channel::<u8>();
        let hold = move |_: &Connection| Ok(wait.recv().unwrap());
        let mut first = Box::pin(weak.run_then("test", hold, |_| {}));
        let mut asleep = Box::pin(weak.run_then("test", |_| Ok(7), |_| {}));
        assert!(futures::poll!(&mut first).is_pending() && futures::poll!(&mut asleep).is_pending());
        go.send(1).unwrap();
        let (ended, end) = channel();
        thread::spawn(move || {
            worker.stop();
            ended.send(()).unwrap();
        });
        // Only ever waited for when it is broken.
        end.recv_timeout(Duration::from_secs(20)).expect("the worker never stops");
        assert_eq!(asleep.await.unwrap().unwrap(), 7, "what was queued is still done");
        assert!(weak.run_then("test", |_| Ok(()), |_| {}).await.is_none());
    }
}
