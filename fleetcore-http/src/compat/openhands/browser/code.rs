//! What an agent writes: Python's calls with literals as arguments, anywhere in the text.

use super::super::python::{Dict, Py};

/// A call.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Call {
    pub(super) name: String,
    pub(super) args: Vec<Py>,
    pub(super) named: Vec<(String, Py)>,
}

/// Deepest nesting of lists.
const DEPTH: usize = 32;

/// All calls of a text; what is no call is passed over, and so are comments.
pub(super) fn calls(text: &str) -> Vec<Call> {
    let mut reader = Reader { text, at: 0 };
    let mut calls = Vec::new();
    loop {
        reader.space();
        if reader.rest().is_empty() {
            return calls;
        }
        let start = reader.at;
        match reader.call() {
            Some(call) => calls.push(call),
            None => {
                reader.at = start;
                reader.next();
            }
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn eat(&mut self, token: &str) -> bool {
        self.space();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    /// White space and comments.
    fn space(&mut self) {
        loop {
            let rest = self.rest();
            self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r']).len();
            if !self.rest().starts_with('#') {
                return;
            }
            let rest = self.rest();
            self.at += rest.find('\n').unwrap_or(rest.len());
        }
    }

    fn name(&mut self) -> Option<String> {
        self.space();
        let rest = self.rest();
        if !rest.starts_with(|c: char| c.is_alphabetic() || c == '_') {
            return None;
        }
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        self.at += end;
        rest.get(..end).map(str::to_owned)
    }

    fn call(&mut self) -> Option<Call> {
        let mut call = Call { name: self.name()?, args: Vec::new(), named: Vec::new() };
        if !self.eat("(") {
            return None;
        }
        while !self.eat(")") {
            let before = self.at;
            if let Some(name) = self.name()
                && self.eat("=")
            {
                call.named.push((name, self.value(0)?));
            } else if call.named.is_empty() {
                self.at = before;
                call.args.push(self.value(0)?);
            } else {
                return None;
            }
            if !self.eat(",") {
                if !self.eat(")") {
                    return None;
                }
                break;
            }
        }
        Some(call)
    }

    fn value(&mut self, depth: usize) -> Option<Py> {
        if depth > DEPTH {
            return None;
        }
        self.space();
        match self.peek()? {
            '"' | '\'' => self.string().map(Py::Str),
            '[' => self.list("[", "]", depth).map(Py::List),
            '(' => self.list("(", ")", depth).map(Py::List),
            '{' => self.dict(depth),
            c if c.is_ascii_digit() || c == '-' || c == '+' => self.number(),
            _ => match self.name()?.as_str() {
                "True" => Some(Py::Bool(true)),
                "False" => Some(Py::Bool(false)),
                "None" => Some(Py::None),
                _ => None,
            },
        }
    }

    fn list(&mut self, open: &str, close: &str, depth: usize) -> Option<Vec<Py>> {
        self.eat(open);
        let mut items = Vec::new();
        while !self.eat(close) {
            items.push(self.value(depth + 1)?);
            if !self.eat(",") {
                return self.eat(close).then_some(items);
            }
        }
        Some(items)
    }

    fn dict(&mut self, depth: usize) -> Option<Py> {
        self.eat("{");
        let mut dict = Dict::default();
        while !self.eat("}") {
            self.space();
            let key = self.string()?;
            if !self.eat(":") {
                return None;
            }
            dict.insert(&key, self.value(depth + 1)?);
            if !self.eat(",") {
                return self.eat("}").then_some(Py::Dict(dict));
            }
        }
        Some(Py::Dict(dict))
    }

    fn digits(&mut self) -> bool {
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        self.at += end;
        end > 0
    }

    fn number(&mut self) -> Option<Py> {
        let start = self.at;
        if matches!(self.peek(), Some('-' | '+')) {
            self.next();
        }
        if !self.digits() {
            return None;
        }
        let mut whole = true;
        let before = self.at;
        if self.peek() == Some('.') {
            self.next();
            if self.digits() {
                whole = false;
            } else {
                self.at = before;
            }
        }
        let before = self.at;
        if matches!(self.peek(), Some('e' | 'E')) {
            self.next();
            if matches!(self.peek(), Some('-' | '+')) {
                self.next();
            }
            if self.digits() {
                whole = false;
            } else {
                self.at = before;
            }
        }
        let text = self.text.get(start..self.at)?;
        if whole {
            text.strip_prefix('+').unwrap_or(text).parse().ok().map(Py::Int)
        } else {
            text.parse().ok().map(Py::Float)
        }
    }

    fn string(&mut self) -> Option<String> {
        let quote = self.peek().filter(|c| matches!(c, '"' | '\''))?;
        let three = quote.to_string().repeat(3);
        let long = self.rest().starts_with(&three);
        self.at += if long { 3 } else { 1 };
        let mut text = String::new();
        loop {
            if long && self.rest().starts_with(&three) {
                self.at += 3;
                return Some(text);
            }
            match self.next()? {
                c if c == quote && !long => return Some(text),
                '\n' if !long => return None,
                '\\' => self.escape(&mut text)?,
                c => text.push(c),
            }
        }
    }

    fn escape(&mut self, text: &mut String) -> Option<()> {
        let c = self.next()?;
        let hex = match c {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => 0,
        };
        if hex > 0 {
            let digits = self.rest().get(..hex)?;
            self.at += hex;
            // A surrogate is nothing that can be typed.
            text.push(char::from_u32(u32::from_str_radix(digits, 16).ok()?).unwrap_or('\u{fffd}'));
            return Some(());
        }
        match c {
            '\n' => {}
            'n' => text.push('\n'),
            't' => text.push('\t'),
            'r' => text.push('\r'),
            'a' => text.push('\u{7}'),
            'b' => text.push('\u{8}'),
            'f' => text.push('\u{c}'),
            'v' => text.push('\u{b}'),
            '\\' | '\'' | '"' => text.push(c),
            '0'..='7' => {
                let mut value = c.to_digit(8)?;
                for _ in 0..2 {
                    let Some(digit) = self.peek().and_then(|c| c.to_digit(8)) else { break };
                    value = value * 8 + digit;
                    self.next();
                }
                text.push(char::from_u32(value)?);
            }
            other => {
                text.push('\\');
                text.push(other);
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let one = |call: Call| {
            let named = call.named.iter().map(|(n, v)| format!("{n}={v}"));
            let args: Vec<_> = call.args.iter().map(ToString::to_string).chain(named).collect();
            format!("{}({})", call.name, args.join(", "))
        };
        calls(text).into_iter().map(one).collect()
    }

    #[test]
    fn calls_are_found_anywhere() {
        for (text, found) in [
            ("goto('a')\nscroll(0, -100.5)", vec!["goto('a')", "scroll(0, -100.5)"]),
            (
                "I will click(\"a1\", button='right', modifiers=[\"Shift\",],) now",
                vec!["click('a1', button='right', modifiers=['Shift'])"],
            ),
            ("# click('1')\n\tnoop( # why\n) noop()", vec!["noop()", "noop()"]),
            ("page.click('x')", vec!["click('x')"]),
            (
                r#"fill('a', "x\n\"y\" \x41\u00e9\q # no comment")"#,
                vec![r#"fill('a', 'x\n"y" Aé\\q # no comment')"#],
            ),
            ("fill('a', '''b\n'c''')", vec![r#"fill('a', "b\n'c")"#]),
            ("f({'a': 1, \"b\": (True, None)})", vec!["f({'a': 1, 'b': [True, None]})"]),
            ("click(1, bid='2', 3)", vec![]),
            ("click('unclosed)", vec![]),
            ("click(x)", vec![]),
            ("", vec![]),
            ("nothing to do", vec![]),
        ] {
            assert_eq!(shown(text), found, "{text}");
        }
        assert!(calls(&"f(".repeat(10_000)).is_empty());
        assert!(calls(&format!("f({}", "[".repeat(10_000))).is_empty());
    }
}
