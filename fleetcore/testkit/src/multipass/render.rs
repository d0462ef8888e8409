//! JSON as the program prints it: four blanks, keys by name, an empty list on two lines.

use serde_json::{Value, json};

use super::state::{Instance, State, release};

/// The text of a document, with the newline at its end.
pub(super) fn pretty(value: &Value) -> String {
    let mut out = String::new();
    write(value, 0, &mut out);
    out.push('\n');
    out
}

fn write(value: &Value, depth: usize, out: &mut String) {
    let pad = |n: usize, out: &mut String| out.push_str(&"    ".repeat(n));
    match value {
        Value::Array(items) => {
            out.push_str("[\n");
            for (at, item) in items.iter().enumerate() {
                pad(depth + 1, out);
                write(item, depth + 1, out);
                out.push_str(if at + 1 < items.len() { ",\n" } else { "\n" });
            }
            pad(depth, out);
            out.push(']');
        }
        Value::Object(map) => {
            out.push_str("{\n");
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            for (at, key) in keys.iter().enumerate() {
                pad(depth + 1, out);
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push_str(": ");
                write(map.get(key.as_str()).unwrap_or(&Value::Null), depth + 1, out);
                out.push_str(if at + 1 < keys.len() { ",\n" } else { "\n" });
            }
            pad(depth, out);
            out.push('}');
        }
        other => out.push_str(&other.to_string()),
    }
}

fn up(i: &Instance) -> bool {
    matches!(i.state.as_str(), "Running" | "Delayed Shutdown")
}

fn ipv4(i: &Instance, wanted: bool) -> Value {
    if up(i) && wanted { json!([i.ipv4]) } else { json!([]) }
}

fn live_first(state: &State) -> impl Iterator<Item = (&String, &Instance)> {
    let deleted = |(_, i): &(&String, &Instance)| i.state == "Deleted";
    state.instances.iter().filter(move |i| !deleted(i)).chain(state.instances.iter().filter(deleted))
}

pub(super) fn list(state: &State, addresses: bool) -> Value {
    let item = |(name, i): (&String, &Instance)| {
        let release = match release() {
            (1, ..=10) => "24.04 LTS",
            _ => "Ubuntu 24.04 LTS",
        };
        let mut item =
            json!({"name": name, "state": i.state, "ipv4": ipv4(i, addresses), "release": release});
        zone(&mut item);
        item
    };
    json!({"list": live_first(state).map(item).collect::<Vec<_>>()})
}

fn zone(item: &mut Value) {
    if release() >= (1, 17)
        && let Some(item) = item.as_object_mut()
    {
        item.insert("zone".to_owned(), json!({"name": "zone1", "available": true}));
    }
}

pub(super) fn info(name: &str, i: &Instance) -> (String, Value) {
    let running = up(i);
    let mounts: serde_json::Map<String, Value> = i
        .mounts
        .iter()
        .map(|(target, source)| {
            let maps = json!(["1000:default"]);
            (target.clone(), json!({"source_path": source, "uid_mappings": maps, "gid_mappings": maps}))
        })
        .collect();
    let disk = if running { json!({"used": "1288490188", "total": i.disk.to_string()}) } else { json!({}) };
    let mut value = json!({
        "state": i.state,
        "image_hash": "1797c5c82016c1e65f4008fcf89deae3a044ef76087a9ec5b907c6d64a3609ac",
        "image_release": "24.04 LTS",
        "release": if running { "Ubuntu 24.04.1 LTS" } else { "" },
        "load": if running { json!([0.45, 0.51, 0.15]) } else { json!([]) },
        "disks": {"sda1": disk},
        "memory": if running { json!({"used": 60817408, "total": i.memory}) } else { json!({}) },
        "ipv4": ipv4(i, true),
        "mounts": mounts,
    });
    if let Some(map) = value.as_object_mut() {
        if release() >= (1, 11) {
            let cpus = if running { i.cpus.to_string() } else { String::new() };
            map.insert("cpu_count".to_owned(), cpus.into());
        }
        if release() >= (1, 13) {
            map.insert("snapshot_count".to_owned(), i.snapshots.len().to_string().into());
        }
    }
    zone(&mut value);
    (name.to_owned(), value)
}

pub(super) fn snapshots(state: &State) -> Value {
    let of = |i: &Instance| -> Value {
        i.snapshots
            .iter()
            .map(|(name, s)| (name.clone(), json!({"parent": s.parent, "comment": s.comment})))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let all: serde_json::Map<String, Value> = state
        .instances
        .iter()
        .filter(|(_, i)| !i.snapshots.is_empty())
        .map(|(name, i)| (name.clone(), of(i)))
        .collect();
    json!({"errors": [], "info": all})
}

/// Images there are: name, aliases, release.
pub(super) const IMAGES: &[(&str, &[&str], &str)] = &[
    ("22.04", &["jammy"], "22.04 LTS"),
    ("24.04", &["noble", "lts", "default"], "24.04 LTS"),
    ("daily:26.04", &["devel"], "26.04 LTS"),
];

pub(super) fn find(query: Option<&str>) -> Value {
    let hit = |(name, aliases, _): &&(&str, &[&str], &str)| {
        query.is_none_or(|q| *name == q || aliases.contains(&q) || name.starts_with(q))
    };
    let images: serde_json::Map<String, Value> = IMAGES
        .iter()
        .filter(hit)
        .map(|(name, aliases, release)| {
            let shown: Vec<_> = aliases.iter().filter(|a| **a != "default").collect();
            let remote = if name.starts_with("daily:") { "daily" } else { "" };
            let image = json!({"aliases": shown, "os": "Ubuntu", "release": release, "remote": remote,
                               "version": "20260501"});
            ((*name).to_owned(), image)
        })
        .collect();
    let mut document = json!({"errors": [], "images": images});
    let key = match release() {
        (1, 12..=15) => "blueprints",
        (1, 16) => "blueprints (deprecated)",
        _ => return document,
    };
    if let Some(map) = document.as_object_mut() {
        map.insert(key.to_owned(), json!({}));
    }
    document
}
