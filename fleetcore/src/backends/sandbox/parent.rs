//! The parent of all sandboxes of this process.
//!
//! The kernel ends a sandbox together with its parent, so a server that is killed leaves none behind, whatever the programs
//! inside do. The parent is a thread, though, and those of a runtime come and go; this one stays.

use std::{io, sync::OnceLock};

use tokio::{
    process::{Child, Command},
    runtime::Handle,
    sync::{mpsc, oneshot},
};

struct Job {
    command: Command,
    runtime: Handle,
    answer: oneshot::Sender<io::Result<Child>>,
}

/// Starts that wait for their turn; each takes a millisecond.
const WAITING: usize = 64;

/// Starts `command` as a child of that thread.
pub(super) async fn spawn(command: Command) -> io::Result<Child> {
    static PARENT: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let gone = || io::Error::other("the thread that starts sandboxes is gone");
    let parent = PARENT.get_or_init(|| {
        let (jobs, queue) = mpsc::channel(WAITING);
        // Without the thread the queue is closed, which shows below.
        let _ = std::thread::Builder::new().name("sandboxes".to_owned()).spawn(move || run(queue));
        jobs
    });
    let (answer, child) = oneshot::channel();
    parent.send(Job { command, runtime: Handle::current(), answer }).await.map_err(|_| gone())?;
    child.await.map_err(|_| gone())?
}

fn run(mut queue: mpsc::Receiver<Job>) {
    while let Some(mut job) = queue.blocking_recv() {
        let _inside = job.runtime.enter();
        // Nobody waiting for it any more: dropping it ends it.
        let _ = job.answer.send(job.command.spawn());
    }
}
