//! What an action is answered with.

use serde::{Serialize, Serializer, ser::SerializeMap as _};
use serde_json::{Map, Value, json};

/// One answer. The client makes an object of its own from `content` and `extras`, key by key: what it does not know
/// breaks it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Observation {
    kind: &'static str,
    message: String,
    pub(super) content: String,
    pub(super) extras: Map<String, Value>,
    success: Option<bool>,
}

/// What is known about the shell after a command.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Metadata {
    pub(super) exit_code: i32,
    /// Of the most recent background job.
    pub(super) pid: i64,
    pub(super) username: Option<String>,
    pub(super) hostname: Option<String>,
    pub(super) working_dir: Option<String>,
    pub(super) py_interpreter_path: Option<String>,
    pub(super) prefix: String,
    pub(super) suffix: String,
}

impl Default for Metadata {
    /// Of a command that has not ended.
    fn default() -> Self {
        Self {
            exit_code: -1,
            pid: -1,
            username: None,
            hostname: None,
            working_dir: None,
            py_interpreter_path: None,
            prefix: String::new(),
            suffix: String::new(),
        }
    }
}

/// Who read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Default,
    Editor,
}

impl Source {
    fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Editor => "oh_aci",
        }
    }
}

fn object(extras: Value) -> Map<String, Value> {
    match extras {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

impl Observation {
    fn new(kind: &'static str, message: String, content: String, extras: Value) -> Self {
        Self { kind, message, content, extras: object(extras), success: None }
    }

    /// Whether its content is for reading, and not the bytes of a file.
    pub(super) fn may_be_told_more(&self) -> bool {
        matches!(self.kind, "run" | "run_ipython" | "error")
    }

    /// It did not work, in words for the agent.
    pub(super) fn error(text: impl Into<String>) -> Self {
        let text = text.into();
        Self::new("error", text.clone(), text, json!({ "error_id": "" }))
    }

    /// A command in the shell.
    pub(super) fn run(command: &str, content: String, metadata: &Metadata, hidden: bool) -> Self {
        let code = metadata.exit_code;
        let message = format!("Command `{command}` executed with exit code {code}.");
        let extras = json!({ "command": command, "metadata": metadata, "hidden": hidden });
        Self { success: Some(code == 0), ..Self::new("run", message, content, extras) }
    }

    /// A cell in the kernel. Always a success, also when it raised.
    pub(super) fn cell(code: &str, content: String, images: Vec<String>) -> Self {
        let images = (!images.is_empty()).then_some(images);
        let extras = json!({ "code": code, "image_urls": images });
        let message = "Code executed in IPython cell.".to_owned();
        Self { success: Some(true), ..Self::new("run_ipython", message, content, extras) }
    }

    /// The text, or a data URL, of a file.
    pub(super) fn read(path: &str, content: String, source: Source) -> Self {
        let message = format!("I read the file {path}.");
        Self::new("read", message, content, json!({ "path": path, "impl_source": source.name() }))
    }

    /// A file was written.
    pub(super) fn written(path: &str) -> Self {
        Self::new("write", format!("I wrote to the file {path}."), String::new(), json!({ "path": path }))
    }

    /// What the editor did, or why not; `old` and `new` as the request had them.
    pub(super) fn edited(path: &str, content: String, old: &Value, new: &Value, diff: &str) -> Self {
        let extras = json!({
            "path": path,
            "prev_exist": false,
            "old_content": old,
            "new_content": new,
            "impl_source": Source::Editor.name(),
            "diff": diff,
            "_diff_cache": null,
        });
        Self::new("edit", format!("I edited the file {path}."), content, extras)
    }

    /// A page was visited, or something done on one. `extras` are all of section 8.4 of the contract.
    pub(super) fn browsed(url: &str, content: String, extras: Map<String, Value>) -> Self {
        let message = format!("Visited {url}");
        Self { kind: "browse", message, content, extras, success: None }
    }

    /// An action ended in a file.
    pub(super) fn downloaded(path: &str, content: String) -> Self {
        let message = format!("Downloaded the file at location: {path}");
        Self::new("download", message, content, json!({ "file_path": path }))
    }
}

impl Serialize for Observation {
    /// With the keys in the original's order.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("message", &self.message)?;
        map.serialize_entry("observation", self.kind)?;
        map.serialize_entry("content", &self.content)?;
        map.serialize_entry("extras", &self.extras)?;
        if let Some(success) = self.success {
            map.serialize_entry("success", &success)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_in_the_order_of_the_original() {
        let metadata = Metadata { exit_code: 0, ..Metadata::default() };
        let text = serde_json::to_string(&Observation::run("ls", "a".into(), &metadata, false)).unwrap();
        let start = r#"{"message":"Command `ls` executed with exit code 0.","observation":"run","content":"a","extras":{"#;
        assert!(text.starts_with(start) && text.ends_with(r#"},"success":true}"#), "{text}");
        let text = serde_json::to_string(&Observation::error("no")).unwrap();
        assert_eq!(text, r#"{"message":"no","observation":"error","content":"no","extras":{"error_id":""}}"#);
    }
}
