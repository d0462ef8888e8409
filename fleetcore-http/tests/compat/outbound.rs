//! What master and agent send to each other, beside what was recorded of the originals at a sink.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{common::*, terminal::Terminal};

/// Takes every request down and answers what it is told.
#[derive(Clone)]
struct Sink {
    answer: fn(&str) -> (u16, Value),
    asked: Arc<Mutex<Vec<Asked>>>,
}

#[derive(Clone, Debug)]
struct Asked {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Value,
}

impl Asked {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

async fn take(State(sink): State<Sink>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let text = |v: &axum::http::HeaderValue| v.to_str().unwrap().to_owned();
    sink.asked.lock().push(Asked {
        method: parts.method.to_string(),
        target: parts.uri.to_string(),
        headers: parts.headers.iter().map(|(n, v)| (n.to_string(), text(v))).collect(),
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    });
    let (status, answer) = (sink.answer)(parts.uri.path());
    (StatusCode::from_u16(status).unwrap(), axum::Json(answer)).into_response()
}

async fn sink(answer: fn(&str) -> (u16, Value)) -> (String, Sink) {
    let sink = Sink { answer, asked: Arc::default() };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let routes = Router::new().fallback(take).with_state(sink.clone());
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    (url, sink)
}

/// Requests of one case that were received, not the recorder's own remarks.
fn recorded_requests(version: &str, case: &str) -> Option<Vec<Value>> {
    let records = recorded(&format!("{version}/outbound.jsonl"))?;
    Some(records.into_iter().filter(|r| r["name"] == case && r["method"] != "(result)").collect())
}

fn recorded_header<'a>(record: &'a Value, name: &str) -> Option<&'a str> {
    let headers = record["headers"].as_array().unwrap();
    let header = headers.iter().find(|h| h[0].as_str().unwrap().eq_ignore_ascii_case(name))?;
    header[1].as_str()
}

#[tokio::test]
async fn a_master_asks_agents_as_recorded() {
    for version in ["python", "go"] {
        let Some(want) = recorded_requests(version, "master-to-agent-with-key") else { return };
        let (url, sink) = sink(|path| match path {
            "/api/vm/list" => (200, json!({"list": []})),
            "/ws" => (403, json!({"detail": "Invalid or missing API key"})),
            path if path.starts_with("/api/vm/info/") => {
                (200, json!({"errors": [], "info": {"v": {"state": "Running"}}}))
            }
            _ => (200, json!({"success": true, "message": "done"})),
        })
        .await;
        let local = Multipass::local();
        let master = Running::master(&local, &["--open-enrolment"]).await;
        master.register("a1", &url, Some(AGENT_KEY)).await;
        let cookie = master.login().await;
        let headers = [("Cookie", cookie.as_str())];
        master.get("/api/vm/list", &headers).await;
        let full = json!({"name": "v", "cpus": 2, "memory": "2G", "disk": "10G", "image": "24.04", "agent_id": "a1"});
        let created = master.post("/api/vm/create", &headers, &full).await.json();
        let answer = json!({"success": true, "message": "done", "vm_name": "v", "agent_id": "a1", "agent_hostname": "h1"});
        assert_eq!(created, answer);
        let of = json!({"name": "v", "agent_id": "a1"});
        master.post("/api/vm/create", &headers, &of).await;
        for deed in ["start", "stop", "delete"] {
            let reply = master.post(&format!("/api/vm/{deed}"), &headers, &of).await;
            let text = if deed == "delete" { "VM deleted and purged" } else { "done" };
            assert_eq!(reply.json(), json!({"success": true, "message": text}));
        }
        master.get("/api/vm/info/v?agent_id=a1", &headers).await;
        let mut terminal = Terminal::open(&master, "/ws?vm_name=v&agent_id=a1", &headers).await;
        assert_eq!(terminal.end().await, Some(1000));

        let asked = sink.asked.lock().clone();
        let mut left = asked.iter();
        for record in &want {
            let body: Value = serde_json::from_str(record["body"].as_str().unwrap()).unwrap_or(Value::Null);
            let same =
                left.find(|a| record["method"] == a.method && record["target"] == a.target && body == a.body);
            let same = same.unwrap_or_else(|| panic!("{version}: no {record} among {asked:?}"));
            for header in ["x-api-key", "content-type"] {
                if let Some(value) = recorded_header(record, header) {
                    assert_eq!(same.header(header), Some(value), "{version} {}", same.target);
                }
            }
            for secret in ["cookie", "origin", "authorization"] {
                assert_eq!(same.header(secret), None, "{version} {}", same.target);
            }
        }
    }
}

/// Registers somewhere; gives what was asked until there were `beats` heartbeats.
async fn asked_by_agent(
    args: &[&str],
    answer: fn(&str) -> (u16, Value),
    theirs: &Multipass,
    beats: usize,
) -> Vec<Asked> {
    let (url, sink) = sink(answer).await;
    let url = format!("{url}/");
    let all = [&["--agent-id", "agent1", "--master-url", &url, "--heartbeat-interval", "1"], args].concat();
    let _agent = Running::agent(theirs, &all).await;
    eventually("heartbeats", async || {
        let asked = sink.asked.lock().clone();
        let found = asked.iter().filter(|a| a.target == "/api/agent/heartbeat").count();
        (found >= beats).then_some(asked)
    })
    .await
}

fn registered(path: &str) -> (u16, Value) {
    match path {
        "/api/agent/register" => {
            let agent = json!({"agent_id": "agent1", "last_seen": jiff::Timestamp::now().to_string()});
            (200, json!({"success": true, "message": "m", "agent": agent}))
        }
        _ => (200, json!({"success": true, "message": "Heartbeat received"})),
    }
}

#[tokio::test]
async fn an_agent_without_a_key_and_with_a_slash_too_many() {
    let Some(want) = recorded_requests("python", "agent-without-key-url-with-trailing-slash") else { return };
    let asked = asked_by_agent(&[], registered, &Multipass::agent(), 1).await;
    let (register, beat) = (&want[0], &want[1]);
    for (record, asked) in [(register, &asked[0]), (beat, asked.last().unwrap())] {
        assert_eq!(record["target"], asked.target);
        assert_eq!(asked.header("x-api-key"), None);
        assert_eq!(asked.header("content-type"), recorded_header(record, "content-type"));
        let body: Value = serde_json::from_str(record["body"].as_str().unwrap()).unwrap();
        assert_eq!(shape(&asked.body), shape(&body));
    }
    assert_eq!(asked[0].body["api_key"], Value::Null);
}

#[tokio::test]
async fn an_agent_whose_multipass_fails_lives() {
    let Some(want) = recorded_requests("python", "agent-list-fails") else { return };
    let theirs = Multipass::agent();
    theirs.set("fail_list", "list failed: cannot connect to the multipass socket\n");
    let asked = asked_by_agent(&["--api-key", "k"], registered, &theirs, 1).await;
    let beat: Value = serde_json::from_str(want.last().unwrap()["body"].as_str().unwrap()).unwrap();
    let ours = &asked.last().unwrap().body;
    assert_eq!((&ours["status"], &ours["vm_count"]), (&beat["status"], &beat["vm_count"]));
    assert_eq!(ours["vm_count"], 0);
}

/// D14: the originals register once and then send heartbeats nobody knows.
#[tokio::test]
async fn an_agent_registers_until_the_master_takes_it() {
    let Some(want) = recorded_requests("python", "agent-master-answers-500") else { return };
    let registrations = |all: &[Value]| all.iter().filter(|r| r["target"] == "/api/agent/register").count();
    assert_eq!(registrations(&want), 1, "the original");
    let (url, sink) = sink(|_| (500, json!({"detail": "x"}))).await;
    let theirs = Multipass::agent();
    let args = ["--agent-id", "agent1", "--api-key", "k", "--master-url", &url, "--heartbeat-interval", "1"];
    let _agent = Running::agent(&theirs, &args).await;
    eventually("another try", async || (sink.asked.lock().len() >= 2).then_some(())).await;
    let asked = sink.asked.lock().clone();
    assert!(asked.iter().all(|a| a.target == "/api/agent/register"), "{asked:?}");
}
