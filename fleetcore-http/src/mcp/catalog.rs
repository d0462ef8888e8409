//! All tools: the one place that says which there are.

use std::sync::{Arc, LazyLock};

use fleetcore::{Error, ErrorKind, Result};
use futures::future::BoxFuture;
use rmcp::{
    handler::server::tool::schema_for_input,
    model::{JsonObject, Tool, ToolAnnotations},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{args, call::Call, commands, files, machines, sessions};

/// What calling a tool does to the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// Nothing.
    Reads,
    /// Something new, which harms nothing that is there.
    Adds,
    /// As `Adds`, and a second time changes nothing more.
    Ensures,
    /// What is there may be lost.
    Destroys,
    /// What is there may be lost; a second time changes nothing more.
    Removes,
}

/// One tool.
pub(super) struct Entry {
    name: &'static str,
    effect: Effect,
    tool: Tool,
    work: fn(Arc<Call>, JsonObject) -> BoxFuture<'static, Result<Value>>,
}

impl Entry {
    /// Does it.
    pub(super) async fn call(&self, call: Arc<Call>, args: JsonObject) -> Result<Value> {
        if call.options.read_only && !self.reads() {
            return Err(Error::new(ErrorKind::PermissionDenied, "these tools are limited to reading")
                .with_operation("mcp.call")
                .with_context("tool", self.name));
        }
        (self.work)(call, args).await
    }

    /// Whether it changes nothing.
    pub(super) fn reads(&self) -> bool {
        self.effect == Effect::Reads
    }

    /// How it is listed.
    pub(super) fn tool(&self) -> &Tool {
        &self.tool
    }
}

/// A tool by its name.
pub(super) fn find(name: &str) -> Option<&'static Entry> {
    ALL.iter().find(|e| e.name == name)
}

/// All tools.
pub(super) fn all() -> &'static [Entry] {
    &ALL
}

/// Arguments of a call; the error names the field.
fn parse<T: DeserializeOwned>(args: JsonObject) -> Result<T> {
    serde_path_to_error::deserialize(Value::Object(args)).map_err(|e| {
        let field = e.path().to_string();
        let field = if field == "." { "arguments".to_owned() } else { field };
        let rule = e.inner().to_string();
        Error::new(ErrorKind::InvalidInput, format!("{field}: {rule}"))
            .with_operation("mcp.call")
            .with_context("field", field)
            .with_context("rule", rule)
    })
}

fn describe(
    name: &'static str,
    title: &'static str,
    about: &'static str,
    schema: Arc<JsonObject>,
    effect: Effect,
) -> Tool {
    use Effect as E;
    let reads = effect == E::Reads;
    let mut hints = ToolAnnotations::with_title(title).read_only(reads);
    if !reads {
        hints = hints
            .destructive(matches!(effect, E::Destroys | E::Removes))
            .idempotent(matches!(effect, E::Ensures | E::Removes));
    }
    // What a command of the caller reaches is for the target to say.
    let open = matches!(name, "run" | "command_start" | "command_input" | "session_run" | "session_keys");
    Tool::new(name, about, schema).with_title(title).with_annotations(hints.open_world(open))
}

macro_rules! tools {
    ($($name:literal $title:literal $effect:ident $args:ident $work:path: $about:literal;)*) => {
        vec![$(Entry {
            name: $name,
            effect: Effect::$effect,
            tool: describe(
                $name, $title, $about, schema_for_input::<args::$args>().unwrap_or_default(), Effect::$effect,
            ),
            work: |call, args| Box::pin(async move { $work(&call, parse::<args::$args>(args)?).await }),
        },)*]
    };
}

static ALL: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    tools![
        "targets_list" "List targets" Reads ListTargets machines::targets:
            "Lists where commands can run: this host (local), machines of providers (PROVIDER/NAME) and hosts with an \
             agent, with their state and what they can do. The names are the target of all other tools.";
        "run" "Run a command" Destroys Run commands::run:
            "Runs a program on a target, waits for its end, and gives its exit code, stdout and stderr. An exit code other \
             than 0 is not an error of the tool. Long output is cut in the middle; command_output reads the whole of it. \
             Cancelling the call ends the command. For what runs longer than some minutes use command_start; for a shell \
             that keeps its directory and variables use session_open.";
        "command_start" "Start a long command" Destroys StartCommand commands::start:
            "Starts a program on a target and comes back at once with its id, for command_output, command_wait, \
             command_input and command_cancel. It goes on when this call or connection ends.";
        "command_output" "Read output of a command" Reads CommandOutput commands::output:
            "Reads output of a command from an offset on, also while it runs and after it has ended; stdout and stderr in \
             the order they were written. next_offset is where to go on; with wait_ms it waits for something new.";
        "command_wait" "Wait for a command" Reads WaitCommand commands::wait:
            "Waits until a command has ended, or for timeout_ms, and gives its state and exit code.";
        "command_input" "Write to a command" Destroys CommandInput commands::input:
            "Writes to the standard input of a command that was started with stdin.";
        "command_cancel" "End a command" Removes TheCommand commands::cancel:
            "Ends a command and everything it started: asks it to, then kills it. One that has ended is left alone.";
        "command_list" "List commands" Reads ListCommands commands::list:
            "Lists commands, newest first, those that run and those that have ended.";
        "session_open" "Open a shell" Adds OpenSession sessions::open:
            "Opens a persistent shell with a terminal. Directory, variables and running programs stay between calls. Close \
             it with session_close when it is no longer needed.";
        "session_run" "Run in a shell" Destroys RunInSession sessions::run:
            "Types a command into a shell and waits for its end, or comes back earlier with status running when \
             timeout_ms, quiet_ms or expect says so: then use session_wait, session_keys or session_interrupt.";
        "session_wait" "Wait for a shell" Reads WaitSession sessions::wait:
            "Waits on for the command that is still running in a shell.";
        "session_keys" "Type keys" Destroys SendKeys sessions::keys:
            "Types text and keys into the program in the foreground of a shell, e.g. an answer to its question. Look at \
             the result with session_screen or session_wait.";
        "session_interrupt" "Interrupt a shell" Destroys WaitSession sessions::interrupt:
            "Types Ctrl-C into a shell, then waits for the command to end.";
        "session_screen" "Look at a shell" Reads SessionScreen sessions::screen:
            "What the terminal of a shell shows now, as text, also of programs that fill the screen.";
        "session_close" "Close a shell" Removes TheSession sessions::close:
            "Closes a shell and ends everything it started.";
        "session_list" "List shells" Reads ListSessions sessions::list:
            "Lists open shells.";
        "file_read" "Read a file" Reads ReadFile files::read:
            "Reads a file or a range of it. Text is given as it is (encoding utf8), anything else as base64. When eof is \
             false, go on at next_offset.";
        "file_write" "Write a file" Removes WriteFile files::write:
            "Writes a whole file, replacing it in one step, or appends to it.";
        "file_list" "List a directory" Reads ThePath files::list:
            "Lists the entries of a directory by name, with kind, size, permissions and time of change.";
        "file_stat" "Look at a path" Reads ThePath files::stat:
            "What a path is: kind, size, permissions and time of change.";
        "file_mkdir" "Make a directory" Ensures ThePath files::mkdir:
            "Makes a directory, and those above it that are missing.";
        "file_remove" "Remove a file" Removes RemovePath files::remove:
            "Removes a file or an empty directory; with recursive, a directory and everything in it. There is no way back.";
        "file_rename" "Rename a file" Destroys RenamePath files::rename:
            "Renames or moves a file or directory on its target.";
        "machine_list" "List machines" Reads ListMachines machines::list:
            "Lists machines of all providers with their states, and the providers that could not be asked.";
        "machine_create" "Create a machine" Adds CreateMachine machines::create:
            "Makes a machine and waits until it is running. It may cost time and resources: some providers take minutes.";
        "machine_start" "Start a machine" Ensures TheMachine machines::start:
            "Starts a machine and waits until it is running.";
        "machine_stop" "Stop a machine" Removes StopMachine machines::stop:
            "Stops a machine. Whatever runs on it ends.";
        "machine_delete" "Delete a machine" Removes DeleteMachine machines::delete:
            "Deletes a machine and what is stored on it. There is no way back with purge, and with most providers none at \
             all: ask the user first.";
        "provider_list" "List providers" Reads Nothing machines::providers:
            "Lists the providers of machines, whether they work here, and what is missing if they do not.";
    ]
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_says_what_it_does() {
        assert!(all().len() > 25);
        for entry in all() {
            let tool = entry.tool();
            assert!(find(&tool.name).is_some());
            assert_eq!(tool.input_schema["type"], "object", "{}", tool.name);
            assert_eq!(tool.input_schema["additionalProperties"], false, "{}", tool.name);
            let properties = tool.input_schema.get("properties").and_then(Value::as_object);
            for (name, field) in properties.into_iter().flatten() {
                assert!(
                    field["description"].is_string() || field["$ref"].is_string(),
                    "{}.{name}",
                    tool.name
                );
            }
            assert!(tool.description.as_ref().is_some_and(|d| d.len() > 15), "{}", tool.name);
            let hints = tool.annotations.as_ref().unwrap();
            assert_eq!(hints.read_only_hint, Some(entry.reads()), "{}", tool.name);
        }
        let hints = |name| find(name).unwrap().tool().annotations.clone().unwrap();
        assert_eq!(hints("machine_delete").destructive_hint, Some(true));
        assert_eq!(hints("machine_create").destructive_hint, Some(false));
    }

    #[test]
    fn bad_arguments_name_the_field() {
        let args = serde_json::json!({"target": "local", "argv": ["a", 1]});
        let Err(e) = parse::<args::Run>(args.as_object().unwrap().clone()) else {
            panic!("a number is no argument")
        };
        assert_eq!((e.kind(), e.context_value("field")), (ErrorKind::InvalidInput, Some("argv[1]")));
    }
}
