use std::sync::Arc;

use async_trait::async_trait;
use fleetcore::{
    ActionInfo, CommandId, Error, ErrorKind, Executor, Fleet, Json, MachineCapabilities, MachineFilter,
    MachineId, MachineInfo, MachineSpec, MachineState, OpContext, Provider, Result, Role, Scope, StopMode,
    store::memory::MemoryStore,
};
use fleetcore_testkit::standin::TableProvider;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::common::*;

/// A table with something wrong with it.
#[derive(Debug, Default)]
pub(crate) struct Odd {
    table: TableProvider,
    /// Machines never come up.
    pub(crate) stuck: bool,
    /// Making one takes until it is given up.
    pub(crate) slow: bool,
    /// They cannot be listed.
    pub(crate) silent: bool,
    /// Told when somebody waits for `create`.
    pub(crate) creating: Arc<Notify>,
}

#[async_trait]
impl Provider for Odd {
    fn scheme(&self) -> &'static str {
        "odd"
    }
    fn capabilities(&self) -> MachineCapabilities {
        self.table.capabilities()
    }
    async fn create(&self, cx: &OpContext, spec: MachineSpec) -> Result<MachineInfo> {
        cx.report("making it");
        if self.slow {
            self.creating.notify_one();
            cx.cancel.cancelled().await;
        }
        self.table.create(cx, spec).await
    }
    async fn start(&self, cx: &OpContext, id: &MachineId) -> Result<MachineInfo> {
        self.table.start(cx, id).await
    }
    async fn stop(&self, cx: &OpContext, id: &MachineId, mode: StopMode) -> Result<MachineInfo> {
        self.table.stop(cx, id, mode).await
    }
    async fn delete(&self, cx: &OpContext, id: &MachineId, purge: bool) -> Result<()> {
        self.table.delete(cx, id, purge).await
    }
    async fn list(&self, cx: &OpContext, filter: MachineFilter) -> Result<Vec<MachineInfo>> {
        if self.silent {
            return Err(Error::new(ErrorKind::Unavailable, "the daemon is down")
                .with_context("hint", "start the daemon"));
        }
        self.table.list(cx, filter).await
    }
    async fn info(&self, cx: &OpContext, id: &MachineId) -> Result<MachineInfo> {
        let mut info = self.table.info(cx, id).await?;
        if self.stuck {
            info.state = MachineState::Pending;
            self.creating.notify_one();
        }
        Ok(info)
    }
    async fn connect(&self, cx: &OpContext, id: &MachineId) -> Result<Arc<dyn Executor>> {
        self.table.connect(cx, id).await
    }
    fn actions(&self) -> Vec<ActionInfo> {
        self.table.actions()
    }
    async fn act(&self, cx: &OpContext, id: Option<&MachineId>, action: &str, args: Json) -> Result<Value> {
        self.table.act(cx, id, action, args).await
    }
}

pub(crate) async fn start_with_odd(odd: Odd) -> Harness {
    let fleet =
        Fleet::builder().with_provider(Arc::new(TableProvider::default())).with_provider(Arc::new(odd));
    start_on(fleet, Arc::new(MemoryStore::new()), |_| {}).await
}

impl Harness {
    /// Does something to a machine, waits for the end; gives the command and its output.
    pub(crate) async fn operate(&self, path: &str, body: Value) -> (Value, String) {
        let (status, command) = self.post_json(path, body).await;
        assert_eq!(status, 201, "{command}");
        let id = command["id"].as_str().unwrap();
        let command = self.settled(id).await;
        (command, self.output_of(id).await)
    }

    pub(crate) async fn output_of(&self, id: &str) -> String {
        let path = format!("/api/v1/commands/{id}/output");
        let answer = self.get(&path).header("accept", "application/octet-stream").send().await.unwrap();
        answer.text().await.unwrap()
    }

    pub(crate) async fn make(&self, target: &str, labels: Value) {
        let (provider, name) = target.split_once('/').unwrap();
        let body = json!({ "provider": provider, "name": name, "labels": labels });
        let (command, output) = self.operate("/api/v1/machines", body).await;
        assert_eq!(command["state"], "succeeded", "{output}");
    }

    async fn targets_of(&self, path: &str) -> Vec<String> {
        let list = self.json(path).await;
        list["items"].as_array().unwrap().iter().map(|m| m["target"].as_str().unwrap().to_owned()).collect()
    }
}

fn path(target: &str, what: &str) -> String {
    format!("/api/v1/targets/{}/{what}", target.replace('/', "%2F"))
}

#[tokio::test]
async fn a_machine_from_making_it_to_purging_it() {
    let h = start_with_odd(Odd::default()).await;
    let body = json!({ "provider": "odd", "name": "dev1", "labels": { "role": "web" } });
    let (command, output) = h.operate("/api/v1/machines", body).await;
    assert_eq!(
        (command["state"].as_str(), command["target"].as_str()),
        (Some("succeeded"), Some("odd/dev1"))
    );
    assert_eq!(command["action"], json!({ "name": "create", "args": { "labels.role": "web" } }));
    assert_eq!(command["exit"]["code"], 0);
    assert_eq!(output, "making it\nodd/dev1 is running\n");

    let machine = h.json(&path("odd/dev1", "machine")).await;
    assert_eq!(machine["state"], "running");
    assert_eq!((machine["provider"].as_str(), machine["name"].as_str()), (Some("odd"), Some("dev1")));
    assert_eq!((&machine["agent"], &machine["labels"]), (&Value::Null, &json!({ "role": "web" })));

    let (command, _) = h.operate(&path("odd/dev1", "stop"), json!({ "mode": "suspend" })).await;
    assert_eq!(
        (command["display"].as_str(), command["exit"]["code"].as_i64()),
        (Some("stop mode=suspend"), Some(0))
    );
    assert_eq!(h.json(&path("odd/dev1", "machine")).await["state"], "suspended");
    h.operate(&path("odd/dev1", "start"), json!({})).await;
    assert_eq!(h.json(&path("odd/dev1", "machine")).await["state"], "running");

    h.operate(&path("odd/dev1", "delete"), json!({})).await;
    assert!(h.targets_of("/api/v1/machines").await.is_empty());
    assert_eq!(h.targets_of("/api/v1/machines?include_deleted=true").await, ["odd/dev1"]);
    assert_eq!(h.targets_of("/api/v1/machines?state=deleted").await, ["odd/dev1"]);
    let (_, output) = h.operate(&path("odd/dev1", "actions/recover"), json!({})).await;
    assert_eq!(output, "", "an answer of null is none");
    assert_eq!(h.targets_of("/api/v1/machines").await, ["odd/dev1"]);
    h.operate(&path("odd/dev1", "delete"), json!({ "purge": true })).await;
    problem(h.get(&path("odd/dev1", "machine")).send().await.unwrap(), 404, "not_found").await;
    // Deleting what is gone is fine.
    let (command, _) = h.operate(&path("odd/dev1", "delete"), json!({ "purge": true })).await;
    assert_eq!(command["state"], "succeeded");
}

#[tokio::test]
async fn what_goes_wrong_later_is_told_by_the_command() {
    let h = start_with_odd(Odd::default()).await;
    h.make("table/a", json!({})).await;
    let body = json!({ "provider": "table", "name": "a" });
    let (command, output) = h.operate("/api/v1/machines", body).await;
    assert_eq!((command["state"].as_str(), command["exit"]["code"].as_i64()), (Some("failed"), Some(1)));
    let lines: Vec<&str> = output.lines().collect();
    let told: Value = serde_json::from_str(lines[lines.len() - 2]).unwrap();
    assert_eq!(told["problem"]["code"], "already_exists");
    assert_eq!(told["problem"]["context"]["machine"], "a");
    assert_eq!(command["error"].as_str(), lines.last().copied());
    let (command, _) = h.operate(&path("table/none", "start"), json!({})).await;
    assert!(command["error"].as_str().unwrap().starts_with("not_found"), "{command}");
    // The machine that was there is still there.
    assert_eq!(h.targets_of("/api/v1/machines").await, ["table/a"]);
}

#[tokio::test]
async fn questions_are_answered_at_once_and_actions_of_a_provider_need_no_machine() {
    let h = start_with_odd(Odd::default()).await;
    h.make("table/a", json!({})).await;
    let ask = "/api/v1/providers/table/actions/count";
    assert_eq!(h.post_json(ask, json!({})).await, (200.try_into().unwrap(), json!({ "result": 1 })));
    let answer = h.post(ask).json(&json!({ "args": { "deleted": "yes" } })).send().await.unwrap();
    assert_eq!(problem(answer, 400, "invalid_input").await["context"]["argument"], "deleted");
    let answer = h.post("/api/v1/providers/table/actions/explode").json(&json!({})).send().await.unwrap();
    assert_eq!(problem(answer, 404, "not_found").await["context"]["known"], "recover count");
    let answer = h.post("/api/v1/providers/none/actions/count").json(&json!({})).send().await.unwrap();
    problem(answer, 404, "not_found").await;
    let answer = h.post(&path("table/a", "actions/count")).json(&json!({})).send().await.unwrap();
    problem(answer, 404, "not_found").await;
}

#[tokio::test]
async fn who_may_only_look_changes_nothing() {
    let mut h = start_with_odd(Odd::default()).await;
    h.make("table/a", json!({})).await;
    let admin = h.token.clone();
    h.token = h.user_with_token("viewer", Role::Viewer, [Scope::Read]).await;
    for (path, body) in [
        ("/api/v1/machines".to_owned(), json!({ "provider": "table", "name": "b" })),
        (path("table/a", "start"), json!({})),
        (path("table/a", "stop"), json!({})),
        (path("table/a", "delete"), json!({})),
        (path("table/a", "actions/recover"), json!({})),
        ("/api/v1/fanout".to_owned(), json!({ "targets": ["**"], "command": { "argv": ["true"] } })),
    ] {
        problem(h.post(&path).json(&body).send().await.unwrap(), 403, "permission_denied").await;
    }
    assert_eq!(h.targets_of("/api/v1/machines").await, ["table/a"]);
    let (status, answer) = h.post_json("/api/v1/providers/table/actions/count", json!({})).await;
    assert_eq!((status.as_u16(), answer), (200, json!({ "result": 1 })), "a question may be asked");
    h.token = admin;
    let audit = h.json("/api/v1/audit").await;
    assert!(audit["items"].as_array().unwrap().iter().any(|a| a["action"] == "machine.create"), "{audit}");
}

#[tokio::test]
async fn names_that_are_none_are_refused_before_anything_happens() {
    let h = start_with_odd(Odd::default()).await;
    let long = "x".repeat(300);
    for name in ["", "--all", "../x", "a/b", "ü", "a b", "a\0", ".", "..", long.as_str()] {
        let body = json!({ "provider": "table", "name": name });
        let answer = h.post("/api/v1/machines").json(&body).send().await.unwrap();
        problem(answer, 400, "invalid_input").await;
    }
    for body in [
        json!({ "name": "a" }),
        json!({ "provider": "table", "name": "a", "colour": "red" }),
        json!({ "provider": "table", "name": "a", "cpus": -1 }),
        json!({ "provider": "table", "name": "a", "agent": "no/name" }),
        json!({ "provider": "table", "name": "a", "id": "00000000-0000-0000-0000-000000000000" }),
    ] {
        problem(h.post("/api/v1/machines").json(&body).send().await.unwrap(), 400, "invalid_input").await;
    }
    for (body, status, code) in [
        (json!({ "provider": "none", "name": "a" }), 404, "not_found"),
        (json!({ "provider": "table", "name": "a", "agent": "nobody" }), 404, "not_found"),
    ] {
        problem(h.post("/api/v1/machines").json(&body).send().await.unwrap(), status, code).await;
    }
    for what in ["start", "stop", "delete"] {
        let answer = h.post(&path("local", what)).json(&json!({})).send().await.unwrap();
        problem(answer, 501, "unsupported").await;
    }
    let answer = h.post(&path("table/a", "stop")).json(&json!({ "mode": "now" })).send().await.unwrap();
    problem(answer, 400, "invalid_input").await;
    let none = h.json("/api/v1/commands").await;
    assert_eq!(none["items"], json!([]), "nothing of all that has left a record");
}

#[tokio::test]
async fn a_request_can_be_repeated() {
    let h = start_with_odd(Odd::default()).await;
    let id = CommandId::generate().to_string();
    let body = json!({ "id": id, "provider": "table", "name": "a", "user_data": "s3cret" });
    let (status, command) = h.post_json("/api/v1/machines", body.clone()).await;
    assert_eq!((status.as_u16(), command["id"].as_str()), (201, Some(&*id)));
    assert!(!command.to_string().contains("s3cret"), "user data is in no record: {command}");
    h.settled(&id).await;
    let (status, command) = h.post_json("/api/v1/machines", body).await;
    assert_eq!((status.as_u16(), command["state"].as_str()), (200, Some("succeeded")));
    for other in [
        json!({ "id": id, "provider": "table", "name": "b", "user_data": "s3cret" }),
        json!({ "id": id, "provider": "table", "name": "a", "user_data": "two" }),
    ] {
        problem(h.post("/api/v1/machines").json(&other).send().await.unwrap(), 409, "already_exists").await;
    }
}

#[tokio::test]
async fn one_provider_that_fails_hides_nothing_of_the_others() {
    let h = start_with_odd(Odd { silent: true, ..Odd::default() }).await;
    h.make("table/a", json!({ "k": "v" })).await;
    h.make("table/b", json!({})).await;
    let list = h.json("/api/v1/machines").await;
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    assert_eq!(list["errors"].as_array().unwrap().len(), 1);
    assert_eq!((&list["errors"][0]["provider"], &list["errors"][0]["agent"]), (&json!("odd"), &Value::Null));
    assert_eq!(list["errors"][0]["problem"]["code"], "unavailable");
    assert_eq!(list["errors"][0]["problem"]["detail"], "the daemon is down");
    assert_eq!(h.targets_of("/api/v1/machines?label=k%3Dv").await, ["table/a"]);
    let only = h.json("/api/v1/machines?provider=table").await;
    assert_eq!((only["items"].as_array().unwrap().len(), &only["errors"]), (2, &json!([])));
    problem(h.get("/api/v1/machines?label=k").send().await.unwrap(), 400, "invalid_input").await;

    let providers = h.json("/api/v1/providers").await;
    let of = |name: &str| {
        providers["items"].as_array().unwrap().iter().find(|p| p["name"] == name).unwrap().clone()
    };
    assert_eq!((&of("table")["available"], &of("table")["reason"]), (&json!(true), &Value::Null));
    assert_eq!(of("odd")["available"], false);
    assert_eq!(of("odd")["reason"], "the daemon is down; start the daemon");
    assert_eq!(of("table")["actions"][1]["arguments"][0]["kind"], "flag");
    assert_eq!(of("table")["capabilities"]["stop_with_suspend"], true);
}

#[tokio::test]
async fn giving_up_a_machine_that_is_being_made_leaves_nothing() {
    for odd in [Odd { stuck: true, ..Odd::default() }, Odd { slow: true, ..Odd::default() }] {
        let creating = Arc::clone(&odd.creating);
        let h = start_with_odd(odd).await;
        let (status, command) =
            h.post_json("/api/v1/machines", json!({ "provider": "odd", "name": "a" })).await;
        assert_eq!(status, 201);
        creating.notified().await;
        let id = command["id"].as_str().unwrap();
        let (status, _) = h.post_json(&format!("/api/v1/commands/{id}/cancel"), json!({})).await;
        assert_eq!(status, 202);
        let command = h.settled(id).await;
        assert_eq!(
            (command["state"].as_str(), command["exit"]["reason"].as_str()),
            (Some("cancelled"), Some("requested"))
        );
        assert!(h.output_of(id).await.contains("removing odd/a\n"), "{}", h.output_of(id).await);
        assert!(h.targets_of("/api/v1/machines?include_deleted=true").await.is_empty());
    }
}

#[tokio::test]
async fn listeners_hear_of_machines() {
    let h = start_with_odd(Odd::default()).await;
    let answer = h.get("/api/v1/events?topics=machines").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut body = answer.bytes_stream();
    // The first bytes say that the stream is on.
    let first = body.next().await.unwrap().unwrap();
    h.make("table/a", json!({ "k": "v" })).await;
    h.operate(&path("table/a", "stop"), json!({})).await;
    h.operate(&path("table/a", "delete"), json!({ "purge": true })).await;
    let mut text = String::from_utf8(first.to_vec()).unwrap();
    while !text.contains("\"gone\":true") {
        text.push_str(std::str::from_utf8(&body.next().await.unwrap().unwrap()).unwrap());
    }
    let events = parse_events(&text);
    let states: Vec<_> =
        events.iter().map(|(_, name, data)| (name.as_str(), data["state"].as_str())).collect();
    assert!(states.contains(&("machine", Some("running"))), "{events:?}");
    assert!(states.contains(&("machine", Some("stopped"))), "{events:?}");
    assert!(events.iter().all(|(_, _, data)| data["target"] == "table/a"), "{events:?}");
    problem(h.get("/api/v1/events?topics=nonsense").send().await.unwrap(), 400, "invalid_input").await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_real_sandbox() {
    use fleetcore::backends::sandbox::{SandboxConfig, Sandboxes};
    let dir = tempfile::tempdir().unwrap();
    let sandboxes = Arc::new(Sandboxes::open(SandboxConfig::new(dir.path().join("sandboxes"))).unwrap());
    if let Err(e) = sandboxes.probe().await {
        assert!(std::env::var_os("FLEETCORE_REQUIRE_SANDBOX").is_none(), "sandboxes are required: {e}");
        eprintln!("skipped: {e}");
        return;
    }
    let fleet = Fleet::builder().with_provider(sandboxes);
    let h = start_on(fleet, Arc::new(MemoryStore::new()), |_| {}).await;
    h.make("sandbox/dev1", json!({})).await;
    let id = h.run(json!({ "target": "sandbox/dev1", "argv": ["sh", "-c", "echo $HOME"] })).await;
    assert_eq!(h.settled(&id).await["state"], "succeeded");
    assert_eq!(h.output_of(&id).await, "/home/sandbox\n");
    h.operate(&path("sandbox/dev1", "stop"), json!({})).await;
    let body = json!({ "target": "sandbox/dev1", "argv": ["true"] });
    problem(h.post("/api/v1/commands").json(&body).send().await.unwrap(), 409, "invalid_state").await;
    h.operate(&path("sandbox/dev1", "delete"), json!({})).await;
    assert!(h.targets_of("/api/v1/machines").await.is_empty());
    let body = json!({ "provider": "sandbox", "name": "dev2", "options": { "nonsense": 1 } });
    let (command, _) = h.operate("/api/v1/machines", body).await;
    assert!(command["error"].as_str().unwrap().starts_with("invalid_input"), "{command}");
}
