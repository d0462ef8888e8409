//! Pure functions between what Multipass, agents and the core say and what Batwa's clients read.

use std::fmt::Write as _;

use axum::http::StatusCode;
use fleetcore::PtySize;
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use serde_json::{Map, Value, json};

use super::{
    checks,
    wire::{ListError, Listing, Vm},
};

/// The text both originals have for a missing program.
pub(super) const NOT_INSTALLED: &str = "multipass command not found. Is multipass installed?";
/// What an agent says when Multipass takes too long.
pub(super) const TIMED_OUT: &str = "Command timed out after 5 minutes";
/// Longest text of somebody else that is passed on.
const DETAIL_MAX: usize = 4096;

/// What is done to one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    Create,
    Start,
    Stop,
    Delete,
}

impl Deed {
    /// Last part of its route, and word in the audit log.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Delete => "delete",
        }
    }

    /// What is said when Multipass says nothing.
    pub(super) fn default_message(self, name: &str) -> String {
        match self {
            Self::Create => format!("Launched: {name}\n"),
            Self::Start => format!("VM '{name}' started"),
            Self::Stop => format!("VM '{name}' stopped"),
            Self::Delete => "VM deleted and purged".to_owned(),
        }
    }

    /// What is said when nobody says why it failed.
    pub(super) fn default_failure(self) -> String {
        format!("Failed to {} VM", self.as_str())
    }

    /// What the originals answer: standard output, without what only draws.
    pub(super) fn message(self, name: &str, stdout: &[u8]) -> String {
        if self == Self::Delete {
            return self.default_message(name);
        }
        let text = without_drawing(&String::from_utf8_lossy(stdout));
        if text.trim().is_empty() { self.default_message(name) } else { text }
    }
}

/// What is left on a terminal after this output: Multipass draws a spinner even into pipes.
pub(super) fn without_drawing(text: &str) -> String {
    let mut lines = String::new();
    let mut line = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => {
                let erases = match chars.next() {
                    Some('[') => {
                        let mut end = None;
                        for c in chars.by_ref() {
                            if matches!(c, '\u{40}'..='\u{7e}') {
                                end = Some(c);
                                break;
                            }
                        }
                        end == Some('K')
                    }
                    _ => false,
                };
                if erases {
                    line.clear();
                }
            }
            '\u{8}' => {
                line.pop();
            }
            '\r' if chars.peek() != Some(&'\n') => line.clear(),
            '\n' => {
                lines.push_str(&line);
                lines.push('\n');
                line.clear();
            }
            c if c.is_control() && c != '\t' => {}
            c => line.push(c),
        }
    }
    lines.push_str(&line);
    lines
}

/// The text of an error of somebody else: no drawing, bounded, and never empty.
pub(super) fn failure_text(stderr: &str, otherwise: &str) -> String {
    let text = without_drawing(stderr);
    if text.trim().is_empty() {
        return otherwise.to_owned();
    }
    text.chars().take(DETAIL_MAX).collect()
}

/// `500: start failed` is what Python agents make of their own errors.
pub(super) fn without_status(detail: &str) -> &str {
    match detail.split_at_checked(5) {
        Some((head, rest)) if head.ends_with(": ") && head.bytes().take(3).all(|b| b.is_ascii_digit()) => {
            rest
        }
        _ => detail,
    }
}

/// Multipass says so when there is no such instance.
pub(super) fn says_unknown(text: &str) -> bool {
    text.contains("does not exist")
}

/// Only words and signs that no page can mistake for markup.
fn harmless(text: &str, max: usize) -> String {
    text.chars()
        .filter(|c| !c.is_control() && !matches!(c, '<' | '>' | '&' | '"' | '\'' | '`'))
        .take(max)
        .collect()
}

/// The machines of one host as members of the merged list, ready to be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Members {
    /// JSON objects with commas between them.
    pub(super) json: String,
    /// How many.
    pub(super) count: usize,
    /// How many were left out because of their names.
    pub(super) odd: usize,
}

/// `None` is the host of the master.
pub(super) fn members(listing: &[u8], agent: Option<(&str, &str)>) -> Result<Members, String> {
    let listing: Listing = serde_json::from_slice(listing).map_err(|e| e.to_string())?;
    let mut all = Members::default();
    for vm in &listing.list {
        if checks::vm_name(&vm.name).is_err() {
            all.odd += 1;
            continue;
        }
        let addresses = vm.ipv4.iter().flatten();
        let member = Vm {
            name: &vm.name,
            state: harmless(vm.state.as_deref().unwrap_or("Unknown"), 64),
            ipv4: addresses.filter(|a| a.parse::<std::net::IpAddr>().is_ok()).cloned().collect(),
            release: harmless(vm.release.as_deref().unwrap_or_default(), 128),
            agent_id: agent.map(|(id, _)| id),
            agent_hostname: agent.map_or("local", |(_, host)| host),
        };
        let text = serde_json::to_string(&member).map_err(|e| e.to_string())?;
        let comma = if all.count == 0 { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = write!(all.json, "{comma}{text}");
        all.count += 1;
    }
    Ok(all)
}

/// How many instances a listing has.
pub(super) fn count(listing: &[u8]) -> Option<i64> {
    let listing: Listing = serde_json::from_slice(listing).ok()?;
    i64::try_from(listing.list.len()).ok()
}

/// The merged list.
pub(super) fn list_body<'a>(hosts: impl IntoIterator<Item = &'a str>, errors: &[ListError]) -> String {
    let mut body = String::from(r#"{"success":true,"vms":["#);
    let mut first = true;
    for members in hosts.into_iter().filter(|m| !m.is_empty()) {
        if !first {
            body.push(',');
        }
        first = false;
        body.push_str(members);
    }
    body.push(']');
    if !errors.is_empty()
        && let Ok(errors) = serde_json::to_string(errors)
    {
        let _ = write!(body, r#","errors":{errors}"#);
    }
    body.push('}');
    body
}

/// Why there is no answer about a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoInfo {
    /// Multipass answered, but about another one.
    Absent,
    /// It is not JSON, or not of the kind.
    Unreadable,
}

/// Both forms of the answer at once: the Python one below `info`, the Go one beside it, with the names and types the
/// original page reads.
pub(super) fn info(reply: &[u8], name: &str, agent: Option<(&str, &str)>) -> Result<Value, NoInfo> {
    let reply: Value = serde_json::from_slice(reply).map_err(|_| NoInfo::Unreadable)?;
    let infos = reply.get("info").and_then(Value::as_object).ok_or(NoInfo::Unreadable)?;
    let native = infos.get(name).and_then(Value::as_object).ok_or(NoInfo::Absent)?;
    let mut flat: Map<String, Value> = native.clone();
    // Objects without anything in them mean "not known now", which the page would print as they are.
    flat.retain(|_, value| value.as_object().is_none_or(|o| !o.is_empty()) && !value.is_null());
    flat.insert("name".to_owned(), json!(name));
    flat.insert("state".to_owned(), json!(text_of(native, "state").unwrap_or("Unknown")));
    flat.insert("ipv4".to_owned(), native.get("ipv4").filter(|v| v.is_array()).cloned().unwrap_or(json!([])));
    if let Some(image) = text_of(native, "image_release").filter(|t| !t.is_empty()) {
        flat.insert("image".to_owned(), json!(image));
    }
    match native.get("cpu_count") {
        Some(Value::String(n)) if !n.is_empty() => flat.insert("cpus".to_owned(), json!(n)),
        Some(Value::Number(n)) => flat.insert("cpus".to_owned(), json!(n.to_string())),
        _ => None,
    };
    if native.get("memory").and_then(|m| m.get("total")).and_then(number).is_none() {
        flat.remove("memory");
    }
    if let Some(disk) =
        native.get("disks").and_then(Value::as_object).and_then(|d| d.values().find_map(sizes))
    {
        flat.insert("disk".to_owned(), disk);
    }
    flat.insert("success".to_owned(), json!(true));
    flat.insert("info".to_owned(), Value::Object(native.clone()));
    if let Some((id, host)) = agent {
        flat.insert("agent_id".to_owned(), json!(id));
        flat.insert("agent_hostname".to_owned(), json!(host));
    } else {
        flat.insert("agent_id".to_owned(), Value::Null);
        flat.insert("agent_hostname".to_owned(), Value::Null);
    }
    Ok(Value::Object(flat))
}

fn text_of<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    map.get(key).and_then(Value::as_str)
}

fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// Multipass writes sizes of disks as text, the page reads numbers.
fn sizes(disk: &Value) -> Option<Value> {
    let total = disk.get("total").and_then(number)?;
    let mut sizes = Map::from_iter([("total".to_owned(), json!(total))]);
    if let Some(used) = disk.get("used").and_then(number) {
        sizes.insert("used".to_owned(), json!(used));
    }
    Some(Value::Object(sizes))
}

/// The status a heartbeat gave, as one of three words.
pub(super) fn status_word(text: &str) -> &'static str {
    match text {
        "online" | "" => "online",
        "offline" => "offline",
        _ => "error",
    }
}

/// Why an agent could not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AgentFailure {
    /// Nobody registered under this id.
    Unknown,
    /// No connection.
    Unreachable,
    /// No answer in time.
    Late,
    /// It does not believe the key we hold.
    Key,
    /// It said no, with a reason.
    Said(StatusCode, String),
    /// It answered something that is no answer.
    Odd,
}

impl AgentFailure {
    /// Status and text for the client. `otherwise` stands in when the agent gave no reason.
    pub(super) fn tell(&self, id: &str, otherwise: &str) -> (StatusCode, String) {
        match self {
            Self::Unknown => (StatusCode::NOT_FOUND, format!("Agent not found: {id}")),
            Self::Unreachable => (StatusCode::BAD_GATEWAY, format!("Agent '{id}' is unreachable")),
            Self::Late => (StatusCode::GATEWAY_TIMEOUT, format!("Agent '{id}' did not answer in time")),
            Self::Key => (StatusCode::BAD_GATEWAY, format!("Agent '{id}' refused the API key")),
            Self::Said(status, text) => (*status, failure_text(text, otherwise)),
            Self::Odd => (StatusCode::BAD_GATEWAY, format!("Agent '{id}' sent an invalid reply")),
        }
    }
}

/// What an agent's answer to a deed means.
pub(super) fn deed_reply(status: StatusCode, body: &[u8]) -> Result<String, AgentFailure> {
    let reply = checked_reply(status, body)?;
    let message = || reply.get("message").and_then(Value::as_str).unwrap_or_default();
    match reply.get("success") {
        Some(Value::Bool(true)) => Ok(message().to_owned()),
        Some(Value::Bool(false)) => {
            Err(AgentFailure::Said(StatusCode::INTERNAL_SERVER_ERROR, message().to_owned()))
        }
        _ => Err(AgentFailure::Odd),
    }
}

/// An object an agent answered with success, or why it is none.
pub(super) fn checked_reply(status: StatusCode, body: &[u8]) -> Result<Map<String, Value>, AgentFailure> {
    let parsed = serde_json::from_slice::<Value>(body);
    if status == StatusCode::FORBIDDEN {
        return Err(AgentFailure::Key);
    }
    if status.is_client_error() || status.is_server_error() {
        let detail = parsed.ok().and_then(|v| v.get("detail").and_then(Value::as_str).map(str::to_owned));
        let detail = detail.unwrap_or_default();
        // Python agents answer 500 and put the true status in front of the text.
        let meant = detail.get(..3).filter(|_| without_status(&detail).len() < detail.len());
        let meant = meant.and_then(|n| n.parse().ok()).and_then(|n| StatusCode::from_u16(n).ok());
        let status = meant.filter(|s| s.is_client_error() || s.is_server_error()).unwrap_or(status);
        return Err(AgentFailure::Said(status, without_status(&detail).to_owned()));
    }
    if !status.is_success() {
        return Err(AgentFailure::Odd);
    }
    let Ok(Value::Object(reply)) = parsed else { return Err(AgentFailure::Odd) };
    if let Some(Value::String(error)) = reply.get("error").filter(|_| reply.get("success").is_none()) {
        return Err(AgentFailure::Said(StatusCode::BAD_GATEWAY, error.clone()));
    }
    Ok(reply)
}

/// What a text frame of a terminal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// The window has this size now.
    Resize(PtySize),
    /// It says it is a size, but it is none.
    Nothing,
    /// It was typed.
    Keys,
}

/// Tells sizes from what was typed.
pub(super) fn typed(text: &str) -> Typed {
    // What people type begins with a brace only now and then.
    if !text.trim_start().starts_with('{') {
        return Typed::Keys;
    }
    let Ok(Value::Object(message)) = serde_json::from_str(text) else { return Typed::Keys };
    if message.get("type").and_then(Value::as_str) != Some("resize") {
        return Typed::Keys;
    }
    let side = |key: &str| message.get(key).and_then(cells);
    match (side("cols"), side("rows")) {
        (Some(cols), Some(rows)) => Typed::Resize(PtySize { cols, rows }),
        _ => Typed::Nothing,
    }
}

/// A number of cells; more than a screen of ours can have counts as the most.
fn cells(value: &Value) -> Option<u16> {
    let n = match value {
        Value::Number(n) => n.as_f64()?,
        Value::String(text) => text.trim().parse::<f64>().ok()?,
        _ => return None,
    };
    let n = n.trunc();
    if !(1.0..=65_535.0).contains(&n) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 1 to 65535")]
    let n = n as u16;
    Some(n.min(PtySize::MAX_CELLS_PER_SIDE))
}

/// How a master wants the time of a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clock {
    /// With a zone: the Go master, and ours.
    Zoned,
    /// Without one, in the master's local time, which is this much ahead of our UTC: the Python master.
    Naive(jiff::SignedDuration),
}

impl Clock {
    /// What the answer to a registration tells.
    pub(super) fn of_master(last_seen: Option<&str>, now: Timestamp) -> Self {
        let Some(text) = last_seen else { return Self::Zoned };
        if text.parse::<Timestamp>().is_ok() {
            return Self::Zoned;
        }
        match text.parse::<DateTime>().ok().and_then(|t| t.to_zoned(TimeZone::UTC).ok()) {
            Some(theirs) => Self::Naive(theirs.timestamp().duration_since(now)),
            None => Self::Zoned,
        }
    }

    /// The time, for that master.
    pub(super) fn show(self, now: Timestamp) -> String {
        match self {
            Self::Zoned => zoned(now),
            Self::Naive(ahead) => {
                let theirs = now.checked_add(ahead).unwrap_or(now);
                let naive = TimeZone::UTC.to_datetime(theirs);
                naive.strftime("%Y-%m-%dT%H:%M:%S.%6f").to_string()
            }
        }
    }
}

/// RFC 3339 in UTC, to the microsecond.
pub(super) fn zoned(at: Timestamp) -> String {
    format!("{at:.6}")
}

/// The time of the `expires` of a cookie that is taken back.
pub(super) fn http_date(at: Timestamp) -> String {
    jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&at).unwrap_or_default()
}

/// A time of an HTTP header.
pub(super) fn parse_http_date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spinner_leaves_nothing_behind() {
        let spinner = "\u{1b}[2K\u{1b}[0A\u{1b}[0EStarting db  \u{8}/\u{8} \u{1b}[2K\u{1b}[0A\u{1b}[0E";
        assert_eq!(Deed::Start.message("db", spinner.as_bytes()), "VM 'db' started");
        let launched = format!("{}Launched: a\n", spinner.replace("Starting db", "Creating a"));
        assert_eq!(Deed::Create.message("a", launched.as_bytes()), "Launched: a\n");
        assert_eq!(Deed::Stop.message("db", b""), "VM 'db' stopped");
        assert_eq!(Deed::Delete.message("db", b"whatever"), "VM deleted and purged");
        assert_eq!(without_drawing("a\r\nb\rc\u{7}"), "a\nc");
        assert_eq!(without_drawing("\u{1b}[31mred\u{1b}[0m \u{1b}"), "red ");
    }

    #[test]
    fn python_agents_number_their_errors() {
        assert_eq!(without_status("500: start failed: x\n"), "start failed: x\n");
        assert_eq!(without_status("404: "), "");
        for same in ["start failed", "50: x", "abc: x", "5000: x", "ééé: x", ""] {
            assert_eq!(without_status(same), same);
        }
        let said =
            checked_reply(StatusCode::INTERNAL_SERVER_ERROR, br#"{"detail":"404: info failed: no\n"}"#);
        assert_eq!(said, Err(AgentFailure::Said(StatusCode::NOT_FOUND, "info failed: no\n".to_owned())));
    }

    #[test]
    fn odd_replies_are_told_from_refusals() {
        let ok = StatusCode::OK;
        for odd in [&b"<html>"[..], b"{}", b"null", b"[]", br#"{"list":null}"#, b""] {
            assert_eq!(deed_reply(ok, odd), Err(AgentFailure::Odd), "{odd:?}");
        }
        assert_eq!(deed_reply(StatusCode::TEMPORARY_REDIRECT, b""), Err(AgentFailure::Odd));
        assert_eq!(deed_reply(StatusCode::FORBIDDEN, b""), Err(AgentFailure::Key));
        assert_eq!(
            deed_reply(ok, br#"{"success":false,"message":"nope"}"#).unwrap_err().tell("a", "x"),
            (StatusCode::INTERNAL_SERVER_ERROR, "nope".to_owned())
        );
        assert_eq!(
            deed_reply(ok, br#"{"error":"bad thing"}"#).unwrap_err().tell("a", "x"),
            (StatusCode::BAD_GATEWAY, "bad thing".to_owned())
        );
        // Never an empty text: the page would show its own.
        let (_, text) = deed_reply(StatusCode::BAD_GATEWAY, b"").unwrap_err().tell("a", "Failed to start VM");
        assert_eq!(text, "Failed to start VM");
        assert_eq!(deed_reply(ok, br#"{"success":true,"message":"m"}"#).unwrap(), "m");
    }

    #[test]
    fn machines_that_pages_could_stumble_over_are_left_out() {
        let listing = br#"{"list":[
            {"name":"web","state":"Running","ipv4":["10.0.0.1","<b>"],"release":"Ubuntu <22>","zone":{}},
            {"name":"w","state":null,"ipv4":null},
            {"name":"<img src=x>","state":"Running"},{"name":"a');alert('"}]}"#;
        let all = members(listing, Some(("a1", "h1"))).unwrap();
        assert_eq!((all.count, all.odd), (2, 2));
        let body: Value = serde_json::from_str(&list_body([all.json.as_str(), ""], &[])).unwrap();
        assert_eq!(
            body["vms"],
            json!([
                {"name":"web","state":"Running","ipv4":["10.0.0.1"],"release":"Ubuntu 22","agent_id":"a1","agent_hostname":"h1"},
                {"name":"w","state":"Unknown","ipv4":[],"release":"","agent_id":"a1","agent_hostname":"h1"}
            ])
        );
        for bad in [&b"No instances found.\n"[..], b"{}", b"[]", br#"{"list":null}"#, b"null"] {
            assert!(members(bad, None).is_err());
        }
    }

    #[test]
    fn details_in_both_forms() {
        let reply = br#"{"errors":[],"info":{"web":{"state":"Running","image_release":"22.04 LTS","release":"Ubuntu 22.04.5 LTS",
            "cpu_count":"4","load":[0.1],"disks":{"sda1":{"used":"1288490188","total":"5153960756"}},
            "memory":{"used":60817408,"total":1503238554},"ipv4":["10.5.0.7"],"mounts":{},"snapshot_count":"0"}}}"#;
        let both = info(reply, "web", Some(("agent1", "h1"))).unwrap();
        assert_eq!(both["info"]["disks"]["sda1"]["total"], "5153960756");
        assert_eq!(both["info"]["mounts"], json!({}));
        for (key, value) in [
            ("success", json!(true)),
            ("name", json!("web")),
            ("image", json!("22.04 LTS")),
            ("cpus", json!("4")),
            ("memory", json!({"used":60817408,"total":1503238554})),
            ("disk", json!({"used":1288490188_u64,"total":5153960756_u64})),
            ("agent_id", json!("agent1")),
            ("agent_hostname", json!("h1")),
            ("snapshot_count", json!("0")),
        ] {
            assert_eq!(both[key], value, "{key}");
        }
        let stopped = br#"{"info":{"db":{"state":"Stopped","image_release":"22.04 LTS","release":"","cpu_count":"","load":[],
            "disks":{"sda1":{}},"memory":{},"ipv4":[]}}}"#;
        let both = info(stopped, "db", None).unwrap();
        for absent in ["memory", "disk", "cpus", "agent_hostname"] {
            assert!(both.get(absent).is_none_or(Value::is_null), "{absent}: {both}");
        }
        assert_eq!(info(stopped, "x", None), Err(NoInfo::Absent));
        assert_eq!(info(b"No", "x", None), Err(NoInfo::Unreadable));
    }

    #[test]
    fn sizes_of_windows() {
        let size = |cols, rows| Typed::Resize(PtySize { cols, rows });
        for (text, want) in [
            (r#"{"type":"resize","cols":100,"rows":30}"#, size(100, 30)),
            (r#" {"rows":30,"x":1,"cols":100,"type":"resize"} "#, size(100, 30)),
            (r#"{"type":"resize","cols":"90","rows":31.9}"#, size(90, 31)),
            (r#"{"type":"resize","cols":65535,"rows":2}"#, size(1000, 2)),
            (r#"{"type":"resize","cols":70000,"rows":30}"#, Typed::Nothing),
            (r#"{"type":"resize","cols":-1,"rows":30}"#, Typed::Nothing),
            (r#"{"type":"resize","cols":0,"rows":0}"#, Typed::Nothing),
            (r#"{"type":"resize","cols":80}"#, Typed::Nothing),
            (r#"{"type":"resize","cols":true,"rows":[]}"#, Typed::Nothing),
            (r#"{"type":"ping"}"#, Typed::Keys),
            ("5", Typed::Keys),
            ("null", Typed::Keys),
            ("{", Typed::Keys),
            ("\u{1b}[A", Typed::Keys),
        ] {
            assert_eq!(typed(text), want, "{text}");
        }
    }

    #[test]
    fn the_clock_of_each_master() {
        let now: Timestamp = "2026-11-21T08:00:00.5Z".parse().unwrap();
        let go = Clock::of_master(Some("2026-11-21T07:59:59.378799154Z"), now);
        assert_eq!((go, go.show(now).as_str()), (Clock::Zoned, "2026-11-21T08:00:00.500000Z"));
        assert_eq!(Clock::of_master(Some("2026-11-21T10:00:00+02:00"), now), Clock::Zoned);
        assert_eq!(Clock::of_master(None, now), Clock::Zoned);
        // Two hours east, and its clock three seconds ahead of ours.
        let python = Clock::of_master(Some("2026-11-21T10:00:03.500000"), now);
        assert_eq!(python.show(now), "2026-11-21T10:00:03.500000");
        assert_eq!(python.show("2026-11-21T08:01:00Z".parse().unwrap()), "2026-11-21T10:01:03.000000");
    }

    #[test]
    fn dates_of_headers() {
        let at: Timestamp = "2026-11-21T07:52:41Z".parse().unwrap();
        assert_eq!(http_date(at), "Sat, 21 Nov 2026 07:52:41 GMT");
        assert_eq!(parse_http_date("Sat, 21 Nov 2026 07:52:41 GMT"), Some(at));
        assert_eq!(parse_http_date("yesterday"), None);
    }
}
