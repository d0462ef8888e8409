//! The original's actions: their arguments, in the order of their constructors, so that what is missing or too much is
//! named as Python names it.

/// A kind of action.
pub(super) struct Class {
    /// Its name on the wire.
    pub(super) name: &'static str,
    /// The constant of the original.
    pub(super) constant: &'static str,
    /// The class of the original.
    pub(super) class: &'static str,
    pub(super) required: &'static [&'static str],
    pub(super) optional: &'static [&'static str],
}

const fn class(
    name: &'static str,
    constant: &'static str,
    class: &'static str,
    required: &'static [&'static str],
    optional: &'static [&'static str],
) -> Class {
    Class { name, constant, class, required, optional }
}

/// All of them, in the original's order.
pub(super) static ALL: &[Class] = &[
    class("null", "NULL", "NullAction", &[], &[]),
    class(
        "run",
        "RUN",
        "CmdRunAction",
        &["command"],
        &[
            "is_input",
            "thought",
            "blocking",
            "is_static",
            "cwd",
            "hidden",
            "confirmation_state",
            "security_risk",
        ],
    ),
    class(
        "run_ipython",
        "RUN_IPYTHON",
        "IPythonRunCellAction",
        &["code"],
        &["thought", "include_extra", "confirmation_state", "security_risk", "kernel_init_code"],
    ),
    class("browse", "BROWSE", "BrowseURLAction", &["url"], &["thought", "security_risk", "return_axtree"]),
    class(
        "browse_interactive",
        "BROWSE_INTERACTIVE",
        "BrowseInteractiveAction",
        &["browser_actions"],
        &["thought", "browsergym_send_msg_to_user", "security_risk", "return_axtree"],
    ),
    class(
        "read",
        "READ",
        "FileReadAction",
        &["path"],
        &["start", "end", "thought", "security_risk", "impl_source", "view_range"],
    ),
    class(
        "write",
        "WRITE",
        "FileWriteAction",
        &["path", "content"],
        &["start", "end", "thought", "security_risk"],
    ),
    class(
        "edit",
        "EDIT",
        "FileEditAction",
        &["path"],
        &[
            "command",
            "file_text",
            "old_str",
            "new_str",
            "insert_line",
            "content",
            "start",
            "end",
            "thought",
            "security_risk",
            "impl_source",
        ],
    ),
    class("think", "THINK", "AgentThinkAction", &[], &["thought"]),
    class("finish", "FINISH", "AgentFinishAction", &[], &["final_thought", "outputs", "thought"]),
    class("reject", "REJECT", "AgentRejectAction", &[], &["outputs", "thought"]),
    class("delegate", "DELEGATE", "AgentDelegateAction", &["agent", "inputs"], &["thought"]),
    class("recall", "RECALL", "RecallAction", &["recall_type"], &["query", "thought"]),
    class(
        "change_agent_state",
        "CHANGE_AGENT_STATE",
        "ChangeAgentStateAction",
        &["agent_state"],
        &["thought"],
    ),
    class(
        "message",
        "MESSAGE",
        "MessageAction",
        &["content"],
        &["file_urls", "image_urls", "wait_for_response", "security_risk"],
    ),
    class(
        "system",
        "SYSTEM",
        "SystemMessageAction",
        &["content"],
        &["tools", "openhands_version", "agent_class"],
    ),
    class(
        "condensation",
        "CONDENSATION",
        "CondensationAction",
        &[],
        &[
            "forgotten_event_ids",
            "forgotten_events_start_id",
            "forgotten_events_end_id",
            "summary",
            "summary_offset",
        ],
    ),
    class("condensation_request", "CONDENSATION_REQUEST", "CondensationRequestAction", &[], &[]),
    class("call_tool_mcp", "MCP", "MCPAction", &["name"], &["arguments", "thought", "security_risk"]),
    class("task_tracking", "TASK_TRACKING", "TaskTrackingAction", &[], &["command", "task_list", "thought"]),
    class("loop_recovery", "LOOP_RECOVERY", "LoopRecoveryAction", &[], &["option"]),
];

/// The original's observations, which are no actions.
pub(super) static OBSERVATIONS: &[(&str, &str)] = &[
    ("NULL", "null"),
    ("RUN", "run"),
    ("RUN_IPYTHON", "run_ipython"),
    ("BROWSE", "browse"),
    ("READ", "read"),
    ("WRITE", "write"),
    ("EDIT", "edit"),
    ("DELEGATE", "delegate"),
    ("SUCCESS", "success"),
    ("ERROR", "error"),
    ("AGENT_STATE_CHANGED", "agent_state_changed"),
    ("USER_REJECTED", "user_rejected"),
    ("CONDENSE", "condense"),
    ("THINK", "think"),
    ("RECALL", "recall"),
    ("MCP", "mcp"),
    ("DOWNLOAD", "download"),
    ("TASK_TRACKING", "task_tracking"),
    ("LOOP_DETECTION", "loop_detection"),
];

/// `dict_keys([...])` of an enumeration.
pub(super) fn keys<'a>(kind: &str, all: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let all: Vec<String> = all.map(|(constant, name)| format!("<{kind}.{constant}: '{name}'>")).collect();
    format!("dict_keys([{}])", all.join(", "))
}

impl Class {
    /// Why these arguments make no action.
    pub(super) fn misfit<'a>(&self, given: impl Iterator<Item = &'a str> + Clone) -> Option<String> {
        let known = self.required.iter().chain(self.optional);
        if let Some(extra) = given.clone().find(|g| !known.clone().any(|k| k == g)) {
            return Some(format!("{}.__init__() got an unexpected keyword argument '{extra}'", self.class));
        }
        let missing: Vec<String> = self
            .required
            .iter()
            .filter(|r| !given.clone().any(|g| g == **r))
            .map(|name| format!("'{name}'"))
            .collect();
        let (names, s) = match missing.as_slice() {
            [] => return None,
            [one] => (one.clone(), ""),
            [one, two] => (format!("{one} and {two}"), "s"),
            [first @ .., last] => (format!("{}, and {last}", first.join(", ")), "s"),
        };
        let count = missing.len();
        Some(format!("{}.__init__() missing {count} required positional argument{s}: {names}", self.class))
    }
}
