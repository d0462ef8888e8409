//! From the body of `/execute_action` to what is to be done.

use serde_json::Value;

use super::{
    super::{
        edit::EditArgs,
        files::{Bound, ReadArgs, WriteArgs},
        python::{Dict, Py, Raw},
        shell::RunArgs,
    },
    classes::{self, Class},
};

/// One request, understood.
#[derive(Debug)]
pub(in super::super) struct Event {
    pub(in super::super) act: Act,
    /// The hard limit in seconds; `None` and 0 are none for commands.
    pub(in super::super) timeout: Option<f64>,
    /// The client gave it a number or a time, so the same text again is the same action again.
    pub(in super::super) named: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) enum Act {
    Do(Box<Deed>),
    /// Known, but nothing a runtime does.
    Unable(&'static str),
    /// Answered with this error observation without doing anything.
    Wrong(String),
    /// Answered with 500 once it is its turn.
    Failed(String),
}

/// What the shell, the files and the kernel do.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) enum Deed {
    Run(RunArgs),
    Cell(Cell),
    Read(ReadArgs),
    Write(WriteArgs),
    Edit(EditArgs),
    Browse(Browse),
}

/// Code for the kernel.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) struct Cell {
    pub(in super::super) code: String,
    pub(in super::super) include_extra: bool,
}

/// Something for the browser.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) enum Browse {
    Visit { url: String, tree: bool },
    Code { code: String, tree: bool },
}

impl Browse {
    /// Whether the tree is wanted as data, too.
    pub(in super::super) fn wants_tree(&self) -> bool {
        match self {
            Self::Visit { tree, .. } | Self::Code { tree, .. } => *tree,
        }
    }

    /// The name of the action.
    pub(in super::super) fn name(&self) -> &'static str {
        match self {
            Self::Visit { .. } => "browse",
            Self::Code { .. } => "browse_interactive",
        }
    }
}

/// Why a request is no action.
#[derive(Debug, PartialEq)]
pub(in super::super) enum Refused {
    /// 422, with this text of a Python list.
    Invalid(String),
    /// 500, with this text.
    Internal(String),
    /// 400: the body is not even text.
    Unreadable,
}

fn internal<T>(text: impl Into<String>) -> Result<T, Refused> {
    Err(Refused::Internal(text.into()))
}

/// Understands a body.
pub(in super::super) fn parse(body: &[u8], content_type: Option<&str>) -> Result<Event, Refused> {
    let body = json(body, content_type)?;
    let misfit = |kind: &str, at: &str, says: &str, input: &Py| {
        Err(Refused::Invalid(format!(
            "[{{'type': '{kind}', 'loc': ('body',{at}), 'msg': '{says}', 'input': {input}}}]"
        )))
    };
    if body == Py::None {
        return Err(no_body());
    }
    let Py::Dict(request) = &body else {
        let says = "Input should be a valid dictionary or object to extract fields from";
        return misfit("model_attributes_type", "", says, &body);
    };
    match request.get("action") {
        None => misfit("missing", " 'action'", "Field required", &body),
        Some(Py::Dict(action)) => event(action.clone()),
        Some(other) => misfit("dict_type", " 'action'", "Input should be a valid dictionary", other),
    }
}

fn no_body() -> Refused {
    let what = "[{'type': 'missing', 'loc': ('body',), 'msg': 'Field required', 'input': None}]";
    Refused::Invalid(what.to_owned())
}

fn json(body: &[u8], content_type: Option<&str>) -> Result<Py, Refused> {
    if body.is_empty() {
        return Err(no_body());
    }
    let essence = content_type.map(|t| t.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    let is_json = essence
        .as_deref()
        .is_none_or(|t| t == "application/json" || (t.starts_with("application/") && t.ends_with("+json")));
    if !is_json {
        return Err(Refused::Invalid(format!(
            "[{{'type': 'model_attributes_type', 'loc': ('body',), 'msg': 'Input should be a valid dictionary or \
             object to extract fields from', 'input': {}}}]",
            Raw(body)
        )));
    }
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let body = std::str::from_utf8(body).map_err(|_| Refused::Unreadable)?;
    serde_json::from_str(body).map_err(|error| {
        Refused::Invalid(format!(
            "[{{'type': 'json_invalid', 'loc': ('body', {}), 'msg': 'JSON decode error', 'input': {{}}, 'ctx': \
             {{'error': {}}}}}]",
            error.column().saturating_sub(1),
            Py::Str(error.to_string())
        ))
    })
}

fn event(mut action: Dict) -> Result<Event, Refused> {
    let Some(kind) = action.get("action").cloned() else {
        return match action.get("observation") {
            None => internal(format!("Unknown event type: {}", Py::Dict(action))),
            Some(Py::Str(name)) if classes::OBSERVATIONS.iter().any(|(_, known)| known == name) => {
                internal("400: Invalid action type")
            }
            Some(other) => {
                let known = classes::keys("ObservationType", classes::OBSERVATIONS.iter().copied());
                internal(format!(
                    "\"'observation['observation']={other}' is not defined. Available observations: {known}\""
                ))
            }
        };
    };
    let Some(class) = classes::ALL.iter().find(|c| kind.str() == Some(c.name)) else {
        let known = classes::keys("ActionType", classes::ALL.iter().map(|c| (c.constant, c.name)));
        return internal(format!("'action['action']={kind}' is not defined. Available actions: {known}"));
    };
    let mut args = match action.get("args") {
        None => Dict::default(),
        Some(Py::Dict(args)) => args.clone(),
        Some(Py::List(_)) => return internal("pop expected at most 1 argument, got 2"),
        Some(other) => return internal(format!("'{}' object has no attribute 'pop'", other.kind())),
    };
    let dated = args.remove("timestamp").is_some_and(|t| t.truthy());
    outdated(&mut args);
    if let Some(why) = class.misfit(args.keys().collect::<Vec<_>>().into_iter()) {
        if action.get("args").is_some() {
            action.insert("args", Py::Dict(args));
        }
        return internal(format!("action={} has the wrong arguments: {why}", Py::Dict(action)));
    }
    match action.get("source") {
        None => {}
        Some(Py::Str(s)) if matches!(s.as_str(), "agent" | "user" | "environment") => {}
        Some(other) => return internal(format!("{other} is not a valid EventSource")),
    }
    if let Some(call) = action.get("tool_call_metadata") {
        tool_call(call)?;
    }
    let named = dated
        || action.get("id").is_some_and(|id| *id != Py::None)
        || action.get("timestamp").is_some_and(Py::truthy);
    let (timeout, odd) = match action.get("timeout") {
        None | Some(Py::None) => (None, None),
        Some(Py::Int(n)) => (Some(*n as f64), None),
        Some(Py::Float(x)) => (Some(*x), None),
        Some(Py::Bool(b)) => (Some(f64::from(u8::from(*b))), None),
        // The original asks whether it is true before it makes a number of it.
        Some(other) if !other.truthy() => (None, None),
        Some(Py::Str(text)) if text.trim().parse::<f64>().is_ok() => (text.trim().parse().ok(), None),
        // It would notice at its first look at a command that still runs, so quick ones have none here either.
        Some(other) => (None, Some(format!("could not convert string to float: {other}"))),
    };
    let act = match odd {
        Some(why) if class.name == "run_ipython" => Act::Wrong(why),
        _ => act(class, &args),
    };
    Ok(Event { act, timeout, named })
}

/// What the client says about the model's call is not used, but it has to be whole.
fn tool_call(call: &Py) -> Result<(), Refused> {
    const FIELDS: [&str; 4] = ["function_name", "tool_call_id", "model_response", "total_calls_in_response"];
    let Py::Dict(call) = call else {
        return internal(format!(
            "openhands.events.tool.ToolCallMetadata() argument after ** must be a mapping, not {}",
            call.kind()
        ));
    };
    let missing: Vec<&str> = FIELDS.into_iter().filter(|field| call.get(field).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let s = if missing.len() == 1 { "" } else { "s" };
    let mut text = format!("{} validation error{s} for ToolCallMetadata", missing.len());
    for field in missing {
        text.push_str(&format!("\n{field}\n  Field required [type=missing]"));
    }
    internal(text)
}

/// Renames and drops what only older clients send.
fn outdated(args: &mut Dict) {
    if let Some(confirmed) = args.remove("is_confirmed").filter(|c| *c != Py::None) {
        args.insert("confirmation_state", confirmed);
    }
    if let Some(urls) = args.remove("images_urls") {
        args.insert("image_urls", urls);
    }
    let risk = args.get("security_risk");
    if risk.is_some_and(|r| !matches!(r, Py::None | Py::Int(-1..=2) | Py::Bool(_))) {
        args.remove("security_risk");
    }
    args.remove("keep_prompt");
    args.remove("task_completed");
    if args.remove("translated_ipython_code").is_some()
        && args.get("command").and_then(Py::str) == Some("view")
    {
        args.remove("command");
    }
}

fn act(class: &'static Class, args: &Dict) -> Act {
    let flag = |name: &str, default: bool| args.get(name).map_or(default, Py::truthy);
    let text = |name: &str, default: &str| match args.get(name) {
        None => Ok(default.to_owned()),
        Some(Py::Str(s)) => Ok(s.clone()),
        Some(other) => Err(other.kind()),
    };
    let path =
        |says: &dyn Fn(&'static str) -> String| text("path", "").map_err(|kind| Act::Failed(says(kind)));
    let number = |name: &str, default: i64| match args.get(name) {
        None => Ok(default),
        Some(Py::Int(n)) => Ok(i64::try_from(*n).unwrap_or(if *n < 0 { i64::MIN } else { i64::MAX })),
        Some(Py::Bool(b)) => Ok(i64::from(*b)),
        Some(Py::Float(_)) => {
            Err(Act::Failed("slice indices must be integers or None or have an __index__ method".to_owned()))
        }
        Some(other) => {
            let kind = other.kind();
            Err(Act::Failed(format!("'>' not supported between instances of 'int' and '{kind}'")))
        }
    };
    let raw = |name: &str| args.get(name).map_or(Value::Null, Py::json);
    let deed = |deed| Ok(Act::Do(Box::new(deed)));
    let act = || match class.name {
        "run" => deed(Deed::Run(RunArgs {
            command: text("command", "")
                .map_err(|kind| Act::Wrong(format!("'{kind}' object has no attribute 'strip'")))?,
            is_input: flag("is_input", false),
            blocking: flag("blocking", false),
            is_static: flag("is_static", false),
            cwd: text("cwd", "").ok().filter(|cwd| !cwd.is_empty()),
            hidden: flag("hidden", false),
        })),
        "run_ipython" => deed(Deed::Cell(Cell {
            code: text("code", "")
                .map_err(|kind| Act::Failed(format!("code must be a string, not {kind}")))?,
            include_extra: flag("include_extra", true),
        })),
        "read" => deed(Deed::Read(ReadArgs {
            path: path(&|kind| format!("'{kind}' object has no attribute 'endswith'"))?,
            start: number("start", 0)?,
            end: number("end", -1)?,
            editor: args.get("impl_source").and_then(Py::str) == Some("oh_aci"),
            view_range: raw("view_range"),
        })),
        "write" => deed(Deed::Write(WriteArgs {
            path: path(&|kind| {
                format!(
                    "argument should be a str or an os.PathLike object where __fspath__ returns a str, not '{kind}'"
                )
            })?,
            content: text("content", "")
                .map_err(|kind| Act::Failed(format!("'{kind}' object has no attribute 'split'")))?,
            start: args.get("start").map_or_else(Bound::default, |b| b.json().into()),
            end: args.get("end").map_or_else(Bound::end, |b| b.json().into()),
        })),
        // The other editor is the client's, and it fails here with nothing to say.
        "edit" if args.get("impl_source").is_some_and(|s| s.str() != Some("oh_aci")) => {
            Ok(Act::Failed(String::new()))
        }
        "edit" => deed(Deed::Edit(EditArgs {
            path: path(&|_| {
                let sent = args.get("path").unwrap_or(&Py::None);
                format!("all arguments must be str, not: {sent}")
            })?,
            command: args.get("command").map_or_else(|| "".into(), Py::json),
            file_text: raw("file_text"),
            old_str: raw("old_str"),
            new_str: raw("new_str"),
            insert_line: raw("insert_line"),
        })),
        "browse" => deed(Deed::Browse(Browse::Visit {
            url: text("url", "")
                .map_err(|kind| Act::Failed(format!("'{kind}' object has no attribute 'startswith'")))?,
            tree: flag("return_axtree", false),
        })),
        "browse_interactive" => deed(Deed::Browse(Browse::Code {
            code: text("browser_actions", "")
                .map_err(|kind| Act::Failed(format!("expected string or bytes-like object, got '{kind}'")))?,
            tree: flag("return_axtree", false),
        })),
        name => Ok(Act::Unable(name)),
    };
    act().unwrap_or_else(|wrong: Act| wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Event, Refused> {
        parse(text.as_bytes(), Some("application/json"))
    }

    fn refused(text: &str) -> String {
        match parsed(text).unwrap_err() {
            Refused::Invalid(text) | Refused::Internal(text) => text,
            Refused::Unreadable => "unreadable".to_owned(),
        }
    }

    #[test]
    fn a_whole_event_of_the_client() {
        let event = parsed(
            r#"{"action":{"action":"run","args":{"command":"ls","thought":"t","keep_prompt":false,
                "is_confirmed":"confirmed","security_risk":99,"hidden":1},"timeout":2,"id":7,
                "timestamp":"2025-01-01T00:00:00","source":"agent","message":"m","tool_call_metadata":{"function_name":"f",
                "tool_call_id":"i","model_response":{},"total_calls_in_response":1}}}"#,
        )
        .unwrap();
        let Act::Do(deed) = event.act else { panic!("{event:?}") };
        let Deed::Run(run) = *deed else { panic!("{deed:?}") };
        assert!(run.command == "ls" && run.hidden && !run.is_input && run.cwd.is_none());
        assert_eq!((event.timeout, event.named), (Some(2.0), true));
        assert!(!parsed(r#"{"action":{"action":"run","args":{"command":"ls"}}}"#).unwrap().named);
    }

    #[test]
    fn errors_in_pythons_words() {
        for (text, says) in [
            (r#"{"action":{}}"#, "Unknown event type: {}"),
            (r#"{"action":{"args":{"command":"ls"}}}"#, "Unknown event type: {'args': {'command': 'ls'}}"),
            (r#"{"action":{"action":"run","args":null}}"#, "'NoneType' object has no attribute 'pop'"),
            (
                r#"{"action":{"action":"run"}}"#,
                "action={'action': 'run'} has the wrong arguments: CmdRunAction.__init__() missing 1 required \
                 positional argument: 'command'",
            ),
            (
                r#"{"action":{"action":"write","args":{}}}"#,
                "action={'action': 'write', 'args': {}} has the wrong arguments: FileWriteAction.__init__() missing \
                 2 required positional arguments: 'path' and 'content'",
            ),
            // DEFECT 12: it would choose the method that is called.
            (
                r#"{"action":{"action":"run","args":{"command":"x","action":"run_action"}}}"#,
                "action={'action': 'run', 'args': {'command': 'x', 'action': 'run_action'}} has the wrong arguments: \
                 CmdRunAction.__init__() got an unexpected keyword argument 'action'",
            ),
            (
                r#"{"action":{"action":"run","args":{"command":"a"},"source":"martian"}}"#,
                "'martian' is not a valid EventSource",
            ),
            (r#"{"action":{"observation":"run","content":"x"}}"#, "400: Invalid action type"),
            (
                r#"{"action":"run"}"#,
                "[{'type': 'dict_type', 'loc': ('body', 'action'), 'msg': 'Input should be a valid dictionary', \
                 'input': 'run'}]",
            ),
        ] {
            assert_eq!(refused(text), says, "{text}");
        }
        assert!(
            refused(r#"{"action":{"action":5}}"#)
                .starts_with("'action['action']=5' is not defined. Available")
        );
        assert!(matches!(parse(b"", None), Err(Refused::Invalid(_))));
        assert!(matches!(parse(b"{}", Some("text/plain")), Err(Refused::Invalid(t)) if t.contains("b'{}'")));
    }

    #[test]
    fn odd_values_are_noticed_where_the_original_notices_them() {
        let act = |text: &str| parsed(text).unwrap().act;
        assert_eq!(
            act(r#"{"action":{"action":"run","args":{"command":5}}}"#),
            Act::Wrong("'int' object has no attribute 'strip'".into())
        );
        assert!(matches!(act(r#"{"action":{"action":"read","args":{"path":5}}}"#), Act::Failed(_)));
        assert_eq!(act(r#"{"action":{"action":"think","args":{"thought":"x"}}}"#), Act::Unable("think"));
        let edit = act(r#"{"action":{"action":"edit","args":{"path":"/x","impl_source":"llm_based_edit"}}}"#);
        assert_eq!(edit, Act::Failed(String::new()));
    }
}
