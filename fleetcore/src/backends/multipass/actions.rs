//! What Multipass can do besides the life of machines.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::{client::Call, names, parse, provider::Inner};
use crate::{
    ActionInfo,
    ActionScope::{Either, Machine, Provider},
    ArgumentKind::{Flag, Integer, List, Text},
    Error, ErrorKind, Json, MachineId, MachineState, Result,
    raw::OpContext,
};

/// All actions.
pub(super) fn all() -> Vec<ActionInfo> {
    let q = ActionInfo::question;
    let a = ActionInfo::new;
    vec![
        q("details", Either, "Load, memory, disk, mounts and image"),
        q("snapshots", Either, "Lists snapshots"),
        q("limits", Machine, "Processors, memory and disk a machine may use"),
        q("find", Provider, "Lists images to launch from")
            .accepts("query", Text, "image, alias or remote to look for")
            .accepts("unsupported", Flag, "also images that are out of support"),
        q("networks", Provider, "Lists networks of the host"),
        q("version", Provider, "Releases of client and daemon"),
        q("launches", Provider, "Launches under way, and those with unknown outcome"),
        q("refresh", Provider, "Forgets what is known, after somebody else has changed something"),
        a("restart", Machine, "Restarts the system").accepts(
            "timeout_secs",
            Integer,
            "how long to wait for it",
        ),
        a("recover", Machine, "Takes a deleted machine back"),
        a("purge", Either, "Removes deleted machines for good").destroying(),
        a("snapshot", Machine, "Takes a snapshot of a stopped machine")
            .accepts("name", Text, "name of the snapshot")
            .accepts("comment", Text, "comment"),
        a("restore", Machine, "Puts a stopped machine back into the state of a snapshot")
            .requires("snapshot", Text, "name of the snapshot")
            .accepts(
                "destructive",
                Flag,
                "throw the current state away; otherwise it is kept as a snapshot first",
            )
            .destroying(),
        a("delete_snapshot", Machine, "Removes a snapshot for good")
            .requires("snapshot", Text, "name of the snapshot")
            .destroying(),
        a("clone", Machine, "Copies a stopped machine").accepts("name", Text, "name of the copy"),
        a("mount", Machine, "Shows a directory of the host on the machine")
            .requires("source", Text, "directory of the host")
            .accepts("target", Text, "directory of the machine")
            .accepts("uid_maps", List, "HOST:GUEST user ids")
            .accepts("gid_maps", List, "HOST:GUEST group ids")
            .accepts("native", Flag, "let the hypervisor do it; the machine must be stopped"),
        a("umount", Machine, "Takes mounted directories away").accepts("target", Text, "only this one"),
        a("set_limits", Machine, "Changes what a stopped machine may use; a disk only grows")
            .accepts("cpus", Integer, "number of processors")
            .accepts("memory_bytes", Integer, "memory in bytes")
            .accepts("disk_bytes", Integer, "disk in bytes"),
    ]
}

fn text<'a>(args: &'a Json, key: &str) -> Option<&'a str> {
    args.get(key).and_then(Value::as_str).filter(|t| !t.is_empty())
}

fn flag(args: &Json, key: &str) -> bool {
    args.get(key).and_then(Value::as_bool).unwrap_or(false)
}

fn list(args: &Json, key: &str) -> Vec<String> {
    let all = args.get(key).and_then(Value::as_array);
    all.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Does one of them; arguments were checked.
pub(super) async fn act(
    inner: &Arc<Inner>,
    cx: &OpContext,
    machine: Option<&MachineId>,
    action: &str,
    args: &Json,
) -> Result<Value> {
    match (action, machine) {
        ("find", _) => find(inner, args).await,
        ("networks", _) => Ok(parse::networks(&inner.client.ask(asking(inner, "networks")).await?)?.into()),
        ("version", _) => {
            let version = inner.client.ask_version().await?;
            Ok(json!({"client": version.client, "daemon": version.daemon}))
        }
        ("launches", _) => Ok(inner.launches.describe()),
        ("refresh", _) => {
            inner.inventory.forget();
            Ok(Value::Null)
        }
        ("details", _) => details(inner, machine).await,
        ("snapshots", _) => snapshots(inner, machine).await,
        ("purge", _) => Ok(json!({"purged": inner.purge(machine).await?})),
        (_, Some(id)) => {
            on_machine(inner, cx, id, action, args).await.map_err(|e| match e.context_value("machine") {
                Some(_) => e,
                None => e.with_context("machine", id),
            })
        }
        _ => Err(Error::unsupported("machine.act")),
    }
}

fn asking(inner: &Inner, command: &'static str) -> Call {
    Call::new(command, inner.config.read_limit)
}

/// Refuses what the release does not have.
async fn need(inner: &Inner, major: u32, minor: u32, what: &'static str) -> Result<()> {
    let version = inner.client.version().await?;
    if version.at_least(major, minor) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unsupported, format!("{what} came with Multipass {major}.{minor}"))
        .with_operation("machine.act")
        .with_context("installed", &version.client))
}

async fn find(inner: &Arc<Inner>, args: &Json) -> Result<Value> {
    let mut call = asking(inner, "find");
    if flag(args, "unsupported") {
        call = call.arg("--show-unsupported");
    }
    if let Some(query) = text(args, "query") {
        // A remote alone ends in a colon.
        names::check_image(query.strip_suffix(':').unwrap_or(query))?;
        call = call.arg(query);
    }
    inner.client.version().await?;
    let _place = inner.calls.acquire().await;
    Ok(parse::images(&inner.client.ask(call).await?)?.into())
}

async fn details(inner: &Arc<Inner>, machine: Option<&MachineId>) -> Result<Value> {
    let Some(id) = machine else { return Ok(json!(*inner.inventory.details().await?)) };
    inner.item(id).await?;
    let all = inner.inventory.details().await?;
    if let Some(found) = all.get(id.as_str()) {
        return Ok(found.clone());
    }
    // A deleted one is not among them.
    inner.client.version().await?;
    let _place = inner.calls.acquire().await;
    let one = parse::info(&inner.client.ask(asking(inner, "info").arg(id.as_str())).await?)?;
    let missing = || Error::new(ErrorKind::NotFound, "no such machine").with_context("machine", id);
    one.get(id.as_str()).cloned().ok_or_else(missing)
}

async fn snapshots(inner: &Arc<Inner>, machine: Option<&MachineId>) -> Result<Value> {
    need(inner, 1, 13, "snapshots").await?;
    if let Some(id) = machine {
        inner.item(id).await?;
    }
    let _place = inner.calls.acquire().await;
    let all = parse::snapshots(&inner.client.ask(asking(inner, "list").arg("--snapshots")).await?)?;
    let of =
        |s: &Value| machine.is_none_or(|id| s.get("machine").and_then(Value::as_str) == Some(id.as_str()));
    Ok(all.into_iter().filter(of).collect())
}

/// What `INSTANCE.SNAPSHOT` is called in arguments.
fn snapshot_of(id: &MachineId, args: &Json) -> Result<String> {
    let name = text(args, "snapshot").unwrap_or_default();
    names::check_new("snapshot", name)?;
    Ok(format!("{id}.{name}"))
}

/// What comes behind `lead` in the last message of a command, e.g. the name it chose.
fn said_after(answer: &[u8], lead: &str) -> Option<String> {
    let text = String::from_utf8_lossy(answer);
    let at = text.rfind(lead)? + lead.len();
    let word: String =
        text.get(at..)?.chars().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.')).collect();
    Some(word.trim_end_matches('.').to_owned()).filter(|w| !w.is_empty())
}

async fn on_machine(
    inner: &Arc<Inner>,
    cx: &OpContext,
    id: &MachineId,
    action: &str,
    args: &Json,
) -> Result<Value> {
    match action {
        "restart" => {
            let seconds = args.get("timeout_secs").and_then(Value::as_u64).unwrap_or(300).clamp(1, 86_400);
            Ok(json!(inner.restart(cx, id, Duration::from_secs(seconds)).await?))
        }
        "recover" => Ok(json!(inner.recover(cx, id).await?)),
        "limits" => limits(inner, id).await,
        "set_limits" => set_limits(inner, cx, id, args).await,
        "mount" => mount(inner, cx, id, args).await,
        "umount" => {
            let place = match text(args, "target") {
                Some(target) => {
                    names::check_mount_target(target)?;
                    format!("{id}:{target}")
                }
                None => id.to_string(),
            };
            change(inner, cx, id, inner.changing("umount").arg(place)).await.map(|_| Value::Null)
        }
        "snapshot" => {
            need(inner, 1, 13, "snapshots").await?;
            let mut call = inner.changing("snapshot");
            if let Some(name) = text(args, "name") {
                names::check_new("name", name)?;
                call = call.args(["-n", name]);
            }
            if let Some(comment) = text(args, "comment") {
                if comment.contains('\0') {
                    return Err(Error::invalid("comment", "without NUL characters"));
                }
                // One argument, so that a comment that begins with a hyphen is no option.
                call = call.arg(format!("--comment={comment}"));
            }
            let answer = change(inner, cx, id, call.arg(id.as_str())).await?;
            let name = said_after(&answer, "Snapshot taken: ");
            let name = name.as_deref().and_then(|n| n.split_once('.')).map(|(_, s)| s.to_owned());
            Ok(
                json!({"machine": id.as_str(), "snapshot": name.or_else(|| text(args, "name").map(str::to_owned))}),
            )
        }
        "restore" => {
            need(inner, 1, 13, "snapshots").await?;
            let snapshot = snapshot_of(id, args)?;
            if !flag(args, "destructive") {
                // What the program asks for on a terminal.
                change(inner, cx, id, inner.changing("snapshot").arg(id.as_str())).await?;
            }
            let call = inner.changing("restore").args(["--destructive", &snapshot]);
            change(inner, cx, id, call).await?;
            Ok(json!(inner.report(id).await?))
        }
        "delete_snapshot" => {
            need(inner, 1, 13, "snapshots").await?;
            let call = inner.changing("delete").args(["--purge".to_owned(), snapshot_of(id, args)?]);
            change(inner, cx, id, call).await.map(|_| Value::Null)
        }
        "clone" => {
            need(inner, 1, 15, "clones").await?;
            let mut call = inner.changing("clone");
            if let Some(name) = text(args, "name") {
                names::check_new("name", name)?;
                call = call.args(["-n", name]);
            }
            let answer = change(inner, cx, id, call.arg(id.as_str())).await?;
            let name = said_after(&answer, " to ").or_else(|| text(args, "name").map(str::to_owned));
            Ok(json!({"machine": name}))
        }
        _ => Err(Error::unsupported("machine.act")),
    }
}

/// A change of a machine that is there, in turn.
async fn change(inner: &Inner, cx: &OpContext, id: &MachineId, call: Call) -> Result<bytes::Bytes> {
    let _lock = inner.lock(id).await;
    inner.living(id).await?;
    let _turn = inner.in_turn().await;
    Ok(inner.change(cx, call).await?)
}

async fn mount(inner: &Arc<Inner>, cx: &OpContext, id: &MachineId, args: &Json) -> Result<Value> {
    let source = text(args, "source").unwrap_or_default();
    names::check_mount_source(source, &inner.config.mount_roots)?;
    let mut call = inner.changing("mount");
    for (key, option) in [("uid_maps", "-u"), ("gid_maps", "-g")] {
        for map in list(args, key) {
            names::check_id_map(&map)?;
            call = call.args([option.to_owned(), map]);
        }
    }
    if flag(args, "native") {
        need(inner, 1, 11, "native mounts").await?;
        call = call.args(["-t", "native"]);
    }
    let place = match text(args, "target") {
        Some(target) => {
            names::check_mount_target(target)?;
            format!("{id}:{target}")
        }
        None => id.to_string(),
    };
    change(inner, cx, id, call.args([source.to_owned(), place])).await.map(|_| Value::Null)
}

/// Bytes of a size as the program prints it, e.g. `1.5GiB`.
fn bytes_of(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
    let (number, unit) = text.split_at_checked(digits)?;
    let factor = match unit.trim().to_ascii_uppercase().chars().next() {
        None | Some('B') => 1u64,
        Some('K') => 1 << 10,
        Some('M') => 1 << 20,
        Some('G') => 1 << 30,
        Some('T') => 1 << 40,
        _ => return None,
    };
    let number: f64 = number.parse().ok()?;
    Some((number * factor as f64).round() as u64)
}

async fn limits(inner: &Arc<Inner>, id: &MachineId) -> Result<Value> {
    inner.living(id).await?;
    let _place = inner.calls.acquire().await;
    let get = |key: &'static str| async move {
        let call = asking(inner, "get").arg(format!("local.{id}.{key}"));
        let said = inner.client.call(call).await?;
        Ok::<_, Error>(String::from_utf8_lossy(&said).trim().to_owned())
    };
    let (cpus, memory, disk) = (get("cpus").await?, get("memory").await?, get("disk").await?);
    Ok(json!({
        "cpus": cpus.parse::<u64>().ok(),
        "memory_bytes": bytes_of(&memory),
        "disk_bytes": bytes_of(&disk),
    }))
}

async fn set_limits(inner: &Arc<Inner>, cx: &OpContext, id: &MachineId, args: &Json) -> Result<Value> {
    let item = inner.living(id).await?;
    if item.state() != MachineState::Stopped {
        return Err(Error::new(ErrorKind::InvalidState, "the machine must be stopped for this")
            .with_context("state", item.native_state));
    }
    for (arg, key) in [("cpus", "cpus"), ("memory_bytes", "memory"), ("disk_bytes", "disk")] {
        let Some(value) = args.get(arg).and_then(Value::as_u64) else { continue };
        if value == 0 {
            return Err(Error::invalid(arg, "more than zero"));
        }
        change(inner, cx, id, inner.changing("set").arg(format!("local.{id}.{key}={value}"))).await?;
    }
    limits(inner, id).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_from_the_last_message() {
        let noise =
            b"\x1b[2K\x1b[0A\x1b[0ETaking snapshot  \x08|\x08 \x1b[2KSnapshot taken: dev1.snapshot2\n";
        assert_eq!(said_after(noise, "Snapshot taken: ").as_deref(), Some("dev1.snapshot2"));
        assert_eq!(said_after(b"Cloned from a to b-clone1.\n", " to ").as_deref(), Some("b-clone1"));
        assert_eq!(said_after(b"", "Snapshot taken: "), None);
    }

    #[test]
    fn sizes_are_read_back() {
        for (text, want) in
            [("1.0GiB", Some(1 << 30)), ("512MiB", Some(512 << 20)), ("100B", Some(100)), ("x", None)]
        {
            assert_eq!(bytes_of(text), want, "{text}");
        }
    }
}
