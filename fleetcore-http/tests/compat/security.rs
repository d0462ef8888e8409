//! D1 to D23 of the contract: holes of the originals, closed.

use std::{sync::Arc, time::Duration};

use fleetcore::{AuditFilter, AuditStore as _, store::memory::MemoryStore};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::mpsc,
};

use crate::{common::*, terminal::Terminal};

#[tokio::test]
async fn d1_terminals_need_a_login_and_our_own_page() {
    let multipass = Multipass::local();
    let master = Running::master(&multipass, &[]).await;
    let cookie = master.login().await;
    let host = master.url();
    let evil = "https://evil.example";
    for headers in [
        &[][..],
        &[("Cookie", "session_id=bogus")],
        &[("Cookie", "session_id=")],
        &[("Cookie", cookie.as_str()), ("Origin", evil)],
        &[("Cookie", cookie.as_str()), ("Origin", "null")],
    ] {
        let mut terminal = Terminal::open(&master, "/ws?vm_name=primary", headers).await;
        assert_eq!(terminal.end().await, Some(1008), "{headers:?}");
        assert_eq!(terminal.texts, "Error: Not authenticated\r\n");
    }
    assert!(multipass.argv().is_empty(), "nothing was run");
    let value = cookie.strip_prefix("session_id=").unwrap();
    let by_query = format!("/ws?vm_name=primary&session_id={value}");
    for (path, headers) in [
        ("/ws?vm_name=primary", &[("Cookie", cookie.as_str()), ("Origin", host.as_str())][..]),
        ("/ws?vm_name=primary", &[("Cookie", cookie.as_str())]),
        (by_query.as_str(), &[]),
    ] {
        Terminal::open(&master, path, headers).await.until_text("Welcome to primary").await;
    }
    let mut foreign = Terminal::open(&master, &by_query, &[("Origin", evil)]).await;
    assert_eq!(foreign.end().await, Some(1008));
}

#[tokio::test]
async fn d2_terminals_of_an_agent_need_its_key() {
    let multipass = Multipass::agent();
    let agent = Running::agent(&multipass, &["--agent-id", "a", "--api-key", AGENT_KEY]).await;
    for headers in [&[][..], &[("X-API-Key", "wrong")], &[("X-API-Key", "")]] {
        assert_eq!(
            Terminal::try_open(&agent, "/ws?vm_name=web", headers).await.err(),
            Some(403),
            "{headers:?}"
        );
    }
    let key = [("X-API-Key", AGENT_KEY)];
    Terminal::open(&agent, "/ws?vm_name=web", &key).await.until_text("Welcome to web").await;
    let mut odd = Terminal::open(&agent, "/ws?vm_name=--all", &key).await;
    assert_eq!((odd.end().await, odd.texts.as_str()), (Some(1008), "Error: Invalid VM name\r\n"));

    // Without a key a page in somebody's browser still gets nowhere.
    let open = Running::agent(&multipass, &["--agent-id", "a"]).await;
    let page = [("Origin", "https://evil.example")];
    assert_eq!(Terminal::try_open(&open, "/ws?vm_name=web", &page).await.err(), Some(403));
    assert_eq!(open.get("/api/vm/list", &page).await.status, 403);
    let rebound = request(open.address, "GET", "/api/vm/list", &[("Host", "evil.example")], None).await;
    assert!(rebound.status >= 400, "{rebound:?}");
    Terminal::open(&open, "/ws?vm_name=web", &[]).await.until_text("Welcome to web").await;
}

/// Answers every request with an empty list and tells what was asked.
async fn sink() -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tell, told) = mpsc::channel(100);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                let mut piece = [0; 4096];
                while !head.windows(4).any(|w| w == b"\r\n\r\n") {
                    match stream.read(&mut piece).await {
                        Ok(n) if n > 0 => head.extend_from_slice(&piece[..n]),
                        _ => return,
                    }
                }
                let _ = tell.send(String::from_utf8_lossy(&head).to_lowercase()).await;
                let reply = "HTTP/1.1 200 OK\r\nContent-Length: 11\r\nConnection: close\r\n\r\n{\"list\":[]}";
                let _ = stream.write_all(reply.as_bytes()).await;
            });
        }
    });
    (url, told)
}

#[tokio::test]
async fn d3_registering_takes_a_key_and_a_stored_key_goes_nowhere_else() {
    let multipass = Multipass::local();
    let master = Running::master(&multipass, &[]).await;
    let note = master.notes.iter().find(|n| n.starts_with("agent key: ")).expect("shown at the first start");
    let key = note.strip_prefix("agent key: ").unwrap().to_owned();
    let cookie = master.login().await;
    let (good, mut asked) = sink().await;
    let (evil, mut stolen) = sink().await;
    for wrong in [None, Some(""), Some("wrong")] {
        let reply = master.register("a1", &good, wrong).await;
        assert_eq!((reply.status, reply.detail().as_str()), (403, "Invalid or missing API key"), "{wrong:?}");
    }
    // The guide's curl call: the key only in the body.
    assert_eq!(master.register("a1", &good, Some(&key)).await.status, 200);
    master.get("/api/vm/list", &[("Cookie", &cookie)]).await;
    let head = asked.recv().await.unwrap();
    assert!(head.contains(&format!("x-api-key: {}", key.to_lowercase())), "{head}");

    for wrong in [None, Some("wrong")] {
        assert_eq!(master.register("a1", &evil, wrong).await.status, 403);
        let beat = json!({"agent_id": "a1", "timestamp": 0, "status": "offline", "vm_count": 9});
        assert_eq!(master.post("/api/agent/heartbeat", &[], &beat).await.status, 403);
    }
    master.get("/api/vm/list", &[("Cookie", &cookie)]).await;
    assert!(stolen.try_recv().is_err(), "nobody asked there");
    let info = master.get("/api/agent/info/a1", &[("Cookie", &cookie)]).await;
    assert_eq!(info.json()["agent"]["api_url"], json!(good));
    assert!(!info.text().contains(&key), "keys are never shown");
}

#[tokio::test]
async fn d4_d5_d7_d20_names_are_checked_before_any_process_starts() {
    let multipass = Multipass::local();
    let master = Running::master(&multipass, &["--open-enrolment"]).await;
    let agent = Running::agent(&multipass, &["--agent-id", "a", "--api-key", AGENT_KEY]).await;
    let cookie = master.login().await;
    let (session, key) = ([("Cookie", cookie.as_str())], [("X-API-Key", AGENT_KEY)]);
    let long = "a".repeat(300);
    for name in ["--all", "-a", "../x", "a/b", "a b", "dé", "a\0b", "", "<img src=x>", &long] {
        for path in ["/api/vm/start", "/api/vm/stop", "/api/vm/delete", "/api/vm/create"] {
            for (server, headers) in [(&master, &session), (&agent, &key)] {
                let reply = server.post(path, headers, &json!({"name": name})).await;
                assert_eq!(reply.status, 422, "{path} {name:?} {reply:?}");
                assert!(!reply.detail().is_empty());
            }
        }
    }
    for image in ["--mount=/:/host", "-", "", "a b"] {
        let reply = master.post("/api/vm/create", &session, &json!({"name": "x", "image": image})).await;
        assert_eq!(reply.status, 422, "{image}");
    }
    for (key_, value) in [("memory", "--all"), ("disk", "-5G"), ("memory", "1G;id")] {
        let reply = master.post("/api/vm/create", &session, &json!({"name": "x", key_: value})).await;
        assert_eq!(reply.status, 422, "{value}");
    }
    assert!(multipass.argv().is_empty(), "nothing was run");
    for (id, host, url) in [
        ("<b>", "h", "http://h:1"),
        ("a", "<script>", "http://h:1"),
        ("a", "h", "javascript:alert(1)"),
        ("a", "h", "http://h:1/'><b>"),
    ] {
        let body = json!({"agent_id": id, "hostname": host, "api_url": url});
        assert_eq!(master.post("/api/agent/register", &[], &body).await.status, 422, "{id} {host} {url}");
    }
}

#[tokio::test]
async fn d8_no_other_site_may_use_a_login() {
    let multipass = Multipass::local();
    let master = Running::master(&multipass, &["--allow-origin", "https://ui.example"]).await;
    let cookie = master.login().await;
    let with = |origin: &'static str| [("Cookie", cookie.clone()), ("Origin", origin.to_owned())];
    for origin in ["https://evil.example", "null"] {
        let headers = with(origin);
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let reply = master.get("/api/vm/list", &headers).await;
        assert!(reply.header("access-control-allow-origin").is_none(), "{reply:?}");
        let reply = master.post("/api/vm/stop", &headers, &json!({"name": "primary"})).await;
        assert_eq!(reply.status, 403, "{origin}");
    }
    assert!(multipass.argv().is_empty());
    let headers = with("https://ui.example");
    let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let reply = master.post("/api/vm/stop", &headers, &json!({"name": "primary"})).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://ui.example"));
    let preflight = [("Origin", "https://ui.example"), ("Access-Control-Request-Method", "POST")];
    assert_eq!(request(master.address, "OPTIONS", "/api/vm/list", &preflight, None).await.status, 200);
}

#[tokio::test]
async fn d9_d10_logins() {
    let multipass = Multipass::local();
    let program = multipass.program();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let store = Arc::new(MemoryStore::new());
    let args = ["--multipass", program.as_str()];
    let master = Running::start_in("batwa-server", &args, dir.clone(), store.clone()).await;
    let cookie = master.login().await;
    // The value is not in the store, and a restart does not end logins.
    master.stop().await;
    let master = Running::start_in("batwa-server", &args, dir.clone(), store.clone()).await;
    assert!(master.notes.is_empty(), "said once: {:?}", master.notes);
    let check = master.get("/api/auth/check", &[("Cookie", &cookie)]).await;
    assert_eq!(check.json()["authenticated"], true);
    // Guessing is slowed down.
    let wrong = json!({"username": "admin", "password": "x"});
    let mut last = 0;
    for _ in 0..20 {
        last = master.post("/api/auth/login", &[], &wrong).await.status;
        assert!(matches!(last, 401 | 429), "{last}");
    }
    assert_eq!(last, 429);

    let proxied = Running::master(&multipass, &["--behind-proxy"]).await;
    let body = json!({"username": "admin", "password": PASSWORD});
    let reply = proxied.post("/api/auth/login", &[], &body).await;
    assert!(reply.header("set-cookie").unwrap().ends_with("; Secure"));
}

#[tokio::test]
async fn d16_execute_needs_a_key_and_stays_with_instances() {
    let multipass = Multipass::agent();
    let agent = Running::agent(&multipass, &["--agent-id", "a", "--api-key", AGENT_KEY]).await;
    let key = [("X-API-Key", AGENT_KEY)];
    let run = |args: serde_json::Value| json!({"command": "multipass", "args": args});
    assert_eq!(agent.post("/api/execute", &[], &run(json!(["version"]))).await.status, 403);
    let reply = agent.post("/api/execute", &key, &run(json!(["mount", "/", "web"]))).await.json();
    assert_eq!((&reply["success"], &reply["return_code"]), (&json!(false), &json!(-1)), "{reply}");
    assert!(multipass.argv().is_empty());
    let reply = agent
        .post("/api/execute", &key, &run(json!(["exec", "web", "--", "sh", "-c", "exit 7"])))
        .await
        .json();
    assert_eq!((&reply["return_code"], &reply["exit_code"]), (&json!(1), &json!(7)));

    let any = Running::agent(&multipass, &["--agent-id", "a", "--api-key", AGENT_KEY, "--execute-any"]).await;
    let reply = any.post("/api/execute", &key, &run(json!(["frobnicate"]))).await.json();
    assert_eq!(reply["stderr"], "Error: Unknown command or alias 'frobnicate'\n");
}

#[tokio::test]
async fn d18_a_hung_agent_holds_up_nobody() {
    let multipass = Multipass::local();
    let master = Running::master(&multipass, &["--open-enrolment"]).await;
    let cookie = master.login().await;
    // Accepts, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    master.register("hung", &url, None).await;
    let (good, _asked) = sink().await;
    master.register("good", &good, None).await;
    let headers = [("Cookie", cookie.as_str())];
    let list = async || master.get("/api/vm/list", &headers).await.json();
    let (first, check) = tokio::join!(list(), master.get("/api/auth/check", &headers));
    assert_eq!(check.status, 200);
    assert_eq!(first["vms"].as_array().unwrap().len(), 3, "{first}");
    assert_eq!(first["errors"][0]["agent_id"], "hung", "{first}");
    // Those who come later do not wait for it again: many lists in less time than one would wait.
    let many = async {
        for _ in 0..20 {
            assert_eq!(list().await["errors"][0]["agent_id"], "hung");
        }
    };
    tokio::time::timeout(Duration::from_secs(8), many).await.expect("nobody waits for it");
}

#[tokio::test]
async fn d19_an_agent_that_is_down_is_named_without_its_address() {
    let multipass = Multipass::local();
    let master = Running::master(&multipass, &["--open-enrolment"]).await;
    let cookie = master.login().await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    master.register("down", &format!("http://{address}"), None).await;
    let headers = [("Cookie", cookie.as_str())];
    let reply = master.post("/api/vm/start", &headers, &json!({"name": "v", "agent_id": "down"})).await;
    assert_eq!((reply.status, reply.detail().as_str()), (502, "Agent 'down' is unreachable"));
    let list = master.get("/api/vm/list", &headers).await;
    assert_eq!(list.json()["errors"][0]["detail"], "Agent 'down' is unreachable");
    assert!(!list.text().contains(&address.port().to_string()), "{}", list.text());
}

#[tokio::test]
async fn d22_passwords_are_not_repeated() {
    let multipass = Multipass::local();
    let master = Running::master(&multipass, &[]).await;
    for body in [json!({"password": "hunter2"}), json!(["hunter2"])] {
        let reply = master.post("/api/auth/login", &[], &body).await;
        assert_eq!(reply.status, 422);
        assert!(!reply.text().contains("hunter2"), "{}", reply.text());
    }
}

#[tokio::test]
async fn a_client_that_leaves_does_not_cut_a_launch_off() {
    let multipass = Multipass::local();
    multipass.set("delay_launch", "0.5");
    let master = Running::master(&multipass, &[]).await;
    let cookie = master.login().await;
    let headers = [("Cookie", cookie.as_str())];
    let body = json!({"name": "new1"});
    let create = master.post("/api/vm/create", &headers, &body);
    assert!(tokio::time::timeout(Duration::from_millis(100), create).await.is_err(), "the client leaves");
    eventually("the machine", async || multipass.has("vms/new1").then_some(())).await;
    eventually("the list", async || {
        master.get("/api/vm/list", &headers).await.text().contains("\"new1\"").then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_changes_something_is_in_the_audit_log() {
    let multipass = Multipass::local();
    let master = Running::master(&multipass, &[]).await;
    let cookie = master.login().await;
    let headers = [("Cookie", cookie.as_str())];
    master.post("/api/vm/start", &headers, &json!({"name": "db"})).await;
    master.post("/api/vm/start", &headers, &json!({"name": "nosuch"})).await;
    let wanted =
        [("batwa.login", "", "ok"), ("batwa.vm.start", "db", "ok"), ("batwa.vm.start", "nosuch", "failed")];
    eventually("three entries", async || {
        let all = master.store.read(AuditFilter::default()).await.unwrap();
        let has = |(action, target, outcome): &(&str, &str, &str)| {
            all.iter().any(|e| {
                e.action == *action && e.target == *target && e.outcome == *outcome && e.actor == "admin"
            })
        };
        wanted.iter().all(has).then_some(())
    })
    .await;
}
