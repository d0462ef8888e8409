//! What the client refuses by itself, in its own words. Asked before the daemon is.

use std::path::Path;

use super::{cli::Line, verbs::size};

/// The complaint about a command line; the status is 1 for all of them.
pub(super) fn complaint(line: &Line) -> Option<String> {
    let words: Vec<&str> = line.words.iter().map(String::as_str).collect();
    let all = line.has("all");
    let text = match (line.command.as_str(), words.as_slice()) {
        ("version" | "list" | "networks" | "aliases" | "purge", [_, ..]) => "This command takes no arguments",
        ("list", _) if line.has("snapshots") && line.has("no-ipv4") => {
            "IP addresses are not applicable in conjunction with listing snapshots"
        }
        ("stop", [_, _, ..]) if all => "Cannot specify names when --all option set",
        ("info" | "start" | "stop" | "suspend" | "restart" | "delete" | "recover", [_, ..]) if all => {
            "Cannot specify name when --all option set"
        }
        ("delete" | "recover", []) if !all => "Name argument or --all is required",
        ("launch", [_, _, ..]) => "Too many arguments supplied",
        ("launch", [image]) if !image.contains("://") && image.matches(':').count() > 1 => {
            "Invalid remote and source image name supplied"
        }
        ("find", [_, _, ..]) => "Wrong number of arguments",
        ("find", [query]) if query.matches(':').count() > 1 => "Invalid remote and search string supplied",
        ("exec", [] | [_]) => "Wrong number of arguments",
        ("exec", _) if line.has("working-directory") && line.has("no-map-working-directory") => {
            "Options --working-directory and --no-map-working-directory clash"
        }
        ("shell", [_, _, ..]) => "Too many arguments given",
        ("stop", _) => return stop(line),
        ("transfer", _) => return transfer(&words),
        ("mount", _) => return mount(line, &words),
        ("umount", []) => "Not enough arguments given",
        ("set", [pair]) if pair.matches('=').count() > 1 || pair.starts_with('=') => "Bad key-value format.",
        ("set", []) => "Need exactly one key-value pair (in <key>=<value> form).",
        ("get", [_, _, ..]) => "Need at most one setting key.",
        ("snapshot", []) => "Need the name of an instance to snapshot.",
        ("snapshot", [_, _, ..]) => "Too many arguments supplied",
        ("restore", []) => "Need the name of an instance and snapshot to restore.",
        ("restore", [_, _, ..]) => "Too many arguments supplied.",
        ("restore", [word]) if word.matches('.').count() != 1 => {
            "Invalid format. Please specify the instance to restore and snapshot to use in the form \
             <instance>.<snapshot>."
        }
        ("clone", []) => "Please provide the name of the source instance.",
        ("clone", [_, _, ..]) => "Too many arguments.",
        ("authenticate", [_, _, ..]) => "Too many arguments given",
        ("launch", _) => return launch(line),
        _ => return timeout(line),
    };
    Some(text.to_owned())
}

fn timeout(line: &Line) -> Option<String> {
    let bad = line.get("timeout").is_some_and(|t| !matches!(t.parse::<u64>(), Ok(1..)));
    bad.then(|| "error: --timeout value has to be a positive integer".to_owned())
}

fn stop(line: &Line) -> Option<String> {
    let time = line.get("time");
    if time.is_some_and(|t| t.trim_start_matches('+').parse::<u64>().is_err()) {
        return Some("Time must be in digit form".to_owned());
    }
    if line.has("force") && (time.is_some() || line.has("cancel")) {
        return Some("Cannot set 'force' along with 'time' or 'cancel' options at the same time".to_owned());
    }
    (time.is_some() && line.has("cancel"))
        .then(|| "Cannot set 'time' and 'cancel' options at the same time".to_owned())
}

fn source(what: &str, path: &str) -> Option<String> {
    let at = Path::new(path);
    match (at.exists(), at.is_dir()) {
        (false, _) => Some(format!("{what} path \"{path}\" does not exist")),
        (_, false) => Some(format!("{what} path \"{path}\" is not a directory")),
        _ => None,
    }
}

fn launch(line: &Line) -> Option<String> {
    if let Some(cpus) = line.get("cpus").filter(|c| !matches!(c.parse::<u64>(), Ok(1..))) {
        return Some(format!("Error: invalid CPU count '{cpus}', need a positive integer value."));
    }
    if line.has("mem") && line.has("memory") {
        return Some(
            "Error: invalid option(s) used for memory allocation. Please use \"--memory\" to specify amount of \
             memory to allocate."
                .to_owned(),
        );
    }
    for option in ["memory", "mem", "disk"] {
        if let Some(text) = line.get(option).filter(|t| size(t).is_none()) {
            return Some(format!(
                "[<TIME>] [error] [client] Caught an unhandled exception: {text} is not a valid memory size - need \
                 a non-negative integer (in base 10) or a decimal followed by K, M, or G (e.g. 1234B, 42MiB, 0.5G)"
            ));
        }
    }
    let config =
        line.get("cloud-init").filter(|c| *c != "-" && !c.starts_with("http") && !Path::new(c).is_file());
    if let Some(config) = config {
        return Some(format!(
            "Could not load cloud-init configuration: bad file: {config}\nPlease ensure that Multipass can read it."
        ));
    }
    for mount in line.all("mount") {
        let from = mount.split(':').next().unwrap_or_default();
        if let Some(text) = source("Mount source", from) {
            return Some(text);
        }
    }
    timeout(line).or_else(|| line.all("network").find_map(network))
}

fn network(text: &str) -> Option<String> {
    if !text.contains(['=', ',']) {
        return None;
    }
    let mut named = false;
    for field in text.split(',') {
        match field.split_once('=') {
            None => return Some(format!("error: Bad network field definition: {field}")),
            Some(("name", _)) => named = true,
            Some(("mode", "auto" | "manual")) => {}
            Some(("mode", mode)) => {
                return Some(format!("error: Bad network mode '{mode}', need 'auto' or 'manual'"));
            }
            Some(("mac", mac)) if mac.split(':').count() == 6 => {}
            Some(("mac", mac)) => return Some(format!("error: Invalid MAC address: {mac}")),
            Some((key, _)) => return Some(format!("error: Bad network field: {key}")),
        }
    }
    (!named).then(|| "error: Bad network definition, need at least a 'name' field".to_owned())
}

fn transfer(words: &[&str]) -> Option<String> {
    let Some((to, from)) = words.split_last().filter(|(_, from)| !from.is_empty()) else {
        return Some("Not enough arguments given".to_owned());
    };
    let there = |w: &&str| w.contains(':');
    let pipes = words.iter().filter(|w| **w == "-").count();
    let remote = from.iter().filter(|w| there(w)).count();
    let text = if pipes > 1 {
        "Only one '-' allowed"
    } else if pipes == 1 && words.len() > 2 {
        "Only two arguments allowed when using '-'"
    } else if from.contains(&"-") && !there(to) {
        "Target must be inside an instance"
    } else if *to == "-" && remote == 0 {
        "Source must be from inside an instance"
    } else if there(to) && remote > 0 {
        "Cannot specify an instance name for both source and destination"
    } else if !there(to) && remote == 0 {
        "An instance name is needed for either source or destination"
    } else if !there(to) && remote < from.len() {
        "All sources must be from inside an instance"
    } else {
        return None;
    };
    Some(text.to_owned())
}

fn mount(line: &Line, words: &[&str]) -> Option<String> {
    let [from, _, ..] = words else { return Some("Not enough arguments given".to_owned()) };
    if let Some(text) = source("Source", from) {
        return Some(text);
    }
    let number = |s: &str| s.parse::<u32>().is_ok();
    let good = |m: &str| m.split_once(':').is_some_and(|(a, b)| number(a) && (number(b) || b == "default"));
    for (option, what) in [("uid-map", "UID"), ("gid-map", "GID")] {
        if let Some(map) = line.all(option).find(|m| !good(m)) {
            return Some(format!("Invalid {what} map given: {map}"));
        }
    }
    let kind = line.get("type").filter(|t| !matches!(*t, "classic" | "native"))?;
    Some(format!("error: Bad mount type '{kind}' specified, please use 'classic' or 'native'"))
}
