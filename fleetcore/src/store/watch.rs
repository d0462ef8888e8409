//! `watch`: a snapshot, then changes.

use std::collections::VecDeque;

use futures::{
    future::BoxFuture,
    stream::{self, BoxStream, StreamExt},
};
use tokio::sync::broadcast::{self, error::RecvError};

use crate::{AgentInfo, RegistryEvent, Result};

/// Changes a watcher may be behind before it gets a new snapshot instead.
pub(super) const BACKLOG: usize = 256;

/// All agents, and the changes after exactly this state.
pub(super) struct Snapshot {
    pub(super) agents: Vec<AgentInfo>,
    pub(super) changes: broadcast::Receiver<RegistryEvent>,
}

struct Watch<F> {
    queue: VecDeque<RegistryEvent>,
    changes: broadcast::Receiver<RegistryEvent>,
    again: F,
}

/// `again` takes a new snapshot; it gives `None` once the store is gone, which ends the stream.
pub(super) fn stream<F>(first: Snapshot, again: F) -> BoxStream<'static, Result<RegistryEvent>>
where
    F: Fn() -> BoxFuture<'static, Result<Option<Snapshot>>> + Send + 'static,
{
    let watch = Watch { queue: events(first.agents), changes: first.changes, again };
    stream::unfold(Some(watch), |state| async move {
        let mut watch = state?;
        loop {
            if let Some(event) = watch.queue.pop_front() {
                return Some((Ok(event), Some(watch)));
            }
            match watch.changes.recv().await {
                Ok(event) => return Some((Ok(event), Some(watch))),
                Err(RecvError::Closed) => return None,
                Err(RecvError::Lagged(_)) => match (watch.again)().await {
                    Ok(Some(snapshot)) => {
                        watch.queue = events(snapshot.agents);
                        watch.changes = snapshot.changes;
                    }
                    Ok(None) => return None,
                    Err(e) => return Some((Err(e), None)),
                },
            }
        }
    })
    .boxed()
}

fn events(agents: Vec<AgentInfo>) -> VecDeque<RegistryEvent> {
    let items = agents.into_iter().map(RegistryEvent::InitItem);
    std::iter::once(RegistryEvent::Init).chain(items).chain([RegistryEvent::InitDone]).collect()
}
