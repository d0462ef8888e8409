use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use jiff::Timestamp;

use super::{MemoryStore, store::State};
use crate::{
    CommandFilter, CommandId, CommandRecord, CommandState, CommandStore, Error, ErrorKind, Offset,
    OutputChunk, RequestKey, Result, StateChange,
};

const DEFAULT_LIMIT: usize = 100;

fn absent(id: CommandId) -> Error {
    Error::new(ErrorKind::NotFound, "no such command").with_context("command", id)
}

impl State {
    fn forget(&mut self, id: CommandId) {
        self.commands.remove(&id);
        self.outputs.remove(id);
    }
}

#[async_trait]
impl CommandStore for MemoryStore {
    async fn insert(&self, record: CommandRecord) -> Result<()> {
        let mut state = self.state();
        if state.commands.contains_key(&record.id) {
            return Err(
                Error::new(ErrorKind::AlreadyExists, "the command exists").with_context("command", record.id)
            );
        }
        if state.commands.len() >= self.shared.limits.records {
            let oldest = state.commands.values().find(|r| r.state.is_settled()).map(|r| r.id);
            // Running commands are never dropped; how many there can be is the fleet's limit.
            if let Some(id) = oldest {
                state.forget(id);
            }
        }
        state.commands.insert(record.id, record);
        Ok(())
    }

    async fn get(&self, id: CommandId) -> Result<CommandRecord> {
        self.state().commands.get(&id).cloned().ok_or_else(|| absent(id))
    }

    async fn list(&self, filter: CommandFilter) -> Result<Vec<CommandRecord>> {
        let limit = filter.limit.unwrap_or(DEFAULT_LIMIT);
        let state = self.state();
        Ok(filter.page(state.commands.values(), limit).into_iter().cloned().collect())
    }

    async fn transition(&self, id: CommandId, revision: u64, change: StateChange) -> Result<CommandRecord> {
        let mut state = self.state();
        let record = state.commands.get_mut(&id).ok_or_else(|| absent(id))?;
        if record.revision != revision {
            return Err(Error::new(ErrorKind::Conflict, "the record has changed")
                .with_context("command", id)
                .with_context("revision", revision)
                .with_context("current_revision", record.revision));
        }
        *record = record.apply(&change)?;
        Ok(record.clone())
    }

    async fn append_output(&self, id: CommandId, chunk: &OutputChunk) -> Result<()> {
        self.state().outputs.append(id, chunk, &self.shared.limits);
        Ok(())
    }

    async fn read_output(
        &self,
        id: CommandId,
        from: Offset,
    ) -> Result<BoxStream<'static, Result<OutputChunk>>> {
        let chunks = self.state().outputs.read(id, from);
        Ok(stream::iter(chunks.into_iter().map(Ok)).boxed())
    }

    async fn prune(&self, ended_before: Timestamp) -> Result<u64> {
        let mut state = self.state();
        let ended = |r: &&CommandRecord| r.ended_at.is_some_and(|at| at < ended_before);
        let ids: Vec<_> = state.commands.values().filter(ended).map(|r| r.id).collect();
        for id in &ids {
            state.forget(*id);
        }
        Ok(ids.len() as u64)
    }

    async fn mark_lost(&self, why: &str) -> Result<Vec<CommandId>> {
        let mut guard = self.state();
        let state = &mut *guard;
        let mut lost = Vec::new();
        for record in state.commands.values_mut().filter(|r| !r.state.is_settled()) {
            let mut change = StateChange::to(CommandState::Lost).with_error(why);
            change.output_end = state.outputs.end(record.id);
            *record = record.apply(&change)?;
            lost.push(record.id);
        }
        Ok(lost)
    }

    fn request_key(&self) -> Option<RequestKey> {
        Some(self.shared.key.clone())
    }
}
