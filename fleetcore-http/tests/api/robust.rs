use std::time::Duration;

use fleetcore_http::ServerConfig;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::common::*;

#[tokio::test]
async fn every_error_is_a_problem_document() {
    let h = start().await;
    let id = h.run(json!({ "argv": ["true"], "wait": {} })).await;
    problem(h.get("/api/v1/nothing").send().await.unwrap(), 404, "not_found").await;
    problem(h.get("/api/nothing").send().await.unwrap(), 404, "not_found").await;
    problem(h.get("/missing.js").send().await.unwrap(), 404, "not_found").await;
    let wrong_method = h.request(Method::PUT, "/api/v1/commands").send().await.unwrap();
    assert!(wrong_method.headers()["allow"].to_str().unwrap().contains("POST"));
    problem(wrong_method, 405, "method_not_allowed").await;
    problem(h.post("/").send().await.unwrap(), 405, "method_not_allowed").await;
    problem(h.post("/api/v1/commands").body("{}").send().await.unwrap(), 415, "unsupported_media_type").await;
    let json_type = |body: &'static str| {
        h.post("/api/v1/commands").header("content-type", "application/json").body(body).send()
    };
    for bad in ["", "{", "{}x", "nul", "{\"target\":\"local\",\"target\":\"local\"}"] {
        problem(json_type(bad).await.unwrap(), 400, "invalid_input").await;
    }
    problem(h.get("/api/v1/commands/not-a-uuid").send().await.unwrap(), 400, "invalid_input").await;
    problem(h.get("/api/v1/commands/%FF").send().await.unwrap(), 400, "invalid_input").await;
    let unknown = "/api/v1/commands/0190f1c2-7b1e-7c3a-9d55-0242ac120002";
    for (method, rest) in [
        (Method::GET, ""),
        (Method::GET, "/output"),
        (Method::GET, "/output.cast"),
        (Method::POST, "/cancel"),
    ] {
        problem(h.request(method, &format!("{unknown}{rest}")).send().await.unwrap(), 404, "not_found").await;
    }
    problem(h.get(&format!("/api/v1/commands/{id}?colour=red")).send().await.unwrap(), 400, "invalid_input")
        .await;
    problem(h.get("/api/v1/me?x=1").send().await.unwrap(), 400, "invalid_input").await;
    let big = h
        .post("/api/v1/commands")
        .header("content-type", "application/json")
        .body(vec![b' '; 5 << 20])
        .send()
        .await
        .unwrap();
    problem(big, 413, "too_large").await;
}

#[tokio::test]
async fn garbage_on_every_endpoint_never_breaks_the_server() {
    let h = start().await;
    let document = serde_json::to_value(fleetcore_http::openapi()).unwrap();
    let long = "x".repeat(300);
    let values = ["x", "%00", "..%2F..", "-1", "%F0%9F%98%80", "99999999999999999999", long.as_str()];
    let bodies: [(&str, &[u8]); 6] = [
        ("application/json", b"{}"),
        ("application/json", b"[[[[[[[["),
        ("application/json", b"\xff\xfe"),
        ("application/json", b"{\"id\":1e999,\"keys\":[{}],\"command\":null}"),
        ("text/plain", b"hello"),
        ("application/octet-stream", b"\0\0\0\0"),
    ];
    for (path, item) in document["paths"].as_object().unwrap() {
        if path.ends_with("/logout") || path == "/api/v1/events" {
            continue;
        }
        for method in item.as_object().unwrap().keys() {
            for (n, value) in values.iter().enumerate() {
                let path = path.replace("{target}", value).replace("{id}", value).replace("{name}", value);
                let query = format!("?path={value}&limit={value}&from={value}&mode={value}&x={value}");
                let (kind, body) = bodies[n % bodies.len()];
                let method: Method = method.to_uppercase().parse().unwrap();
                let request =
                    h.request(method.clone(), &format!("{path}{query}")).header("content-type", kind);
                let request = request.header("range", "bytes=9-1").header("last-event-id", "x").body(body);
                let response = request.send().await.unwrap();
                let status = response.status();
                assert!(status.as_u16() < 500, "{method} {path} {status}");
                if !status.is_success() {
                    assert_eq!(
                        response.headers()["content-type"],
                        "application/problem+json",
                        "{method} {path} {status}"
                    );
                }
            }
        }
    }
    assert_eq!(h.get("/readyz").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn raw_nonsense_is_survived() {
    let h = start_with(|c| c.limits.request_read = Duration::from_millis(200)).await;
    for junk in [
        &b"\0\0\0\0"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nxxxxxxxxx",
        b"GET /healthz HTTP/1.1\r\n",
        b"",
        b"PRI * HT",
    ] {
        let mut socket = tokio::net::TcpStream::connect(h.address).await.unwrap();
        socket.write_all(junk).await.unwrap();
        let mut answer = vec![];
        // Ends by itself, also when the rest of the headers never comes.
        let _ =
            tokio::time::timeout(LIMIT, socket.read_to_end(&mut answer)).await.expect("the server hangs up");
    }
    let slow = "POST /api/v1/login HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                content-length: 10\r\n\r\n{";
    let mut socket = tokio::net::TcpStream::connect(h.address).await.unwrap();
    socket.write_all(slow.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    tokio::time::timeout(LIMIT, socket.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
    assert_eq!(h.get("/healthz").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn stopping_tells_streams_and_ends_commands() {
    // All that ends within it is told; a loaded machine needs more than the few seconds other tests give.
    let mut h = start_with(|c| c.shutdown_grace = LIMIT).await;
    let id = h.run(json!({ "argv": ["sleep", "600"] })).await;
    h.post_json("/api/v1/sessions", json!({ "id": "s", "target": "local" })).await;
    let events = h.get("/api/v1/events").send().await.unwrap();
    let output = h
        .get(&format!("/api/v1/commands/{id}/output"))
        .header("accept", "text/event-stream")
        .send()
        .await
        .unwrap();
    let raw = h.get(&format!("/api/v1/commands/{id}/output")).send().await.unwrap();
    let waiting = tokio::spawn(h.get(&format!("/api/v1/commands/{id}?wait_ms=500000")).send());
    let mut command = h.attach(&format!("/api/v1/commands/{id}/attach")).await;
    let mut session = h.attach("/api/v1/sessions/s/attach").await;
    command.next().await;
    h.finish().await;
    let output = parse_events(&output.text().await.unwrap());
    assert_eq!(
        (output.last().unwrap().1.as_str(), output.last().unwrap().2["reason"].as_str()),
        ("exit", Some("shutdown"))
    );
    assert_eq!(raw.bytes().await.unwrap().len(), 0);
    events.bytes().await.unwrap();
    // The request came in before the stop, or found the door closed.
    if let Ok(response) = waiting.await.unwrap() {
        let waited: Value = response.json().await.unwrap();
        assert_eq!(waited["exit"]["reason"], "shutdown");
    }
    assert_eq!(command.read_to_exit().await.1["reason"], "shutdown");
    session.read_to_exit().await;
    assert!(tokio::net::TcpStream::connect(h.address).await.is_err());
}

/// A shell that will not go must not cost commands the time to end, nor their readers the news of it.
#[tokio::test]
async fn a_stubborn_shell_does_not_hold_up_commands() {
    // Shorter than the time the shell gets.
    let mut h = start_with(|c| c.shutdown_grace = Duration::from_secs(2)).await;
    h.post_json("/api/v1/sessions", json!({ "id": "s", "target": "local" })).await;
    let (status, turn) = h.post_json("/api/v1/sessions/s/run", json!({ "command": "trap '' HUP" })).await;
    assert_eq!((status.as_u16(), turn["exit_code"].as_i64()), (200, Some(0)), "{turn}");
    let id = h.run(json!({ "argv": ["sleep", "600"] })).await;
    let output = h
        .get(&format!("/api/v1/commands/{id}/output"))
        .header("accept", "text/event-stream")
        .send()
        .await
        .unwrap();
    h.finish().await;
    let output = parse_events(&output.text().await.unwrap());
    assert_eq!(
        (output.last().unwrap().1.as_str(), output.last().unwrap().2["reason"].as_str()),
        ("exit", Some("shutdown"))
    );
}

#[tokio::test]
async fn it_is_not_ready_while_it_stops() {
    let mut h = start_with(|c| c.shutdown_grace = LIMIT).await;
    let go = h.dir.path().join("go");
    let script = format!(
        "trap 'until [ -e {0} ]; do sleep 0.05; done; exit 0' TERM; echo up; while :; do sleep 0.05; done",
        go.display()
    );
    let id = h.run(json!({ "shell": script, "grace_ms": 60_000 })).await;
    let mut socket = h.attach(&format!("/api/v1/commands/{id}/attach")).await;
    socket.read_text("up").await;
    // One connection, which is still served while commands end.
    assert_eq!(h.get("/readyz").send().await.unwrap().status(), 200);
    h.stop.cancel();
    tokio::time::timeout(LIMIT, async {
        while h.get("/readyz").send().await.unwrap().status() != 503 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    std::fs::write(go, "").unwrap();
    socket.read_to_exit().await;
    h.finish().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_does_not_hold_up_the_stop() {
    // More than any test may take.
    let mut h = start_with(|c| c.shutdown_grace = LIMIT * 100).await;
    let id = h.run(json!({ "shell": "yes" })).await;
    let _stuck = h.attach(&format!("/api/v1/commands/{id}/attach?window=0")).await;
    let mut other = h.attach(&format!("/api/v1/commands/{id}/attach?window=0")).await;
    let mut got = 0;
    // By then the buffers of the one that does not read are full.
    other
        .read_until(|frame, _| {
            if let Frame::Output { data, .. } = frame {
                got += data.len();
            }
            got > 32 << 20
        })
        .await;
    drop(other);
    h.finish().await;
}

#[tokio::test]
async fn health_readiness_and_metrics() {
    let h = start().await;
    let public = |path: &str| h.http.get(format!("{}{path}", h.base)).send();
    assert_eq!(public("/healthz").await.unwrap().text().await.unwrap(), "ok");
    let ready: Value = public("/readyz").await.unwrap().json().await.unwrap();
    assert_eq!(ready, json!({ "ready": true, "checks": { "store": "ok" } }));
    let info: Value = public("/api/v1/info").await.unwrap().json().await.unwrap();
    assert_eq!((info["name"].as_str(), info["login_required"].as_bool()), (Some("fleetcore"), Some(true)));
    problem(public("/metrics").await.unwrap(), 401, "unauthenticated").await;
    let metrics = h.get("/metrics").send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("fleetcore_http_requests_total"), "{metrics}");
    assert!(!metrics.contains(&h.token));
    let open = start_with(|c| c.metrics_public = true).await;
    assert_eq!(open.http.get(format!("{}/metrics", open.base)).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn pages_are_guarded_and_other_front_ends_can_be_served() {
    let ui = tempfile::tempdir().unwrap();
    std::fs::write(ui.path().join("index.html"), "<p>mine</p>").unwrap();
    std::fs::create_dir(ui.path().join("assets")).unwrap();
    std::fs::write(ui.path().join("assets/app.js"), "1").unwrap();
    let dir = ui.path().to_owned();
    let h = start_with(move |c: &mut ServerConfig| c.ui_dir = Some(dir)).await;
    let get = |path: &str| h.http.get(format!("{}{path}", h.base)).send();
    for path in ["/", "/index.html", "/sessions/some/deep/link"] {
        let page = get(path).await.unwrap();
        assert_eq!(
            (page.status().as_u16(), page.headers()["content-type"].to_str().unwrap()),
            (200, "text/html; charset=utf-8")
        );
        for header in ["content-security-policy", "x-content-type-options", "referrer-policy"] {
            assert!(page.headers().contains_key(header), "{header}");
        }
        assert_eq!(page.text().await.unwrap(), "<p>mine</p>");
    }
    let script = get("/assets/app.js").await.unwrap();
    assert_eq!(script.headers()["content-type"], "text/javascript; charset=utf-8");
    assert!(script.headers()["cache-control"].to_str().unwrap().contains("immutable"));
    for outside in ["/..%2f..%2fetc%2fpasswd", "/%2e%2e/%2e%2e/etc/passwd.txt", "/%2fetc%2fhosts.x"] {
        let page = get(outside).await.unwrap();
        assert!(!page.text().await.unwrap().contains("root:"), "{outside}");
    }
    // The built-in one answers something useful whether it was built or not.
    let plain = start().await;
    assert_eq!(plain.http.get(&plain.base).send().await.unwrap().status(), 200);
}
