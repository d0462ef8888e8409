//! The commands that ask or change the daemon's state.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _, time::Duration};

use serde_json::json;

use super::{
    cli::Call,
    guest, render,
    state::{Instance, Snapshot, State, Store, pass, release, scaled, version},
    terminal,
};

/// The grammar of names of instances and snapshots.
pub(super) fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Bytes of a size as the program accepts it.
pub(super) fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 1u64,
        "K" | "KB" | "KIB" => 1 << 10,
        "M" | "MB" | "MIB" => 1 << 20,
        "G" | "GB" | "GIB" => 1 << 30,
        _ => return None,
    };
    if number.starts_with('.') || (factor == 1 && number.contains('.')) {
        return None;
    }
    number.parse::<f64>().ok().map(|n| (n * factor as f64) as u64)
}

/// Files of a new guest.
pub(super) fn make_home(store: &Store, name: &str) {
    let _ = fs::create_dir_all(store.home(name));
    let bin = store.path("guest-bin");
    let _ = fs::create_dir_all(&bin);
    let tools = [
        ("cloud-init", "#!/bin/sh\ncat \"$HOME/.cloud-status\" 2>/dev/null || echo 'status: done'\n"),
        // Without a password, like that of the user there.
        ("sudo", "#!/bin/sh\n[ \"$1\" = -n ] && shift\nexec \"$@\"\n"),
    ];
    for (tool, script) in tools {
        let (path, fresh) = (bin.join(tool), bin.join(format!(".{tool}.{}", std::process::id())));
        if !path.exists() {
            let _ = fs::write(&fresh, script);
            let _ = fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755));
            let _ = fs::rename(&fresh, &path);
        }
    }
}

fn running(state: &State) -> u64 {
    state.instances.values().filter(|i| i.state == "Running").count() as u64
}

/// Everything but launch, exec, shell and transfer.
pub(super) fn run(call: &Call) -> u8 {
    let line = &call.line;
    match line.command.as_str() {
        "version" => {
            let down = matches!(call.rule.daemon.as_deref(), Some("down" | "unauthenticated"));
            let version = version();
            call.print(&if down {
                json!({"multipass": version})
            } else {
                json!({"multipass": version, "multipassd": version})
            })
        }
        "aliases" => call.print(&json!({"active-context": "default", "contexts": {"default": {}}})),
        "list" => {
            let turn = call.store.turn();
            let state = turn.load();
            let addresses = !line.has("no-ipv4");
            pass(scaled(30 + if addresses { 20 * running(&state) } else { 0 }));
            if line.has("snapshots") {
                return call.print(&render::snapshots(&state));
            }
            call.print(&render::list(&state, addresses))
        }
        "info" => info(call),
        "find" => call.print(&render::find(line.words.first().map(String::as_str))),
        "networks" => call.print(&json!({"list": [
            {"name": "eth0", "type": "ethernet", "description": "Ethernet device"},
            {"name": "mpbr0", "type": "bridge", "description": "Network bridge for Multipass"}]})),
        "start" => start(call, &line.words),
        "stop" => stop(call),
        "suspend" => each(call, "Suspending", &|call, name| {
            let was = state_of(call, name);
            if was == "Running" {
                terminal_time(3000);
                guest::power_off(&call.store, name);
                set(call, name, "Suspended");
            }
            Ok(())
        }),
        "restart" => each(call, "Restarting", &|call, name| {
            if state_of(call, name) != "Running" {
                let q = if release() >= (1, 17) { '\'' } else { '"' };
                let i = if release() >= (1, 17) { "Instance" } else { "instance" };
                return Err(format!("{i} {q}{name}{q} is not running"));
            }
            guest::power_off(&call.store, name);
            terminal_time(6000);
            Ok(())
        }),
        "recover" => each(call, "", &|call, name| {
            if state_of(call, name) == "Deleted" {
                set(call, name, "Stopped");
            }
            Ok(())
        }),
        "delete" => delete(call),
        "purge" => {
            let turn = call.store.turn();
            turn.update(|state| {
                state.instances.retain(|name, i| {
                    if i.state == "Deleted" {
                        let _ = fs::remove_dir_all(call.store.home(name));
                    }
                    i.state != "Deleted"
                });
            });
            0
        }
        "mount" => mount(call),
        "umount" => umount(call),
        "snapshot" => snapshot(call),
        "restore" => restore(call),
        "clone" => clone(call),
        "get" | "set" => setting(call),
        "authenticate" => 0,
        other => call.failed(format_args!("the stand-in has no {other}")),
    }
}

fn terminal_time(ms: u64) {
    pass(scaled(ms));
}

fn state_of(call: &Call, name: &str) -> String {
    let turn = call.store.turn();
    turn.load().instances.get(name).map(|i| i.state.clone()).unwrap_or_default()
}

fn set(call: &Call, name: &str, word: &str) {
    call.store.turn().update(|state| {
        if let Some(i) = state.instances.get_mut(name) {
            word.clone_into(&mut i.state);
        }
    });
}

/// Names that are missing, and deleted where `living` are wanted: the complaint about them.
fn check(state: &State, names: &[String], living: bool) -> Result<(), String> {
    let mut lines: Vec<String> = Vec::new();
    let deleted = |n: &&String| state.instances.get(*n).is_some_and(|i| i.state == "Deleted");
    if living {
        lines.extend(names.iter().filter(deleted).map(|n| format!("instance \"{n}\" is deleted")));
    }
    let missing = names.iter().filter(|n| !state.instances.contains_key(*n));
    lines.extend(missing.map(|n| format!("instance \"{n}\" does not exist")));
    if lines.is_empty() {
        Ok(())
    } else {
        Err(format!("The following errors occurred:\n{}", lines.join("\n")))
    }
}

/// Names of a command; all living ones for `--all`.
fn names(call: &Call) -> Vec<String> {
    if call.line.has("all") {
        let state = call.store.turn().load();
        return state
            .instances
            .iter()
            .filter(|(_, i)| i.state != "Deleted")
            .map(|(n, _)| n.clone())
            .collect();
    }
    call.line.words.clone()
}

/// Does something to each name; the first failure ends it.
fn each(call: &Call, doing: &str, work: &dyn Fn(&Call, &str) -> Result<(), String>) -> u8 {
    let names = names(call);
    if names.is_empty() {
        eprintln!("Name argument or --all is required");
        return 1;
    }
    let what = names.first().filter(|_| names.len() == 1).map_or("requested instances", String::as_str);
    if !doing.is_empty() {
        terminal::spin_for(&format!("{doing} {what}"), Duration::from_millis(5));
    }
    let checked = check(&call.store.turn().load(), &names, call.line.command != "recover");
    let done = checked.and_then(|()| names.iter().try_for_each(|name| work(call, name)));
    match done {
        Ok(()) => 0,
        Err(text) => call.failed(text),
    }
}

/// `start`, also on behalf of `exec`.
pub(super) fn start(call: &Call, names: &[String]) -> u8 {
    let fail = |text: &str| {
        eprintln!("start failed: {text}");
        2
    };
    if names.is_empty() {
        eprintln!("Name argument or --all is required");
        return 1;
    }
    terminal::spin_for(&format!("Starting {}", names.join(" ")), Duration::from_millis(5));
    let state = call.store.turn().load();
    let mut lines = Vec::new();
    for name in names {
        match state.instances.get(name).map(|i| i.state.as_str()) {
            None => lines.push(format!("Instance '{name}' does not exist.")),
            Some("Deleted") => lines.push(format!(
                "Instance '{name}' is deleted. Use 'recover' to recover it or 'purge' to permanently delete it."
            )),
            _ => {}
        }
    }
    if !lines.is_empty() {
        return fail(&format!("instance(s) missing\n{}\n", lines.join("\n")));
    }
    for name in names {
        match state_of(call, name).as_str() {
            "Unknown" => {
                return fail(&format!(
                    "The following errors occurred:\nInstance '{name}' is already running, but in an unknown \
                     state.\nTry to stop it first."
                ));
            }
            "Running" => {}
            was => {
                set(call, name, "Starting");
                pass(scaled(if was == "Suspended" { 2000 } else { 6000 }));
                set(call, name, "Running");
            }
        }
    }
    0
}

fn stop(call: &Call) -> u8 {
    let force = call.line.has("force");
    each(call, "Stopping", &|call, name| {
        // The daemon does nothing else meanwhile.
        let turn = call.store.turn();
        let mut state = turn.load();
        let Some(instance) = state.instances.get_mut(name) else { return Ok(()) };
        match instance.state.as_str() {
            "Stopped" => return Ok(()),
            "Suspended" if !force => {
                return Err(format!(
                    "Cannot shut down suspended instance {name}.\nUse --force to power it off."
                ));
            }
            "Starting" if !force => {
                return Err(format!(
                    "Cannot shut down instance {name} while starting.\nUse --force to power it off."
                ));
            }
            _ => {}
        }
        if call.line.get("time").is_some_and(|t| t.trim_start_matches('+') != "0") {
            "Delayed Shutdown".clone_into(&mut instance.state);
        } else {
            pass(scaled(4000));
            guest::power_off(&call.store, name);
            "Stopped".clone_into(&mut instance.state);
        }
        turn.save(&state);
        Ok(())
    })
}

fn info(call: &Call) -> u8 {
    let turn = call.store.turn();
    let state = turn.load();
    let mut names = call.line.words.clone();
    if names.is_empty() {
        if release() < (1, 13) && !call.line.has("all") {
            eprintln!("Name argument or --all is required");
            return 1;
        }
        names = state.instances.keys().cloned().collect();
    }
    if let Err(text) = check(&state, &names, false) {
        return call.failed(text);
    }
    pass(scaled(30 + 60 * running(&state)));
    let all: serde_json::Map<_, _> = names
        .iter()
        .filter_map(|n| Some((n, state.instances.get(n)?)))
        .map(|(n, i)| render::info(n, i))
        .collect();
    call.print(&json!({"errors": [], "info": all}))
}

fn delete(call: &Call) -> u8 {
    let purge = call.line.has("purge");
    let (snapshots, instances): (Vec<String>, Vec<String>) =
        names(call).into_iter().partition(|n| n.contains('.'));
    if !snapshots.is_empty() && !purge {
        eprintln!(
            "[2026-01-01T00:00:00.000] [error] [client] Caught an unhandled exception: Snapshots can only be purged \
             (after deletion, they cannot be recovered). Unable to query client for confirmation. Please use the \
             `--purge` flag if that is what you want."
        );
        return 1;
    }
    let turn = call.store.turn();
    let mut state = turn.load();
    if let Err(text) = check(&state, &instances, false) {
        return call.failed(text);
    }
    for snapshot in &snapshots {
        let found = snapshot.split_once('.').and_then(|(i, s)| Some((state.instances.get_mut(i)?, s)));
        if found.and_then(|(i, s)| i.snapshots.remove(s)).is_none() {
            return call.failed(format_args!("No such snapshot: {snapshot}"));
        }
    }
    for name in &instances {
        let Some(instance) = state.instances.get_mut(name) else { continue };
        if instance.state == "Starting" && !purge {
            return call.failed(format_args!(
                "Cannot shut down instance {name} while starting.\nUse --purge to forcefully delete it."
            ));
        }
        if instance.state == "Running" {
            pass(scaled(4000));
        }
        guest::power_off(&call.store, name);
        "Deleted".clone_into(&mut instance.state);
        if purge {
            state.instances.remove(name);
            let _ = fs::remove_dir_all(call.store.home(name));
        }
    }
    turn.save(&state);
    0
}

/// An instance a snapshot or clone is made of.
fn stopped<'a>(state: &'a mut State, name: &str, what: &str, many: bool) -> Result<&'a mut Instance, String> {
    match state.instances.get_mut(name) {
        None if many => Err(format!("The following errors occurred:\ninstance \"{name}\" does not exist")),
        None => Err(format!("instance \"{name}\" does not exist")),
        Some(i) if i.state == "Deleted" => Err(format!("instance \"{name}\" is deleted")),
        Some(i) if i.state != "Stopped" => Err(format!("Multipass can only {what} stopped instances.")),
        Some(i) => Ok(i),
    }
}

fn finish(call: &Call, done: Result<String, String>) -> u8 {
    match done {
        Ok(said) => {
            terminal::put(&said);
            terminal::clear();
            0
        }
        Err(text) => {
            terminal::clear();
            call.failed(text)
        }
    }
}

fn snapshot(call: &Call) -> u8 {
    let Some(name) = call.line.words.first() else {
        return 1;
    };
    terminal::spin_for("Taking snapshot", Duration::from_millis(5));
    let turn = call.store.turn();
    let mut state = turn.load();
    let wanted = call.line.get("name").map(str::to_owned);
    let comment = call.line.get("comment").unwrap_or_default().to_owned();
    let done = (|| {
        let instance = stopped(&mut state, name, "take snapshots of", true)?;
        if let Some(bad) = wanted.as_ref().filter(|n| !is_name(n)) {
            return Err(format!("Invalid snapshot name: \"{bad}\"."));
        }
        instance.snapshots_taken += 1;
        let snapshot = wanted.unwrap_or_else(|| format!("snapshot{}", instance.snapshots_taken));
        if instance.snapshots.contains_key(&snapshot) {
            return Err(format!("Snapshot already exists: {name}.{snapshot}"));
        }
        let parent = instance.snapshots.keys().next_back().cloned().unwrap_or_default();
        instance.snapshots.insert(snapshot.clone(), Snapshot { parent, comment });
        Ok(format!("Snapshot taken: {name}.{snapshot}\n"))
    })();
    if done.is_ok() {
        pass(scaled(1000));
        turn.save(&state);
    }
    finish(call, done)
}

fn restore(call: &Call) -> u8 {
    let Some(word) = call.line.words.first().filter(|w| w.contains('.')) else {
        eprintln!(
            "Invalid format. Please specify the instance to restore and snapshot to use in the form <instance>.<snapshot>."
        );
        return 1;
    };
    terminal::clear();
    let (name, snapshot) = word.split_once('.').unwrap_or_default();
    let turn = call.store.turn();
    let mut state = turn.load();
    let done = (|| {
        let has = state.instances.get(name).map(|i| i.snapshots.contains_key(snapshot));
        if has == Some(false) {
            return Err(format!("No such snapshot: {word}"));
        }
        stopped(&mut state, name, "restore snapshots of", false)?;
        Ok(format!("Snapshot restored: {word}\n"))
    })();
    if done.is_ok() && !call.line.has("destructive") {
        eprintln!(
            "[2026-01-01T00:00:00.000] [error] [client] Caught an unhandled exception: Unable to query client for \
             confirmation. Use '--destructive' to automatically discard current machine state."
        );
        return 1;
    }
    pass(scaled(2000));
    finish(call, done)
}

fn clone(call: &Call) -> u8 {
    let Some(name) = call.line.words.first() else {
        return 1;
    };
    terminal::spin_for(&format!("Cloning {name}"), Duration::from_millis(5));
    let turn = call.store.turn();
    let mut state = turn.load();
    let done = (|| {
        let source = stopped(&mut state, name, "clone", false)?;
        source.clones_made += 1;
        let to = call
            .line
            .get("name")
            .map_or_else(|| format!("{name}-clone{}", source.clones_made), str::to_owned);
        if !is_name(&to) {
            return Err(format!("Invalid destination instance name: {to}"));
        }
        let copy = Instance { snapshots: BTreeMap::new(), mounts: BTreeMap::new(), ..source.clone() };
        if state.instances.contains_key(&to) {
            return Err(format!("instance \"{to}\" already exists"));
        }
        make_home(&call.store, &to);
        state.instances.insert(to.clone(), copy);
        Ok(format!("Cloned from {name} to {to}.\n"))
    })();
    if done.is_ok() {
        pass(scaled(3000));
        turn.save(&state);
    }
    finish(call, done)
}

fn mount(call: &Call) -> u8 {
    let Some((source, places)) = call.line.words.split_first().filter(|(_, p)| !p.is_empty()) else {
        return 1;
    };
    terminal::clear();
    let turn = call.store.turn();
    let mut state = turn.load();
    for place in places {
        let (name, target) = place.split_once(':').unwrap_or((place.as_str(), ""));
        let base = source.rsplit('/').next().unwrap_or_default();
        let target = if target.is_empty() { format!("/home/ubuntu/{base}") } else { target.to_owned() };
        let Some(instance) = state.instances.get_mut(name) else {
            terminal::clear();
            return call
                .failed(format_args!("The following errors occurred:\ninstance '{name}' does not exist"));
        };
        if instance.mounts.contains_key(&target) {
            terminal::clear();
            return call.failed(format_args!(
                "The following errors occurred:\n\"{target}\" is already mounted in '{name}'"
            ));
        }
        instance.mounts.insert(target, source.clone());
    }
    turn.save(&state);
    terminal::clear();
    0
}

fn umount(call: &Call) -> u8 {
    let turn = call.store.turn();
    let mut state = turn.load();
    for place in &call.line.words {
        let (name, target) = place.split_once(':').unwrap_or((place.as_str(), ""));
        let Some(instance) = state.instances.get_mut(name) else {
            return call
                .failed(format_args!("The following errors occurred:\ninstance '{name}' does not exist"));
        };
        if target.is_empty() {
            instance.mounts.clear();
        } else if instance.mounts.remove(target).is_none() {
            return call.failed(format_args!(
                "The following errors occurred:\npath \"{target}\" is not mounted in '{name}'"
            ));
        }
    }
    turn.save(&state);
    0
}

fn setting(call: &Call) -> u8 {
    let Some(word) = call.line.words.first() else { return 1 };
    let setting = call.line.command == "set";
    if setting {
        terminal::clear();
    }
    let (key, value) = word.split_once('=').unwrap_or((word.as_str(), ""));
    let turn = call.store.turn();
    let mut state = turn.load();
    let mut parts = key.strip_prefix("local.").unwrap_or_default().splitn(2, '.');
    let (name, field) = (parts.next().unwrap_or_default(), parts.next());
    let Some(field) = field else {
        if setting {
            state.settings.insert(key.to_owned(), value.to_owned());
            turn.save(&state);
        } else {
            println!("{}", state.settings.get(key).map_or("<empty>", String::as_str));
        }
        return 0;
    };
    let verb = if setting { "update" } else { "obtain" };
    let Some(instance) = state.instances.get_mut(name) else {
        return call.failed(format_args!(
            "Cannot {verb} instance settings; instance: {name}; reason: No such instance"
        ));
    };
    if !setting {
        match field {
            "cpus" => println!("{}", instance.cpus),
            "memory" => println!("{:.1}GiB", instance.memory as f64 / f64::from(1 << 30)),
            "disk" => println!("{:.1}GiB", instance.disk as f64 / f64::from(1 << 30)),
            _ => return call.failed(format_args!("Unrecognized settings key: '{key}'")),
        }
        return 0;
    }
    if instance.state != "Stopped" {
        return call.failed(format_args!(
            "Cannot update instance settings; instance: {name}; reason: Instance must be stopped for modification"
        ));
    }
    match (field, size(value)) {
        ("cpus", Some(n @ 1..)) => instance.cpus = n,
        ("memory", Some(n)) => instance.memory = n,
        ("disk", Some(n)) if n >= instance.disk => instance.disk = n,
        ("disk", Some(_)) => {
            return call.failed(format_args!("Invalid setting '{word}': Disk can only be expanded"));
        }
        ("cpus" | "memory" | "disk", _) => return call.failed(format_args!("Invalid setting '{word}'")),
        _ => return call.failed(format_args!("Unrecognized settings key: '{key}'")),
    }
    turn.save(&state);
    0
}
