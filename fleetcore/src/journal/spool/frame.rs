//! Frames: how output lies in a segment file.

use std::{fs::File, io, os::unix::fs::FileExt};

use bytes::Bytes;
use jiff::Timestamp;

use crate::Channel;

/// Bytes before the data: magic 4, length 4, offset 8, time 8, channel 1, reserved 3, check 4; little endian.
pub(super) const HEADER: usize = 32;
/// Most data in one frame, which bounds what a reader has to hold.
pub(super) const MAX_DATA: usize = 1 << 20;
/// The `1` is the version of this layout.
const MAGIC: u32 = u32::from_le_bytes(*b"FCo1");
const CHECKED: usize = HEADER - 4;

/// What stands before the data of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) len: u32,
    pub(super) offset: u64,
    pub(super) at: Timestamp,
    pub(super) channel: Channel,
}

impl Header {
    pub(super) fn end(&self) -> u64 {
        self.offset + u64::from(self.len)
    }

    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        let channel = match self.channel {
            Channel::Stdout => 0,
            Channel::Stderr => 1,
            Channel::Pty => 2,
            Channel::Log => 3,
        };
        let (head, check) = out.split_at_mut(CHECKED);
        let fields = MAGIC
            .to_le_bytes()
            .into_iter()
            .chain(self.len.to_le_bytes())
            .chain(self.offset.to_le_bytes())
            .chain(nanos(self.at).to_le_bytes())
            .chain([channel]);
        for (slot, byte) in head.iter_mut().zip(fields) {
            *slot = byte;
        }
        check.copy_from_slice(&fnv(head).to_le_bytes());
        out
    }

    /// `None` for anything [`encode`](Self::encode) did not write.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, check) = bytes.get(..HEADER)?.split_at_checked(CHECKED)?;
        if u32::from_le_bytes(check.try_into().ok()?) != fnv(head) {
            return None;
        }
        let u32_at = |i: usize| Some(u32::from_le_bytes(head.get(i..i + 4)?.try_into().ok()?));
        let u64_at = |i: usize| Some(u64::from_le_bytes(head.get(i..i + 8)?.try_into().ok()?));
        let channel = match head.get(24)? {
            0 => Channel::Stdout,
            1 => Channel::Stderr,
            2 => Channel::Pty,
            3 => Channel::Log,
            _ => return None,
        };
        let (len, offset) = (u32_at(4)?, u64_at(8)?);
        if u32_at(0)? != MAGIC || len as usize > MAX_DATA || len == 0 {
            return None;
        }
        offset.checked_add(u64::from(len))?;
        let at = Timestamp::from_nanosecond(i128::from(u64_at(16)?.cast_signed())).ok()?;
        Some(Self { len, offset, at, channel })
    }
}

/// Nanoseconds since 1970, at the edge of the range (1677 to 2262) for anything beyond it.
fn nanos(at: Timestamp) -> i64 {
    i64::try_from(at.as_nanosecond()).unwrap_or(if at < Timestamp::UNIX_EPOCH { i64::MIN } else { i64::MAX })
}

/// 32-bit FNV-1a (draft-eastlake-fnv): tells a header from garbage.
fn fnv(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// How far a segment is sound: bytes of whole frames, and the offset after the last of them.
pub(super) fn scan(file: &File) -> io::Result<(u64, Option<u64>)> {
    let len = file.metadata()?.len();
    let mut block = vec![0; len.min(256 << 10) as usize];
    let (mut block_at, mut block_len) = (0, 0);
    let (mut sound, mut end) = (0, None);
    while sound + HEADER as u64 <= len {
        if sound + HEADER as u64 > block_at + block_len as u64 {
            block_at = sound;
            block_len = read_at(file, &mut block, sound)?;
        }
        let at = (sound - block_at) as usize;
        let Some(header) = block.get(at..block_len).and_then(Header::decode) else { break };
        let next = sound + HEADER as u64 + u64::from(header.len);
        if next > len || end.is_some_and(|end| header.offset < end) {
            break;
        }
        (sound, end) = (next, Some(header.end()));
    }
    Ok((sound, end))
}

/// Fills `buf` from `at` on, less only at the end of the file.
pub(super) fn read_at(file: &File, buf: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// Up to `len` bytes from `at` on, less only at the end of the file.
pub(super) fn read_block(file: &File, len: usize, at: u64) -> io::Result<Bytes> {
    let mut block = Vec::with_capacity(len);
    while block.len() < len {
        let from = at + block.len() as u64;
        match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut block), from) {
            Ok(0) => break,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    block.truncate(len);
    Ok(block.into())
}

/// Whatever decodes is what would have been written.
#[cfg(fuzzing)]
pub(crate) fn fuzz(data: &[u8]) {
    if let Some(header) = Header::decode(data) {
        assert_eq!(data.get(..HEADER), Some(header.encode().as_slice()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_and_every_flipped_bit_is_noticed() {
        let header = Header { len: 70_000, offset: 1 << 40, at: Timestamp::now(), channel: Channel::Pty };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Some(header));
        for bit in 0..HEADER * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&bad), None, "bit {bit}");
        }
        assert_eq!(Header::decode(&[0; HEADER]), None);
        assert_eq!(Header::decode(&bytes[..HEADER - 1]), None);
    }
}
