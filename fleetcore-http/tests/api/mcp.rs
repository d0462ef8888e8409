//! Tools over streamable HTTP, with the client of the official SDK.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use fleetcore::{Role, Scope};
use fleetcore_testkit::{gone, line_of};
use reqwest::{Method, StatusCode};
use rmcp::{
    ClientHandler, RoleClient, ServiceExt as _,
    model::{
        CallToolRequest, CallToolRequestParams, CallToolResult, ClientRequest, ProgressNotificationParam,
    },
    service::{NotificationContext, PeerRequestOptions, RunningService},
    transport::{StreamableHttpClientTransport, streamable_http_client::StreamableHttpClientTransportConfig},
};
use serde_json::{Value, json};

use crate::common::{Harness, LIMIT, problem, start};

/// Counts news of progress.
#[derive(Clone, Default)]
struct Listener(Arc<AtomicUsize>);

impl ClientHandler for Listener {
    async fn on_progress(&self, news: ProgressNotificationParam, _: NotificationContext<RoleClient>) {
        assert!(news.progress > 0.0);
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

type Tools = RunningService<RoleClient, Listener>;

async fn connect(harness: &Harness, token: &str, query: &str) -> Tools {
    let config = StreamableHttpClientTransportConfig::with_uri(format!("{}/mcp{query}", harness.base))
        .auth_header(token.to_owned());
    let transport = StreamableHttpClientTransport::with_client(harness.http.clone(), config);
    Listener::default().serve(transport).await.unwrap()
}

fn params(name: &'static str, args: &Value) -> CallToolRequestParams {
    CallToolRequestParams::new(name).with_arguments(args.as_object().unwrap().clone())
}

async fn call(tools: &Tools, name: &'static str, args: Value) -> CallToolResult {
    tokio::time::timeout(LIMIT, tools.call_tool(params(name, &args))).await.expect("an answer").unwrap()
}

async fn ok(tools: &Tools, name: &'static str, args: Value) -> Value {
    let result = call(tools, name, args).await;
    let value = result.structured_content.unwrap();
    assert_eq!(result.is_error, Some(false), "{name}: {value}");
    value
}

async fn refused(tools: &Tools, name: &'static str, args: Value) -> Value {
    let result = call(tools, name, args).await;
    let value = result.structured_content.unwrap();
    assert_eq!(result.is_error, Some(true), "{name}: {value}");
    value
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools_do_what_they_say() {
    let harness = start().await;
    let tools = connect(&harness, &harness.token, "").await;
    let list = tools.list_all_tools().await.unwrap();
    let run = list.iter().find(|t| t.name == "run").unwrap();
    assert_eq!(run.input_schema["required"], json!(["target"]));
    assert_eq!(run.annotations.as_ref().unwrap().destructive_hint, Some(true));

    let targets = ok(&tools, "targets_list", json!({})).await;
    assert_eq!(targets["targets"][0]["target"], "local");

    let args =
        json!({"target": "local", "shell": "cat; echo $X >&2; exit 3", "stdin": "in", "env": {"X": "err"}});
    let done = ok(&tools, "run", args).await;
    assert_eq!((&done["stdout"], &done["stderr"]), (&json!("in"), &json!("err\n")));
    assert_eq!((&done["exit_code"], &done["state"]), (&json!(3), &json!("failed")));

    let args = json!({"target": "local", "shell": "seq 1 100000", "output_bytes": 100});
    let long = ok(&tools, "run", args).await;
    let text = long["stdout"].as_str().unwrap();
    assert!(text.starts_with("1\n2\n") && text.ends_with("\n100000\n") && text.len() < 200, "{text}");
    assert_eq!(long["truncated"], true);
    let args = json!({"command": long["command"], "offset": long["output_bytes"].as_u64().unwrap() - 7});
    let rest = ok(&tools, "command_output", args).await;
    assert_eq!((&rest["output"], &rest["eof"]), (&json!("100000\n"), &json!(true)));

    let late = ok(&tools, "run", json!({"target": "local", "argv": ["sleep", "60"], "timeout_ms": 50})).await;
    assert_eq!((&late["reason"], &late["exit_code"]), (&json!("timed_out"), &Value::Null));

    let error = refused(&tools, "run", json!({"target": "local", "argv": ["/no/such/program"]})).await;
    assert_eq!(error["code"], "not_found");
    let error = refused(&tools, "run", json!({"target": "local"})).await;
    assert_eq!((&error["code"], &error["context"]["field"]), (&json!("invalid_input"), &json!("argv")));
    let error = refused(&tools, "run", json!({"target": "local", "argv": ["true"], "cvd": "/"})).await;
    assert_eq!(error["code"], "invalid_input");
    assert!(tools.call_tool(CallToolRequestParams::new("nothing")).await.is_err(), "no such tool");

    // Everything is in the records under the name of the caller.
    let command = harness.json(&format!("/api/v1/commands/{}", done["command"].as_str().unwrap())).await;
    assert_eq!((&command["actor"], &command["labels"]["via"]), (&json!("admin"), &json!("mcp")));
    let audit = harness.json("/api/v1/audit").await;
    let ours = |e: &&Value| e["action"] == "command.create" && e["actor"] == "admin";
    assert!(audit["items"].as_array().unwrap().iter().any(|e| ours(&e)), "{audit}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_that_go_on() {
    let harness = start().await;
    let tools = connect(&harness, &harness.token, "").await;
    let args =
        json!({"target": "local", "shell": "echo one; read x; echo got $x; exec sleep 1000", "stdin": true});
    let command = ok(&tools, "command_start", args).await["command"].clone();
    let first = ok(&tools, "command_output", json!({"command": command, "wait_ms": 60000})).await;
    assert_eq!((&first["output"], &first["eof"]), (&json!("one\n"), &json!(false)));
    let waited = ok(&tools, "command_wait", json!({"command": command, "timeout_ms": 1})).await;
    assert_eq!(waited["state"], "running");
    ok(&tools, "command_input", json!({"command": command, "text": "two\n"})).await;
    let args = json!({"command": command, "offset": first["next_offset"], "wait_ms": 60000});
    assert_eq!(ok(&tools, "command_output", args).await["output"], "got two\n");
    let list = ok(&tools, "command_list", json!({"running": true})).await;
    assert_eq!(list["commands"][0]["command"], command);
    let ended = ok(&tools, "command_cancel", json!({"command": command})).await;
    assert_eq!(ended["reason"], "requested");
    assert_eq!(
        refused(&tools, "command_output", json!({"command": command, "offset": 1000})).await["code"],
        "invalid_input"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_and_shells() {
    let harness = start().await;
    let tools = connect(&harness, &harness.token, "").await;
    let path = |name: &str| harness.dir.path().join(name).to_str().unwrap().to_owned();
    let file = path("a/b.txt");
    let args =
        json!({"target": "local", "path": file, "content": "äöü", "create_parents": true, "mode": "0600"});
    assert_eq!(ok(&tools, "file_write", args).await["size"], 6);
    let args =
        json!({"target": "local", "path": file, "content": "AP8=", "encoding": "base64", "append": true});
    ok(&tools, "file_write", args).await;
    let part = ok(&tools, "file_read", json!({"target": "local", "path": file, "max_bytes": 3})).await;
    assert_eq!(
        (&part["content"], &part["next_offset"], &part["eof"]),
        (&json!("ä"), &json!(2), &json!(false))
    );
    let rest = ok(&tools, "file_read", json!({"target": "local", "path": file, "offset": 6})).await;
    assert_eq!(
        (&rest["content"], &rest["encoding"], &rest["eof"]),
        (&json!("AP8="), &json!("base64"), &json!(true))
    );
    ok(&tools, "file_mkdir", json!({"target": "local", "path": path("c")})).await;
    ok(&tools, "file_rename", json!({"target": "local", "from": file, "to": path("c/d")})).await;
    let list = ok(&tools, "file_list", json!({"target": "local", "path": path("c")})).await;
    assert_eq!(list["entries"][0]["path"], "d");
    let error = refused(&tools, "file_remove", json!({"target": "local", "path": path("c")})).await;
    assert!(error["code"].is_string());
    ok(&tools, "file_remove", json!({"target": "local", "path": path("c"), "recursive": true})).await;
    assert_eq!(
        refused(&tools, "file_stat", json!({"target": "local", "path": path("c")})).await["code"],
        "not_found"
    );

    let open = ok(&tools, "session_open", json!({"target": "local", "cwd": path("")})).await;
    let session = open["session"].clone();
    ok(&tools, "session_run", json!({"session": session, "command": "export Y=7; cd a"})).await;
    let turn = ok(&tools, "session_run", json!({"session": session, "command": "echo $Y; false"})).await;
    assert_eq!((&turn["output"], &turn["exit_code"]), (&json!("7\n"), &json!(1)));
    assert!(turn["cwd"].as_str().unwrap().ends_with("/a"), "{turn}");
    let args = json!({"session": session, "command": "read -p 'name? ' n; echo hi $n", "expect": ["name?"]});
    let asked = ok(&tools, "session_run", args).await;
    assert_eq!((&asked["status"], &asked["handed_back"]), (&json!("running"), &json!("expected")));
    ok(&tools, "session_keys", json!({"session": session, "text": "bob", "keys": ["enter"]})).await;
    let turn = ok(&tools, "session_wait", json!({"session": session})).await;
    assert!(turn["output"].as_str().unwrap().contains("hi bob"), "{turn}");
    let args = json!({"session": session, "command": "echo begun; sleep 1000", "expect": ["begun"]});
    assert_eq!(ok(&tools, "session_run", args).await["status"], "running");
    let turn = ok(&tools, "session_interrupt", json!({"session": session})).await;
    assert_eq!(turn["exit_code"], 130);
    let screen = ok(&tools, "session_screen", json!({"session": session})).await;
    assert!(screen["screen"].as_str().unwrap().contains("hi bob"), "{screen}");
    ok(&tools, "session_close", json!({"session": session})).await;
    assert_eq!(ok(&tools, "session_list", json!({})).await["sessions"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_cancelled_leaves_no_process() {
    let harness = start().await;
    let tools = connect(&harness, &harness.token, "").await;
    let file = harness.dir.path().join("pid");
    let script = format!("trap '' TERM; echo $$ > {}; while :; do sleep 1000; done", file.display());
    let args = json!({"target": "local", "shell": script});
    let request = ClientRequest::CallToolRequest(CallToolRequest::new(params("run", &args)));
    let handle = tools.send_cancellable_request(request, PeerRequestOptions::no_options()).await.unwrap();
    let pid = line_of(&file).await;
    // The client asked for progress, and there will be some as long as the command runs.
    let news = tools.service().0.clone();
    tokio::time::timeout(LIMIT, async {
        while news.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("progress is told");
    handle.cancel(Some("enough".to_owned())).await.unwrap();
    gone(&pid).await;
    let done = ok(&tools, "run", json!({"target": "local", "argv": ["true"]})).await;
    assert_eq!(done["exit_code"], 0, "the connection is as good as before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_and_limits_hold() {
    let harness = start().await;
    let viewer = harness.user_with_token("eve", Role::Viewer, [Scope::Read]).await;
    let tools = connect(&harness, &viewer, "").await;
    assert_eq!(ok(&tools, "targets_list", json!({})).await["targets"][0]["target"], "local");
    let error = refused(&tools, "run", json!({"target": "local", "argv": ["true"]})).await;
    assert_eq!((&error["code"], &error["context"]["scope"]), (&json!("permission_denied"), &json!("run")));
    let error = refused(&tools, "file_read", json!({"target": "local", "path": "/etc/hosts"})).await;
    assert_eq!(error["code"], "permission_denied");

    let tools = connect(&harness, &harness.token, "?read_only=true").await;
    let list = tools.list_all_tools().await.unwrap();
    assert!(list.iter().all(|t| t.annotations.as_ref().unwrap().read_only_hint == Some(true)));
    assert!(list.iter().any(|t| t.name == "file_read") && !list.iter().any(|t| t.name == "run"));
    let error = refused(&tools, "run", json!({"target": "local", "argv": ["true"]})).await;
    assert_eq!(error["code"], "permission_denied");

    let id = harness.run(json!({"argv": ["true"]})).await;
    let tools = connect(&harness, &harness.token, "?target=sandbox/*").await;
    assert_eq!(ok(&tools, "targets_list", json!({})).await["targets"], json!([]));
    for (name, args) in [
        ("run", json!({"target": "local", "argv": ["true"]})),
        ("file_read", json!({"target": "local", "path": "/etc/hosts"})),
        ("session_open", json!({"target": "local"})),
        ("command_output", json!({"command": id})),
        ("machine_delete", json!({"target": "multipass/x"})),
    ] {
        assert_eq!(refused(&tools, name, args).await["code"], "permission_denied", "{name}");
    }
}

/// The first message of a client.
fn hello() -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}})
}

fn post(harness: &Harness, token: &str) -> reqwest::RequestBuilder {
    harness
        .http
        .request(Method::POST, format!("{}/mcp", harness.base))
        .timeout(LIMIT)
        .bearer_auth(token)
        .header("accept", "application/json, text/event-stream")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_stay_outside() {
    let harness = start().await;
    let url = format!("{}/mcp", harness.base);
    let bare = harness.http.post(&url).header("accept", "application/json, text/event-stream");
    problem(bare.json(&hello()).send().await.unwrap(), 401, "unauthenticated").await;
    let wrong = post(&harness, "fct_wrong").json(&hello()).send().await.unwrap();
    problem(wrong, 401, "unauthenticated").await;
    let other_site = post(&harness, &harness.token).header("origin", "https://evil.example").json(&hello());
    problem(other_site.send().await.unwrap(), 403, "permission_denied").await;
    let rebound = post(&harness, &harness.token).header("host", "evil.example").json(&hello());
    assert_eq!(rebound.send().await.unwrap().status(), StatusCode::MISDIRECTED_REQUEST);
    let misspelt = harness.request(Method::POST, "/mcp?readonly=true").json(&hello()).send().await.unwrap();
    problem(misspelt, 400, "invalid_input").await;

    let answer = post(&harness, &harness.token).json(&hello()).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let session = answer.headers()["mcp-session-id"].to_str().unwrap().to_owned();
    let ping = json!({"jsonrpc": "2.0", "id": 2, "method": "ping"});
    let eve = harness.user_with_token("eve", Role::Admin, Scope::ALL).await;
    let hers = post(&harness, &eve).header("mcp-session-id", &session).json(&ping).send().await.unwrap();
    problem(hers, 404, "not_found").await;
    let mine = post(&harness, &harness.token).header("mcp-session-id", &session).json(&ping);
    assert_eq!(mine.send().await.unwrap().status(), 200);
    let end = harness.request(Method::DELETE, "/mcp").header("mcp-session-id", &session);
    assert!(end.send().await.unwrap().status().is_success());
    let mine = post(&harness, &harness.token).header("mcp-session-id", &session).json(&ping);
    assert_eq!(mine.send().await.unwrap().status(), 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_user_has_so_many_connections() {
    let harness = start().await;
    let mut statuses = Vec::new();
    for _ in 0..65 {
        let answer = post(&harness, &harness.token).json(&hello()).send().await.unwrap();
        statuses.push(answer.status().as_u16());
    }
    assert_eq!(statuses.iter().filter(|s| **s == 200).count(), 64);
    assert_eq!(statuses.last(), Some(&429));
    let eve = harness.user_with_token("eve", Role::Viewer, [Scope::Read]).await;
    assert_eq!(post(&harness, &eve).json(&hello()).send().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_does_not_wait_for_connections() {
    let mut harness = start().await;
    let tools = connect(&harness, &harness.token, "").await;
    let file = harness.dir.path().join("pid");
    let script = format!("echo $$ > {}; exec sleep 1000", file.display());
    let args = json!({"target": "local", "shell": script});
    let running = tokio::spawn(async move { tools.call_tool(params("run", &args)).await });
    let pid = line_of(&file).await;
    harness.finish().await;
    gone(&pid).await;
    running.abort();
}
