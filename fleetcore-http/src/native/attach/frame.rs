//! The frames of the subprotocol `fleetcore.v1`: one byte that says what it is, then the rest.

use bytes::{BufMut, Bytes, BytesMut};
use fleetcore::{Channel, Error, ErrorKind, Offset, PtySize, Result, Signal};
use serde::Serialize;

use crate::native::wire::{Size, parse_signal};

/// Name of the subprotocol.
pub(in crate::native) const PROTOCOL: &str = "fleetcore.v1";

const OUTPUT: u8 = 1;
const GAP: u8 = 2;
const EXIT: u8 = 3;
const STATE: u8 = 4;
const PONG: u8 = 5;
const ERROR: u8 = 6;

/// What a client can say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::native) enum FromClient {
    Input(Bytes),
    Resize(PtySize),
    Ack(u64),
    CloseInput,
    Ping(Bytes),
    Signal(Signal),
}

impl FromClient {
    pub(in crate::native) fn parse(frame: &Bytes) -> Result<Self> {
        let bad = |rule: &'static str| Error::invalid("frame", rule).with_operation("attach");
        let (kind, rest) = frame.split_first().ok_or_else(|| bad("not empty"))?;
        let payload = || frame.slice(1..);
        match kind {
            1 => Ok(Self::Input(payload())),
            2 => {
                let [a, b, c, d] = *rest else { return Err(bad("a resize with two 16 bit numbers")) };
                let size = Size { cols: u16::from_be_bytes([a, b]), rows: u16::from_be_bytes([c, d]) };
                Ok(Self::Resize(size.check()?))
            }
            3 => {
                let offset = <[u8; 8]>::try_from(rest).map_err(|_| bad("an ack with one 64 bit number"))?;
                Ok(Self::Ack(u64::from_be_bytes(offset)))
            }
            4 => Ok(Self::CloseInput),
            5 => Ok(Self::Ping(payload())),
            6 => {
                let name = std::str::from_utf8(rest).map_err(|_| bad("a signal with its name"))?;
                parse_signal(name).map(Self::Signal)
            }
            _ => Err(bad("of a kind from 1 to 6").with_context("kind", kind)),
        }
    }
}

/// An output frame that can take more bytes of the same channel.
#[derive(Debug)]
pub(in crate::native) struct OutputFrame(BytesMut);

impl OutputFrame {
    pub(in crate::native) fn new(offset: Offset, channel: Channel, data: &[u8], room: usize) -> Self {
        let mut frame = BytesMut::with_capacity(10 + data.len().max(room));
        frame.put_u8(OUTPUT);
        frame.put_u64(offset.0);
        frame.put_u8(match channel {
            Channel::Stdout => 0,
            Channel::Stderr => 1,
            Channel::Pty => 2,
            _ => 3,
        });
        frame.put_slice(data);
        Self(frame)
    }
    pub(in crate::native) fn push(&mut self, data: &[u8]) {
        self.0.put_slice(data);
    }
    pub(in crate::native) fn len(&self) -> usize {
        self.0.len()
    }
    pub(in crate::native) fn freeze(self) -> Bytes {
        self.0.freeze()
    }
}

pub(in crate::native) fn gap(from: Offset, to: Offset) -> Bytes {
    let mut frame = BytesMut::with_capacity(17);
    frame.put_u8(GAP);
    frame.put_u64(from.0);
    frame.put_u64(to.0);
    frame.freeze()
}

pub(in crate::native) fn pong(payload: &[u8]) -> Bytes {
    with_payload(PONG, payload)
}
pub(in crate::native) fn exit(exit: &impl Serialize) -> Bytes {
    json(EXIT, exit)
}
pub(in crate::native) fn state(state: &impl Serialize) -> Bytes {
    json(STATE, state)
}
pub(in crate::native) fn error(problem: &impl Serialize) -> Bytes {
    json(ERROR, problem)
}

fn json(kind: u8, value: &impl Serialize) -> Bytes {
    // The types sent here always serialise.
    with_payload(kind, &serde_json::to_vec(value).unwrap_or_default())
}

fn with_payload(kind: u8, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(1 + payload.len());
    frame.put_u8(kind);
    frame.put_slice(payload);
    frame.freeze()
}

/// An error for the client that is not worth ending the connection.
pub(in crate::native) fn not_allowed() -> Error {
    Error::new(ErrorKind::PermissionDenied, "this connection only looks on").with_operation("attach")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_clients() {
        let parse = |b: &'static [u8]| FromClient::parse(&Bytes::from_static(b));
        assert_eq!(parse(b"\x01ls\n").unwrap(), FromClient::Input(Bytes::from_static(b"ls\n")));
        assert_eq!(
            parse(b"\x02\x00\x50\x00\x18").unwrap(),
            FromClient::Resize(PtySize { cols: 80, rows: 24 })
        );
        assert_eq!(parse(b"\x03\0\0\0\0\0\0\x01\0").unwrap(), FromClient::Ack(256));
        assert_eq!(parse(b"\x04").unwrap(), FromClient::CloseInput);
        assert_eq!(parse(b"\x06interrupt").unwrap(), FromClient::Signal(Signal::Interrupt));
        for bad in
            [&b""[..], b"\x00", b"\x07", b"\x02\x00", b"\x02\0\0\0\0", b"\x03\x01", b"\x06nope", b"\x06\xff"]
        {
            assert_eq!(parse(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad:?}");
        }
    }

    #[test]
    fn output_frames_grow() {
        let mut f = OutputFrame::new(Offset(5), Channel::Pty, b"ab", 4);
        f.push(b"cd");
        assert_eq!(&f.freeze()[..], b"\x01\0\0\0\0\0\0\0\x05\x02abcd");
    }
}
