//! Recorded exchanges of the originals through the pure functions, without a server.

use axum::http::{HeaderMap, HeaderName, StatusCode};
use serde_json::{Value, json};

use super::{
    checks::{self, Refused},
    map,
};

/// Lines of a recorded file; `None`, said loudly, when there is no such data.
fn recorded(file: &str) -> Option<Vec<Value>> {
    fleetcore_testkit::recorded("batwa", file)
}

fn headers(record: &Value) -> HeaderMap {
    let all = record["request"]["headers"].as_object().unwrap();
    all.iter()
        .map(|(n, v)| (n.parse::<HeaderName>().unwrap(), v.as_str().unwrap().parse().unwrap()))
        .collect()
}

fn refusal(path: &str, headers: &HeaderMap, body: &[u8]) -> Option<Option<Refused>> {
    Some(match path {
        "/api/auth/login" => checks::login(headers, body).err(),
        "/api/agent/register" => checks::register(headers, body).err(),
        "/api/agent/heartbeat" => checks::heartbeat(headers, body).err(),
        "/api/vm/create" => checks::create(headers, body).err(),
        "/api/vm/start" | "/api/vm/stop" | "/api/vm/delete" => checks::action(headers, body).err(),
        "/api/execute" => checks::execute(headers, body).err(),
        _ => return None,
    })
}

#[test]
fn bodies_are_refused_as_recorded() {
    let mut compared = 0;
    for file in ["master_auth_pages", "master_agents", "master_vms", "agent_http"] {
        let Some(records) = recorded(&format!("python/{file}.jsonl")) else { return };
        for record in records {
            let (name, path) =
                (record["name"].as_str().unwrap(), record["request"]["path"].as_str().unwrap());
            let body = record["request"]["body"].as_str().unwrap_or_default();
            if record["request"]["method"] != "POST" {
                continue;
            }
            let Some(got) = refusal(path, &headers(&record), body.as_bytes()) else { continue };
            let want = record["response"]["json"]["detail"].as_array();
            match (want, got) {
                (Some(want), Some(Refused::Shape(got))) => {
                    let want: Vec<Value> =
                        want.iter().map(|m| json!([m["type"], m["loc"], m["msg"]])).collect();
                    let got: Vec<Value> = got.iter().map(|m| json!([m.kind, m.loc, m.msg])).collect();
                    assert_eq!(got, want, "{file}#{name}");
                    compared += 1;
                }
                (Some(want), got) => panic!("{file}#{name}: {want:?} {got:?}"),
                // What is refused beyond that is a value, or null where the original broke on it.
                (None, Some(Refused::Shape(_))) => {
                    let broke = ["create-cpus-null", "create-memory-null"];
                    // The key is asked for first there.
                    let keyless = name.contains("no-key");
                    assert!(broke.contains(&name) || keyless, "{file}#{name}");
                }
                (None, _) => {}
            }
        }
    }
    assert!(compared > 25, "{compared}");
}

#[test]
fn lists_and_details_of_recorded_agents() {
    for kind in ["python", "go"] {
        let Some(records) = recorded(&format!("{kind}/agent_http.jsonl")) else { return };
        let body = |name: &str| {
            let record = records.iter().find(|r| r["name"] == name).unwrap();
            record["response"]["body"].as_str().unwrap().as_bytes().to_vec()
        };
        let listing = body("list-ok");
        let all = map::members(&listing, Some(("agent1", "h1"))).unwrap();
        let merged: Value = serde_json::from_str(&map::list_body([all.json.as_str()], &[])).unwrap();
        let native: Value = serde_json::from_slice(&listing).unwrap();
        assert_eq!(merged["vms"].as_array().unwrap().len(), native["list"].as_array().unwrap().len());
        for (got, want) in merged["vms"].as_array().unwrap().iter().zip(native["list"].as_array().unwrap()) {
            assert_eq!(got.as_object().unwrap().len(), 6, "exactly these keys");
            for key in ["name", "state", "release"] {
                assert_eq!(got[key], want[key], "{kind}");
            }
        }
        let printed: Value = serde_json::from_slice(&body("info-ok")).unwrap();
        let info = map::info(&body("info-ok"), "web", None).unwrap();
        assert_eq!(info["info"], printed["info"]["web"], "{kind}: unchanged");
    }
}

/// `agent answers 200 'BODY'` in the recorder's own words.
fn answered(note: &str) -> Option<(StatusCode, &str)> {
    let (status, body) = note.strip_prefix("agent answers ")?.split_once(' ')?;
    let body = body.strip_prefix('\'')?.strip_suffix('\'')?;
    Some((StatusCode::from_u16(status.parse().ok()?).ok()?, body))
}

#[test]
fn odd_answers_of_agents() {
    let Some(mut records) = recorded("python/master_odd_agent_replies.jsonl") else { return };
    records.extend(recorded("go/master_odd_agent_replies.jsonl").unwrap());
    let mut seen = 0;
    for record in &records {
        let Some((status, body)) = record["note"].as_str().and_then(answered) else { continue };
        seen += 1;
        let case = record["name"].as_str().unwrap().split(':').next().unwrap();
        let (told, text) =
            map::deed_reply(status, body.as_bytes()).unwrap_err().tell("a1", "Failed to start VM");
        let want = match case {
            "success-false" => (500, "nope"),
            "error-key" => (502, "bad thing"),
            "404-detail" => (404, "x"),
            _ => (502, "Agent 'a1' sent an invalid reply"),
        };
        assert_eq!((told.as_u16(), text.as_str()), want, "{case}");
        assert!(
            map::checked_reply(status, body.as_bytes()).is_err()
                || map::members(body.as_bytes(), None).is_err()
        );
    }
    assert!(seen >= 16, "{seen}");
}

#[test]
fn five_minutes() {
    let Some(records) = recorded("python/agent_five_minutes.jsonl") else { return };
    let body: Value = serde_json::from_str(records[0]["body"].as_str().unwrap()).unwrap();
    assert_eq!(body["stderr"], map::TIMED_OUT);
}
