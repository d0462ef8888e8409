//! Binary messages: one frame of one stream each.
//!
//! ```text
//! u8 kind | u32 stream, big endian | payload
//! 1 open   payload: what is wanted, see `Purpose`
//! 2 data   payload: one message
//! 3 credit payload: u32 bytes the other side may send on top
//! 4 end    no more data will come on this stream
//! 5 reset  the sender has forgotten the stream
//! ```

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes before the payload.
pub(super) const HEADER: usize = 5;
/// Longest payload.
pub(super) const PAYLOAD_MAX: usize = 256 << 10;

/// What a stream sends at once, with room for the header in front: it is put together once and not copied again.
#[derive(Debug)]
pub(super) struct Message(BytesMut);

impl Message {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        let mut room = BytesMut::with_capacity(HEADER + bytes);
        room.put_bytes(0, HEADER);
        Self(room)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len() - HEADER
    }

    /// Where the payload is added.
    pub(super) fn payload(&mut self) -> &mut BytesMut {
        &mut self.0
    }

    /// As the data of a stream.
    pub(super) fn into_frame(mut self, stream: u32) -> Bytes {
        let mut header: &mut [u8] = self.0.as_mut();
        header.put_u8(DATA);
        header.put_u32(stream);
        self.0.freeze()
    }
}

impl From<&[u8]> for Message {
    fn from(payload: &[u8]) -> Self {
        let mut message = Self::with_capacity(payload.len());
        message.0.put_slice(payload);
        message
    }
}

/// Kind of a frame with data.
const DATA: u8 = 2;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Open(u32, Bytes),
    Data(u32, Bytes),
    Credit(u32, u32),
    End(u32),
    Reset(u32),
}

impl Frame {
    pub(super) fn encode(&self) -> Bytes {
        let (kind, stream, payload): (u8, u32, &[u8]) = match self {
            Self::Open(id, payload) => (1, *id, &payload[..]),
            Self::Data(id, payload) => (DATA, *id, &payload[..]),
            Self::Credit(id, _) => (3, *id, &[]),
            Self::End(id) => (4, *id, &[]),
            Self::Reset(id) => (5, *id, &[]),
        };
        let mut out = BytesMut::with_capacity(HEADER + payload.len().max(4));
        out.put_u8(kind);
        out.put_u32(stream);
        out.put_slice(payload);
        if let Self::Credit(_, more) = self {
            out.put_u32(*more);
        }
        out.freeze()
    }

    /// `None` for what no side of this version sends.
    pub(super) fn decode(mut message: Bytes) -> Option<Self> {
        if message.len() < HEADER || message.len() > HEADER + PAYLOAD_MAX {
            return None;
        }
        let payload = message.split_off(HEADER);
        let [kind, a, b, c, d] = <[u8; HEADER]>::try_from(&message[..]).ok()?;
        let id = u32::from_be_bytes([a, b, c, d]);
        match (kind, payload.len()) {
            (1, _) => Some(Self::Open(id, payload)),
            (DATA, 1..) => Some(Self::Data(id, payload)),
            (3, 4) => Some(Self::Credit(id, u32::from_be_bytes(payload[..].try_into().ok()?))),
            (4, 0) => Some(Self::End(id)),
            (5, 0) => Some(Self::Reset(id)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_frame() -> impl Strategy<Value = Frame> {
        let data = || prop::collection::vec(any::<u8>(), 1..300).prop_map(Bytes::from);
        prop_oneof![
            (any::<u32>(), data()).prop_map(|(id, d)| Frame::Open(id, d)),
            (any::<u32>(), data()).prop_map(|(id, d)| Frame::Data(id, d)),
            (any::<u32>(), any::<u32>()).prop_map(|(id, n)| Frame::Credit(id, n)),
            any::<u32>().prop_map(Frame::End),
            any::<u32>().prop_map(Frame::Reset),
        ]
    }

    proptest! {
        #[test]
        fn frames_round_trip(frame in any_frame()) {
            prop_assert_eq!(Frame::decode(frame.encode()), Some(frame));
        }

        #[test]
        fn a_message_becomes_the_frame_it_stands_for(id in any::<u32>(), data in prop::collection::vec(any::<u8>(), 1..300)) {
            let message = Message::from(&data[..]);
            prop_assert_eq!(message.len(), data.len());
            prop_assert_eq!(message.into_frame(id), Frame::Data(id, data.into()).encode());
        }

        #[test]
        fn garbage_never_panics_and_is_never_another_frame(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Some(frame) = Frame::decode(bytes.clone().into()) {
                prop_assert_eq!(frame.encode().to_vec(), bytes);
            }
        }
    }
}
