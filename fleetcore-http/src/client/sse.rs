//! Server-sent events: bytes to events (WHATWG HTML, section 9.2.6).

use bytes::{Buf as _, BytesMut};
use fleetcore::{Error, ErrorKind, Result};

/// Longest event accepted from a server.
const EVENT_BYTES_MAX: usize = 8 << 20;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SseEvent {
    pub(super) event: String,
    pub(super) data: String,
}

/// Takes bytes as they arrive, cut anywhere.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    buffer: BytesMut,
    /// How much of `buffer` holds no line end for sure, so long lines are not searched again and again.
    searched: usize,
    event: SseEvent,
    has_data: bool,
}

impl Decoder {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole event, or `None` until more bytes come.
    pub(super) fn next(&mut self) -> Result<Option<SseEvent>> {
        loop {
            let rest = self.buffer.get(self.searched..).unwrap_or_default();
            let Some(found) = rest.iter().position(|b| *b == b'\n') else {
                self.searched = self.buffer.len();
                if self.searched + self.event.data.len() > EVENT_BYTES_MAX {
                    return Err(Error::new(ErrorKind::Unexpected, "an event is too long")
                        .with_operation("client.events")
                        .with_context("limit_bytes", EVENT_BYTES_MAX));
                }
                return Ok(None);
            };
            let line = self.buffer.split_to(self.searched + found);
            self.buffer.advance(1);
            self.searched = 0;
            let line = String::from_utf8_lossy(&line);
            let line = line.strip_suffix('\r').unwrap_or(&line);
            if line.is_empty() {
                let event = std::mem::take(&mut self.event);
                if std::mem::take(&mut self.has_data) {
                    return Ok(Some(event));
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => value.clone_into(&mut self.event.event),
                "data" => {
                    if self.has_data {
                        self.event.data.push('\n');
                    }
                    self.event.data.push_str(value);
                    self.has_data = true;
                }
                // Comments and the id: the place is in the data.
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_gives_the_same_events() {
        let text =
            ": keep-alive\n\nid: 5\nevent: output\ndata: {\"a\":1}\ndata: x\n\nevent:state\r\ndata:ü\r\n\r\n"
                .as_bytes();
        let want = [("output", "{\"a\":1}\nx"), ("state", "ü")];
        for cut in 1..text.len() {
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            for part in text.chunks(cut) {
                decoder.push(part);
                while let Some(e) = decoder.next().unwrap() {
                    got.push((e.event, e.data));
                }
            }
            let got: Vec<_> = got.iter().map(|(e, d)| (e.as_str(), d.as_str())).collect();
            assert_eq!(got, want, "cut {cut}");
        }
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut decoder = Decoder::default();
        decoder.push(&vec![b'x'; EVENT_BYTES_MAX + 1]);
        assert_eq!(decoder.next().unwrap_err().kind(), ErrorKind::Unexpected);
    }
}
