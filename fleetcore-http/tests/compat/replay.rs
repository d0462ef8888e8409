//! Sends what was recorded and compares the answers.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::common::*;

/// Recordings with the same names of requests: the Python version with libraries of today and of the time it was written,
/// and the Go version.
pub(crate) const VERSIONS: [&str; 3] = ["python", "python-2025-11", "go"];

/// A record whose status or text is meant to differ.
pub(crate) struct Better {
    name: &'static str,
    status: u16,
    /// Part of the body.
    says: &'static str,
}

pub(crate) const fn better(name: &'static str, status: u16, says: &'static str) -> Better {
    Better { name, status, says }
}

pub(crate) struct Replay<'a> {
    pub(crate) server: &'a Running,
    pub(crate) cookie: String,
    pub(crate) better: &'a [Better],
    /// Not asked at all: steps of the recorder that need more than one request.
    pub(crate) skip: &'a [&'a str],
    /// Compared by status only.
    pub(crate) status_only: &'a [&'a str],
}

impl Replay<'_> {
    pub(crate) async fn send(&self, record: &Value) -> Reply {
        self.send_to(self.server, record).await
    }

    pub(crate) async fn send_to(&self, server: &Running, record: &Value) -> Reply {
        let request_ = &record["request"];
        let headers = request_["headers"].as_object().unwrap();
        let headers: Vec<(String, String)> = headers
            .iter()
            .map(|(n, v)| {
                let value = v.as_str().unwrap();
                let value = if n == "Cookie" && value.contains("<SESSION>") { &self.cookie } else { value };
                (n.clone(), value.to_owned())
            })
            .collect();
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let (method, path) = (request_["method"].as_str().unwrap(), request_["path"].as_str().unwrap());
        request(server.address, method, path, &headers, request_["body"].as_str()).await
    }

    /// Why the answer is not what it has to be. `python` is the Python version's answer to the same request, when
    /// `record` is the Go version's.
    fn differs(&self, record: &Value, python: Option<&Value>, reply: &Reply) -> Option<String> {
        let name = record["name"].as_str().unwrap();
        if let Some(better) = self.better.iter().find(|b| b.name == name) {
            let fits = reply.status == better.status && reply.text().contains(better.says);
            let never_empty = better.status < 400 || reply.json().get("detail").is_none_or(|d| d != "");
            return (!fits || !never_empty)
                .then(|| format!("{name}: wanted {} {:?}", better.status, better.says));
        }
        let Some(python) = python else { return self.differs_from(record, reply, false) };
        // What clients of the Go version read is there too, or it is one of the rows of section 2 that follow Python.
        let why = self.differs_from(record, reply, true)?;
        (!follows_python(record, python, reply)).then_some(why)
    }

    fn differs_from(&self, record: &Value, reply: &Reply, more_is_fine: bool) -> Option<String> {
        let name = record["name"].as_str().unwrap();
        let response = &record["response"];
        let (want_status, want) = (response["status"].as_u64().unwrap(), &response["json"]);
        if u64::from(reply.status) != want_status {
            return Some(format!("{name}: wanted {want_status} {want}"));
        }
        if let Some(len) = response["body_len"].as_u64().filter(|_| want_status == 200)
            && reply.body.len() as u64 != len
        {
            return Some(format!("{name}: wanted {len} bytes"));
        }
        if want.is_null() || self.status_only.contains(&name) {
            return None;
        }
        let got = reply.json();
        let (mut want_shape, mut got_shape) = (shape(want), shape(&got));
        // Secrets and new knowledge.
        for extra in [".detail[].input", ".detail[].ctx"] {
            want_shape.retain(|k, _| !k.starts_with(extra));
            got_shape.retain(|k, _| !k.starts_with(extra));
        }
        for extra in [".registered", ".errors", ".exit_code"] {
            got_shape.retain(|k, _| !k.starts_with(extra) || want_shape.contains_key(k));
        }
        if more_is_fine {
            got_shape.retain(|k, _| want_shape.contains_key(k));
        }
        if want_shape != got_shape {
            return Some(format!("{name}: wanted the shape of {want}"));
        }
        for key in ["detail", "message", "authenticated", "username", "vm_name", "success", "status"] {
            let text = want.get(key).filter(|v| !v.is_array());
            // What Multipass prints when it prints nothing is better known now.
            if text.is_some_and(|t| t != "" && Some(t) != got.get(key)) {
                return Some(format!("{name}: wanted {key} of {want}"));
            }
        }
        let misfits = |v: &Value| -> Vec<Value> {
            let all = v["detail"].as_array().cloned().unwrap_or_default();
            all.iter().map(|m| json!([m["type"], m["loc"], m["msg"]])).collect()
        };
        (misfits(want) != misfits(&got)).then(|| format!("{name}: wanted {want}"))
    }

    /// Replays `FILE.jsonl` of one version in its order; `before` hears the name of what comes next. `None` without
    /// recorded data.
    pub(crate) async fn run(
        &mut self,
        version: &str,
        file: &str,
        mut before: impl AsyncFnMut(&str),
    ) -> Option<usize> {
        let records = recorded(&format!("{version}/{file}.jsonl"))?;
        let python: BTreeMap<String, Value> = match version {
            "go" => {
                let all = recorded(&format!("python/{file}.jsonl"))?;
                all.into_iter().map(|r| (r["name"].as_str().unwrap().to_owned(), r)).collect()
            }
            _ => BTreeMap::new(),
        };
        let mut broken = Vec::new();
        let mut asked = 0;
        for record in &records {
            let name = record["name"].as_str().unwrap();
            if self.skip.contains(&name) {
                continue;
            }
            before(name).await;
            asked += 1;
            let nothing = json!({"response": {"status": 0}});
            let python = (version == "go").then(|| python.get(name).unwrap_or(&nothing));
            let mut reply = self.send(record).await;
            // Lists are up to a second old, and tell nobody when they are fresh: asking again is all a client can do.
            let until = tokio::time::Instant::now() + std::time::Duration::from_secs(3);
            while name.contains("list")
                && self.differs(record, python, &reply).is_some()
                && tokio::time::Instant::now() < until
            {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                reply = self.send(record).await;
            }
            if let Some(why) = self.differs(record, python, &reply) {
                broken.push(format!("{why}\n   got {} {}", reply.status, reply.text()));
            }
        }
        assert!(
            broken.is_empty(),
            "{version}/{file}: {} of {asked} differ\n{}",
            broken.len(),
            broken.join("\n")
        );
        Some(asked)
    }
}

/// Rows of section 2 of the contract that say to follow Python, or to follow neither.
fn follows_python(record: &Value, python: &Value, reply: &Reply) -> bool {
    let go = &record["response"];
    let status = go["status"].as_u64().unwrap();
    let body = go["body"].as_str().unwrap_or_default();
    let detail = go["json"]["detail"].as_str().unwrap_or_default();
    let theirs = python["response"]["status"].as_u64().unwrap();
    let says = reply.detail();
    let told = reply.json().get("detail").is_some_and(|d| d != "" && *d != json!([]));
    match (status, reply.status) {
        // Unauthenticated `GET /`.
        (302, 307) => reply.header("location") == Some("/login"),
        // Invalid body: where `detail` is read there is one; and what is lossless is taken.
        (400, ours) if go["json"]["error"] == "Invalid request" => {
            (ours == 422 && told) || (ours == 200 && theirs == 200)
        }
        // A field that is missing.
        (_, 422) if theirs == 422 => told,
        // Unknown path or method, and the case of letters.
        (404 | 405, ours) if body.starts_with("Cannot ") || body == "Method Not Allowed" => {
            (u64::from(ours) == status || u64::from(ours) == theirs) && told
        }
        (200, 404) if theirs == 404 => told,
        // A body in a form.
        (426, 404) => says == "Not Found",
        // D8, and OPTIONS as a method like others.
        (204, 405) => says == "Method Not Allowed",
        // Failure texts: what Multipass says, and never addresses of agents.
        (500, 400..) if detail.starts_with("exit status") => told && !says.starts_with("exit status"),
        (500, 404) if detail.to_lowercase().starts_with("agent not found: ") => {
            says == detail.replacen('a', "A", 1)
        }
        (500, 502) if detail.contains("dial tcp") => says.ends_with("is unreachable"),
        // The agent's own status and text.
        (500, 500) if detail.starts_with("Failed to ") => told && says != detail,
        (500, 500) if detail.starts_with("Failed to parse JSON") => says.starts_with("Failed to parse JSON"),
        _ => false,
    }
}
