//! Runtimes of AI coding agents, made over the API.
#![cfg(feature = "openhands")]

use std::sync::Arc;

use fleetcore::{
    Fleet, Role, Scope,
    backends::sandbox::{SandboxConfig, Sandboxes},
    store::memory::MemoryStore,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::common::*;

const RUNTIMES: &str = "/api/v1/runtimes";

/// A runtime, and the key to it.
struct Made {
    id: String,
    url: String,
    key: String,
    body: Value,
}

impl Harness {
    async fn make_runtime(&self, body: Value) -> Made {
        let (status, body) = self.post_json(RUNTIMES, body).await;
        assert_eq!(status, 201, "{body}");
        let text = |name: &str| body[name].as_str().unwrap().to_owned();
        Made { id: text("id"), url: text("url"), key: text("key"), body: body.clone() }
    }

    /// In a directory of this host.
    async fn make_here(&self) -> Made {
        let dir = self.dir.path().join("work").display().to_string();
        self.make_runtime(json!({ "target": "local", "working_dir": dir })).await
    }

    /// As the agent's client does: with the key, without a login.
    async fn act(&self, made: &Made, action: Value) -> Value {
        let request = self.http.post(format!("{}{}/execute_action", self.base, made.url));
        let request = request.header("x-session-api-key", &made.key).timeout(LIMIT);
        let response = request.json(&json!({ "action": action })).send().await.unwrap();
        let status = response.status();
        let body: Value = response.json().await.unwrap();
        assert_eq!(status, 200, "{body}");
        body
    }

    async fn run_there(&self, made: &Made, command: &str) -> String {
        let answer = self.act(made, json!({ "action": "run", "args": { "command": command } })).await;
        answer["content"].as_str().unwrap().to_owned()
    }

    async fn end(&self, id: &str) -> StatusCode {
        let request = self.request(Method::DELETE, &format!("{RUNTIMES}/{id}"));
        request.send().await.unwrap().status()
    }
}

#[tokio::test]
async fn a_runtime_on_this_host_from_its_making_to_its_end() {
    let h = start().await;
    assert_eq!(h.json(RUNTIMES).await["items"], json!([]));
    let made = h.make_here().await;
    assert_eq!((&made.body["target"], &made.body["owns_target"]), (&json!("local"), &json!(false)));
    assert_eq!(made.url, format!("{RUNTIMES}/{}", made.id));
    let there = |path: &str| h.http.get(format!("{}{}{path}", h.base, made.url));
    assert_eq!(there("/alive").send().await.unwrap().text().await.unwrap(), r#"{"status":"ok"}"#);
    // Neither a wrong key nor a login is a key.
    for path in ["/server_info", "/vscode/connection_token", "/nothing"] {
        assert_eq!(there(path).send().await.unwrap().status(), 403, "{path}");
        assert_eq!(there(path).bearer_auth(&h.token).send().await.unwrap().status(), 403, "{path}");
    }
    let info = there("/server_info").header("x-session-api-key", &made.key).send().await.unwrap();
    assert_eq!(info.status(), 200);

    assert_eq!(h.run_there(&made, "cd / && echo $((6*7))").await, "42");
    assert_eq!(h.run_there(&made, "pwd").await, "/");
    let seen = h.run_there(&made, "env; cat /proc/$$/environ | tr '\\0' '\\n'").await;
    assert!(
        seen.contains("PATH=") && !seen.contains(&made.key) && !seen.contains("SESSION_API_KEY"),
        "{seen}"
    );
    let file = h.dir.path().join("work/a.txt").display().to_string();
    h.act(&made, json!({ "action": "write", "args": { "path": file, "content": "x" } })).await;
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "x\n");
    // A slash too many leads to the right place.
    let elsewhere = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let request = elsewhere.get(format!("{}{}/server_info/", h.base, made.url));
    let redirect = request.header("x-session-api-key", &made.key).send().await.unwrap();
    assert_eq!(redirect.headers()["location"], format!("{}/server_info", made.url));

    let state = h.json(&made.url).await;
    assert!(state.get("key").is_none() && !state.to_string().contains(&made.key), "{state}");
    assert_eq!(state["state"]["actions"][0]["kind"], "write", "{state}");
    let session = state["state"]["session"].as_str().unwrap();
    let shell = h.json(&format!("/api/v1/sessions/{session}")).await;
    assert_eq!((&shell["target"], &shell["cwd"]), (&json!("local"), &json!("/")));
    // People look on through the session, and may type.
    let mut socket = h.attach(&format!("/api/v1/sessions/{session}/attach?from=end")).await;
    socket.input(b"printf 'ty%s\\n' ped\n").await;
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("typed\r\n") {
        if let Frame::Output { data, .. } = socket.next().await {
            seen.extend(data);
        }
    }

    let audit = h.json("/api/v1/audit?limit=100").await;
    let entries = audit["items"].as_array().unwrap();
    let entry =
        |action: &str| entries.iter().find(|e| e["action"] == action).unwrap_or_else(|| panic!("{audit}"));
    assert_eq!(
        (&entry("runtime.create")["actor"], &entry("runtime.create")["target"]),
        (&json!("admin"), &json!("local"))
    );
    assert_eq!(entry("runtime.action")["target"], made.id.as_str());

    assert_eq!(h.end(&made.id).await, 204);
    assert_eq!(h.end(&made.id).await, 404);
    assert_eq!(there("/alive").send().await.unwrap().status(), 404);
    assert_eq!(h.json(RUNTIMES).await["items"], json!([]));
    let ended = h.json(&format!("/api/v1/sessions/{session}")).await;
    assert!(!ended["ended"].is_null(), "{ended}");
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    let h = start().await;
    let refused = async |body: Value, status: u16, code: &str, field: &str| {
        let response = h.post(RUNTIMES).json(&body).send().await.unwrap();
        let problem = problem(response, status, code).await;
        if !field.is_empty() {
            assert_eq!(problem["context"]["field"], field, "{body}: {problem}");
        }
    };
    refused(json!({ "target": "local" }), 400, "invalid_input", "working_dir").await;
    refused(json!({ "target": "local", "working_dir": "relative" }), 400, "invalid_input", "working_dir")
        .await;
    refused(
        json!({ "target": "local", "working_dir": "/tmp", "network": true }),
        400,
        "invalid_input",
        "network",
    )
    .await;
    refused(
        json!({ "target": "local", "working_dir": "/tmp", "env": { "A=B": "" } }),
        400,
        "invalid_input",
        "env",
    )
    .await;
    refused(json!({ "targets": "local" }), 400, "invalid_input", "").await;
    refused(json!({ "target": "nobody/x", "working_dir": "/tmp" }), 404, "not_found", "").await;
    let vscode = json!({ "target": "local", "working_dir": "/tmp", "plugins": ["vscode"] });
    refused(vscode, 501, "unsupported", "").await;
    // This server has no sandboxes, and says what to do.
    let response = h.post(RUNTIMES).json(&json!({})).send().await.unwrap();
    let problem = problem(response, 501, "unsupported").await;
    assert!(problem["context"]["hint"].as_str().unwrap().contains("target"), "{problem}");
    assert_eq!(h.json(RUNTIMES).await["items"], json!([]));
}

#[tokio::test]
async fn nobody_has_too_many_and_only_who_may_has_any() {
    let mut h = start_with(|c| c.limits.runtimes_per_actor = 1).await;
    let first = h.make_here().await;
    let dir = h.dir.path().display().to_string();
    let body = json!({ "target": "local", "working_dir": dir });
    let response = h.post(RUNTIMES).json(&body).send().await.unwrap();
    problem(response, 429, "rate_limited").await;
    assert_eq!(h.end(&first.id).await, 204);
    let again = h.make_here().await;

    let runs = h.user_with_token("runs", Role::Operator, [Scope::Read, Scope::Run]).await;
    let looks = h.user_with_token("looks", Role::Viewer, [Scope::Read]).await;
    for token in [&runs, &looks] {
        let response =
            h.http.post(format!("{}{RUNTIMES}", h.base)).bearer_auth(token).json(&body).send().await.unwrap();
        problem(response, 403, "permission_denied").await;
    }
    let one = format!("{}{RUNTIMES}/{}", h.base, again.id);
    assert_eq!(h.http.get(&one).bearer_auth(&looks).send().await.unwrap().status(), 200);
    assert_eq!(h.http.delete(&one).bearer_auth(&looks).send().await.unwrap().status(), 403);
    assert_eq!(h.http.get(&one).send().await.unwrap().status(), 401);
    // Files, but no machines: not even the sandbox.
    let files = h.user_with_token("files", Role::Operator, [Scope::Run, Scope::Files]).await;
    let response = h
        .http
        .post(format!("{}{RUNTIMES}", h.base))
        .bearer_auth(files)
        .json(&json!({}))
        .send()
        .await
        .unwrap();
    problem(response, 403, "permission_denied").await;
    h.finish().await;
}

#[tokio::test]
async fn a_runtime_ends_with_the_rights_of_who_made_it() {
    let h = start().await;
    let token = h.user_with_token("eve", Role::Operator, [Scope::Read, Scope::Run, Scope::Files]).await;
    let dir = h.dir.path().display().to_string();
    let body = json!({ "target": "local", "working_dir": dir });
    let response =
        h.http.post(format!("{}{RUNTIMES}", h.base)).bearer_auth(token).json(&body).send().await.unwrap();
    assert_eq!(response.status(), 201);
    let made: Value = response.json().await.unwrap();
    let events = h.get(&format!("{}/events", made["url"].as_str().unwrap())).send().await.unwrap();
    assert_eq!(events.status(), 200);
    let change = h.request(Method::PATCH, "/api/v1/users/eve").json(&json!({ "disabled": true }));
    assert_eq!(change.send().await.unwrap().status(), 200);
    // The stream ends with the runtime.
    let all = tokio::time::timeout(LIMIT, events.text()).await.expect("it ends").unwrap();
    assert!(all.trim_end().ends_with("data: {}") && all.contains("event: closed"), "{all}");
    let gone = async || (h.json(RUNTIMES).await["items"] == json!([])).then_some(());
    fleetcore_testkit::eventually("the runtime is gone", gone).await;
}

/// Also one that is not ready yet.
#[tokio::test]
async fn a_runtime_that_is_being_made_ends_with_the_rights_of_who_asks_for_it() {
    let h = start().await;
    let token = h.user_with_token("eve", Role::Operator, [Scope::Read, Scope::Run, Scope::Files]).await;
    // Its shell never shows a prompt.
    let dir = h.dir.path();
    let begun = dir.join("begun");
    let script = format!("echo > '{}'; sleep 1000", begun.display());
    std::fs::write(dir.join(".bashrc"), script).unwrap();
    let body = json!({ "target": "local", "working_dir": dir, "env": { "HOME": dir } });
    let request = h.http.post(format!("{}{RUNTIMES}", h.base)).bearer_auth(&token).json(&body);
    let making = tokio::spawn(request.timeout(LIMIT).send());
    while !begun.exists() {
        assert!(!making.is_finished(), "{:?}", making.await);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let change = h.request(Method::PATCH, "/api/v1/users/eve").json(&json!({ "disabled": true }));
    assert_eq!(change.send().await.unwrap().status(), 200);
    let answer = making.await.unwrap().unwrap();
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert!(
        !status.is_success() && text.contains("who asked for it may not have it any more"),
        "{status} {text}"
    );
    assert_eq!(h.json(RUNTIMES).await["items"], json!([]));
}

#[tokio::test]
async fn without_a_target_there_is_a_sandbox_without_network_that_ends_with_its_runtime() {
    let dir = tempfile::tempdir().unwrap();
    let sandboxes = Arc::new(Sandboxes::open(SandboxConfig::new(dir.path().join("sandboxes"))).unwrap());
    if let Err(why) = sandboxes.probe().await {
        assert!(std::env::var_os("FLEETCORE_REQUIRE_SANDBOX").is_none(), "{why}");
        eprintln!("skipped: {why}");
        return;
    }
    let fleet = Fleet::builder().with_provider(sandboxes);
    let mut h = start_on(fleet, Arc::new(MemoryStore::new()), |_| {}).await;
    let made = h.make_runtime(json!({})).await;
    assert_eq!(made.body["target"], format!("sandbox/{}", made.id));
    assert_eq!((&made.body["owns_target"], &made.body["network"]), (&json!(true), &json!(false)));
    assert_eq!(h.run_there(&made, "pwd").await, "/home/sandbox/workspace");
    let links = h.run_there(&made, "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '").await;
    assert_eq!(links, "lo");
    assert_ne!(h.run_there(&made, "touch /usr/x 2>/dev/null; echo $?").await, "0");
    let seen = h.run_there(&made, "cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'").await;
    assert!(!seen.contains(&made.key), "{seen}");
    let file = json!({ "action": "write", "args": { "path": "/home/sandbox/workspace/a", "content": "b" } });
    h.act(&made, file).await;
    assert_eq!(h.run_there(&made, "cat a").await, "b");
    let edit = json!({ "action": "edit", "args": { "path": "/home/sandbox/workspace/a", "command": "str_replace",
        "old_str": "b", "new_str": "c" } });
    h.act(&made, edit).await;
    assert_eq!(h.run_there(&made, "cat a").await, "c");
    let request = h.http.post(format!("{}{}/list_files", h.base, made.url)).json(&json!({}));
    let list: Value =
        request.header("x-session-api-key", &made.key).send().await.unwrap().json().await.unwrap();
    assert_eq!(list, json!(["a"]));
    // Tool servers would be programs of the host.
    let tools = json!([{ "name": "x", "command": "touch", "args": ["/tmp/escaped"] }]);
    let request = h.http.post(format!("{}{}/update_mcp_server", h.base, made.url)).json(&tools);
    assert_eq!(request.header("x-session-api-key", &made.key).send().await.unwrap().status(), 501);
    let open = h.make_runtime(json!({ "network": true })).await;
    assert_eq!(open.body["network"], true);

    let machines = |list: Value| list["items"].as_array().unwrap().len();
    assert_eq!(machines(h.json("/api/v1/machines?provider=sandbox").await), 2);
    assert_eq!(h.end(&made.id).await, 204);
    assert_eq!(machines(h.json("/api/v1/machines?provider=sandbox").await), 1);
    // The other one ends with the server.
    h.finish().await;
    let left: Vec<_> = std::fs::read_dir(dir.path().join("sandboxes")).unwrap().flatten().collect();
    assert!(left.iter().all(|entry| !entry.file_name().to_string_lossy().contains(&open.id)), "{left:?}");
}
