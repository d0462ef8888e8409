//! What of an answer has to be the same.

use serde_json::{Value, json};

/// An answer without what changes from one time to the next.
pub(crate) fn masked(session: &str, mut body: Value) -> Value {
    if body.get("uptime").is_some() && body.get("resources").is_some() {
        return shape(&body);
    }
    if let Some(metadata) = body.pointer_mut("/extras/metadata").and_then(Value::as_object_mut) {
        for key in ["pid", "hostname", "username", "py_interpreter_path"] {
            if metadata.contains_key(key) {
                metadata.insert(key.to_owned(), json!("*"));
            }
        }
    }
    if let Some(errors) = body.get_mut("errors") {
        *errors = json!("*");
    }
    if let Some(token) = body.get_mut("token").filter(|t| t.is_string()) {
        assert_eq!(token.as_str().unwrap().len(), 36, "no UUID");
        *token = json!("*");
    }
    // The original's own words are binding only where a client can get them by accident.
    let binding = matches!(session, "http-basic" | "http-auth" | "mcp-single");
    if let Some(Value::String(detail)) = body.get_mut("detail")
        && let Some(start) = detail.find("Internal server error: ").filter(|_| !binding)
    {
        detail.truncate(start + "Internal server error: ".len());
    }
    // The order of the arguments is lost where the recording is read.
    if let Some(Value::String(detail)) = body.get_mut("detail")
        && let Some(start) = detail.find("has the wrong arguments: ")
    {
        detail.drain(..start);
    }
    for pointer in ["/content", "/message"] {
        if let Some(Value::String(text)) = body.pointer_mut(pointer) {
            *text = text.split('\n').map(line).collect::<Vec<_>>().join("\n");
        }
    }
    body
}

/// Types instead of values.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            map.iter().map(|(k, v)| (k.clone(), shape(v))).collect::<serde_json::Map<_, _>>().into()
        }
        Value::Number(_) => json!(0),
        other => other.clone(),
    }
}

fn line(line: &str) -> String {
    // `[1] 12345` of a background job.
    if let Some((number, pid)) = line.strip_prefix('[').and_then(|l| l.split_once("] "))
        && !pid.is_empty()
        && number.bytes().chain(pid.bytes()).all(|b| b.is_ascii_digit())
    {
        return format!("[{number}] *");
    }
    for start in ["http://localhost:", "[Jupyter Python interpreter: ", "<oh_aci_output_", "</oh_aci_output_"]
    {
        if line.starts_with(start) {
            return format!("{start}*");
        }
    }
    line.to_owned()
}
