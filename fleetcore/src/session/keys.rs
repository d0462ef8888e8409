//! Keys as the bytes an xterm sends for them.

use bytes::{BufMut, Bytes, BytesMut};

use crate::{Error, Key, Result};

/// Encodes keys. `application` is the cursor-key mode the program asked for (DECCKM): full-screen programs know
/// arrows, Home and End only in the form that belongs to the mode they set.
///
/// # Errors
/// `InvalidInput` for a control character that no keyboard has and a function key outside F1 to F12.
pub(crate) fn encode(keys: &[Key], application: bool) -> Result<Bytes> {
    let mut out = BytesMut::new();
    for key in keys {
        one(key, application, &mut out)?;
    }
    Ok(out.freeze())
}

/// Whether the bytes of a key depend on the cursor-key mode.
pub(crate) fn depends_on_mode(key: &Key) -> bool {
    matches!(key, Key::Up | Key::Down | Key::Left | Key::Right | Key::Home | Key::End)
}

fn one(key: &Key, application: bool, out: &mut BytesMut) -> Result<()> {
    let cursor = |letter: u8| [0x1b, if application { b'O' } else { b'[' }, letter];
    match key {
        Key::Text(text) => out.put_slice(text.as_bytes()),
        Key::Ctrl(c) => out.put_u8(control(*c)?),
        Key::Enter => out.put_u8(b'\r'),
        Key::Tab => out.put_u8(b'\t'),
        Key::Escape => out.put_u8(0x1b),
        Key::Backspace => out.put_u8(0x7f),
        Key::Delete => out.put_slice(b"\x1b[3~"),
        Key::Up => out.put_slice(&cursor(b'A')),
        Key::Down => out.put_slice(&cursor(b'B')),
        Key::Right => out.put_slice(&cursor(b'C')),
        Key::Left => out.put_slice(&cursor(b'D')),
        Key::Home => out.put_slice(&cursor(b'H')),
        Key::End => out.put_slice(&cursor(b'F')),
        Key::PageUp => out.put_slice(b"\x1b[5~"),
        Key::PageDown => out.put_slice(b"\x1b[6~"),
        Key::Function(n) => out.put_slice(function(*n)?),
    }
    Ok(())
}

fn control(c: char) -> Result<u8> {
    match c.to_ascii_uppercase() {
        '?' => Ok(0x7f),
        up @ '@'..='_' => Ok(up as u8 & 0x1f),
        _ => {
            Err(Error::invalid("keys", "Control with a letter or one of @ [ \\ ] ^ _ ?")
                .with_context("ctrl", c))
        }
    }
}

/// Codes of xterm's `kf1` to `kf12`; 16 and 22 are left out there too.
fn function(n: u8) -> Result<&'static [u8]> {
    Ok(match n {
        1 => b"\x1bOP",
        2 => b"\x1bOQ",
        3 => b"\x1bOR",
        4 => b"\x1bOS",
        5 => b"\x1b[15~",
        6 => b"\x1b[17~",
        7 => b"\x1b[18~",
        8 => b"\x1b[19~",
        9 => b"\x1b[20~",
        10 => b"\x1b[21~",
        11 => b"\x1b[23~",
        12 => b"\x1b[24~",
        _ => return Err(Error::invalid("keys", "a function key from 1 to 12").with_context("function", n)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn keys_become_what_xterm_sends() {
        let keys =
            [Key::Text("é".into()), Key::Ctrl('c'), Key::Ctrl('?'), Key::Ctrl('@'), Key::Enter, Key::Up];
        assert_eq!(encode(&keys, false).unwrap().as_ref(), "é\x03\x7f\0\r\x1b[A".as_bytes());
        let keys = [Key::Up, Key::End, Key::PageUp, Key::Function(12), Key::Delete];
        assert_eq!(encode(&keys, true).unwrap().as_ref(), b"\x1bOA\x1bOF\x1b[5~\x1b[24~\x1b[3~");
    }

    #[test]
    fn keys_nobody_has_are_refused() {
        for key in [Key::Ctrl('1'), Key::Ctrl('ä'), Key::Function(0), Key::Function(13)] {
            let err = encode(std::slice::from_ref(&key), false).unwrap_err();
            assert_eq!(
                (err.kind(), err.context_value("field")),
                (ErrorKind::InvalidInput, Some("keys")),
                "{key:?}"
            );
        }
    }
}
