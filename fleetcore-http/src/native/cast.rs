//! Output as an asciicast v2 file (<https://docs.asciinema.org/manual/asciicast/v2/>).

use bytes::{BufMut, BytesMut};
use fleetcore::{Channel, CommandRecord, OutputChunk, PtySize};
use jiff::Timestamp;

use super::sse::json_string;

/// Writes a recording line by line.
#[derive(Debug)]
pub(crate) struct CastWriter {
    started: Timestamp,
    last: f64,
    /// Beginnings of characters, by channel.
    held: Vec<(Channel, Vec<u8>)>,
}

impl CastWriter {
    /// Begins a recording with its header.
    pub(crate) fn new(record: &CommandRecord, out: &mut BytesMut) -> Self {
        let started = record.started_at.unwrap_or(record.created_at);
        let PtySize { cols, rows } = record.pty.unwrap_or_default();
        let display = record.program.display();
        let header = serde_json::json!({
            "version": 2, "width": cols, "height": rows, "timestamp": started.as_second(),
            "command": display, "title": display,
        });
        out.put_slice(header.to_string().as_bytes());
        out.put_u8(b'\n');
        Self { started, last: 0.0, held: vec![] }
    }

    /// Adds one piece of output.
    pub(crate) fn push(&mut self, chunk: &OutputChunk, out: &mut BytesMut) {
        let mut data = match self.held.iter().position(|(c, _)| *c == chunk.channel) {
            Some(at) => self.held.swap_remove(at).1,
            None => vec![],
        };
        data.extend_from_slice(&chunk.data);
        if let Err(e) = std::str::from_utf8(&data)
            && e.error_len().is_none()
        {
            self.held.push((chunk.channel, data.split_off(e.valid_up_to())));
        }
        self.write(chunk.channel, chunk.at, &data, out);
    }

    /// Writes what is held back.
    pub(crate) fn finish(&mut self, out: &mut BytesMut) {
        for (channel, data) in std::mem::take(&mut self.held) {
            self.write(channel, self.started, &data, out);
        }
    }

    fn write(&mut self, channel: Channel, at: Timestamp, data: &[u8], out: &mut BytesMut) {
        use std::fmt::Write;
        if data.is_empty() {
            return;
        }
        // Players want times that never go back, clocks do not care.
        let time = at.duration_since(self.started).as_secs_f64().max(self.last);
        self.last = time;
        let text = String::from_utf8_lossy(data);
        let _ = write!(out, "[{time:.6}, \"o\", ");
        if channel == Channel::Pty {
            json_string(out, &text);
        } else {
            // Without a terminal nobody has turned line ends into what a terminal needs.
            json_string(out, &text.replace("\r\n", "\n").replace('\n', "\r\n"));
        }
        out.put_slice(b"]\n");
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use fleetcore::{CommandId, CommandSpec, Offset, Target};

    use super::*;

    #[test]
    fn every_line_is_json_and_times_never_go_back() {
        let spec = CommandSpec::argv(["say", "a \"b\""]).with_pty(PtySize { cols: 100, rows: 30 });
        let record = CommandRecord::new(CommandId::generate(), Target::local(), &spec, None);
        let at = |ms: i64| record.created_at + jiff::SignedDuration::from_millis(ms);
        let mut out = BytesMut::new();
        let mut cast = CastWriter::new(&record, &mut out);
        let chunk = |channel, ms, data: &'static [u8]| OutputChunk {
            offset: Offset(0),
            channel,
            at: at(ms),
            data: Bytes::from_static(data),
        };
        cast.push(&chunk(Channel::Pty, 1500, b"h\xc3"), &mut out);
        cast.push(&chunk(Channel::Stdout, 100, b"x\n"), &mut out);
        cast.push(&chunk(Channel::Pty, 2000, b"\xa4\x1b[1m"), &mut out);
        cast.push(&chunk(Channel::Pty, 2500, b"\xff"), &mut out);
        cast.finish(&mut out);
        let lines: Vec<serde_json::Value> =
            std::str::from_utf8(&out).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!((lines[0]["version"].as_u64(), lines[0]["width"].as_u64()), (Some(2), Some(100)));
        let said: Vec<_> =
            lines[1..].iter().map(|l| (l[0].as_f64().unwrap(), l[2].as_str().unwrap())).collect();
        assert_eq!(said, [(1.5, "h"), (1.5, "x\r\n"), (2.0, "ä\u{1b}[1m"), (2.5, "\u{fffd}")]);
    }
}
