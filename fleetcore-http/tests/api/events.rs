//! News that are not for everybody.

use fleetcore::{Role, Scope};
use futures::StreamExt as _;
use serde_json::json;

use crate::common::*;

/// Reads a stream of events until its text has `what`.
async fn until(answer: reqwest::Response, what: &str) -> Vec<Event> {
    assert_eq!(answer.status(), 200);
    let (mut body, mut text) = (answer.bytes_stream(), String::new());
    while !text.contains(what) {
        text.push_str(std::str::from_utf8(&body.next().await.unwrap().unwrap()).unwrap());
    }
    parse_events(&text)
}

#[tokio::test]
async fn whoever_may_is_told_of_files_and_of_the_audit_log() {
    let mut h = start().await;
    let dir = h.dir.path().join("sub");
    let dir = dir.to_str().unwrap().to_owned();
    let all = h.get("/api/v1/events").send().await.unwrap();
    let admin = h.token.clone();
    h.token = h.user_with_token("files", Role::Operator, [Scope::Read, Scope::Files]).await;
    let files = h.get("/api/v1/events").send().await.unwrap();
    problem(h.get("/api/v1/events?topics=audit").send().await.unwrap(), 403, "permission_denied").await;
    h.token = h.user_with_token("viewer", Role::Viewer, [Scope::Read]).await;
    let viewer = h.get("/api/v1/events").send().await.unwrap();
    problem(h.get("/api/v1/events?topics=files").send().await.unwrap(), 403, "permission_denied").await;
    h.token = admin;

    let (status, _) = h.post_json("/api/v1/targets/local/files/mkdir", json!({ "path": dir })).await;
    assert_eq!(status, 204);
    let id = h.run(json!({ "argv": ["true"] })).await;
    h.settled(&id).await;

    let seen = until(all, "command.create").await;
    let changed: Vec<_> = seen.iter().filter(|(_, name, _)| name == "files").map(|(_, _, d)| d).collect();
    assert_eq!(changed, [&json!({ "target": "local", "paths": [dir] })]);
    let audited = |e: &&Event| e.1 == "audit" && e.2["action"] == "file.mkdir" && e.2["actor"] == "admin";
    assert!(seen.iter().any(|e| audited(&e)), "{seen:?}");
    // The last thing that happens is a command's end, which all are told.
    let seen = until(files, "\"succeeded\"").await;
    assert!(seen.iter().any(|(_, name, _)| name == "files"), "{seen:?}");
    assert!(seen.iter().all(|(_, name, _)| name != "audit"), "{seen:?}");
    let seen = until(viewer, "\"succeeded\"").await;
    assert!(seen.iter().all(|(_, name, _)| name != "audit" && name != "files"), "{seen:?}");
}
