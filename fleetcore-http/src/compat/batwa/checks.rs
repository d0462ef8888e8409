//! What callers send: bodies as FastAPI checks them, then names and sizes by the rules of this dialect.
//!
//! A body of the wrong shape gives a list of [`Misfit`]s, as in the original. A value that could do harm gives one
//! sentence, because the original front end prints `detail` as text.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, header};
use secrecy::SecretString;
use serde_json::{Map, Value, json};

use super::wire::{self, Action, Create, Execute, Heartbeat, Login, Misfit, Register};

/// Longest name of a machine: a label of the domain name system, which Multipass makes of it.
const VM_NAME_MAX: usize = 63;
/// Longest id or host name of an agent.
const WORD_MAX: usize = 64;
/// Longest image name or size.
const TEXT_MAX: usize = 256;
/// Most tags of an agent.
const TAGS_MAX: usize = 64;
/// Most arguments of one `/api/execute`.
const ARGS_MAX: usize = 1024;
/// Stands for a secret where the original repeats it.
const HIDDEN: &str = "**********";

/// Why a body is refused.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Refused {
    /// Its shape.
    Shape(Vec<Misfit>),
    /// One value.
    Value(String),
}

type Checked<T> = Result<T, Refused>;

fn misfit(kind: &'static str, loc: Vec<Value>, msg: &str, input: Option<Value>) -> Misfit {
    Misfit { kind, loc, msg: msg.to_owned(), input, ctx: None }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()) else { return false };
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// The object in a body. `secrets` are never repeated in errors.
fn object(headers: &HeaderMap, body: &[u8], secrets: &'static [&'static str]) -> Checked<Fields> {
    let at = || vec![json!("body")];
    let no_object = |input: Value| {
        let input = secrets.is_empty().then_some(input);
        let msg = "Input should be a valid dictionary or object to extract fields from";
        Refused::Shape(vec![misfit("model_attributes_type", at(), msg, input)])
    };
    if body.is_empty() {
        return Err(Refused::Shape(vec![misfit("missing", at(), "Field required", Some(Value::Null))]));
    }
    if !is_json(headers) {
        return Err(no_object(Value::String(String::from_utf8_lossy(body).into_owned())));
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(Fields { object, secrets, misfits: Vec::new() }),
        Ok(other) => Err(no_object(other)),
        Err(e) => {
            let loc = vec![json!("body"), json!(offset(body, e.line(), e.column()))];
            let mut misfit = misfit("json_invalid", loc, "JSON decode error", Some(json!({})));
            misfit.ctx = Some(json!({ "error": parser_text(&e) }));
            Err(Refused::Shape(vec![misfit]))
        }
    }
}

/// Byte of a line and column, both counted from 1.
fn offset(body: &[u8], line: usize, column: usize) -> usize {
    let before: usize = body.split(|b| *b == b'\n').take(line.saturating_sub(1)).map(|l| l.len() + 1).sum();
    before + column.saturating_sub(1)
}

/// The sentence of Python's parser for the same mistake.
fn parser_text(e: &serde_json::Error) -> &'static str {
    let text = e.to_string();
    let known = [
        ("key must be a string", "Expecting property name enclosed in double quotes"),
        ("trailing comma", "Expecting property name enclosed in double quotes"),
        ("trailing characters", "Extra data"),
        ("expected `:`", "Expecting ':' delimiter"),
        ("expected `,`", "Expecting ',' delimiter"),
        ("control character", "Invalid control character at"),
        ("invalid escape", "Invalid \\escape"),
        ("EOF while parsing a string", "Unterminated string starting at"),
        ("EOF while parsing an object", "Expecting ',' delimiter"),
        ("EOF while parsing a list", "Expecting ',' delimiter"),
    ];
    known.iter().find(|(ours, _)| text.contains(ours)).map_or("Expecting value", |(_, theirs)| theirs)
}

/// Reads fields in order and collects what is wrong with them.
#[derive(Debug)]
struct Fields {
    object: Map<String, Value>,
    secrets: &'static [&'static str],
    misfits: Vec<Misfit>,
}

impl Fields {
    fn wrong(&mut self, kind: &'static str, name: &str, msg: &str, input: &Value) {
        let input = if self.secrets.contains(&name) { json!(HIDDEN) } else { input.clone() };
        self.misfits.push(misfit(kind, vec![json!("body"), json!(name)], msg, Some(input)));
    }

    fn missing(&mut self, name: &str) {
        let mut seen = self.object.clone();
        for secret in self.secrets {
            if let Some(value) = seen.get_mut(*secret) {
                *value = json!(HIDDEN);
            }
        }
        let loc = vec![json!("body"), json!(name)];
        self.misfits.push(misfit("missing", loc, "Field required", Some(Value::Object(seen))));
    }

    fn string(&mut self, name: &'static str) -> String {
        match self.object.remove(name) {
            Some(Value::String(text)) => {
                self.object.insert(name.to_owned(), Value::String(text.clone()));
                return text;
            }
            Some(other) => {
                self.wrong("string_type", name, "Input should be a valid string", &other);
                self.object.insert(name.to_owned(), other);
            }
            None => self.missing(name),
        }
        String::new()
    }

    fn string_or(&mut self, name: &'static str, default: &str) -> String {
        if self.object.contains_key(name) { self.string(name) } else { default.to_owned() }
    }

    /// Absent and null are the same.
    fn optional_string(&mut self, name: &'static str) -> Option<String> {
        match self.object.get(name) {
            None | Some(Value::Null) => None,
            Some(_) => Some(self.string(name)),
        }
    }

    fn integer(&mut self, name: &'static str) -> i64 {
        let Some(value) = self.object.get(name).cloned() else {
            self.missing(name);
            return 0;
        };
        match lossless_integer(&value) {
            Ok(n) => n,
            Err((kind, msg)) => {
                self.wrong(kind, name, msg, &value);
                0
            }
        }
    }

    fn integer_or(&mut self, name: &'static str, default: i64) -> i64 {
        if self.object.contains_key(name) { self.integer(name) } else { default }
    }

    fn tags(&mut self, name: &'static str) -> BTreeMap<String, String> {
        let value = match self.object.get(name).cloned() {
            None | Some(Value::Null) => return BTreeMap::new(),
            Some(value) => value,
        };
        let Value::Object(map) = value else {
            self.wrong("dict_type", name, "Input should be a valid dictionary", &value);
            return BTreeMap::new();
        };
        let mut tags = BTreeMap::new();
        for (key, value) in map {
            match value {
                Value::String(text) => {
                    tags.insert(key, text);
                }
                other => {
                    let loc = vec![json!("body"), json!(name), json!(key)];
                    let msg = "Input should be a valid string";
                    self.misfits.push(misfit("string_type", loc, msg, Some(other)));
                }
            }
        }
        tags
    }

    fn strings(&mut self, name: &'static str) -> Vec<String> {
        let Some(value) = self.object.get(name).cloned() else {
            self.missing(name);
            return Vec::new();
        };
        let Value::Array(items) = value else {
            self.wrong("list_type", name, "Input should be a valid list", &value);
            return Vec::new();
        };
        let mut texts = Vec::with_capacity(items.len());
        for (at, item) in items.into_iter().enumerate() {
            match item {
                Value::String(text) => texts.push(text),
                other => {
                    let loc = vec![json!("body"), json!(name), json!(at)];
                    let msg = "Input should be a valid string";
                    self.misfits.push(misfit("string_type", loc, msg, Some(other)));
                }
            }
        }
        texts
    }

    /// Any date and time the original takes; the value itself is not used, because clocks of agents are not.
    fn time(&mut self, name: &'static str) {
        let Some(value) = self.object.get(name).cloned() else {
            self.missing(name);
            return;
        };
        let good = match &value {
            Value::Number(_) => true,
            Value::String(text) => is_time(text),
            other => {
                self.wrong("datetime_type", name, "Input should be a valid datetime", other);
                return;
            }
        };
        if !good {
            let why = "input is too short";
            let msg = format!("Input should be a valid datetime or date, {why}");
            self.wrong("datetime_from_date_parsing", name, &msg, &value);
            if let Some(last) = self.misfits.last_mut() {
                last.ctx = Some(json!({ "error": why }));
            }
        }
    }

    fn done<T>(self, value: T) -> Checked<T> {
        if self.misfits.is_empty() { Ok(value) } else { Err(Refused::Shape(self.misfits)) }
    }
}

/// An integer, a text or fraction that is one, or a truth value; pydantic's lax mode.
fn lossless_integer(value: &Value) -> Result<i64, (&'static str, &'static str)> {
    const TEXT: (&str, &str) =
        ("int_parsing", "Input should be a valid integer, unable to parse string as an integer");
    const FRACTION: (&str, &str) =
        ("int_from_float", "Input should be a valid integer, got a number with a fractional part");
    const SIZE: (&str, &str) =
        ("int_parsing_size", "Unable to parse input string as an integer, exceeded maximum size");
    match value {
        Value::Number(n) => match (n.as_i64(), n.as_f64()) {
            (Some(n), _) => Ok(n),
            #[expect(clippy::cast_possible_truncation, reason = "a whole number within 2^53")]
            (None, Some(f)) if f.fract() == 0.0 && f.abs() < 9_007_199_254_740_992.0 => Ok(f as i64),
            (None, Some(f)) if f.fract() == 0.0 => Err(SIZE),
            _ => Err(FRACTION),
        },
        Value::String(text) => {
            let text = text.trim();
            let whole = text.split_once('.').map_or(text, |(whole, zeros)| {
                if !zeros.is_empty() && zeros.bytes().all(|b| b == b'0') { whole } else { "" }
            });
            whole.replace('_', "").parse().map_err(|_| TEXT)
        }
        Value::Bool(b) => Ok(i64::from(*b)),
        _ => Err(("int_type", "Input should be a valid integer")),
    }
}

/// Naive, zoned, a date alone, or seconds since 1970.
fn is_time(text: &str) -> bool {
    let text = text.trim();
    text.parse::<jiff::Timestamp>().is_ok()
        || text.parse::<jiff::civil::DateTime>().is_ok()
        || text.parse::<jiff::civil::Date>().is_ok()
        || text.parse::<f64>().is_ok_and(f64::is_finite)
}

/// `POST /api/auth/login`. Nothing of the body is repeated in errors.
pub(super) fn login(headers: &HeaderMap, body: &[u8]) -> Checked<Login> {
    let secret = |refused| match refused {
        Refused::Shape(mut all) => {
            for one in &mut all {
                one.input = None;
            }
            Refused::Shape(all)
        }
        other => other,
    };
    let mut fields = object(headers, body, &["username", "password"]).map_err(secret)?;
    let username = fields.string("username");
    let password = SecretString::from(fields.string("password"));
    fields.done(Login { username, password }).map_err(secret)
}

/// `POST /api/agent/register`
pub(super) fn register(headers: &HeaderMap, body: &[u8]) -> Checked<Register> {
    let mut fields = object(headers, body, &["api_key"])?;
    let agent_id = fields.string("agent_id");
    let hostname = fields.string("hostname");
    let api_url = fields.string("api_url");
    let api_key = fields.optional_string("api_key").filter(|k| !k.is_empty()).map(SecretString::from);
    let tags = fields.tags("tags");
    let wanted = fields.done(Register { agent_id, hostname, api_url, api_key, tags })?;
    word("agent_id", &wanted.agent_id)?;
    word("hostname", &wanted.hostname)?;
    if wanted.tags.len() > TAGS_MAX {
        return Err(Refused::Value(format!("Invalid tags: at most {TAGS_MAX}")));
    }
    for (key, value) in &wanted.tags {
        tag(key)?;
        tag(value)?;
    }
    let api_url = base_url(&wanted.api_url)?;
    Ok(Register { api_url, ..wanted })
}

/// `POST /api/agent/heartbeat`
pub(super) fn heartbeat(headers: &HeaderMap, body: &[u8]) -> Checked<Heartbeat> {
    let mut fields = object(headers, body, &[])?;
    let agent_id = fields.string("agent_id");
    fields.time("timestamp");
    let status = fields.string("status");
    let vm_count = fields.integer("vm_count");
    fields.done(Heartbeat { agent_id, status, vm_count })
}

/// `POST /api/vm/create`
pub(super) fn create(headers: &HeaderMap, body: &[u8]) -> Checked<Create> {
    let mut fields = object(headers, body, &[])?;
    let name = fields.string("name");
    let cpus = fields.integer_or("cpus", wire::CPUS);
    let memory = fields.string_or("memory", wire::MEMORY);
    let disk = fields.string_or("disk", wire::DISK);
    let image = fields.string_or("image", wire::IMAGE);
    let agent_id = fields.optional_string("agent_id").filter(|id| !id.is_empty());
    let wanted = fields.done(Create { name, cpus, memory, disk, image, agent_id })?;
    vm_name(&wanted.name)?;
    if !(1..=1024).contains(&wanted.cpus) {
        return Err(Refused::Value(format!("Invalid cpus {}: a positive integer", wanted.cpus)));
    }
    size("memory", &wanted.memory)?;
    size("disk", &wanted.disk)?;
    image_name(&wanted.image)?;
    Ok(wanted)
}

/// `POST /api/vm/start`, `/stop`, `/delete`
pub(super) fn action(headers: &HeaderMap, body: &[u8]) -> Checked<Action> {
    let mut fields = object(headers, body, &[])?;
    let name = fields.string("name");
    let agent_id = fields.optional_string("agent_id").filter(|id| !id.is_empty());
    let wanted = fields.done(Action { name, agent_id })?;
    vm_name(&wanted.name)?;
    Ok(wanted)
}

/// `POST /api/execute`
pub(super) fn execute(headers: &HeaderMap, body: &[u8]) -> Checked<Execute> {
    let mut fields = object(headers, body, &[])?;
    fields.string("command");
    let args = fields.strings("args");
    let timeout_s = fields.object.contains_key("timeout").then(|| fields.integer("timeout"));
    let wanted = fields.done(Execute { args, timeout_s })?;
    if wanted.args.len() > ARGS_MAX || wanted.args.iter().any(|a| a.contains('\0')) {
        return Err(Refused::Value(format!("Invalid args: at most {ARGS_MAX}, without NUL")));
    }
    Ok(wanted)
}

/// What is shown of text that was refused.
fn shown(text: &str) -> String {
    text.chars().take(WORD_MAX).collect::<String>().escape_debug().to_string()
}

/// A name Multipass gives to instances: letters, digits and hyphens, first a letter, last no hyphen.
pub(super) fn vm_name(name: &str) -> Checked<()> {
    let bytes = name.as_bytes();
    let good = bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.len() <= VM_NAME_MAX
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-');
    if good {
        return Ok(());
    }
    Err(Refused::Value(format!(
        "Invalid VM name '{}': up to {VM_NAME_MAX} letters, digits and hyphens, starting with a letter and not \
         ending in a hyphen",
        shown(name)
    )))
}

/// An id or host name.
pub(super) fn word(field: &str, text: &str) -> Checked<()> {
    let good = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if !text.is_empty() && text.len() <= WORD_MAX && text.as_bytes().iter().all(good) {
        return Ok(());
    }
    let rule = format!("1 to {WORD_MAX} letters, digits, '.', '_' and '-'");
    Err(Refused::Value(format!("Invalid {field} '{}': {rule}", shown(text))))
}

/// Shown in pages that do not escape.
fn tag(text: &str) -> Checked<()> {
    let bad = |c: char| c.is_control() || matches!(c, '<' | '>' | '&' | '"' | '\'' | '`');
    if text.len() <= TEXT_MAX && !text.contains(bad) {
        return Ok(());
    }
    Err(Refused::Value(format!("Invalid tag '{}': no markup, at most {TEXT_MAX} bytes", shown(text))))
}

/// Digits, perhaps a fraction, perhaps a unit.
pub(super) fn size(field: &str, text: &str) -> Checked<()> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.get(digits.len()..).unwrap_or_default().to_ascii_uppercase();
    let is_number = |t: &str| !t.is_empty() && t.len() <= 18 && t.bytes().all(|b| b.is_ascii_digit());
    let number = match digits.split_once('.') {
        Some((whole, fraction)) => is_number(whole) && is_number(fraction),
        None => is_number(digits),
    };
    let good_unit = match unit.strip_suffix('B').unwrap_or(&unit) {
        "" | "K" | "M" | "G" | "T" => true,
        "KI" | "MI" | "GI" | "TI" => unit.ends_with('B'),
        _ => false,
    };
    if number && good_unit {
        return Ok(());
    }
    Err(Refused::Value(format!("Invalid {field} '{}': a size such as 2G or 512M", shown(text))))
}

pub(super) fn image_name(text: &str) -> Checked<()> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"._:/@+~%=,-".contains(&b);
    if !text.is_empty() && !text.starts_with('-') && text.len() <= TEXT_MAX && text.bytes().all(good) {
        return Ok(());
    }
    Err(Refused::Value(format!("Invalid image '{}': a name, alias or address of an image", shown(text))))
}

/// `http://` or `https://` with a host; trailing slashes are cut off, as the original does.
fn base_url(text: &str) -> Checked<String> {
    let refused = || {
        let rule = "http://HOST[:PORT], without user, query and fragment";
        Refused::Value(format!("Invalid api_url '{}': {rule}", shown(text)))
    };
    let trimmed = text.trim_end_matches('/');
    let url = url::Url::parse(trimmed).map_err(|_| refused())?;
    let markup =
        |c: char| c.is_control() || c.is_whitespace() || matches!(c, '<' | '>' | '"' | '\'' | '`' | '\\');
    let plain = url.username().is_empty() && url.password().is_none();
    let bare = url.query().is_none() && url.fragment().is_none();
    let good = matches!(url.scheme(), "http" | "https") && url.has_host() && plain && bare;
    if good && trimmed.len() <= TEXT_MAX && !trimmed.contains(markup) {
        return Ok(trimmed.to_owned());
    }
    Err(refused())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json_headers() -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_TYPE, "application/json".parse().unwrap())])
    }
    fn shape<T: std::fmt::Debug>(checked: Checked<T>) -> Vec<Misfit> {
        match checked.unwrap_err() {
            Refused::Shape(all) => all,
            Refused::Value(text) => panic!("{text}"),
        }
    }

    #[test]
    fn names_that_could_be_options_or_paths_are_refused() {
        let long = "a".repeat(300);
        for bad in
            ["", "--all", "-a", "../x", "a/b", "a b", "dé", "a\0b", "a-", "1a", "a_b", "a.b", &long, "a\n"]
        {
            assert!(vm_name(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "web", "web-1", "A9", &"a".repeat(63)] {
            assert!(vm_name(good).is_ok(), "{good:?}");
        }
        for bad in ["--mount=/:/host", "", "-", "a b", "a;b", "a\0"] {
            assert!(image_name(bad).is_err(), "{bad:?}");
        }
        for good in ["22.04", "daily:noble", "https://cloud.example/x.img", "no-such-image"] {
            assert!(image_name(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn sizes() {
        for good in ["1G", "512M", "1.5G", "10GiB", "2gb", "1073741824", "5TB", "3KiB", "7B"] {
            assert!(size("memory", good).is_ok(), "{good}");
        }
        for bad in ["", "G", "-1G", "1X", "1GG", "1.", ".5G", "1 G", "--all", "1Gi", "0x10"] {
            assert!(size("memory", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn whole_numbers_in_any_lossless_form() {
        for (value, n) in [
            (json!(3), 3),
            (json!("3"), 3),
            (json!(" 7 "), 7),
            (json!(4.0), 4),
            (json!("5.0"), 5),
            (json!(-4), -4),
        ] {
            assert_eq!(lossless_integer(&value).unwrap(), n, "{value}");
        }
        for (value, kind) in [
            (json!("many"), "int_parsing"),
            (json!(1.5), "int_from_float"),
            (json!(null), "int_type"),
            (json!([]), "int_type"),
            (json!(1e300), "int_parsing_size"),
        ] {
            assert_eq!(lossless_integer(&value).unwrap_err().0, kind, "{value}");
        }
    }

    #[test]
    fn times_of_all_agents() {
        for good in [
            "2025-01-13T10:30:00",
            "2025-01-13T10:30:00.123456",
            "2025-01-13T10:30:00Z",
            "2025-01-13T10:30:00.123456789+02:00",
            "2026-11-21T08:15:58.487597862Z",
            "2025-01-13",
            "1736764200",
        ] {
            assert!(is_time(good), "{good}");
        }
        for bad in ["yesterday", "", "10:30"] {
            assert!(!is_time(bad), "{bad}");
        }
    }

    #[test]
    fn nobody_sees_their_secrets_again() {
        let headers = json_headers();
        for body in [
            r#"{"password":"hunter2"}"#,
            r#"{"username":1,"password":"hunter2"}"#,
            r#"["hunter2"]"#,
            "{hunter2",
        ] {
            let text = serde_json::to_string(&shape(login(&headers, body.as_bytes()))).unwrap();
            assert!(!text.contains("hunter2"), "{text}");
        }
        let plain = HeaderMap::new();
        let text = serde_json::to_string(&shape(login(&plain, br#"{"password":"hunter2"}"#))).unwrap();
        assert!(!text.contains("hunter2"), "{text}");
        for body in [
            r#"{"api_key":"hunter2"}"#,
            r#"{"api_key":["hunter2"],"agent_id":"a","hostname":"h","api_url":"http://h"}"#,
        ] {
            let text = serde_json::to_string(&shape(register(&headers, body.as_bytes()))).unwrap();
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn addresses_of_agents() {
        for (text, url) in [
            ("http://192.0.2.12:8001///", "http://192.0.2.12:8001"),
            ("https://h.example/batwa", "https://h.example/batwa"),
            ("http://[::1]:8001", "http://[::1]:8001"),
        ] {
            assert_eq!(base_url(text).unwrap(), url);
        }
        for bad in [
            "",
            "not a url",
            "u",
            "ftp://h",
            "http://",
            "http://u:p@h",
            "http://h?x=1",
            "file:///etc/passwd",
            "http://h/<b>",
        ] {
            assert!(base_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn mistakes_are_told_in_field_order_with_their_place() {
        let headers = json_headers();
        let all = shape(heartbeat(&headers, br#"{"agent_id":"x","vm_count":7.5}"#));
        let kinds: Vec<_> = all.iter().map(|m| (m.kind, m.loc[1].as_str().unwrap().to_owned())).collect();
        let want = [("missing", "timestamp"), ("missing", "status"), ("int_from_float", "vm_count")];
        assert_eq!(kinds, want.map(|(k, n)| (k, n.to_owned())));
        assert_eq!(shape(action(&headers, b"{nope"))[0].loc, [json!("body"), json!(1)]);
        assert_eq!(shape(action(&headers, b""))[0].loc, [json!("body")]);
        assert!(matches!(action(&headers, br#"{"name":"a\u0000b"}"#), Err(Refused::Value(_))));
        assert!(matches!(create(&headers, br#"{"name":"a","cpus":null}"#), Err(Refused::Shape(_))));
        assert!(matches!(create(&headers, br#"{"name":"a","memory":null}"#), Err(Refused::Shape(_))));
        assert!(matches!(create(&headers, br#"{"name":"a","cpus":0}"#), Err(Refused::Value(_))));
    }
}
