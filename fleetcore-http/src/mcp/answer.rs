//! What a model gets to read.

use std::collections::VecDeque;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use fleetcore::{CommandState, Error, ErrorKind, Result, Retry};
use rmcp::model::CallToolResult;
use serde::Serialize;
use serde_json::{Value, json};

/// A success.
pub(super) fn done(value: Value) -> CallToolResult {
    CallToolResult::structured(value)
}

/// A failure the model is to read: with the code, which never changes, and where it happened.
pub(super) fn failed(error: &Error) -> CallToolResult {
    let context: serde_json::Map<_, _> = error.context().map(|(k, v)| (k.to_owned(), v.into())).collect();
    CallToolResult::structured_error(json!({
        "code": error.kind().code(),
        "detail": error.message(),
        "operation": error.operation(),
        "context": context,
        "try_again": matches!(error.retry(), Retry::Temporary { .. }),
    }))
}

/// Anything as JSON.
pub(super) fn json_of(value: &(impl Serialize + ?Sized)) -> Result<Value> {
    serde_json::to_value(value)
        .map_err(|e| Error::new(ErrorKind::Unexpected, "an answer cannot be written as JSON").with_source(e))
}

/// The head and the tail of something that may be long.
#[derive(Debug)]
pub(super) struct Ends {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    head_max: usize,
    tail_max: usize,
    total: u64,
}

impl Ends {
    /// Keeps `limit` bytes at most.
    pub(super) fn new(limit: usize) -> Self {
        let head_max = limit / 2;
        Self { head: vec![], tail: VecDeque::new(), head_max, tail_max: limit - head_max, total: 0 }
    }

    pub(super) fn push(&mut self, data: &[u8]) {
        self.total += data.len() as u64;
        let (first, rest) = data.split_at(data.len().min(self.head_max - self.head.len()));
        self.head.extend_from_slice(first);
        // Of what is longer than the tail only the end will be kept.
        let rest = rest.get(rest.len().saturating_sub(self.tail_max)..).unwrap_or_default();
        let excess = (self.tail.len() + rest.len()).saturating_sub(self.tail_max);
        self.tail.drain(..excess);
        self.tail.extend(rest);
    }

    /// How many bytes are not kept.
    pub(super) fn left_out(&self) -> u64 {
        self.total - (self.head.len() + self.tail.len()) as u64
    }

    /// What is kept as text, with a remark where the middle was.
    pub(super) fn text(&self) -> String {
        let tail: Vec<u8> = self.tail.iter().copied().collect();
        match self.left_out() {
            0 => String::from_utf8_lossy(&[self.head.as_slice(), &tail].concat()).into_owned(),
            n => format!(
                "{}\n[{n} bytes left out]\n{}",
                String::from_utf8_lossy(&self.head),
                String::from_utf8_lossy(&tail)
            ),
        }
    }

    /// The last line that is not blank, at most `limit` characters of it.
    pub(super) fn last_line(&self, limit: usize) -> Option<String> {
        let bytes: Vec<u8> = match self.tail.is_empty() {
            true => self.head.iter().rev().take(4 * limit).rev().copied().collect(),
            false => self.tail.iter().rev().take(4 * limit).rev().copied().collect(),
        };
        let text = String::from_utf8_lossy(&bytes);
        let line = text.lines().rev().map(str::trim).find(|l| !l.is_empty())?;
        Some(line.chars().filter(|c| !c.is_control()).take(limit).collect())
    }
}

/// Bytes as a model can read them: text where they are that, else base64. A character that is cut in two at the end is
/// left for the next part; the number is how many bytes are in the answer.
pub(super) fn readable(bytes: &[u8], more: bool) -> (Value, &'static str, usize) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.into(), "utf8", bytes.len()),
        Err(e) if more && e.error_len().is_none() && e.valid_up_to() > 0 => {
            let good = bytes.get(..e.valid_up_to()).unwrap_or_default();
            (String::from_utf8_lossy(good).into(), "utf8", good.len())
        }
        Err(_) => (BASE64_STANDARD.encode(bytes).into(), "base64", bytes.len()),
    }
}

/// Name of a state.
pub(super) fn state(state: CommandState) -> Value {
    state.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_output_keeps_its_ends() {
        let mut ends = Ends::new(10);
        for part in ["ab", "cdefg", "hijklmnopqrs", "t", "uvwxyz"] {
            ends.push(part.as_bytes());
        }
        assert_eq!(ends.left_out(), 16);
        assert_eq!(ends.text(), "abcde\n[16 bytes left out]\nvwxyz");
        let mut short = Ends::new(10);
        short.push("0123456789".as_bytes());
        assert_eq!((short.text().as_str(), short.left_out()), ("0123456789", 0));
        let mut none = Ends::new(0);
        none.push(b"abc");
        assert_eq!(none.left_out(), 3);
    }

    #[test]
    fn the_last_line_is_the_news() {
        let mut ends = Ends::new(100);
        ends.push(b"one\ntwo\r\n\n");
        assert_eq!(ends.last_line(10).as_deref(), Some("two"));
        assert_eq!(ends.last_line(2).as_deref(), Some("tw"));
        assert_eq!(Ends::new(10).last_line(10), None);
    }

    #[test]
    fn characters_are_not_cut_in_two() {
        let text = "aä".as_bytes();
        assert_eq!(readable(&text[..2], true), ("a".into(), "utf8", 1));
        assert_eq!(readable(text, true).2, 3);
        assert_eq!(readable(&text[..2], false).1, "base64");
        assert_eq!(readable(b"\xff\x00", true), ("/wA=".into(), "base64", 2));
    }
}
