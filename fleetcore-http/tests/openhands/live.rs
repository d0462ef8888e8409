//! What the original never had: what runs is seen while it runs.

use std::time::Duration;

use futures::StreamExt as _;
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::replay::Running;

/// Long enough for a slow machine; nothing waits for it when all is well.
const LIMIT: Duration = Duration::from_secs(60);
const ROOT: [&str; 5] = ["--username", "root", "--user-id", "0", "--no-enable-browser"];

#[derive(Debug)]
struct Event {
    id: String,
    name: String,
    data: Value,
}

struct Events {
    stream: futures::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    buffer: String,
}

impl Events {
    async fn open(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { stream: response.bytes_stream().boxed(), buffer: String::new() }
    }

    async fn next(&mut self) -> Event {
        loop {
            if let Some((event, rest)) = self.buffer.split_once("\n\n") {
                let event = event.to_owned();
                self.buffer = rest.to_owned();
                if event.starts_with(':') {
                    continue;
                }
                let field = |name: &str| event.lines().find_map(|l| l.strip_prefix(name)).unwrap().to_owned();
                let data = serde_json::from_str(&field("data: ")).unwrap();
                return Event { id: field("id: "), name: field("event: "), data };
            }
            let piece = tokio::time::timeout(LIMIT, self.stream.next()).await.expect("an event comes");
            self.buffer.push_str(std::str::from_utf8(&piece.expect("it goes on").unwrap()).unwrap());
        }
    }

    /// Everything up to the first event of this name, and that one.
    async fn until(&mut self, name: &str) -> (String, Event) {
        let mut text = String::new();
        loop {
            let event = self.next().await;
            if event.name == name {
                return (text, event);
            }
            text.push_str(event.data["text"].as_str().unwrap_or_default());
        }
    }

    /// Everything up to some text of the output, and the event it was complete in.
    async fn until_text(&mut self, wanted: &str) -> Event {
        let mut text = String::new();
        loop {
            let event = self.next().await;
            text.push_str(event.data["text"].as_str().unwrap_or_default());
            if text.contains(wanted) {
                return event;
            }
        }
    }
}

fn events(running: &Running, query: &str) -> RequestBuilder {
    running.http.get(format!("{}/api/v1/runtime/events{query}", running.url))
}

async fn get(running: &Running, path: &str) -> (u16, Value) {
    let response = running.http.get(format!("{}/api/v1/runtime{path}", running.url)).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

fn run(command: &str) -> Value {
    json!({ "action": "run", "args": { "command": command } })
}

/// Prints, waits for the file `go`, prints again. The words are not in the command itself, which is echoed.
const WAITS: &str = "printf 'o%s\\n' ne; until [ -e go ]; do sleep 0.02; done; printf 't%s\\n' wo";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_is_seen_while_the_command_runs_and_reading_goes_on_where_it_broke_off() {
    let running = std::sync::Arc::new(Running::start(&ROOT, &[]).await);
    let mut watching = Events::open(events(&running, "")).await;
    let acting = tokio::spawn({
        let running = running.clone();
        async move { running.act(run(WAITS)).await }
    });
    let (_, started) = watching.until("started").await;
    assert_eq!((&started.data["number"], &started.data["kind"]), (&json!(1), &json!("run")));
    let one = watching.until_text("one\r\n").await;
    assert_eq!(one.data["action"], 1);
    drop(watching);
    let (status, state) = get(&running, "").await;
    assert_eq!((status, &state["running"]["about"]), (200, &json!(WAITS)), "{state}");
    assert_eq!(get(&running, "/actions/1").await.0, 202);
    // Who comes late sees the action from its start.
    let mut late = Events::open(events(&running, "")).await;
    assert_eq!(late.next().await.name, "started");
    late.until_text("one\r\n").await;

    let mut again = Events::open(events(&running, "").header("last-event-id", &one.id)).await;
    std::fs::write(format!("{}/go", running.work), "").unwrap();
    let (text, ended) = again.until("ended").await;
    assert!(text.contains("two\r\n") && !text.contains("one"), "{text:?}");
    assert_eq!((&ended.data["exit_code"], &ended.data["status"]), (&json!(0), &json!(200)), "{}", ended.data);
    let (status, answer) = acting.await.unwrap();
    assert_eq!((status, &answer["content"]), (200, &json!("one\ntwo")));
    assert_eq!(get(&running, "/actions/1").await, (200, answer));
    assert_eq!(get(&running, "/actions/2").await.0, 404);
    let (_, state) = get(&running, "").await;
    assert_eq!((&state["running"], &state["actions"][0]["number"]), (&Value::Null, &json!(1)), "{state}");

    // An id of another runtime, and what is no id.
    for id in ["999-1-0", "nonsense"] {
        let response = events(&running, "").header("last-event-id", id).send().await.unwrap();
        assert_eq!(response.status(), 400, "{id}");
    }
    drop((late, again));
    std::sync::Arc::into_inner(running).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_action_goes_on_without_its_client_and_its_answer_is_fetched() {
    let running = Running::start(&ROOT, &[]).await;
    let mut watching = Events::open(events(&running, "")).await;
    {
        let mut acting = Box::pin(running.act(run(WAITS)));
        let seen = watching.until_text("one\r\n");
        tokio::select! {
            _ = &mut acting => panic!("it waits"),
            _ = seen => {}
        }
    }
    std::fs::write(format!("{}/go", running.work), "").unwrap();
    let (_, ended) = watching.until("ended").await;
    assert_eq!(ended.data["answer_kept"], true);
    let (status, answer) = get(&running, "/actions/1").await;
    assert_eq!((status, &answer["content"]), (200, &json!("one\ntwo")));
    running.stop().await;
    // The stream ends with the runtime.
    assert_eq!(watching.until("closed").await.1.name, "closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shell_that_is_replaced_and_one_of_its_own_are_followed() {
    let running = Running::start(&ROOT, &[]).await;
    let mut watching = Events::open(events(&running, "?from=start")).await;
    let (_, first) = watching.until("shell").await;
    assert_eq!((&first.data["shell"], &first.data["main"]), (&json!(1), &json!(true)));
    running.act(run("exit 3")).await;
    assert_eq!(watching.until("ended").await.1.data["exit_code"], 3);
    running.act(run("printf 'n%s\\n' ew")).await;
    let (_, second) = watching.until("shell").await;
    assert_eq!((&second.data["shell"], &second.data["main"]), (&json!(2), &json!(true)));
    let (text, ended) = watching.until("ended").await;
    assert!(text.contains("new\r\n") && ended.data["number"] == 2, "{text:?}");

    let aside = json!({ "action": "run", "args": { "command": "printf 'as%s\\n' ide", "is_static": true } });
    running.act(aside).await;
    let (_, third) = watching.until("shell").await;
    assert_eq!((&third.data["shell"], &third.data["main"]), (&json!(3), &json!(false)));
    let (text, _) = watching.until("ended").await;
    assert!(text.contains("aside\r\n"), "{text:?}");
    running.act(run("printf 'b%s\\n' ack")).await;
    let (text, _) = watching.until("ended").await;
    assert!(text.contains("back\r\n") && !text.contains("new\r\n"), "{text:?}");

    let mut quiet = Events::open(events(&running, "?from=start&output=false")).await;
    for name in ["shell", "started", "ended", "started", "shell", "ended", "started", "shell", "ended"] {
        assert_eq!(quiet.next().await.name, name);
    }
    drop((watching, quiet));
    running.stop().await;
}

/// Whoever comes when a shell has ended does not find its output; that is told, not passed over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_of_a_shell_that_is_gone_is_told_as_a_gap() {
    let running = Running::start(&ROOT, &[]).await;
    let aside = json!({ "action": "run", "args": { "command": "echo aside", "is_static": true } });
    running.act(aside).await;
    running.act(run("echo main")).await;
    let mut late = Events::open(events(&running, "?from=start")).await;
    let mut gaps = Vec::new();
    let mut text = String::new();
    for _ in 0..2 {
        loop {
            let event = late.next().await;
            match event.name.as_str() {
                "ended" => break,
                "gap" => gaps.push(event.data),
                _ => text.push_str(event.data["text"].as_str().unwrap_or_default()),
            }
        }
    }
    assert!(text.contains("main\r\n") && !text.contains("aside\r\n"), "{text:?}");
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!((&gaps[0]["shell"], &gaps[0]["from"]), (&json!(2), &json!(0)));
    assert!(gaps[0]["to"].as_u64().unwrap() > 5, "{gaps:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_has_the_key_may_look() {
    let running = Running::start(&ROOT, &[("SESSION_API_KEY", "s3cret")]).await;
    for path in ["", "/events", "/actions/1"] {
        let request = running.http.get(format!("{}/api/v1/runtime{path}", running.url));
        assert_eq!(request.send().await.unwrap().status(), 403, "{path}");
    }
    let with =
        |path: &str| running.http.get(format!("{}{path}", running.url)).header("x-session-api-key", "s3cret");
    assert_eq!(with("/api/v1/runtime").send().await.unwrap().status(), 200);
    assert_eq!(with("/api/v1/runtime/nothing").send().await.unwrap().status(), 404);
    assert_eq!(with("/api/v1/runtime/events?from=yesterday").send().await.unwrap().status(), 400);
    running.stop().await;
}
