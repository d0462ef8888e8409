//! `ui.jsonl`: what the original pages asked for when they were driven in a browser.

use serde_json::{Value, json};

use crate::{common::*, goldens::front_end};

/// What the pages read of an answer, by the route.
fn read_by_the_page(path: &str, reply: &Value) -> Vec<String> {
    let mut missing = Vec::new();
    let mut need = |value: &Value, at: &str, keys: &[&str]| {
        for key in keys.iter().filter(|k| value.get(**k).is_none()) {
            missing.push(format!("{at}.{key}"));
        }
    };
    if path.starts_with("/api/vm/list") {
        for vm in reply["vms"].as_array().unwrap() {
            need(vm, "vm", &["name", "state", "ipv4", "agent_id", "agent_hostname"]);
            assert!(vm["state"].is_string() && vm["ipv4"].is_array(), "{vm}");
        }
    } else if path.starts_with("/api/agent/list") {
        for agent in reply.as_array().unwrap() {
            need(agent, "agent", &["agent_id", "hostname", "api_url", "status", "vm_count", "last_seen"]);
        }
    } else if path.starts_with("/api/vm/info/") {
        need(reply, "info", &["name", "state", "ipv4", "agent_hostname", "image", "release"]);
    } else if path.starts_with("/api/auth/check") {
        need(reply, "check", &["authenticated", "username"]);
    }
    missing
}

#[tokio::test]
async fn what_the_pages_ask_for() {
    for version in ["python", "go"] {
        let Some(records) = recorded(&format!("{version}/ui.jsonl")) else { return };
        let (local, theirs) = (Multipass::local(), Multipass::agent());
        let ui = front_end();
        let master =
            Running::master(&local, &["--open-enrolment", "--ui-dir", ui.path().to_str().unwrap()]).await;
        let agent = Running::agent(&theirs, &["--agent-id", "agent1", "--api-key", AGENT_KEY]).await;
        master.register("agent1", &agent.url(), Some(AGENT_KEY)).await;
        let good = master.login().await;
        let mut asked = 0;
        for record in &records {
            let (Some(http), Some(step)) = (record["http"].as_str(), record["step"].as_str()) else {
                continue;
            };
            let (method, path) = http.split_once(' ').unwrap();
            // The right password is in the recording; limits of logins are no part of this.
            if path == "/api/auth/login" && record["status"] == 200 {
                continue;
            }
            let anonymous = matches!(step, "root-anon" | "session-lost");
            let mut headers = vec![("Referer", "http://batwa/")];
            if !anonymous {
                headers.push(("Cookie", good.as_str()));
            }
            let post = record["post"].as_str();
            if post.is_some() {
                headers.push(("Content-Type", "application/json"));
            }
            let reply = request(master.address, method, path, &headers, post).await;
            asked += 1;
            let status = record["status"].as_u64().unwrap();
            let same = match (status, reply.status) {
                (302, 307) => true,
                // The Python version has no details of machines of agents.
                (500, 200) => path.starts_with("/api/vm/info/"),
                (wanted, got) => wanted == u64::from(got),
            };
            assert!(same, "{version} {step} {http}: wanted {status}, got {reply:?}");
            if reply.status == 200 && path.starts_with("/api/") && method == "GET" {
                let missing = read_by_the_page(path, &reply.json());
                assert!(missing.is_empty(), "{version} {step} {http}: {missing:?}");
            }
            if reply.status >= 400 && reply.status != 401 {
                assert!(!reply.detail().is_empty(), "{version} {step} {http}: the page shows `detail`");
            }
            let kind = match record["type"].as_str().unwrap() {
                "document" => "text/html; charset=utf-8",
                "stylesheet" => "text/css; charset=utf-8",
                "script" => "text/javascript; charset=utf-8",
                _ => "application/json",
            };
            assert!(reply.status == 307 || reply.header("content-type") == Some(kind), "{http} {reply:?}");
        }
        assert!(asked > 40, "{version}: {asked}");
    }
}

/// Section 8.3: the details dialog shows all eight fields.
#[tokio::test]
async fn the_details_dialog_is_full() {
    let (local, theirs) = (Multipass::local(), Multipass::agent());
    let master = Running::master(&local, &["--open-enrolment"]).await;
    let agent = Running::agent(&theirs, &["--agent-id", "agent1", "--api-key", AGENT_KEY]).await;
    master.register("agent1", &agent.url(), Some(AGENT_KEY)).await;
    let cookie = master.login().await;
    for (path, host) in
        [("/api/vm/info/primary", Value::Null), ("/api/vm/info/web?agent_id=agent1", json!("h1"))]
    {
        let info = master.get(path, &[("Cookie", &cookie)]).await.json();
        assert!(info["name"].is_string() && info["state"] == "Running", "{info}");
        assert!(info["ipv4"][0].is_string() && info["image"] == "22.04 LTS", "{info}");
        assert!(info["cpus"].as_str().is_some_and(|c| !c.is_empty()), "{info}");
        assert!(info["memory"]["total"].is_u64() && info["disk"]["total"].is_u64(), "{info}");
        assert_eq!(info["agent_hostname"], host);
    }
    let stopped = master.get("/api/vm/info/db", &[("Cookie", &cookie)]).await.json();
    for unknown in ["memory", "disk", "cpus"] {
        assert!(stopped.get(unknown).is_none_or(Value::is_null), "left out, never {{}}: {stopped}");
    }
}
