//! Routes and actions with other hands than the real ones.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    http::StatusCode,
    response::Response,
};
use fleetcore::{Fleet, store::memory::MemoryStore};
use futures::{FutureExt as _, future::BoxFuture};
use serde_json::{Value, json};
use tokio::sync::{Notify, oneshot};
use tower::ServiceExt as _;

use super::{
    action::Deed,
    observation::Observation,
    options::RUNTIME,
    reply,
    runtime::{FileRequest, Hands},
    server,
    watch::Watch,
};
use crate::{
    App, ServerConfig, Stores,
    compat::{Call, Host},
};

/// Repeats what it is told; `wait` waits until it may go on.
#[derive(Default)]
struct Parrot {
    go: Notify,
}

impl Hands for Parrot {
    fn act(&self, deed: Deed, timeout: Option<f64>) -> BoxFuture<'_, Result<Observation, String>> {
        async move {
            match deed {
                Deed::Run(run) if run.command == "wait" => {
                    self.go.notified().await;
                    Ok(Observation::error("waited"))
                }
                Deed::Run(run) => Ok(Observation::error(format!("{} {timeout:?}", run.command))),
                Deed::Cell(_) => {
                    Err("JupyterRequirement not found. Unable to run IPython action.".to_owned())
                }
                Deed::Browse(_) => {
                    Ok(Observation::error("Browser functionality is not supported or disabled."))
                }
                other => Err(format!("{other:?}")),
            }
        }
        .boxed()
    }
    fn files(&self, what: FileRequest, _: Request) -> BoxFuture<'_, Response> {
        async move { reply::json(StatusCode::OK, &json!(format!("{what:?}"))) }.boxed()
    }
    fn editor_token(&self) -> Option<String> {
        None
    }
    fn stop(&self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }
}

struct Running {
    router: Router,
    app: App,
    parrot: Arc<Parrot>,
    ready: oneshot::Sender<()>,
    starting: tokio::task::JoinHandle<fleetcore::Result<()>>,
}

fn start(env: &[(&str, &str)]) -> Running {
    let args = ["1", "--working-dir", "/tmp/fleetcore-no-such-dir", "--no-enable-browser"];
    let call = Call::new("x").with_args(args).with_env(env.to_vec());
    let options = RUNTIME.options(&call).unwrap();
    let app = App::new(ServerConfig::default(), Fleet::local(), Stores::new(Arc::new(MemoryStore::new())));
    let host = Host::new(app.clone(), "/nonexistent", "127.0.0.1:1".parse().unwrap());
    let parrot = Arc::new(Parrot::default());
    let watch = Watch::new(None, app.stopping().clone());
    let (ready, may) = oneshot::channel::<()>();
    let hands = parrot.clone();
    let mut service = server::start_with(options, host, watch, |_, _| {
        async move {
            let _ = may.await;
            Ok(hands as Arc<dyn Hands>)
        }
        .boxed()
    })
    .unwrap();
    let starting = tokio::spawn(service.starting.take().unwrap());
    Running { router: service.router, app, parrot, ready, starting }
}

impl Running {
    async fn get_ready(env: &[(&str, &str)]) -> (Router, App, Arc<Parrot>) {
        let running = start(env);
        running.ready.send(()).unwrap();
        running.starting.await.unwrap().unwrap();
        (running.router, running.app, running.parrot)
    }
}

type Answer = (u16, HashMap<String, String>, String);

async fn ask(router: &Router, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut request = axum::http::Request::builder().method(method).uri(path).header("host", "h:1");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = router.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
    let headers = response.headers();
    let headers = headers.iter().map(|(k, v)| (k.to_string(), v.to_str().unwrap().to_owned())).collect();
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, headers, String::from_utf8(body.to_vec()).unwrap())
}

async fn act(router: &Router, action: Value) -> (u16, Value) {
    let body = json!({ "action": action }).to_string();
    let (status, _, text) = ask(router, "POST", "/execute_action", &[], &body).await;
    (status, serde_json::from_str(&text).unwrap())
}

#[tokio::test]
async fn nothing_but_503_until_it_is_ready() {
    let running = start(&[]);
    for (method, path) in [("GET", "/alive"), ("POST", "/execute_action"), ("GET", "/server_info")] {
        assert_eq!(ask(&running.router, method, path, &[], "").await.0, 503, "{path}");
    }
    running.ready.send(()).unwrap();
    running.starting.await.unwrap().unwrap();
    let (status, _, body) = ask(&running.router, "GET", "/alive", &[], "").await;
    assert_eq!((status, body.as_str()), (200, r#"{"status":"ok"}"#));
}

#[tokio::test]
async fn a_start_that_is_told_to_stop_ends() {
    let running = start(&[]);
    running.app.shutdown().await;
    assert!(running.starting.await.unwrap().is_err());
}

#[tokio::test]
async fn paths_methods_and_slashes() {
    let (router, ..) = Running::get_ready(&[]).await;
    let detail = |text: &str| format!(r#"{{"detail":"{text}"}}"#);
    for (method, path, status, body) in [
        ("GET", "/nope", 404, detail("Not Found")),
        ("GET", "/", 404, detail("Not Found")),
        ("GET", "/mcp/sse", 404, detail("Not Found")),
        ("POST", "/alive", 405, detail("Method Not Allowed")),
        ("OPTIONS", "/execute_action", 405, detail("Method Not Allowed")),
        ("GET", "/update_mcp_server", 405, detail("Method Not Allowed")),
        ("GET", "/vscode/connection_token", 200, r#"{"token":null}"#.to_owned()),
        ("POST", "/list_files", 200, "\"List\"".to_owned()),
    ] {
        let (got, headers, text) = ask(&router, method, path, &[], "").await;
        assert_eq!((got, text), (status, body), "{method} {path}");
        assert!(!headers.contains_key("allow"), "{path}");
    }
    assert_eq!(ask(&router, "HEAD", "/alive", &[], "").await.0, 405);
    let (status, headers, _) = ask(&router, "GET", "/alive/?x=1", &[], "").await;
    assert_eq!((status, headers["location"].as_str()), (307, "http://h:1/alive?x=1"));
    // Behind TLS, `http` would lead nowhere.
    let tls = [("x-forwarded-proto", "https")];
    let (status, headers, _) = ask(&router, "GET", "/alive/?x=1", &tls, "").await;
    assert_eq!((status, headers["location"].as_str()), (307, "/alive?x=1"));
    let mounted =
        router.clone().layer(axum::Extension(super::routes::MountedAt("/api/v1/runtimes/r1".into())));
    let (status, headers, _) = ask(&mounted, "GET", "/alive/", &[], "").await;
    assert_eq!((status, headers["location"].as_str()), (307, "/api/v1/runtimes/r1/alive"));
    let (status, _, text) = ask(&router, "GET", "/openapi.json", &[], "").await;
    assert!(status == 200 && text.contains("/execute_action"));
}

#[tokio::test]
async fn the_key_comes_before_everything() {
    let (router, ..) = Running::get_ready(&[("SESSION_API_KEY", "s3cret")]).await;
    for (method, path) in [
        ("GET", "/nope"),
        ("POST", "/execute_action"),
        ("OPTIONS", "/x"),
        ("GET", "/alive/"),
        ("GET", "/docs"),
    ] {
        let (status, _, body) = ask(&router, method, path, &[], "{bad").await;
        assert_eq!((status, body.as_str()), (403, r#"{"detail":"Invalid API Key"}"#), "{path}");
    }
    assert_eq!(ask(&router, "GET", "/server_info", &[], "").await.0, 200);
    let key = [("X-Session-API-Key", "s3cret")];
    assert_eq!(ask(&router, "GET", "/nope", &key, "").await.0, 404);
}

#[tokio::test]
async fn actions_and_what_is_none() {
    let (router, ..) = Running::get_ready(&[]).await;
    let (status, body) =
        act(&router, json!({ "action": "run", "args": { "command": "a" }, "timeout": 2 })).await;
    assert_eq!((status, &body["content"]), (200, &json!("a Some(2.0)")));
    for (action, says) in [
        (json!({ "action": "think", "args": {} }), "'ActionExecutor' object has no attribute 'think'"),
        (
            json!({ "action": "run_ipython", "args": { "code": "1" } }),
            "JupyterRequirement not found. Unable to run IPython action.",
        ),
        (json!({}), "Unknown event type: {}"),
    ] {
        let (status, body) = act(&router, action).await;
        assert_eq!((status, &body["detail"]), (500, &json!(format!("Internal server error: {says}"))));
    }
    let (status, body) = act(&router, json!({ "action": "browse", "args": { "url": "x" } })).await;
    assert_eq!(status, 200);
    assert_eq!(body["content"], "Browser functionality is not supported or disabled.");
    let (status, _, text) = ask(&router, "POST", "/execute_action", &[], "").await;
    assert!(status == 422 && text.contains("Invalid request parameters"), "{text}");
}

#[tokio::test]
async fn idle_time_counts_from_the_end_of_the_last_action() {
    let (router, _, parrot) = Running::get_ready(&[]).await;
    let idle = async || {
        let (_, _, text) = ask(&router, "GET", "/server_info", &[], "").await;
        let info: Value = serde_json::from_str(&text).unwrap();
        (info["uptime"].as_f64().unwrap(), info["idle_time"].as_f64().unwrap())
    };
    let (before, _) = idle().await;
    // Something else is no action.
    act(&router, json!({ "action": "teleport", "args": {} })).await;
    let (up, idle_for) = idle().await;
    assert!(idle_for >= before && idle_for <= up, "{idle_for} {up}");
    let waiting = act(&router, json!({ "action": "run", "args": { "command": "wait" } }));
    let (began, ..) = idle().await;
    let (_, _) = tokio::join!(waiting, async { parrot.go.notify_one() });
    let (up, idle_for) = idle().await;
    assert!(idle_for <= up - began, "{idle_for} {up} {began}");
}

#[tokio::test]
async fn other_requests_are_answered_while_an_action_runs_and_a_stop_answers_it() {
    let (router, app, _) = Running::get_ready(&[]).await;
    let waiting = tokio::spawn({
        let router = router.clone();
        async move { act(&router, json!({ "action": "run", "args": { "command": "wait" } })).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(ask(&router, "GET", "/alive", &[], "").await.0, 200);
    app.shutdown().await;
    assert_eq!(waiting.await.unwrap().0, 503);
}
