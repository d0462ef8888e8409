//! Starting the real server and asking it what was asked when the original was recorded.

use std::{
    collections::BTreeMap, os::unix::fs::PermissionsExt as _, path::PathBuf, sync::Arc, time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fleetcore::{
    Fleet,
    backends::local::{Local, LocalConfig},
    store::memory::MemoryStore,
};
use fleetcore_http::{
    App, Stores,
    compat::{self, Call, Listener},
};
use fleetcore_testkit::{contract, eventually};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{compare::masked, differences};

/// Nothing here takes nearly as long.
const LIMIT: Duration = Duration::from_secs(120);

/// Lines of a recording; `None`, said loudly, when there is none.
pub(crate) fn recorded(session: &str) -> Option<(Vec<Value>, Value)> {
    let dir = contract("openhands-runtime")?;
    let all: Value = serde_json::from_slice(&std::fs::read(dir.join("sessions.json")).unwrap()).unwrap();
    let session = all[session].clone();
    let lines = fleetcore_testkit::recorded("openhands-runtime", session["file"].as_str().unwrap())?;
    Some((lines, session))
}

/// A runtime that runs.
pub(crate) struct Running {
    pub(crate) url: String,
    pub(crate) dir: tempfile::TempDir,
    /// The working directory.
    pub(crate) work: String,
    viewer: PathBuf,
    pub(crate) http: reqwest::Client,
    shutdown: CancellationToken,
    task: Option<JoinHandle<fleetcore::Result<()>>>,
}

impl Running {
    pub(crate) async fn start(args: &[&str], env: &[(&str, &str)]) -> Self {
        Self::start_on(args, env, |_| LocalConfig::default()).await
    }

    /// On a host with other settings; they are told the working directory.
    pub(crate) async fn start_on(
        args: &[&str],
        env: &[(&str, &str)],
        config: impl FnOnce(&str) -> LocalConfig,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Another user's shell has to get there.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let work = dir.path().join("work").display().to_string();
        let viewer = dir.path().join("viewer-url");
        let mut all = vec!["0", "--working-dir", &work];
        all.extend(args);
        let mut vars: BTreeMap<String, String> =
            env.iter().map(|(k, v)| ((*k).to_owned(), v.replace("/workspace", &work))).collect();
        for name in ["PATH", "LANG", "USER"] {
            if let Ok(value) = std::env::var(name) {
                vars.entry(name.to_owned()).or_insert(value);
            }
        }
        vars.entry("LANG".to_owned()).or_insert("C.UTF-8".to_owned());
        vars.insert("HOME".to_owned(), dir.path().display().to_string());
        vars.insert("FLEETCORE_VIEWER_URL_FILE".to_owned(), viewer.display().to_string());
        let call = Call::new("openhands-runtime")
            .with_args(all)
            .with_env(vars)
            .with_listen("127.0.0.1:0".parse().unwrap());
        let plan =
            compat::find("openhands-runtime").unwrap().parse(&call).unwrap_or_else(|e| panic!("{}", e.text));
        let fleet = Fleet::builder().with_host(Arc::new(Local::new(config(&work)))).build();
        let app = App::new(plan.config(), fleet, Stores::new(Arc::new(MemoryStore::new())));
        let listener = Listener::bind(plan, app, dir.path().join("data")).await.unwrap();
        let url = format!("http://{}", listener.local_addr());
        let shutdown = CancellationToken::new();
        let mut task = tokio::spawn(listener.run_alone(shutdown.clone()));
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(LIMIT)
            .build()
            .unwrap();
        let alive =
            async || (http.get(format!("{url}/alive")).send().await.unwrap().status() == 200).then_some(());
        tokio::select! {
            () = eventually("it is ready", alive) => {}
            ended = &mut task => panic!("it does not start: {:?}", ended.unwrap()),
        }
        Self { url, dir, work, viewer, http, shutdown, task: Some(task) }
    }

    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        let task = self.task.take().unwrap();
        let _ = tokio::time::timeout(LIMIT, task).await.expect("it does not end").unwrap();
    }

    /// An action; status and answer.
    pub(crate) async fn act(&self, action: Value) -> (u16, Value) {
        let body = serde_json::json!({ "action": action });
        let response =
            self.http.post(format!("{}/execute_action", self.url)).json(&body).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// A recorded text with our directory in place of the recorder's.
    pub(crate) fn ours(&self, text: &str) -> String {
        let text = text.replace("/tmp/oh-server-url", &self.viewer.display().to_string());
        text.replace("/workspace", &self.work)
    }

    fn theirs(&self, text: &str) -> String {
        let text = text.replace(&self.viewer.display().to_string(), "/tmp/oh-server-url");
        text.replace(&self.work, "/workspace")
    }

    pub(crate) async fn send(&self, request: &Value) -> reqwest::Response {
        let base = match request.get("port").and_then(Value::as_str) {
            Some("viewer") => std::fs::read_to_string(&self.viewer).unwrap(),
            _ => self.url.clone(),
        };
        let method: reqwest::Method = request["method"].as_str().unwrap().parse().unwrap();
        let mut builder = self.http.request(method, format!("{base}{}", request["path"].as_str().unwrap()));
        if let Some(query) = request.get("query").and_then(Value::as_object) {
            let pairs: Vec<(String, String)> = query
                .iter()
                .map(|(k, v)| (k.clone(), v.as_str().map_or_else(|| v.to_string(), |v| self.ours(v))))
                .collect();
            builder = builder.query(&pairs);
        }
        for (name, value) in request.get("headers").and_then(Value::as_object).into_iter().flatten() {
            builder = builder.header(name, value.as_str().unwrap());
        }
        if let Some(json) = request.get("json") {
            let text = self.ours(&serde_json::to_string(json).unwrap());
            builder = builder.header("content-type", "application/json").body(text);
        } else if let Some(raw) = request.get("raw").and_then(Value::as_str) {
            if let Some(kind) = request.get("content_type").and_then(Value::as_str) {
                builder = builder.header("content-type", kind);
            }
            builder = builder.body(self.ours(raw));
        } else if let Some(parts) = request.get("multipart").and_then(Value::as_array) {
            builder = builder
                .header("content-type", "multipart/form-data; boundary=BoUnDaRy")
                .body(multipart(parts));
        }
        builder.send().await.unwrap()
    }
}

fn multipart(parts: &[Value]) -> Vec<u8> {
    let mut body = Vec::new();
    for part in parts {
        let text = |key: &str| part.get(key).and_then(Value::as_str);
        body.extend(b"--BoUnDaRy\r\nContent-Disposition: form-data; name=\"");
        body.extend(text("field").unwrap().bytes());
        body.push(b'"');
        if let Some(name) = text("filename") {
            let name = name.replace('\\', "\\\\").replace('"', "\\\"");
            body.extend(format!("; filename=\"{name}\"").bytes());
        }
        body.extend(b"\r\n");
        if let Some(kind) = text("content_type") {
            body.extend(format!("Content-Type: {kind}\r\n").bytes());
        }
        body.extend(b"\r\n");
        body.extend(STANDARD.decode(text("content_base64").unwrap()).unwrap());
        body.extend(b"\r\n");
    }
    body.extend(b"--BoUnDaRy--\r\n");
    body
}

/// Replays a recording from its beginning to its end; panics with everything that differs and should not.
pub(crate) async fn replay(name: &str, more_env: &[(&str, &str)]) {
    let Some((cases, session)) = recorded(name) else { return };
    let args: Vec<&str> = session["args"].as_array().unwrap().iter().map(|a| a.as_str().unwrap()).collect();
    let mut env: Vec<(&str, &str)> =
        session["env"].as_object().unwrap().iter().map(|(k, v)| (k.as_str(), v.as_str().unwrap())).collect();
    env.extend(more_env);
    let running = Running::start(&args, &env).await;
    let mut wrong = Vec::new();
    let mut same = 0;
    for case in &cases {
        if let Some(seconds) = case.get("sleep_s").and_then(Value::as_f64) {
            // What was recorded had this much time in between, and what is answered next tells how much was done in it:
            // there is nothing else to wait for.
            tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
            continue;
        }
        let called = case["name"].as_str().unwrap();
        let expected = &case["response"];
        if expected.get("conversation").is_some() {
            continue;
        }
        let response = running.send(&case["request"]).await;
        let marked = case.get("records_defect").is_some();
        let why = differs(name, &running, case, response).await;
        match why {
            Some(_) if differences::deliberate(name, called, marked) => {}
            Some(why) => wrong.push(format!("{called}: {why}")),
            None => same += 1,
        }
    }
    running.stop().await;
    let of = cases.len();
    assert!(
        wrong.is_empty(),
        "{name}: {} differ, {same} of {of} are the same\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    eprintln!("{name}: {same} of {of} steps are the same");
}

async fn differs(
    session: &str,
    running: &Running,
    case: &Value,
    response: reqwest::Response,
) -> Option<String> {
    let status = response.status().as_u16();
    let kind = response.headers().get("content-type").map(|v| v.to_str().unwrap().to_owned());
    let location = response.headers().get("location").map(|v| v.to_str().unwrap().to_owned());
    let body = response.bytes().await.unwrap();
    let shown = || running.theirs(&String::from_utf8_lossy(&body[..body.len().min(1500)]));
    if case["status"] != status {
        return Some(format!("status {status} instead of {}: {}", case["status"], shown()));
    }
    let expected_kind = case["headers"].get("content-type").and_then(Value::as_str);
    if kind.as_deref() != expected_kind {
        return Some(format!("content type {kind:?} instead of {expected_kind:?}"));
    }
    if let Some(to) = case["headers"].get("location").and_then(Value::as_str) {
        let path = |url: &str| url.splitn(4, '/').nth(3).unwrap_or_default().to_owned();
        if location.as_deref().map(path) != Some(path(to)) {
            return Some(format!("location {location:?}"));
        }
    }
    let expected = &case["response"];
    if let Some(json) = expected.get("json") {
        let Ok(actual) = serde_json::from_str::<Value>(&running.theirs(&String::from_utf8_lossy(&body)))
        else {
            return Some(format!("no JSON: {}", shown()));
        };
        let (json, actual) = (masked(session, json.clone()), masked(session, actual));
        if json != actual {
            return Some(format!("\n   {json}\n   {actual}"));
        }
    } else if let Some(text) = expected.get("text").and_then(Value::as_str)
        && running.theirs(&String::from_utf8_lossy(&body)) != text
    {
        return Some(format!("{text:?} != {:?}", shown()));
    } else if let Some(base64) = expected.get("base64").and_then(Value::as_str)
        && STANDARD.encode(&body) != base64
    {
        return Some("other bytes".to_owned());
    }
    // What is in a zip is looked at where zips are made.
    None
}
