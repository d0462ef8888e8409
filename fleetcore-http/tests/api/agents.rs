use std::time::Duration;

use fleetcore::{
    AgentId, AuditFilter, AuditStore, JoinStore, Role, Scope,
    backends::local::{Local, LocalConfig},
};
use fleetcore_http::{
    Stores,
    client::{Client, Credentials, Event, MetricsQuery},
    link::{Agent, AgentConfig, AgentEnd, host_status},
};
use fleetcore_testkit::eventually;
use futures::{StreamExt as _, future::join_all};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::common::*;

async fn code(h: &Harness, body: Value) -> String {
    let (status, made) = h.post_json("/api/v1/agents/join-codes", body).await;
    assert_eq!(status, 201, "{made}");
    made["code"].as_str().unwrap().to_owned()
}

/// As an agent does: without a login.
async fn join(h: &Harness, code: &str, id: &str) -> Response {
    let body = json!({ "code": code, "id": id });
    h.http.post(format!("{}/api/v1/agents/join", h.base)).json(&body).send().await.unwrap()
}

async fn joined(h: &Harness, id: &str) -> String {
    let answer = join(h, &code(h, json!({})).await, id).await;
    assert_eq!(answer.status(), 201);
    let answer: Value = answer.json().await.unwrap();
    answer["token"].as_str().unwrap().to_owned()
}

/// An agent in this process.
struct Host {
    stop: CancellationToken,
    end: Option<JoinHandle<AgentEnd>>,
    _dir: tempfile::TempDir,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Host {
    fn start(h: &Harness, token: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = fleetcore::store::sqlite::SqliteConfig::new(dir.path());
        let store = std::sync::Arc::new(fleetcore::store::sqlite::SqliteStore::open(config).unwrap());
        let fleet = fleetcore::Fleet::builder()
            .with_host(std::sync::Arc::new(Local::new(LocalConfig::default())))
            .with_store(store.clone())
            .build();
        let config = AgentConfig::new(&h.base, token.to_owned().into())
            .with_reconnect(Duration::from_millis(10), Duration::from_millis(100))
            .with_status(host_status());
        let agent = Agent::new(config, fleet, Stores::new(store)).unwrap();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let end = Some(tokio::spawn(async move { agent.run(stopped).await }));
        Self { stop, end, _dir: dir }
    }

    async fn ended(&mut self) -> AgentEnd {
        tokio::time::timeout(LIMIT, self.end.take().unwrap()).await.expect("it ends").unwrap()
    }
}

/// Looks again and again.
async fn until(h: &Harness, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
    eventually(path, async || Some(h.json(path).await).filter(&holds)).await
}

async fn audit(h: &Harness, action: &str) -> Vec<(String, String, String)> {
    let mut filter = AuditFilter::default();
    filter.action = Some(action.to_owned());
    filter.limit = 1000;
    let lines = h.store.read(filter).await.unwrap();
    lines.into_iter().map(|l| (l.actor, l.target, l.outcome)).collect()
}

#[tokio::test]
async fn a_code_lets_one_agent_in_once() {
    let h = start().await;
    let made = h.post_json("/api/v1/agents/join-codes", json!({ "labels": { "role": "web" } })).await.1;
    let code = made["code"].as_str().unwrap();
    assert!(code.starts_with("fcj_") && code.len() > 20, "{made}");
    assert_eq!(made["command"], format!("fleetcore agent --server {} --join {code}", h.base));
    let answer: Value = join(&h, code, "office-1").await.json().await.unwrap();
    assert_eq!((answer["id"].as_str(), answer["labels"]["role"].as_str()), (Some("office-1"), Some("web")));
    assert!(answer["token"].as_str().unwrap().starts_with("fca_"));
    problem(join(&h, code, "office-2").await, 401, "unauthenticated").await;
    problem(join(&h, code, "office-1").await, 401, "unauthenticated").await;

    let agents = h.json("/api/v1/agents").await;
    assert_eq!(agents["items"].as_array().unwrap().len(), 1);
    let agent = h.json("/api/v1/agents/office-1").await;
    assert_eq!(agents["items"][0], agent);
    assert_eq!((agent["online"].as_bool(), agent["invited_by"].as_str()), (Some(false), Some("admin")));
    assert!(agent["last_seen"].is_null() && agent["load"].is_null() && agent["joined_at"].is_string());
    let log = audit(&h, "agent.").await;
    let line = |actor: &str, target: &str, outcome: &str| (actor.into(), target.into(), outcome.into());
    let want = [
        line("nobody", "office-1", "unauthenticated"),
        line("nobody", "office-2", "unauthenticated"),
        line("agent office-1", "office-1", "ok"),
        line("admin", "agents", "ok"),
    ];
    assert_eq!(log, want);
    // Neither secret can be read anywhere.
    let token = answer["token"].as_str().unwrap();
    let all = format!("{:?} {agents} {log:?} {:?}", h.store.agent_tokens().await.unwrap(), h.store);
    assert!(!all.contains(token) && !all.contains(code));
}

#[tokio::test]
async fn wrong_expired_and_taken() {
    let h = start().await;
    let wrong = problem(join(&h, "fcj_AAAAAAAAAAAAAAAAAAAAAA", "a").await, 401, "unauthenticated").await;
    let short = code(&h, json!({ "expires_in_s": 1 })).await;
    let made = code(&h, json!({})).await;
    let first = join(&h, &made, "a").await;
    assert_eq!(first.status(), 201);
    let second = code(&h, json!({})).await;
    problem(join(&h, &second, "a").await, 409, "already_exists").await;
    // The code was not used up by that.
    for bad in ["local", "join", "../x", "--all", "", &"x".repeat(300), "ü"] {
        problem(join(&h, &second, bad).await, 400, "invalid_input").await;
    }
    assert_eq!(join(&h, &second, "b").await.status(), 201);
    for body in [json!({ "expires_in_s": 0 }), json!({ "expires_in_s": 2_592_001 }), json!({ "x": 1 })] {
        assert_eq!(h.post_json("/api/v1/agents/join-codes", body).await.0, 400);
    }
    // Refused once its second is over, in the same words as one that never was.
    let expired = async {
        loop {
            let answer = join(&h, &short, "a").await;
            if answer.status() != 409 {
                return problem(answer, 401, "unauthenticated").await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let expired = tokio::time::timeout(LIMIT, expired).await.expect("it expires");
    assert_eq!(expired["detail"], wrong["detail"]);
}

#[tokio::test]
async fn a_flood_of_joins_is_bounded() {
    let h = start_with(|c| c.limits.joins_per_minute = 5).await;
    let tries = (0..60).map(|n| {
        let h = &h;
        async move { join(h, "fcj_guess", &format!("a{n}")).await.status().as_u16() }
    });
    let answers = join_all(tries).await;
    let of = |status: u16| answers.iter().filter(|s| **s == status).count();
    assert_eq!((of(401) + of(429), of(429) >= 50), (60, true), "{answers:?}");
    // Those who were slowed down have left nothing behind.
    assert!(audit(&h, "agent.join").await.len() <= 10);
    assert!(h.json("/api/v1/agents").await["items"].as_array().unwrap().is_empty());
    let good = code(&h, json!({})).await;
    let slowed = problem(join(&h, &good, "a").await, 429, "rate_limited").await;
    assert!(slowed["retry_after_ms"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn codes_and_removals_need_the_scope_of_machines() {
    let h = start().await;
    joined(&h, "a").await;
    let viewer = h.user_with_token("looker", Role::Viewer, [Scope::Read]).await;
    let ask = |method: Method, path: &str| {
        h.http.request(method, format!("{}{path}", h.base)).bearer_auth(&viewer).json(&json!({})).send()
    };
    for (method, path) in [(Method::POST, "/api/v1/agents/join-codes"), (Method::DELETE, "/api/v1/agents/a")]
    {
        problem(ask(method, path).await.unwrap(), 403, "permission_denied").await;
    }
    assert_eq!(ask(Method::GET, "/api/v1/agents").await.unwrap().status(), 200);
    problem(h.request(Method::DELETE, "/api/v1/agents/b").send().await.unwrap(), 404, "not_found").await;
    problem(h.get("/api/v1/agents/b").send().await.unwrap(), 404, "not_found").await;
    problem(h.get("/api/v1/agents/b/metrics").send().await.unwrap(), 404, "not_found").await;
    problem(h.get("/api/v1/agents/..%2Fb").send().await.unwrap(), 400, "invalid_input").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_connects_measures_and_is_put_out() {
    let h = start().await;
    let client = Client::new(&h.base, Credentials::token(&h.token)).unwrap();
    let mut events = client.events(false).await.unwrap();
    let made = client.create_join_code(&Default::default(), Some(Duration::from_secs(60))).await.unwrap();
    let id = AgentId::new("office-1").unwrap();
    let admitted = client.join(&made.code, &id).await.unwrap();
    let token = secrecy::ExposeSecret::expose_secret(&admitted.token).to_owned();
    let mut host = Host::start(&h, &token);

    let agent =
        until(&h, "/api/v1/agents/office-1", |a| a["connected"] == true && !a["load"].is_null()).await;
    assert_eq!(
        (agent["online"].as_bool(), agent["version"].as_str()),
        (Some(true), Some(env!("CARGO_PKG_VERSION")))
    );
    assert!(agent["host"]["hostname"].is_string() && agent["capabilities"]["pty"] == true, "{agent}");
    assert!(agent["load"]["memory_total_bytes"].as_u64().unwrap() > 0, "{agent}");
    let followed = async {
        while let Some(event) = events.next().await {
            match event.unwrap() {
                Event::Agent(agent) if agent.load.is_some() => return agent,
                _ => {}
            }
        }
        panic!("the stream ended")
    };
    let seen = tokio::time::timeout(LIMIT, followed).await.expect("it is told");
    assert_eq!((seen.id.as_str(), seen.online), ("office-1", true));

    let path = "/api/v1/agents/office-1/metrics";
    let metrics = until(&h, path, |m| !m["series"]["memory"].as_array().unwrap().is_empty()).await;
    assert_eq!((metrics["step_s"].as_u64(), metrics["target"].as_str()), (Some(10), Some("office-1")));
    assert!(metrics["totals"]["memory_bytes"].as_u64().unwrap() > 0);
    for series in ["cpu", "memory", "swap", "load1", "disk", "net_rx", "net_tx", "uptime"] {
        let points = metrics["series"][series].as_array().unwrap();
        assert_eq!(points[0].as_array().unwrap().len(), 2, "{series}");
        assert!(
            metrics["least"][series][0][1].as_f64().unwrap() <= points[0][1].as_f64().unwrap(),
            "{series}"
        );
    }
    let same = client.metrics(&"office-1".parse().unwrap(), &MetricsQuery::default()).await.unwrap();
    assert_eq!(same.series.keys().count(), 8);
    let text = h.get("/metrics").send().await.unwrap().text().await.unwrap();
    assert!(text.contains("fleetcore_host_memory_used_bytes{agent=\"office-1\"} "), "{text}");

    client.delete_agent(&id).await.unwrap();
    assert!(matches!(host.ended().await, AgentEnd::Refused(_)));
    problem(h.get("/api/v1/agents/office-1").send().await.unwrap(), 404, "not_found").await;
    let removed = async {
        while let Some(event) = events.next().await {
            if let Event::AgentRemoved(id) = event.unwrap() {
                return id;
            }
        }
        panic!("the stream ended")
    };
    assert_eq!(tokio::time::timeout(LIMIT, removed).await.expect("it is told"), "office-1");
    assert!(!h.get("/metrics").send().await.unwrap().text().await.unwrap().contains("office-1"));
    // Its token is dead; another program cannot come in with it.
    let link = h.http.get(format!("{}/api/v1/link", h.base)).bearer_auth(&token).send().await.unwrap();
    problem(link, 401, "unauthenticated").await;
    // The name is free again, for a new code.
    joined(&h, "office-1").await;
}

#[tokio::test]
async fn this_host_has_a_history_too() {
    let h = start().await;
    // Looking at its load measures it.
    h.json("/api/v1/targets").await;
    let metrics = h.json("/api/v1/targets/local/metrics").await;
    assert!(metrics["series"]["memory"][0][1].as_f64().unwrap() > 0.0, "{metrics}");
    let at = metrics["series"]["memory"][0][0].as_f64().unwrap() as i64;
    let now = jiff::Timestamp::now().as_second();
    assert!((now - 60..=now).contains(&at));
    let day = format!("/api/v1/targets/local/metrics?from={}&step=900", now - 86_000);
    let day = h.json(&day).await;
    assert_eq!((day["step_s"].as_u64(), day["series"]["cpu"].as_array().unwrap().len()), (Some(900), 1));
    for bad in ["from=x", "step=0", "step=604801", "from=2000&to=1000", "what=1"] {
        let answer = h.get(&format!("/api/v1/targets/local/metrics?{bad}")).send().await.unwrap();
        problem(answer, 400, "invalid_input").await;
    }
    problem(h.get("/api/v1/targets/nobody/metrics").send().await.unwrap(), 404, "not_found").await;
    let text = h.get("/metrics").send().await.unwrap().text().await.unwrap();
    assert!(text.contains("fleetcore_host_uptime_seconds{agent=\"local\"} "));
}
