//! What providers can do besides the life of machines.

use serde::{Deserialize, Serialize};

use super::Json;
use crate::{Error, ErrorKind, MachineId, Result};

/// What an action is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ActionScope {
    /// The provider as a whole.
    Provider,
    /// One machine.
    Machine,
    /// One machine if one is named, all of them otherwise.
    Either,
}

/// Type of an argument of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ArgumentKind {
    /// A string.
    Text,
    /// A whole number, not negative.
    Integer,
    /// `true` or `false`.
    Flag,
    /// A list of strings.
    List,
}

/// One argument of an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ActionArgument {
    /// Its key.
    pub name: String,
    /// Its type.
    pub kind: ArgumentKind,
    /// Whether it must be given.
    pub required: bool,
    /// What it means, in one line for people.
    pub about: String,
}

/// One action of a provider: enough to build a form for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ActionInfo {
    /// Its name, e.g. `snapshot`.
    pub name: String,
    /// What it does, in one line for people.
    pub about: String,
    /// What it is done to.
    pub scope: ActionScope,
    /// `false` for a question, which may be asked again at will and is not audited.
    pub changes: bool,
    /// Whether it loses data that cannot be brought back: ask before.
    pub destroys: bool,
    /// Its arguments; others are refused.
    pub arguments: Vec<ActionArgument>,
}

impl ActionInfo {
    /// An action that changes something.
    pub fn new(name: impl Into<String>, scope: ActionScope, about: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            about: about.into(),
            scope,
            changes: true,
            destroys: false,
            arguments: Vec::new(),
        }
    }

    /// An action that only asks.
    pub fn question(name: impl Into<String>, scope: ActionScope, about: impl Into<String>) -> Self {
        Self { changes: false, ..Self::new(name, scope, about) }
    }

    /// Marks it as losing data.
    #[must_use]
    pub fn destroying(mut self) -> Self {
        self.destroys = true;
        self
    }

    /// Adds an argument that must be given.
    #[must_use]
    pub fn requires(mut self, name: impl Into<String>, kind: ArgumentKind, about: impl Into<String>) -> Self {
        let (name, about) = (name.into(), about.into());
        self.arguments.push(ActionArgument { name, kind, required: true, about });
        self
    }

    /// Adds an argument that may be left out.
    #[must_use]
    pub fn accepts(mut self, name: impl Into<String>, kind: ArgumentKind, about: impl Into<String>) -> Self {
        let (name, about) = (name.into(), about.into());
        self.arguments.push(ActionArgument { name, kind, required: false, about });
        self
    }

    /// Checks that `machine` and `args` are what this action takes.
    ///
    /// # Errors
    /// `InvalidInput` that names the field: `machine`, or the argument.
    pub fn check(&self, machine: Option<&MachineId>, args: &Json) -> Result<()> {
        let refuse = |error: Error| Err(error.with_context("action", &self.name));
        match (self.scope, machine) {
            (ActionScope::Machine, None) => {
                return refuse(Error::invalid("machine", "named for this action"));
            }
            (ActionScope::Provider, Some(_)) => {
                return refuse(Error::invalid(
                    "machine",
                    "left out: this is an action of the whole provider",
                ));
            }
            _ => {}
        }
        if let Some(unknown) = args.keys().find(|key| !self.arguments.iter().any(|a| a.name == **key)) {
            let known: Vec<&str> = self.arguments.iter().map(|a| a.name.as_str()).collect();
            return refuse(
                Error::invalid("args", "free of unknown keys")
                    .with_context("argument", unknown.escape_debug())
                    .with_context("known", known.join(" ")),
            );
        }
        for argument in &self.arguments {
            let rule = match args.get(&argument.name) {
                None | Some(serde_json::Value::Null) if argument.required => "given",
                None | Some(serde_json::Value::Null) => continue,
                Some(value) => match argument.kind {
                    ArgumentKind::Text if !value.is_string() => "a string",
                    ArgumentKind::Integer if !value.is_u64() => "a whole number that is not negative",
                    ArgumentKind::Flag if !value.is_boolean() => "true or false",
                    ArgumentKind::List
                        if !value.as_array().is_some_and(|l| l.iter().all(serde_json::Value::is_string)) =>
                    {
                        "a list of strings"
                    }
                    _ => continue,
                },
            };
            return refuse(Error::invalid("args", rule).with_context("argument", &argument.name));
        }
        Ok(())
    }

    /// Finds `action` in `actions`.
    ///
    /// # Errors
    /// `Unsupported`, with the names of those that are there.
    pub fn find<'a>(actions: &'a [Self], action: &str) -> Result<&'a Self> {
        actions.iter().find(|a| a.name == action).ok_or_else(|| {
            let known: Vec<&str> = actions.iter().map(|a| a.name.as_str()).collect();
            Error::new(ErrorKind::Unsupported, "the provider has no such action")
                .with_operation("machine.act")
                .with_context("capability", "actions")
                .with_context("action", action.escape_debug())
                .with_context("known", known.join(" "))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn args(value: serde_json::Value) -> Json {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn arguments_and_scope_are_checked() {
        let action = ActionInfo::new("mount", ActionScope::Machine, "")
            .requires("source", ArgumentKind::Text, "")
            .accepts("uid_maps", ArgumentKind::List, "")
            .accepts("count", ArgumentKind::Integer, "")
            .accepts("force", ArgumentKind::Flag, "");
        let id = MachineId::new("m").unwrap();
        action.check(Some(&id), &args(json!({"source": "/x", "uid_maps": ["1:2"], "force": null}))).unwrap();
        for bad in [
            json!({}),
            json!({"source": null}),
            json!({"source": 1}),
            json!({"source": "/x", "other": 1}),
            json!({"source": "/x", "uid_maps": [1]}),
            json!({"source": "/x", "count": -1}),
            json!({"source": "/x", "force": "yes"}),
        ] {
            let error = action.check(Some(&id), &args(bad)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert_eq!(error.context_value("field"), Some("args"));
        }
        let error = action.check(None, &args(json!({"source": "/x"}))).unwrap_err();
        assert_eq!(error.context_value("field"), Some("machine"));
        ActionInfo::new("all", ActionScope::Provider, "").check(Some(&id), &Json::new()).unwrap_err();
        let error = ActionInfo::find(&[action], "explode").unwrap_err();
        assert_eq!((error.kind(), error.context_value("known")), (ErrorKind::Unsupported, Some("mount")));
    }
}
