//! Frames between us and the runner on the machine: see `runner.py`.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use secrecy::ExposeSecret as _;

use crate::{CommandId, CommandSpec, Error, ErrorKind, Io, Program, Result};

/// Letter and length.
const HEAD_BYTES: usize = 5;
/// Longest frame the runner sends: a piece of output of 64 KiB; with room.
const FRAME_MAX_BYTES: usize = 1 << 20;
/// What may come before the mark: what the client says while it waits for the machine.
const PREFACE_MAX_BYTES: usize = 1 << 20;

/// One frame to the runner.
pub(super) fn frame(kind: u8, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(HEAD_BYTES + payload.len());
    out.put_u8(kind);
    out.put_u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
    out.put_slice(payload);
    out.freeze()
}

/// The header that says what to run.
///
/// # Errors
/// `InvalidInput` for what would not survive the way, `Unsupported` for actions.
pub(super) fn header(id: CommandId, spec: &CommandSpec) -> Result<Bytes> {
    let mut out = BytesMut::new();
    let mut put = |kind: u8, field: &'static str, text: &str| {
        if text.contains('\0') {
            return Err(Error::invalid(field, "without NUL characters").with_operation("spawn"));
        }
        out.put_u8(kind);
        out.put_slice(text.as_bytes());
        out.put_u8(0);
        Ok(())
    };
    match &spec.program {
        Program::Argv(argv) => {
            if argv.first().is_none_or(String::is_empty) {
                return Err(
                    Error::invalid("argv", "a program name and its arguments").with_operation("spawn")
                );
            }
            argv.iter().try_for_each(|arg| put(b'a', "argv", arg))?;
        }
        Program::Shell(script) => {
            put(b'a', "shell", "/bin/sh")?;
            put(b'a', "shell", "-c")?;
            put(b'a', "shell", script)?;
        }
        Program::Action { name, .. } => {
            return Err(Error::unsupported("spawn").with_context("action", name.escape_debug()));
        }
    }
    for (name, value) in &spec.env {
        if name.is_empty() || name.contains(['=', '\0']) {
            let rule = "set by names that are not empty and have neither = nor NUL in them";
            return Err(Error::invalid("env", rule)
                .with_operation("spawn")
                .with_context("name", name.escape_debug()));
        }
        put(b'e', "env", &format!("{name}={}", value.expose_secret()))?;
    }
    put(b'i', "id", &id.to_string())?;
    spec.cwd.iter().try_for_each(|cwd| put(b'c', "cwd", cwd))?;
    spec.user.iter().try_for_each(|user| put(b'u', "user", user))?;
    if spec.clear_env {
        put(b'x', "env", "1")?;
    }
    match spec.io {
        Io::Pipes { stdin, merge } => {
            if stdin {
                put(b's', "io", "1")?;
            }
            if merge {
                put(b'm', "io", "1")?;
            }
        }
        Io::Pty(size) => {
            let size = size.check().map_err(|e| e.with_operation("spawn"))?;
            put(b's', "io", "1")?;
            put(b'p', "size", &format!("{} {}", size.cols, size.rows))?;
        }
    }
    Ok(frame(b'H', &out))
}

/// Takes frames out of what the client prints.
#[derive(Debug)]
pub(super) struct Decoder {
    buffer: BytesMut,
    mark: Vec<u8>,
    begun: bool,
}

impl Decoder {
    /// Frames come after `mark` and a line break.
    pub(super) fn new(mark: &str) -> Self {
        Self { buffer: BytesMut::new(), mark: format!("{mark}\n").into_bytes(), begun: false }
    }

    /// Adds what came.
    pub(super) fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// `Unexpected` when what came are no frames.
    pub(super) fn next(&mut self) -> Result<Option<(u8, Bytes)>> {
        if !self.begun {
            let Some(at) = memchr::memmem::find(&self.buffer, &self.mark) else {
                // Spinner noise; what may be the beginning of the mark is kept.
                if self.buffer.len() > PREFACE_MAX_BYTES {
                    self.buffer.advance(self.buffer.len() - self.mark.len());
                }
                return Ok(None);
            };
            self.buffer.advance(at + self.mark.len());
            self.begun = true;
        }
        let Some((head, rest)) = self.buffer.split_first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let [kind, length @ ..] = *head;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > FRAME_MAX_BYTES {
            return Err(Error::new(ErrorKind::Unexpected, "the runner on the machine answered garbage"));
        }
        if rest.len() < length {
            return Ok(None);
        }
        self.buffer.advance(HEAD_BYTES);
        Ok(Some((kind, self.buffer.split_to(length).freeze())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_cut_and_noise_before_the_mark_is_dropped() {
        let mut all = b"\x1b[2K\x1b[0A\x1b[0EStarting dev1  /\x08M1".to_vec();
        all.extend_from_slice(b"M1\n");
        all.extend_from_slice(&frame(b'O', b"hello"));
        all.extend_from_slice(&frame(b'Z', b""));
        for size in 1..all.len() {
            let mut decoder = Decoder::new("M1");
            let mut seen = Vec::new();
            for piece in all.chunks(size) {
                decoder.push(piece);
                while let Some(frame) = decoder.next().unwrap() {
                    seen.push(frame);
                }
            }
            assert_eq!(seen, [(b'O', Bytes::from("hello")), (b'Z', Bytes::new())]);
        }
    }

    #[test]
    fn nonsense_is_an_error_and_not_a_gigabyte() {
        let mut decoder = Decoder::new("M1");
        decoder.push(b"M1\nO\xff\xff\xff\xff");
        assert_eq!(decoder.next().unwrap_err().kind(), ErrorKind::Unexpected);
    }
}
