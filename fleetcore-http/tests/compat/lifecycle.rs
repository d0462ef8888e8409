//! `lifecycle.jsonl` and `interop.jsonl`: agents and masters that come and go, and mixed company.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::common::*;

/// An address nobody listens on now.
async fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

async fn agents(master: &Running, cookie: &str) -> Value {
    master.get("/api/agent/list", &[("Cookie", cookie)]).await.json()
}

/// A recorded case, to compare with.
fn case(version: &str, name: &str) -> Option<Value> {
    let all = recorded(&format!("{version}/lifecycle.jsonl"))?;
    Some(all.into_iter().find(|r| r["case"] == name).unwrap_or_else(|| panic!("no {name}")))
}

#[tokio::test]
async fn an_agent_that_starts_before_its_master_appears() {
    let Some(python) = case("python", "agent-started-before-master") else { return };
    let go = case("go", "agent-started-before-master").unwrap();
    assert_eq!((python["agents"].as_array().unwrap().len(), go["agents"].as_array().unwrap().len()), (0, 1));
    let address = free_address().await;
    let (local, theirs) = (Multipass::local(), Multipass::agent());
    let url = format!("http://{address}");
    let args =
        ["--agent-id", "agent1", "--api-key", AGENT_KEY, "--master-url", &url, "--heartbeat-interval", "1"];
    let agent = Running::agent(&theirs, &args).await;
    let port = address.port().to_string();
    let master = Running::master(&local, &["--open-enrolment", "--port", &port]).await;
    let cookie = master.login().await;
    let all = eventually("the agent", async || {
        let all = agents(&master, &cookie).await;
        (all[0]["vm_count"] == 3).then_some(all)
    })
    .await;
    // As the Go version, and with its true address.
    assert_eq!(
        (&all[0]["agent_id"], &all[0]["api_url"]),
        (&go["agents"][0]["agent_id"], &json!(agent.url()))
    );
}

#[tokio::test]
async fn an_agent_that_is_offline_is_left_out_and_comes_back() {
    let Some(_) = case("python", "heartbeat-brings-back-online") else { return };
    let (local, gone) = (Multipass::local(), free_address().await);
    let master = Running::master(&local, &["--open-enrolment"]).await;
    let cookie = master.login().await;
    let headers = [("Cookie", cookie.as_str())];
    master.register("agent1", &format!("http://{gone}"), Some("k")).await;
    let beat = async |status: &str, count: i64| {
        let body = json!({"agent_id": "agent1", "timestamp": "2026-11-21T08:18:10", "status": status, "vm_count": count});
        master.post("/api/agent/heartbeat", &[("X-API-Key", "k")], &body).await
    };
    beat("offline", 0).await;
    let list = master.get("/api/vm/list", &headers).await.json();
    let hosts: Vec<&str> =
        list["vms"].as_array().unwrap().iter().map(|v| v["agent_hostname"].as_str().unwrap()).collect();
    assert_eq!((hosts, list.get("errors")), (vec!["local"; 3], None), "`list-with-offline-agent`");
    // It is tried all the same.
    let start = master.post("/api/vm/start", &headers, &json!({"name": "web", "agent_id": "agent1"})).await;
    assert_eq!((start.status, start.detail().as_str()), (502, "Agent 'agent1' is unreachable"));
    let back = beat("online", 1).await;
    assert_eq!(back.json()["message"], "Heartbeat received");
    let agent = agents(&master, &cookie).await[0].clone();
    assert_eq!((&agent["status"], &agent["vm_count"]), (&json!("online"), &json!(1)));
}

#[tokio::test]
async fn a_launch_holds_up_nobody() {
    let Some(python) = case("python", "local-launch-takes-5s") else { return };
    assert!(python["concurrent"][0][2].as_f64().unwrap() > 1.0, "the original");
    let local = Multipass::local();
    local.set("delay_launch", "2");
    let master = Running::master(&local, &[]).await;
    let cookie = master.login().await;
    let headers = [("Cookie", cookie.as_str())];
    let body = json!({"name": "slowlocal"});
    let launch = master.post("/api/vm/create", &headers, &body);
    let others = async {
        eventually("the launch begins", async || local.has("argv").then_some(())).await;
        for path in ["/api/auth/check", "/api/vm/list", "/api/agent/list"] {
            assert_eq!(master.get(path, &headers).await.status, 200);
        }
        local.has("vms/slowlocal")
    };
    let (launched, over) = tokio::join!(launch, others);
    assert_eq!(launched.json()["message"], "Launched: slowlocal\n");
    assert!(!over, "the others were answered meanwhile");
}

#[tokio::test]
async fn a_launch_at_an_agent_may_take_long() {
    let Some(python) = case("python", "remote-launch-takes-33s") else { return };
    assert_eq!(python["status"], 500, "the original gives up although the machine is made (D12)");
    let (local, theirs) = (Multipass::local(), Multipass::agent());
    theirs.set("delay_launch", "1.5");
    let master = Running::master(&local, &["--open-enrolment"]).await;
    let agent = Running::agent(&theirs, &["--agent-id", "agent1", "--api-key", AGENT_KEY]).await;
    master.register("agent1", &agent.url(), Some(AGENT_KEY)).await;
    let cookie = master.login().await;
    let headers = [("Cookie", cookie.as_str())];
    let body = json!({"name": "slow", "agent_id": "agent1"});
    let launch = master.post("/api/vm/create", &headers, &body);
    let others = async {
        eventually("the launch begins", async || theirs.has("argv").then_some(())).await;
        assert_eq!(agent.get("/health", &[]).await.status, 200);
        let list = master.get("/api/vm/list", &headers).await.json();
        assert_eq!(list["vms"].as_array().unwrap().len(), 6, "{list}");
        theirs.has("vms/slow")
    };
    let (launched, over) = tokio::join!(launch, others);
    assert_eq!(launched.json()["message"], "Launched: slow\n");
    assert!(!over, "the others were answered meanwhile");
}

/// An agent that answers every deed with a redirect to another server.
#[tokio::test]
async fn a_redirect_does_not_carry_a_key_away() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = format!("http://{}/moved", elsewhere.local_addr().unwrap());
    let routes = axum::Router::new().fallback(move || {
        let to = to.clone();
        async move { axum::response::Redirect::temporary(&to) }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    let local = Multipass::local();
    let master = Running::master(&local, &["--open-enrolment"]).await;
    master.register("a", &url, Some("K")).await;
    let cookie = master.login().await;
    let body = json!({"name": "v", "agent_id": "a"});
    let reply = master.post("/api/vm/start", &[("Cookie", &cookie)], &body).await;
    assert_eq!((reply.status, reply.detail().as_str()), (502, "Agent 'a' sent an invalid reply"));
    let followed = tokio::time::timeout(Duration::from_millis(200), elsewhere.accept()).await;
    assert!(followed.is_err(), "nobody went there");
}

#[tokio::test]
async fn mixed_company() {
    let Some(records) = recorded("interop/interop.jsonl") else { return };
    let of = |name: &str| records.iter().find(|r| r["case"] == name).unwrap().clone();
    let local = Multipass::local();
    let master = Running::master(&local, &["--open-enrolment"]).await;
    let cookie = master.login().await;
    // A Go agent with a slash too many.
    let register = json!({"agent_id": "z", "hostname": "h", "api_url": "http://127.0.0.1:1"});
    let reply = master.post("//api/agent/register", &[], &register).await;
    assert_eq!(json!(reply.status), of("py master: double slash")["status"]);
    master.post("/api/agent/register", &[], &register).await;
    let reply = master.post("/api/agent/heartbeat", &[], &json!({"agent_id": "z"})).await;
    let python = of("py master: heartbeat with only agent_id");
    assert_eq!(json!(reply.status), python["status"]);
    let agent = master.get("/api/agent/info/z", &[("Cookie", &cookie)]).await.json();
    let known = |v: &Value| {
        ["agent_id", "hostname", "api_url", "status", "tags", "vm_count"].map(|k| v["agent"][k].clone())
    };
    assert_eq!(known(&agent), known(&python["agent"]), "it is as it was");
    // D4
    let image = json!({"name": "x", "image": "--mount=/:/host"});
    let reply = master.post("/api/vm/create", &[("Cookie", &cookie)], &image).await;
    assert_eq!(reply.status, 422);
    assert!(
        local.argv().is_empty(),
        "nothing like {}",
        of("py master: image is passed as an option")["argv"]
    );
}

/// Both kinds of agents at this master: their heartbeats are taken and keep them online, whatever their clocks say.
#[tokio::test]
async fn clocks_of_agents_do_not_count() {
    let Some(records) = recorded("python/lifecycle.jsonl") else { return };
    assert!(records.iter().any(|r| r["case"] == "clock-5h-behind-flaps"));
    let local = Multipass::local();
    let master = Running::master(&local, &["--open-enrolment"]).await;
    let cookie = master.login().await;
    master.register("a", "http://127.0.0.1:1", Some("k")).await;
    for time in ["2026-11-21T03:15:10.397201", "2026-11-21T13:15:58.487597862Z", "0001-01-01T00:00:00Z"] {
        let beat = json!({"agent_id": "a", "timestamp": time, "status": "online", "vm_count": 3});
        let reply = master.post("/api/agent/heartbeat", &[("X-API-Key", "k")], &beat).await;
        assert_eq!(reply.status, 200, "{time}");
        let agent = agents(&master, &cookie).await[0].clone();
        let seen: jiff::Timestamp = agent["last_seen"].as_str().unwrap().parse().unwrap();
        assert!(jiff::Timestamp::now().duration_since(seen).abs().as_secs() < 60, "{agent}");
        assert_eq!(agent["status"], "online");
    }
}
