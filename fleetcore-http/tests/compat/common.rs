//! Servers, a stand-in for Multipass, and clients that send exactly what they are told.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use fleetcore::{
    Fleet, FleetBuilder,
    backends::local::{Local, LocalConfig},
    store::memory::MemoryStore,
};
use fleetcore_http::{
    App, Stores,
    compat::{self, Call, Listener},
};
pub(crate) use fleetcore_testkit::eventually;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// Nothing here takes nearly as long.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
pub(crate) const PASSWORD: &str = "admin123";
pub(crate) const AGENT_KEY: &str = "agent-secret-1";

/// Lines of a recorded file of Batwa; `None`, said loudly, when there is no such data.
pub(crate) fn recorded(file: &str) -> Option<Vec<Value>> {
    fleetcore_testkit::recorded("batwa", file)
}

/// A stand-in for the multipass program.
pub(crate) struct Multipass {
    dir: tempfile::TempDir,
}

impl Multipass {
    pub(crate) fn new(vms: &[(&str, &str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("multipass");
        std::fs::write(&program, include_str!("multipass.sh")).unwrap();
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir(dir.path().join("vms")).unwrap();
        let this = Self { dir };
        for (name, state, ips) in vms {
            this.set(&format!("vms/{name}"), &format!("{state}\n{ips}\nUbuntu 22.04 LTS\n2\n"));
        }
        this
    }

    /// What the recorder's master had.
    pub(crate) fn local() -> Self {
        Self::new(&[
            ("primary", "Running", r#"["10.1.2.3","172.17.0.1"]"#),
            ("db", "Stopped", "[]"),
            ("old", "Deleted", "[]"),
        ])
    }

    /// What the recorder's agent had.
    pub(crate) fn agent() -> Self {
        Self::new(&[
            ("web", "Running", r#"["10.5.0.7"]"#),
            ("primary", "Running", r#"["10.5.0.8"]"#),
            ("batch", "Suspended", "[]"),
        ])
    }

    pub(crate) fn program(&self) -> String {
        self.dir.path().join("multipass").display().to_string()
    }

    pub(crate) fn set(&self, name: &str, content: &str) {
        std::fs::write(self.dir.path().join(name), content).unwrap();
    }

    pub(crate) fn unset(&self, name: &str) {
        let _ = std::fs::remove_file(self.dir.path().join(name));
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.dir.path().join(name).exists()
    }

    /// Argument vectors since the last call, without those of looks at the list.
    pub(crate) fn argv(&self) -> Vec<Vec<String>> {
        let path = self.dir.path().join("argv");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        self.unset("argv");
        text.lines()
            .map(|l| l.split('\u{1f}').map(str::to_owned).collect::<Vec<_>>())
            .filter(|a| a.get(1).is_none_or(|c| c != "list"))
            .collect()
    }
}

/// A dialect that runs.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) notes: Vec<String>,
    pub(crate) store: Arc<MemoryStore>,
    shutdown: CancellationToken,
    task: Option<JoinHandle<fleetcore::Result<()>>>,
    pub(crate) dir: Arc<tempfile::TempDir>,
    pub(crate) fleet: Fleet,
}

impl Running {
    pub(crate) async fn start(name: &str, args: &[&str]) -> Self {
        Self::start_in(name, args, Arc::new(tempfile::tempdir().unwrap()), Arc::new(MemoryStore::new())).await
    }

    pub(crate) async fn start_in(
        name: &str,
        args: &[&str],
        dir: Arc<tempfile::TempDir>,
        store: Arc<MemoryStore>,
    ) -> Self {
        let args = ["--host", "127.0.0.1", "--port", "0"].iter().chain(args).copied();
        let args: Vec<&str> = args.collect();
        Self::start_among(name, &args, dir, store, |fleet| fleet).await
    }

    /// In a fleet with more in it, as in a full server.
    pub(crate) async fn start_among(
        name: &str,
        args: &[&str],
        dir: Arc<tempfile::TempDir>,
        store: Arc<MemoryStore>,
        more: impl FnOnce(FleetBuilder) -> FleetBuilder,
    ) -> Self {
        let env = [("BATWA_PASSWORD", PASSWORD)];
        let call = Call::new(name).with_args(args.iter().copied()).with_env(env);
        let plan = compat::find(name).unwrap().parse(&call).unwrap();
        let host = Arc::new(Local::new(LocalConfig::default()));
        let fleet = more(Fleet::builder().with_host(host));
        let fleet = plan.providers().into_iter().fold(fleet, FleetBuilder::with_provider).build();
        let app = App::new(plan.config(), fleet.clone(), Stores::new(store.clone()));
        let listener = Listener::bind(plan, app, dir.path().to_owned()).await.unwrap();
        let (address, notes) = (listener.local_addr(), listener.notes().to_vec());
        let shutdown = CancellationToken::new();
        let task = Some(tokio::spawn(listener.run_alone(shutdown.clone())));
        Self { address, notes, store, shutdown, task, dir, fleet }
    }

    pub(crate) async fn master(multipass: &Multipass, args: &[&str]) -> Self {
        let program = multipass.program();
        let all: Vec<&str> = ["--multipass", &program].iter().chain(args).copied().collect();
        Self::start("batwa-server", &all).await
    }

    pub(crate) async fn agent(multipass: &Multipass, args: &[&str]) -> Self {
        let program = multipass.program();
        let all: Vec<&str> = ["--multipass", &program].iter().chain(args).copied().collect();
        Self::start("batwa-agent", &all).await
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        if let Some(task) = self.task.take() {
            tokio::time::timeout(LIMIT, task)
                .await
                .expect("it stops")
                .unwrap()
                .expect("it served to the end");
        }
    }

    pub(crate) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        request(self.address, "GET", path, headers, None).await
    }

    pub(crate) async fn post(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Reply {
        let mut all = vec![("Content-Type", "application/json")];
        all.extend_from_slice(headers);
        request(self.address, "POST", path, &all, Some(&body.to_string())).await
    }

    /// Logs in; gives the `Cookie` header.
    pub(crate) async fn login(&self) -> String {
        let reply =
            self.post("/api/auth/login", &[], &json!({"username": "admin", "password": PASSWORD})).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.cookie().unwrap()
    }

    pub(crate) async fn register(&self, id: &str, url: &str, key: Option<&str>) -> Reply {
        let body = json!({"agent_id": id, "hostname": "h1", "api_url": url, "api_key": key});
        self.post("/api/agent/register", &[], &body).await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
    pub(crate) fn detail(&self) -> String {
        self.json()["detail"].as_str().unwrap_or_default().to_owned()
    }
    pub(crate) fn cookie(&self) -> Option<String> {
        let set = self.header("set-cookie")?;
        let pair = set.split(';').next()?;
        pair.strip_prefix("session_id=").filter(|v| v.len() == 43).map(|_| pair.to_owned())
    }
}

/// One request on a connection of its own, its path and headers as given.
pub(crate) async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&str>,
) -> Reply {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            head.push_str(&format!("Host: {address}\r\n"));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = body {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        head.push_str(body.unwrap_or_default());
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        all
    };
    let all = tokio::time::timeout(LIMIT, exchange).await.expect("an answer in time");
    let end = all.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8(all[..end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines.map(|l| l.split_once(": ").unwrap()).map(|(n, v)| (n.to_owned(), v.to_owned()));
    Reply { status, headers: headers.collect(), body: all[end + 4..].to_vec() }
}

/// Types of all values by their path; members of an array together.
pub(crate) fn shape(value: &Value) -> BTreeMap<String, &'static str> {
    fn walk(value: &Value, path: String, all: &mut BTreeMap<String, &'static str>) {
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(items) => {
                for item in items {
                    walk(item, format!("{path}[]"), all);
                }
                "array"
            }
            Value::Object(members) => {
                for (key, member) in members {
                    walk(member, format!("{path}.{key}"), all);
                }
                "object"
            }
        };
        all.insert(path, kind);
    }
    let mut all = BTreeMap::new();
    walk(value, String::new(), &mut all);
    all
}
