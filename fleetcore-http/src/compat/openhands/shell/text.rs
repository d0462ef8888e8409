//! The words of the original. Clients and agents read them; every character counts.

/// Nothing was started, or all of it has been told.
pub(super) const NO_LOGS: &str = "ERROR: No previous running command to retrieve logs from.";
/// There is no program that could read.
pub(super) const NO_PROGRAM: &str = "ERROR: No previous running command to interact with.";
/// Before output of a command that has been answered before.
pub(super) const CONTINUATION: &str = "[Below is the output of the previous command.]\n";

const ADVICE: &str = "You may wait longer to see additional output by sending empty command '', send other commands \
to interact with the current process, send keys (\"C-c\", \"C-z\", \"C-d\") to interrupt/kill the previous command \
before sending your new command, or use the timeout parameter in execute_bash for future commands.";

/// Longest content, in characters; what is longer loses its middle.
const CONTENT_MAX_CHARS: usize = 30_000;

/// It has ended; `key` is what was sent to end it.
pub(super) fn completed(code: i32, key: Option<char>) -> String {
    match key {
        None => format!("\n[The command completed with exit code {code}.]"),
        Some(key) => {
            let key = key.to_uppercase();
            format!("\n[The command completed with exit code {code}. CTRL+{key} was sent.]")
        }
    }
}

/// The first lines are lost.
pub(super) fn truncated(lines: usize) -> String {
    format!("[Previous command outputs are truncated. Showing the last {lines} lines of the output below.]\n")
}

/// It has been quiet for so many seconds.
pub(super) fn quiet(seconds: u64) -> String {
    format!("\n[The command has no new output after {seconds} seconds. {ADVICE}]")
}

/// The time is up. Seconds as Python prints a float.
pub(super) fn timed_out(seconds: f64) -> String {
    format!("\n[The command timed out after {seconds:?} seconds. {ADVICE}]")
}

/// Another command runs.
pub(super) fn rejected(command: &str) -> String {
    format!(
        "\n[Your command \"{command}\" is NOT executed. The previous command is still running - You CANNOT send new \
commands until the previous command is completed. By setting `is_input` to `true`, you can interact with the current \
process: {ADVICE}]"
    )
}

/// More than one command.
pub(super) fn several(commands: &[String]) -> String {
    let mut text =
        "ERROR: Cannot execute multiple commands at once.\nPlease run each command separately OR chain \
them into a single command via && or ;\nProvided commands:"
            .to_owned();
    for (n, command) in commands.iter().enumerate() {
        text.push_str(&format!("\n({}) {command}", n + 1));
    }
    text
}

/// Content without its middle, if it is too long.
pub(super) fn shortened(content: String) -> String {
    let half = CONTENT_MAX_CHARS / 2;
    if content.len() <= CONTENT_MAX_CHARS || content.chars().count() <= CONTENT_MAX_CHARS {
        return content;
    }
    let at = |n: usize| content.char_indices().nth(n).map_or(content.len(), |(at, _)| at);
    let tail = content.char_indices().nth_back(half - 1).map_or(0, |(at, _)| at);
    let (head, tail) = (content.get(..at(half)).unwrap_or_default(), content.get(tail..).unwrap_or_default());
    format!("{head}\n[... Observation truncated due to length ...]\n{tail}")
}
