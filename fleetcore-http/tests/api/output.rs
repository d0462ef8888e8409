use futures::StreamExt;
use serde_json::{Value, json};

use super::common::*;

/// Text with characters of all lengths, and bytes that are no text.
const MIXED: &str = r"i=0; while [ $i -lt 300 ]; do printf 'a\303\244\342\202\254\360\237\230\200\n'; printf '\377' >&2; i=$((i+1)); done";

async fn mixed(h: &Harness) -> (String, Vec<u8>) {
    let id = h.run(json!({ "shell": MIXED, "wait": {} })).await;
    let raw = h.get(&format!("/api/v1/commands/{id}/output")).send().await.unwrap();
    assert_eq!(raw.status(), 200);
    assert_eq!(raw.headers()["accept-ranges"], "bytes");
    let len: u64 = raw.headers()["content-length"].to_str().unwrap().parse().unwrap();
    let raw = raw.bytes().await.unwrap().to_vec();
    assert_eq!(raw.len() as u64, len);
    assert_eq!(raw.len(), 300 * 12);
    (id, raw)
}

#[tokio::test]
async fn events_resume_at_every_id_byte_for_byte() {
    let h = start().await;
    let (id, raw) = mixed(&h).await;
    let path = format!("/api/v1/commands/{id}/output");
    let events = |from: Option<String>| {
        let request = h.get(&path).header("accept", "text/event-stream");
        let request = if let Some(from) = from { request.header("last-event-id", from) } else { request };
        async move {
            let response = request.send().await.unwrap();
            assert_eq!(response.headers()["content-type"], "text/event-stream");
            parse_events(&response.text().await.unwrap())
        }
    };
    let all = events(None).await;
    assert_eq!(output_bytes(&all), raw);
    assert_eq!(all[0].1, "state");
    let (_, name, exit) = all.last().unwrap();
    assert_eq!(
        (name.as_str(), exit["code"].as_i64(), exit["state"].as_str()),
        ("exit", Some(0), Some("succeeded"))
    );
    let ids: Vec<_> = all.iter().filter_map(|e| e.0.clone()).collect();
    let step = (ids.len() / 20).max(1);
    for id in ids.iter().step_by(step) {
        let at: usize = id.parse().unwrap();
        let rest = events(Some(id.clone())).await;
        assert_eq!(output_bytes(&rest), raw[at..], "from {at}");
        assert_eq!(rest.last().unwrap().1, "exit");
    }
    let from = h.get(&format!("{path}?from=5")).header("accept", "text/event-stream").send().await.unwrap();
    assert_eq!(output_bytes(&parse_events(&from.text().await.unwrap())), raw[5..]);
    for (query, header) in [("from=x", None), ("colour=1", None), ("", Some("x")), ("channel=stdout", None)] {
        let request = h.get(&format!("{path}?{query}")).header("accept", "text/event-stream");
        let request = if let Some(id) = header { request.header("last-event-id", id) } else { request };
        problem(request.send().await.unwrap(), 400, "invalid_input").await;
    }
}

#[tokio::test]
async fn events_come_while_the_command_runs() {
    let h = start().await;
    let id = h.run(json!({ "shell": "while read x; do echo \"got $x\"; done", "stdin": true })).await;
    let response = h
        .get(&format!("/api/v1/commands/{id}/output"))
        .header("accept", "text/event-stream")
        .send()
        .await
        .unwrap();
    let mut body = response.bytes_stream();
    let mut text = String::new();
    for n in 0..3 {
        h.post(&format!("/api/v1/commands/{id}/stdin")).body(format!("{n}\n")).send().await.unwrap();
        while !text.contains(&format!("got {n}")) {
            let piece = tokio::time::timeout(LIMIT, body.next()).await.unwrap().unwrap().unwrap();
            text.push_str(std::str::from_utf8(&piece).unwrap());
        }
    }
    h.post(&format!("/api/v1/commands/{id}/cancel")).send().await.unwrap();
    while let Some(piece) = tokio::time::timeout(LIMIT, body.next()).await.unwrap() {
        text.push_str(std::str::from_utf8(&piece.unwrap()).unwrap());
    }
    let (_, name, exit) = parse_events(&text).pop().unwrap();
    assert_eq!((name.as_str(), exit["reason"].as_str()), ("exit", Some("requested")));
}

#[tokio::test]
async fn ranges_of_finished_output() {
    let h = start().await;
    let (id, raw) = mixed(&h).await;
    let path = format!("/api/v1/commands/{id}/output");
    let range = |range: &'static str| h.get(&path).header("range", range).send();
    let len = raw.len();
    for (text, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=10-99", 10, 100),
        ("bytes=3000-", 3000, len),
        ("bytes=-7", len - 7, len),
        ("bytes=3599-9999", 3599, len),
    ] {
        let response = range(text).await.unwrap();
        assert_eq!(response.status(), 206, "{text}");
        assert_eq!(response.headers()["content-range"], format!("bytes {from}-{}/{len}", to - 1));
        assert_eq!(response.headers()["content-length"], (to - from).to_string());
        assert_eq!(response.bytes().await.unwrap(), raw[from..to], "{text}");
    }
    let beyond = range("bytes=3600-").await.unwrap();
    assert_eq!(beyond.headers()["content-range"], "bytes */3600");
    problem(beyond, 416, "range_not_satisfiable").await;
    assert_eq!(range("bytes=0-1,5-6").await.unwrap().status(), 200);
    let err = h.get(&format!("{path}?channel=stderr")).send().await.unwrap();
    assert!(err.bytes().await.unwrap().iter().all(|b| *b == 0xff));
    let both = h.get(&format!("{path}?channel=stderr")).header("range", "bytes=0-1").send().await.unwrap();
    problem(both, 400, "invalid_input").await;
    let from = h.get(&format!("{path}?from=3590")).send().await.unwrap();
    assert_eq!(from.bytes().await.unwrap(), raw[3590..]);
    let head = h.request(reqwest::Method::HEAD, &path).send().await.unwrap();
    assert_eq!(head.headers()["content-length"], "3600");
}

#[tokio::test]
async fn bytes_follow_a_running_command() {
    let h = start().await;
    let id = h.run(json!({ "argv": ["cat"], "stdin": true })).await;
    let path = format!("/api/v1/commands/{id}/output");
    let now = h.get(&format!("{path}?follow=false")).send().await.unwrap();
    assert_eq!(now.bytes().await.unwrap().len(), 0);
    let mut live = h.get(&path).send().await.unwrap().bytes_stream();
    h.post(&format!("/api/v1/commands/{id}/stdin")).body("first").send().await.unwrap();
    let mut got = vec![];
    while got != b"first" {
        got.extend_from_slice(&tokio::time::timeout(LIMIT, live.next()).await.unwrap().unwrap().unwrap());
    }
    let part = h.get(&path).header("range", "bytes=1-3").send().await.unwrap();
    assert_eq!(part.headers()["content-range"], "bytes 1-3/*");
    assert_eq!(part.text().await.unwrap(), "irs");
    assert_eq!(h.get(&format!("{path}?follow=false")).send().await.unwrap().text().await.unwrap(), "first");
    h.post(&format!("/api/v1/commands/{id}/stdin?close=true")).body("second").send().await.unwrap();
    while let Some(piece) = tokio::time::timeout(LIMIT, live.next()).await.unwrap() {
        got.extend_from_slice(&piece.unwrap());
    }
    assert_eq!(got, b"firstsecond");
}

#[tokio::test]
async fn every_byte_of_much_output_arrives() {
    let h = start().await;
    let id = h.run(json!({ "shell": "seq 1 1500000", "overflow": "block" })).await;
    let mut live = h.get(&format!("/api/v1/commands/{id}/output")).send().await.unwrap().bytes_stream();
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    while let Some(piece) = live.next().await {
        hash.update(piece.unwrap());
    }
    let mut want = Sha256::new();
    for n in 1..=1_500_000u32 {
        want.update(format!("{n}\n"));
    }
    assert_eq!(hash.finalize(), want.finalize());
}

#[tokio::test]
async fn recordings_are_asciicasts() {
    let h = start().await;
    let id = h.run(json!({ "shell": "printf 'h\\303\\244\\n'; printf '\\033[1mbold'", "pty": { "cols": 90, "rows": 20 }, "wait": {} })).await;
    let response = h.get(&format!("/api/v1/commands/{id}/output.cast")).send().await.unwrap();
    assert!(response.headers()["content-disposition"].to_str().unwrap().starts_with("attachment"));
    let text = response.text().await.unwrap();
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(
        (lines[0]["version"].as_u64(), lines[0]["width"].as_u64(), lines[0]["height"].as_u64()),
        (Some(2), Some(90), Some(20))
    );
    let said: String = lines[1..].iter().map(|l| l[2].as_str().unwrap()).collect();
    assert_eq!(said, "hä\r\n\u{1b}[1mbold");
    assert!(lines[1..].iter().all(|l| l[1] == "o" && l[0].is_number()));
}

#[tokio::test]
async fn events_of_the_server() {
    let h = start().await;
    let response = h.get("/api/v1/events?topics=commands,sessions,load").send().await.unwrap();
    let mut body = response.bytes_stream();
    let id = h.run(json!({ "argv": ["true"], "wait": {} })).await;
    let mut text = String::new();
    let done = |text: &str| {
        let complete = text.rfind("\n\n").map_or("", |at| &text[..at + 2]);
        let events = parse_events(complete);
        let ours = |e: &&Event| e.1 == "command" && e.2["id"] == id && e.2["state"] == "succeeded";
        events.iter().find(ours).is_some()
            && events.iter().any(|e| e.1 == "load" && e.2["load"]["memory_total_bytes"].as_u64() > Some(0))
    };
    while !done(&text) {
        let piece = tokio::time::timeout(LIMIT, body.next()).await.expect("events come").unwrap().unwrap();
        text.push_str(std::str::from_utf8(&piece).unwrap());
    }
    problem(h.get("/api/v1/events?topics=weather").send().await.unwrap(), 400, "invalid_input").await;
}
