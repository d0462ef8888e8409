//! One server made of many: whose tools are whose, and what each method means.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use axum::{http::StatusCode, response::Response};
use parking_lot::RwLock;
use rmcp::model::CallToolRequestParams;
use secrecy::SecretString;
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{
    super::reply,
    config::{self, Misfit},
    sse::Sessions,
    upstream::{Fault, Upstream},
};

/// The original says which version of its library it is; its clients do not look.
const VERSION: &str = "1.16.0";
/// What we speak when the client does not say.
const PROTOCOL: &str = "2025-06-18";
const INVALID_PARAMS: i64 = -32602;
const NO_METHOD: i64 = -32601;

/// The proxy of a runtime.
#[derive(Debug)]
pub(in super::super) struct Proxy {
    pub(super) key: Option<SecretString>,
    /// Of everything it runs.
    env: BTreeMap<String, String>,
    dir: PathBuf,
    name: String,
    /// What is configured; nothing before the first configuration with a server in it.
    current: RwLock<Option<Arc<Set>>>,
    pub(super) sessions: Sessions,
    pub(super) stop: CancellationToken,
    /// Large messages are understood one after another.
    pub(super) reading: Semaphore,
}

/// One configuration.
#[derive(Debug)]
pub(super) struct Set(Vec<Upstream>);

impl Proxy {
    /// A proxy without servers. `env` without secrets.
    pub(in super::super) fn new(
        key: Option<SecretString>,
        env: BTreeMap<String, String>,
        dir: PathBuf,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        Arc::new(Self {
            key,
            env,
            dir,
            name: format!("FastMCPProxy-{}", id.get(..4).unwrap_or_default()),
            current: RwLock::default(),
            sessions: Sessions::default(),
            stop,
            reading: Semaphore::new(1),
        })
    }

    /// Whether its paths are there.
    pub(in super::super) fn mounted(&self) -> bool {
        self.current.read().is_some()
    }

    /// Whether a configuration names no server.
    pub(in super::super) fn is_empty(body: &[u8]) -> bool {
        config::servers(body).is_ok_and(|servers| servers.is_empty())
    }

    /// Takes another configuration instead of the present one, at once and as a whole (DEFECT 16). Calls that are
    /// under way end with the servers they began with.
    pub(in super::super) fn update(self: &Arc<Self>, body: &[u8]) -> Response {
        let servers = match config::servers(body) {
            Ok(servers) => servers,
            Err(Misfit::NoList) => {
                return reply::detail(StatusCode::BAD_REQUEST, "Request must be a list of MCP tools to sync");
            }
            Err(Misfit::Invalid) => return reply::unexpected(),
        };
        let changed = {
            let proxy = Arc::downgrade(self);
            Arc::new(move |method: &'static str| {
                if let Some(proxy) = proxy.upgrade() {
                    proxy.sessions.tell(method);
                }
            })
        };
        let new = |server| Upstream::new(server, &self.env, self.dir.clone(), changed.clone());
        let set = Arc::new(Set(servers.into_iter().map(new).collect()));
        {
            let mut current = self.current.write();
            if current.is_none() && set.0.is_empty() {
                return updated();
            }
            *current = Some(set);
        }
        for method in [
            "notifications/tools/list_changed",
            "notifications/prompts/list_changed",
            "notifications/resources/list_changed",
        ] {
            self.sessions.tell(method);
        }
        updated()
    }

    /// Ends all servers that no call is with.
    pub(in super::super) fn close(&self) {
        *self.current.write() = None;
    }

    fn set(&self) -> Option<Arc<Set>> {
        self.current.read().clone()
    }

    /// The answer to one message; none to a notification.
    pub(super) async fn answer(&self, message: &Value) -> Option<Value> {
        let id = message.get("id").filter(|id| !id.is_null())?;
        let method = message.get("method")?.as_str()?;
        let empty = json!({});
        let params = message.get("params").unwrap_or(&empty);
        let outcome = match (method, self.set()) {
            ("ping" | "logging/setLevel", _) => Ok(json!({})),
            ("initialize", _) => Ok(self.initialize(params)),
            (method, Some(set)) => set.answer(method, params).await,
            (_, None) => Err((NO_METHOD, "Method not found".to_owned())),
        };
        Some(match outcome {
            Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
            Err((code, message)) => {
                json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } })
            }
        })
    }

    fn initialize(&self, params: &Value) -> Value {
        let version = params.get("protocolVersion").and_then(Value::as_str).unwrap_or(PROTOCOL);
        json!({
            "protocolVersion": version,
            "capabilities": {
                "experimental": {},
                "prompts": { "listChanged": true },
                "resources": { "subscribe": false, "listChanged": true },
                "tools": { "listChanged": true },
            },
            "serverInfo": { "name": self.name, "version": VERSION },
        })
    }
}

fn updated() -> Response {
    reply::json(
        StatusCode::OK,
        &json!({ "detail": "MCP server updated successfully", "router_error_log": "" }),
    )
}

type Outcome = Result<Value, (i64, String)>;

fn rpc(fault: Fault) -> (i64, String) {
    match fault {
        Fault::Refused(error) => (error.code.0.into(), error.message.into_owned()),
        other => (0, other.to_string()),
    }
}

/// A call that failed is a result, so that the model reads why.
fn told(text: impl std::fmt::Display) -> Value {
    json!({ "content": [{ "type": "text", "text": text.to_string() }], "isError": true })
}

impl Set {
    /// Names and resources carry the name of their server as soon as there are two.
    fn prefix<'a>(&self, upstream: &'a Upstream) -> Option<&'a str> {
        (self.0.len() > 1).then_some(upstream.server.name.as_str())
    }

    fn outside(&self, upstream: &Upstream, name: &str) -> String {
        self.prefix(upstream).map_or_else(|| name.to_owned(), |prefix| format!("{prefix}_{name}"))
    }

    /// Whose it may be and what that one calls it; the one with the longest name first.
    fn inside<'a>(&self, name: &'a str) -> Vec<(&Upstream, &'a str)> {
        let mut all: Vec<_> = self
            .0
            .iter()
            .filter_map(|upstream| match self.prefix(upstream) {
                None => Some((upstream, name)),
                Some(prefix) => Some((upstream, name.strip_prefix(prefix)?.strip_prefix('_')?)),
            })
            .collect();
        all.sort_by_key(|(upstream, _)| std::cmp::Reverse(upstream.server.name.len()));
        all
    }

    async fn answer(&self, method: &str, params: &Value) -> Outcome {
        match method {
            "tools/list" => self.tools().await,
            "tools/call" => self.call(params).await,
            "prompts/list" => self.all("prompts/list", "prompts", "name").await,
            "prompts/get" => self.prompt(params).await,
            "resources/list" => self.all("resources/list", "resources", "uri").await,
            "resources/templates/list" => {
                self.all("resources/templates/list", "resourceTemplates", "uriTemplate").await
            }
            "resources/read" => self.read(params).await,
            _ => Err((NO_METHOD, "Method not found".to_owned())),
        }
    }

    /// The lists of all servers. One that does not answer is left out, unless nobody answers.
    async fn each<T, F>(&self, ask: impl Fn(usize) -> F) -> Result<Vec<(usize, T)>, (i64, String)>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let answers = futures::future::join_all((0..self.0.len()).map(&ask)).await;
        let mut good = Vec::new();
        let mut wrong = None;
        for (at, answer) in answers.into_iter().enumerate() {
            match answer {
                Ok(answer) => good.push((at, answer)),
                Err(fault) if fault.is_unsupported() => {}
                Err(fault) => {
                    let name = self.0.get(at).map(|u| u.server.name.as_str());
                    tracing::warn!(name, %fault, "an MCP server does not answer");
                    wrong = wrong.or(Some(fault));
                }
            }
        }
        match wrong {
            Some(fault) if good.is_empty() => Err(rpc(fault)),
            _ => Ok(good),
        }
    }

    async fn tools(&self) -> Outcome {
        let lists = self
            .each(async |at| match self.0.get(at) {
                Some(upstream) => upstream.tools(false).await,
                None => Ok(Arc::default()),
            })
            .await?;
        let mut all = Vec::new();
        for (at, tools) in lists {
            let Some(upstream) = self.0.get(at) else { continue };
            for tool in tools.iter() {
                let mut tool = serde_json::to_value(tool).map_err(|e| (0, e.to_string()))?;
                if let Some(name) = tool.get_mut("name") {
                    *name = self.outside(upstream, name.as_str().unwrap_or_default()).into();
                }
                all.push(tool);
            }
        }
        Ok(json!({ "tools": all }))
    }

    async fn call(&self, params: &Value) -> Outcome {
        let params: CallToolRequestParams =
            serde_json::from_value(params.clone()).map_err(|e| (INVALID_PARAMS, e.to_string()))?;
        for (upstream, name) in self.inside(&params.name) {
            let has = |tools: &[rmcp::model::Tool]| tools.iter().any(|t| t.name == name);
            let known = match upstream.tools(false).await {
                Ok(tools) if has(&tools) => true,
                // It may have changed without saying so.
                Ok(_) => upstream.tools(true).await.is_ok_and(|tools| has(&tools)),
                Err(fault) => return Ok(told(fault)),
            };
            if known {
                let mut inside = params.clone();
                inside.name = name.to_owned().into();
                return match upstream.call(inside).await {
                    Ok(result) => Ok(result),
                    Err(fault) => Ok(told(format_args!("Error calling tool '{}': {fault}", params.name))),
                };
            }
        }
        Ok(told(format_args!("Unknown tool: {}", params.name)))
    }

    async fn all(&self, method: &'static str, key: &'static str, field: &'static str) -> Outcome {
        let lists = self
            .each(async |at| match self.0.get(at) {
                Some(upstream) => upstream.list(method, key).await,
                None => Ok(Vec::new()),
            })
            .await?;
        let mut all = Vec::new();
        for (at, items) in lists {
            let Some(upstream) = self.0.get(at) else { continue };
            for mut item in items {
                if let Some(Value::String(text)) = item.get_mut(field) {
                    *text = match self.prefix(upstream) {
                        Some(prefix) if field != "name" => uri_outside(prefix, text),
                        _ => self.outside(upstream, text),
                    };
                }
                all.push(item);
            }
        }
        Ok(Value::Object(Map::from_iter([(key.to_owned(), Value::Array(all))])))
    }

    async fn prompt(&self, params: &Value) -> Outcome {
        let name = params.get("name").and_then(Value::as_str).unwrap_or_default();
        let mut last = (INVALID_PARAMS, format!("Unknown prompt: {name}"));
        for (upstream, inside) in self.inside(name) {
            match upstream.ask("prompts/get", with(params, "name", inside)).await {
                Ok(result) => return Ok(result),
                Err(fault) if fault.is_unsupported() => {}
                Err(fault) => last = rpc(fault),
            }
        }
        Err(last)
    }

    async fn read(&self, params: &Value) -> Outcome {
        let uri = params.get("uri").and_then(Value::as_str).unwrap_or_default();
        for upstream in &self.0 {
            let inside = match self.prefix(upstream) {
                Some(prefix) => uri_inside(prefix, uri),
                None => Some(uri.to_owned()),
            };
            if let Some(inside) = inside {
                return upstream.ask("resources/read", with(params, "uri", &inside)).await.map_err(rpc);
            }
        }
        Err((INVALID_PARAMS, format!("Unknown resource: {uri}")))
    }
}

fn with(params: &Value, key: &str, value: &str) -> Value {
    let mut params = params.as_object().cloned().unwrap_or_default();
    params.insert(key.to_owned(), value.into());
    Value::Object(params)
}

/// `scheme://prefix/rest`, as the original's library writes it.
fn uri_outside(prefix: &str, uri: &str) -> String {
    match uri.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{prefix}/{rest}"),
        None => uri.to_owned(),
    }
}

fn uri_inside(prefix: &str, uri: &str) -> Option<String> {
    let (scheme, rest) = uri.split_once("://")?;
    Some(format!("{scheme}://{}", rest.strip_prefix(prefix)?.strip_prefix('/')?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(servers: &str) -> Arc<Proxy> {
        let env = BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]);
        let proxy = Proxy::new(None, env, "/".into(), CancellationToken::new());
        assert_eq!(proxy.update(servers.as_bytes()).status(), 200);
        proxy
    }

    async fn ask(proxy: &Proxy, method: &str, params: Value) -> Value {
        proxy.answer(&json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params })).await.unwrap()
    }

    #[tokio::test]
    async fn nothing_is_there_before_the_first_server() {
        let proxy = proxy("[]");
        assert!(!proxy.mounted());
        assert_eq!(proxy.update(b"{}").status(), 400);
        assert_eq!(proxy.update(b"[1]").status(), 500);
        assert!(!proxy.mounted());
        assert_eq!(proxy.update(br#"[{"name":"x","command":"/no/such"}]"#).status(), 200);
        assert!(proxy.mounted());
        // And an empty one takes it away again without taking the paths away.
        proxy.update(b"[]");
        assert_eq!(ask(&proxy, "tools/list", json!({})).await["result"]["tools"], json!([]));
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_told_to_the_client() {
        let proxy = proxy(r#"[{"name":"ghost","command":"/no/such/binary"}]"#);
        let answer = ask(&proxy, "initialize", json!({ "protocolVersion": "2025-03-26" })).await;
        assert_eq!(answer["result"]["protocolVersion"], "2025-03-26");
        let answer = ask(&proxy, "tools/list", json!({})).await;
        let error = json!({
            "code": 0,
            "message": "Client failed to connect: [Errno 2] No such file or directory: '/no/such/binary'",
        });
        assert_eq!(answer["error"], error);
        let answer = ask(&proxy, "tools/call", json!({ "name": "x", "arguments": {} })).await;
        let text = answer["result"]["content"][0]["text"].as_str().unwrap();
        assert!(
            answer["result"]["isError"] == true && text.starts_with("Client failed to connect"),
            "{answer}"
        );
        assert_eq!(ask(&proxy, "no/such", json!({})).await["error"]["code"], NO_METHOD);
        assert!(proxy.answer(&json!({ "method": "notifications/initialized" })).await.is_none());
    }

    #[test]
    fn names_and_uris_of_several_servers() {
        let proxy = proxy(r#"[{"name":"a","command":"x"},{"name":"a_b","command":"x"}]"#);
        let set = proxy.set().unwrap();
        let names: Vec<_> =
            set.inside("a_b_c").into_iter().map(|(u, n)| (u.server.name.clone(), n)).collect();
        assert_eq!(names, [("a_b".to_owned(), "c"), ("a".to_owned(), "b_c")]);
        assert!(set.inside("c").is_empty());
        assert_eq!(uri_outside("a", "file:///x"), "file://a//x");
        assert_eq!(uri_inside("a", "file://a//x").as_deref(), Some("file:///x"));
        assert_eq!(uri_inside("a", "file://b/x"), None);
    }
}
