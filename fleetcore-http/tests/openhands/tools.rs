//! Kernels and tool servers, against real ones: `FLEETCORE_OPENHANDS_PYTHON` is the `bin` directory of a Python with
//! ipykernel and fastmcp. Without it these tests say that they are skipped.

use std::time::Duration;

use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::{
    compare::masked,
    differences,
    replay::{Running, recorded},
};

fn python() -> Option<String> {
    let found = std::env::var("FLEETCORE_OPENHANDS_PYTHON").ok();
    if found.is_none() {
        eprintln!("SKIPPED: FLEETCORE_OPENHANDS_PYTHON is not set to a directory with a Python");
    }
    found
}

async fn with_kernel() -> Option<Running> {
    let path = format!("{}:{}", python()?, std::env::var("PATH").unwrap());
    let env = [("PATH", path.as_str()), ("NO_CHANGE_TIMEOUT_SECONDS", "3")];
    let args = ["--plugins", "jupyter", "--username", "root", "--user-id", "0", "--no-enable-browser"];
    Some(Running::start(&args, &env).await)
}

async fn cell(running: &Running, code: &str, timeout: Option<f64>) -> String {
    let args = json!({ "code": code, "include_extra": false });
    let (status, body) =
        running.act(json!({ "action": "run_ipython", "args": args, "timeout": timeout })).await;
    assert_eq!(status, 200, "{body}");
    body["content"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cells_are_answered_as_recorded() {
    let Some((cases, _)) = recorded("ipython") else { return };
    let Some(running) = with_kernel().await else { return };
    let mut wrong = Vec::new();
    for case in cases.iter().filter(|c| c.get("name").is_some()) {
        let name = case["name"].as_str().unwrap();
        // The skills are a package of the original; frames of libraries are not in the recording.
        if matches!(name, "ipy-agent-skill-file-editor" | "ipy-input-unsupported") {
            continue;
        }
        let response = running.send(&case["request"]).await;
        let status = response.status().as_u16();
        let text = response.text().await.unwrap().replace(&running.work, "/workspace");
        let actual = masked("ipython", serde_json::from_str(&text).unwrap());
        let expected = masked("ipython", case["response"]["json"].clone());
        let same = status == case["status"] && alike(name, &expected, &actual);
        if !same && !differences::deliberate("ipython", name, case.get("records_defect").is_some()) {
            wrong.push(format!("{name}: {status}\n   {expected}\n   {actual}"));
        }
    }
    running.stop().await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Texts of errors are IPython's, which words them otherwise from one version to the next.
fn alike(name: &str, expected: &Value, actual: &Value) -> bool {
    if expected == actual {
        return true;
    }
    let last = |v: &Value| {
        let text = v["content"].as_str().unwrap_or_default().to_owned();
        text.lines().rfind(|l| !l.starts_with("[Jupyter")).unwrap_or_default().to_owned()
    };
    if name == "ipy-sys-exit" {
        return actual["content"].as_str().is_some_and(|text| text.contains("\n\nSystemExit: 3\n"));
    }
    matches!(name, "ipy-exception" | "ipy-name-error" | "ipy-syntax-error") && last(expected) == last(actual)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_output_is_lost_and_nothing_is_aborted() {
    let Some(running) = with_kernel().await else { return };
    for i in 0..40 {
        assert_eq!(cell(&running, &format!("print({i})"), None).await, i.to_string());
        assert!(cell(&running, "1/0", None).await.ends_with("ZeroDivisionError: division by zero"));
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kernel_that_dies_is_told_and_replaced() {
    let Some(running) = with_kernel().await else { return };
    let said = cell(
        &running,
        "x = 1; print('before', flush=True); import os, signal; os.kill(os.getpid(), 9)",
        None,
    )
    .await;
    assert!(said.contains("The kernel died"), "{said}");
    assert!(cell(&running, "x", None).await.ends_with("NameError: name 'x' is not defined"));
    // One that does not hear an interrupt is replaced as well.
    let deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(1000)";
    let said = cell(&running, deaf, Some(0.5)).await;
    assert!(
        said.starts_with("[Execution timed out (0.5 seconds).]") && said.contains("variables are lost"),
        "{said}"
    );
    assert_eq!(cell(&running, "print('again')", None).await, "again");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_cannot_start_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("w").display().to_string();
    let home = dir.path().display().to_string();
    // A shell, and no Python.
    std::os::unix::fs::symlink("/bin/bash", dir.path().join("bash")).unwrap();
    let args = ["0", "--working-dir", &work, "--plugins", "jupyter", "--username", "root", "--user-id", "0"];
    let call = fleetcore_http::compat::Call::new("x")
        .with_args(args)
        .with_env([
            ("PATH", home.as_str()),
            ("HOME", home.as_str()),
            ("FLEETCORE_VIEWER_URL_FILE", "/dev/null/x"),
        ])
        .with_listen("127.0.0.1:0".parse().unwrap());
    let plan = fleetcore_http::compat::find("openhands-runtime").unwrap().parse(&call).unwrap();
    let store = std::sync::Arc::new(fleetcore::store::memory::MemoryStore::new());
    let app = fleetcore_http::App::new(
        plan.config(),
        fleetcore::Fleet::local(),
        fleetcore_http::Stores::new(store),
    );
    let listener = fleetcore_http::compat::Listener::bind(plan, app, dir.path().join("d")).await.unwrap();
    let error = listener.run_alone(tokio_util::sync::CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("jupyter"), "{error}");
}

/// The other end of the stream of events.
struct Events {
    stream: futures::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    buffer: String,
}

impl Events {
    async fn next(&mut self) -> (String, String) {
        loop {
            if let Some((event, rest)) = self.buffer.replace("\r\n", "\n").split_once("\n\n") {
                let event = event.to_owned();
                self.buffer = rest.to_owned();
                let field = |name: &str| {
                    event
                        .lines()
                        .find_map(|l| l.strip_prefix(name))
                        .map(|v| v.trim_start_matches(": ").to_owned())
                };
                if let (Some(kind), Some(data)) = (field("event"), field("data")) {
                    return (kind, data);
                }
                continue;
            }
            let piece = tokio::time::timeout(Duration::from_secs(60), self.stream.next()).await;
            let piece = piece.expect("no event").expect("the stream ended").unwrap();
            self.buffer.push_str(&String::from_utf8_lossy(&piece));
        }
    }
}

/// Replays the recordings of tool servers; the differences are written to `wrong`.
async fn tools(name: &str) {
    let (Some((cases, session)), Some(bin)) = (recorded(name), python()) else { return };
    let args: Vec<&str> = session["args"].as_array().unwrap().iter().map(|a| a.as_str().unwrap()).collect();
    let env: Vec<(&str, &str)> =
        session["env"].as_object().unwrap().iter().map(|(k, v)| (k.as_str(), v.as_str().unwrap())).collect();
    let running = Running::start(&args, &env).await;
    let script = running.dir.path().join("echo_server.py");
    std::fs::write(&script, include_str!("echo_server.py")).unwrap();
    let ours = |v: &Value| -> Value {
        let text = v.to_string().replace("/opt/mcptest/echo_server.py", script.to_str().unwrap());
        serde_json::from_str(&text.replace("/opt/oh/bin/python", &format!("{bin}/python"))).unwrap()
    };
    let mut wrong = Vec::new();
    for case in &cases {
        let called = case["name"].as_str().unwrap();
        let response = running.send(&ours(&case["request"])).await;
        let status = response.status().as_u16();
        let mut differs = (case["status"] != status).then(|| format!("status {status}"));
        if let Some(steps) = case["response"].get("conversation").and_then(Value::as_array) {
            let mut events = Events { stream: response.bytes_stream().boxed(), buffer: String::new() };
            let mut post_to = String::new();
            for step in steps {
                if let Some(message) = step.get("sent") {
                    let mut post = running.http.post(format!("{}{post_to}", running.url)).json(message);
                    for (k, v) in case["request"]["headers"].as_object().into_iter().flatten() {
                        post = post.header(k, v.as_str().unwrap());
                    }
                    assert_eq!(post.send().await.unwrap().status().as_u16(), step["post_status"]);
                }
                let Some(expected) = step.get("received") else { continue };
                let (kind, data) = events.next().await;
                assert_eq!(expected["event"], kind.as_str());
                if kind == "endpoint" {
                    let path = |d: &str| d.split('?').next().unwrap().to_owned();
                    assert_eq!(path(&data), path(expected["data"].as_str().unwrap()));
                    post_to = data;
                    continue;
                }
                let (expected, actual) =
                    (plain(&expected["data"]), plain(&serde_json::from_str(&data).unwrap()));
                if expected != actual {
                    differs.get_or_insert_default().push_str(&format!("\n   {expected}\n   {actual}"));
                }
            }
        } else if let Some(expected) = case["response"].get("json") {
            let actual = masked(name, response.json().await.unwrap());
            if masked(name, expected.clone()) != actual {
                differs = Some(actual.to_string());
            }
        } else if let Some(expected) = case["response"].get("text").and_then(Value::as_str) {
            let actual = response.text().await.unwrap();
            if actual != expected {
                differs = Some(actual);
            }
        }
        if let Some(why) =
            differs.filter(|_| !differences::deliberate(name, called, case.get("records_defect").is_some()))
        {
            wrong.push(format!("{called}: {why}"));
        }
    }
    running.stop().await;
    assert!(wrong.is_empty(), "{name}\n{}", wrong.join("\n"));
}

/// Without names that are made up and schemas' additions, which change with the version of the library.
fn plain(message: &Value) -> Value {
    let mut message = message.clone();
    if let Some(info) = message.pointer_mut("/result/serverInfo") {
        *info = json!("*");
    }
    for tool in message.pointer_mut("/result/tools").and_then(Value::as_array_mut).into_iter().flatten() {
        let keep = ["name", "description"];
        tool.as_object_mut().unwrap().retain(|k, _| keep.contains(&k.as_str()));
    }
    // The original fails at telling why it failed.
    if let Some(Value::String(text)) = message.pointer_mut("/result/content/0/text")
        && text.starts_with("Client failed to connect")
    {
        text.truncate("Client failed to connect".len());
    }
    message
}

macro_rules! recordings {
    ($($test:ident = $name:literal),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                tools($name).await;
            }
        )*
    };
}

recordings! {
    mcp_single = "mcp-single",
    mcp_two_servers = "mcp-two-servers",
    mcp_auth = "mcp-auth",
    mcp_broken_server = "mcp-broken-server",
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_server_that_dies_is_started_again_and_others_take_its_place() {
    let Some(bin) = python() else { return };
    let running = Running::start(&["--username", "root", "--user-id", "0"], &[]).await;
    let script = running.dir.path().join("server.py");
    let text = include_str!("echo_server.py")
        .replace("return text", "import os; os._exit(1) if text == 'die' else 0; return text");
    std::fs::write(&script, text).unwrap();
    let server = |name: &str| json!({ "name": name, "command": format!("{bin}/python"), "args": [script] });
    let update = async |servers: Value| {
        let sent =
            running.http.post(format!("{}/update_mcp_server", running.url)).json(&servers).send().await;
        assert_eq!(sent.unwrap().status().as_u16(), 200);
    };
    update(json!([server("one")])).await;
    let response = running.http.get(format!("{}/mcp/sse", running.url)).send().await.unwrap();
    let mut events = Events { stream: response.bytes_stream().boxed(), buffer: String::new() };
    let to = events.next().await.1;
    let mut id = 0;
    let mut call = async |tool: &str, text: &str| {
        id += 1;
        let params = json!({ "name": tool, "arguments": { "text": text } });
        let message = json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params });
        running.http.post(format!("{}{to}", running.url)).json(&message).send().await.unwrap();
        loop {
            let answer: Value = serde_json::from_str(&events.next().await.1).unwrap();
            if answer["id"] == id {
                return (answer["result"]["isError"] == true, answer["result"]["content"][0]["text"].clone());
            }
        }
    };
    assert_eq!(call("echo", "a").await, (false, json!("a")));
    assert!(call("echo", "die").await.0);
    assert_eq!(call("echo", "b").await, (false, json!("b")));
    // The same stream, other servers, at once.
    update(json!([server("x"), server("y")])).await;
    assert_eq!(call("y_echo", "c").await, (false, json!("c")));
    assert_eq!(call("echo", "d").await, (true, json!("Unknown tool: echo")));
    running.stop().await;
}
