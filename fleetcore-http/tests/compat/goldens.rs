//! What was recorded of the originals, asked of this dialect over a socket.
//!
//! Status, keys, types and literal texts have to be the same, apart from what the contract says to do better; every such
//! record is listed here with what is expected instead.

use serde_json::{Value, json};

use crate::common::*;

/// A record whose status or text is meant to differ.
struct Better {
    name: &'static str,
    status: u16,
    /// Part of the body.
    says: &'static str,
}

const fn better(name: &'static str, status: u16, says: &'static str) -> Better {
    Better { name, status, says }
}

struct Replay<'a> {
    server: &'a Running,
    cookie: String,
    better: &'a [Better],
    /// Not asked at all: steps of the recorder that need more than one request.
    skip: &'a [&'a str],
    /// Compared by status only.
    status_only: &'a [&'a str],
}

impl Replay<'_> {
    async fn send(&self, record: &Value) -> Reply {
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
        request(self.server.address, method, path, &headers, request_["body"].as_str()).await
    }

    fn differs(&self, record: &Value, reply: &Reply) -> Option<String> {
        let name = record["name"].as_str().unwrap();
        if let Some(better) = self.better.iter().find(|b| b.name == name) {
            let fits = reply.status == better.status && reply.text().contains(better.says);
            let never_empty = better.status < 400 || reply.json().get("detail").is_none_or(|d| d != "");
            return (!fits || !never_empty)
                .then(|| format!("{name}: wanted {} {:?}", better.status, better.says));
        }
        let (want_status, want) =
            (record["response"]["status"].as_u64().unwrap(), &record["response"]["json"]);
        if u64::from(reply.status) != want_status {
            return Some(format!("{name}: wanted {want_status}"));
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

    async fn run(&mut self, file: &str, mut before: impl AsyncFnMut(&str)) -> Option<usize> {
        let records = recorded(file)?;
        let mut broken = Vec::new();
        let mut asked = 0;
        for record in &records {
            let name = record["name"].as_str().unwrap();
            if self.skip.contains(&name) {
                continue;
            }
            before(name).await;
            asked += 1;
            let mut reply = self.send(record).await;
            // Lists are up to a second old.
            let until = tokio::time::Instant::now() + std::time::Duration::from_secs(3);
            while name.contains("list")
                && self.differs(record, &reply).is_some()
                && tokio::time::Instant::now() < until
            {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                reply = self.send(record).await;
            }
            if let Some(why) = self.differs(record, &reply) {
                broken.push(format!("{why}\n   got {} {}", reply.status, reply.text()));
            }
        }
        assert!(broken.is_empty(), "{file}: {} of {asked} differ\n{}", broken.len(), broken.join("\n"));
        Some(asked)
    }
}

/// A front end of our own, laid out like the original, which is not part of the recorded data.
fn front_end() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("templates/index.html", "<!doctype html><title>main</title>"),
        ("templates/login.html", "<!doctype html><title>login</title>"),
        ("static/js/app.js", "export const x = 1;\n"),
        ("static/css/style.css", "* {\n  box-sizing: border-box;\n}\n"),
    ] {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

#[tokio::test]
async fn logging_in_and_pages() {
    let multipass = Multipass::local();
    let ui = front_end();
    let master = Running::master(&multipass, &["--ui-dir", ui.path().to_str().unwrap()]).await;
    let first = master.login().await;
    let better = [
        // 2: HEAD works; a trailing slash is the same resource; no wildcard CORS (D8); no documents of the API.
        better("page-login-head", 200, ""),
        better("head-api", 200, ""),
        better("trailing-slash", 200, "authenticated"),
        better("cors-preflight", 405, "Method Not Allowed"),
        better("cors-preflight-delete", 405, "Method Not Allowed"),
        better("openapi", 404, "Not Found"),
        better("docs", 404, "Not Found"),
        // The entity tag is ours.
        better("static-if-none-match", 200, "box-sizing"),
        better("static-if-modified-since", 200, "box-sizing"),
    ];
    let mut replay = Replay {
        server: &master,
        cookie: first.clone(),
        better: &better,
        skip: &[],
        status_only: &["static-range"],
    };
    let skip = ["logout-ok", "check-after-logout", "logout-twice", "check-other-session-still-ok"];
    replay.skip = &skip;
    if replay.run("python/master_auth_pages.jsonl", async |_| ()).await.is_none() {
        return;
    }

    // The rest of that file, with two logins.
    let second = master.login().await;
    assert_ne!(first, second);
    let reply = request(master.address, "POST", "/api/auth/logout", &[("Cookie", &second)], None).await;
    let cleared = reply.header("set-cookie").unwrap();
    assert!(cleared.starts_with("session_id=\"\"; expires="), "{cleared}");
    assert!(cleared.ends_with(" GMT; Max-Age=0; Path=/; SameSite=lax"), "{cleared}");
    assert_eq!(
        master.get("/api/auth/check", &[("Cookie", &second)]).await.json(),
        json!({"authenticated": false})
    );
    let other = master.get("/api/auth/check", &[("Cookie", &first)]).await.json();
    assert_eq!(other, json!({"authenticated": true, "username": "admin"}));
}

#[tokio::test]
async fn the_cookie_is_the_original_one() {
    let Some(records) = recorded("python/master_auth_pages.jsonl") else { return };
    let login = records.iter().find(|r| r["name"] == "login-ok").unwrap();
    let headers = login["response"]["headers"].as_array().unwrap();
    let want = headers.iter().find(|h| h[0] == "set-cookie").unwrap()[1].as_str().unwrap();
    let multipass = Multipass::local();
    let master = Running::master(&multipass, &[]).await;
    let body = json!({"username": "admin", "password": PASSWORD});
    let reply = master.post("/api/auth/login", &[], &body).await;
    let cookie = reply.cookie().unwrap();
    assert_eq!(reply.header("set-cookie").unwrap(), want.replace("session_id=<SESSION>", &cookie));
}

#[tokio::test]
async fn pages_and_files_of_a_front_end() {
    let multipass = Multipass::local();
    let ui = front_end();
    let master = Running::master(&multipass, &["--ui-dir", ui.path().to_str().unwrap()]).await;
    let cookie = master.login().await;
    for path in ["/", "/login"] {
        let page = master.get(path, &[("Cookie", &cookie)]).await;
        assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    }
    let file = master.get("/static/css/style.css?v=4", &[]).await;
    assert_eq!(file.header("content-type"), Some("text/css; charset=utf-8"));
    let (etag, date) = (file.header("etag").unwrap(), file.header("last-modified").unwrap());
    for known in [("If-None-Match", etag), ("If-Modified-Since", date)] {
        let same = master.get("/static/css/style.css", &[known]).await;
        assert_eq!((same.status, same.body.len()), (304, 0), "{known:?}");
    }
    let part = master.get("/static/css/style.css", &[("Range", "bytes=4-6")]).await;
    assert_eq!((part.status, part.text().as_str()), (206, "  b"));
    assert_eq!(part.header("content-range"), Some(format!("bytes 4-6/{}", file.body.len()).as_str()));
    // A new file is seen.
    std::fs::write(ui.path().join("static/css/style.css"), "b {}\n").unwrap();
    eventually("the new file", async || {
        (master.get("/static/css/style.css", &[]).await.text() == "b {}\n").then_some(())
    })
    .await;
    for bad in [
        "/static/%2e%2e/templates/index.html",
        "/static/../templates/index.html",
        "/static//etc/passwd",
        "/static/js",
    ] {
        assert_eq!(master.get(bad, &[]).await.status, 404, "{bad}");
    }
}

#[tokio::test]
async fn agents_of_a_master() {
    let multipass = Multipass::local();
    let master = Running::master(&multipass, &["--open-enrolment"]).await;
    let cookie = master.login().await;
    let better = [
        // D7: ids and addresses that pages or URLs could stumble over.
        better("agent-register-empty-id", 422, "Invalid agent_id"),
        better("agent-register-odd-id", 422, "Invalid agent_id"),
        // D3: the id is taken, and this is not its key.
        better("agent-register-wrong-key-header", 403, "Invalid or missing API key"),
        better("heartbeat-ok-naive", 403, "Invalid or missing API key"),
        better("heartbeat-ok-naive-micros", 403, "Invalid or missing API key"),
        better("heartbeat-ok-utc", 403, "Invalid or missing API key"),
        better("heartbeat-ok-offset", 403, "Invalid or missing API key"),
        better("heartbeat-epoch", 403, "Invalid or missing API key"),
        better("heartbeat-string-count", 403, "Invalid or missing API key"),
        better("heartbeat-wrong-key", 403, "Invalid or missing API key"),
        // 7.3: enrolment is open, so the heartbeat makes the agent, as in Go.
        better("agent-info-ghost", 200, "\"hostname\":\"ghost\""),
        better("agent-unregister-ghost", 200, "unregistered successfully"),
        better("agent-list-left", 200, "[]"),
        // Tags of the first registration: the second one was refused.
        better("agent-info-ok", 200, "us-east"),
        better("agent-info-after-naive", 200, "office-1"),
        better("agent-info-after-utc", 200, "office-1"),
        better("agent-info-after-offset", 200, "\"status\":\"online\""),
    ];
    let status_only = ["agent-list-some", "agent-list-after"];
    let mut replay =
        Replay { server: &master, cookie, better: &better, skip: &[], status_only: &status_only };
    replay.run("python/master_agents.jsonl", async |_| ()).await;
}

/// The same with the key the recorder's agent had: all forms of time are taken, none of them is believed.
#[tokio::test]
async fn heartbeats_with_the_key() {
    let multipass = Multipass::local();
    let master = Running::master(&multipass, &["--open-enrolment"]).await;
    let cookie = master.login().await;
    master.register("office-1", "http://192.0.2.10:8001", Some("k1")).await;
    for (time, status, shown) in [
        (json!("2025-01-13T10:30:00"), "online", "online"),
        (json!("2025-01-13T10:30:00.123456"), "online", "online"),
        (json!("2025-01-13T10:30:00Z"), "offline", "offline"),
        (json!("2025-01-13T10:30:00.123456789+02:00"), "weird", "error"),
        (json!(1_736_764_200), "online", "online"),
    ] {
        let body = json!({"agent_id": "office-1", "timestamp": time, "status": status, "vm_count": "7"});
        let reply = master.post("/api/agent/heartbeat", &[("x-api-key", "k1")], &body).await;
        assert_eq!(reply.json()["message"], "Heartbeat received", "{reply:?}");
        let agent =
            master.get("/api/agent/info/office-1", &[("Cookie", &cookie)]).await.json()["agent"].clone();
        assert_eq!((&agent["status"], &agent["vm_count"]), (&json!(shown), &json!(7)));
        let seen: jiff::Timestamp = agent["last_seen"].as_str().unwrap().parse().unwrap();
        assert!(jiff::Timestamp::now().duration_since(seen).as_secs() < 60, "the master's own clock counts");
    }
}

#[tokio::test]
async fn machines_of_the_master() {
    let multipass = Multipass::local();
    let master = Running::master(&multipass, &[]).await;
    let cookie = master.login().await;
    let better = [
        // 2: who is not logged in is told so first.
        better("anon-vm-create-bad-body", 401, "Not authenticated"),
        // 3.6.3: both forms at once, and better status codes.
        better("info-local-running", 200, "\"cpus\":\"2\""),
        better("info-local-stopped", 200, "\"agent_hostname\":null"),
        better("info-local-not-json-list-only", 200, "\"success\":true"),
        better("info-local-unknown", 404, "info failed: instance \\\"nosuch\\\" does not exist\\n"),
        better("info-unknown-agent", 404, "Agent not found: ghost"),
        // D4, D20: names and sizes are checked before anything is run.
        better("info-encoded-space", 422, "Invalid VM name 'a b'"),
        better("info-option-injection", 422, "Invalid VM name '--all'"),
        better("start-option-injection", 422, "Invalid VM name '--all'"),
        better("stop-option-injection", 422, "Invalid VM name '--all'"),
        better("list-after-stop-all", 200, "\"state\":\"Running\""),
        better("start-empty-name", 422, "Invalid VM name ''"),
        better("start-nul-byte", 422, "Invalid VM name"),
        better("start-non-ascii", 422, "Invalid VM name"),
        better("create-cpus-null", 422, "Input should be a valid integer"),
        better("create-cpus-zero", 422, "Invalid cpus 0"),
        better("create-memory-null", 422, "Input should be a valid string"),
        // 3.6: an empty agent is the master's own host, and an unknown one is not found.
        better("start-empty-agent", 200, "VM 'db' started"),
        better("start-unknown-agent", 404, "Agent not found: ghost"),
        better("stop-unknown-agent", 404, "Agent not found: ghost"),
        better("create-unknown-agent", 404, "Agent not found: ghost"),
        better("delete-unknown-agent", 404, "Agent not found: ghost"),
        // 6.1
        better("start-with-spinner", 200, "{\"success\":true,\"message\":\"VM 'db' started\"}"),
        // D6: nothing is purged globally, so that cannot fail.
        better("delete-purge-fails", 200, "VM deleted and purged"),
        // D19
        better("list-local-not-json", 200, "Failed to parse JSON"),
        better(
            "list-local-fails",
            200,
            "\"detail\":\"list failed: cannot connect to the multipass socket\\n\"",
        ),
    ];
    let status_only = [];
    let mut replay = Replay {
        server: &master,
        cookie: cookie.clone(),
        better: &better,
        skip: &[],
        status_only: &status_only,
    };
    let down = "cannot connect to the multipass socket";
    let asked = replay
        .run("python/master_vms.jsonl", async |name| {
            for switch in ["spinner", "broken_json", "info_other_key", "fail_list", "fail_info", "fail_purge"]
            {
                multipass.unset(switch);
            }
            match name {
                "start-with-spinner" => multipass.set("spinner", ""),
                "list-local-not-json" => multipass.set("broken_json", ""),
                "info-key-mismatch" => multipass.set("info_other_key", ""),
                "list-local-fails" => multipass.set("fail_list", &format!("list failed: {down}\n")),
                "info-local-fails" => multipass.set("fail_info", &format!("info failed: {down}\n")),
                "delete-purge-fails" => multipass.set("fail_purge", &format!("purge failed: {down}\n")),
                _ => {}
            }
        })
        .await;
    if asked.is_some() {
        assert!(
            multipass.has("vms/old"),
            "a deleted instance that can be recovered survives another's deletion"
        );
    }
}

#[tokio::test]
async fn argument_vectors_are_the_recorded_ones() {
    let Some(records) = recorded("python/master_vms.jsonl") else { return };
    let multipass = Multipass::local();
    let master = Running::master(&multipass, &[]).await;
    let cookie = master.login().await;
    multipass.argv();
    let mut compared = 0;
    for record in &records {
        let name = record["name"].as_str().unwrap();
        let wanted = record["multipass_argv"]["master"].clone();
        let request_ = &record["request"];
        let same = [
            "info-local-running",
            "start-local",
            "stop-local",
            "create-local-defaults",
            "create-local-full",
            "create-cpus-string",
        ];
        if !same.contains(&name) {
            continue;
        }
        let (method, path) = (request_["method"].as_str().unwrap(), request_["path"].as_str().unwrap());
        let headers = [("Cookie", cookie.as_str()), ("Content-Type", "application/json")];
        request(master.address, method, path, &headers, request_["body"].as_str()).await;
        assert_eq!(json!(multipass.argv()), wanted, "{name}");
        compared += 1;
    }
    assert_eq!(compared, 6);
    let reply = master.post("/api/vm/delete", &[("Cookie", &cookie)], &json!({"name": "new1"})).await;
    assert_eq!(reply.json(), json!({"success": true, "message": "VM deleted and purged"}));
    assert_eq!(json!(multipass.argv()), json!([["multipass", "delete", "--purge", "new1"]]));
}

#[tokio::test]
async fn an_agent() {
    let multipass = Multipass::agent();
    let agent = Running::agent(&multipass, &["--agent-id", "agent1", "--api-key", AGENT_KEY]).await;
    let better = [
        // 5.3: the stderr of Multipass without a number in front, and 404 for what is not there.
        better("info-unknown", 404, "\"info failed: instance \\\"nosuch\\\" does not exist\\n\""),
        better("start-unknown", 500, "\"start failed: instance \\\"nosuch\\\" does not exist\\n\""),
        better("create-duplicate", 500, "\"launch failed: instance \\\"c1\\\" already exists\\n\""),
        better("delete-unknown", 500, "\"delete failed: instance \\\"nosuch\\\" does not exist\\n\""),
        better("list-not-json", 500, "\"Failed to parse JSON: "),
        better("list-fails", 500, "\"list failed: cannot connect to the multipass socket\\n\""),
        // stderr is kept, a time limit is honoured, and only what touches instances is run (D16).
        better("execute-exec", 200, "\"stderr\":\"err\\n\""),
        better("execute-timeout-ignored", 200, "Command timed out after 1 seconds"),
        better("execute-unknown-subcommand", 200, "multipass frobnicate is not allowed here"),
        better("execute-empty-args", 200, "no multipass command is named"),
        // D2: the key comes first; D8: no CORS.
        better("ws-plain-get", 403, "Invalid or missing API key"),
        better("cors-preflight", 405, "Method Not Allowed"),
    ];
    let mut replay =
        Replay { server: &agent, cookie: String::new(), better: &better, skip: &[], status_only: &[] };
    replay
        .run("python/agent_http.jsonl", async |name| {
            multipass.unset("broken_json");
            multipass.unset("fail_list");
            match name {
                "list-not-json" => multipass.set("broken_json", ""),
                "list-fails" => {
                    multipass.set("fail_list", "list failed: cannot connect to the multipass socket\n");
                }
                _ => {}
            }
        })
        .await;
}

#[tokio::test]
async fn without_multipass() {
    let absent = "/nonexistent/multipass";
    let master = Running::start("batwa-server", &["--multipass", absent]).await;
    let agent = Running::start("batwa-agent", &["--agent-id", "agent1", "--multipass", absent]).await;
    let Some(records) = recorded("python/no_multipass.jsonl") else { return };
    let cookie = master.login().await;
    for record in &records {
        let server = if record["server"] == "agent" { &agent } else { &master };
        let replay = Replay { server, cookie: cookie.clone(), better: &[], skip: &[], status_only: &[] };
        let reply = replay.send(record).await;
        let (status, want) = (record["response"]["status"].as_u64().unwrap(), &record["response"]["json"]);
        assert_eq!(u64::from(reply.status), status, "{record} {reply:?}");
        if let Some(detail) = want["detail"].as_str() {
            let detail = detail.trim_start_matches("500: ").trim_start_matches("404: ");
            assert_eq!(reply.detail(), detail, "{record}");
        }
    }
}
