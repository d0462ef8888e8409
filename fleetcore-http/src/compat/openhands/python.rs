//! JSON as Python holds it: objects keep the order of their keys, and everything has the `repr` that error texts show.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Py {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(String),
    List(Vec<Py>),
    Dict(Dict),
}

/// An object. Of a repeated key the first place and the last value count.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Dict(Vec<(String, Py)>);

impl Dict {
    pub(super) fn get(&self, key: &str) -> Option<&Py> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    pub(super) fn insert(&mut self, key: &str, value: Py) {
        match self.0.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = value,
            None => self.0.push((key.to_owned(), value)),
        }
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<Py> {
        let at = self.0.iter().position(|(k, _)| k == key)?;
        Some(self.0.remove(at).1)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(k, _)| k.as_str())
    }
}

impl Py {
    /// Name of its type.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "str",
            Self::List(_) => "list",
            Self::Dict(_) => "dict",
        }
    }

    /// What `if value:` would say.
    pub(super) fn truthy(&self) -> bool {
        match self {
            Self::None => false,
            Self::Bool(b) => *b,
            Self::Int(n) => *n != 0,
            Self::Float(x) => *x != 0.0,
            Self::Str(s) => !s.is_empty(),
            Self::List(l) => !l.is_empty(),
            Self::Dict(d) => !d.0.is_empty(),
        }
    }

    pub(super) fn str(&self) -> Option<&str> {
        match self {
            Self::Str(s) => Some(s),
            _ => None,
        }
    }

    /// As other JSON; what its numbers cannot hold becomes the nearest they can.
    pub(super) fn json(&self) -> serde_json::Value {
        use serde_json::Value;
        match self {
            Self::None => Value::Null,
            Self::Bool(b) => Value::Bool(*b),
            Self::Int(n) => match i64::try_from(*n) {
                Ok(n) => n.into(),
                Err(_) => u64::try_from(*n).map_or_else(|_| (*n as f64).into(), Value::from),
            },
            Self::Float(x) => (*x).into(),
            Self::Str(s) => Value::String(s.clone()),
            Self::List(l) => Value::Array(l.iter().map(Self::json).collect()),
            Self::Dict(d) => Value::Object(d.0.iter().map(|(k, v)| (k.clone(), v.json())).collect()),
        }
    }
}

impl fmt::Display for Py {
    /// Python's `repr`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Bool(true) => f.write_str("True"),
            Self::Bool(false) => f.write_str("False"),
            Self::Int(n) => write!(f, "{n}"),
            Self::Float(x) => f.write_str(&float(*x)),
            Self::Str(s) => quote(f, s.chars()),
            Self::List(l) => {
                f.write_str("[")?;
                for (i, item) in l.iter().enumerate() {
                    write!(f, "{}{item}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str("]")
            }
            Self::Dict(d) => {
                f.write_str("{")?;
                for (i, (key, value)) in d.0.iter().enumerate() {
                    f.write_str(if i == 0 { "" } else { ", " })?;
                    quote(f, key.chars())?;
                    write!(f, ": {value}")?;
                }
                f.write_str("}")
            }
        }
    }
}

/// Python's `repr` of bytes.
pub(super) struct Raw<'a>(pub(super) &'a [u8]);

impl fmt::Display for Raw<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains(&b'\'') && !self.0.contains(&b'"') { b'"' } else { b'\'' };
        write!(f, "b{}", char::from(quote))?;
        for &byte in self.0 {
            match byte {
                b'\\' => f.write_str("\\\\")?,
                b'\n' => f.write_str("\\n")?,
                b'\r' => f.write_str("\\r")?,
                b'\t' => f.write_str("\\t")?,
                _ if byte == quote => write!(f, "\\{}", char::from(quote))?,
                b' '..=b'~' => write!(f, "{}", char::from(byte))?,
                _ => write!(f, "\\x{byte:02x}")?,
            }
        }
        write!(f, "{}", char::from(quote))
    }
}

/// Python's `repr` of a text.
fn quote(f: &mut fmt::Formatter<'_>, text: std::str::Chars<'_>) -> fmt::Result {
    use fmt::Write as _;
    let quote = if text.clone().any(|c| c == '\'') && !text.clone().any(|c| c == '"') { '"' } else { '\'' };
    f.write_char(quote)?;
    for c in text {
        match c {
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            c if c == quote => write!(f, "\\{c}")?,
            c if (c < ' ' || ('\x7f'..='\u{a0}').contains(&c) || c == '\u{ad}') => {
                write!(f, "\\x{:02x}", u32::from(c))?;
            }
            c => f.write_char(c)?,
        }
    }
    f.write_char(quote)
}

/// Python's `repr` of a float: an exponent from 1e16 up and below 1e-4.
pub(super) fn float(x: f64) -> String {
    if !x.is_finite() {
        return if x.is_nan() {
            "nan"
        } else if x > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .to_owned();
    }
    if x != 0.0 && (x.abs() >= 1e16 || x.abs() < 1e-4) {
        let text = format!("{x:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    format!("{x:?}")
}

impl<'de> Deserialize<'de> for Py {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Py;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON")
            }
            fn visit_unit<E>(self) -> Result<Py, E> {
                Ok(Py::None)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Py, E> {
                Ok(Py::Bool(value))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Py, E> {
                Ok(Py::Int(value.into()))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Py, E> {
                Ok(Py::Int(value.into()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Py, E> {
                Ok(Py::Float(value))
            }
            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Py, E> {
                Ok(Py::Str(value.to_owned()))
            }
            fn visit_string<E: serde::de::Error>(self, value: String) -> Result<Py, E> {
                Ok(Py::Str(value))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Py, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = seq.next_element()? {
                    list.push(item);
                }
                Ok(Py::List(list))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Py, A::Error> {
                /// More keys than any action has; looking one up walks through all of them.
                const KEYS: usize = 10_000;
                let mut dict: Vec<(String, Py)> = Vec::new();
                let mut seen = std::collections::HashMap::new();
                while let Some((key, value)) = map.next_entry::<String, Py>()? {
                    if let Some(&at) = seen.get(&key)
                        && let Some((_, old)) = dict.get_mut(at)
                    {
                        *old = value;
                        continue;
                    }
                    if dict.len() == KEYS {
                        return Err(A::Error::custom("too many keys"));
                    }
                    seen.insert(key.clone(), dict.len());
                    dict.push((key, value));
                }
                Ok(Py::Dict(Dict(dict)))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_pythons() {
        for (json, repr) in [
            ("null", "None"),
            (
                "[true,false,-3,2.0,1e16,0.00001,1e-4,123456789.5]",
                "[True, False, -3, 2.0, 1e+16, 1e-05, 0.0001, 123456789.5]",
            ),
            (r#"{"b":1,"a":{"c":[]},"b":2}"#, "{'b': 2, 'a': {'c': []}}"),
            (r#""it's""#, r#""it's""#),
            (r#""it's \"x\"""#, r#"'it\'s "x"'"#),
            (r#""a\nb\\é\u0007""#, r"'a\nb\\é\x07'"),
        ] {
            assert_eq!(serde_json::from_str::<Py>(json).unwrap().to_string(), repr, "{json}");
        }
        assert_eq!(Raw(b"{\"a\":'\x00\xff").to_string(), r#"b'{"a":\'\x00\xff'"#);
    }
}
