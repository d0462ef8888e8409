//! Keys by the names a page knows them by, as a keyboard with the US layout has them.

use serde_json::{Value, json};

/// A key.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Key {
    key: String,
    code: String,
    number: u32,
    text: Option<String>,
    /// Its bit, for a modifier.
    pub(super) modifier: u8,
}

/// Name, code if it is another one, number, text.
static NAMED: &[(&str, &str, u32, &str)] = &[
    ("Backspace", "", 8, ""),
    ("Tab", "", 9, ""),
    ("Enter", "", 13, "\r"),
    ("Pause", "", 19, ""),
    ("CapsLock", "", 20, ""),
    ("Escape", "", 27, ""),
    ("PageUp", "", 33, ""),
    ("PageDown", "", 34, ""),
    ("End", "", 35, ""),
    ("Home", "", 36, ""),
    ("ArrowLeft", "", 37, ""),
    ("ArrowUp", "", 38, ""),
    ("ArrowRight", "", 39, ""),
    ("ArrowDown", "", 40, ""),
    ("PrintScreen", "", 44, ""),
    ("Insert", "", 45, ""),
    ("Delete", "", 46, ""),
    ("ContextMenu", "", 93, ""),
    ("NumLock", "", 144, ""),
    ("ScrollLock", "", 145, ""),
];

/// Name, code, number, bit.
static MODIFIERS: &[(&str, &str, u32, u8)] = &[
    ("Shift", "ShiftLeft", 16, 8),
    ("ShiftLeft", "ShiftLeft", 16, 8),
    ("ShiftRight", "ShiftRight", 16, 8),
    ("Control", "ControlLeft", 17, 2),
    ("ControlLeft", "ControlLeft", 17, 2),
    ("ControlRight", "ControlRight", 17, 2),
    ("ControlOrMeta", "ControlLeft", 17, 2),
    ("Alt", "AltLeft", 18, 1),
    ("AltLeft", "AltLeft", 18, 1),
    ("AltRight", "AltRight", 18, 1),
    ("Meta", "MetaLeft", 91, 4),
    ("MetaLeft", "MetaLeft", 91, 4),
    ("MetaRight", "MetaRight", 92, 4),
];

/// Code, number, character, character with Shift.
static SIGNS: &[(&str, u32, char, char)] = &[
    ("Space", 32, ' ', ' '),
    ("Digit0", 48, '0', ')'),
    ("Digit1", 49, '1', '!'),
    ("Digit2", 50, '2', '@'),
    ("Digit3", 51, '3', '#'),
    ("Digit4", 52, '4', '$'),
    ("Digit5", 53, '5', '%'),
    ("Digit6", 54, '6', '^'),
    ("Digit7", 55, '7', '&'),
    ("Digit8", 56, '8', '*'),
    ("Digit9", 57, '9', '('),
    ("Semicolon", 186, ';', ':'),
    ("Equal", 187, '=', '+'),
    ("Comma", 188, ',', '<'),
    ("Minus", 189, '-', '_'),
    ("Period", 190, '.', '>'),
    ("Slash", 191, '/', '?'),
    ("Backquote", 192, '`', '~'),
    ("BracketLeft", 219, '[', '{'),
    ("Backslash", 220, '\\', '|'),
    ("BracketRight", 221, ']', '}'),
    ("Quote", 222, '\'', '"'),
];

impl Key {
    /// A key by its name, code or character.
    pub(super) fn find(name: &str, shift: bool) -> Option<Self> {
        let plain = |key: &str, code: &str, number, text: &str| {
            let text = (!text.is_empty()).then(|| text.to_owned());
            Some(Self { key: key.to_owned(), code: code.to_owned(), number, text, modifier: 0 })
        };
        if let Some((key, _, number, text)) = NAMED.iter().find(|(key, ..)| *key == name) {
            return plain(key, key, *number, text);
        }
        if let Some((known, code, number, modifier)) = MODIFIERS.iter().find(|(key, ..)| *key == name) {
            let key = if *known == "ControlOrMeta" {
                "Control"
            } else {
                known.trim_end_matches("Left").trim_end_matches("Right")
            };
            return plain(key, code, *number, "").map(|key| Self { modifier: *modifier, ..key });
        }
        let function =
            name.strip_prefix('F').and_then(|n| n.parse::<u32>().ok()).filter(|n| (1..=24).contains(n));
        if let Some(n) = function {
            return plain(name, name, 111 + n, "");
        }
        let mut chars = name.chars();
        let one = chars.next().filter(|_| chars.next().is_none());
        let letter = name.strip_prefix("Key").and_then(|l| l.chars().next()).filter(char::is_ascii_uppercase);
        if let Some(letter) = one.filter(char::is_ascii_alphabetic) {
            let code = format!("Key{}", letter.to_ascii_uppercase());
            let typed = if shift { letter.to_ascii_uppercase() } else { letter };
            return plain(&typed.to_string(), &code, letter.to_ascii_uppercase().into(), &typed.to_string());
        }
        if let Some(letter) = letter.filter(|_| name.len() == 4) {
            let typed = if shift { letter } else { letter.to_ascii_lowercase() };
            return plain(&typed.to_string(), name, letter.into(), &typed.to_string());
        }
        for (code, number, low, high) in SIGNS {
            let typed = if name == *code {
                if shift { *high } else { *low }
            } else if one == Some(*low) && !shift || one == Some(*high) {
                one.unwrap_or(*low)
            } else if one == Some(*low) {
                *high
            } else {
                continue;
            };
            return plain(&typed.to_string(), code, *number, &typed.to_string());
        }
        None
    }

    /// Whether it types something under these modifiers.
    fn types(&self, modifiers: u8) -> bool {
        self.text.is_some() && modifiers & !8 == 0
    }

    /// What tells the page that it goes down.
    pub(super) fn down(&self, modifiers: u8) -> Value {
        let types = self.types(modifiers);
        let mut event = self.event(if types { "keyDown" } else { "rawKeyDown" }, modifiers);
        if let (true, Some(map)) = (types, event.as_object_mut()) {
            map.insert("text".to_owned(), json!(self.text));
            map.insert("unmodifiedText".to_owned(), json!(self.text));
        }
        event
    }

    /// What tells the page that it goes up.
    pub(super) fn up(&self, modifiers: u8) -> Value {
        self.event("keyUp", modifiers)
    }

    fn event(&self, kind: &str, modifiers: u8) -> Value {
        json!({
            "type": kind,
            "modifiers": modifiers,
            "key": self.key,
            "code": self.code,
            "windowsVirtualKeyCode": self.number,
        })
    }
}

/// The parts of a combination; the error is the part nobody knows.
pub(super) fn combination(text: &str) -> Result<Vec<Key>, String> {
    // `+` is also a key: `Control++`.
    let names: Vec<&str> = match text.strip_suffix("++") {
        Some(start) => start.split('+').chain(["+"]).collect(),
        None if text == "+" => vec!["+"],
        None => text.split('+').collect(),
    };
    let shift = names.iter().any(|n| n.starts_with("Shift"));
    names.into_iter().map(|name| Key::find(name, shift).ok_or_else(|| name.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_combinations() {
        let keys = combination("ControlOrMeta+a").unwrap();
        assert_eq!((keys[0].key.as_str(), keys[0].modifier, keys[1].code.as_str()), ("Control", 2, "KeyA"));
        assert_eq!(keys[1].down(2)["type"], "rawKeyDown");
        assert_eq!(keys[1].down(0)["text"], "a");
        let of = |text: &str| combination(text).unwrap().pop().unwrap().text.unwrap_or_default();
        assert_eq!(
            ["Shift+a", "KeyB", "#", "Shift+1", "Enter", "+", "Control++", "F5", "Space"].map(of),
            ["A", "b", "#", "!", "\r", "+", "+", "", " "]
        );
        assert_eq!(combination("Hyper+x").unwrap_err(), "Hyper");
    }
}
