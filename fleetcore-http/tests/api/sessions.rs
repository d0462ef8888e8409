use reqwest::Method;
use serde_json::{Value, json};

use super::common::*;

async fn open(h: &Harness, id: &str) -> Value {
    let (status, session) = h
        .post_json("/api/v1/sessions", json!({ "id": id, "target": "local", "cols": 100, "rows": 30 }))
        .await;
    assert_eq!(status, 201, "{session}");
    session
}

#[tokio::test]
async fn commands_in_a_shell_keep_its_state() {
    let h = start().await;
    let session = open(&h, "work").await;
    assert_eq!(
        (session["cols"].as_u64(), session["busy"].as_bool(), session["target"].as_str()),
        (Some(100), Some(false), Some("local"))
    );
    let run =
        async |command: &str| h.post_json("/api/v1/sessions/work/run", json!({ "command": command })).await.1;
    run("cd /tmp; X=5").await;
    let turn = run("echo \"x is $X in $PWD\"; (exit 7)").await;
    assert_eq!((turn["status"].as_str(), turn["exit_code"].as_i64()), (Some("completed"), Some(7)));
    assert_eq!(
        (turn["output"].as_str().map(str::trim), turn["cwd"].as_str()),
        (Some("x is 5 in /tmp"), Some("/tmp"))
    );
    assert_eq!(turn["truncated"], false);
    let (_, cut) = h
        .post_json(
            "/api/v1/sessions/work/run",
            json!({ "command": "seq 10000", "wait": { "output_bytes": 100 } }),
        )
        .await;
    assert_eq!(cut["truncated"], true);
    assert!(cut["output"].as_str().unwrap().len() < 200);
    assert_eq!(h.json("/api/v1/sessions/work").await["turns"], 3);
    assert_eq!(h.json("/api/v1/sessions").await["items"].as_array().unwrap().len(), 1);
    assert!(h.json("/api/v1/sessions?target=multipass/x").await["items"].as_array().unwrap().is_empty());
    let again =
        h.post("/api/v1/sessions").json(&json!({ "id": "work", "target": "local" })).send().await.unwrap();
    problem(again, 409, "already_exists").await;
    let closed = h.request(Method::DELETE, "/api/v1/sessions/work").send().await.unwrap();
    assert_eq!(closed.status(), 200);
    assert!(closed.json::<Value>().await.unwrap()["ended"].is_object());
    problem(h.get("/api/v1/sessions/work").send().await.unwrap(), 404, "not_found").await;
}

#[tokio::test]
async fn control_comes_back_and_can_be_taken_up_again() {
    let h = start().await;
    open(&h, "s").await;
    let run = json!({ "command": "echo ready; sleep 60", "wait": { "expect": ["no", "ready\n"], "soft_timeout_ms": 30000 } });
    let (status, turn) = h.post_json("/api/v1/sessions/s/run", run).await;
    assert_eq!(status, 200, "{turn}");
    assert_eq!(
        (turn["status"].as_str(), turn["handed_back"].as_str(), turn["expected_index"].as_u64()),
        (Some("running"), Some("expected"), Some(1))
    );
    assert_eq!(h.json("/api/v1/sessions/s").await["busy"], true);
    let busy = h.post("/api/v1/sessions/s/run").json(&json!({ "command": "true" })).send().await.unwrap();
    problem(busy, 409, "busy").await;
    let (_, turn) =
        h.post_json("/api/v1/sessions/s/resume", json!({ "wait": { "soft_timeout_ms": 50 } })).await;
    assert_eq!(turn["handed_back"], "soft_timeout");
    let (_, turn) = h.post_json("/api/v1/sessions/s/interrupt", json!({})).await;
    assert_eq!((turn["status"].as_str(), turn["exit_code"].as_i64()), (Some("completed"), Some(130)));
    let nothing = h.post("/api/v1/sessions/s/resume").json(&json!({})).send().await.unwrap();
    problem(nothing, 409, "invalid_state").await;
}

#[tokio::test]
async fn keys_and_the_screen() {
    let h = start().await;
    open(&h, "s").await;
    let keys = json!({ "keys": [{ "text": "echo scr" }, { "text": "een" }, "enter"] });
    assert_eq!(h.post_json("/api/v1/sessions/s/keys", keys).await.0, 204);
    let screen = tokio::time::timeout(LIMIT, async {
        loop {
            let screen = h.json("/api/v1/sessions/s/screen").await;
            if screen["lines"].as_array().unwrap().iter().any(|l| l == "screen") {
                return screen;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the screen shows it");
    assert!(screen["cursor"]["row"].is_u64() && screen["at"].is_u64());
    assert_eq!(h.post_json("/api/v1/sessions/s/resize", json!({ "cols": 60, "rows": 10 })).await.0, 204);
    assert_eq!(h.json("/api/v1/sessions/s").await["cols"], 60);
    let turn = h.post_json("/api/v1/sessions/s/run", json!({ "command": "stty size" })).await.1;
    assert_eq!(turn["output"].as_str().map(str::trim), Some("10 60"));
    for bad in [json!({ "keys": ["nosuchkey"] }), json!({ "keys": [{ "ctrl": "cc" }] }), json!({})] {
        let response = h.post("/api/v1/sessions/s/keys").json(&bad).send().await.unwrap();
        problem(response, 400, "invalid_input").await;
    }
}

#[tokio::test]
async fn several_viewers_share_one_shell() {
    let h = start().await;
    open(&h, "s").await;
    let mut one = h.attach("/api/v1/sessions/s/attach").await;
    let mut two = h.attach("/api/v1/sessions/s/attach?input=false").await;
    assert!(matches!(one.next().await, Frame::State(s) if s["size"]["cols"] == 100));
    assert_eq!(h.json("/api/v1/sessions/s").await["viewers"], 2);
    one.input(b"echo sha''red\r").await;
    one.read_text("shared").await;
    two.read_text("shared").await;
    // A third one joins later and sees what was before.
    let mut three = h.attach("/api/v1/sessions/s/attach").await;
    three.read_text("shared").await;
    drop(two);
    three.input(b"exit 4\r").await;
    let (_, exit) = three.read_to_exit().await;
    assert_eq!(exit["code"], 4);
    let (_, exit) = one.read_to_exit().await;
    assert_eq!(exit["code"], 4);
}

#[tokio::test]
async fn sessions_outlive_their_clients() {
    let h = start().await;
    open(&h, "s").await;
    let mut one = h.attach("/api/v1/sessions/s/attach").await;
    one.input(b"X=kept; echo o''ne\r").await;
    let seen = one.read_text("one").await;
    drop(one);
    let mut again = h.attach(&format!("/api/v1/sessions/s/attach?from={}", seen.len())).await;
    again.input(b"echo \"it is $X\"\r").await;
    again.read_text("it is kept").await;
    let output = h.get("/api/v1/sessions/s/output?follow=false").send().await.unwrap().text().await.unwrap();
    assert!(output.contains("it is kept"));
}

#[tokio::test]
async fn bad_sessions_are_refused() {
    let h = start_with(|c| c.limits.sessions_per_actor = 1).await;
    for (body, field) in [
        (json!({ "target": "local", "id": "../x" }), "session"),
        (json!({ "target": "local", "cols": 0 }), "cols"),
        (json!({ "target": "local", "scrollback_lines": 10_000_000 }), "scrollback_lines"),
        (json!({ "target": "local", "colour": 1 }), "colour"),
        (json!({ "target": "local", "shell": [""] }), "shell"),
    ] {
        let response = h.post("/api/v1/sessions").json(&body).send().await.unwrap();
        assert_eq!(problem(response, 400, "invalid_input").await["context"]["field"], field);
    }
    let missing = h
        .post("/api/v1/sessions")
        .json(&json!({ "target": "local", "shell": ["/no/such/shell"] }))
        .send()
        .await
        .unwrap();
    assert!(missing.status().is_client_error(), "{}", missing.status());
    open(&h, "one").await;
    let second =
        h.post("/api/v1/sessions").json(&json!({ "id": "two", "target": "local" })).send().await.unwrap();
    problem(second, 429, "rate_limited").await;
    h.request(Method::DELETE, "/api/v1/sessions/one").send().await.unwrap();
    open(&h, "two").await;
}
