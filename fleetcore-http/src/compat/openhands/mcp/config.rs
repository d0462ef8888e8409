//! What `/update_mcp_server` is sent.

use std::collections::BTreeMap;

use serde_json::Value;

/// Servers one configuration may have.
const SERVERS: usize = 256;

/// A server, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) name: String,
    pub(super) command: String,
    pub(super) args: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
}

/// Why a configuration is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Misfit {
    NoList,
    Invalid,
}

/// Understands a whole configuration; one invalid server spoils it.
pub(super) fn servers(body: &[u8]) -> Result<Vec<Server>, Misfit> {
    let body: Value = serde_json::from_slice(body).map_err(|_| Misfit::Invalid)?;
    let list = body.as_array().ok_or(Misfit::NoList)?;
    if list.len() > SERVERS {
        return Err(Misfit::Invalid);
    }
    let all: Option<Vec<Server>> = list.iter().map(server).collect();
    all.ok_or(Misfit::Invalid)
}

fn server(value: &Value) -> Option<Server> {
    let text = |key: &str| Some(value.get(key)?.as_str()?.trim().to_owned());
    let name = text("name")?;
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let command = text("command")?;
    if name.is_empty() || !name.chars().all(good) {
        return None;
    }
    if command.is_empty() || command.contains(char::is_whitespace) {
        return None;
    }
    Some(Server { name, command, args: args(value.get("args"))?, env: env(value.get("env"))? })
}

fn args(value: Option<&Value>) -> Option<Vec<String>> {
    match value {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::String(text)) => shlex::split(text),
        Some(Value::Array(list)) => list.iter().map(|a| a.as_str().map(str::to_owned)).collect(),
        Some(_) => None,
    }
}

fn env(value: Option<&Value>) -> Option<BTreeMap<String, String>> {
    match value {
        None | Some(Value::Null) => Some(BTreeMap::new()),
        Some(Value::String(text)) => {
            let pairs = text.split(',').map(str::trim).filter(|p| !p.is_empty());
            pairs
                .map(|pair| pair.split_once('=').map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned())))
                .map(|pair| pair.filter(|(k, _)| !k.is_empty()))
                .collect()
        }
        Some(Value::Object(map)) => {
            map.iter().map(|(k, v)| v.as_str().map(|v| (k.clone(), v.to_owned()))).collect()
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_write_arguments_and_environment() {
        let all = servers(
            br#"[{"name":" a ","command":"py","args":["x y"],"env":{"K":"v"},"more":1},
                 {"name":"b-2","command":"py","args":"x 'y z'","env":"K=v,L=1=2"}, {"name":"c","command":"c"}]"#,
        )
        .unwrap();
        assert_eq!((all[0].name.as_str(), all[0].args.as_slice()), ("a", &["x y".to_owned()][..]));
        assert_eq!(all[1].args, ["x", "y z"]);
        assert_eq!(all[1].env, BTreeMap::from([("K".into(), "v".into()), ("L".into(), "1=2".into())]));
        assert!(all[2].args.is_empty() && servers(b"[]").unwrap().is_empty());
        assert_eq!(servers(b"{}"), Err(Misfit::NoList));
        for bad in [
            "nope",
            r#"[{"name":"bad name","command":"x"}]"#,
            r#"[{"name":"x"}]"#,
            r#"[{"name":"x","command":"uvx thing"}]"#,
            r#"[{"name":"","command":"x"}]"#,
            r#"[{"name":"x","command":"x","args":[1]}]"#,
            r#"[{"name":"x","command":"x","env":"novalue"}]"#,
            "[1]",
        ] {
            assert_eq!(servers(bad.as_bytes()), Err(Misfit::Invalid), "{bad}");
        }
    }
}
