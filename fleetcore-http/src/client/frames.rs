//! Binary frames of the attach WebSocket: one byte of kind, then the payload.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use fleetcore::{
    Channel, CommandEvent, Error, ErrorKind, ExitStatus, Offset, OutputChunk, PtySize, Result, Signal,
};
use jiff::Timestamp;

use super::{
    attach::SessionState,
    problem,
    wire::{self, Exit, StateEvent},
};

/// Subprotocol both sides name in the handshake.
pub(super) const SUBPROTOCOL: &str = "fleetcore.v1";

/// What a server frame means.
#[derive(Debug)]
pub(super) enum FromServer {
    Command(CommandEvent),
    Session(SessionState),
    Problem(Error),
    /// Answer of a ping, or a kind a newer server added.
    Other,
}

fn malformed(rule: &'static str) -> Error {
    Error::new(ErrorKind::Unexpected, "the server sent a frame that is not understood")
        .with_operation("client.attach")
        .with_context("rule", rule)
}

/// Reads one frame from the server.
pub(super) fn decode(mut frame: Bytes) -> Result<FromServer> {
    let kind = frame.try_get_u8().map_err(|_| malformed("a frame is not empty"))?;
    let short = |_| malformed("the payload is long enough");
    match kind {
        0x01 => {
            let offset = Offset(frame.try_get_u64().map_err(short)?);
            let channel = match frame.try_get_u8().map_err(short)? {
                0 => Channel::Stdout,
                1 => Channel::Stderr,
                2 => Channel::Pty,
                3 => Channel::Log,
                _ => return Err(malformed("the channel is 0 to 3")),
            };
            let chunk = OutputChunk { offset, channel, at: Timestamp::now(), data: frame };
            Ok(FromServer::Command(CommandEvent::Output(chunk)))
        }
        0x02 => {
            let from = Offset(frame.try_get_u64().map_err(short)?);
            let to = Offset(frame.try_get_u64().map_err(short)?);
            Ok(FromServer::Command(CommandEvent::Gap { from, to }))
        }
        0x03 => {
            let exit: Exit = wire::from_json("client.attach", &frame)?;
            Ok(FromServer::Command(CommandEvent::Exited(ExitStatus::from(&exit))))
        }
        0x04 => {
            let state: StateEvent = wire::from_json("client.attach", &frame)?;
            Ok(match state.state {
                Some(state) => FromServer::Command(CommandEvent::State(state)),
                None => {
                    FromServer::Session(SessionState { cwd: state.cwd, busy: state.busy, size: state.size })
                }
            })
        }
        0x06 => Ok(FromServer::Problem(problem::error("client.attach", None, &frame))),
        _ => Ok(FromServer::Other),
    }
}

pub(super) fn input(data: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(1 + data.len());
    frame.put_u8(0x01);
    frame.put_slice(data);
    frame.freeze()
}

pub(super) fn resize(size: PtySize) -> Bytes {
    let mut frame = BytesMut::with_capacity(5);
    frame.put_u8(0x02);
    frame.put_u16(size.cols);
    frame.put_u16(size.rows);
    frame.freeze()
}

pub(super) fn ack(offset: u64) -> Bytes {
    let mut frame = BytesMut::with_capacity(9);
    frame.put_u8(0x03);
    frame.put_u64(offset);
    frame.freeze()
}

pub(super) fn close_stdin() -> Bytes {
    Bytes::from_static(&[0x04])
}

pub(super) fn signal(signal: Signal) -> Bytes {
    let mut frame = BytesMut::with_capacity(16);
    frame.put_u8(0x06);
    frame.put_slice(signal_name(signal).as_bytes());
    frame.freeze()
}

/// Name of a signal on the wire.
pub(super) fn signal_name(signal: Signal) -> &'static str {
    match signal {
        Signal::Hangup => "hangup",
        Signal::Interrupt => "interrupt",
        Signal::Quit => "quit",
        Signal::Kill => "kill",
        Signal::Stop => "stop",
        Signal::Continue => "continue",
        Signal::User1 => "user1",
        Signal::User2 => "user2",
        // `Terminate`, and signals this version does not know by name.
        _ => "terminate",
    }
}

#[cfg(test)]
mod tests {
    use fleetcore::ExitKind;

    use super::*;

    #[test]
    fn output_and_exit() {
        let frame = Bytes::from_static(b"\x01\0\0\0\0\0\0\0\x05\x01hi");
        let FromServer::Command(CommandEvent::Output(chunk)) = decode(frame).unwrap() else {
            panic!("not output")
        };
        assert_eq!((chunk.offset.0, chunk.channel, &chunk.data[..]), (5, Channel::Stderr, &b"hi"[..]));
        let frame = Bytes::from_static(
            b"\x03{\"code\":null,\"signal\":9,\"reason\":\"timed_out\",\"state\":\"failed\"}",
        );
        let FromServer::Command(CommandEvent::Exited(exit)) = decode(frame).unwrap() else {
            panic!("not exit")
        };
        assert_eq!(exit.kind, ExitKind::Signal(9));
    }

    #[test]
    fn damaged_frames_are_errors_not_panics() {
        for bad in [
            &b""[..],
            b"\x01",
            b"\x01\0\0\0\0\0\0\0\x05",
            b"\x01\0\0\0\0\0\0\0\x05\x09x",
            b"\x02\0",
            b"\x03{",
        ] {
            assert_eq!(decode(Bytes::copy_from_slice(bad)).unwrap_err().kind(), ErrorKind::Unexpected);
        }
        assert!(matches!(decode(Bytes::from_static(b"\xff what?")).unwrap(), FromServer::Other));
    }

    #[test]
    fn frames_to_the_server() {
        assert_eq!(&resize(PtySize { cols: 258, rows: 3 })[..], b"\x02\x01\x02\0\x03");
        assert_eq!(&ack(256)[..], b"\x03\0\0\0\0\0\0\x01\0");
        assert_eq!(&signal(Signal::Interrupt)[..], b"\x06interrupt");
        assert_eq!(&input(b"ls\r")[..], b"\x01ls\r");
    }
}
