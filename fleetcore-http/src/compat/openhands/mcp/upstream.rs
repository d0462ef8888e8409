//! One tool server: started when it is first needed, and again when it has died.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rmcp::{
    ClientHandler, RoleClient,
    model::{CallToolRequestParams, ClientRequest, ErrorData, Tool},
    service::{NotificationContext, Peer, RunningService, ServiceError, serve_client},
};
use serde_json::{Value, json};

use super::{
    super::helper::{self, Helper, Output, Start},
    config::Server,
};

/// How long a server has to say what it can do. Some download themselves first.
const HANDSHAKE: Duration = Duration::from_secs(60);
/// JSON-RPC: no such method.
const NO_METHOD: i32 = -32601;
/// What a server sees of our environment, besides what is configured; as the original's library has it.
const INHERITED: [&str; 6] = ["HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER"];

/// Why a server has no answer.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// It does not start, or does not speak.
    Connect(String),
    /// It says no.
    Refused(ErrorData),
    /// It died, or says what makes no sense.
    Broken(String),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connect(why) => write!(f, "Client failed to connect: {why}"),
            Self::Refused(error) => f.write_str(&error.message),
            Self::Broken(why) => f.write_str(why),
        }
    }
}

impl Fault {
    /// Nothing is wrong: the server just does not have such things.
    pub(super) fn is_unsupported(&self) -> bool {
        matches!(self, Self::Refused(error) if error.code.0 == NO_METHOD)
    }
}

/// Tells when a list of a server has changed, by the method of that notification.
pub(super) type Changed = Arc<dyn Fn(&'static str) + Send + Sync>;

/// A server.
pub(super) struct Upstream {
    pub(super) server: Server,
    env: BTreeMap<String, String>,
    dir: PathBuf,
    changed: Changed,
    link: tokio::sync::Mutex<Option<Link>>,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("name", &self.server.name).finish_non_exhaustive()
    }
}

struct Link {
    service: RunningService<RoleClient, Listener>,
    helper: Helper,
    tools: Option<Arc<Vec<Tool>>>,
    stale: Arc<AtomicBool>,
}

#[derive(Clone)]
struct Listener {
    changed: Changed,
    stale: Arc<AtomicBool>,
}

impl ClientHandler for Listener {
    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        self.stale.store(true, Ordering::Release);
        (self.changed)("notifications/tools/list_changed");
    }
    async fn on_prompt_list_changed(&self, _: NotificationContext<RoleClient>) {
        (self.changed)("notifications/prompts/list_changed");
    }
    async fn on_resource_list_changed(&self, _: NotificationContext<RoleClient>) {
        (self.changed)("notifications/resources/list_changed");
    }
}

impl Upstream {
    pub(super) fn new(
        server: Server,
        inherited: &BTreeMap<String, String>,
        dir: PathBuf,
        changed: Changed,
    ) -> Self {
        let mut env: BTreeMap<String, String> = INHERITED
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), inherited.get(*name)?.clone())))
            .collect();
        env.extend(server.env.clone());
        Self { server, env, dir, changed, link: tokio::sync::Mutex::default() }
    }

    async fn connect(&self) -> Result<Link, Fault> {
        let name = &self.server.name;
        let missing =
            || Fault::Connect(format!("[Errno 2] No such file or directory: '{}'", self.server.command));
        let program = helper::find(&self.server.command, &self.env).ok_or_else(missing)?;
        let start = Start {
            name: format!("mcp {name}"),
            program,
            args: self.server.args.clone(),
            env: self.env.clone(),
            dir: self.dir.clone(),
            user: None,
        };
        let mut helper =
            Helper::start(&start, Output::Protocol, |_| {}).map_err(|e| Fault::Connect(e.to_string()))?;
        let ends = helper.protocol().ok_or_else(|| Fault::Connect("it has no output".to_owned()))?;
        let stale = Arc::new(AtomicBool::new(false));
        let listener = Listener { changed: self.changed.clone(), stale: stale.clone() };
        let service = match tokio::time::timeout(HANDSHAKE, serve_client(listener, ends)).await {
            Ok(Ok(service)) => service,
            Ok(Err(error)) => {
                let words = helper.last_words();
                let words = if words.is_empty() { words } else { format!("\n{words}") };
                return Err(Fault::Connect(format!("{error}{words}")));
            }
            Err(_) => {
                return Err(Fault::Connect(format!("no answer within {} seconds", HANDSHAKE.as_secs())));
            }
        };
        tracing::info!(name, "an MCP server is ready");
        Ok(Link { service, helper, tools: None, stale })
    }

    /// A link that lives, for one look at it.
    async fn with<T>(&self, look: impl FnOnce(&mut Link) -> T) -> Result<T, Fault> {
        let mut link = self.link.lock().await;
        if let Some(old) = link.as_mut() {
            let ended = old.helper.status();
            if ended.is_some() || old.service.is_closed() {
                tracing::warn!(name = self.server.name, status = ?ended, "an MCP server died; it is started again");
                *link = None;
            }
        }
        let living = match link.take() {
            Some(living) => living,
            None => self.connect().await?,
        };
        Ok(look(link.insert(living)))
    }

    /// What a request came to. When the server has hung up, the next request does not wait for its process to be gone.
    async fn heard<T>(&self, peer: &Peer<RoleClient>, outcome: Result<T, ServiceError>) -> Result<T, Fault> {
        if let Err(ServiceError::TransportClosed | ServiceError::TransportSend(_)) = &outcome {
            let mut link = self.link.lock().await;
            // Another request may have started it again.
            let same = |l: &Link| match (l.service.peer().peer_info(), peer.peer_info()) {
                (Some(now), Some(then)) => Arc::ptr_eq(&now, &then),
                _ => false,
            };
            if link.as_ref().is_some_and(same) {
                *link = None;
            }
        }
        outcome.map_err(fault)
    }

    async fn peer(&self) -> Result<Peer<RoleClient>, Fault> {
        self.with(|link| link.service.peer().clone()).await
    }

    /// Its tools; asked for again only when it says that they have changed.
    pub(super) async fn tools(&self, fresh: bool) -> Result<Arc<Vec<Tool>>, Fault> {
        let look = |link: &mut Link| {
            if link.stale.swap(false, Ordering::AcqRel) || fresh {
                link.tools = None;
            }
            (link.service.peer().clone(), link.tools.clone())
        };
        let (peer, known) = self.with(look).await?;
        if let Some(known) = known {
            return Ok(known);
        }
        let tools = Arc::new(self.heard(&peer, peer.list_all_tools().await).await?);
        if let Some(link) = self.link.lock().await.as_mut() {
            link.tools = Some(tools.clone());
        }
        Ok(tools)
    }

    /// Calls one of its tools. Dropped, the server is told that nobody waits any more.
    pub(super) async fn call(&self, params: CallToolRequestParams) -> Result<Value, Fault> {
        let peer = self.peer().await?;
        let result = self.heard(&peer, peer.call_tool(params).await).await?;
        serde_json::to_value(result).map_err(|e| Fault::Broken(e.to_string()))
    }

    /// Asks it anything else.
    pub(super) async fn ask(&self, method: &str, params: Value) -> Result<Value, Fault> {
        let request: ClientRequest = serde_json::from_value(json!({ "method": method, "params": params }))
            .map_err(|e| Fault::Refused(ErrorData::invalid_params(e.to_string(), None)))?;
        let peer = self.peer().await?;
        let result = self.heard(&peer, peer.send_request(request).await).await?;
        serde_json::to_value(result).map_err(|e| Fault::Broken(e.to_string()))
    }

    /// All pages of a list.
    pub(super) async fn list(&self, method: &str, key: &str) -> Result<Vec<Value>, Fault> {
        /// More pages than any server has; one that never ends is none.
        const PAGES: usize = 1000;
        let mut all = Vec::new();
        let mut params = json!({});
        for _ in 0..PAGES {
            let mut page = self.ask(method, params).await?;
            if let Some(Value::Array(items)) = page.get_mut(key).map(Value::take) {
                all.extend(items);
            }
            match page.get("nextCursor").and_then(Value::as_str) {
                Some(cursor) => params = json!({ "cursor": cursor }),
                None => return Ok(all),
            }
        }
        Err(Fault::Broken("the list does not end".to_owned()))
    }
}

fn fault(error: ServiceError) -> Fault {
    match error {
        ServiceError::McpError(error) => Fault::Refused(error),
        other => Fault::Broken(other.to_string()),
    }
}
