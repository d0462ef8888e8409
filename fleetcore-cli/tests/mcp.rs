//! `fleetcore mcp` with the client of the official SDK, over the pipes of the real program.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{process::Stdio, time::Duration};

use common::{Home, announced};
use fleetcore_testkit::{gone, line_of};
use rmcp::{
    RoleClient, ServiceExt as _,
    model::{CallToolRequest, CallToolRequestParams, ClientRequest},
    service::{PeerRequestOptions, RunningService},
};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

/// Long enough for a slow machine; nothing waits for it when all is well.
const LIMIT: Duration = Duration::from_secs(60);

struct Tools {
    service: RunningService<RoleClient, ()>,
    child: Child,
}

impl Tools {
    async fn start(home: &Home, args: &[&str]) -> Self {
        let mut command: Command = home.command(args).into();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let pipes = (child.stdout.take().unwrap(), child.stdin.take().unwrap());
        let service = ().serve(pipes).await.unwrap();
        Self { service, child }
    }

    async fn call(&self, name: &'static str, args: Value) -> (bool, Value) {
        let params = CallToolRequestParams::new(name).with_arguments(args.as_object().unwrap().clone());
        let result =
            tokio::time::timeout(LIMIT, self.service.call_tool(params)).await.expect("an answer").unwrap();
        (result.is_error == Some(true), result.structured_content.unwrap())
    }

    async fn ok(&self, name: &'static str, args: Value) -> Value {
        let (failed, value) = self.call(name, args).await;
        assert!(!failed, "{name}: {value}");
        value
    }

    async fn refused(&self, name: &'static str, args: Value) -> Value {
        let (failed, value) = self.call(name, args).await;
        assert!(failed, "{name}: {value}");
        value
    }

    /// Closes its input; gives its exit code.
    async fn end(mut self) -> i32 {
        self.service.cancel().await.unwrap();
        let ended = tokio::time::timeout(LIMIT, self.child.wait()).await.expect("it ends").unwrap();
        ended.code().unwrap_or(-1)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_server_everything_works_and_ends_with_its_input() {
    let home = Home::new();
    let tools = Tools::start(&home, &["mcp"]).await;
    assert!(tools.service.list_all_tools().await.unwrap().iter().any(|t| t.name == "session_run"));
    let done = tools.ok("run", json!({"target": "local", "shell": "echo out; echo err >&2; exit 5"})).await;
    assert_eq!((&done["stdout"], &done["stderr"]), (&json!("out\n"), &json!("err\n")));
    assert_eq!(done["exit_code"], 5);
    let error = tools.refused("run", json!({"target": "local", "argv": ["/no/such"]})).await;
    assert_eq!(error["code"], "not_found");
    let file = home.path("f").to_str().unwrap().to_owned();
    tools.ok("file_write", json!({"target": "local", "path": file, "content": "x\ny\n"})).await;
    let read = tools.ok("file_read", json!({"target": "local", "path": file})).await;
    assert_eq!((&read["content"], &read["eof"]), (&json!("x\ny\n"), &json!(true)));

    let session = tools.ok("session_open", json!({"target": "local"})).await["session"].clone();
    let (one, two) = (home.path("one"), home.path("two"));
    let line = format!("sh -c 'echo $$ > {}; echo begun; exec sleep 1000'", one.display());
    let args = json!({"session": session, "command": line, "expect": ["begun"]});
    assert_eq!(tools.ok("session_run", args).await["status"], "running");
    let script = format!("echo $$ > {}; exec sleep 1000", two.display());
    tools.ok("command_start", json!({"target": "local", "shell": script})).await;
    let (one, two) = (line_of(&one).await, line_of(&two).await);
    // Others can use the data directory meanwhile.
    assert_eq!(home.run(&["run", "local", "--", "echo", "hi"]).ok().out, "hi\n");
    assert_eq!(tools.end().await, 0);
    gone(&one).await;
    gone(&two).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_cancelled_leaves_no_process() {
    let home = Home::new();
    let tools = Tools::start(&home, &["mcp"]).await;
    let file = home.path("pid");
    let script = format!("echo $$ > {}; exec sleep 1000", file.display());
    let args = json!({"target": "local", "shell": script});
    let params = CallToolRequestParams::new("run").with_arguments(args.as_object().unwrap().clone());
    let request = ClientRequest::CallToolRequest(CallToolRequest::new(params));
    let handle =
        tools.service.send_cancellable_request(request, PeerRequestOptions::no_options()).await.unwrap();
    let pid = line_of(&file).await;
    handle.cancel(None).await.unwrap();
    gone(&pid).await;
    assert_eq!(tools.end().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_limit_the_tools() {
    let home = Home::new();
    let tools = Tools::start(&home, &["mcp", "--read-only"]).await;
    let list = tools.service.list_all_tools().await.unwrap();
    assert!(!list.iter().any(|t| t.name == "run") && list.iter().any(|t| t.name == "file_read"));
    let error = tools.refused("run", json!({"target": "local", "argv": ["true"]})).await;
    assert_eq!(error["code"], "permission_denied");
    assert_eq!(tools.end().await, 0);

    let tools = Tools::start(&home, &["mcp", "--target", "sandbox/*"]).await;
    let error = tools.refused("run", json!({"target": "local", "argv": ["true"]})).await;
    assert_eq!(
        (&error["code"], &error["context"]["allowed"]),
        (&json!("permission_denied"), &json!("sandbox/*"))
    );
    assert_eq!(tools.end().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_server_the_work_is_the_servers() {
    let home = Home::new();
    let server = home.serve();
    announced(&home);
    let tools = Tools::start(&home, &["mcp"]).await;
    let done = tools.ok("run", json!({"target": "local", "argv": ["echo", "there"]})).await;
    assert_eq!(done["stdout"], "there\n");
    let id = done["command"].as_str().unwrap();
    let listed = home.run(&["ps", "-a", "-o", "json"]).ok();
    assert!(listed.out.contains(id), "{}", listed.out);
    // A call that is under way when its input ends is ended too.
    let file = home.path("pid");
    let script = format!("echo $$ > {}; exec sleep 1000", file.display());
    let args = json!({"target": "local", "shell": script});
    let params = CallToolRequestParams::new("run").with_arguments(args.as_object().unwrap().clone());
    let request = ClientRequest::CallToolRequest(CallToolRequest::new(params));
    let _handle =
        tools.service.send_cancellable_request(request, PeerRequestOptions::no_options()).await.unwrap();
    let pid = line_of(&file).await;
    assert_eq!(tools.end().await, 0);
    gone(&pid).await;
    drop(server);
}

#[test]
fn standard_output_is_the_protocol_and_nothing_else() {
    let home = Home::new();
    let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}});
    let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call",
        "params": {"name": "run", "arguments": {"target": "local", "argv": ["echo", "hi"]}}});
    let input = format!("{hello}\n{ready}\n{call}\n");
    let done = home.feed(&["mcp", "-vv"], input.as_bytes()).ok();
    let answers: Vec<Value> = done.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(answers.len(), 2, "{}", done.out);
    assert_eq!(answers[0]["result"]["serverInfo"]["name"], "fleetcore");
    assert_eq!(answers[1]["result"]["structuredContent"]["stdout"], "hi\n");
    assert!(!done.err.is_empty(), "logs are on stderr");
    assert_eq!(home.feed(&["mcp"], b"").code, 0, "nobody speaks");
    assert_ne!(home.feed(&["mcp"], b"GET / HTTP/1.1\r\n\r\n").code, 70);
}
