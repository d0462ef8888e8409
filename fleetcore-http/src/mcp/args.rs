//! What the tools are given. The comments are what a model reads.

use std::collections::BTreeMap;

use rmcp::schemars::JsonSchema;
use serde::Deserialize;

/// Nothing.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct Nothing {}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct ListTargets {
    /// Only targets whose name matches: * is any text within one part of a name, ? one character, ** as the last part one
    /// part or more. For example sandbox/*
    #[serde(default)]
    pub(super) pattern: Option<String>,
}

/// What to run, and how.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct Run {
    /// Where, as targets_list names it, e.g. local or sandbox/dev
    pub(super) target: String,
    /// Program and arguments, each its own string; no shell looks at them. Give this or shell
    #[serde(default)]
    pub(super) argv: Option<Vec<String>>,
    /// A script for /bin/sh -c: pipes, redirections, several commands. Give this or argv
    #[serde(default)]
    pub(super) shell: Option<String>,
    /// Working directory
    #[serde(default)]
    pub(super) cwd: Option<String>,
    /// Variables to set besides those of the target. Values are not recorded
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
    /// Text for its standard input, which is empty otherwise
    #[serde(default)]
    pub(super) stdin: Option<String>,
    /// Run as this user; needs a target that allows it
    #[serde(default)]
    pub(super) user: Option<String>,
    /// End it after this many milliseconds. Default 600000 (10 minutes); 0 means no limit
    #[serde(default)]
    pub(super) timeout_ms: Option<u64>,
    /// Most bytes of each of stdout and stderr in the answer; the head and the tail are kept. Default 16384, at most
    /// 1048576
    #[serde(default)]
    pub(super) output_bytes: Option<usize>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct StartCommand {
    /// Where, as targets_list names it, e.g. local or sandbox/dev
    pub(super) target: String,
    /// Program and arguments, each its own string; no shell looks at them. Give this or shell
    #[serde(default)]
    pub(super) argv: Option<Vec<String>>,
    /// A script for /bin/sh -c. Give this or argv
    #[serde(default)]
    pub(super) shell: Option<String>,
    /// Working directory
    #[serde(default)]
    pub(super) cwd: Option<String>,
    /// Variables to set besides those of the target. Values are not recorded
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
    /// Run as this user; needs a target that allows it
    #[serde(default)]
    pub(super) user: Option<String>,
    /// Keep its standard input open for command_input. Default false: its input is empty
    #[serde(default)]
    pub(super) stdin: bool,
    /// End it after this many milliseconds. Default: no limit
    #[serde(default)]
    pub(super) timeout_ms: Option<u64>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct CommandOutput {
    /// Id of the command
    pub(super) command: String,
    /// First byte to read: 0, or next_offset of the answer before. Default 0
    #[serde(default)]
    pub(super) offset: u64,
    /// Most bytes to give back. Default 32768, at most 1048576
    #[serde(default)]
    pub(super) max_bytes: Option<usize>,
    /// When there is nothing new yet: wait this long for it, at most 600000 milliseconds. Default 0
    #[serde(default)]
    pub(super) wait_ms: Option<u64>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct WaitCommand {
    /// Id of the command
    pub(super) command: String,
    /// Give up waiting after this many milliseconds; the command goes on. Default 60000, at most 600000
    #[serde(default)]
    pub(super) timeout_ms: Option<u64>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct TheCommand {
    /// Id of the command
    pub(super) command: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct CommandInput {
    /// Id of the command
    pub(super) command: String,
    /// What to write; lines need their newline
    #[serde(default)]
    pub(super) text: String,
    /// Close the input afterwards, so that the program sees its end
    #[serde(default)]
    pub(super) close: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct ListCommands {
    /// Only on this target
    #[serde(default)]
    pub(super) target: Option<String>,
    /// Only those that have not ended
    #[serde(default)]
    pub(super) running: bool,
    /// Only those whose program contains this text
    #[serde(default)]
    pub(super) search: Option<String>,
    /// At most this many, newest first. Default 20, at most 1000
    #[serde(default)]
    pub(super) limit: Option<usize>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct OpenSession {
    /// Where, as targets_list names it, e.g. local or sandbox/dev
    pub(super) target: String,
    /// A name for it, to be used in the other calls. Default: a new one
    #[serde(default)]
    pub(super) session: Option<String>,
    /// First working directory
    #[serde(default)]
    pub(super) cwd: Option<String>,
    /// Variables to set. Values are not recorded
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
    /// Run the shell as this user; needs a target that allows it
    #[serde(default)]
    pub(super) user: Option<String>,
    /// Columns of its terminal. Default 120
    #[serde(default)]
    pub(super) cols: Option<u16>,
    /// Rows of its terminal. Default 40
    #[serde(default)]
    pub(super) rows: Option<u16>,
    /// Close it after this many seconds without input or output. Default 3600
    #[serde(default)]
    pub(super) idle_timeout_s: Option<u64>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct RunInSession {
    /// Name of the session
    pub(super) session: String,
    /// What to type into the shell; several lines are one turn
    pub(super) command: String,
    /// Come back after this many milliseconds even if it runs on. Default 60000, at most 600000
    #[serde(default)]
    pub(super) timeout_ms: Option<u64>,
    /// Come back after this many milliseconds without new output, e.g. because it waits for input
    #[serde(default)]
    pub(super) quiet_ms: Option<u64>,
    /// Come back when one of these texts appears, e.g. a prompt of the program
    #[serde(default)]
    pub(super) expect: Vec<String>,
    /// Most bytes of output in the answer; the head and the tail are kept. Default 16384, at most 1048576
    #[serde(default)]
    pub(super) output_bytes: Option<usize>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct WaitSession {
    /// Name of the session
    pub(super) session: String,
    /// Come back after this many milliseconds even if it runs on. Default 60000, at most 600000
    #[serde(default)]
    pub(super) timeout_ms: Option<u64>,
    /// Come back after this many milliseconds without new output
    #[serde(default)]
    pub(super) quiet_ms: Option<u64>,
    /// Come back when one of these texts appears
    #[serde(default)]
    pub(super) expect: Vec<String>,
    /// Most bytes of output in the answer; the head and the tail are kept. Default 16384, at most 1048576
    #[serde(default)]
    pub(super) output_bytes: Option<usize>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct SendKeys {
    /// Name of the session
    pub(super) session: String,
    /// Characters to type, before the keys
    #[serde(default)]
    pub(super) text: Option<String>,
    /// Keys to press, in this order: enter, tab, escape, backspace, delete, up, down, left, right, home, end, page_up,
    /// page_down, f1 to f12, or ctrl- and a letter, e.g. ctrl-c
    #[serde(default)]
    pub(super) keys: Vec<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct SessionScreen {
    /// Name of the session
    pub(super) session: String,
    /// Also this many lines that have scrolled off. Default 0
    #[serde(default)]
    pub(super) scrollback: usize,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct TheSession {
    /// Name of the session
    pub(super) session: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct ListSessions {
    /// Only on this target
    #[serde(default)]
    pub(super) target: Option<String>,
}

/// How bytes are written as text.
#[derive(Clone, Copy, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
#[schemars(crate = "rmcp::schemars")]
pub(super) enum Encoding {
    /// As they are
    Utf8,
    /// For what is no text
    Base64,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct ReadFile {
    /// Where, as targets_list names it
    pub(super) target: String,
    /// The file; absolute, or relative to the home of the target
    pub(super) path: String,
    /// First byte to read. Default 0
    #[serde(default)]
    pub(super) offset: u64,
    /// Most bytes to read. Default 65536, at most 1048576
    #[serde(default)]
    pub(super) max_bytes: Option<usize>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct WriteFile {
    /// Where, as targets_list names it
    pub(super) target: String,
    /// The file; absolute, or relative to the home of the target
    pub(super) path: String,
    /// Its whole new contents, or what to append
    pub(super) content: String,
    /// How content is written. Default utf8
    #[serde(default)]
    pub(super) encoding: Option<Encoding>,
    /// Keep what is there and write after it
    #[serde(default)]
    pub(super) append: bool,
    /// Make missing directories
    #[serde(default)]
    pub(super) create_parents: bool,
    /// Permission bits of a new file in octal, e.g. 0755
    #[serde(default)]
    pub(super) mode: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct ThePath {
    /// Where, as targets_list names it
    pub(super) target: String,
    /// The file or directory; absolute, or relative to the home of the target
    pub(super) path: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct RemovePath {
    /// Where, as targets_list names it
    pub(super) target: String,
    /// The file or directory; absolute, or relative to the home of the target
    pub(super) path: String,
    /// Also a directory that is not empty, with everything in it
    #[serde(default)]
    pub(super) recursive: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct RenamePath {
    /// Where, as targets_list names it
    pub(super) target: String,
    /// What it is called now
    pub(super) from: String,
    /// What it is to be called; a file of that name is replaced
    pub(super) to: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct ListMachines {
    /// Only of this provider, e.g. sandbox or multipass
    #[serde(default)]
    pub(super) provider: Option<String>,
    /// Also those that are deleted but can be recovered
    #[serde(default)]
    pub(super) include_deleted: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct CreateMachine {
    /// Its name as a target: PROVIDER/NAME, or AGENT/PROVIDER/NAME, e.g. sandbox/build1
    pub(super) target: String,
    /// Image; the provider has a default
    #[serde(default)]
    pub(super) image: Option<String>,
    /// Virtual processors
    #[serde(default)]
    pub(super) cpus: Option<u32>,
    /// Memory in bytes
    #[serde(default)]
    pub(super) memory_bytes: Option<u64>,
    /// Size of the disk in bytes
    #[serde(default)]
    pub(super) disk_bytes: Option<u64>,
    /// Labels
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    /// Settings of this provider, by name
    #[serde(default)]
    pub(super) options: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct TheMachine {
    /// The machine, as machine_list names it
    pub(super) target: String,
}

/// How to stop a machine.
#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(crate = "rmcp::schemars")]
pub(super) enum HowToStop {
    /// Ask the system to shut down
    #[default]
    Graceful,
    /// Pull the plug
    Force,
    /// Keep memory and stop the clock
    Suspend,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct StopMachine {
    /// The machine, as machine_list names it
    pub(super) target: String,
    /// How. Default graceful
    #[serde(default)]
    pub(super) mode: HowToStop,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "rmcp::schemars")]
pub(super) struct DeleteMachine {
    /// The machine, as machine_list names it
    pub(super) target: String,
    /// For good, also where the provider could recover it
    #[serde(default)]
    pub(super) purge: bool,
}
