//! The `edit` action and the view of `read`: the editor of the core in the words of the tool agents were trained on.

use std::collections::HashSet;

use fleetcore::{
    FileKind,
    editor::{Change, EditError, HEAD_BYTES, Shown, Tree, is_binary},
};
use futures::StreamExt;
use serde_json::Value;

use super::{
    files::{
        BINARY, Workspace, is_circle, is_missing, posix, python_error, quoted, resolve, suffix, type_name,
    },
    observation::{Observation, Source},
};

/// Most characters of a file or listing that are shown at once.
const SHOWN_CHARS: usize = 16_000;

const FILE_CLIPPED: &str = "<response clipped><NOTE>Due to the max output limit, only part of this file has been shown \
    to you. You should retry this tool after you have searched inside the file with `grep -n` in order to find the line \
    numbers of what you are looking for.</NOTE>";
const DIRECTORY_CLIPPED: &str = "<response clipped><NOTE>Due to the max output limit, only part of this directory has \
    been shown to you. You should use `ls -la` instead to view large directories incrementally.</NOTE>";
const DOCUMENT_CLIPPED: &str = "<response clipped><NOTE>Due to the max output limit, only part of this file has been \
    shown to you. Please use Python libraries to view the entire file or search for specific content within the \
    file.</NOTE>";

/// Formats that can only be viewed.
const DOCUMENTS: [&str; 8] = [".docx", ".xlsx", ".pptx", ".pdf", ".mp3", ".wav", ".m4a", ".flac"];

/// Arguments of `edit`. The types of most are checked late, and then in the tool's words.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct EditArgs {
    pub(super) path: String,
    pub(super) command: Value,
    pub(super) file_text: Value,
    pub(super) old_str: Value,
    pub(super) new_str: Value,
    pub(super) insert_line: Value,
}

/// Why there is nothing to show.
enum Wrong {
    /// The tool says so.
    Told(String),
    /// The tool itself failed: an HTTP 500.
    Failed(String),
}

impl From<String> for Wrong {
    fn from(why: String) -> Self {
        Self::Told(why)
    }
}

/// What the tool answers: a text, and what changed.
struct Answer {
    text: String,
    diff: String,
}

impl Workspace {
    /// The `edit` action. What goes wrong is told in what it shows.
    ///
    /// # Errors
    /// The text of an HTTP 500.
    pub(super) async fn edit(&self, args: &EditArgs) -> Result<Observation, String> {
        let answer = match self.attempt(&args.path, args).await {
            Ok(answer) => answer,
            Err(Wrong::Told(why)) => Answer { text: format!("ERROR:\n{why}"), diff: String::new() },
            Err(Wrong::Failed(why)) => return Err(why),
        };
        Ok(Observation::edited(&args.path, answer.text, &args.old_str, &args.new_str, &answer.diff))
    }

    /// The view of `read`.
    ///
    /// # Errors
    /// The text of an HTTP 500.
    pub(super) async fn view(&self, sent: &str, range: &Value) -> Result<Observation, String> {
        if sent.ends_with(".pyc") || (sent.starts_with('/') && self.has_binary_head(sent).await) {
            return Ok(Observation::error(BINARY));
        }
        let path = posix(sent);
        let text = match self.check_path("view", sent, &path).await {
            Ok(kind) => self.shown(&path, kind, range).await,
            Err(Wrong::Told(why)) => Err(why),
            Err(Wrong::Failed(why)) => return Err(why),
        };
        let text = text.unwrap_or_else(|why| format!("ERROR:\n{why}"));
        Ok(Observation::read(sent, text, Source::Editor))
    }

    async fn has_binary_head(&self, path: &str) -> bool {
        let Ok(mut stream) = self.files.read_stream(path, 0, Some(HEAD_BYTES as u64)).await else {
            return false;
        };
        let mut head = Vec::new();
        while let Some(Ok(piece)) = stream.next().await {
            head.extend_from_slice(&piece);
        }
        is_binary(path, &head)
    }

    async fn attempt(&self, sent: &str, args: &EditArgs) -> Result<Answer, Wrong> {
        let line = line_number(&args.insert_line)?;
        let path = &*posix(sent);
        let command = &*shown_plain(&args.command);
        let kind = self.check_path(command, sent, path).await?;
        let required = |name: &str, value| match value {
            &Value::Null => Err(format!("Parameter `{name}` is required for command: {command}.")),
            value => text(name, value),
        };
        let failed = |e| explained(path, &e);
        match command {
            "view" => {
                let text = self.shown(path, kind, &Value::Null).await?;
                Ok(Answer { text, diff: String::new() })
            }
            "create" => {
                let content = required("file_text", &args.file_text)?;
                let change = self.editor.create(path, content).await.map_err(failed)?;
                Ok(answer(sent, &change, format!("File created successfully at: {path}")))
            }
            "str_replace" => {
                let old = required("old_str", &args.old_str)?;
                let new = if args.new_str.is_null() { "" } else { text("new_str", &args.new_str)? };
                if args.old_str == args.new_str {
                    let rule = "No replacement was performed. `new_str` and `old_str` must be different.";
                    return Err(invalid("new_str", new, rule).into());
                }
                let change = self.editor.replace(path, old, new).await.map_err(failed)?;
                let text = format!(
                    "The file {path} has been edited. {}Review the changes and make sure they are as expected. \
                     Edit the file again if necessary.",
                    numbered(&change.snippet, &format!("a snippet of {path}"), change.first_line)
                );
                Ok(answer(sent, &change, text))
            }
            "insert" => {
                let line = line
                    .ok_or_else(|| "Parameter `insert_line` is required for command: insert.".to_owned())?;
                let new = required("new_str", &args.new_str)?;
                let change = match self.editor.insert(path, line, new).await {
                    Err(EditError::OutOfRange { lines }) => {
                        let rule = format!("It should be within the range of allowed values: [0, {lines}]");
                        return Err(invalid("insert_line", &line.to_string(), &rule).into());
                    }
                    other => other.map_err(failed)?,
                };
                let text = format!(
                    "The file {path} has been edited. {}Review the changes and make sure they are as expected \
                     (correct indentation, no duplicate lines, etc). Edit the file again if necessary.",
                    numbered(&change.snippet, "a snippet of the edited file", change.first_line)
                );
                Ok(answer(sent, &change, text))
            }
            "undo_edit" => {
                let change = self.editor.undo(path).await.map_err(failed)?;
                let shown = numbered(&change.snippet, path, 1);
                Ok(answer(sent, &change, format!("Last edit to {path} undone successfully. {shown}")))
            }
            unknown => Err(Wrong::Told(format!(
                "Unrecognized command {unknown}. The allowed commands for the oh_editor tool are: view, create, \
                 str_replace, insert, undo_edit"
            ))),
        }
    }

    /// What can be said about path and command before the file is opened. `None` if there is nothing there.
    async fn check_path(&self, command: &str, sent: &str, path: &str) -> Result<Option<FileKind>, Wrong> {
        let bad = |rule: &str| Err(Wrong::Told(invalid("path", path, rule)));
        if !sent.starts_with('/') {
            let rule = "The path should be an absolute path, starting with `/`.";
            let meant = resolve(&self.working_dir, sent);
            return match self.files.stat(&meant).await {
                Ok(_) => bad(&format!("{rule} Maybe you meant {meant}?")),
                Err(_) => bad(rule),
            };
        }
        let kind = match self.files.stat(path).await {
            Ok(info) => Some(info.kind),
            // As `exists` of Python has it: also what cannot be a path, and links in a circle.
            Err(e) if is_missing(&e) || is_circle(&e) || path.contains('\0') => None,
            Err(e) => return Err(Wrong::Failed(python_error(&e, path))),
        };
        match (command, kind) {
            ("create", Some(_)) => {
                return bad(&format!(
                    "File already exists at: {path}. Cannot overwrite files using command `create`."
                ));
            }
            ("create", None) => {}
            (_, None) => {
                return bad(&format!("The path {path} does not exist. Please provide a valid path."));
            }
            ("view", _) => return Ok(kind),
            (_, Some(FileKind::Dir)) => {
                return bad(&format!(
                    "The path {path} is a directory and only the `view` command can be used on directories."
                ));
            }
            _ => {}
        }
        let suffix = suffix(path);
        if is_document(suffix) {
            return bad(&format!(
                "The path {path} points to a binary file ({suffix}) and only the `view` command can be used on \
                 supported binary files."
            ));
        }
        Ok(kind)
    }

    /// A file, some of its lines, or a directory.
    async fn shown(&self, path: &str, kind: Option<FileKind>, range: &Value) -> Result<String, String> {
        let bad = |rule: &str| invalid("view_range", &shown_plain(range), rule);
        let wanted = match range {
            Value::Null => false,
            Value::Bool(on) => *on,
            Value::Number(n) => n.as_f64() != Some(0.0),
            Value::String(text) => !text.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
        };
        if wanted && kind == Some(FileKind::Dir) {
            return Err(bad("The `view_range` parameter is not allowed when `path` points to a directory."));
        }
        if kind != Some(FileKind::Dir) && is_document(suffix(path)) {
            return self.document(path).await;
        }
        let lines = match range.as_array().map(|list| list.iter().map(integer).collect::<Vec<_>>()).as_deref()
        {
            _ if !wanted => None,
            Some([Some(first), Some(last)]) => Some((*first, *last)),
            _ if matches!(range, Value::Bool(_) | Value::Number(_)) => {
                return Err(format!("object of type '{}' has no len()", type_name(range)));
            }
            _ => return Err(bad("It should be a list of two integers.")),
        };
        let view = self.editor.view(path, lines).await.map_err(|e| match (e, lines) {
            (EditError::OutOfRange { lines: count }, Some((first, _))) => bad(&format!(
                "Its first element `{first}` should be within the range of lines of the file: [1, {count}]."
            )),
            (EditError::Reversed, Some((first, last))) => bad(&format!(
                "Its second element `{last}` should be greater than or equal to the first element `{first}`."
            )),
            (e, _) => explained(path, &e),
        })?;
        Ok(match view {
            Shown::Directory(tree) => directory(path, &tree),
            Shown::File { text, first_line, lines: count, past_end } => {
                let note = format!(
                    "NOTE: We only show up to {count} since there're only {count} lines in this file.\n"
                );
                let text = if lines.is_some() { text.strip_suffix('\n').unwrap_or(&text) } else { &text };
                format!("{}{}", if past_end { &note } else { "" }, numbered(text, path, first_line))
            }
            _ => return Err(format!("Ran into something unknown while trying to read {path}")),
        })
    }

    /// A file in a format of documents. What is text all the same is shown as such.
    async fn document(&self, path: &str) -> Result<String, String> {
        let unconverted = |why: &str| {
            format!("Error in converting file to Markdown: {why}. Please use Python code to read {path}")
        };
        let info = self.files.stat(path).await.map_err(|e| unconverted(&python_error(&e, path)))?;
        const LIMIT: u64 = 10 << 20;
        if info.size > LIMIT {
            return Err(explained(path, &EditError::TooLarge { bytes: info.size, limit: LIMIT }));
        }
        let bytes = self.files.read(path).await.map_err(|e| unconverted(&python_error(&e, path)))?;
        match std::str::from_utf8(&bytes) {
            Ok(text) if !text.contains('\0') => {
                let text = clipped(text, DOCUMENT_CLIPPED);
                Ok(format!("Here's the content of the file {path} displayed in Markdown format:\n{text}\n"))
            }
            _ => Err(unconverted("this format cannot be converted")),
        }
    }
}

fn answer(label: &str, change: &Change, text: String) -> Answer {
    let diff = change.diff(label);
    let diff: Vec<&str> = diff.split('\n').map(str::trim_end).collect();
    Answer { text, diff: diff.join("\n") }
}

fn invalid(name: &str, value: &str, rule: &str) -> String {
    format!("Invalid `{name}` parameter: {value}. {rule}")
}

fn text<'a>(name: &str, value: &'a Value) -> Result<&'a str, String> {
    value.as_str().ok_or_else(|| format!("expected string for `{name}`, got '{}'", type_name(value)))
}

/// A line number, also one written as text; fractions are cut off, as slicing in the original did.
fn line_number(value: &Value) -> Result<Option<i64>, String> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => {
            let digits = text.trim();
            // Python allows an underscore between two digits.
            let plain = match digits.starts_with('_') || digits.ends_with('_') || digits.contains("__") {
                true => digits.to_owned(),
                false => digits.replace('_', ""),
            };
            let wrong = |_| format!("Invalid insert_line value: '{text}'. Expected an integer.");
            plain.parse().map(Some).map_err(wrong)
        }
        Value::Bool(on) => Ok(Some(i64::from(*on))),
        #[expect(clippy::cast_possible_truncation, reason = "saturates, and is checked against the file")]
        Value::Number(n) => Ok(n.as_i64().or_else(|| n.as_f64().map(|f| f.floor() as i64))),
        other => Err(format!("expected integer for `insert_line`, got '{}'", type_name(other))),
    }
}

/// A JSON value as Python prints it, and a text as it is.
fn shown_plain(value: &Value) -> String {
    value.as_str().map_or_else(|| repr(value), str::to_owned)
}

/// What Python takes for an integer.
fn integer(value: &Value) -> Option<i64> {
    value.as_bool().map(i64::from).or_else(|| value.as_i64())
}

fn is_document(suffix: &str) -> bool {
    DOCUMENTS.contains(&&*suffix.to_lowercase())
}

/// A JSON value as Python prints it.
fn repr(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(n) => n.to_string(),
        Value::String(text) => quoted(text),
        Value::Array(list) => format!("[{}]", list.iter().map(repr).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let pairs: Vec<_> =
                map.iter().map(|(key, value)| format!("{}: {}", quoted(key), repr(value))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
    }
}

fn explained(path: &str, err: &EditError) -> String {
    let unfit = |why: &str| format!("File validation failed for {path}: {why}");
    match err {
        EditError::NotFound => {
            invalid("path", path, &format!("The path {path} does not exist. Please provide a valid path."))
        }
        EditError::Exists => {
            let rule =
                format!("File already exists at: {path}. Cannot overwrite files using command `create`.");
            invalid("path", path, &rule)
        }
        EditError::NotAFile => unfit("It is not a regular file and cannot be read or edited by this tool."),
        EditError::TooLarge { bytes, limit } => unfit(&format!(
            "File is too large ({:.1}MB). Maximum allowed size is {}MB.",
            *bytes as f64 / f64::from(1 << 20),
            limit >> 20
        )),
        EditError::Binary => {
            unfit("File appears to be binary and this file type cannot be read or edited by this tool.")
        }
        EditError::NoMatch { searched } => {
            format!("No replacement was performed, old_str `{searched}` did not appear verbatim in {path}.")
        }
        EditError::Ambiguous { searched, lines } => format!(
            "No replacement was performed. Multiple occurrences of old_str `{searched}` in lines {lines:?}. Please \
             ensure it is unique."
        ),
        EditError::NoHistory => format!("No edit history found for {path}."),
        EditError::Read(e) => format!("Ran into {} while trying to read {path}", python_error(e, path)),
        EditError::Write(e) => format!("Ran into {} while trying to write to {path}", python_error(e, path)),
        EditError::Unencodable { .. } => format!("Ran into '{err}' while trying to write to {path}"),
        other => format!("Ran into '{other}' while trying to read {path}"),
    }
}

fn clipped(text: &str, notice: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((at, _)) => format!("{}{notice}", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// What `cat -n` prints, more or less.
fn numbered(text: &str, of: &str, first: usize) -> String {
    let mut out = format!("Here's the result of running `cat -n` on {of}:\n");
    for (i, line) in clipped(text, FILE_CLIPPED).split('\n').enumerate() {
        out.push_str(&format!("{:>6}\t{line}\n", first + i));
    }
    out
}

fn directory(path: &str, tree: &Tree) -> String {
    let dirs: HashSet<&str> = tree.entries.iter().filter(|e| e.is_dir).map(|e| e.path.as_str()).collect();
    let listing: String = tree.entries.iter().flat_map(|entry| [&entry.path, "\n"]).collect();
    let listing: Vec<String> =
        clipped(&listing, DIRECTORY_CLIPPED)
            .trim()
            .split('\n')
            .map(|line| {
                if dirs.contains(line) { format!("{}/", line.trim_end_matches('/')) } else { line.to_owned() }
            })
            .collect();
    let mut out = format!(
        "Here's the files and directories up to 2 levels deep in {path}, excluding hidden items:\n{}",
        listing.join("\n")
    );
    if tree.hidden > 0 {
        out.push_str(&format!(
            "\n\n{} hidden files/directories in this directory are excluded. You can use 'ls -la {path}' to see them.",
            tree.hidden
        ));
    }
    out
}
