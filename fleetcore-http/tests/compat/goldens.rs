//! What was recorded of the originals, asked of this dialect over a socket.
//!
//! Status, keys, types and literal texts have to be the same, apart from what the contract says to do better; every such
//! record is listed here with what is expected instead. What the Go version answers differently from the Python version
//! follows the rows of the contract's section 2, in `replay.rs`.

use serde_json::json;

use crate::{
    common::*,
    replay::{Replay, VERSIONS, better},
};

/// A front end of our own, laid out like the original, which is not part of the recorded data: its six files with their
/// recorded sizes. Both originals send its pages as they are on disk (their recorded checksums are the same, and those of
/// the files), so there is nothing in them for a template engine to do.
pub(crate) fn front_end() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, begin, size) in [
        ("templates/index.html", "<!doctype html><title>main</title><p>{{ not }} {% for us %}\n", 15_716),
        ("templates/login.html", "<!doctype html><title>login</title>\n", 1022),
        ("static/js/app.js", "export const x = 1;\n", 20_382),
        ("static/js/login.js", "export const y = 1;\n", 958),
        ("static/css/style.css", "* {\n  box-sizing: border-box;\n}\n", 20_616),
        ("static/css/login.css", "b {}\n", 1806),
    ] {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("{begin}{}", "\n".repeat(size - begin.len()))).unwrap();
    }
    dir
}

#[tokio::test]
async fn logging_in_and_pages() {
    for version in VERSIONS {
        let multipass = Multipass::local();
        let ui = front_end();
        let master = Running::master(&multipass, &["--ui-dir", ui.path().to_str().unwrap()]).await;
        let first = master.login().await;
        let better = [
            // 2: HEAD works; a trailing slash is the same resource; no wildcard CORS (D8); no documents of the API.
            better("page-login-head", 200, ""),
            better("head-api", 200, ""),
            better("trailing-slash", 200, "authenticated"),
            better("case-path", 404, "Not Found"),
            better("cors-preflight", 405, "Method Not Allowed"),
            better("cors-preflight-delete", 405, "Method Not Allowed"),
            better("openapi", 404, "Not Found"),
            better("docs", 404, "Not Found"),
            // 3.1: as the Python version with the libraries of today.
            better("login-no-content-type", 422, "model_attributes_type"),
            better("login-form", 422, "model_attributes_type"),
            // The entity tag is ours, and so is the date.
            better("static-if-none-match", 200, "box-sizing"),
            better("static-if-modified-since", 200, "box-sizing"),
            // The Go version knows no ranges.
            better("static-range", 206, "* {\n  box-"),
        ];
        let mut replay = Replay {
            server: &master,
            cookie: first.clone(),
            better: &better,
            skip: &["logout-ok", "check-after-logout", "logout-twice", "check-other-session-still-ok"],
            status_only: &[],
        };
        if replay.run(version, "master_auth_pages", async |_| ()).await.is_none() {
            return;
        }

        // The rest of that file, with two logins.
        let second = master.login().await;
        assert_ne!(first, second);
        let reply = request(master.address, "POST", "/api/auth/logout", &[("Cookie", &second)], None).await;
        assert_eq!(reply.json(), json!({"success": true, "message": "Logged out"}));
        let cleared = reply.header("set-cookie").unwrap();
        assert!(cleared.starts_with("session_id=\"\"; expires="), "{cleared}");
        assert!(cleared.ends_with(" GMT; Max-Age=0; Path=/; SameSite=lax"), "{cleared}");
        assert_eq!(
            master.get("/api/auth/check", &[("Cookie", &second)]).await.json(),
            json!({"authenticated": false})
        );
        let twice = request(master.address, "POST", "/api/auth/logout", &[("Cookie", &second)], None).await;
        assert_eq!(twice.status, 200);
        let other = master.get("/api/auth/check", &[("Cookie", &first)]).await.json();
        assert_eq!(other, json!({"authenticated": true, "username": "admin"}));
    }
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
    for version in VERSIONS {
        let multipass = Multipass::local();
        let master = Running::master(&multipass, &["--open-enrolment"]).await;
        let cookie = master.login().await;
        let better = [
            // D7: ids and addresses that pages or URLs could stumble over.
            better("agent-register-empty-id", 422, "Invalid agent_id"),
            better("agent-register-odd-id", 422, "Invalid agent_id"),
            // 2: path parameters are decoded, and no id has a slash.
            better("agent-info-odd-id-encoded", 404, "Not Found"),
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
        replay.run(version, "master_agents", async |_| ()).await;
    }
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
    for version in VERSIONS {
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
            .run(version, "master_vms", async |name| {
                for switch in
                    ["spinner", "broken_json", "info_other_key", "fail_list", "fail_info", "fail_purge"]
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
    for version in VERSIONS {
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
            // 2: what is left out has its default at the agent too.
            better("create-defaults", 200, "Launched: c1\\n"),
            better("delete-ok", 200, "VM deleted and purged"),
            // D2: the key comes first; D8: no CORS.
            better("ws-plain-get", 403, "Invalid or missing API key"),
            better("cors-preflight", 405, "Method Not Allowed"),
        ];
        let mut replay =
            Replay { server: &agent, cookie: String::new(), better: &better, skip: &[], status_only: &[] };
        replay
            .run(version, "agent_http", async |name| {
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
}

#[tokio::test]
async fn without_multipass() {
    let absent = "/nonexistent/multipass";
    for version in VERSIONS {
        let Some(records) = recorded(&format!("{version}/no_multipass.jsonl")) else { return };
        let master = Running::start("batwa-server", &["--multipass", absent]).await;
        let agent = Running::start("batwa-agent", &["--agent-id", "agent1", "--multipass", absent]).await;
        let cookie = master.login().await;
        let replay = Replay { server: &master, cookie, better: &[], skip: &[], status_only: &[] };
        for record in &records {
            let server = if record["server"] == "agent" { &agent } else { &master };
            let reply = replay.send_to(server, record).await;
            let (status, want) =
                (record["response"]["status"].as_u64().unwrap(), &record["response"]["json"]);
            assert_eq!(
                u64::from(reply.status),
                if version == "go" && reply.status == 500 { 500 } else { status }
            );
            if let Some(detail) = want["detail"].as_str() {
                let detail = detail.trim_start_matches("500: ").trim_start_matches("404: ");
                if version == "go" && detail.starts_with("exec: ") {
                    assert_eq!(reply.detail(), "multipass command not found. Is multipass installed?");
                } else {
                    assert_eq!(reply.detail(), detail, "{record}");
                }
            }
        }
    }
}

/// 3.6 and 7.4 with an agent of ours that stands for the recorded one.
#[tokio::test]
async fn machines_of_agents() {
    for version in VERSIONS {
        let (local, theirs) = (Multipass::local(), Multipass::agent());
        // The recorder had started it before.
        local.set("vms/db", "Running\n[\"10.9.0.99\"]\nUbuntu 24.04 LTS\n1\n");
        let keys = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&keys, "enrol\n").unwrap();
        let master = Running::master(&local, &["--enrol-key-file", keys.path().to_str().unwrap()]).await;
        let agent = Running::agent(&theirs, &["--agent-id", "agent1", "--api-key", AGENT_KEY]).await;
        let (url, cookie) = (agent.url(), master.login().await);
        let register = async |key: Option<&str>| {
            let body =
                json!({"agent_id": "agent1", "hostname": "batwa-host", "api_url": url, "api_key": key});
            let reply = master.post("/api/agent/register", &[("X-API-Key", "enrol")], &body).await;
            assert_eq!(reply.status, 200, "{reply:?}");
        };
        register(Some(AGENT_KEY)).await;
        let no = |verb: &str, name: &str, why: &str| {
            format!("\"{verb} failed: instance \\\"{name}\\\" {why}\\n\"")
        };
        let no: [&'static str; 5] = [
            no("start", "nosuch", "does not exist"),
            no("stop", "nosuch", "does not exist"),
            no("delete", "nosuch", "does not exist"),
            no("launch", "rnew", "already exists"),
            no("info", "nosuch", "does not exist"),
        ]
        .map(|text| -> &'static str { text.leak() });
        let down = "{\"detail\":\"Agent 'agent1' is unreachable\"}";
        let better = [
            // ★ of section 2: both forms at once, of the right machine.
            better("info-remote", 200, "\"agent_hostname\":\"batwa-host\""),
            better("info-remote-colliding-name", 200, "\"agent_id\":\"agent1\""),
            better("info-remote-no-agent-id", 404, "does not exist"),
            better("info-remote-unknown-vm", 404, no[4]),
            better("start-remote", 200, "VM 'batch' started"),
            better("stop-remote", 200, "VM 'batch' stopped"),
            // 7.4: the agent's own text, without its address.
            better("start-remote-unknown", 500, no[0]),
            better("stop-remote-unknown", 500, no[1]),
            better("delete-remote-unknown", 500, no[2]),
            better("create-remote-duplicate", 500, no[3]),
            better("list-remote-not-json", 200, "\"errors\":[{\"agent_id\":\"agent1\""),
            better("list-agent-wrong-key", 200, "Agent 'agent1' refused the API key"),
            better("start-agent-wrong-key", 502, "Agent 'agent1' refused the API key"),
            better("list-agent-key-kept-after-reregister-without-key", 200, "refused the API key"),
            better("list-agent-down", 200, "Agent 'agent1' is unreachable"),
            better("info-agent-down", 502, down),
            better("start-agent-down", 502, down),
            better("create-agent-down", 502, down),
        ];
        let mut replay =
            Replay { server: &master, cookie: cookie.clone(), better: &better, skip: &[], status_only: &[] };
        let mut agent = Some(agent);
        let asked = replay
            .run(version, "master_vms_remote", async |name| {
                theirs.unset("broken_json");
                match name {
                    "list-remote-not-json" => theirs.set("broken_json", ""),
                    "list-agent-wrong-key" => register(Some("wrong")).await,
                    // D3: here a key belongs to its address, and this is the same.
                    "list-agent-key-kept-after-reregister-without-key" => {
                        let body = json!({"agent_id": "agent1", "hostname": "batwa-host", "api_url": url});
                        let reply =
                            master.post("/api/agent/register", &[("X-API-Key", "wrong")], &body).await;
                        assert_eq!(reply.status, 200, "{reply:?}");
                    }
                    "list-agent-right-key" => register(Some(AGENT_KEY)).await,
                    "list-agent-down" => agent.take().unwrap().stop().await,
                    _ => {}
                }
            })
            .await;
        if asked.is_none() {
            return;
        }
        // Those of this host and of the agent are told apart.
        local.argv();
        assert!(theirs.has("vms/rnew2") && !theirs.has("vms/rnew") && !local.has("vms/rnew2"));
    }
}
