use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::MemoryLimits;
use crate::{CommandId, Offset, OutputChunk};

/// Longest chunk handed to a reader, as in the stores on disk.
const MAX_CHUNK: usize = 1 << 20;
/// What a chunk costs besides its bytes, so that single characters count for what they take.
const CHUNK_COST: usize = size_of::<OutputChunk>() + 32;

/// Output of all commands.
#[derive(Default)]
pub(super) struct Outputs {
    logs: BTreeMap<CommandId, Log>,
    bytes: usize,
}

#[derive(Default)]
struct Log {
    chunks: VecDeque<OutputChunk>,
    end: u64,
    bytes: usize,
}

impl Log {
    /// Drops the oldest chunk; returns what it cost.
    fn drop_first(&mut self) -> usize {
        let cost = self.chunks.pop_front().map_or(0, |c| c.data.len() + CHUNK_COST);
        self.bytes -= cost;
        cost
    }
}

impl Outputs {
    pub(super) fn append(&mut self, id: CommandId, chunk: &OutputChunk, limits: &MemoryLimits) {
        let log = self.logs.entry(id).or_default();
        let known = usize::try_from(log.end.saturating_sub(chunk.offset.0)).unwrap_or(usize::MAX);
        let Some(data) = chunk.data.get(known..) else { return };
        let mut offset = chunk.offset.0 + known as u64;
        for piece in data.chunks(MAX_CHUNK) {
            // A copy: the piece may be a slice that keeps a much larger buffer alive.
            let data = Bytes::copy_from_slice(piece);
            let cost = data.len() + CHUNK_COST;
            log.chunks.push_back(OutputChunk { offset: Offset(offset), data, ..chunk.clone() });
            offset += piece.len() as u64;
            log.end = offset;
            log.bytes += cost;
            self.bytes += cost;
            while log.bytes > limits.output_bytes && log.chunks.len() > 1 {
                self.bytes -= log.drop_first();
            }
        }
        while self.bytes > limits.total_output_bytes {
            let Some(oldest) = self.logs.values_mut().find(|log| !log.chunks.is_empty()) else { break };
            self.bytes -= oldest.drop_first();
        }
    }

    pub(super) fn read(&self, id: CommandId, from: Offset) -> Vec<OutputChunk> {
        let Some(log) = self.logs.get(&id) else { return Vec::new() };
        let first = log.chunks.partition_point(|c| c.end() <= from);
        let mut chunks: Vec<_> = log.chunks.range(first..).cloned().collect();
        if let Some(chunk) = chunks.first_mut()
            && let Some(inside) = from.0.checked_sub(chunk.offset.0)
        {
            chunk.data = chunk.data.slice(inside as usize..);
            chunk.offset = from;
        }
        chunks
    }

    pub(super) fn end(&self, id: CommandId) -> Offset {
        Offset(self.logs.get(&id).map_or(0, |log| log.end))
    }

    pub(super) fn remove(&mut self, id: CommandId) {
        if let Some(log) = self.logs.remove(&id) {
            self.bytes -= log.bytes;
        }
    }
}
