//! What only a Batwa master has: its agents, its lists, and how its cookie stands for a login.

use std::{collections::HashMap, sync::Arc};

use axum::http::{Extensions, HeaderMap, Uri, header, request::Parts};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use fleetcore::{AuditEntry, Error, ErrorKind, Result, TokenKind, UserName};
use futures::{FutureExt as _, future::BoxFuture};
use jiff::{SignedDuration, Timestamp};
use rand::RngCore as _;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::{Semaphore, watch};

use super::{
    agents::{Agent, Agents},
    list::{Ask, HostList, Lists},
    map,
    options::Options,
    pages::Pages,
    remote::Remote,
    vms::Vms,
};
use crate::{
    App,
    auth::{Identity, Quotas, Via, check_origin, new_token},
    extract::ClientIp,
};

/// Name of the cookie.
const COOKIE: &str = "session_id";
/// What the server's tokens of logins begin with, and the cookie does not.
const LOGIN_PREFIX: &str = "fcl_";
/// How long a login lasts, in seconds.
pub(super) const LOGIN_TTL_S: i64 = 86_400;
/// Longest password that is looked at; bounds the work of hashing.
const PASSWORD_MAX_BYTES: usize = 1024;
/// Terminals of one user at once.
const TERMINALS_PER_USER: usize = 256;
/// Terminals of everybody at once.
const TERMINALS: usize = 1024;

/// The master.
#[derive(Debug)]
pub(super) struct Master {
    pub(super) app: App,
    pub(super) agents: Agents,
    pub(super) vms: Vms,
    pub(super) remote: Remote,
    pub(super) lists: Lists,
    pub(super) pages: Pages,
    pub(super) terminals: Arc<Semaphore>,
    pub(super) terminals_of: Quotas,
    pub(super) allowed_origins: Vec<String>,
    pub(super) secure: bool,
    /// Becomes true once the first user is in the store.
    pub(super) ready: watch::Receiver<bool>,
}

struct Hosts {
    vms: Vms,
    remote: Remote,
}

impl Ask for Hosts {
    fn local(&self) -> BoxFuture<'static, HostList> {
        let vms = self.vms.clone();
        async move {
            let listing = vms.list().await.map_err(|e| e.text("Failed to list VMs"))?;
            let members = map::members(&listing, None);
            Ok(Arc::new(members.map_err(|_| "Failed to parse multipass output".to_owned())?))
        }
        .map(|r: std::result::Result<_, String>| r.map_err(Arc::from))
        .boxed()
    }

    fn agent(&self, agent: &Agent) -> BoxFuture<'static, HostList> {
        let (remote, agent) = (self.remote.clone(), agent.clone());
        async move {
            let id = &agent.info.agent_id;
            let failed = |e: map::AgentFailure| e.tell(id, "Failed to list VMs").1;
            let listing = remote.list(&agent).await.map_err(failed)?;
            let members = map::members(&listing, Some((id, &agent.info.hostname)));
            Ok(Arc::new(members.map_err(|_| failed(map::AgentFailure::Odd))?))
        }
        .map(|r: std::result::Result<_, String>| r.map_err(Arc::from))
        .boxed()
    }
}

impl Master {
    pub(super) fn new(app: App, options: &Options, agents: Agents, ready: watch::Receiver<bool>) -> Self {
        let vms = Vms::new(app.fleet().clone(), options.multipass.as_str());
        let remote = Remote::default();
        let hosts = Hosts { vms: vms.clone(), remote: remote.clone() };
        Self {
            lists: Lists::new(Box::new(hosts), agents.changes.clone()),
            pages: Pages::new(options.ui_dir.clone()),
            terminals: Arc::new(Semaphore::new(TERMINALS)),
            terminals_of: Quotas::new("terminals", TERMINALS_PER_USER),
            allowed_origins: options.allowed_origins.clone(),
            secure: options.behind_proxy || app.config().secure_cookies(),
            app,
            agents,
            vms,
            remote,
            ready,
        }
    }

    /// Who is logged in with this cookie or query.
    pub(super) async fn whose(&self, session: Option<&str>) -> Option<Arc<Identity>> {
        let secret = format!("{LOGIN_PREFIX}{}", session?);
        self.app.tokens().identify(&secret, Via::Login).await.ok()
    }

    /// Who is logged in.
    pub(super) async fn who(&self, headers: &HeaderMap) -> Option<Arc<Identity>> {
        self.whose(cookie(headers)).await
    }

    /// Checks name and password; gives the value of the cookie.
    ///
    /// # Errors
    /// `Unauthenticated`; those of the store.
    pub(super) async fn log_in(&self, user: &str, password: &SecretString) -> Result<SecretString> {
        let refused =
            || Error::new(ErrorKind::Unauthenticated, "wrong user or password").with_operation("login");
        // Fails only when the user could not be stored, and then there is nobody to find.
        let _ = self.ready.clone().wait_for(|ready| *ready).await;
        if password.expose_secret().len() > PASSWORD_MAX_BYTES {
            return Err(refused());
        }
        let record = match UserName::new(user) {
            Ok(name) => match self.app.identities().user(&name).await {
                Ok(record) => Some(record),
                Err(e) if e.kind() == ErrorKind::NotFound => None,
                Err(e) => return Err(e),
            },
            Err(_) => None,
        };
        let good = self.app.passwords().verify(password, record.as_ref().map(|r| &r.password_hash)).await?;
        let record = record.filter(|r| good && !r.disabled).ok_or_else(refused)?;
        let expires_at = Timestamp::now().checked_add(SignedDuration::from_secs(LOGIN_TTL_S)).ok();
        let (secret, token) =
            new_token(TokenKind::Login, "batwa", &record.name, record.role.scopes(), expires_at);
        self.app.identities().insert_token(token).await?;
        let value = secret.expose_secret();
        Ok(value.strip_prefix(LOGIN_PREFIX).unwrap_or(value).into())
    }

    /// Ends the login of this cookie.
    pub(super) async fn log_out(&self, headers: &HeaderMap) {
        let Some(who) = self.who(headers).await else { return };
        let id = who.token;
        match self.app.identities().remove_token(id).await {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(%error, "a login cannot be removed");
            }
            _ => {}
        }
        self.app.tokens().revoke(|lease| lease.token == id);
        self.note(&who.name, "batwa.logout", "", "ok");
    }

    /// Whether a page of another site is behind this request. Programs send no `Origin`.
    pub(super) fn foreign(&self, headers: &HeaderMap, uri: &Uri, extensions: &Extensions) -> bool {
        let Some(origin) = headers.get(header::ORIGIN) else { return false };
        let allowed = |o: &str| self.allowed_origins.iter().any(|a| a.eq_ignore_ascii_case(o));
        !origin.to_str().is_ok_and(allowed) && check_origin(headers, uri, extensions, &self.app).is_err()
    }

    /// The address of the client.
    pub(super) fn peer(&self, parts: &Parts) -> std::net::IpAddr {
        ClientIp::of(parts, &self.app).0
    }

    /// Adds to the audit log, behind the caller's back.
    pub(super) fn note(&self, actor: &str, action: &'static str, target: &str, outcome: &str) {
        let entry = AuditEntry::new(actor, action, target, outcome);
        let app = self.app.clone();
        self.app.tasks().spawn(async move { app.audit_later(entry).await });
    }
}

/// The value of the cookie.
pub(super) fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok());
    all.flat_map(|v| v.split(';')).find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        let value = value.trim_matches('"');
        (name == COOKIE && !value.is_empty()).then_some(value)
    })
}

/// `Set-Cookie` of a login.
pub(super) fn login_cookie(value: &SecretString, secure: bool) -> String {
    let secure = if secure { "; Secure" } else { "" };
    let value = value.expose_secret();
    format!("{COOKIE}={value}; HttpOnly; Max-Age={LOGIN_TTL_S}; Path=/; SameSite=lax{secure}")
}

/// `Set-Cookie` that ends a login.
pub(super) fn clear_cookie(now: Timestamp, secure: bool) -> String {
    let secure = if secure { "; Secure" } else { "" };
    format!("{COOKIE}=\"\"; expires={}; Max-Age=0; Path=/; SameSite=lax{secure}", map::http_date(now))
}

/// 144 random bits, as text for people to copy.
pub(super) fn random_secret() -> SecretString {
    let mut bytes = [0u8; 18];
    rand::rng().fill_bytes(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes).into()
}

/// Values of a query; of a repeated name the last one counts.
pub(super) fn query(uri: &Uri) -> HashMap<String, String> {
    serde_html_form::from_str::<Vec<(String, String)>>(uri.query().unwrap_or_default())
        .unwrap_or_default()
        .into_iter()
        .collect()
}
