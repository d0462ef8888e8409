//! Reading stored output in bounded pieces.

use std::{collections::VecDeque, fs::File, io};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};

use super::{
    INLINE_BYTES,
    frame::{self, HEADER, Header, MAX_DATA},
    log::Part,
    offload, unavailable,
};
use crate::{CommandId, Offset, OutputChunk, Result};

/// Read from disk at a time; every frame fits.
const BLOCK: usize = HEADER + MAX_DATA;
/// Smaller frames are cheaper to read than to pass over one by one.
const SKIP_BYTES: u32 = 2 << 10;

struct Reader {
    parts: VecDeque<Part>,
    /// The part being read, and how far.
    open: Option<(File, u64, u64)>,
    next: u64,
    pending: VecDeque<OutputChunk>,
}

/// The chunks of `parts` from `from` on. The stream holds no lock; a segment that is removed meanwhile is a gap.
pub(super) fn stream(
    id: CommandId,
    parts: Vec<Part>,
    from: Offset,
) -> BoxStream<'static, Result<OutputChunk>> {
    let mut parts = VecDeque::from(parts);
    while parts.get(1).is_some_and(|second| second.start <= from.0) {
        parts.pop_front();
    }
    let reader = Reader { parts, open: None, next: from.0, pending: VecDeque::new() };
    stream::unfold(Some(reader), move |state| async move {
        let mut reader = state?;
        loop {
            if let Some(chunk) = reader.pending.pop_front() {
                return Some((Ok(chunk), Some(reader)));
            }
            let (back, filled) = if reader.left() <= INLINE_BYTES as u64 {
                let filled = reader.fill();
                (reader, filled)
            } else {
                let work = move || {
                    let filled = reader.fill();
                    (reader, filled)
                };
                match offload(work).await {
                    Ok(done) => done,
                    Err(e) => return Some((Err(e), None)),
                }
            };
            reader = back;
            match filled {
                Ok(true) => {}
                Ok(false) => return None,
                Err(e) => return Some((Err(unavailable(id, "reading", e)), None)),
            }
        }
    })
    .boxed()
}

impl Reader {
    /// Bytes on disk that are still to be read.
    fn left(&self) -> u64 {
        let open = self.open.as_ref().map_or(0, |(_, at, len)| len.saturating_sub(*at));
        open + self.parts.iter().map(|p| p.len).sum::<u64>()
    }

    /// Reads one block; `false` at the end of everything.
    fn fill(&mut self) -> io::Result<bool> {
        let (file, at, len) = match self.open.take() {
            Some(open) => open,
            None => match self.parts.pop_front() {
                None => return Ok(false),
                Some(part) => match File::open(&part.path) {
                    Ok(file) => (file, 0, part.len),
                    // Dropped to stay within the limits.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
                    Err(e) => return Err(e),
                },
            },
        };
        let at = self.skip_known(&file, at, len)?;
        let want = usize::try_from(len.saturating_sub(at)).unwrap_or(BLOCK).min(BLOCK);
        let used = self.take_frames(frame::read_block(&file, want, at)?);
        // No whole frame in a block that could hold any: the rest of this segment is torn.
        if used > 0 {
            self.open = Some((file, at + used as u64, len));
        }
        Ok(true)
    }

    /// Where to read on in a file: frames that lie wholly before what is wanted are passed over by their headers. A
    /// reader that keeps falling out of the ring opens the log again and again, each time somewhere in a segment.
    fn skip_known(&self, file: &File, mut at: u64, len: u64) -> io::Result<u64> {
        while at < len {
            let mut head = [0; HEADER];
            frame::read_at(file, &mut head, at)?;
            let Some(header) = Header::decode(&head).filter(|h| h.len >= SKIP_BYTES) else { break };
            let next = at + HEADER as u64 + u64::from(header.len);
            if header.end() > self.next || next > len {
                break;
            }
            at = next;
        }
        Ok(at)
    }

    /// Turns whole frames into chunks; returns how many bytes they took.
    fn take_frames(&mut self, block: Bytes) -> usize {
        let mut used = 0;
        while let Some(header) = block.get(used..).and_then(Header::decode) {
            let (start, end) = (used + HEADER, used + HEADER + header.len as usize);
            if end > block.len() {
                break;
            }
            used = end;
            let known = self.next.saturating_sub(header.offset);
            if known >= u64::from(header.len) {
                continue;
            }
            self.next = header.end();
            self.pending.push_back(OutputChunk {
                offset: Offset(header.offset + known),
                channel: header.channel,
                at: header.at,
                data: block.slice(start + known as usize..end),
            });
        }
        used
    }
}
