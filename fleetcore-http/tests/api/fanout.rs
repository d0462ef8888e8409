use serde_json::{Value, json};

use super::{
    common::*,
    machines::{Odd, start_with_odd},
};

fn lines(output: &str) -> Vec<Value> {
    output.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

async fn machines(h: &Harness, count: usize) {
    for n in 1..=count {
        let group = if n % 2 == 0 { "even" } else { "odd" };
        h.make(&format!("table/m{n}"), json!({ "group": group })).await;
    }
}

#[tokio::test]
async fn one_command_on_many_targets() {
    let h = start_with_odd(Odd::default()).await;
    machines(&h, 5).await;
    let body = json!({
        "targets": ["table/*", "table/m1"], "labels": { "group": "odd" },
        "command": { "shell": "echo \"$GREETING\"", "env": { "GREETING": "hello" }, "labels": { "k": "v" } },
    });
    let (parent, output) = h.operate("/api/v1/fanout", body).await;
    let lines = lines(&output);
    assert_eq!(
        (parent["state"].as_str(), parent["target"].as_str()),
        (Some("succeeded"), Some("local")),
        "{output}"
    );
    assert_eq!(parent["action"]["name"], "fanout");
    assert!(!parent.to_string().contains("hello"), "{parent}");
    assert_eq!(
        lines.last().unwrap()["summary"],
        json!({ "targets": 3, "succeeded": 3, "failed": 0, "skipped": 0 })
    );
    for state in ["running", "succeeded"] {
        let mut of: Vec<_> =
            lines.iter().filter(|l| l["state"] == state).map(|l| l["target"].as_str().unwrap()).collect();
        of.sort_unstable();
        assert_eq!(of, ["table/m1", "table/m3", "table/m5"], "{output}");
    }
    let id = parent["id"].as_str().unwrap();
    let children = h.json(&format!("/api/v1/commands?label=fleetcore%2Fparent%3D{id}")).await;
    let children = children["items"].as_array().unwrap().clone();
    assert_eq!(children.len(), 3);
    for child in &children {
        assert_eq!((&child["labels"]["k"], &child["actor"]), (&json!("v"), &json!("admin")));
        assert_eq!(h.output_of(child["id"].as_str().unwrap()).await, "hello\n");
        assert!(lines.iter().any(|l| l["command"] == child["id"] && l["exit"]["code"] == 0), "{output}");
    }
    let parents = h.json("/api/v1/commands?label=fleetcore%2Ffanout%3Dparent").await;
    assert_eq!(parents["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_cannot_be_reached_fails_alone() {
    let h = start_with_odd(Odd { silent: true, ..Odd::default() }).await;
    machines(&h, 2).await;
    h.operate("/api/v1/targets/table%2Fm2/stop", json!({})).await;
    let body = json!({ "targets": ["**", "table/none", "nobody"], "command": { "argv": ["true"] } });
    let (parent, output) = h.operate("/api/v1/fanout", body).await;
    let lines = lines(&output);
    let ended = |target: &str| {
        let of = |l: &&Value| l["target"] == target && l["state"] != "running";
        lines.iter().find(of).unwrap_or_else(|| panic!("{target}: {output}")).clone()
    };
    assert_eq!(
        (ended("local")["state"].as_str(), ended("table/m1")["state"].as_str()),
        (Some("succeeded"), Some("succeeded"))
    );
    assert_eq!(ended("table/m2")["error"]["code"], "invalid_state");
    assert_eq!(ended("table/none")["error"]["code"], "not_found");
    assert_eq!(ended("nobody")["error"]["code"], "not_found");
    let silent = lines.iter().find(|l| l["provider"] == "odd").unwrap();
    assert_eq!(silent["error"]["detail"], "the daemon is down");
    assert_eq!((parent["state"].as_str(), parent["exit"]["code"].as_i64()), (Some("failed"), Some(1)));
    let summary = &lines[lines.len() - 2]["summary"];
    assert_eq!(*summary, json!({ "targets": 5, "succeeded": 2, "failed": 4, "skipped": 0 }));
    assert_eq!(lines.last().unwrap()["problem"]["code"], "command_failed");
}

#[tokio::test]
async fn too_many_failures_stop_it() {
    let h = start_with_odd(Odd::default()).await;
    machines(&h, 5).await;
    let body = json!({
        "targets": ["table/*"], "command": { "argv": ["false"] }, "parallel": 1, "max_failures": 2,
    });
    let (_, output) = h.operate("/api/v1/fanout", body).await;
    let lines = lines(&output);
    assert_eq!(lines.iter().filter(|l| l["state"] == "failed").count(), 2, "{output}");
    assert_eq!(lines.iter().filter(|l| l["state"] == "skipped").count(), 3, "{output}");
    assert_eq!(lines[lines.len() - 2]["summary"]["skipped"], 3);
}

#[tokio::test]
async fn many_machines_by_label_stop_after_a_few_failures() {
    let h = start_with_odd(Odd::default()).await;
    machines(&h, 64).await;
    let body = json!({
        "targets": ["table/*"], "labels": { "group": "odd" }, "command": { "shell": "exit 7" },
        "parallel": 20, "max_failures": 2,
    });
    let (parent, output) = h.operate("/api/v1/fanout", body).await;
    let lines = lines(&output);
    let (mut running, mut failed, mut skipped) = (0, 0, 0);
    for line in lines.iter().filter(|l| l["target"].is_string()) {
        match line["state"].as_str() {
            Some("running") => {
                running += 1;
                assert!(running <= 20, "{output}");
            }
            Some("failed") => {
                running -= 1;
                failed += 1;
                assert_eq!(line["exit"]["code"], 7, "{line}");
            }
            Some("skipped") => skipped += 1,
            other => panic!("{other:?}: {output}"),
        }
    }
    // Those that ran when the second one failed go on to their end.
    assert!((2..=21).contains(&failed) && failed + skipped == 32, "{failed} {skipped}");
    let summary = json!({ "targets": 32, "succeeded": 0, "failed": failed, "skipped": skipped });
    assert_eq!(lines[lines.len() - 2]["summary"], summary);
    let id = parent["id"].as_str().unwrap();
    let children = h.json(&format!("/api/v1/commands?label=fleetcore%2Fparent%3D{id}&limit=100")).await;
    assert_eq!(children["items"].as_array().unwrap().len(), failed);
}

#[tokio::test]
async fn floods_that_nobody_reads_are_whole() {
    let h = start_with_odd(Odd::default()).await;
    machines(&h, 50).await;
    let body = json!({
        "targets": ["table/*"], "parallel": 50, "command": { "shell": "seq 1 60000" },
    });
    let (parent, output) = h.operate("/api/v1/fanout", body).await;
    assert_eq!(parent["state"], "succeeded", "{output}");
    let id = parent["id"].as_str().unwrap();
    let children = h.json(&format!("/api/v1/commands?label=fleetcore%2Fparent%3D{id}&limit=100")).await;
    let children = children["items"].as_array().unwrap().clone();
    assert_eq!(children.len(), 50);
    let whole: String = (1..=60_000).map(|n| format!("{n}\n")).collect();
    for child in children.iter().step_by(10) {
        assert!(h.output_of(child["id"].as_str().unwrap()).await == whole);
    }
}

#[tokio::test]
async fn batches_wait_for_each_other_and_not_too_many_run_at_once() {
    let h = start_with_odd(Odd::default()).await;
    machines(&h, 5).await;
    for (settings, most) in [(json!({ "batch": 2 }), 2), (json!({ "parallel": 3 }), 3)] {
        let mut body = json!({ "targets": ["table/*"], "command": { "argv": ["true"] } });
        for (key, value) in settings.as_object().unwrap() {
            body[key] = value.clone();
        }
        let (parent, output) = h.operate("/api/v1/fanout", body).await;
        assert_eq!(parent["state"], "succeeded", "{output}");
        let (mut running, mut in_batch) = (0, 0);
        for line in lines(&output).iter().filter(|l| l["target"].is_string()) {
            if line["state"] == "running" {
                running += 1;
                in_batch += 1;
                assert!(running <= most, "{output}");
                assert!(settings["batch"].is_null() || in_batch <= most, "a batch is over first: {output}");
            } else {
                running -= 1;
                if running == 0 {
                    in_batch = 0;
                }
            }
        }
    }
}

#[tokio::test]
async fn cancelling_the_parent_cancels_the_children() {
    let h = start_with_odd(Odd::default()).await;
    machines(&h, 3).await;
    let body = json!({ "targets": ["table/*"], "command": { "argv": ["sleep", "1000"] }, "parallel": 2 });
    let (_, parent) = h.post_json("/api/v1/fanout", body).await;
    let id = parent["id"].as_str().unwrap().to_owned();
    let children = format!("/api/v1/commands?label=fleetcore%2Fparent%3D{id}");
    while h.json(&format!("{children}&state=running")).await["items"].as_array().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    h.post_json(&format!("/api/v1/commands/{id}/cancel"), json!({})).await;
    let parent = h.settled(&id).await;
    assert_eq!(
        (parent["state"].as_str(), parent["exit"]["reason"].as_str()),
        (Some("cancelled"), Some("requested"))
    );
    let children = h.json(&children).await;
    let states: Vec<_> = children["items"].as_array().unwrap().iter().map(|c| c["state"].clone()).collect();
    assert_eq!(states, ["cancelled", "cancelled"]);
}

#[tokio::test]
async fn what_cannot_be_is_refused_at_once() {
    let h = start_with_odd(Odd::default()).await;
    let run = json!({ "argv": ["true"] });
    for (body, field) in [
        (json!({ "targets": [], "command": run }), "targets"),
        (json!({ "targets": ["a b*"], "command": run }), "targets"),
        (json!({ "targets": ["../x"], "command": run }), "target"),
        (json!({ "targets": ["--all"], "command": run }), "target"),
        (json!({ "targets": ["*"], "command": {} }), "argv"),
        (json!({ "targets": ["*"], "command": run, "parallel": 0 }), "parallel"),
        (json!({ "targets": ["*"], "command": run, "parallel": 1001 }), "parallel"),
        (json!({ "targets": ["*"], "command": run, "batch": 0 }), "batch"),
        (json!({ "targets": ["*"], "command": run, "max_failures": 0 }), "max_failures"),
    ] {
        let answer = h.post("/api/v1/fanout").json(&body).send().await.unwrap();
        assert_eq!(problem(answer, 400, "invalid_input").await["context"]["field"], field, "{body}");
    }
    let body = json!({ "targets": ["*"], "command": { "argv": ["cat"], "stdin": true } });
    problem(h.post("/api/v1/fanout").json(&body).send().await.unwrap(), 400, "invalid_input").await;
    let (parent, output) =
        h.operate("/api/v1/fanout", json!({ "targets": ["nothing/*"], "command": run })).await;
    assert_eq!(parent["exit"]["code"], 1);
    assert_eq!(lines(&output).last().unwrap()["problem"]["code"], "not_found");
}

#[tokio::test]
async fn a_fan_out_can_be_repeated() {
    let h = start_with_odd(Odd::default()).await;
    machines(&h, 2).await;
    let id = fleetcore::CommandId::generate().to_string();
    let body =
        |word: &str| json!({ "id": id, "targets": ["table/*"], "command": { "argv": ["echo", word] } });
    h.operate("/api/v1/fanout", body("a")).await;
    let (status, again) = h.post_json("/api/v1/fanout", body("a")).await;
    assert_eq!((status.as_u16(), again["id"].as_str()), (200, Some(&*id)));
    problem(h.post("/api/v1/fanout").json(&body("b")).send().await.unwrap(), 409, "already_exists").await;
    let children = h.json(&format!("/api/v1/commands?label=fleetcore%2Fparent%3D{id}")).await;
    assert_eq!(children["items"].as_array().unwrap().len(), 2);
}
