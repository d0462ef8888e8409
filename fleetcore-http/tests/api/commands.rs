use fleetcore::CommandId;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::common::*;

#[tokio::test]
async fn create_and_wait_in_one_request() {
    let h = start().await;
    let body = json!({ "target": "local", "shell": "echo out; echo err >&2; exit 3", "labels": { "k": "v" }, "wait": {} });
    let (status, command) = h.post_json("/api/v1/commands", body).await;
    assert_eq!(status, 201, "{command}");
    assert_eq!(command["state"], "failed");
    assert_eq!(command["exit"], json!({ "code": 3, "signal": null, "reason": null, "leaked": false }));
    assert_eq!(command["output"]["stdout"], "out\n");
    assert_eq!(command["output"]["stderr"], "err\n");
    assert_eq!(command["output"]["truncated"], false);
    assert_eq!(command["output_bytes"], 8);
    assert_eq!(command["actor"], "admin");
    assert_eq!(command["labels"], json!({ "k": "v" }));
    assert!(command["duration_ms"].as_f64().unwrap() >= 0.0);
}

#[tokio::test]
async fn waiting_gives_up_without_ending_the_command() {
    let h = start().await;
    let body = json!({ "target": "local", "argv": ["sleep", "60"], "wait": { "timeout_ms": 50 } });
    let (status, command) = h.post_json("/api/v1/commands", body).await;
    assert_eq!((status, command["state"].as_str()), (StatusCode::CREATED, Some("running")));
    let path = format!("/api/v1/commands/{}", command["id"].as_str().unwrap());
    let (status, _) = h.post_json(&format!("{path}/signal"), json!({ "signal": "kill" })).await;
    assert_eq!(status, 204);
    let settled = h.json(&format!("{path}?wait_ms=60000")).await;
    assert_eq!(settled["exit"]["signal"], 9);
}

#[tokio::test]
async fn much_output_is_cut_and_bytes_can_be_base64() {
    let h = start().await;
    let wait = json!({ "output_bytes": 10, "encoding": "base64" });
    let body = json!({ "target": "local", "shell": "printf '\\377\\376'; seq 1000", "wait": wait });
    let (_, command) = h.post_json("/api/v1/commands", body).await;
    assert_eq!(command["output"]["truncated"], true);
    use base64::{Engine, engine::general_purpose::STANDARD};
    let out = STANDARD.decode(command["output"]["stdout"].as_str().unwrap()).unwrap();
    assert_eq!(out, b"\xff\xfe1\n2\n3\n4\n");
}

#[tokio::test]
async fn creating_is_idempotent_by_id() {
    let h = start().await;
    let id = CommandId::generate().to_string();
    let body = json!({ "id": id, "target": "local", "shell": "echo once >> \"$OUT\"", "env": { "OUT": h.dir.path().join("f") }, "wait": {} });
    for expected in [201, 200, 200] {
        let (status, command) = h.post_json("/api/v1/commands", body.clone()).await;
        assert_eq!(status, expected, "{command}");
        assert_eq!((command["id"].as_str(), command["state"].as_str()), (Some(&*id), Some("succeeded")));
    }
    assert_eq!(std::fs::read_to_string(h.dir.path().join("f")).unwrap(), "once\n");
    // Other ways to wait for it make no other command.
    let mut again = body.clone();
    again["wait"] = json!({ "output_bytes": 1 });
    assert_eq!(h.post_json("/api/v1/commands", again).await.0, 200);
    let out = h.dir.path().join("g");
    for (field, value) in [
        ("shell", json!("echo twice")),
        ("env", json!({ "OUT": out })),
        ("clear_env", json!(true)),
        ("user", json!("nobody")),
        ("stdin", json!(true)),
        ("merge", json!(true)),
        ("timeout_ms", json!(60_000)),
        ("grace_ms", json!(1)),
        ("replay_bytes", json!(4096)),
        ("overflow", json!("block")),
        ("labels", json!({ "a": "b" })),
    ] {
        let mut other = body.clone();
        other[field] = value;
        let response = h.post("/api/v1/commands").json(&other).send().await.unwrap();
        let told = problem(response, 409, "already_exists").await;
        assert!(!told.to_string().contains("OUT"), "{field}: {told}");
    }
    assert!(!out.exists());
}

#[tokio::test]
async fn what_cannot_start_is_a_problem_and_a_failed_record() {
    let h = start().await;
    let id = CommandId::generate().to_string();
    let body = json!({ "id": id, "target": "local", "argv": ["/no/such/program"] });
    let response = h.post("/api/v1/commands").json(&body).send().await.unwrap();
    problem(response, 404, "not_found").await;
    let record = h.json(&format!("/api/v1/commands/{id}")).await;
    assert_eq!(record["state"], "failed");
    assert!(record["error"].is_string());
}

#[tokio::test]
async fn bad_input_names_field_and_rule() {
    let h = start().await;
    let cases = [
        (json!({ "target": "local" }), "argv"),
        (json!({ "target": "local", "argv": ["a"], "shell": "b" }), "argv"),
        (json!({ "target": "local", "argv": [] }), "argv"),
        (json!({ "target": "local", "argv": ["a\0b"] }), "argv"),
        (json!({ "target": "a b", "argv": ["true"] }), "target"),
        (json!({ "target": "local", "argv": ["true"], "pty": { "cols": 0, "rows": 1 } }), "cols"),
        (json!({ "target": "local", "argv": ["true"], "pty": { "cols": 70000, "rows": 1 } }), "pty.cols"),
        (
            json!({ "target": "local", "argv": ["true"], "pty": { "cols": 1, "rows": 1 }, "stdin": true }),
            "pty",
        ),
        (json!({ "target": "local", "argv": ["true"], "env": { "A=B": "c" } }), "env"),
        (json!({ "target": "local", "argv": ["true"], "colour": "red" }), "colour"),
        (json!({ "target": "local", "argv": ["true"], "wait": { "timeout_ms": 1e12 } }), "wait.timeout_ms"),
        (
            json!({ "target": "local", "argv": ["true"], "wait": { "timeout_ms": 3_600_000 } }),
            "wait.timeout_ms",
        ),
        (json!({ "target": "local", "argv": ["true"], "timeout_ms": u64::MAX }), "timeout_ms"),
        (json!({ "target": "local", "argv": ["true"], "id": "00000000-0000-0000-0000-000000000000" }), "id"),
        (json!({ "target": "local", "argv": ["true"], "id": "x" }), "id"),
        (json!({ "target": "local", "argv": ["true"], "replay_bytes": 1u64 << 40 }), "replay_bytes"),
        (json!(["target"]), "body"),
    ];
    for (body, field) in cases {
        let response = h.post("/api/v1/commands").json(&body).send().await.unwrap();
        let problem = problem(response, 400, "invalid_input").await;
        assert_eq!(problem["context"]["field"], field, "{body} {problem}");
        assert!(problem["context"]["rule"].is_string(), "{problem}");
    }
    assert!(
        h.json("/api/v1/commands").await["items"].as_array().unwrap().is_empty(),
        "nothing is left behind"
    );
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let h = start().await;
    let mut ids = vec![];
    for n in 0..7 {
        let labels = json!({ "parity": if n % 2 == 0 { "even" } else { "odd" }, "n": n.to_string() });
        let code = if n == 3 { "false" } else { "true" };
        ids.push(h.run(json!({ "argv": [code], "labels": labels, "wait": {} })).await);
    }
    ids.reverse();
    let of = |page: &Value| -> Vec<String> {
        page["items"].as_array().unwrap().iter().map(|c| c["id"].as_str().unwrap().to_owned()).collect()
    };
    let mut seen = vec![];
    let mut path = "/api/v1/commands?limit=3".to_owned();
    loop {
        let page = h.json(&path).await;
        seen.extend(of(&page));
        match page["next"].as_str() {
            Some(next) => path = format!("/api/v1/commands?limit=3&before={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ids);
    assert_eq!(of(&h.json("/api/v1/commands?state=failed").await), [ids[3].clone()]);
    assert_eq!(of(&h.json("/api/v1/commands?state=failed&state=succeeded").await).len(), 7);
    assert_eq!(of(&h.json("/api/v1/commands?label=parity%3Deven").await).len(), 4);
    assert_eq!(of(&h.json("/api/v1/commands?label=parity%3Deven&label=n%3D2").await).len(), 1);
    assert_eq!(of(&h.json("/api/v1/commands?search=fals").await), [ids[3].clone()]);
    assert_eq!(of(&h.json("/api/v1/commands?target=local&since=2020-01-01T00:00:00Z").await).len(), 7);
    assert!(of(&h.json("/api/v1/commands?target=multipass/x").await).is_empty());
    for bad in [
        "limit=0",
        "limit=1001",
        "limit=x",
        "state=odd",
        "colour=red",
        "before=x",
        "since=now",
        "label=x",
        "target=a%20b",
    ] {
        let response = h.get(&format!("/api/v1/commands?{bad}")).send().await.unwrap();
        let problem = problem(response, 400, "invalid_input").await;
        assert!(problem["context"]["field"].is_string(), "{bad} {problem}");
    }
}

#[tokio::test]
async fn input_is_streamed_with_back_pressure() {
    let h = start().await;
    let id = h.run(json!({ "shell": "sha256sum", "stdin": true })).await;
    let path = format!("/api/v1/commands/{id}/stdin");
    let piece = vec![b'x'; 1 << 20];
    let pieces = futures::stream::iter((0..16).map(move |_| Ok::<_, std::io::Error>(piece.clone())));
    let response = h.post(&path).body(reqwest::Body::wrap_stream(pieces)).send().await.unwrap();
    assert_eq!(response.status(), 204);
    assert_eq!(h.post(&format!("{path}?close=true")).body("tail").send().await.unwrap().status(), 204);
    let settled = h.settled(&id).await;
    assert_eq!(settled["state"], "succeeded");
    let out = h.get(&format!("/api/v1/commands/{id}/output")).send().await.unwrap().text().await.unwrap();
    use sha2::{Digest, Sha256};
    let mut all = vec![b'x'; 16 << 20];
    all.extend_from_slice(b"tail");
    let want: String = Sha256::digest(&all).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(out, format!("{want}  -\n"));
    problem(h.post(&path).body("late").send().await.unwrap(), 409, "invalid_state").await;

    let id = h.run(json!({ "argv": ["cat"], "stdin": true })).await;
    let closed = h.request(Method::DELETE, &format!("/api/v1/commands/{id}/stdin")).send().await.unwrap();
    assert_eq!(closed.status(), 204);
    assert_eq!(h.settled(&id).await["state"], "succeeded");
}

#[tokio::test]
async fn commands_are_cancelled_and_resized() {
    let h = start().await;
    let id = h.run(json!({ "argv": ["sleep", "60"] })).await;
    let response = h.post(&format!("/api/v1/commands/{id}/resize")).json(&json!({ "cols": 1, "rows": 1 }));
    problem(response.send().await.unwrap(), 409, "invalid_state").await;
    let response = h.post(&format!("/api/v1/commands/{id}/cancel")).send().await.unwrap();
    assert_eq!(response.status(), 202);
    let settled = h.settled(&id).await;
    assert_eq!(
        (settled["state"].as_str(), settled["exit"]["reason"].as_str()),
        (Some("cancelled"), Some("requested"))
    );
    assert_eq!(h.post(&format!("/api/v1/commands/{id}/cancel")).send().await.unwrap().status(), 202);
    let late = h.post(&format!("/api/v1/commands/{id}/signal")).json(&json!({ "signal": "kill" }));
    problem(late.send().await.unwrap(), 409, "invalid_state").await;

    let id = h.run(json!({ "shell": "read x; stty size", "pty": { "cols": 80, "rows": 24 } })).await;
    let (status, _) =
        h.post_json(&format!("/api/v1/commands/{id}/resize"), json!({ "cols": 101, "rows": 33 })).await;
    assert_eq!(status, 204);
    h.post(&format!("/api/v1/commands/{id}/stdin")).body("\n").send().await.unwrap();
    h.settled(&id).await;
    let out = h.get(&format!("/api/v1/commands/{id}/output")).send().await.unwrap().text().await.unwrap();
    assert!(out.contains("33 101"), "{out:?}");
}

#[tokio::test]
async fn quotas_hold_and_come_back() {
    let h = start_with(|c| c.limits.commands_per_actor = 2).await;
    let first = h.run(json!({ "argv": ["sleep", "60"] })).await;
    h.run(json!({ "argv": ["sleep", "60"] })).await;
    let third = h
        .post("/api/v1/commands")
        .json(&json!({ "target": "local", "argv": ["true"] }))
        .send()
        .await
        .unwrap();
    assert!(third.headers().contains_key("retry-after"));
    problem(third, 429, "rate_limited").await;
    h.post(&format!("/api/v1/commands/{first}/cancel")).send().await.unwrap();
    h.settled(&first).await;
    // The permit comes back a moment after the command has ended.
    tokio::time::timeout(LIMIT, async {
        while h.post_json("/api/v1/commands", json!({ "target": "local", "argv": ["true"] })).await.0 == 429 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_client_that_hangs_up_keeps_its_permit_and_its_audit_entry() {
    use tokio::io::AsyncWriteExt;
    let h = start_with(|c| c.limits.commands_per_actor = 1).await;
    let id = "0190f1c2-7b1e-7c3a-9d55-0242ac120002";
    let body = json!({ "id": id, "target": "local", "argv": ["sleep", "600"], "wait": {} }).to_string();
    let mut socket = tokio::net::TcpStream::connect(h.address).await.unwrap();
    let head = format!(
        "POST /api/v1/commands HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        h.token,
        body.len()
    );
    socket.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let left = tokio::time::timeout(LIMIT, async {
        while h.get(&format!("/api/v1/commands/{id}")).send().await.unwrap().status() != 200 {
            tokio::task::yield_now().await;
        }
        drop(socket);
        loop {
            let log = h.json("/api/v1/audit?action=command.create").await;
            if let Some(entry) = log["items"].as_array().unwrap().first() {
                return entry.clone();
            }
        }
    })
    .await
    .unwrap();
    assert_eq!((left["actor"].as_str(), left["outcome"].as_str()), (Some("admin"), Some("client_left")));
    assert!(left["target"].as_str().unwrap().contains(id), "{left}");
    let another = json!({ "target": "local", "argv": ["true"] });
    assert_eq!(h.post_json("/api/v1/commands", another).await.0, 429);
}

#[tokio::test]
async fn who_waited_for_the_end_may_start_the_next() {
    let h = start_with(|c| c.limits.commands_per_actor = 1).await;
    for _ in 0..20 {
        h.run(json!({ "argv": ["true"], "wait": {} })).await;
    }
}

#[tokio::test]
async fn many_at_once() {
    let h = start().await;
    let all = (0..100).map(|n| {
        let body = json!({ "target": "local", "shell": format!("echo {n}"), "wait": {} });
        let h = &h;
        async move { (n, h.post_json("/api/v1/commands", body).await) }
    });
    for (n, (status, command)) in futures::future::join_all(all).await {
        assert_eq!(status, 201);
        assert_eq!(command["output"]["stdout"], format!("{n}\n"));
    }
    assert_eq!(h.get("/healthz").send().await.unwrap().text().await.unwrap(), "ok");
}
