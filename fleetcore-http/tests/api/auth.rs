use fleetcore::{AuditFilter, AuditStore, Role, Scope};
use fleetcore_http::ensure_admin;
use reqwest::{Client, Method, RequestBuilder, Response};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::common::*;

const PASSWORD: &str = "correct horse battery staple";

/// A server whose admin has a password, and a login cookie.
async fn with_login() -> (Harness, String) {
    let store = std::sync::Arc::new(fleetcore::store::memory::MemoryStore::new());
    assert!(ensure_admin(&*store, Some(PASSWORD.to_owned().into())).await.unwrap().is_none());
    let harness = start_over(store, |_| {}).await;
    let cookie = log_in(&harness, "admin", PASSWORD).await;
    (harness, cookie)
}

async fn try_login(h: &Harness, user: &str, password: &str) -> Response {
    let body = json!({ "user": user, "password": password });
    h.http.post(format!("{}/api/v1/login", h.base)).json(&body).send().await.unwrap()
}

async fn log_in(h: &Harness, user: &str, password: &str) -> String {
    let response = try_login(h, user, password).await;
    assert_eq!(response.status(), 200);
    let cookie = response.headers()["set-cookie"].to_str().unwrap().to_owned();
    for part in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let body: Value = response.json().await.unwrap();
    assert_eq!((body["user"].as_str(), body["role"].as_str()), (Some(user), Some("admin")));
    cookie.split(';').next().unwrap().to_owned()
}

fn with_cookie(h: &Harness, method: Method, path: &str, cookie: &str) -> RequestBuilder {
    h.http.request(method, format!("{}{path}", h.base)).header("cookie", cookie)
}

#[tokio::test]
async fn the_first_password_is_made_up_once() {
    let store = fleetcore::store::memory::MemoryStore::new();
    let password = ensure_admin(&store, None).await.unwrap().unwrap();
    assert!(password.expose_secret().len() >= 20);
    assert!(ensure_admin(&store, None).await.unwrap().is_none());
    assert!(ensure_admin(&store, Some("another".to_owned().into())).await.unwrap().is_none());
    let h = start_over(std::sync::Arc::new(store), |_| {}).await;
    assert_eq!(try_login(&h, "admin", password.expose_secret()).await.status(), 200);
    problem(try_login(&h, "admin", "another").await, 401, "unauthenticated").await;
}

#[tokio::test]
async fn nothing_but_the_public_routes_answers_strangers() {
    let h = start().await;
    let document: Value = serde_json::to_value(fleetcore_http::openapi()).unwrap();
    let mut seen = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let path = path.replace("{target}", "local").replace("{id}", "x").replace("{name}", "x");
            let method: Method = method.to_uppercase().parse().unwrap();
            let request = h.http.request(method, format!("{}{path}", h.base));
            let response =
                request.header("content-type", "application/json").body("{}").send().await.unwrap();
            let public = operation["security"] == json!([{}]);
            if public {
                assert_ne!(response.status(), 403, "{path}");
            } else {
                assert!(response.headers().contains_key("www-authenticate"), "{path}");
                problem(response, 401, "unauthenticated").await;
                seen += 1;
            }
        }
    }
    assert!(seen > 35, "only {seen} routes need a login");
}

#[tokio::test]
async fn scopes_and_roles_are_what_counts() {
    let h = start().await;
    let viewer = h.user_with_token("vera", Role::Viewer, Scope::ALL).await;
    let reader = h.user_with_token("rita", Role::Admin, [Scope::Read]).await;
    let filer = h.user_with_token("fred", Role::Operator, [Scope::Files]).await;
    let call = |token: &str, method: Method, path: &str, body: Value| {
        let request = h.http.request(method, format!("{}{path}", h.base)).bearer_auth(token);
        let request = if body.is_null() { request } else { request.json(&body) };
        async move { request.send().await.unwrap() }
    };
    let command = || json!({ "target": "local", "argv": ["true"] });
    for token in [&viewer, &reader] {
        assert_eq!(call(token, Method::GET, "/api/v1/targets", Value::Null).await.status(), 200);
        problem(call(token, Method::POST, "/api/v1/commands", command()).await, 403, "permission_denied")
            .await;
        problem(call(token, Method::GET, "/api/v1/users", Value::Null).await, 403, "permission_denied").await;
        let stat = "/api/v1/targets/local/files/stat?path=/";
        problem(call(token, Method::GET, stat, Value::Null).await, 403, "permission_denied").await;
    }
    assert_eq!(
        call(&filer, Method::GET, "/api/v1/targets/local/files/stat?path=/", Value::Null).await.status(),
        200
    );
    problem(call(&filer, Method::GET, "/api/v1/targets", Value::Null).await, 403, "permission_denied").await;
    // Nobody gives away more than they have.
    let more = json!({ "name": "more", "scopes": ["run"] });
    problem(call(&reader, Method::POST, "/api/v1/tokens", more).await, 403, "permission_denied").await;
    for bad in
        ["fct_short", "nonsense", &format!("fct_{}", "x".repeat(43)), &format!("fcl_{}", "x".repeat(43))]
    {
        problem(call(bad, Method::GET, "/api/v1/me", Value::Null).await, 401, "unauthenticated").await;
    }
    let basic =
        h.http.get(format!("{}/api/v1/me", h.base)).basic_auth("admin", Some("x")).send().await.unwrap();
    problem(basic, 401, "unauthenticated").await;
}

#[tokio::test]
async fn a_cookie_writes_only_from_pages_of_this_server() {
    let (h, cookie) = with_login().await;
    let me: Value =
        with_cookie(&h, Method::GET, "/api/v1/me", &cookie).send().await.unwrap().json().await.unwrap();
    assert_eq!((me["user"].as_str(), me["via"].as_str()), (Some("admin"), Some("login")));
    let write = || {
        with_cookie(&h, Method::POST, "/api/v1/tokens", &cookie)
            .json(&json!({ "name": "t", "scopes": ["read"] }))
    };
    problem(write().send().await.unwrap(), 403, "permission_denied").await;
    for origin in
        ["http://evil.example", "null", &format!("http://{}.evil.example", h.address), "http://127.0.0.1:1"]
    {
        problem(write().header("origin", origin).send().await.unwrap(), 403, "permission_denied").await;
    }
    problem(write().header("sec-fetch-site", "cross-site").send().await.unwrap(), 403, "permission_denied")
        .await;
    assert_eq!(write().header("origin", &h.base).send().await.unwrap().status(), 201);
    assert_eq!(write().header("sec-fetch-site", "same-origin").send().await.unwrap().status(), 201);
    // An evil page cannot log somebody in as somebody else either.
    let login = h.http.post(format!("{}/api/v1/login", h.base)).header("origin", "http://evil.example");
    let login = login.json(&json!({ "user": "admin", "password": PASSWORD })).send().await.unwrap();
    problem(login, 403, "permission_denied").await;
    // A token needs no origin.
    assert_eq!(
        h.post("/api/v1/tokens")
            .json(&json!({ "name": "t", "scopes": ["read"] }))
            .send()
            .await
            .unwrap()
            .status(),
        201
    );

    let out = with_cookie(&h, Method::POST, "/api/v1/logout", &cookie)
        .header("origin", &h.base)
        .send()
        .await
        .unwrap();
    assert_eq!(out.status(), 204);
    assert!(out.headers()["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
    problem(
        with_cookie(&h, Method::GET, "/api/v1/me", &cookie).send().await.unwrap(),
        401,
        "unauthenticated",
    )
    .await;
}

#[tokio::test]
async fn websockets_check_the_origin_of_cookies() {
    use tokio_tungstenite::tungstenite::{self, client::IntoClientRequest, http::HeaderValue};
    let (h, cookie) = with_login().await;
    let id = h.run(json!({ "argv": ["cat"], "stdin": true })).await;
    let connect = |origin: Option<String>| {
        let mut request =
            format!("ws://{}/api/v1/commands/{id}/attach", h.address).into_client_request().unwrap();
        request.headers_mut().insert("cookie", HeaderValue::from_str(&cookie).unwrap());
        if let Some(origin) = origin {
            request.headers_mut().insert("origin", HeaderValue::from_str(&origin).unwrap());
        }
        tokio_tungstenite::connect_async(request)
    };
    for origin in [None, Some("http://evil.example".to_owned())] {
        match connect(origin).await {
            Err(tungstenite::Error::Http(response)) => assert_eq!(response.status(), 403),
            other => panic!("{other:?}"),
        }
    }
    assert!(connect(Some(h.base.clone())).await.is_ok());
}

#[tokio::test]
async fn other_host_names_are_refused_on_loopback() {
    let h = start_with(|c| c.allowed_hosts = vec!["fleet.test".to_owned()]).await;
    let with_host = |host: &str| h.get("/api/v1/me").header("host", host.to_owned()).send();
    let port = h.address.port();
    for good in
        [format!("localhost:{port}"), "127.0.0.1".into(), format!("[::1]:{port}"), "fleet.test".into()]
    {
        assert_eq!(with_host(&good).await.unwrap().status(), 200, "{good}");
    }
    for bad in ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80"] {
        problem(with_host(bad).await.unwrap(), 421, "misdirected_request").await;
    }
}

#[tokio::test]
async fn guessing_passwords_is_slowed_down() {
    let h = start_with(|c| c.limits.logins_per_minute = 3).await;
    for _ in 0..3 {
        problem(try_login(&h, "nobody", "wrong password").await, 401, "unauthenticated").await;
    }
    let response = try_login(&h, "nobody", "wrong password").await;
    assert!(response.headers().contains_key("retry-after"));
    let body = problem(response, 429, "rate_limited").await;
    assert!(body["retry_after_ms"].as_u64().unwrap() > 0);
    // A made-up forwarded header of somebody who is no proxy does not help.
    let body = json!({ "user": "a", "password": "b" });
    let request =
        h.http.post(format!("{}/api/v1/login", h.base)).header("x-forwarded-for", "192.0.2.7").json(&body);
    problem(request.send().await.unwrap(), 429, "rate_limited").await;
    // Strangers cannot fill the audit log.
    let all = h.store.read(AuditFilter::default()).await.unwrap();
    assert_eq!(all.iter().filter(|e| e.action == "login").count(), 3, "{all:#?}");
    assert!(all.iter().all(|e| e.outcome != "rate_limited"), "{all:#?}");
}

#[tokio::test]
async fn strangers_send_small_bodies_only() {
    let h = start().await;
    problem(try_login(&h, "admin", &"x".repeat(60 << 10)).await, 401, "unauthenticated").await;
    problem(try_login(&h, "admin", &"x".repeat(64 << 10)).await, 413, "too_large").await;
}

#[tokio::test]
async fn behind_a_proxy_each_client_has_its_own_limit() {
    let h = start_with(|c| {
        c.limits.logins_per_minute = 1;
        c.behind_proxy = true;
    })
    .await;
    let from = |ip: &'static str| {
        let body = json!({ "user": "a", "password": "b" });
        h.http.post(format!("{}/api/v1/login", h.base)).header("x-forwarded-for", ip).json(&body).send()
    };
    assert_eq!(from("192.0.2.1").await.unwrap().status(), 401);
    assert_eq!(from("192.0.2.1").await.unwrap().status(), 429);
    assert_eq!(from("192.0.2.2").await.unwrap().status(), 401);
    // What the client itself wrote in front does not count.
    assert_eq!(from("198.51.100.1, 192.0.2.2").await.unwrap().status(), 429);
}

#[tokio::test]
async fn tokens_work_until_they_are_removed() {
    let h = start().await;
    let (status, made) = h
        .post_json("/api/v1/tokens", json!({ "name": "ci", "scopes": ["read"], "expires_in_s": 3600 }))
        .await;
    assert_eq!(status, 201);
    let secret = made["secret"].as_str().unwrap();
    assert!(secret.starts_with("fct_") && secret.len() == 47);
    let me = |secret: &str| h.http.get(format!("{}/api/v1/me", h.base)).bearer_auth(secret).send();
    for _ in 0..2 {
        let body: Value = me(secret).await.unwrap().json().await.unwrap();
        assert_eq!(body["scopes"], json!(["read"]));
        assert!(body["expires_at"].is_string());
    }
    let listed = h.json("/api/v1/tokens").await;
    assert!(listed["items"].as_array().unwrap().iter().any(|t| t["id"] == made["id"]));
    assert!(!listed.to_string().contains(secret), "secrets are shown once");
    let removed = h.request(Method::DELETE, &format!("/api/v1/tokens/{}", made["id"].as_str().unwrap()));
    assert_eq!(removed.send().await.unwrap().status(), 204);
    problem(me(secret).await.unwrap(), 401, "unauthenticated").await;
    for bad in [
        json!({ "name": "", "scopes": ["read"] }),
        json!({ "name": "x", "scopes": [] }),
        json!({ "name": "x", "scopes": ["root"] }),
    ] {
        assert_eq!(h.post_json("/api/v1/tokens", bad).await.0, 400);
    }
}

/// All kinds of streams of one token over one command.
async fn open_streams(
    h: &mut Harness,
    token: &str,
) -> (Socket, [tokio::task::JoinHandle<reqwest::Result<String>>; 3]) {
    let id = h.run(json!({ "argv": ["sleep", "600"] })).await;
    let admin = std::mem::replace(&mut h.token, token.to_owned());
    let mut socket = h.attach(&format!("/api/v1/commands/{id}/attach")).await;
    assert!(matches!(socket.next().await, Frame::State(_)));
    let output = format!("/api/v1/commands/{id}/output");
    let mut open = vec![];
    for request in [
        h.get("/api/v1/events?topics=sessions"),
        h.get(&output).header("accept", "text/event-stream"),
        h.get(&output),
    ] {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        open.push(tokio::spawn(response.text()));
    }
    h.token = admin;
    (socket, open.try_into().unwrap())
}

async fn all_ended(
    (mut socket, [events, output, raw]): (Socket, [tokio::task::JoinHandle<reqwest::Result<String>>; 3]),
) {
    assert_eq!(socket.next().await, Frame::Closed(1008));
    tokio::time::timeout(LIMIT, async {
        events.await.unwrap().unwrap();
        let output = parse_events(&output.await.unwrap().unwrap());
        let last = output.last().unwrap();
        assert_eq!((last.1.as_str(), last.2["code"].as_str()), ("error", Some("unauthenticated")));
        assert!(raw.await.unwrap().is_err(), "what is not all must not look like all");
    })
    .await
    .expect("streams end");
}

#[tokio::test]
async fn streams_end_with_the_login_they_were_opened_with() {
    let mut h = start().await;
    let (_, made) = h.post_json("/api/v1/tokens", json!({ "name": "t", "scopes": ["read", "run"] })).await;
    let removed = open_streams(&mut h, made["secret"].as_str().unwrap()).await;
    let olga = h.user_with_token("olga", Role::Operator, Scope::ALL).await;
    let disabled = open_streams(&mut h, &olga).await;
    let admin = h.token.clone();
    let (mut stays, _) = open_streams(&mut h, &admin).await;

    let path = format!("/api/v1/tokens/{}", made["id"].as_str().unwrap());
    assert_eq!(h.request(Method::DELETE, &path).send().await.unwrap().status(), 204);
    all_ended(removed).await;
    let off = h.request(Method::PATCH, "/api/v1/users/olga").json(&json!({ "disabled": true }));
    assert_eq!(off.send().await.unwrap().status(), 200);
    all_ended(disabled).await;
    stays.send(5, b"here").await;
    assert_eq!(stays.next().await, Frame::Pong(b"here".to_vec()));
}

#[tokio::test]
async fn users_can_be_managed_but_an_admin_stays() {
    let (h, cookie) = with_login().await;
    let user = json!({ "name": "olga", "role": "operator", "password": "a long enough one" });
    let (status, made) = h.post_json("/api/v1/users", user.clone()).await;
    assert_eq!((status.as_u16(), made["role"].as_str()), (201, Some("operator")));
    assert_eq!(h.post_json("/api/v1/users", user).await.0, 409);
    let short = json!({ "name": "sam", "role": "viewer", "password": "short" });
    assert_eq!(h.post_json("/api/v1/users", short).await.1["context"]["field"], "password");
    let patch = |name: &str, body: Value| {
        let request = h.request(Method::PATCH, &format!("/api/v1/users/{name}")).json(&body);
        async move { request.send().await.unwrap() }
    };
    for body in [json!({ "disabled": true }), json!({ "role": "viewer" })] {
        problem(patch("admin", body).await, 409, "invalid_state").await;
    }
    problem(h.request(Method::DELETE, "/api/v1/users/admin").send().await.unwrap(), 409, "invalid_state")
        .await;
    let olga = try_login(&h, "olga", "a long enough one").await;
    let olga = olga.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    assert_eq!(with_cookie(&h, Method::GET, "/api/v1/me", &olga).send().await.unwrap().status(), 200);
    assert_eq!(patch("olga", json!({ "disabled": true })).await.status(), 200);
    problem(with_cookie(&h, Method::GET, "/api/v1/me", &olga).send().await.unwrap(), 401, "unauthenticated")
        .await;
    problem(try_login(&h, "olga", "a long enough one").await, 401, "unauthenticated").await;
    assert_eq!(h.request(Method::DELETE, "/api/v1/users/olga").send().await.unwrap().status(), 204);
    problem(patch("olga", json!({})).await, 404, "not_found").await;

    let change = |old: &str, new: &str| {
        let request = with_cookie(&h, Method::POST, "/api/v1/me/password", &cookie).header("origin", &h.base);
        request.json(&json!({ "old": old, "new": new })).send()
    };
    problem(change("wrong", "a new long password").await.unwrap(), 403, "permission_denied").await;
    problem(change(PASSWORD, "short").await.unwrap(), 400, "invalid_input").await;
    let elsewhere = log_in(&h, "admin", PASSWORD).await;
    assert_eq!(change(PASSWORD, "a new long password").await.unwrap().status(), 204);
    problem(try_login(&h, "admin", PASSWORD).await, 401, "unauthenticated").await;
    assert_eq!(with_cookie(&h, Method::GET, "/api/v1/me", &cookie).send().await.unwrap().status(), 200);
    problem(
        with_cookie(&h, Method::GET, "/api/v1/me", &elsewhere).send().await.unwrap(),
        401,
        "unauthenticated",
    )
    .await;
}

#[tokio::test]
async fn every_change_is_in_the_audit_log() {
    let mut h = start().await;
    let id = h.run(json!({ "argv": ["true"], "wait": {} })).await;
    h.post_json(
        "/api/v1/targets/local/files/mkdir",
        json!({ "path": h.dir.path().join("d").to_str().unwrap() }),
    )
    .await;
    let (status, _) = h.post_json("/api/v1/commands", json!({ "target": "nowhere", "argv": ["true"] })).await;
    assert_eq!(status, 404);
    try_login(&h, "admin", "wrong").await;
    let viewer = h.user_with_token("vera", Role::Viewer, Scope::ALL).await;
    let denied = h
        .http
        .post(format!("{}/api/v1/commands/{id}/cancel", h.base))
        .bearer_auth(viewer)
        .send()
        .await
        .unwrap();
    assert_eq!(denied.status(), 403);
    let page = h.json("/api/v1/audit?limit=1").await;
    assert_eq!(page["items"].as_array().unwrap().len(), 1);
    assert!(page["next"].is_string());
    let store = h.store.clone();
    h.finish().await;
    let all = store.read(AuditFilter::default()).await.unwrap();
    let has = |actor: &str, action: &str, outcome: &str| {
        all.iter().any(|e| e.actor == actor && e.action == action && e.outcome == outcome)
    };
    assert!(has("admin", "command.create", "ok"), "{all:#?}");
    assert!(has("admin", "command.create", "not_found"), "{all:#?}");
    assert!(has("admin", "file.mkdir", "ok"), "{all:#?}");
    assert!(has("nobody", "login", "unauthenticated"), "{all:#?}");
    assert!(all.iter().any(|e| e.actor == "vera" && e.outcome == "permission_denied"), "{all:#?}");
    assert!(all.iter().any(|e| e.target.contains(&id) && e.detail.contains("127.0.0.1")), "{all:#?}");
}

#[tokio::test]
async fn tls_serves_both_versions_of_http() {
    let dir = tempfile::tempdir().unwrap();
    let made =
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let h = start_with(|c| {
        c.tls = Some(serde_json::from_value(json!({ "cert": cert, "key": key })).unwrap());
    })
    .await;
    let trusted = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
    for http1 in [true, false] {
        let client = Client::builder().no_proxy().tls_certs_only([trusted.clone()]);
        let client = if http1 { client.http1_only() } else { client };
        let response = client.build().unwrap().get(format!("{}/healthz", h.base)).send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(response.headers().contains_key("strict-transport-security"));
        if http1 {
            assert_eq!(response.version(), reqwest::Version::HTTP_11);
        }
    }
    let plain = h.http.get(format!("http://{}/healthz", h.address)).send().await;
    assert!(plain.is_err());
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let cert = dir.path().join("cert.pem");
    std::fs::write(&cert, "nothing").unwrap();
    let mut config = fleetcore_http::ServerConfig::on("127.0.0.1:0".parse().unwrap());
    config.tls = Some(serde_json::from_value(json!({ "cert": cert, "key": cert })).unwrap());
    let store = std::sync::Arc::new(fleetcore::store::memory::MemoryStore::new());
    let stores = fleetcore_http::Stores::new(store);
    let err = fleetcore_http::Server::bind(config, fleetcore::Fleet::local(), stores).await.unwrap_err();
    assert_eq!(err.kind(), fleetcore::ErrorKind::InvalidInput);
    assert_eq!(err.context_value("field"), Some("tls.cert"));
}
