//! Output as server-sent events: text where it is text, offsets as event ids.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{BufMut, Bytes, BytesMut};
use fleetcore::{Channel, CommandEvent, OutputChunk};
use jiff::Timestamp;
use serde::Serialize;

use super::wire::{ExitEvent, GapEvent, StateEvent};

/// Writes events of one stream. Characters that are split between chunks are held back until they are whole, so
/// that text always travels as text.
#[derive(Debug, Default)]
pub(crate) struct OutputEncoder {
    held: Option<Held>,
}

/// The beginning of a character: 1 to 3 bytes.
#[derive(Debug)]
struct Held {
    offset: u64,
    channel: Channel,
    at: Timestamp,
    bytes: Vec<u8>,
}

impl OutputEncoder {
    /// Writes one event.
    pub(crate) fn push(&mut self, event: &CommandEvent, out: &mut BytesMut) {
        match event {
            CommandEvent::Output(chunk) => self.output(chunk, out),
            CommandEvent::Gap { from, to } => {
                self.flush(out);
                event_with_id(out, to.0, "gap", &GapEvent { from: from.0, to: to.0 });
            }
            CommandEvent::State(state) => {
                self.flush(out);
                json_event(out, "state", &StateEvent { state: *state });
            }
            CommandEvent::Exited(exit) => {
                self.flush(out);
                json_event(out, "exit", &ExitEvent::from(*exit));
            }
            _ => {}
        }
    }

    /// Writes what is held back: it will not become whole.
    fn flush(&mut self, out: &mut BytesMut) {
        if let Some(h) = self.held.take() {
            output_event(out, h.offset, h.channel, h.at, &Piece::Binary(&h.bytes));
        }
    }

    fn output(&mut self, chunk: &OutputChunk, out: &mut BytesMut) {
        let continues =
            |h: &Held| h.channel == chunk.channel && h.offset + h.bytes.len() as u64 == chunk.offset.0;
        let joined;
        let (offset, at, data): (u64, Timestamp, &[u8]) = match self.held.take_if(|h| continues(h)) {
            Some(mut held) => {
                held.bytes.extend_from_slice(&chunk.data);
                joined = held;
                (joined.offset, joined.at, &joined.bytes)
            }
            None => {
                // Another channel came in between: ids must not run ahead of what was sent.
                self.flush(out);
                (chunk.offset.0, chunk.at, &chunk.data)
            }
        };
        match std::str::from_utf8(data) {
            Ok(text) => output_event(out, offset, chunk.channel, at, &Piece::Text(text)),
            Err(e) if e.error_len().is_none() => {
                let (whole, rest) = data.split_at(e.valid_up_to());
                if let Ok(text) = std::str::from_utf8(whole)
                    && !text.is_empty()
                {
                    output_event(out, offset, chunk.channel, at, &Piece::Text(text));
                }
                let offset = offset + whole.len() as u64;
                self.held = Some(Held { offset, channel: chunk.channel, at, bytes: rest.to_vec() });
            }
            Err(_) => output_event(out, offset, chunk.channel, at, &Piece::Binary(data)),
        }
    }
}

enum Piece<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
}

pub(crate) fn channel_name(channel: Channel) -> &'static str {
    match channel {
        Channel::Stdout => "stdout",
        Channel::Stderr => "stderr",
        Channel::Pty => "pty",
        _ => "log",
    }
}

/// Written by hand: this is the hot path of following a command.
fn output_event(out: &mut BytesMut, offset: u64, channel: Channel, at: Timestamp, piece: &Piece<'_>) {
    use std::fmt::Write;
    let len = match piece {
        Piece::Text(text) => text.len(),
        Piece::Binary(data) => data.len(),
    };
    out.reserve(len + len / 8 + 192);
    // Writing to a BytesMut cannot fail: it grows.
    let _ = write!(
        out,
        "id: {}\nevent: output\ndata: {{\"offset\":{offset},\"channel\":\"{}\",\"at\":\"{at}\",",
        offset + len as u64,
        channel_name(channel)
    );
    match piece {
        Piece::Text(text) => {
            out.put_slice(b"\"text\":");
            json_string(out, text);
        }
        Piece::Binary(data) => {
            out.put_slice(b"\"base64\":\"");
            out.put_slice(STANDARD.encode(data).as_bytes());
            out.put_u8(b'"');
        }
    }
    out.put_slice(b"}\n\n");
}

/// Whether JSON wants this byte escaped.
fn special(b: u8) -> bool {
    b < 0x20 || b == b'"' || b == b'\\'
}

/// Writes a JSON string. Looks at 32 bytes at a time, which compilers turn into vector instructions, and copies
/// everything between two special bytes at once.
pub(crate) fn json_string(out: &mut BytesMut, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.put_u8(b'"');
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let mut plain = 0;
        let (blocks, _) = rest.as_chunks::<32>();
        for block in blocks {
            if block.iter().fold(false, |any, &b| any | special(b)) {
                break;
            }
            plain += 32;
        }
        plain += rest.iter().skip(plain).take_while(|b| !special(**b)).count();
        let (head, tail) = rest.split_at(plain);
        out.put_slice(head);
        let Some((&b, tail)) = tail.split_first() else { break };
        match b {
            b'"' => out.put_slice(b"\\\""),
            b'\\' => out.put_slice(b"\\\\"),
            b'\n' => out.put_slice(b"\\n"),
            b'\r' => out.put_slice(b"\\r"),
            b'\t' => out.put_slice(b"\\t"),
            b => {
                out.put_slice(b"\\u00");
                out.put_u8(HEX.get(usize::from(b >> 4)).copied().unwrap_or(b'0'));
                out.put_u8(HEX.get(usize::from(b & 15)).copied().unwrap_or(b'0'));
            }
        }
        rest = tail;
    }
    out.put_u8(b'"');
}

/// One event whose data is JSON.
pub(crate) fn json_event(out: &mut BytesMut, name: &str, data: &impl Serialize) {
    use std::fmt::Write;
    let _ = write!(out, "event: {name}\ndata: ");
    // The types written here always serialise.
    out.put_slice(&serde_json::to_vec(data).unwrap_or_default());
    out.put_slice(b"\n\n");
}

fn event_with_id(out: &mut BytesMut, id: u64, name: &str, data: &impl Serialize) {
    use std::fmt::Write;
    let _ = writeln!(out, "id: {id}");
    json_event(out, name, data);
}

/// Keeps proxies from closing a quiet connection.
pub(crate) const KEEP_ALIVE: Bytes = Bytes::from_static(b": keep-alive\n\n");
/// How often; most proxies give up after 30 to 60 s.
pub(crate) const KEEP_ALIVE_EVERY: std::time::Duration = std::time::Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use fleetcore::{ExitKind, ExitStatus, Offset};

    use super::*;
    use crate::native::wire::OutputEvent;

    fn chunk(offset: u64, channel: Channel, data: &[u8]) -> CommandEvent {
        let data = Bytes::copy_from_slice(data);
        CommandEvent::Output(OutputChunk { offset: Offset(offset), channel, at: Timestamp::UNIX_EPOCH, data })
    }

    /// (id, data) of all output events.
    fn events(encoded: &BytesMut) -> Vec<(u64, OutputEvent)> {
        let text = std::str::from_utf8(encoded).unwrap();
        text.split("\n\n")
            .filter(|e| e.contains("event: output"))
            .map(|e| {
                let field = |name: &str| e.lines().find_map(|l| l.strip_prefix(name)).unwrap();
                (field("id: ").parse().unwrap(), serde_json::from_str(field("data: ")).unwrap())
            })
            .collect()
    }

    #[test]
    fn split_characters_arrive_whole() {
        let all = "aä€😀z".as_bytes();
        for cut in 0..=all.len() {
            let mut encoder = OutputEncoder::default();
            let mut out = BytesMut::new();
            encoder.push(&chunk(0, Channel::Stdout, &all[..cut]), &mut out);
            encoder.push(&chunk(cut as u64, Channel::Stdout, &all[cut..]), &mut out);
            let events = events(&out);
            assert_eq!(events.iter().map(|e| e.1.text.clone().unwrap()).collect::<String>(), "aä€😀z");
            let mut next = 0;
            for (id, e) in events {
                assert_eq!(e.offset, next);
                next = id;
            }
            assert_eq!(next, all.len() as u64);
        }
    }

    #[test]
    fn what_never_becomes_whole_is_sent_as_bytes() {
        let mut encoder = OutputEncoder::default();
        let mut out = BytesMut::new();
        encoder.push(&chunk(0, Channel::Stdout, b"a\xe2\x82"), &mut out);
        encoder.push(&chunk(3, Channel::Stderr, b"err"), &mut out);
        encoder.push(&chunk(6, Channel::Stdout, b"\xac\xff"), &mut out);
        encoder.push(&chunk(8, Channel::Stdout, b"\xc3"), &mut out);
        encoder.push(&CommandEvent::Exited(ExitStatus::new(ExitKind::Code(0))), &mut out);
        let mut bytes = vec![];
        let mut next = 0;
        for (id, e) in events(&out) {
            assert_eq!(e.offset, next);
            next = id;
            match (e.text, e.base64) {
                (Some(t), None) => bytes.extend(t.into_bytes()),
                (None, Some(b)) => bytes.extend(STANDARD.decode(b).unwrap()),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(bytes, b"a\xe2\x82err\xac\xff\xc3");
        assert!(out.ends_with(b"\"leaked\":false,\"state\":\"succeeded\"}\n\n"));
    }

    #[test]
    fn strings_are_json() {
        let mut all: String = (0u8..128).map(char::from).collect();
        all.push_str(&"x".repeat(100));
        all.push_str("\u{2028}ü\"\\");
        let mut out = BytesMut::new();
        json_string(&mut out, &all);
        assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), all);
        assert!(!out.contains(&b'\n'));
    }
}
