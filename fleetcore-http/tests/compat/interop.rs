//! Masters and agents together: this master with this agent, and each with what was recorded of the other side's
//! originals. Their sources are not part of the recorded data, so nothing of them runs here.

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

async fn pair() -> (Multipass, Multipass, Running, Running, String) {
    let (local, theirs) = (Multipass::local(), Multipass::agent());
    theirs.set("vms/echo", "Running\n[]\nUbuntu 22.04 LTS\n1\n");
    let master = Running::master(&local, &["--open-enrolment"]).await;
    let url = master.url();
    let args =
        ["--agent-id", "agent1", "--api-key", AGENT_KEY, "--master-url", &url, "--heartbeat-interval", "1"];
    let agent = Running::agent(&theirs, &args).await;
    let cookie = master.login().await;
    eventually("the agent registers and counts its machines", async || {
        let all = master.get("/api/agent/list", &[("Cookie", &cookie)]).await.json();
        (all[0]["status"] == "online" && all[0]["vm_count"] == 4).then_some(())
    })
    .await;
    (local, theirs, master, agent, cookie)
}

#[tokio::test]
async fn a_master_drives_an_agent() {
    let (_local, theirs, master, agent, cookie) = pair().await;
    let headers = [("Cookie", cookie.as_str())];
    let agents = master.get("/api/agent/list", &headers).await.json();
    assert_eq!(agents[0]["api_url"], json!(agent.url()));
    let list = master.get("/api/vm/list", &headers).await.json();
    let names: Vec<(&str, Option<&str>)> = list["vms"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| (v["name"].as_str().unwrap(), v["agent_id"].as_str()))
        .collect();
    let a = Some("agent1");
    assert_eq!(
        names,
        [
            ("db", None),
            ("old", None),
            ("primary", None),
            ("batch", a),
            ("echo", a),
            ("primary", a),
            ("web", a)
        ]
    );
    assert!(list.get("errors").is_none(), "{list}");

    theirs.argv();
    let wanted = json!({"name": "rnew", "cpus": 2, "memory": "2G", "disk": "10G", "image": "22.04", "agent_id": "agent1"});
    let created = master.post("/api/vm/create", &headers, &wanted).await.json();
    assert_eq!(created["message"], "Launched: rnew\n");
    assert_eq!((&created["agent_id"], created["agent_hostname"].is_string()), (&json!("agent1"), true));
    let again = master.post("/api/vm/create", &headers, &wanted).await;
    assert_eq!(
        (again.status, again.detail().as_str()),
        (500, "launch failed: instance \"rnew\" already exists\n")
    );
    let of = |name: &str| json!({"name": name, "agent_id": "agent1"});
    for (path, message) in [
        ("/api/vm/start", "VM 'rnew' started"),
        ("/api/vm/stop", "VM 'rnew' stopped"),
        ("/api/vm/delete", "VM deleted and purged"),
    ] {
        let done = master.post(path, &headers, &of("rnew")).await.json();
        assert_eq!(done, json!({"success": true, "message": message}), "{path}");
    }
    let unknown = master.post("/api/vm/start", &headers, &of("nosuch")).await;
    assert_eq!(
        (unknown.status, unknown.detail().as_str()),
        (500, "start failed: instance \"nosuch\" does not exist\n")
    );
    assert_eq!(
        json!(theirs.argv()),
        json!([
            [
                "multipass",
                "launch",
                "22.04",
                "--name",
                "rnew",
                "--cpus",
                "2",
                "--memory",
                "2G",
                "--disk",
                "10G"
            ],
            [
                "multipass",
                "launch",
                "22.04",
                "--name",
                "rnew",
                "--cpus",
                "2",
                "--memory",
                "2G",
                "--disk",
                "10G"
            ],
            ["multipass", "start", "rnew"],
            ["multipass", "stop", "rnew"],
            ["multipass", "delete", "--purge", "rnew"],
            ["multipass", "start", "nosuch"],
        ])
    );

    let info = master.get("/api/vm/info/web?agent_id=agent1", &headers).await.json();
    let page = ["name", "state", "ipv4", "image", "release", "cpus", "memory", "disk", "agent_hostname"];
    for key in page {
        assert!(info.get(key).is_some_and(|v| !v.is_null()), "{key}: {info}");
    }
    assert_eq!(info["info"]["disks"]["sda1"]["total"], "5153960756");
    let missing = master.get("/api/vm/info/nosuch?agent_id=agent1", &headers).await;
    assert_eq!(
        (missing.status, missing.detail().as_str()),
        (404, "info failed: instance \"nosuch\" does not exist\n")
    );
}

#[tokio::test]
async fn a_terminal_through_an_agent() {
    let (_local, _theirs, master, agent, cookie) = pair().await;
    let headers = [("Cookie", cookie.as_str())];
    let mut shell = Terminal::open(&master, "/ws?vm_name=web&agent_id=agent1", &headers).await;
    shell.send(r#"{"type":"resize","cols":101,"rows":33}"#).await;
    shell.until_text("ubuntu@web:~$ ").await;
    shell.send("stty size\r").await;
    shell.until_text("33 101").await;
    shell.send_bytes(b"echo BYTES-$((2+3))\r").await;
    shell.until_text("BYTES-5").await;
    shell.send("exit\r").await;
    assert_eq!(shell.end().await, Some(1000));

    // The browser leaves: so does the agent's shell.
    let mut left = Terminal::open(&master, "/ws?vm_name=web&agent_id=agent1", &headers).await;
    left.send(r#"{"type":"resize","cols":101,"rows":33}"#).await;
    left.until_text("ubuntu@web:~$ ").await;
    left.send("echo PID-$$-\r").await;
    left.until(|t| t.shown().matches("PID-").count() >= 2).await;
    let shown = left.shown();
    let pid: u32 = shown.rsplit("PID-").next().unwrap().split('-').next().unwrap().parse().unwrap();
    let process = format!("/proc/{pid}");
    assert!(std::path::Path::new(&process).exists());
    left.reset();
    eventually("its end", async || (!std::path::Path::new(&process).exists()).then_some(())).await;

    // The agent goes: the browser is told without typing anything.
    let mut cut = Terminal::open(&master, "/ws?vm_name=echo&agent_id=agent1", &headers).await;
    cut.until_text("Welcome to echo").await;
    let (code, ()) = tokio::join!(cut.end(), agent.stop());
    assert!(code.is_some());
    let mut gone = Terminal::open(&master, "/ws?vm_name=echo&agent_id=agent1", &headers).await;
    assert_eq!(gone.end().await, Some(1000));
    assert_eq!(gone.texts, "\r\n[Connection Error] Agent 'agent1' is unreachable\r\n");
}

#[tokio::test]
async fn a_wrong_key_is_said_as_such() {
    let (local, theirs) = (Multipass::local(), Multipass::agent());
    let master = Running::master(&local, &["--open-enrolment"]).await;
    let agent = Running::agent(&theirs, &["--agent-id", "agent1", "--api-key", AGENT_KEY]).await;
    master.register("agent1", &agent.url(), Some("another")).await;
    let cookie = master.login().await;
    let headers = [("Cookie", cookie.as_str())];
    let reply = master.post("/api/vm/start", &headers, &json!({"name": "web", "agent_id": "agent1"})).await;
    assert_eq!((reply.status, reply.detail().as_str()), (502, "Agent 'agent1' refused the API key"));
    let mut terminal = Terminal::open(&master, "/ws?vm_name=web&agent_id=agent1", &headers).await;
    assert_eq!(terminal.end().await, Some(1000));
    assert_eq!(terminal.texts, "\r\n[Connection Error] Agent 'agent1' refused the API key\r\n");
    // An agent without a key does not get one made up.
    let again = master.register("agent1", &agent.url(), None).await;
    assert_eq!(again.status, 403);
}

#[tokio::test]
async fn a_master_that_restarts_still_knows_its_agents() {
    let (_local, _theirs, master, _agent, cookie) = pair().await;
    let before = master.get("/api/agent/info/agent1", &[("Cookie", &cookie)]).await.json()["agent"].clone();
    let (dir, store) = (master.dir.clone(), master.store.clone());
    master.stop().await;
    let master = Running::start_in("batwa-server", &[], dir, store).await;
    let after = master.get("/api/agent/info/agent1", &[("Cookie", &cookie)]).await.json()["agent"].clone();
    assert_eq!((&after["api_url"], &after["status"]), (&before["api_url"], &json!("online")));
}

// ---- recorded agents

#[derive(Clone)]
struct Recorded {
    records: Arc<Vec<Value>>,
    /// Keys of all requests.
    keys: Arc<Mutex<Vec<String>>>,
}

/// Answers as the recorded agent did to the same request.
async fn replay(State(all): State<Recorded>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let key = parts.headers.get("x-api-key").map(|k| k.to_str().unwrap().to_owned()).unwrap_or_default();
    all.keys.lock().push(key);
    let same = |r: &&Value| {
        let asked: Value =
            serde_json::from_str(r["request"]["body"].as_str().unwrap_or("null")).unwrap_or(Value::Null);
        r["request"]["method"] == parts.method.as_str()
            && r["request"]["path"] == parts.uri.path()
            && r["request"]["headers"].get("X-API-Key").is_some_and(|k| k == AGENT_KEY)
            && asked == body
    };
    match all.records.iter().find(same) {
        Some(record) => {
            let status = StatusCode::from_u16(record["response"]["status"].as_u64().unwrap() as u16).unwrap();
            let body = record["response"]["body"].as_str().unwrap().to_owned();
            (status, [("content-type", "application/json")], body).into_response()
        }
        None => (StatusCode::IM_A_TEAPOT, format!("{} {body}", parts.uri)).into_response(),
    }
}

#[tokio::test]
async fn this_master_understands_the_recorded_agents() {
    for kind in ["python", "go"] {
        let Some(records) = recorded(&format!("{kind}/agent_http.jsonl")) else { return };
        let seen = Recorded { records: Arc::new(records), keys: Arc::default() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let routes = Router::new().fallback(replay).with_state(seen.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });

        let local = Multipass::local();
        let master = Running::master(&local, &["--open-enrolment"]).await;
        master.register("agent1", &url, Some(AGENT_KEY)).await;
        let cookie = master.login().await;
        let headers = [("Cookie", cookie.as_str())];
        let list = master.get("/api/vm/list", &headers).await.json();
        assert!(list.get("errors").is_none(), "{kind}: {list}");
        let theirs = list["vms"].as_array().unwrap().iter().filter(|v| v["agent_id"] == "agent1").count();
        assert_eq!(theirs, 4, "{kind}: {list}");
        let info = master.get("/api/vm/info/web?agent_id=agent1", &headers).await.json();
        assert_eq!(
            (&info["name"], &info["image"], &info["cpus"]),
            (&json!("web"), &json!("22.04 LTS"), &json!("4")),
            "{kind}"
        );
        let unknown = master.get("/api/vm/info/nosuch?agent_id=agent1", &headers).await;
        assert_eq!(unknown.status, 404, "{kind}: {unknown:?}");
        let create = json!({"name": "c2", "cpus": 2, "memory": "2G", "disk": "10G", "image": "24.04", "agent_id": "agent1"});
        assert_eq!(
            master.post("/api/vm/create", &headers, &create).await.json()["message"],
            "Launched: c2\n",
            "{kind}"
        );
        let of = |name: &str| json!({"name": name, "agent_id": "agent1"});
        for (path, name, message) in [
            ("/api/vm/start", "batch", "VM 'batch' started"),
            ("/api/vm/stop", "batch", "VM 'batch' stopped"),
            ("/api/vm/delete", "c1", "VM deleted and purged"),
        ] {
            // The Go agent's launch with defaults had failed, so there was nothing to delete.
            if kind == "go" && path == "/api/vm/delete" {
                continue;
            }
            let reply = master.post(path, &headers, &of(name)).await;
            assert_eq!(reply.json()["message"], json!(message), "{kind} {path}: {reply:?}");
        }
        let failed = master.post("/api/vm/start", &headers, &of("nosuch")).await;
        let said = if kind == "python" {
            "start failed: instance \"nosuch\" does not exist\n"
        } else {
            "exit status 2"
        };
        assert_eq!((failed.status, failed.detail().as_str()), (500, said), "{kind}");
        let keys = seen.keys.lock();
        assert!(!keys.is_empty() && keys.iter().all(|k| k == AGENT_KEY), "{kind}: {keys:?}");
    }
}

// ---- masters as recorded

/// What a recorded master would answer to a registration and to heartbeats.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Python,
    Go,
}

#[derive(Clone)]
struct Sink {
    kind: Kind,
    asked: Arc<Mutex<Vec<(String, Value, String)>>>,
}

async fn answer(State(sink): State<Sink>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let key = parts.headers.get("x-api-key").map(|k| k.to_str().unwrap().to_owned()).unwrap_or_default();
    let path = parts.uri.path().to_owned();
    sink.asked.lock().push((path.clone(), body.clone(), key));
    let zoned = |t: &Value| t.as_str().is_some_and(|t| t.parse::<jiff::Timestamp>().is_ok());
    match (path.as_str(), sink.kind) {
        ("/api/agent/register", kind) => {
            // The Python master is two hours east of us.
            let now = jiff::Timestamp::now();
            let last_seen = match kind {
                Kind::Go => now.to_string(),
                Kind::Python => jiff::tz::TimeZone::fixed(jiff::tz::offset(2)).to_datetime(now).to_string(),
            };
            let agent = json!({"agent_id": body["agent_id"], "last_seen": last_seen});
            axum::Json(json!({"success": true, "message": "m", "agent": agent})).into_response()
        }
        (_, Kind::Go) if !zoned(&body["timestamp"]) => {
            (StatusCode::BAD_REQUEST, axum::Json(json!({"error": "Invalid request"}))).into_response()
        }
        _ => axum::Json(json!({"success": true, "message": "Heartbeat received"})).into_response(),
    }
}

#[tokio::test]
async fn this_agent_is_understood_by_the_recorded_masters() {
    let Some(records) = recorded("python/outbound.jsonl") else { return };
    let want = |target: &str| -> Value {
        let record = records.iter().find(|r| r["name"] == "agent-with-key" && r["target"] == target).unwrap();
        serde_json::from_str(record["body"].as_str().unwrap()).unwrap()
    };
    for kind in [Kind::Python, Kind::Go] {
        let sink = Sink { kind, asked: Arc::default() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let routes = Router::new().fallback(answer).with_state(sink.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        let theirs = Multipass::agent();
        let args = [
            "--agent-id",
            "agent1",
            "--api-key",
            AGENT_KEY,
            "--master-url",
            &url,
            "--heartbeat-interval",
            "1",
        ];
        let agent = Running::agent(&theirs, &args).await;
        let asked = eventually("two heartbeats", async || {
            let asked = sink.asked.lock().clone();
            (asked.iter().filter(|(path, ..)| path == "/api/agent/heartbeat").count() >= 2).then_some(asked)
        })
        .await;
        assert!(asked.iter().all(|(.., key)| key == AGENT_KEY));
        let (path, register, _) = &asked[0];
        assert_eq!(path, "/api/agent/register");
        assert_eq!(shape(register), shape(&want("/api/agent/register")));
        assert_eq!((&register["agent_id"], &register["api_url"]), (&json!("agent1"), &json!(agent.url())));
        let beat = &asked.iter().rfind(|(path, ..)| path == "/api/agent/heartbeat").unwrap().1;
        assert_eq!(shape(beat), shape(&want("/api/agent/heartbeat")));
        assert_eq!((&beat["status"], &beat["vm_count"]), (&json!("online"), &json!(3)));
        let time = beat["timestamp"].as_str().unwrap();
        match kind {
            Kind::Go => assert!(time.parse::<jiff::Timestamp>().is_ok(), "{time}"),
            Kind::Python => {
                assert!(time.parse::<jiff::Timestamp>().is_err(), "{time}");
                let there: jiff::civil::DateTime = time.parse().unwrap();
                let there = there.to_zoned(jiff::tz::TimeZone::fixed(jiff::tz::offset(2))).unwrap();
                let off = jiff::Timestamp::now().duration_since(there.timestamp());
                assert!(off.abs().as_secs() < 60, "in the master's own time: {time}");
            }
        }
        assert_eq!(asked.iter().filter(|(path, ..)| path == "/api/agent/register").count(), 1);
    }
}
