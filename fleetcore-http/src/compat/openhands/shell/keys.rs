//! Commands and keys as they go to the terminal.

use std::{borrow::Cow, fmt::Write as _};

/// The character of a special key: exactly `C-` and one more.
pub(super) fn special(command: &str) -> Option<char> {
    let mut chars = command.strip_prefix("C-")?.chars();
    chars.next().filter(|_| chars.next().is_none())
}

/// What a terminal sends for Control with a character, if keyboards have that.
pub(super) fn control(c: char) -> Option<u8> {
    match c.to_ascii_uppercase() {
        '?' => Some(0x7f),
        up @ '@'..='_' => u8::try_from(up).ok().map(|up| up & 0x1f),
        _ => None,
    }
}

/// What is typed into a program for `text`, with Return. The name of the key Return alone is an empty line.
///
/// A terminal in line mode takes at most 4095 bytes per line; the rest of a longer one is lost, as everywhere.
pub(super) fn input(text: &str) -> Vec<u8> {
    let mut typed = if text == "Enter" { Vec::new() } else { text.as_bytes().to_vec() };
    typed.push(b'\r');
    typed
}

/// A command in a form that can be typed: line ends of Windows become newlines, and what a terminal would take for
/// keys is quoted, so that the shell sees every character.
pub(super) fn verbatim(command: &str) -> Cow<'_, str> {
    let key = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !command.contains(key) {
        return Cow::Borrowed(command);
    }
    let plain = command.replace("\r\n", "\n").replace('\0', "");
    if !plain.contains(key) {
        return Cow::Owned(plain);
    }
    let mut quoted = String::with_capacity(plain.len() + 16);
    quoted.push_str("eval $'");
    for c in plain.chars() {
        match c {
            '\\' | '\'' => {
                quoted.push('\\');
                quoted.push(c);
            }
            '\n' => quoted.push_str("\\n"),
            c if c.is_control() => {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(quoted, "\\x{byte:02x}"); // into a string, which cannot fail
                }
            }
            c => quoted.push(c),
        }
    }
    quoted.push('\'');
    Cow::Owned(quoted)
}
