//! What the program prints as JSON, read leniently: every key may be missing, a number may be a string and the other
//! way round.

use std::{collections::BTreeMap, net::IpAddr};

use serde_json::{Value, json};

use super::error::{Class, Failure};
use crate::MachineState;

/// One machine of `list`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Item {
    pub(super) name: String,
    pub(super) native_state: String,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) release: String,
}

impl Item {
    pub(super) fn state(&self) -> MachineState {
        state(&self.native_state)
    }
}

/// The shared word for the program's.
pub(super) fn state(native: &str) -> MachineState {
    match native {
        "Running" | "Delayed Shutdown" => MachineState::Running,
        "Stopped" => MachineState::Stopped,
        "Starting" | "Restarting" => MachineState::Pending,
        "Suspending" => MachineState::Stopping,
        "Suspended" => MachineState::Suspended,
        "Deleted" => MachineState::Deleted,
        _ => MachineState::Unknown,
    }
}

/// The document of `command`.
pub(super) fn document(command: &'static str, data: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(data).map_err(|e| {
        let begin = String::from_utf8_lossy(data.get(..data.len().min(80)).unwrap_or_default()).into_owned();
        let what = if data.trim_ascii().is_empty() {
            "it ended well and printed nothing".to_owned()
        } else {
            format!("what it printed is no JSON ({e}): {}", begin.escape_debug())
        };
        Failure::new(Class::Malformed, command, what)
    })
}

fn missing(command: &'static str, what: &str) -> Failure {
    Failure::new(Class::Malformed, command, format!("what it printed has no {what}"))
}

fn text(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(s)) => s.clone(),
        Some(Value::Number(n)) => n.to_string(),
        Some(Value::Bool(b)) => b.to_string(),
        _ => String::new(),
    }
}

fn number(value: Option<&Value>) -> Option<u64> {
    match value? {
        Value::Number(n) => n.as_u64(),
        Value::String(s) => s.trim().parse().ok(),
        _ => None,
    }
}

fn strings(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::Array(all)) => all.iter().map(|v| text(Some(v))).filter(|s| !s.is_empty()).collect(),
        Some(Value::String(one)) if !one.is_empty() => vec![one.clone()],
        _ => Vec::new(),
    }
}

/// Addresses; `N/A` and the like are none.
fn addresses(value: Option<&Value>) -> Vec<IpAddr> {
    strings(value).iter().filter_map(|s| s.parse().ok()).collect()
}

/// Machines of `list --format json`. An entry without a name is left out: one that is broken hides no other.
pub(super) fn list(document: &Value) -> Result<Vec<Item>, Failure> {
    let items = document.get("list").and_then(Value::as_array).ok_or_else(|| missing("list", "list"))?;
    let item = |value: &Value| {
        let name = text(value.get("name"));
        (!name.is_empty()).then(|| Item {
            name,
            native_state: text(value.get("state")),
            addresses: addresses(value.get("ipv4")),
            release: text(value.get("release")),
        })
    };
    let mut all: Vec<Item> = items.iter().filter_map(item).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// Machines of `info --format json`, each in one shape for all releases.
pub(super) fn info(document: &Value) -> Result<BTreeMap<String, Value>, Failure> {
    let all = document.get("info").and_then(Value::as_object).ok_or_else(|| missing("info", "info"))?;
    Ok(all.iter().map(|(name, value)| (name.clone(), details(value))).collect())
}

fn details(value: &Value) -> Value {
    let disk = value.get("disks").and_then(Value::as_object).and_then(|d| d.values().next());
    let memory = value.get("memory");
    let load: Vec<f64> = match value.get("load") {
        Some(Value::Array(load)) => load.iter().filter_map(Value::as_f64).collect(),
        _ => Vec::new(),
    };
    let mounts: serde_json::Map<String, Value> = match value.get("mounts") {
        Some(Value::Object(all)) => all
            .iter()
            .map(|(target, m)| {
                let mount = json!({
                    "source": text(m.get("source_path")),
                    "uid_maps": strings(m.get("uid_mappings")),
                    "gid_maps": strings(m.get("gid_mappings")),
                });
                (target.clone(), mount)
            })
            .collect(),
        _ => serde_json::Map::new(),
    };
    json!({
        "state": text(value.get("state")),
        "addresses": addresses(value.get("ipv4")),
        "release": text(value.get("release")),
        "image_release": text(value.get("image_release")),
        "image_hash": text(value.get("image_hash")),
        "cpus": number(value.get("cpu_count")),
        "load": load,
        "memory_used_bytes": number(memory.and_then(|m| m.get("used"))),
        "memory_total_bytes": number(memory.and_then(|m| m.get("total"))),
        "disk_used_bytes": number(disk.and_then(|d| d.get("used"))),
        "disk_total_bytes": number(disk.and_then(|d| d.get("total"))),
        "snapshots": number(value.get("snapshot_count")),
        "mounts": mounts,
        "zone": value.get("zone").and_then(|z| z.get("name")).cloned(),
    })
}

/// Snapshots of `list --snapshots --format json`.
pub(super) fn snapshots(document: &Value) -> Result<Vec<Value>, Failure> {
    let all = document.get("info").and_then(Value::as_object).ok_or_else(|| missing("list", "info"))?;
    let one = |machine: &String, (name, s): (&String, &Value)| {
        json!({
            "machine": machine,
            "name": name,
            "parent": text(s.get("parent")),
            "comment": text(s.get("comment")),
        })
    };
    let of = |(machine, all): (&String, &Value)| -> Vec<Value> {
        all.as_object().map(|all| all.iter().map(|s| one(machine, s)).collect()).unwrap_or_default()
    };
    Ok(all.iter().flat_map(of).collect())
}

/// Images of `find --format json`, blueprints of old releases among them.
pub(super) fn images(document: &Value) -> Result<Vec<Value>, Failure> {
    let one = |kind: &str, (name, i): (&String, &Value)| {
        json!({
            "name": name,
            "kind": kind,
            "aliases": strings(i.get("aliases")),
            "os": text(i.get("os")),
            "release": text(i.get("release")),
            "remote": text(i.get("remote")),
            "version": text(i.get("version")),
        })
    };
    let mut all: Vec<Value> = document
        .get("images")
        .and_then(Value::as_object)
        .ok_or_else(|| missing("find", "images"))?
        .iter()
        .map(|i| one("image", i))
        .collect();
    for key in ["blueprints", "blueprints (deprecated)"] {
        let blueprints = document.get(key).and_then(Value::as_object);
        all.extend(blueprints.into_iter().flatten().map(|b| one("blueprint", b)));
    }
    Ok(all)
}

/// Networks of `networks --format json`.
pub(super) fn networks(document: &Value) -> Result<Vec<Value>, Failure> {
    let all = document.get("list").and_then(Value::as_array).ok_or_else(|| missing("networks", "list"))?;
    let one = |n: &Value| {
        json!({
            "name": text(n.get("name")),
            "type": text(n.get("type")),
            "description": text(n.get("description")),
        })
    };
    Ok(all.iter().map(one).collect())
}

/// What `version --format json` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) client: String,
    /// `None` when the daemon did not answer.
    pub(super) daemon: Option<String>,
    /// Release of the client as numbers; what cannot be read counts as the newest.
    pub(super) release: (u32, u32, u32),
}

impl Version {
    pub(super) fn parse(document: &Value) -> Result<Self, Failure> {
        let client = text(document.get("multipass"));
        if client.is_empty() {
            return Err(missing("version", "multipass"));
        }
        let daemon = Some(text(document.get("multipassd"))).filter(|d| !d.is_empty());
        let release = release(&client).unwrap_or((u32::MAX, 0, 0));
        Ok(Self { client, daemon, release })
    }

    pub(super) fn at_least(&self, major: u32, minor: u32) -> bool {
        (self.release.0, self.release.1) >= (major, minor)
    }
}

/// The three numbers a release begins with.
fn release(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.splitn(3, '.');
    let (major, minor) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let patch: String = parts.next()?.chars().take_while(char::is_ascii_digit).collect();
    Some((major, minor, patch.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_however_odd_they_are() {
        let odd = json!({"list": [
            {"name": "b", "state": "Running", "ipv4": ["N/A", "10.1.2.3"], "release": "Ubuntu 24.04 LTS", "more": {}},
            {"name": "a", "state": "Dancing", "ipv4": "10.0.0.1"},
            {"state": "Running"},
            {"name": 7},
            "nonsense"
        ]});
        let items = list(&odd).unwrap();
        let names: Vec<_> = items.iter().map(|i| (i.name.as_str(), i.state(), i.addresses.len())).collect();
        let want = [
            ("7", MachineState::Unknown, 0),
            ("a", MachineState::Unknown, 1),
            ("b", MachineState::Running, 1),
        ];
        assert_eq!(names, want);
        assert_eq!(list(&json!({"lists": []})).unwrap_err().class, Class::Malformed);
    }

    #[test]
    fn what_is_no_json_says_so() {
        for bad in [&b""[..], b"{\"list\": [", b"Segmentation fault"] {
            assert_eq!(document("list", bad).unwrap_err().class, Class::Malformed);
        }
    }

    #[test]
    fn numbers_and_strings_are_one() {
        let of = |v: Value| info(&json!({"info": {"a": v}})).unwrap().remove("a").unwrap();
        let strings = of(json!({"cpu_count": "2", "disks": {"sda1": {"used": "5", "total": "9"}}}));
        let numbers = of(json!({"cpu_count": 2, "disks": {"sda1": {"used": 5, "total": 9}}}));
        assert_eq!(strings, numbers);
        assert_eq!((&strings["cpus"], &strings["disk_total_bytes"]), (&json!(2), &json!(9)));
        assert_eq!(of(json!({"cpu_count": "", "disks": {"sda1": {}}}))["cpus"], Value::Null);
    }

    #[test]
    fn releases_are_read_with_whatever_is_behind_them() {
        for (text, want) in [
            ("1.16.3", (1, 16, 3)),
            ("1.11.1+win", (1, 11, 1)),
            ("1.16.0-dev.3098+g63fffb483.win", (1, 16, 0)),
            ("nonsense", (u32::MAX, 0, 0)),
        ] {
            assert_eq!(Version::parse(&json!({"multipass": text})).unwrap().release, want);
        }
    }

    #[test]
    fn what_every_release_prints_is_read() {
        let Some(dir) = fleetcore_testkit::contract("multipass") else { return };
        let mut read = 0;
        for release in std::fs::read_dir(dir.join("format")).unwrap() {
            for file in std::fs::read_dir(release.unwrap().path().join("json")).unwrap() {
                let path = file.unwrap().path();
                let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
                let shown = path.display();
                let value = document("any", &std::fs::read(&path).unwrap()).unwrap();
                let empty = name.contains("empty");
                let count = match &name {
                    n if n.contains("alias") => continue,
                    n if n.contains("snapshot") && n.contains("list") => snapshots(&value).unwrap().len(),
                    n if n.contains("list") => list(&value).unwrap().len(),
                    n if n.contains("info") => info(&value).unwrap().len(),
                    n if n.contains("find") => images(&value).unwrap().len(),
                    n if n.contains("networks") => networks(&value).unwrap().len(),
                    n if n.contains("version") => {
                        Version::parse(&value).unwrap();
                        1
                    }
                    _ => panic!("unknown kind of data: {shown}"),
                };
                assert_eq!(count == 0, empty, "{shown}");
                read += 1;
            }
        }
        assert!(read > 80, "only {read}");
    }

    #[test]
    fn recorded_complaints_are_sorted() {
        use super::super::error::Failure;
        let Some(dir) = fleetcore_testkit::contract("multipass") else { return };
        let mut seen = 0;
        for file in ["daemon_unreachable", "commands", "environment", "usage_errors"] {
            let text = std::fs::read(dir.join("cli-1.16.3").join(format!("{file}.json"))).unwrap();
            let records: Vec<Value> = serde_json::from_slice(&text).unwrap();
            for record in records {
                let (Some(exit), stderr) = (record["exit"].as_i64(), text_of(&record, "stderr")) else {
                    continue;
                };
                if exit <= 0 || stderr.is_empty() {
                    continue;
                }
                let class = Failure::classify("x", i32::try_from(exit).unwrap(), &stderr).class;
                let want = match &stderr {
                    s if s.contains("cannot connect to the multipass socket") => Class::Unreachable,
                    s if s.contains("Timed out waiting for") => Class::ClientTimeout,
                    s if s.contains("not authenticated with") => Class::NotAuthenticated,
                    s if s.contains("access denied") => Class::SocketDenied,
                    s if s.contains("timed out waiting for") => Class::ServerTimeout,
                    s if s.contains("multipass_root_cert") => Class::NotInstalled,
                    _ => continue,
                };
                assert_eq!(class, want, "{stderr}");
                seen += 1;
            }
        }
        assert!(seen > 20, "only {seen}");
    }

    fn text_of(record: &Value, key: &str) -> String {
        text(record.get(key))
    }
}
