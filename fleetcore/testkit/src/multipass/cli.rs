//! Words on the command line, and what stands in front of every command.

use std::{collections::BTreeMap, io::Write as _, process::ExitCode, time::Duration};

use super::{
    guest, launch,
    plan::{self, Rule},
    render,
    state::{Store, die, pass, release},
    transfer, usage, verbs,
};

/// Options of a command: short, long, whether it takes a value.
type Options = &'static [(&'static str, &'static str, bool)];

/// A command line, taken apart.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) command: String,
    pub(super) words: Vec<String>,
    options: BTreeMap<&'static str, Vec<String>>,
}

impl Line {
    pub(super) fn has(&self, option: &str) -> bool {
        self.options.contains_key(option)
    }

    pub(super) fn get(&self, option: &str) -> Option<&str> {
        self.options.get(option)?.last().map(String::as_str)
    }

    pub(super) fn all(&self, option: &str) -> impl Iterator<Item = &str> {
        self.options.get(option).into_iter().flatten().map(String::as_str)
    }
}

/// One call: what all commands need.
pub(super) struct Call {
    pub(super) store: Store,
    pub(super) line: Line,
    pub(super) rule: Rule,
}

impl Call {
    /// Complains as the program does; gives the exit status.
    pub(super) fn failed(&self, text: impl std::fmt::Display) -> u8 {
        eprintln!("{} failed: {text}", self.line.command);
        2
    }

    /// Prints a document, or what the plan makes of it.
    pub(super) fn print(&self, document: &serde_json::Value) -> u8 {
        // Only JSON is for programs; the other formats are there to be accepted.
        let mut text = render::pretty(document);
        if self.rule.garble_json {
            text = "{\"list\": [oops".to_owned();
        }
        if let Some(n) = self.rule.truncate_stdout {
            text.truncate(n);
        }
        let _ = std::io::stdout().write_all(text.as_bytes());
        0
    }
}

fn options(command: &str) -> Option<Options> {
    const FORMAT: (&str, &str, bool) = ("", "format", true);
    Some(match command {
        "version" | "networks" | "aliases" => &[FORMAT],
        "list" | "ls" => &[FORMAT, ("", "snapshots", false), ("", "no-ipv4", false)],
        "info" => {
            &[FORMAT, ("", "snapshots", false), ("", "no-runtime-information", false), ("", "all", false)]
        }
        "find" => &[
            FORMAT,
            ("", "show-unsupported", false),
            ("", "force-update", false),
            ("", "only-images", false),
            ("", "only-blueprints", false),
        ],
        "launch" => &[
            ("c", "cpus", true),
            ("m", "memory", true),
            ("", "mem", true),
            ("d", "disk", true),
            ("n", "name", true),
            ("", "cloud-init", true),
            ("", "network", true),
            ("", "bridged", false),
            ("", "mount", true),
            ("", "timeout", true),
            ("", "zone", true),
        ],
        "start" | "restart" => &[("", "all", false), ("", "timeout", true)],
        "stop" => &[("", "all", false), ("t", "time", true), ("c", "cancel", false), ("", "force", false)],
        "suspend" | "recover" => &[("", "all", false)],
        "delete" => &[("", "all", false), ("p", "purge", false)],
        "exec" => &[("d", "working-directory", true), ("n", "no-map-working-directory", false)],
        "shell" => &[("", "timeout", true)],
        "transfer" => &[("r", "recursive", false), ("p", "parents", false)],
        "mount" => &[("u", "uid-map", true), ("g", "gid-map", true), ("t", "type", true)],
        "snapshot" => &[("n", "name", true), ("m", "comment", true)],
        "restore" => &[("d", "destructive", false)],
        "clone" => &[("n", "name", true)],
        "get" => &[("", "raw", false), ("", "keys", false)],
        "set" | "umount" | "purge" | "help" | "authenticate" => &[],
        _ => return None,
    })
}

/// First release that has a command or an option.
fn since(command: &str, option: &str) -> (u32, u32) {
    match (command, option) {
        ("snapshot" | "restore", _) | (_, "snapshots" | "force-update") => (1, 13),
        ("clone", _) => (1, 15),
        ("authenticate", _) => (1, 9),
        ("exec", "working-directory" | "no-map-working-directory")
        | (_, "keys" | "no-runtime-information") => (1, 10),
        ("launch", "mount") => (1, 10),
        ("launch", "memory") | ("transfer", "recursive" | "parents") | ("mount", "type") => (1, 11),
        ("stop", "force") => (1, 14),
        ("launch", "zone") => (1, 17),
        _ => (1, 8),
    }
}

fn parse(command: &str, known: Options, args: &[String]) -> Result<Line, u8> {
    let mut line = Line { command: command.to_owned(), ..Line::default() };
    let mut unknown: Vec<String> = Vec::new();
    let mut rest = args.iter();
    let old_short = |short: &str, long: &str| short.is_empty() || (command, long) == ("launch", "memory");
    while let Some(arg) = rest.next() {
        if arg == "--" {
            line.words.extend(rest.by_ref().cloned());
        } else if let Some(text) = arg.strip_prefix("--") {
            let (name, value) = text.split_once('=').map_or((text, None), |(n, v)| (n, Some(v.to_owned())));
            match known.iter().find(|(_, long, _)| *long == name) {
                Some((_, long, _)) if since(command, long) > release() => unknown.push(name.to_owned()),
                Some((_, long, true)) => match value.or_else(|| rest.next().cloned()) {
                    Some(value) => line.options.entry(long).or_default().push(value),
                    None => {
                        eprintln!("Missing value after '--{name}'.");
                        return Err(1);
                    }
                },
                Some((_, long, false)) => drop(line.options.entry(long).or_default()),
                None => unknown.push(name.to_owned()),
            }
        } else if let Some(text) = arg.strip_prefix('-').filter(|t| !t.is_empty()) {
            for (at, letter) in text.char_indices() {
                let found = known.iter().find(|(short, ..)| short.chars().eq([letter]));
                match found {
                    Some((short, long, _)) if since(command, long) > release() && !old_short(short, long) => {
                        unknown.push(letter.to_string());
                    }
                    Some((_, long, true)) => {
                        let tail = &text[at + letter.len_utf8()..];
                        let value =
                            if tail.is_empty() { rest.next().cloned() } else { Some(tail.to_owned()) };
                        let Some(value) = value else {
                            eprintln!("Missing value after '-{letter}'.");
                            return Err(1);
                        };
                        line.options.entry(long).or_default().push(value);
                        break;
                    }
                    Some((_, long, false)) => drop(line.options.entry(long).or_default()),
                    None if letter == 'v' => {}
                    None => unknown.push(letter.to_string()),
                }
            }
        } else {
            line.words.push(arg.clone());
        }
    }
    match unknown.as_slice() {
        [] => Ok(line),
        [one] => {
            eprintln!("Unknown option '{one}'.");
            Err(1)
        }
        many => {
            eprintln!("Unknown options: {}.", many.join(", "));
            if command == "exec" {
                eprintln!(
                    "\nOptions to the inner command should come after \"--\", like this:\nmultipass exec \
                     <instance> -- <command> <arguments>"
                );
            }
            Err(1)
        }
    }
}

/// The whole program: reads its own arguments.
pub fn main() -> ExitCode {
    let argv: Vec<String> = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    let store = Store::open().unwrap_or_else(|e| die(&e));
    if let Some((first, rest)) = argv.split_first()
        && first == "--stand-in-daemon"
    {
        launch::daemon(&store, rest);
        return ExitCode::SUCCESS;
    }
    store.journal(&argv);
    ExitCode::from(run(store, argv))
}

fn run(store: Store, argv: Vec<String>) -> u8 {
    let Some((command, args)) = argv.split_first() else {
        println!("Usage: multipass [options] <command>");
        return 2;
    };
    let command = match command.as_str() {
        "ls" => "list",
        "sh" | "connect" => "shell",
        "copy-files" => "transfer",
        "unmount" => "umount",
        "auth" => "authenticate",
        "--help" | "-h" => "help",
        "--version" | "-V" => "version",
        other => other,
    };
    let known = options(command).filter(|_| since(command, "") <= release());
    let Some(known) = known else {
        println!(
            "Error: Unknown command or alias '{command}' (try \"multipass help\" or \"multipass aliases\")"
        );
        return 1;
    };
    if command == "help" || args.iter().take_while(|a| *a != "--").any(|a| a == "--help" || a == "-h") {
        println!("Usage: multipass {command}");
        return 0;
    }
    let line = match parse(command, known, args) {
        Ok(line) => line,
        Err(status) => return status,
    };
    if let Some(text) = usage::complaint(&line) {
        eprintln!("{text}");
        return 1;
    }
    if line.get("format").is_some_and(|f| !matches!(f, "json" | "table" | "csv" | "yaml")) {
        eprintln!("Invalid format type given.");
        return 1;
    }
    let rule = plan::rule(&store, &argv).unwrap_or_default();
    let call = Call { store, line, rule };
    if let Some(status) = misfortune(&call) {
        return status;
    }
    match call.line.command.as_str() {
        "launch" => launch::client(&call),
        "exec" | "shell" => guest::run(&call),
        "transfer" => transfer::run(&call),
        _ => verbs::run(&call),
    }
}

/// What the plan has in store before anything is done.
fn misfortune(call: &Call) -> Option<u8> {
    let (rule, command) = (&call.rule, call.line.command.as_str());
    if rule.ignore_sigterm {
        // SIGTERM waits for ever: nobody unblocks it.
        guest::block_sigterm();
    }
    if let Some(ms) = rule.kill_self_after_ms {
        std::thread::spawn(move || {
            pass(Duration::from_millis(ms));
            guest::kill_self();
        });
    }
    pass(Duration::from_millis(rule.delay_ms));
    if let Some(class) = &rule.fail {
        let name = call.line.words.first().map_or("", String::as_str);
        let (status, text) = plan::complaint(class, command, name);
        eprint!("{text}");
        return Some(rule.exit.unwrap_or(status));
    }
    if rule.stderr.is_some() || rule.exit.is_some() {
        eprint!("{}", rule.stderr.as_deref().unwrap_or_default());
        return Some(rule.exit.unwrap_or(2));
    }
    match rule.daemon.as_deref() {
        // A launch is begun first.
        _ if command == "launch" && rule.daemon.as_deref() == Some("dies") => None,
        Some("down" | "unauthenticated") if command == "version" => None,
        Some("down" | "dies") => Some(call.failed("cannot connect to the multipass socket")),
        Some("unauthenticated") => Some(call.failed(
            "The client is not authenticated with the Multipass service.\n\
             Please use 'multipass authenticate' before proceeding.",
        )),
        Some("hangs") if command != "launch" => loop {
            pass(Duration::from_secs(3600));
        },
        _ => None,
    }
}
