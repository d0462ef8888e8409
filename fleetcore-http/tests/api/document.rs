use serde_json::Value;

use super::common::*;

/// The committed document is what the front end's types are made from.
#[test]
fn the_committed_document_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
    let mut now = fleetcore_http::openapi().to_pretty_json().unwrap();
    now.push('\n');
    if std::env::var_os("FLEETCORE_UPDATE_OPENAPI").is_some() {
        std::fs::write(path, &now).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == now,
        "openapi.json is out of date; run FLEETCORE_UPDATE_OPENAPI=1 cargo test -p fleetcore-http --test api document"
    );
}

#[tokio::test]
async fn the_document_and_its_page_are_served() {
    let h = start().await;
    let get = |path: &str| h.http.get(format!("{}{path}", h.base)).send();
    let document: Value = get("/api/v1/openapi.json").await.unwrap().json().await.unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert_eq!(
                operation["responses"]["default"]["content"].as_object().unwrap().keys().next().unwrap(),
                "application/problem+json",
                "{method} {path}"
            );
            assert!(operation["summary"].is_string(), "{method} {path}");
        }
    }
    // Every reference leads somewhere.
    fn references(value: &Value, all: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(to)) = map.get("$ref") {
                    all.push(to.clone());
                }
                map.values().for_each(|v| references(v, all));
            }
            Value::Array(items) => items.iter().for_each(|v| references(v, all)),
            _ => {}
        }
    }
    let mut all = vec![];
    references(&document, &mut all);
    assert!(all.len() > 50);
    for reference in all {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
    }
    let page = get("/api/docs").await.unwrap();
    assert!(page.headers()["content-security-policy"].to_str().unwrap().contains("default-src 'self'"));
    let page = page.text().await.unwrap();
    for part in ["/api/docs/docs.js", "/api/docs/docs.css"] {
        assert!(page.contains(part));
        assert_eq!(get(part).await.unwrap().status(), 200);
    }
    assert!(!page.contains("http://") && !page.contains("https://"), "nothing comes from elsewhere");
}

#[tokio::test]
async fn targets_say_what_they_are() {
    let h = start().await;
    let all = h.json("/api/v1/targets").await;
    let local = &all["items"][0];
    assert_eq!((local["target"].as_str(), local["state"].as_str()), (Some("local"), Some("running")));
    assert_eq!(local["capabilities"]["pty"], true);
    assert!(local["host"]["cpus"].as_u64().unwrap() > 0);
    assert!(local["load"]["memory_total_bytes"].as_u64().unwrap() > 0);
    assert_eq!(h.json("/api/v1/targets/local").await["target"], "local");
    assert!(!h.json("/api/v1/targets/local/load").await["items"].as_array().unwrap().is_empty());
    assert_eq!(h.post_json("/api/v1/targets/local/ping", Value::Null).await.1["ok"], true);
    problem(h.get("/api/v1/targets/multipass%2Fx").send().await.unwrap(), 404, "not_found").await;
    problem(h.get("/api/v1/targets/..%2Fx").send().await.unwrap(), 400, "invalid_input").await;
}
