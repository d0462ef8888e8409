//! Batwa's JSON, exactly. No types of the core here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Default of `cpus`.
pub(super) const CPUS: i64 = 1;
/// Default of `memory`.
pub(super) const MEMORY: &str = "1G";
/// Default of `disk`.
pub(super) const DISK: &str = "5G";
/// Default of `image`.
pub(super) const IMAGE: &str = "22.04";

pub(super) const LOGGED_IN: &str = r#"{"success":true,"message":"Login successful"}"#;
pub(super) const LOGGED_OUT: &str = r#"{"success":true,"message":"Logged out"}"#;
pub(super) const ANONYMOUS: &str = r#"{"authenticated":false}"#;
pub(super) const NOT_FOUND: &str = r#"{"detail":"Not Found"}"#;
pub(super) const METHOD_NOT_ALLOWED: &str = r#"{"detail":"Method Not Allowed"}"#;
pub(super) const NOT_AUTHENTICATED: &str = r#"{"detail":"Not authenticated"}"#;
pub(super) const BAD_CREDENTIALS: &str = r#"{"detail":"Invalid credentials"}"#;
pub(super) const BAD_KEY: &str = r#"{"detail":"Invalid or missing API key"}"#;
/// What tells agents of ours to register again; the others ignore the extra key.
pub(super) const HEARTBEAT_UNKNOWN: &str =
    r#"{"success":true,"message":"Heartbeat received","registered":false}"#;
pub(super) const HEARTBEAT_KNOWN: &str =
    r#"{"success":true,"message":"Heartbeat received","registered":true}"#;

/// An error.
#[derive(Debug, Serialize)]
pub(super) struct Detail<'a> {
    pub(super) detail: &'a str,
}

/// One entry of the `detail` of a body that does not fit, as FastAPI writes it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Misfit {
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) loc: Vec<Value>,
    pub(super) msg: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) input: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ctx: Option<Value>,
}

/// All of them.
#[derive(Debug, Serialize)]
pub(super) struct Misfits {
    pub(super) detail: Vec<Misfit>,
}

/// Who is logged in.
#[derive(Debug, Serialize)]
pub(super) struct Authenticated<'a> {
    pub(super) authenticated: bool,
    pub(super) username: &'a str,
}

/// `POST /api/auth/login`
#[derive(Debug)]
pub(super) struct Login {
    pub(super) username: String,
    pub(super) password: secrecy::SecretString,
}

/// An agent, as the master shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct AgentInfo {
    pub(super) agent_id: String,
    pub(super) hostname: String,
    pub(super) api_url: String,
    pub(super) status: &'static str,
    pub(super) last_seen: Option<String>,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) vm_count: i64,
}

/// `POST /api/agent/register`
#[derive(Clone, Debug)]
pub(super) struct Register {
    pub(super) agent_id: String,
    pub(super) hostname: String,
    pub(super) api_url: String,
    pub(super) api_key: Option<secrecy::SecretString>,
    pub(super) tags: BTreeMap<String, String>,
}

/// Its answer.
#[derive(Debug, Serialize)]
pub(super) struct Registered<'a> {
    pub(super) success: bool,
    pub(super) message: String,
    pub(super) agent: &'a AgentInfo,
}

/// `GET /api/agent/info/{agent_id}`
#[derive(Debug, Serialize)]
pub(super) struct AgentReply<'a> {
    pub(super) success: bool,
    pub(super) agent: &'a AgentInfo,
}

/// `POST /api/agent/heartbeat`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Heartbeat {
    pub(super) agent_id: String,
    pub(super) status: String,
    pub(super) vm_count: i64,
}

/// A sentence.
#[derive(Debug, Serialize)]
pub(super) struct Done<'a> {
    pub(super) success: bool,
    pub(super) message: &'a str,
}

/// One machine of the merged list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Vm<'a> {
    pub(super) name: &'a str,
    pub(super) state: String,
    pub(super) ipv4: Vec<String>,
    pub(super) release: String,
    pub(super) agent_id: Option<&'a str>,
    pub(super) agent_hostname: &'a str,
}

/// A host that is missing from the merged list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct ListError {
    pub(super) agent_id: Option<String>,
    pub(super) agent_hostname: String,
    pub(super) detail: String,
}

/// `POST /api/vm/create`, at the master and at an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Create {
    pub(super) name: String,
    pub(super) cpus: i64,
    pub(super) memory: String,
    pub(super) disk: String,
    pub(super) image: String,
    pub(super) agent_id: Option<String>,
}

/// The same from master to agent.
#[derive(Debug, Serialize)]
pub(super) struct CreateRemote<'a> {
    pub(super) name: &'a str,
    pub(super) cpus: i64,
    pub(super) memory: &'a str,
    pub(super) disk: &'a str,
    pub(super) image: &'a str,
}

/// Its answer.
#[derive(Debug, Serialize)]
pub(super) struct Created<'a> {
    pub(super) success: bool,
    pub(super) message: &'a str,
    pub(super) vm_name: &'a str,
    pub(super) agent_id: Option<&'a str>,
    pub(super) agent_hostname: Option<&'a str>,
}

/// `POST /api/vm/start`, `/stop`, `/delete`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Action {
    pub(super) name: String,
    pub(super) agent_id: Option<String>,
}

/// The same from master to agent.
#[derive(Debug, Serialize)]
pub(super) struct ActionRemote<'a> {
    pub(super) name: &'a str,
}

/// `POST /api/execute` of an agent. `command` has to be there and is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Execute {
    pub(super) args: Vec<String>,
    pub(super) timeout_s: Option<i64>,
}

/// Its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Executed {
    pub(super) success: bool,
    pub(super) stdout: Option<String>,
    pub(super) stderr: Option<String>,
    /// 0 or 1; -1 when nothing was run.
    pub(super) return_code: i32,
    pub(super) error: Option<String>,
    /// The true code; not in the originals.
    pub(super) exit_code: Option<i32>,
}

/// What Multipass prints for `list --format json`.
#[derive(Debug, Deserialize)]
pub(super) struct Listing {
    pub(super) list: Vec<Listed>,
}

/// One of them. Every field but the name may be missing or null.
#[derive(Debug, Deserialize)]
pub(super) struct Listed {
    pub(super) name: String,
    #[serde(default)]
    pub(super) state: Option<String>,
    #[serde(default)]
    pub(super) ipv4: Option<Vec<String>>,
    #[serde(default)]
    pub(super) release: Option<String>,
}

/// An agent registers.
#[derive(Debug, Serialize)]
pub(super) struct RegisterOut<'a> {
    pub(super) agent_id: &'a str,
    pub(super) hostname: &'a str,
    pub(super) api_url: &'a str,
    pub(super) api_key: Option<&'a str>,
    pub(super) tags: BTreeMap<String, String>,
}

/// What an agent reads of the answer.
#[derive(Debug, Deserialize)]
pub(super) struct RegisterIn {
    #[serde(default)]
    pub(super) agent: Option<RegisteredIn>,
}

/// The part that tells one kind of master from the other.
#[derive(Debug, Deserialize)]
pub(super) struct RegisteredIn {
    #[serde(default)]
    pub(super) last_seen: Option<String>,
}

/// An agent lives.
#[derive(Debug, Serialize)]
pub(super) struct HeartbeatOut<'a> {
    pub(super) agent_id: &'a str,
    pub(super) timestamp: &'a str,
    pub(super) status: &'a str,
    pub(super) vm_count: i64,
}

/// What an agent reads of the answer.
#[derive(Debug, Deserialize)]
pub(super) struct HeartbeatIn {
    #[serde(default)]
    pub(super) registered: Option<bool>,
}

/// `GET /health` of an agent.
#[derive(Debug, Serialize)]
pub(super) struct Health<'a> {
    pub(super) status: &'a str,
    pub(super) agent_id: &'a str,
    pub(super) timestamp: String,
}
