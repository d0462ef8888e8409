//! Properties of what a client reads from a server; see [`crate::fuzz`].

use bytes::{Bytes, BytesMut};
use fleetcore::{Channel, CommandEvent, ErrorKind, Offset, OutputChunk};
use jiff::Timestamp;

use super::{
    events,
    frames::{self, FromServer},
    output, problem,
    resume::Place,
    sse::{Decoder, SseEvent},
};
use crate::native::fuzz::{OutputEncoder, output_frame};

/// Frames of a server: one after the other, as a hostile server would send them. Each is understood or refused, and
/// what is passed on never goes back and never skips without a gap.
pub(crate) fn server_frames(data: &[u8], from: Option<u64>) {
    let mut place = Place::new(from.map(Offset));
    let mut at = from;
    for frame in data.split(|b| *b == 0xfe) {
        match frames::decode(Bytes::copy_from_slice(frame)) {
            Ok(FromServer::Command(event)) => {
                let (gap, event) = place.admit(event);
                gap.iter().chain(&event).for_each(|e| follow(&mut at, e));
            }
            Ok(_) => {}
            Err(e) => assert_eq!(e.kind(), ErrorKind::Unexpected, "{e}"),
        }
    }
}

fn follow(at: &mut Option<u64>, event: &CommandEvent) {
    let (from, to) = match event {
        CommandEvent::Output(chunk) => (chunk.offset, chunk.end()),
        CommandEvent::Gap { from, to } => {
            assert!(from.0 < to.0, "{event:?} is empty");
            (*from, *to)
        }
        _ => return,
    };
    assert_eq!(at.unwrap_or(from.0), from.0, "{event:?}");
    *at = Some(to.0);
}

/// Event streams: how the bytes were cut on the way does not matter, and every event is understood or refused.
pub(crate) fn events(cut: usize, data: &[u8]) {
    let whole = decode(data.len(), data);
    assert_eq!(decode(cut, data), whole);
    for event in &whole {
        if let Err(e) = output::parse(event) {
            assert_eq!(e.kind(), ErrorKind::Unexpected, "{e}");
        }
        if let Err(e) = events::parse(event) {
            assert_eq!(e.kind(), ErrorKind::Unexpected, "{e}");
        }
    }
}

fn decode(cut: usize, data: &[u8]) -> Vec<SseEvent> {
    let mut decoder = Decoder::default();
    let mut all = vec![];
    for piece in data.chunks(cut.max(1)) {
        decoder.push(piece);
        while let Ok(Some(event)) = decoder.next() {
            all.push(event);
        }
    }
    all
}

/// What the server writes is what the client reads, as events and as frames: every byte, once, on its channel, whatever
/// the bytes are and wherever the chunks were cut.
pub(crate) fn there_and_back(cuts: &[u8], cut: usize, data: &[u8]) {
    let mut chunks = vec![];
    let (mut rest, mut offset) = (data, 0);
    for &c in cuts.iter().chain(std::iter::repeat_n(&255, data.len().div_ceil(63) + 1)) {
        let (piece, tail) = rest.split_at(usize::from(c >> 2).min(rest.len()));
        rest = tail;
        if piece.is_empty() {
            continue;
        }
        let channel = [Channel::Stdout, Channel::Stderr, Channel::Pty, Channel::Log]
            .into_iter()
            .nth(usize::from(c & 3))
            .unwrap_or(Channel::Log);
        let data = Bytes::copy_from_slice(piece);
        chunks.push(OutputChunk { offset: Offset(offset), channel, at: Timestamp::UNIX_EPOCH, data });
        offset += piece.len() as u64;
    }
    let mut encoder = OutputEncoder::default();
    let mut written = BytesMut::new();
    for chunk in &chunks {
        encoder.push(&CommandEvent::Output(chunk.clone()), &mut written);
    }
    let end = fleetcore::ExitStatus::new(fleetcore::ExitKind::Code(0));
    encoder.push(&CommandEvent::Exited(end), &mut written);
    let read = decode(cut, &written).into_iter().filter_map(|e| output::parse(&e).ok().flatten());
    same(&chunks, read);
    let read = chunks.iter().filter_map(|c| match frames::decode(output_frame(c)) {
        Ok(FromServer::Command(event)) => Some(event),
        _ => None,
    });
    same(&chunks, read);
}

fn same(chunks: &[OutputChunk], read: impl Iterator<Item = CommandEvent>) {
    let bytes = |c: &OutputChunk| c.data.iter().map(|b| (c.channel, *b)).collect::<Vec<_>>();
    let mut next = 0;
    let mut came = vec![];
    for event in read {
        if let CommandEvent::Output(chunk) = event {
            assert_eq!(chunk.offset.0, next);
            next = chunk.end().0;
            came.extend(bytes(&chunk));
        }
    }
    assert_eq!(came, chunks.iter().flat_map(bytes).collect::<Vec<_>>());
}

/// What the client says is what the server hears.
pub(crate) fn to_the_server(data: &[u8], cols: u16, rows: u16, offset: u64) {
    use crate::native::fuzz::{heard_ack, heard_input, heard_size};
    assert_eq!(heard_input(&frames::input(data)).as_deref(), Some(data));
    assert_eq!(heard_ack(&frames::ack(offset)), Some(offset));
    let size = fleetcore::PtySize { cols, rows };
    assert_eq!(heard_size(&frames::resize(size)), size.check().ok());
}

/// Problem documents and whatever a proxy answers instead.
pub(crate) fn problems(data: &[u8], status: u16) {
    let status = reqwest::StatusCode::from_u16(status).ok();
    let error = problem::error("fuzz", status, data);
    assert!(!error.kind().code().is_empty());
    let _ = error.to_string();
}
